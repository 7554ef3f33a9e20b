//! Azure DNS.
//!
//! <https://learn.microsoft.com/en-us/rest/api/dns/record-sets>

use async_trait::async_trait;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Result};
use certlib_net::signature::encode;
use certlib_net::{Answer, Api};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::service::{Hosted, Place, Seat, Service, Zones, check_word, refused};
use super::sets::{Set, SetApi, Written};
use super::token::{TokenCache, grant};

const VERSION: &str = "2018-05-01";

/// Settings of provider `azure`, beside those of [`ServiceConfig`](super::ServiceConfig).
///
/// ```json
/// {
///     "kind": "azure",
///     "tenant_id": "00000000-0000-0000-0000-000000000001",
///     "subscription_id": "00000000-0000-0000-0000-000000000002",
///     "resource_group": "dns",
///     "zone": "example.com"
/// }
/// ```
///
/// For another cloud, set `login_url` and `api_url`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzureConfig {
    /// The directory of the application.
    pub tenant_id: String,
    /// The subscription that the zones are in.
    pub subscription_id: String,
    /// The resource group that the zones are in.
    pub resource_group: String,
    /// Where tokens are issued. Default `https://login.microsoftonline.com`.
    #[serde(default = "login_url")]
    pub login_url: String,
}

fn login_url() -> String {
    "https://login.microsoftonline.com".to_owned()
}

/// Credentials of provider `azure`: those of an application. It needs the role "DNS Zone Contributor" on the one zone,
/// or a role of its own with `Microsoft.Network/dnsZones/read` and `read`, `write` and `delete` of
/// `Microsoft.Network/dnsZones/TXT`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AzureCredentials {
    /// The application's id.
    pub client_id: String,
    /// A client secret of it.
    pub client_secret: SecretString,
}

#[derive(Debug)]
pub(super) struct Azure {
    service: Service,
    config: AzureConfig,
    credentials: AzureCredentials,
    login: Api,
    token: TokenCache,
    /// What the token is for.
    scope: String,
}

#[derive(Deserialize)]
struct DnsZone {
    name: String,
}

#[derive(Deserialize)]
struct RecordSet {
    #[serde(default)]
    etag: String,
    properties: Properties,
}

#[derive(Deserialize)]
struct Properties {
    #[serde(rename = "TTL")]
    ttl: u32,
    #[serde(rename = "TXTRecords", default)]
    records: Vec<Value>,
}

impl Azure {
    /// Sends a request about a zone, whatever the answer.
    async fn ask(
        &self,
        cx: &Context,
        method: Method,
        path: &[&str],
        body: Option<(&Value, Option<&str>)>,
    ) -> Result<Answer> {
        let group = &self.config.resource_group;
        let whole = ["subscriptions", &self.config.subscription_id, "resourceGroups", group, "providers"];
        let whole = whole.into_iter().chain(["Microsoft.Network", "dnsZones"]).chain(path.iter().copied());
        let token = self.token.get(cx, || self.fetch(cx)).await?;
        let request = self.service.api.request(method, whole);
        let mut request = request.query(&[("api-version", VERSION)]).secret_header("authorization", &token);
        if let Some((body, tag)) = body {
            request = match tag {
                Some(tag) => request.header("if-match", tag),
                None => request.header("if-none-match", "*"),
            };
            if !body.is_null() {
                request = request.json(body);
            }
        }
        let answer = request.send(cx).await?;
        if answer.status() == 401 {
            self.token.forget().await;
        }
        Ok(answer)
    }

    async fn fetch(&self, cx: &Context) -> Result<Answer> {
        let form = Zeroizing::new(
            format!(
                "grant_type=client_credentials&client_id={}&client_secret={}&scope={}",
                encode(self.credentials.client_id.as_bytes()),
                encode(self.credentials.client_secret.expose().as_bytes()),
                encode(self.scope.as_bytes()),
            )
            .into_bytes(),
        );
        let request = self.login.post([self.config.tenant_id.as_str(), "oauth2", "v2.0", "token"]);
        grant(cx, request.body("application/x-www-form-urlencoded", form)).await
    }
}

impl Hosted for Azure {
    const KIND: &'static str = "azure";
    const OPERATION: &'static str = "dns.azure";
    const TTL: u32 = 60;
    type Config = AzureConfig;
    type Credentials = AzureCredentials;

    fn api_url(_: &AzureConfig) -> Option<String> {
        Some("https://management.azure.com".to_owned())
    }

    fn check(config: &AzureConfig) -> Result<()> {
        check_word("tenant_id", &config.tenant_id)?;
        check_word("subscription_id", &config.subscription_id)?;
        check_word("resource_group", &config.resource_group)
    }

    fn connect(seat: Seat<'_>, config: AzureConfig, credentials: AzureCredentials) -> Result<Self> {
        let login = seat.another(Self::OPERATION, &config.login_url)?;
        let base = seat.service.api.base().as_url().origin().ascii_serialization();
        let scope = format!("{base}/.default");
        Ok(Self { service: seat.service, config, credentials, login, token: TokenCache::default(), scope })
    }
}

#[async_trait]
impl Zones for Azure {
    type Zone = String;

    fn service(&self) -> &Service {
        &self.service
    }

    async fn zone(&self, cx: &Context, name: &str) -> Result<Option<String>> {
        let answer = self.ask(cx, Method::GET, &[name], None).await?;
        match answer.status() {
            // A name without a dot, or one that is too long, cannot be that of a zone.
            400 | 404 => Ok(None),
            _ if answer.is_success() => {
                let found: DnsZone = answer.json()?;
                Ok(Some(found.name).filter(|found| found.eq_ignore_ascii_case(name)))
            }
            _ => Err(refused(&answer)),
        }
    }
}

#[async_trait]
impl SetApi for Azure {
    const COMPARES: bool = true;

    async fn read(&self, cx: &Context, zone: &String, place: &Place) -> Result<Option<Set>> {
        let answer = self.ask(cx, Method::GET, &[zone, "TXT", place.relative("@")], None).await?;
        match answer.status() {
            404 => Ok(None),
            _ if answer.is_success() => {
                let set: RecordSet = answer.json()?;
                Ok(Some(Set { records: set.properties.records, ttl: set.properties.ttl, tag: set.etag }))
            }
            _ => Err(refused(&answer)),
        }
    }

    async fn write(&self, cx: &Context, zone: &String, place: &Place, old: Option<&Set>, new: &Set) -> Result<Written> {
        let path = [zone.as_str(), "TXT", place.relative("@")];
        let tag = old.map(|old| old.tag.as_str());
        let (method, body) = if new.records.is_empty() {
            (Method::DELETE, Value::Null)
        } else {
            (Method::PUT, json!({ "properties": { "TTL": new.ttl, "TXTRecords": new.records } }))
        };
        let answer = self.ask(cx, method, &path, Some((&body, tag))).await?;
        match answer.status() {
            412 => Ok(Written::Stale),
            _ if answer.is_success() => Ok(Written::Done),
            _ => Err(refused(&answer)),
        }
    }

    /// A record is a list of strings.
    fn value(&self, record: &Value) -> String {
        let strings = record["value"].as_array().into_iter().flatten();
        strings.filter_map(Value::as_str).collect()
    }

    fn record(&self, value: &str) -> Value {
        json!({ "value": [value] })
    }
}
