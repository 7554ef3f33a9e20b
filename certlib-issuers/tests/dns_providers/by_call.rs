//! Services whose requests name an action.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::fake::{Record, Reply, Request, State};
use super::{CANARY, Subject};

pub(crate) fn subjects() -> Vec<Subject> {
    vec![Subject {
        kind: "alidns",
        service: alidns,
        settings: |_| json!({ "region": "eu-central-1" }),
        credentials: || json!({ "access_key_id": "AK", "access_key_secret": CANARY, "security_token": "session" }),
        compares: true,
    }]
}

fn alidns(state: &mut State, request: &Request) -> Reply {
    let refusal = |status: u16, code: &str| {
        Reply::new(status, json!({ "Code": code, "Message": "no", "RequestId": "1", "HostId": "fake" }))
    };
    let form = request.form();
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    if field("Signature") != alidns_signature(&form) {
        return refusal(400, "SignatureDoesNotMatch");
    }
    let common = [field("AccessKeyId"), field("Version"), field("SignatureMethod"), field("SecurityToken")];
    if common != ["AK", "2015-01-09", "HMAC-SHA1", "session"] || field("SignatureNonce").len() < 16 {
        return refusal(404, "InvalidAccessKeyId.NotFound");
    }
    let zone = field("DomainName");
    match field("Action") {
        "DescribeDomains" if field("SearchMode") == "EXACT" => {
            let name = field("KeyWord");
            let domains: Vec<Value> = Some(json!({ "DomainName": name, "DomainId": "1" }))
                .filter(|_| state.has_zone(name))
                .into_iter()
                .collect();
            Reply::new(200, json!({ "TotalCount": domains.len(), "Domains": { "Domain": domains } }))
        }
        "DescribeSubDomainRecords" if field("Type") == "TXT" => {
            let record = |record: &Record| json!({ "RecordId": record.id.to_string(), "RR": State::relative(record, "@"), "Type": "TXT", "Value": record.value });
            let records: Vec<Value> = state.at(zone, field("SubDomain")).into_iter().map(record).collect();
            Reply::new(200, json!({ "TotalCount": records.len(), "DomainRecords": { "Record": records } }))
        }
        "AddDomainRecord" if field("Type") == "TXT" && field("TTL") == "600" => {
            let fqdn = State::fqdn(zone, field("RR"));
            if state.values(zone, &fqdn).iter().any(|value| value == field("Value")) {
                return refusal(400, "DomainRecordDuplicate");
            }
            let id = state.add(zone, &fqdn, field("Value"));
            Reply::new(200, json!({ "RequestId": "1", "RecordId": id.to_string() }))
        }
        "DeleteDomainRecord" => match field("RecordId").parse().is_ok_and(|id| state.delete(id)) {
            true => Reply::new(200, json!({ "RequestId": "1", "RecordId": field("RecordId") })),
            false => refusal(400, "DomainRecordNotBelongToUser"),
        },
        _ => Reply::unexpected(request),
    }
}

/// The signature that the manual describes, over what arrived.
fn alidns_signature(form: &BTreeMap<String, String>) -> String {
    let encode = |text: &str| -> String {
        let encoded: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
        encoded.replace('+', "%20").replace('*', "%2A").replace("%7E", "~")
    };
    let pairs = form.iter().filter(|(name, _)| *name != "Signature");
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    let text = format!("POST&%2F&{}", encode(&pairs.join("&")));
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, format!("{CANARY}&").as_bytes());
    STANDARD.encode(hmac::sign(&key, text.as_bytes()))
}
