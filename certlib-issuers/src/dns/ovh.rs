//! OVHcloud.
//!
//! Every request is signed. <https://help.ovhcloud.com/csm/en-gb-api-getting-started-ovhcloud-api?id=kb_article_view>

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use certlib_core::secret::SecretString;
use certlib_core::{Context, Result};
use certlib_net::Answer;
use certlib_net::signature::hex;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use super::records::{Record, RecordApi};
use super::service::{Hosted, Place, Seat, Service, Zones, refused, send};
use super::txt::unquote;

/// Settings of provider `ovh`, beside those of [`ServiceConfig`](super::ServiceConfig).
///
/// ```json
/// { "kind": "ovh", "region": "eu", "zone": "example.com" }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OvhConfig {
    /// Where the account is. Default Europe.
    pub region: OvhRegion,
}

/// The parts of the world where accounts are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OvhRegion {
    /// Europe.
    #[default]
    Eu,
    /// Canada, and the rest of the world.
    Ca,
    /// The United States.
    Us,
}

/// Credentials of provider `ovh`. The consumer key needs these rights, and no others:
/// `GET /domain/zone/ZONE`, `GET /domain/zone/ZONE/record*`, `POST /domain/zone/ZONE/record`,
/// `DELETE /domain/zone/ZONE/record/*`, `POST /domain/zone/ZONE/refresh`; set `zone`, or those of its parents are asked
/// for as well.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OvhCredentials {
    /// The key of an application.
    pub application_key: SecretString,
    /// Its secret.
    pub application_secret: SecretString,
    /// The key that a customer gave the application.
    pub consumer_key: SecretString,
}

#[derive(Debug)]
pub(super) struct Ovh {
    service: Service,
    credentials: OvhCredentials,
    /// How many seconds the service's clock is ahead of ours.
    ahead: OnceCell<i64>,
}

#[derive(Deserialize)]
struct ZoneInfo {
    name: String,
}

#[derive(Deserialize)]
struct ZoneRecord {
    #[serde(rename = "fieldType")]
    kind: String,
    #[serde(rename = "subDomain", default)]
    name: Option<String>,
    target: String,
}

impl Ovh {
    /// Signs and sends a request below `/domain/zone`, whatever the answer.
    async fn ask(
        &self,
        cx: &Context,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer> {
        let ahead = self.ahead.get_or_try_init(|| self.measure(cx)).await?;
        let mut request = self.service.api.request(method.clone(), ["domain", "zone"].iter().chain(path).copied());
        if !query.is_empty() {
            request = request.query(query);
        }
        let body = Zeroizing::new(body.map(Value::to_string).unwrap_or_default().into_bytes());
        let time = (cx.clock.now().unix_timestamp() + ahead).to_string();
        let signature = signature(&self.credentials, method.as_str(), request.url().as_str(), &body, &time);
        request = request
            .secret_header("x-ovh-application", &self.credentials.application_key)
            .secret_header("x-ovh-consumer", &self.credentials.consumer_key)
            .header("x-ovh-timestamp", &time)
            .header("x-ovh-signature", &signature);
        if !body.is_empty() {
            request = request.body("application/json", body);
        }
        request.send(cx).await
    }

    /// The same, where 404 says that there is no such thing.
    async fn look(
        &self,
        cx: &Context,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Option<Answer>> {
        let answer = self.ask(cx, method, path, query, None).await?;
        match answer.status() {
            404 => Ok(None),
            _ if answer.is_success() => Ok(Some(answer)),
            _ => Err(refused(&answer)),
        }
    }

    /// A signature with the wrong time is refused, so the service is asked for its own.
    async fn measure(&self, cx: &Context) -> Result<i64> {
        let theirs: i64 = send(cx, self.service.api.get(["auth", "time"])).await?.json()?;
        Ok(theirs - cx.clock.now().unix_timestamp())
    }
}

/// `$1$` and a digest of everything, the secrets included.
fn signature(credentials: &OvhCredentials, method: &str, url: &str, body: &[u8], time: &str) -> String {
    let parts = [
        credentials.application_secret.expose().as_bytes(),
        credentials.consumer_key.expose().as_bytes(),
        method.as_bytes(),
        url.as_bytes(),
        body,
        time.as_bytes(),
    ];
    let text = Zeroizing::new(parts.join(&b'+'));
    format!("$1${}", hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text).as_ref()))
}

impl Hosted for Ovh {
    const KIND: &'static str = "ovh";
    const OPERATION: &'static str = "dns.ovh";
    const TTL: u32 = 60;
    type Config = OvhConfig;
    type Credentials = OvhCredentials;

    fn api_url(config: &OvhConfig) -> Option<String> {
        let url = match config.region {
            OvhRegion::Eu => "https://eu.api.ovh.com/1.0",
            OvhRegion::Ca => "https://ca.api.ovh.com/1.0",
            OvhRegion::Us => "https://api.us.ovhcloud.com/1.0",
        };
        Some(url.to_owned())
    }

    fn connect(seat: Seat<'_>, _: OvhConfig, credentials: OvhCredentials) -> Result<Self> {
        Ok(Self { service: seat.service, credentials, ahead: OnceCell::new() })
    }
}

#[async_trait]
impl Zones for Ovh {
    type Zone = String;

    fn service(&self) -> &Service {
        &self.service
    }

    async fn zone(&self, cx: &Context, name: &str) -> Result<Option<String>> {
        let Some(answer) = self.look(cx, Method::GET, &[name], &[]).await? else { return Ok(None) };
        let found: ZoneInfo = answer.json()?;
        Ok(Some(found.name).filter(|found| found.eq_ignore_ascii_case(name)))
    }
}

#[async_trait]
impl RecordApi for Ovh {
    async fn list(&self, cx: &Context, zone: &String, place: &Place) -> Result<Vec<Record>> {
        let name = place.relative("");
        let query = [("fieldType", "TXT"), ("subDomain", name)];
        let Some(answer) = self.look(cx, Method::GET, &[zone, "record"], &query).await? else { return Ok(Vec::new()) };
        let mut records = Vec::new();
        for id in answer.json::<Vec<u64>>()? {
            let id = id.to_string();
            // One that went away in between is none.
            let Some(answer) = self.look(cx, Method::GET, &[zone, "record", &id], &[]).await? else { continue };
            let record: ZoneRecord = answer.json()?;
            if record.kind == "TXT" && record.name.unwrap_or_default().eq_ignore_ascii_case(name) {
                records.push(Record { id, value: unquote(&record.target) });
            }
        }
        Ok(records)
    }

    async fn create(&self, cx: &Context, zone: &String, place: &Place, value: &str) -> Result<()> {
        let name = place.relative("");
        let body = json!({ "fieldType": "TXT", "subDomain": name, "target": value, "ttl": self.service.ttl });
        let answer = self.ask(cx, Method::POST, &[zone, "record"], &[], Some(&body)).await?;
        if answer.is_success() { Ok(()) } else { Err(refused(&answer)) }
    }

    async fn delete(&self, cx: &Context, zone: &String, id: &str) -> Result<()> {
        self.look(cx, Method::DELETE, &[zone, "record", id], &[]).await.map(drop)
    }

    async fn publish(&self, cx: &Context, zone: &String) -> Result<()> {
        let answer = self.ask(cx, Method::POST, &[zone, "refresh"], &[], None).await?;
        if answer.is_success() { Ok(()) } else { Err(refused(&answer)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature() {
        let secret = |text: &str| SecretString::new(text.to_owned());
        let credentials = OvhCredentials {
            application_key: secret("AK"),
            application_secret: secret("AS"),
            consumer_key: secret("CK"),
        };
        let url = "https://eu.api.ovh.com/1.0/domain/zone/";
        let found = signature(&credentials, "GET", url, b"", "1767225600");
        assert_eq!(found, "$1$a3ea1ff51dfa5e65085e5faa38be25af49625d5f");
    }
}
