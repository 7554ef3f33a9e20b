//! Settings that make no sense are refused by code, before anything is sent.

use certlib_core::error::ErrorClass;
use serde_json::{Value, json};

use crate::Case;

#[tokio::test]
async fn bad_settings() {
    let table: [(&str, &str, Value, &str); 21] = [
        ("location", "region", json!("CN North"), "region_invalid"),
        ("location", "region", json!("cn-north-4.evil.example"), "region_invalid"),
        ("location", "project_id", json!("a/b"), "id_invalid"),
        ("location", "project_id", json!(""), "id_invalid"),
        ("location", "enterprise_project_id", json!("a b"), "id_invalid"),
        ("location", "resource", json!({"service": "elb", "listener_id": "../x"}), "id_invalid"),
        ("location", "resource", json!({"service": "waf", "host_id": ""}), "id_invalid"),
        ("location", "resource", json!({"service": "cdn", "domain": "a/b.example"}), "domain_invalid"),
        ("location", "resource", json!({"service": "obs"}), "location_invalid"),
        ("location", "resource", json!({"service": "scm", "domain": "a.example"}), "location_invalid"),
        ("location", "urls", json!({"elb": "ftp://elb.example"}), "url_invalid"),
        ("location", "urls", json!({"scm": "https://169.254.169.254"}), "address_forbidden"),
        ("location", "urls", json!({"obs": "https://obs.example"}), "location_invalid"),
        ("config", "name_prefix", json!("with space"), "name_prefix_invalid"),
        ("config", "name_prefix", json!(""), "name_prefix_invalid"),
        ("config", "name_prefix", json!("a".repeat(31)), "name_prefix_invalid"),
        ("config", "tries", json!(0), "retry_invalid"),
        ("config", "busy_delay_ms", json!(0), "retry_invalid"),
        ("config", "endpoints", json!([{"host": ""}]), "endpoint_invalid"),
        ("config", "connection", json!({"tls": {"insecure_skip_verify": true}}), "insecure_not_acknowledged"),
        ("config", "connection", json!({"timeouts": {"total_ms": 0}}), "timeout_invalid"),
    ];
    for (part, field, value, code) in table {
        let mut case = Case::new(&["shop.example.com"]).await;
        if code == "insecure_not_acknowledged" || code == "timeout_invalid" {
            case.location("urls", json!({}));
        }
        match part {
            "location" => case.location(field, value.clone()),
            _ => case.config(field, value.clone()),
        }
        let error = case.module.check(&case.target).unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Validation, code), "{part}.{field} {value}");
    }
}

#[tokio::test]
async fn bad_credentials() {
    let mut case = Case::new(&["shop.example.com"]).await;
    let long = "x".repeat(20_000);
    for value in [
        json!(null),
        json!({}),
        json!({"access_key": "canary"}),
        json!({"access_key": "", "secret_key": "canary"}),
        json!({"access_key": "a", "secret_key": ""}),
        json!({"access_key": "canary, SignedHeaders=x", "secret_key": "s"}),
        json!({"access_key": "a", "secret_key": "canary\n"}),
        json!({"access_key": "a", "secret_key": "s", "security_token": "canary\r\nx: y"}),
        json!({"access_key": "a", "secret_key": "s", "security_token": long}),
        json!({"access_key": 7, "secret_key": "canary"}),
        json!({"access_key": "a", "secret_key": "s", "password": "canary"}),
    ] {
        case.credentials(value.clone());
        let error = case.module.check(&case.target).unwrap_err();
        assert_eq!(error.code(), "credentials_invalid", "{value}");
        assert!(!format!("{error:?}").contains("canary"));
    }
}
