//! DigitalOcean.
//!
//! <https://docs.digitalocean.com/reference/api/digitalocean/#tag/Domain-Records>

use async_trait::async_trait;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Result};
use certlib_net::Request;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::records::{Record, RecordApi};
use super::service::{Hosted, Nothing, Place, Seat, Service, Zones, bearer, look, send};

/// Credentials of provider `digitalocean`, which takes no settings of its own.
///
/// ```json
/// { "kind": "digitalocean", "zone": "example.com" }
/// ```
///
/// The token needs the custom scopes `domain:read`, `domain:create` and `domain:delete`; they hold for every domain of
/// the team.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DigitalOceanCredentials {
    /// A personal access token.
    pub api_token: SecretString,
}

#[derive(Debug)]
pub(super) struct DigitalOcean {
    service: Service,
    authorization: SecretString,
}

#[derive(Deserialize)]
struct DomainAnswer {
    domain: Domain,
}

#[derive(Deserialize)]
struct Domain {
    name: String,
}

#[derive(Deserialize)]
struct RecordList {
    domain_records: Vec<DomainRecord>,
}

#[derive(Deserialize)]
struct DomainRecord {
    id: u64,
    #[serde(rename = "type")]
    kind: String,
    name: String,
    data: String,
}

impl DigitalOcean {
    fn request(&self, method: Method, path: &[&str], query: &[(&str, &str)]) -> Request<'_> {
        let mut request = self.service.api.request(method, ["v2", "domains"].iter().chain(path).copied());
        if !query.is_empty() {
            request = request.query(query);
        }
        request.secret_header("authorization", &self.authorization)
    }
}

impl Hosted for DigitalOcean {
    const KIND: &'static str = "digitalocean";
    const OPERATION: &'static str = "dns.digitalocean";
    const TTL: u32 = 30;
    type Config = Nothing;
    type Credentials = DigitalOceanCredentials;

    fn api_url(_: &Nothing) -> Option<String> {
        Some("https://api.digitalocean.com".to_owned())
    }

    fn connect(seat: Seat<'_>, _: Nothing, credentials: DigitalOceanCredentials) -> Result<Self> {
        Ok(Self { service: seat.service, authorization: bearer(&credentials.api_token) })
    }
}

#[async_trait]
impl Zones for DigitalOcean {
    type Zone = String;

    fn service(&self) -> &Service {
        &self.service
    }

    async fn zone(&self, cx: &Context, name: &str) -> Result<Option<String>> {
        let Some(answer) = look(cx, self.request(Method::GET, &[name], &[])).await? else { return Ok(None) };
        let found: DomainAnswer = answer.json()?;
        Ok(Some(found.domain.name).filter(|found| found.eq_ignore_ascii_case(name)))
    }
}

#[async_trait]
impl RecordApi for DigitalOcean {
    async fn list(&self, cx: &Context, zone: &String, place: &Place) -> Result<Vec<Record>> {
        let query = [("type", "TXT"), ("name", place.fqdn.as_str()), ("per_page", "200")];
        let list: RecordList = send(cx, self.request(Method::GET, &[zone, "records"], &query)).await?.json()?;
        // The question has the whole name, the answer the part before the zone.
        let name = place.relative("@");
        let ours = |record: &DomainRecord| record.kind == "TXT" && record.name.eq_ignore_ascii_case(name);
        let records = list.domain_records.into_iter().filter(ours);
        Ok(records.map(|record| Record { id: record.id.to_string(), value: record.data }).collect())
    }

    async fn create(&self, cx: &Context, zone: &String, place: &Place, value: &str) -> Result<()> {
        let body = json!({ "type": "TXT", "name": place.dotted(), "data": value, "ttl": self.service.ttl });
        send(cx, self.request(Method::POST, &[zone, "records"], &[]).json(&body)).await.map(drop)
    }

    async fn delete(&self, cx: &Context, zone: &String, id: &str) -> Result<()> {
        look(cx, self.request(Method::DELETE, &[zone, "records", id], &[])).await.map(drop)
    }
}
