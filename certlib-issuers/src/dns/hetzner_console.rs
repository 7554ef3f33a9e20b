//! Hetzner, by the API of the old DNS Console, which the Cloud API replaces.
//!
//! <https://dns.hetzner.com/api-docs>

use async_trait::async_trait;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Error, Result};
use certlib_net::Request;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::records::{Record, RecordApi};
use super::service::{Hosted, Nothing, Place, Seat, Service, Zones, look, send};
use super::txt::unquote;

/// Zones with more records than this are left alone: 100 pages of 100.
const PAGES_MAX: u32 = 100;

/// Credentials of provider `hetzner-console`, which takes no settings of its own: for zones that are not in the Cloud
/// yet. The vendor calls this API deprecated.
///
/// ```json
/// { "kind": "hetzner-console", "zone": "example.com" }
/// ```
///
/// A token holds for every zone of the account; there is no smaller one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HetznerConsoleCredentials {
    /// An API token of the DNS Console.
    pub api_token: SecretString,
}

#[derive(Debug)]
pub(super) struct HetznerConsole {
    service: Service,
    token: SecretString,
}

#[derive(Deserialize)]
struct ZoneList {
    zones: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct RecordPage {
    records: Vec<ZoneRecord>,
    meta: Option<Meta>,
}

#[derive(Deserialize)]
struct ZoneRecord {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct Meta {
    pagination: Pagination,
}

#[derive(Deserialize)]
struct Pagination {
    last_page: u32,
}

impl HetznerConsole {
    fn request(&self, method: Method, path: &[&str], query: &[(&str, &str)]) -> Request<'_> {
        let mut request = self.service.api.request(method, path.iter().copied());
        if !query.is_empty() {
            request = request.query(query);
        }
        request.secret_header("auth-api-token", &self.token)
    }
}

impl Hosted for HetznerConsole {
    const KIND: &'static str = "hetzner-console";
    const OPERATION: &'static str = "dns.hetzner-console";
    const TTL: u32 = 60;
    type Config = Nothing;
    type Credentials = HetznerConsoleCredentials;

    fn api_url(_: &Nothing) -> Option<String> {
        Some("https://dns.hetzner.com/api/v1".to_owned())
    }

    fn connect(seat: Seat<'_>, _: Nothing, credentials: HetznerConsoleCredentials) -> Result<Self> {
        Ok(Self { service: seat.service, token: credentials.api_token })
    }
}

#[async_trait]
impl Zones for HetznerConsole {
    type Zone = String;

    fn service(&self) -> &Service {
        &self.service
    }

    async fn zone(&self, cx: &Context, name: &str) -> Result<Option<String>> {
        let request = self.request(Method::GET, &["zones"], &[("name", name)]);
        let Some(answer) = look(cx, request).await? else { return Ok(None) };
        let zones: ZoneList = answer.json()?;
        Ok(zones.zones.into_iter().find(|zone| zone.name.eq_ignore_ascii_case(name)).map(|zone| zone.id))
    }
}

#[async_trait]
impl RecordApi for HetznerConsole {
    /// The service cannot be asked for one name.
    async fn list(&self, cx: &Context, zone: &String, place: &Place) -> Result<Vec<Record>> {
        let name = place.relative("@");
        let mut found = Vec::new();
        for page in 1..=PAGES_MAX {
            let page_text = page.to_string();
            let query = [("zone_id", zone.as_str()), ("page", page_text.as_str()), ("per_page", "100")];
            let Some(answer) = look(cx, self.request(Method::GET, &["records"], &query)).await? else { break };
            let list: RecordPage = answer.json()?;
            let ours = |record: &ZoneRecord| record.kind == "TXT" && record.name.eq_ignore_ascii_case(name);
            let records = list.records.into_iter().filter(ours);
            found.extend(records.map(|record| Record { id: record.id, value: unquote(&record.value) }));
            if list.meta.is_none_or(|meta| meta.pagination.last_page <= page) {
                return Ok(found);
            }
        }
        let why = "the zone has too many records";
        Err(Error::permanent(Self::OPERATION, "zone_too_large", why).with("zone", &place.zone))
    }

    async fn create(&self, cx: &Context, zone: &String, place: &Place, value: &str) -> Result<()> {
        let name = place.relative("@");
        let body = json!({ "zone_id": zone, "type": "TXT", "name": name, "value": value, "ttl": self.service.ttl });
        send(cx, self.request(Method::POST, &["records"], &[]).json(&body)).await.map(drop)
    }

    async fn delete(&self, cx: &Context, _: &String, id: &str) -> Result<()> {
        look(cx, self.request(Method::DELETE, &["records", id], &[])).await.map(drop)
    }
}
