use std::time::Duration;

use certlib_core::bundle::{KeyType, PrivateKey};
use time::macros::datetime;

use super::*;

const NOW: OffsetDateTime = datetime!(2027-01-01 12:00 UTC);

fn policy() -> Value {
    let text = |presence: &str, format: &str| json!({ "presence": presence, "format": format });
    let list = |patterns: &[&str], least: usize, most: usize| json!({ "static": false, "list": patterns, "mincount": least, "maxcount": most });
    json!({
        "validity": { "secondsmin": 3600, "secondsmax": 8_640_000, "not_before_negative_skew": 3600 },
        "subject_dn": {
            "common_name": text("REQUIRED", r"^[a-z.*-]+$"),
            "organization": { "presence": "STATIC", "static": "Shop Ltd" },
            "country": text("FORBIDDEN", ""),
            "locality": text("OPTIONAL", "^[A-Z][a-z]+$"),
            "organizational_unit": list(&["^.+$"], 0, 1),
            "extra_attributes": {},
        },
        "san": {
            "dns_names": list(&[r"^[a-z.*-]+$"], 1, 2),
            "ip_addresses": list(&[], 0, 0),
            "other_names": {},
        },
        "extended_key_usages": { "ekus": list(&[r"^1\.3\.6\.1\.5\.5\.7\.3\.1$"], 1, 2), "critical": false },
        "signature": {
            "algorithm": { "presence": "OPTIONAL", "list": ["RSA"] },
            "hash_algorithm": { "presence": "REQUIRED", "list": ["SHA-512", "SHA-256"] },
        },
        "public_key": { "key_type": "ECDSA", "allowed_lengths": [256, 384], "key_format": "PKCS10" },
        "public_key_signature": "FORBIDDEN",
    })
}

fn request(names: &[&str], kind: KeyType) -> IssueRequest {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let csr = PrivateKey::generate(kind).unwrap().certificate_request(&names).unwrap();
    IssueRequest::new(names, csr)
}

fn config(text: &str) -> GlobalSignConfig {
    serde_json::from_str(text).unwrap()
}

fn body(policy: Value, config: &GlobalSignConfig, request: &IssueRequest) -> Result<Value> {
    serde_json::from_value::<Policy>(policy).unwrap().request(config, request, NOW)
}

fn field(result: Result<Value>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.code(), "policy_violated", "{error:?}");
    error.context().find(|(key, _)| *key == "field").map(|(_, value)| value.to_owned()).unwrap()
}

#[test]
fn a_request_says_what_the_policy_leaves_to_it() {
    let asked = request(&["a.example", "*.b.example"], KeyType::EcdsaP256);
    let settings = r#"{"subject": {"organization": "Mine", "country": "GB", "locality": "London"}}"#;
    let mut made = body(policy(), &config(settings), &asked).unwrap();
    let csr = made.as_object_mut().unwrap().remove("public_key").unwrap();
    assert_eq!(keys::of_request_pem(csr.as_str().unwrap()).unwrap(), keys::of_request(&asked.csr).unwrap());
    assert_eq!(
        made,
        json!({
            "validity": { "not_before": NOW.unix_timestamp(), "not_after": NOW.unix_timestamp() + 90 * 86_400 },
            "subject_dn": { "common_name": "a.example", "locality": "London" },
            "san": { "dns_names": ["a.example", "*.b.example"] },
            "extended_key_usages": [SERVER_AUTH],
            "signature": { "hash_algorithm": "SHA-256" },
        })
    );
}

#[test]
fn what_is_static_or_unknown_is_left_out() {
    let mut stiff = policy();
    stiff["extended_key_usages"]["ekus"]["static"] = json!(true);
    stiff["subject_dn"] =
        json!({ "common_name": { "presence": "STATIC" }, "serial_number": { "presence": "OPTIONAL" } });
    stiff["signature"] = json!({});
    let made = body(stiff, &config("{}"), &request(&["a.example"], KeyType::EcdsaP256)).unwrap();
    let parts: Vec<&str> = made.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(parts, ["public_key", "san", "validity"]);
}

#[test]
fn what_the_policy_does_not_allow_is_refused_by_name() {
    let plain = config("{}");
    let p256 = |names: &[&str]| request(names, KeyType::EcdsaP256);
    assert_eq!(field(body(policy(), &plain, &p256(&["a1.example"]))), "subject_dn.common_name");
    assert_eq!(field(body(policy(), &plain, &p256(&["a.example", "b1.example"]))), "san.dns_names");
    assert_eq!(field(body(policy(), &plain, &p256(&["a.example", "b.example", "c.example"]))), "san.dns_names");
    assert_eq!(field(body(policy(), &plain, &p256(&["a.example", "192.0.2.1"]))), "san.ip_addresses");
    let town = config(r#"{"subject": {"locality": "nowhere"}}"#);
    assert_eq!(field(body(policy(), &town, &p256(&["a.example"]))), "subject_dn.locality");
    let units = config(r#"{"subject": {"organizational_unit": ["a", "b"]}}"#);
    assert_eq!(field(body(policy(), &units, &p256(&["a.example"]))), "subject_dn.organizational_unit");
    let both = config(r#"{"client_auth": true}"#);
    assert_eq!(field(body(policy(), &both, &p256(&["a.example"]))), "extended_key_usages");
    let mut strict = policy();
    strict["subject_dn"]["state"] = json!({ "presence": "REQUIRED", "format": "" });
    assert_eq!(field(body(strict, &plain, &p256(&["a.example"]))), "subject_dn.state");
}

#[test]
fn validities_are_shortened_but_not_lengthened() {
    let mut asked = request(&["a.example"], KeyType::EcdsaP256);
    let length = |asked: &IssueRequest| {
        let made = body(policy(), &config("{}"), asked)?;
        let part = |name: &str| made["validity"][name].as_i64().unwrap();
        Ok::<i64, Error>(part("not_after") - part("not_before"))
    };
    asked.validity = Some(Duration::from_secs(7200));
    assert_eq!(length(&asked).unwrap(), 7200);
    asked.validity = Some(Duration::from_secs(u64::MAX));
    assert_eq!(length(&asked).unwrap(), 8_640_000);
    asked.validity = Some(Duration::from_secs(60));
    assert_eq!(length(&asked).unwrap_err().code(), "policy_violated");
}

#[test]
fn keys_must_be_of_the_type_size_and_form_that_the_policy_wants() {
    let plain = config("{}");
    body(policy(), &plain, &request(&["a.example"], KeyType::EcdsaP384)).unwrap();
    let refused = |kind| field(body(policy(), &plain, &request(&["a.example"], kind)));
    assert_eq!(refused(KeyType::EcdsaP521), "public_key.allowed_lengths");
    assert_eq!(refused(KeyType::Rsa2048), "public_key.key_type");
    assert_eq!(refused(KeyType::Ed25519), "public_key.key_type");

    let mut rsa = policy();
    rsa["public_key"] = json!({ "key_type": "RSA", "allowed_lengths": [2048], "key_format": "PKCS10" });
    body(rsa, &plain, &request(&["a.example"], KeyType::Rsa2048)).unwrap();
    let mut signed = policy();
    signed["public_key"]["key_format"] = json!("PKCS8");
    let error = body(signed, &plain, &request(&["a.example"], KeyType::EcdsaP256)).unwrap_err();
    assert_eq!(error.code(), "key_format_unsupported");
}

#[test]
fn a_pattern_that_cannot_be_read_is_left_to_the_ca() {
    let mut odd = policy();
    odd["subject_dn"]["common_name"]["format"] = json!("^(?=a).*$");
    body(odd, &config("{}"), &request(&["a.example"], KeyType::EcdsaP256)).unwrap();
}
