//! Huawei Cloud DNS.
//!
//! <https://support.huaweicloud.com/intl/en-us/api-dns/dns_api_64001.html>

use async_trait::async_trait;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Error, ErrorClass, Result};
use certlib_net::Answer;
use certlib_net::signature::{self, Signed, sdk_hmac};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::service::{Hosted, Place, Seat, Service, Zones, check_word, refused_with};
use super::sets::{Set, SetApi, Written};
use super::txt::{quote, unquote};

/// "The record set already exists", as far as it is told by a code and not by 409.
const EXISTS: &str = "DNS.0312";

/// Settings of provider `huawei`, beside those of [`ServiceConfig`](super::ServiceConfig).
///
/// ```json
/// { "kind": "huawei", "region": "ap-southeast-1", "zone": "example.com" }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HuaweiDnsConfig {
    /// The region whose endpoint to use; public zones are the same in all.
    pub region: String,
    /// The project to act in. Default: the one that the key chooses.
    #[serde(default)]
    pub project_id: Option<String>,
}

/// Credentials of provider `huawei`. The key needs the actions `dns:zone:list`, `dns:recordset:list`,
/// `dns:recordset:create`, `dns:recordset:update` and `dns:recordset:delete`. Records are written as a whole set, and the
/// service compares nothing: nodes that change one name at the same moment may have to add their value again, which they
/// do.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HuaweiDnsCredentials {
    /// The access key (AK).
    pub access_key: String,
    /// The secret key (SK).
    pub secret_key: SecretString,
    /// What comes with a temporary key.
    #[serde(default)]
    pub security_token: Option<SecretString>,
}

#[derive(Debug)]
pub(super) struct Huawei {
    service: Service,
    project: Option<String>,
    credentials: HuaweiDnsCredentials,
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
struct SetList {
    recordsets: Vec<RecordSet>,
}

#[derive(Deserialize)]
struct RecordSet {
    id: String,
    name: String,
    #[serde(rename = "type")]
    kind: String,
    ttl: u32,
    records: Vec<Value>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(alias = "error_code")]
    code: String,
}

impl Huawei {
    /// Signs and sends a request below `/v2/zones`, whatever the answer.
    async fn ask(
        &self,
        cx: &Context,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer> {
        let mut request = self.service.api.request(method.clone(), ["v2", "zones"].iter().chain(path).copied());
        if !query.is_empty() {
            request = request.query(query);
        }
        let body = Zeroizing::new(body.map(Value::to_string).unwrap_or_default().into_bytes());
        let host = signature::host(request.url());
        let token = self.credentials.security_token.as_ref();
        let mut headers = vec![("host", host.as_str())];
        headers.extend(self.project.as_deref().map(|project| ("x-project-id", project)));
        headers.extend(token.map(|token| ("x-security-token", token.expose().as_str())));
        let signed = Signed { method: method.as_str(), url: request.url(), headers: &headers, body: &body };
        let date = sdk_hmac::date(cx.clock.now());
        let (key, secret) = (&self.credentials.access_key, &self.credentials.secret_key);
        let authorization = sdk_hmac::authorization(&signed, &date, key, secret).into();
        request = request.header("x-sdk-date", &date).secret_header("authorization", &authorization);
        if let Some(project) = &self.project {
            request = request.header("x-project-id", project);
        }
        if let Some(token) = token {
            request = request.secret_header("x-security-token", token);
        }
        if !body.is_empty() {
            request = request.body("application/json", body);
        }
        request.send(cx).await
    }
}

fn vendor_code(answer: &Answer) -> String {
    answer.json::<Refusal>().map(|refusal| refusal.code).unwrap_or_default()
}

fn refused(answer: &Answer) -> Error {
    let code = vendor_code(answer);
    let known = match code.as_str() {
        "APIGW.0301" => Some((ErrorClass::Auth, "credentials_refused")),
        "APIGW.0308" => Some((ErrorClass::IoTransient, "throttled")),
        _ => None,
    };
    refused_with(answer, Some(&code), known)
}

impl Hosted for Huawei {
    const KIND: &'static str = "huawei";
    const OPERATION: &'static str = "dns.huawei";
    const TTL: u32 = 300;
    type Config = HuaweiDnsConfig;
    type Credentials = HuaweiDnsCredentials;

    fn api_url(config: &HuaweiDnsConfig) -> Option<String> {
        Some(format!("https://dns.{}.myhuaweicloud.com", config.region))
    }

    fn check(config: &HuaweiDnsConfig) -> Result<()> {
        check_word("region", &config.region)?;
        config.project_id.as_deref().map_or(Ok(()), |project| check_word("project_id", project))
    }

    fn connect(seat: Seat<'_>, config: HuaweiDnsConfig, credentials: HuaweiDnsCredentials) -> Result<Self> {
        Ok(Self { service: seat.service, project: config.project_id, credentials })
    }
}

#[async_trait]
impl Zones for Huawei {
    type Zone = String;

    fn service(&self) -> &Service {
        &self.service
    }

    async fn zone(&self, cx: &Context, name: &str) -> Result<Option<String>> {
        let dotted = format!("{name}.");
        let query = [("type", "public"), ("name", dotted.as_str()), ("search_mode", "equal")];
        let answer = self.ask(cx, Method::GET, &[], &query, None).await?;
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        let mut zones = answer.json::<ZoneList>()?.zones.into_iter();
        Ok(zones.find(|zone| zone.name.eq_ignore_ascii_case(&dotted)).map(|zone| zone.id))
    }
}

#[async_trait]
impl SetApi for Huawei {
    const COMPARES: bool = false;

    async fn read(&self, cx: &Context, zone: &String, place: &Place) -> Result<Option<Set>> {
        let name = place.dotted();
        let query = [("type", "TXT"), ("name", name.as_str()), ("search_mode", "equal")];
        let answer = self.ask(cx, Method::GET, &[zone, "recordsets"], &query, None).await?;
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        let mut sets = answer.json::<SetList>()?.recordsets.into_iter();
        let set = sets.find(|set| set.kind == "TXT" && set.name.eq_ignore_ascii_case(&name));
        Ok(set.map(|set| Set { records: set.records, ttl: set.ttl, tag: set.id }))
    }

    async fn write(&self, cx: &Context, zone: &String, place: &Place, old: Option<&Set>, new: &Set) -> Result<Written> {
        let body = json!({ "name": place.dotted(), "type": "TXT", "ttl": new.ttl, "records": new.records });
        let answer = match old {
            None => self.ask(cx, Method::POST, &[zone, "recordsets"], &[], Some(&body)).await?,
            Some(old) if new.records.is_empty() => {
                self.ask(cx, Method::DELETE, &[zone, "recordsets", &old.tag], &[], None).await?
            }
            Some(old) => self.ask(cx, Method::PUT, &[zone, "recordsets", &old.tag], &[], Some(&body)).await?,
        };
        match answer.status() {
            _ if answer.is_success() => Ok(Written::Done),
            // Made, or gone, in between.
            404 | 409 => Ok(Written::Stale),
            400 if vendor_code(&answer) == EXISTS => Ok(Written::Stale),
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
