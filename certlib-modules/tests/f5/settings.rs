//! Settings that cannot be right are refused by name, without looking at the unit.

use certlib_core::error::ErrorClass;
use serde_json::{Value, json};

use crate::common::Subject;

fn check(config: Value, location: Value, credentials: Value) -> certlib_core::Result<()> {
    let subject = Subject::new("f5", config, location, Some(credentials));
    subject.module.check(&subject.target)
}

fn login() -> Value {
    json!({ "username": "certlib", "password": "a-password" })
}

fn location() -> Value {
    json!({ "url": "https://bigip.example.com", "profiles": [{ "name": "/Common/shop" }] })
}

#[test]
fn what_makes_sense_is_taken() {
    check(json!({}), location(), login()).unwrap();
    let config = json!({
        "auth": { "method": "token", "provider": "ldap", "token_lifetime_s": 36_000 },
        "endpoints": [{ "host": "shop.example.com" }],
        "sync_group": "/Common/failover_group",
        "name_prefix": "acme-1",
    });
    let location = json!({
        "url": "https://bigip.example.com:8443",
        "profiles": [
            { "name": "/Tenant/app/shop", "entry": "rsa" },
            { "name": "/Tenant/app/shop", "kind": "server-ssl" },
        ],
        "folder": "/Common",
    });
    check(config, location, login()).unwrap();
}

#[test]
fn bad_configurations() {
    let table = [
        (json!({ "name_prefix": "" }), "prefix_invalid"),
        (json!({ "name_prefix": "1abc" }), "prefix_invalid"),
        (json!({ "name_prefix": "a_b" }), "prefix_invalid"),
        (json!({ "name_prefix": "a".repeat(21) }), "prefix_invalid"),
        (json!({ "auth": { "provider": "" } }), "provider_invalid"),
        (json!({ "auth": { "provider": "a b" } }), "provider_invalid"),
        (json!({ "auth": { "token_lifetime_s": 0 } }), "token_lifetime_invalid"),
        (json!({ "auth": { "token_lifetime_s": 36_001 } }), "token_lifetime_invalid"),
        (json!({ "auth": { "method": "cookie" } }), "config_invalid"),
        (json!({ "sync_group": "" }), "sync_group_invalid"),
        (json!({ "sync_group": "x; reboot" }), "sync_group_invalid"),
        (json!({ "sync_group": "-x" }), "sync_group_invalid"),
        (json!({ "tries": 0 }), "tries_invalid"),
        (json!({ "tries": 21 }), "tries_invalid"),
        (json!({ "delay_ms": 600_001 }), "timeout_invalid"),
        (json!({ "sync_wait_ms": 600_001 }), "timeout_invalid"),
        (json!({ "connection": { "timeouts": { "total_ms": 0 } } }), "timeout_invalid"),
        (json!({ "connection": { "tls": { "ca_pem": "x" } } }), "ca_invalid"),
        (json!({ "connection": { "tls": { "insecure_skip_verify": true } } }), "insecure_not_acknowledged"),
        (json!({ "connection": { "verify": false } }), "config_invalid"),
        (json!({ "endpoints": [{ "host": "" }] }), "endpoint_invalid"),
        (json!({ "url": "https://elsewhere.example" }), "config_invalid"),
    ];
    for (config, code) in table {
        let error = check(config.clone(), location(), login()).unwrap_err();
        assert_eq!((error.code(), error.class()), (code, ErrorClass::Validation), "{config}");
    }
}

#[test]
fn bad_locations() {
    let profiles = |profiles: Value| json!({ "url": "https://bigip.example.com", "profiles": profiles });
    let many: Vec<Value> = (0..101).map(|number| json!({ "name": format!("/Common/p{number}") })).collect();
    let table = [
        (json!({}), "url_invalid"),
        (json!({ "url": "http://bigip.example.com", "profiles": [{ "name": "/Common/a" }] }), "url_invalid"),
        (json!({ "url": "https://127.0.0.1", "profiles": [{ "name": "/Common/a" }] }), "address_forbidden"),
        (profiles(json!([])), "profiles_invalid"),
        (profiles(json!(many)), "profiles_invalid"),
        (profiles(json!([{ "name": "shop" }])), "folder_invalid"),
        (profiles(json!([{ "name": "/Common/a" }, { "name": "shop" }])), "profile_invalid"),
        (profiles(json!([{ "name": "/Common/a" }, { "name": "/Common/a~b" }])), "profile_invalid"),
        (profiles(json!([{ "name": "/Common/a" }, { "name": "/Common/../a" }])), "profile_invalid"),
        (profiles(json!([{ "name": "/Common/a" }, { "name": "/Common/a" }])), "profile_duplicate"),
        (profiles(json!([{ "name": "/Common/a", "entry": "x y" }])), "entry_invalid"),
        (profiles(json!([{ "name": "/Common/a", "kind": "server-ssl", "entry": "x" }])), "entry_invalid"),
        (profiles(json!([{ "name": "/Common/a", "kind": "tcp" }])), "location_invalid"),
        (profiles(json!([{ "name": "/A/x" }, { "name": "/B/x" }])), "folder_unreachable"),
        (json!({ "url": "https://b.example", "profiles": [{ "name": "/A/x" }], "folder": "A" }), "folder_invalid"),
        (json!({ "url": "https://b.example", "profiles": [{ "name": "/A/x" }], "folder": "/B" }), "folder_unreachable"),
    ];
    for (location, code) in table {
        let error = check(json!({}), location.clone(), login()).unwrap_err();
        assert_eq!((error.code(), error.class()), (code, ErrorClass::Validation), "{location}");
    }
}

#[test]
fn bad_credentials() {
    let basic = json!({ "auth": { "method": "basic" } });
    for (config, credentials) in [
        (json!({}), json!({ "username": "", "password": "x" })),
        (json!({}), json!({ "username": "x", "password": "" })),
        (json!({}), json!({ "username": "x" })),
        (basic, json!({ "username": "a:b", "password": "x" })),
    ] {
        let error = check(config, location(), credentials).unwrap_err();
        assert_eq!((error.code(), error.class()), ("credentials_invalid", ErrorClass::Validation));
    }
    let without = Subject::new("f5", json!({}), location(), None);
    assert_eq!(without.module.check(&without.target).unwrap_err().code(), "credentials_invalid");
}
