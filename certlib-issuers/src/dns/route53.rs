//! Amazon Route 53.
//!
//! <https://docs.aws.amazon.com/Route53/latest/APIReference/API_ChangeResourceRecordSets.html>

use async_trait::async_trait;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Error, ErrorClass, Result};
use certlib_net::signature::{self, Signed, sigv4};
use certlib_net::{Answer, Request};
use quick_xml::escape::escape;
use reqwest::Method;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use zeroize::Zeroizing;

use super::service::{Hosted, Nothing, Place, Seat, Service, Zones, refused_with};
use super::sets::{Set, SetApi, Written};
use super::txt::{quote, unquote};

const VERSION: &str = "2013-04-01";
/// Route 53 is one for all regions, and this is where it says it is.
const REGION: &str = "us-east-1";
const NAMESPACE: &str = "https://route53.amazonaws.com/doc/2013-04-01/";

/// Credentials of provider `route53`, which takes no settings of its own.
///
/// ```json
/// { "kind": "route53", "zone": "example.com" }
/// ```
///
/// The key needs `route53:ListHostedZonesByName`, and `route53:ListResourceRecordSets` and
/// `route53:ChangeResourceRecordSets` on the one zone; the latter can be limited to TXT records and to names by the
/// conditions `route53:ChangeResourceRecordSetsRecordTypes` and `route53:ChangeResourceRecordSetsNormalizedRecordNames`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route53Credentials {
    /// The id of an access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: SecretString,
    /// What comes with a temporary key.
    #[serde(default)]
    pub session_token: Option<SecretString>,
}

#[derive(Debug)]
pub(super) struct Route53 {
    service: Service,
    credentials: Route53Credentials,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ZoneList {
    #[serde(default)]
    hosted_zones: HostedZones,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostedZones {
    #[serde(default)]
    hosted_zone: Vec<HostedZone>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostedZone {
    id: String,
    name: String,
    #[serde(default)]
    config: ZoneConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ZoneConfig {
    #[serde(default)]
    private_zone: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SetList {
    #[serde(default)]
    resource_record_sets: RecordSets,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RecordSets {
    #[serde(default)]
    resource_record_set: Vec<RecordSet>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RecordSet {
    name: String,
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "TTL", default)]
    ttl: u32,
    set_identifier: Option<String>,
    #[serde(default)]
    resource_records: ResourceRecords,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ResourceRecords {
    #[serde(default)]
    resource_record: Vec<ResourceRecord>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ResourceRecord {
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    /// Of an `ErrorResponse`.
    error: Option<Fault>,
    /// Of an `InvalidChangeBatch`, which stands on its own.
    messages: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Fault {
    code: String,
}

impl Route53 {
    async fn send(
        &self,
        cx: &Context,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: String,
    ) -> Result<Answer> {
        let path = [VERSION].into_iter().chain(path.iter().copied());
        let mut request: Request<'_> = self.service.api.request(method.clone(), path);
        if !query.is_empty() {
            let pairs = query.iter().map(|(name, value)| format!("{name}={}", signature::encode(value.as_bytes())));
            request = request.raw_query(&pairs.collect::<Vec<_>>().join("&"));
        }
        let token = self.credentials.session_token.as_ref();
        let host = signature::host(request.url());
        let mut headers = vec![("host", host.as_str())];
        headers.extend(token.map(|token| ("x-amz-security-token", token.expose().as_str())));
        let signed = Signed { method: method.as_str(), url: request.url(), headers: &headers, body: body.as_bytes() };
        let signer = sigv4::Signer {
            access_key: &self.credentials.access_key_id,
            secret_key: &self.credentials.secret_access_key,
            region: REGION,
            service: "route53",
        };
        let date = sigv4::date(cx.clock.now());
        let authorization = sigv4::authorization(&signed, &date, &signer).into();
        request = request.header("x-amz-date", &date).secret_header("authorization", &authorization);
        if let Some(token) = token {
            request = request.secret_header("x-amz-security-token", token);
        }
        if !body.is_empty() {
            request = request.body("application/xml", Zeroizing::new(body.into_bytes()));
        }
        request.send(cx).await
    }

    async fn get<T: DeserializeOwned>(&self, cx: &Context, path: &[&str], query: &[(&str, &str)]) -> Result<T> {
        let answer = self.send(cx, Method::GET, path, query, String::new()).await?;
        if !answer.is_success() {
            return Err(refused(&answer));
        }
        xml(&answer).ok_or_else(|| {
            answer.error(ErrorClass::IoTransient, "answer_invalid", "the answer is not what this API says")
        })
    }
}

impl Hosted for Route53 {
    const KIND: &'static str = "route53";
    const OPERATION: &'static str = "dns.route53";
    const TTL: u32 = 60;
    type Config = Nothing;
    type Credentials = Route53Credentials;

    fn api_url(_: &Nothing) -> Option<String> {
        Some("https://route53.amazonaws.com".to_owned())
    }

    fn connect(seat: Seat<'_>, _: Nothing, credentials: Route53Credentials) -> Result<Self> {
        Ok(Self { service: seat.service, credentials })
    }
}

#[async_trait]
impl Zones for Route53 {
    type Zone = String;

    fn service(&self) -> &Service {
        &self.service
    }

    /// The first public zone of that name: there may be private ones beside it, and the list goes on with others.
    async fn zone(&self, cx: &Context, name: &str) -> Result<Option<String>> {
        let dotted = format!("{name}.");
        let list: ZoneList = self.get(cx, &["hostedzonesbyname"], &[("dnsname", &dotted), ("maxitems", "100")]).await?;
        let mut zones = list.hosted_zones.hosted_zone.into_iter();
        let zone = zones.find(|zone| zone.name.eq_ignore_ascii_case(&dotted) && !zone.config.private_zone);
        Ok(zone.map(|zone| zone.id.trim_start_matches("/hostedzone/").to_owned()))
    }
}

#[async_trait]
impl SetApi for Route53 {
    /// A change that deletes a set has to name it exactly as it is, and changes of one request are all made or none.
    const COMPARES: bool = true;

    async fn read(&self, cx: &Context, zone: &String, place: &Place) -> Result<Option<Set>> {
        let name = place.dotted();
        let query = [("name", name.as_str()), ("type", "TXT"), ("maxitems", "1")];
        let list: SetList = self.get(cx, &["hostedzone", zone, "rrset"], &query).await?;
        let mut sets = list.resource_record_sets.resource_record_set.into_iter();
        // The list begins at the name, or after it.
        let Some(set) = sets.find(|set| set.kind == "TXT" && set.name.eq_ignore_ascii_case(&name)) else {
            return Ok(None);
        };
        if set.set_identifier.is_some() {
            let why = "the records at this name have a routing policy; delegate it by an alias";
            return Err(Error::validation(Self::OPERATION, "set_is_routed", why).with("name", &place.fqdn));
        }
        let records = set.resource_records.resource_record.into_iter().map(|record| record.value.into());
        Ok(Some(Set { records: records.collect(), ttl: set.ttl, tag: String::new() }))
    }

    async fn write(&self, cx: &Context, zone: &String, place: &Place, old: Option<&Set>, new: &Set) -> Result<Written> {
        let mut changes = old.map(|old| change("DELETE", place, old)).unwrap_or_default();
        if !new.records.is_empty() {
            changes += &change("CREATE", place, new);
        }
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ChangeResourceRecordSetsRequest xmlns=\"{NAMESPACE}\">\
             <ChangeBatch><Changes>{changes}</Changes></ChangeBatch></ChangeResourceRecordSetsRequest>"
        );
        let answer = self.send(cx, Method::POST, &["hostedzone", zone, "rrset", ""], &[], body).await?;
        match answer.status() {
            _ if answer.is_success() => Ok(Written::Done),
            400 if vendor_code(&answer).as_deref() == Some("InvalidChangeBatch") => Ok(Written::Stale),
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

fn change(action: &str, place: &Place, set: &Set) -> String {
    let records = set.records.iter().filter_map(Value::as_str);
    let records: String =
        records.map(|record| format!("<ResourceRecord><Value>{}</Value></ResourceRecord>", escape(record))).collect();
    format!(
        "<Change><Action>{action}</Action><ResourceRecordSet><Name>{}</Name><Type>TXT</Type><TTL>{}</TTL>\
         <ResourceRecords>{records}</ResourceRecords></ResourceRecordSet></Change>",
        escape(place.dotted()),
        set.ttl,
    )
}

fn xml<T: DeserializeOwned>(answer: &Answer) -> Option<T> {
    quick_xml::de::from_str(std::str::from_utf8(answer.body()).ok()?).ok()
}

fn vendor_code(answer: &Answer) -> Option<String> {
    let refusal: Refusal = xml(answer)?;
    let batch = refusal.messages.map(|_| "InvalidChangeBatch".to_owned());
    refusal.error.map(|fault| fault.code).or(batch)
}

fn refused(answer: &Answer) -> Error {
    let code = vendor_code(answer);
    let known = match code.as_deref().unwrap_or_default() {
        "Throttling" | "ThrottlingException" | "PriorRequestNotComplete" => {
            Some((ErrorClass::IoTransient, "throttled"))
        }
        "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "RequestExpired"
        | "IncompleteSignature"
        | "InvalidSignature"
        | "UnrecognizedClientException" => Some((ErrorClass::Auth, "credentials_refused")),
        _ => None,
    };
    refused_with(answer, code.as_deref(), known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let zones: ZoneList = quick_xml::de::from_str(
            "<?xml version=\"1.0\"?><ListHostedZonesByNameResponse xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\">\
             <HostedZones><HostedZone><Id>/hostedzone/Z1</Id><Name>example.com.</Name><CallerReference>r</CallerReference>\
             <Config><Comment/><PrivateZone>true</PrivateZone></Config></HostedZone></HostedZones>\
             <IsTruncated>false</IsTruncated></ListHostedZonesByNameResponse>",
        )
        .unwrap();
        assert!(zones.hosted_zones.hosted_zone[0].config.private_zone);
        let none: SetList = quick_xml::de::from_str(
            "<ListResourceRecordSetsResponse><ResourceRecordSets/><MaxItems>1</MaxItems></ListResourceRecordSetsResponse>",
        )
        .unwrap();
        assert!(none.resource_record_sets.resource_record_set.is_empty());
        let sets: SetList = quick_xml::de::from_str(
            "<R><ResourceRecordSets><ResourceRecordSet><Name>a.</Name><Type>TXT</Type><TTL>60</TTL><ResourceRecords>\
             <ResourceRecord><Value>&quot;a &amp; b&quot;</Value></ResourceRecord>\
             <ResourceRecord><Value>\"c\"</Value></ResourceRecord>\
             </ResourceRecords></ResourceRecordSet></ResourceRecordSets></R>",
        )
        .unwrap();
        let records = &sets.resource_record_sets.resource_record_set[0].resource_records.resource_record;
        assert_eq!((records[0].value.as_str(), records[1].value.as_str()), ("\"a & b\"", "\"c\""));
    }
}
