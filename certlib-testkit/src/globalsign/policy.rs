//! What may, must and must not be in a request for a certificate.

use regex::Regex;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::answer::Refusal;
use crate::pki::KeyInfo;

/// The policy of an account that was not given another one: server certificates with keys on P-256 or P-384, asked for
/// with PKCS#10.
pub(super) fn default() -> Value {
    let text = |presence: &str, format: &str| json!({ "presence": presence, "format": format });
    let list = |patterns: &[&str], least: u64, most: u64| json!({ "static": false, "list": patterns, "mincount": least, "maxcount": most });
    json!({
        "validity": {
            "secondsmin": 3_600,
            "secondsmax": 17_280_000,
            "not_before_negative_skew": 3_600,
            "not_before_positive_skew": 86_400,
            "issuer_expiry": 0,
        },
        "subject_dn": {
            "common_name": text("REQUIRED", r"^(\*\.)?[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)+$"),
            "organization": text("STATIC", "Simulated Ltd"),
            "country": text("STATIC", "GB"),
            "locality": text("OPTIONAL", "^.{1,64}$"),
            "email": text("FORBIDDEN", ""),
            "organizational_unit": list(&[], 0, 0),
        },
        "san": {
            "dns_names": list(&[r"^(\*\.)?[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)+$"], 1, 100),
            "ip_addresses": list(&[r"^[0-9a-fA-F.:]+$"], 0, 10),
            "emails": list(&[], 0, 0),
            "uris": list(&[], 0, 0),
            "other_names": {},
        },
        "extended_key_usages": {
            "ekus": list(&[r"^1\.3\.6\.1\.5\.5\.7\.3\.[12]$"], 1, 2),
            "critical": false,
        },
        "signature": {
            "algorithm": { "presence": "OPTIONAL", "list": ["RSA", "ECDSA"] },
            "hash_algorithm": { "presence": "OPTIONAL", "list": ["SHA-256", "SHA-384"] },
        },
        "public_key": { "key_type": "ECDSA", "allowed_lengths": [256, 384], "key_format": "PKCS10" },
        "public_key_signature": "FORBIDDEN",
    })
}

/// Checks everything but the key: fields that the policy does not know are forbidden.
pub(super) fn check(policy: &Value, request: &Value) -> Result<(), Refusal> {
    for field in request.as_object().into_iter().flatten().map(|(name, _)| name) {
        let known =
            policy.get(field).is_some() || matches!(field.as_str(), "validity" | "public_key" | "public_key_signature");
        if !known {
            return Err(Refusal::unfit(format!("{field}: forbidden by validation policy")));
        }
    }
    group(&policy["subject_dn"], &request["subject_dn"], "subject_dn")?;
    group(&policy["san"], &request["san"], "san")?;
    if policy["extended_key_usages"].is_object() {
        list(&policy["extended_key_usages"]["ekus"], &request["extended_key_usages"], "extended_key_usages")?;
    }
    for name in ["algorithm", "hash_algorithm"] {
        algorithm(&policy["signature"][name], &request["signature"][name], &format!("signature.{name}"))?;
    }
    Ok(())
}

/// Checks what kind of key it is.
pub(super) fn check_key(policy: &Value, key: KeyInfo) -> Result<(), Refusal> {
    let policy = &policy["public_key"];
    let lengths = policy["allowed_lengths"].as_array().map(Vec::as_slice).unwrap_or_default();
    if policy["key_type"] != key.algorithm {
        return Err(Refusal::unfit(format!("public_key: key type {} is not allowed", key.algorithm)));
    }
    if lengths.iter().any(|length| *length == key.bits) {
        return Ok(());
    }
    Err(Refusal::unfit(format!("public_key: key length {} is not allowed", key.bits)))
}

/// From when until when a certificate is valid.
pub(super) fn validity(
    policy: &Value,
    request: &Value,
    now: OffsetDateTime,
) -> Result<(OffsetDateTime, OffsetDateTime), Refusal> {
    let number = |owner: &Value, name: &str| owner["validity"][name].as_i64();
    let limit = |name: &str| number(policy, name).unwrap_or_default();
    let now = now.unix_timestamp();
    let from =
        number(request, "not_before").ok_or_else(|| Refusal::new(400, "validity.not_before: a number is required"))?;
    let till =
        number(request, "not_after").ok_or_else(|| Refusal::new(400, "validity.not_after: a number is required"))?;
    if from < now - limit("not_before_negative_skew") || from > now + limit("not_before_positive_skew") {
        return Err(Refusal::unfit("validity.not_before: outside of the allowed skew"));
    }
    // 0 stands for as long as may be.
    let till = if till == 0 { from + limit("secondsmax") } else { till };
    if !(limit("secondsmin")..=limit("secondsmax")).contains(&(till - from)) {
        return Err(Refusal::unfit("validity.not_after: outside of the allowed range"));
    }
    let time = |seconds| OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| Refusal::unfit("validity: no time"));
    Ok((time(from)?, time(till)?))
}

/// The fields of an object, texts and lists.
fn group(policy: &Value, request: &Value, at: &str) -> Result<(), Refusal> {
    if !request.is_null() && !request.is_object() {
        return Err(Refusal::new(400, format!("{at}: not an object")));
    }
    for (name, _) in request.as_object().into_iter().flatten() {
        if policy.get(name).is_none() {
            return Err(Refusal::unfit(format!("{at}.{name}: forbidden by validation policy")));
        }
    }
    for (name, policy) in policy.as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        if policy.get("presence").is_some() {
            text(policy, &request[name], &at)?;
        } else if policy.get("maxcount").is_some() {
            list(policy, &request[name], &at)?;
        } else if request[name].as_array().is_some_and(|values| !values.is_empty()) {
            return Err(Refusal::unfit(format!("{at}: forbidden by validation policy")));
        }
    }
    Ok(())
}

fn text(policy: &Value, value: &Value, at: &str) -> Result<(), Refusal> {
    let value = match value {
        Value::Null => None,
        Value::String(text) => Some(text.as_str()).filter(|text| !text.is_empty()),
        _ => return Err(Refusal::new(400, format!("{at}: not a text"))),
    };
    match (policy["presence"].as_str().unwrap_or_default(), value) {
        ("REQUIRED", None) => Err(Refusal::unfit(format!("{at}: required by validation policy"))),
        (presence @ ("FORBIDDEN" | "STATIC"), Some(_)) => {
            Err(Refusal::unfit(format!("{at}: {} by validation policy", presence.to_lowercase())))
        }
        ("REQUIRED" | "OPTIONAL", Some(value)) if !fits(policy["format"].as_str().unwrap_or_default(), value) => {
            Err(Refusal::unfit(format!("{at}: does not match the format of the validation policy")))
        }
        _ => Ok(()),
    }
}

fn list(policy: &Value, values: &Value, at: &str) -> Result<(), Refusal> {
    let values = match values {
        Value::Null => &[],
        Value::Array(values) => values.as_slice(),
        _ => return Err(Refusal::new(400, format!("{at}: not a list"))),
    };
    if policy["static"] == true {
        return if values.is_empty() {
            Ok(())
        } else {
            Err(Refusal::unfit(format!("{at}: static by validation policy")))
        };
    }
    let count = values.len() as u64;
    if count > policy["maxcount"].as_u64().unwrap_or_default() {
        return Err(Refusal::unfit(format!("{at}: more values than the validation policy allows")));
    }
    if count < policy["mincount"].as_u64().unwrap_or_default() {
        return Err(Refusal::unfit(format!("{at}: fewer values than the validation policy requires")));
    }
    let patterns: Vec<&str> = policy["list"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let allowed =
        |value: &Value| value.as_str().is_some_and(|value| patterns.iter().any(|pattern| fits(pattern, value)));
    if values.iter().all(allowed) {
        return Ok(());
    }
    Err(Refusal::unfit(format!("{at}: a value does not match the validation policy")))
}

fn algorithm(policy: &Value, value: &Value, at: &str) -> Result<(), Refusal> {
    match (policy["presence"].as_str().unwrap_or("FORBIDDEN"), value.as_str()) {
        ("REQUIRED", None) => Err(Refusal::unfit(format!("{at}: required by validation policy"))),
        ("FORBIDDEN" | "STATIC", Some(_)) => Err(Refusal::unfit(format!("{at}: not allowed by validation policy"))),
        (_, Some(name)) if !policy["list"].as_array().is_some_and(|list| list.iter().any(|known| known == name)) => {
            Err(Refusal::unfit(format!("{at}: {name} is not in the list of the validation policy")))
        }
        _ => Ok(()),
    }
}

/// Whether a value matches a pattern from its beginning to its end. A pattern that is none matches nothing.
fn fits(pattern: &str, value: &str) -> bool {
    Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|pattern| pattern.is_match(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut Value)) -> Option<String> {
        let mut request = json!({
            "validity": { "not_before": 0, "not_after": 0 },
            "subject_dn": { "common_name": "a.example.com" },
            "san": { "dns_names": ["a.example.com"] },
            "extended_key_usages": ["1.3.6.1.5.5.7.3.1"],
            "public_key": "…",
        });
        change(&mut request);
        check(&default(), &request).err().map(|refusal| format!("{refusal:?}"))
    }

    #[test]
    fn a_request_is_held_against_the_policy() {
        assert_eq!(refusal(|_| ()), None);
        let table: [(&str, Value, &str); 11] = [
            ("/subject_dn/common_name", json!(null), "required"),
            ("/subject_dn/common_name", json!("a b"), "format"),
            ("/subject_dn/organization", json!("Mine"), "static"),
            ("/subject_dn/email", json!("a@b"), "forbidden"),
            ("/subject_dn/colour", json!("red"), "forbidden"),
            ("/subject_dn/organizational_unit", json!(["x"]), "more values"),
            ("/san/dns_names", json!([]), "fewer values"),
            ("/san/dns_names", json!(["a b"]), "does not match"),
            ("/extended_key_usages", json!(["1.3.6.1.5.5.7.3.9"]), "does not match"),
            ("/signature", json!({ "hash_algorithm": "MD5" }), "not in the list"),
            ("/ms_extension_template", json!({}), "forbidden"),
        ];
        for (pointer, value, part) in table {
            let (owner, name) = pointer.rsplit_once('/').unwrap();
            let seen = refusal(|request| request.pointer_mut(owner).unwrap()[name] = value);
            assert!(seen.as_ref().is_some_and(|seen| seen.contains(part)), "{pointer}: {seen:?}");
        }
    }
}
