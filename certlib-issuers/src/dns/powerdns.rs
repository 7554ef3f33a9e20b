//! PowerDNS Authoritative Server, by its HTTP API.
//!
//! <https://doc.powerdns.com/authoritative/http-api/zone.html>

use async_trait::async_trait;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Result};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::service::{Hosted, Place, Seat, Service, Zones, check_word, send};
use super::sets::{Set, SetApi, Written};
use super::txt::{quote, unquote};

/// A whole zone, where an old server does not filter.
const ZONE_MAX: usize = 64 * 1024 * 1024;

/// Settings of provider `powerdns`, beside those of [`ServiceConfig`](super::ServiceConfig), of which `api_url` has to
/// be there: it ends in `/api/v1`.
///
/// ```json
/// { "kind": "powerdns", "api_url": "https://ns1.example.com:8081/api/v1" }
/// ```
///
/// The server needs `api=yes` and `webserver-allow-from`. Records are written as a whole set, and the server compares
/// nothing: nodes that change one name at the same moment may have to add their value again, which they do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerDnsConfig {
    /// The server's id. Default `localhost`, which is what every server calls itself.
    #[serde(default = "localhost")]
    pub server_id: String,
}

fn localhost() -> String {
    "localhost".to_owned()
}

/// Credentials of provider `powerdns`. The key may do everything: put a proxy that admits only `PATCH` of the zones in
/// front of the server, or delegate `_acme-challenge` to a server that has nothing else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerDnsCredentials {
    /// The setting `api-key` of the server.
    pub api_key: SecretString,
}

#[derive(Debug)]
pub(super) struct PowerDns {
    service: Service,
    server: String,
    key: SecretString,
}

#[derive(Debug, Deserialize)]
pub(super) struct Zone {
    id: String,
    name: String,
    kind: String,
}

#[derive(Deserialize)]
struct ZoneContent {
    rrsets: Vec<RrSet>,
}

#[derive(Deserialize)]
struct RrSet {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    ttl: u32,
    records: Vec<Value>,
}

impl PowerDns {
    fn request(&self, method: Method, path: &[&str], query: &[(&str, &str)]) -> certlib_net::Request<'_> {
        let path = ["servers", self.server.as_str()].into_iter().chain(path.iter().copied());
        let mut request = self.service.api.request(method, path);
        if !query.is_empty() {
            request = request.query(query);
        }
        request.secret_header("x-api-key", &self.key)
    }
}

impl Hosted for PowerDns {
    const KIND: &'static str = "powerdns";
    const OPERATION: &'static str = "dns.powerdns";
    const TTL: u32 = 60;
    type Config = PowerDnsConfig;
    type Credentials = PowerDnsCredentials;

    fn api_url(_: &PowerDnsConfig) -> Option<String> {
        None
    }

    fn check(config: &PowerDnsConfig) -> Result<()> {
        check_word("server_id", &config.server_id)
    }

    fn connect(seat: Seat<'_>, config: PowerDnsConfig, credentials: PowerDnsCredentials) -> Result<Self> {
        Ok(Self { service: seat.service, server: config.server_id, key: credentials.api_key })
    }
}

#[async_trait]
impl Zones for PowerDns {
    type Zone = Zone;

    fn service(&self) -> &Service {
        &self.service
    }

    async fn zone(&self, cx: &Context, name: &str) -> Result<Option<Zone>> {
        let name = format!("{name}.");
        let answer = send(cx, self.request(Method::GET, &["zones"], &[("zone", &name)])).await?;
        let zones: Vec<Zone> = answer.json()?;
        Ok(zones.into_iter().find(|zone| zone.name.eq_ignore_ascii_case(&name)))
    }
}

#[async_trait]
impl SetApi for PowerDns {
    const COMPARES: bool = false;

    async fn read(&self, cx: &Context, zone: &Zone, place: &Place) -> Result<Option<Set>> {
        let name = place.dotted();
        let filter = [("rrset_name", name.as_str()), ("rrset_type", "TXT")];
        let request = self.request(Method::GET, &["zones", &zone.id], &filter).longest_answer(ZONE_MAX);
        let content: ZoneContent = send(cx, request).await?.json()?;
        let set = content.rrsets.into_iter().find(|set| set.kind == "TXT" && set.name.eq_ignore_ascii_case(&name));
        Ok(set.map(|set| Set { records: set.records, ttl: set.ttl, tag: String::new() }))
    }

    async fn write(&self, cx: &Context, zone: &Zone, place: &Place, _: Option<&Set>, new: &Set) -> Result<Written> {
        let mut set = json!({ "name": place.dotted(), "type": "TXT", "changetype": "DELETE" });
        if !new.records.is_empty() {
            set["changetype"] = "REPLACE".into();
            set["ttl"] = new.ttl.into();
            set["records"] = new.records.clone().into();
        }
        let path = ["zones", &zone.id];
        send(cx, self.request(Method::PATCH, &path, &[]).json(&json!({ "rrsets": [set] }))).await?;
        if matches!(zone.kind.as_str(), "Master" | "Primary") {
            // Secondaries would hear of it anyway, later; whether they have it is looked at afterwards.
            let notify = self.request(Method::PUT, &["zones", &zone.id, "notify"], &[]);
            if let Err(error) = send(cx, notify).await {
                tracing::warn!(%error, zone = %zone.name, "the secondaries of a zone were not notified");
            }
        }
        Ok(Written::Done)
    }

    fn value(&self, record: &Value) -> String {
        record["content"].as_str().map(unquote).unwrap_or_default()
    }

    fn record(&self, value: &str) -> Value {
        json!({ "content": quote(value), "disabled": false })
    }
}
