//! Alibaba Cloud DNS (AliDNS).
//!
//! Requests are signed by the first version of its RPC signature.
//! <https://www.alibabacloud.com/help/en/dns/api-alidns-2015-01-09-overview>

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Error, ErrorClass, Result};
use certlib_net::Answer;
use certlib_net::signature::encode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};
use zeroize::Zeroizing;

use super::records::{Record, RecordApi};
use super::service::{Hosted, Place, Seat, Service, Zones, check_word, refused_with};

const TIMESTAMP: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");

/// Settings of provider `alidns`, beside those of [`ServiceConfig`](super::ServiceConfig).
///
/// How short a record may live depends on the edition of the zone; 600 seconds, the default, is the free one's limit.
///
/// ```json
/// { "kind": "alidns", "region": "eu-central-1", "zone": "example.com" }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AliDnsConfig {
    /// The region whose endpoint to use. Default: the central one, `alidns.aliyuncs.com`.
    pub region: Option<String>,
}

/// Credentials of provider `alidns`. The key needs the actions `alidns:DescribeDomains`,
/// `alidns:DescribeSubDomainRecords`, `alidns:AddDomainRecord` and `alidns:DeleteDomainRecord`, the last three on the
/// resource `acs:alidns:*:*:domain/ZONE` alone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AliDnsCredentials {
    /// The id of an access key.
    pub access_key_id: String,
    /// Its secret.
    pub access_key_secret: SecretString,
    /// What comes with a temporary key.
    #[serde(default)]
    pub security_token: Option<SecretString>,
}

#[derive(Debug)]
pub(super) struct AliDns {
    service: Service,
    credentials: AliDnsCredentials,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    code: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Domains {
    domains: DomainList,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DomainList {
    domain: Vec<Domain>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Domain {
    domain_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DomainRecords {
    domain_records: RecordList,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RecordList {
    record: Vec<DomainRecord>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DomainRecord {
    record_id: String,
    #[serde(rename = "RR")]
    rr: String,
    #[serde(rename = "Type")]
    kind: String,
    value: String,
}

impl AliDns {
    /// Calls an action; a refusal with one of the codes `fine` is a success without an answer.
    async fn call(
        &self,
        cx: &Context,
        action: &str,
        parameters: &[(&str, &str)],
        fine: &[&str],
    ) -> Result<Option<Answer>> {
        let nonce = format!("{:032x}", rand::random::<u128>());
        let body = signed(&self.credentials, action, parameters, &nonce, cx.clock.now());
        let request = self.service.api.post([]).body("application/x-www-form-urlencoded", body);
        let answer = request.send(cx).await?;
        if answer.is_success() {
            return Ok(Some(answer));
        }
        let code = answer.json::<Refusal>().map(|refusal| refusal.code).unwrap_or_default();
        if fine.contains(&code.as_str()) {
            return Ok(None);
        }
        Err(refused_with(&answer, Some(&code), meaning(&code)))
    }

    async fn ask<T: DeserializeOwned>(&self, cx: &Context, action: &str, parameters: &[(&str, &str)]) -> Result<T> {
        match self.call(cx, action, parameters, &[]).await? {
            Some(answer) => answer.json(),
            None => Err(Error::transient(Self::OPERATION, "answer_invalid", "there is no answer")),
        }
    }
}

/// What a code means where the status does not say it.
fn meaning(code: &str) -> Option<(ErrorClass, &'static str)> {
    if code.starts_with("Throttling") || code == "ServiceUnavailable" {
        return Some((ErrorClass::IoTransient, "throttled"));
    }
    let login = ["InvalidAccessKeyId", "SignatureDoesNotMatch", "IncompleteSignature", "InvalidSecurityToken"];
    if login.iter().any(|start| code.starts_with(start)) || code == "InvalidTimeStamp.Expired" {
        return Some((ErrorClass::Auth, "credentials_refused"));
    }
    if code.starts_with("Forbidden") || code.starts_with("NoPermission") {
        return Some((ErrorClass::Auth, "not_permitted"));
    }
    None
}

/// The form of a call: its parameters, the common ones, and the signature over all of them.
fn signed(
    credentials: &AliDnsCredentials,
    action: &str,
    parameters: &[(&str, &str)],
    nonce: &str,
    now: OffsetDateTime,
) -> Zeroizing<Vec<u8>> {
    // The format has only numbers, which cannot fail.
    let timestamp = now.to_offset(UtcOffset::UTC).format(TIMESTAMP).unwrap_or_default();
    let mut all: BTreeMap<&str, &str> = parameters.iter().copied().collect();
    all.extend([
        ("Action", action),
        ("Version", "2015-01-09"),
        ("Format", "JSON"),
        ("AccessKeyId", credentials.access_key_id.as_str()),
        ("SignatureMethod", "HMAC-SHA1"),
        ("SignatureVersion", "1.0"),
        ("SignatureNonce", nonce),
        ("Timestamp", timestamp.as_str()),
    ]);
    all.extend(credentials.security_token.as_ref().map(|token| ("SecurityToken", token.expose().as_str())));
    let form = form(&all);
    let signature = signature("POST", &form, &credentials.access_key_secret);
    let whole = format!("{}&Signature={}", *form, encode(signature.as_bytes()));
    Zeroizing::new(whole.into_bytes())
}

/// Pairs by name, everything but unreserved characters encoded.
fn form(parameters: &BTreeMap<&str, &str>) -> Zeroizing<String> {
    let pairs =
        parameters.iter().map(|(name, value)| format!("{}={}", encode(name.as_bytes()), encode(value.as_bytes())));
    Zeroizing::new(pairs.collect::<Vec<_>>().join("&"))
}

fn signature(method: &str, form: &str, secret: &SecretString) -> String {
    let text = Zeroizing::new(format!("{method}&%2F&{}", encode(form.as_bytes())));
    let key = Zeroizing::new(format!("{}&", secret.expose()));
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes());
    STANDARD.encode(hmac::sign(&key, text.as_bytes()))
}

impl Hosted for AliDns {
    const KIND: &'static str = "alidns";
    const OPERATION: &'static str = "dns.alidns";
    const TTL: u32 = 600;
    type Config = AliDnsConfig;
    type Credentials = AliDnsCredentials;

    fn api_url(config: &AliDnsConfig) -> Option<String> {
        Some(match &config.region {
            None => "https://alidns.aliyuncs.com".to_owned(),
            Some(region) => format!("https://alidns.{region}.aliyuncs.com"),
        })
    }

    fn check(config: &AliDnsConfig) -> Result<()> {
        config.region.as_deref().map_or(Ok(()), |region| check_word("region", region))
    }

    fn connect(seat: Seat<'_>, _: AliDnsConfig, credentials: AliDnsCredentials) -> Result<Self> {
        Ok(Self { service: seat.service, credentials })
    }
}

#[async_trait]
impl Zones for AliDns {
    type Zone = String;

    fn service(&self) -> &Service {
        &self.service
    }

    async fn zone(&self, cx: &Context, name: &str) -> Result<Option<String>> {
        let parameters = [("KeyWord", name), ("SearchMode", "EXACT"), ("PageSize", "100")];
        let found: Domains = self.ask(cx, "DescribeDomains", &parameters).await?;
        let zone = found.domains.domain.into_iter().find(|zone| zone.domain_name.eq_ignore_ascii_case(name));
        Ok(zone.map(|zone| zone.domain_name))
    }
}

#[async_trait]
impl RecordApi for AliDns {
    async fn list(&self, cx: &Context, zone: &String, place: &Place) -> Result<Vec<Record>> {
        let parameters =
            [("DomainName", zone.as_str()), ("SubDomain", place.fqdn.as_str()), ("Type", "TXT"), ("PageSize", "500")];
        let found: DomainRecords = self.ask(cx, "DescribeSubDomainRecords", &parameters).await?;
        let name = place.relative("@");
        let ours = |record: &DomainRecord| record.kind == "TXT" && record.rr.eq_ignore_ascii_case(name);
        let records = found.domain_records.record.into_iter().filter(ours);
        Ok(records.map(|record| Record { id: record.record_id, value: record.value }).collect())
    }

    async fn create(&self, cx: &Context, zone: &String, place: &Place, value: &str) -> Result<()> {
        let ttl = self.service.ttl.to_string();
        let parameters = [
            ("DomainName", zone.as_str()),
            ("RR", place.relative("@")),
            ("Type", "TXT"),
            ("Value", value),
            ("TTL", ttl.as_str()),
        ];
        self.call(cx, "AddDomainRecord", &parameters, &["DomainRecordDuplicate"]).await.map(drop)
    }

    async fn delete(&self, cx: &Context, _: &String, id: &str) -> Result<()> {
        let gone = ["DomainRecordNotBelongToUser", "InvalidRecordId.NotFound"];
        self.call(cx, "DeleteDomainRecord", &[("RecordId", id)], &gone).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_signature() {
        let secret = SecretString::new("SECRET".to_owned());
        let parameters = BTreeMap::from([
            ("AccessKeyId", "AK"),
            ("Action", "DescribeDomains"),
            ("Format", "JSON"),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureNonce", "n1"),
            ("SignatureVersion", "1.0"),
            ("Timestamp", "2026-01-01T00:00:00Z"),
            ("Version", "2015-01-09"),
        ]);
        assert_eq!(signature("GET", &form(&parameters), &secret), "6+C0aG6F3ShQ+X9zU0Oo3NrMwtQ=");
    }

    #[test]
    fn the_example_of_the_manual() {
        let secret = SecretString::new("testsecret".to_owned());
        let parameters = BTreeMap::from([
            ("AccessKeyId", "testid"),
            ("Action", "DescribeDomainRecords"),
            ("DomainName", "example.com"),
            ("Format", "XML"),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureNonce", "f59ed6a9-83fc-473b-9cc6-99c95df3856e"),
            ("SignatureVersion", "1.0"),
            ("Timestamp", "2016-03-24T16:41:54Z"),
            ("Version", "2015-01-09"),
        ]);
        assert_eq!(signature("GET", &form(&parameters), &secret), "uRpHwaSEt3J+6KQD//svCh/x+pI=");
    }

    #[test]
    fn a_call_has_everything() {
        let credentials = AliDnsCredentials {
            access_key_id: "AK".to_owned(),
            access_key_secret: SecretString::new("SECRET".to_owned()),
            security_token: None,
        };
        let body = signed(&credentials, "Do", &[("Value", "a b")], "n", datetime!(2026-01-01 01:00 +1));
        let text = String::from_utf8(body.to_vec()).unwrap();
        let expected = "AccessKeyId=AK&Action=Do&Format=JSON&SignatureMethod=HMAC-SHA1&SignatureNonce=n&SignatureVersion=1.0&\
                        Timestamp=2026-01-01T00%3A00%3A00Z&Value=a%20b&Version=2015-01-09&Signature=";
        assert!(text.starts_with(expected), "{text}");
    }
}
