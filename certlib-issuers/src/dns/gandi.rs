//! Gandi LiveDNS.
//!
//! <https://api.gandi.net/docs/livedns/>

use async_trait::async_trait;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Result};
use certlib_net::Request;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::service::{Hosted, Nothing, Place, Seat, Service, Zones, bearer, look, refused, send};
use super::sets::{Set, SetApi, Written};
use super::txt::{quote, unquote};

/// Credentials of provider `gandi`, which takes no settings of its own.
///
/// ```json
/// { "kind": "gandi", "zone": "example.com" }
/// ```
///
/// The token needs the permissions "See and renew domain names" and "Manage domain name technical configurations", for
/// the one domain. Records are written as a whole set, and the service compares nothing: nodes that change one name at
/// the same moment may have to add their value again, which they do.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GandiCredentials {
    /// A personal access token; the older API keys are not taken.
    pub api_token: SecretString,
}

#[derive(Debug)]
pub(super) struct Gandi {
    service: Service,
    authorization: SecretString,
}

#[derive(Deserialize)]
struct Domain {
    fqdn: String,
}

#[derive(Deserialize)]
struct RrSet {
    rrset_ttl: u32,
    rrset_values: Vec<Value>,
}

impl Gandi {
    fn request(&self, method: Method, path: &[&str]) -> Request<'_> {
        let path = ["domains"].iter().chain(path).copied();
        self.service.api.request(method, path).secret_header("authorization", &self.authorization)
    }
}

impl Hosted for Gandi {
    const KIND: &'static str = "gandi";
    const OPERATION: &'static str = "dns.gandi";
    const TTL: u32 = 300;
    type Config = Nothing;
    type Credentials = GandiCredentials;

    fn api_url(_: &Nothing) -> Option<String> {
        Some("https://api.gandi.net/v5/livedns".to_owned())
    }

    fn connect(seat: Seat<'_>, _: Nothing, credentials: GandiCredentials) -> Result<Self> {
        Ok(Self { service: seat.service, authorization: bearer(&credentials.api_token) })
    }
}

#[async_trait]
impl Zones for Gandi {
    type Zone = String;

    fn service(&self) -> &Service {
        &self.service
    }

    async fn zone(&self, cx: &Context, name: &str) -> Result<Option<String>> {
        let Some(answer) = look(cx, self.request(Method::GET, &[name])).await? else { return Ok(None) };
        let found: Domain = answer.json()?;
        Ok(Some(found.fqdn).filter(|found| found.eq_ignore_ascii_case(name)))
    }
}

#[async_trait]
impl SetApi for Gandi {
    const COMPARES: bool = false;

    async fn read(&self, cx: &Context, zone: &String, place: &Place) -> Result<Option<Set>> {
        let request = self.request(Method::GET, &[zone, "records", place.relative("@"), "TXT"]);
        let Some(answer) = look(cx, request).await? else { return Ok(None) };
        let set: RrSet = answer.json()?;
        Ok(Some(Set { records: set.rrset_values, ttl: set.rrset_ttl, tag: String::new() }))
    }

    async fn write(&self, cx: &Context, zone: &String, place: &Place, old: Option<&Set>, new: &Set) -> Result<Written> {
        let path = [zone.as_str(), "records", place.relative("@"), "TXT"];
        if new.records.is_empty() {
            look(cx, self.request(Method::DELETE, &path)).await?;
            return Ok(Written::Done);
        }
        let body = json!({ "rrset_ttl": new.ttl, "rrset_values": new.records });
        if old.is_some() {
            send(cx, self.request(Method::PUT, &path).json(&body)).await?;
            return Ok(Written::Done);
        }
        // Making a set, unlike replacing one, is refused when somebody was faster.
        let answer = self.request(Method::POST, &path).json(&body).send(cx).await?;
        match answer.status() {
            409 => Ok(Written::Stale),
            _ if answer.is_success() => Ok(Written::Done),
            _ => Err(refused(&answer)),
        }
    }

    fn value(&self, record: &Value) -> String {
        record.as_str().map(unquote).unwrap_or_default()
    }

    fn record(&self, value: &str) -> Value {
        quote(value).into()
    }
}
