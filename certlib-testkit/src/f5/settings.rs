//! Settings that change nothing in the simulator, but are kept, inherited and shown as a BIG-IP 16.1 does.

use serde_json::{Map, Value, json};

use super::{answer::Refusal, profile::Side};

/// What an object has by itself, by name.
pub(super) type Settings = Map<String, Value>;

/// What the root of all profiles of a side has.
pub(super) fn of_profile(side: Side) -> Settings {
    let common = json!({
        "alertTimeout": "indefinite",
        "authenticate": "once",
        "authenticateDepth": 9,
        "caFile": "none",
        "cacheSize": 262_144,
        "cacheTimeout": 3_600,
        "cipherGroup": "none",
        "ciphers": "DEFAULT",
        "crlFile": "none",
        "handshakeTimeout": "10",
        "modSslMethods": "disabled",
        "mode": "enabled",
        "peerCertMode": "ignore",
        "renegotiation": "enabled",
        "retainCertificate": "true",
        "sniRequire": "false",
        "sslForwardProxy": "disabled",
        "strictResume": "disabled",
        "tmOptions": ["dont-insert-empty-fragments", "no-tlsv1.3"],
        "uncleanShutdown": "enabled",
    });
    let own = match side {
        Side::Client => json!({
            "allowExpiredCrl": "disabled",
            "allowNonSsl": "disabled",
            "clientCertCa": "none",
            "secureRenegotiation": "require",
        }),
        Side::Server => json!({
            "authenticateName": "none",
            "ocsp": "none",
            "secureRenegotiation": "require-strict",
        }),
    };
    [common, own].into_iter().filter_map(object).flatten().collect()
}

/// What a virtual server has unless it is told otherwise.
pub(super) fn of_virtual() -> Settings {
    let all = json!({
        "autoLasthop": "default",
        "connectionLimit": 0,
        "ipProtocol": "tcp",
        "mask": "255.255.255.255",
        "mirror": "disabled",
        "rateLimit": "disabled",
        "rateLimitDstMask": 0,
        "rateLimitMode": "object",
        "rateLimitSrcMask": 0,
        "serviceDownImmediateAction": "none",
        "source": "0.0.0.0/0",
        "sourceAddressTranslation": { "type": "none" },
        "sourcePort": "preserve",
        "translateAddress": "enabled",
        "translatePort": "enabled",
        // Not shown until there is one.
        "description": null,
        "metadata": null,
    });
    object(all).unwrap_or_default()
}

/// Takes from a body what `defaults` know, in the form that they have.
pub(super) fn change(own: &mut Settings, defaults: &Settings, body: &Map<String, Value>) -> Result<(), Refusal> {
    for (name, default) in defaults {
        match body.get(name) {
            None | Some(Value::Null) => {}
            Some(value) => {
                let value = like(default, value);
                let value = value.ok_or_else(|| {
                    Refusal::new(400, format!("invalid property value \"{name}\":\"{}\"", body[name]))
                })?;
                own.insert(name.clone(), value);
            }
        }
    }
    Ok(())
}

/// A value in the form of another. Truth values and numbers are taken for texts, as the real thing does.
fn like(default: &Value, value: &Value) -> Option<Value> {
    match (default, value) {
        (Value::String(_), Value::String(text)) if text.is_empty() => Some(json!("none")),
        (Value::String(_), Value::Bool(_) | Value::Number(_)) => Some(json!(value.to_string())),
        (Value::Number(_), Value::String(text)) => text.parse::<i64>().ok().map(|number| json!(number)),
        (Value::Array(_), Value::String(text)) => Some(json!(text.split_whitespace().collect::<Vec<_>>())),
        (Value::Null, _) => Some(value.clone()),
        _ => (std::mem::discriminant(default) == std::mem::discriminant(value)).then(|| value.clone()),
    }
}

fn object(value: Value) -> Option<Settings> {
    match value {
        Value::Object(fields) => Some(fields),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_take_the_form_that_is_shown() {
        let defaults = of_profile(Side::Client);
        let mut own = Settings::new();
        let body = json!({ "sniRequire": true, "cacheSize": "5", "caFile": "", "tmOptions": "no-dtls no-ssl", "x": 1 });
        change(&mut own, &defaults, body.as_object().unwrap()).unwrap();
        let wanted =
            json!({ "sniRequire": "true", "cacheSize": 5, "caFile": "none", "tmOptions": ["no-dtls", "no-ssl"] });
        assert_eq!(Value::Object(own.clone()), wanted);
        for wrong in [json!({ "cacheSize": "many" }), json!({ "ciphers": ["DEFAULT"] }), json!({ "tmOptions": 3 })] {
            let refusal = change(&mut own, &defaults, wrong.as_object().unwrap()).unwrap_err();
            assert!(refusal.message.starts_with("invalid property value"), "{}", refusal.message);
        }
    }
}
