//! Settings that make no sense are refused by name, without a connection.

use certlib_core::Secret;
use certlib_core::error::ErrorClass;
use certlib_core::module::TargetSpec;
use serde_json::{Value, json};

use crate::support::Server;

fn code(config: Value, location: Value, credentials: Value) -> String {
    let mut whole = json!({"url": "https://vault.example.com:8200", "mount": "secret", "path": "tls/shop"});
    whole.as_object_mut().unwrap().extend(location.as_object().unwrap().clone());
    let credentials = Some(Secret::new(credentials.to_string()));
    let target = TargetSpec::new("t-1", "shop", config, whole, credentials);
    match certlib_modules::registry().unwrap().module("vault").unwrap().check(&target) {
        Ok(()) => "good".to_owned(),
        Err(error) => {
            assert_eq!(error.class(), ErrorClass::Validation, "{error:?}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
            error.code().to_owned()
        }
    }
}

#[test]
fn settings_are_checked_by_name() {
    let token = || json!({"method": "token", "token": "hvs.canary"});
    let table = [
        (json!({}), json!({}), "good"),
        (json!({}), json!({"namespace": "team/a"}), "good"),
        (json!({}), json!({"kind": "kv1"}), "good"),
        (json!({}), json!({"kind": "pki", "path": ""}), "good"),
        (json!({}), json!({"kind": "pki"}), "location_invalid"),
        (json!({}), json!({"kind": "cubbyhole"}), "location_invalid"),
        (json!({}), json!({"path": "../sys/seal"}), "location_invalid"),
        (json!({}), json!({"path": ""}), "location_invalid"),
        (json!({}), json!({"mount": ""}), "location_invalid"),
        (json!({}), json!({"mount": 5}), "location_invalid"),
        (json!({}), json!({"namespace": "a\r\nb"}), "location_invalid"),
        (json!({}), json!({"url": "http://vault.example.com"}), "url_invalid"),
        (json!({}), json!({"url": "https://user:canary@vault.example.com"}), "url_invalid"),
        (json!({}), json!({"url": "https://169.254.169.254"}), "address_forbidden"),
        (json!({"connection": {"allow_http": true}}), json!({"url": "http://vault.example.com"}), "key_needs_https"),
        (json!({"connection": {"tls": {"insecure_skip_verify": true}}}), json!({}), "insecure_not_acknowledged"),
        (json!({"connection": {"tls": {"ca_pem": "nonsense"}}}), json!({}), "ca_invalid"),
        (json!({"connection": {"timeouts": {"total_ms": 0}}}), json!({}), "timeout_invalid"),
        (json!({"fields": {"certificate": "x", "chain": "x"}}), json!({}), "config_invalid"),
        (json!({"fields": {"certificate": null, "fullchain": null}}), json!({}), "config_invalid"),
        (json!({"fields": {"certifcate": "x"}}), json!({}), "config_invalid"),
        (json!({"pki_rollback": "always"}), json!({}), "config_invalid"),
        (json!({"endpoints": [{"host": ""}]}), json!({}), "endpoint_invalid"),
    ];
    for (config, location, expected) in table {
        assert_eq!(code(config.clone(), location.clone(), token()), expected, "{config} {location}");
    }
    for login in [
        json!({"method": "token"}),
        json!({"method": "token", "token": "canary\n"}),
        json!({"method": "userpass", "password": "canary"}),
        json!({"method": "approle", "role_id": "r", "secret_id": 424_242}),
        json!({"method": "approle", "role_id": "r", "secret": "canary"}),
        json!({"method": "jwt", "role": "r"}),
        json!({"token": "canary"}),
        json!(null),
    ] {
        assert_eq!(code(json!({}), json!({}), login.clone()), "credentials_invalid", "{login}");
    }
    let identity = json!({"certificate_pem": "canary", "private_key_pem": "canary"});
    let login = json!({"method": "cert", "identity": identity});
    assert_eq!(code(json!({}), json!({}), login), "identity_invalid");
}

#[tokio::test]
async fn mounts_are_what_the_settings_say() {
    let [bundle] = crate::support::bundles();
    for (kind, engine, expected) in [
        ("kv", "kv1", "good"),
        ("kv", "kv2", "good"),
        ("kv1", "kv1", "good"),
        ("kv2", "kv2", "good"),
        ("kv1", "kv2", "mount_kind"),
        ("kv2", "kv1", "mount_kind"),
        ("kv", "transit", "mount_kind"),
        ("pki", "transit", "mount_kind"),
    ] {
        let server = Server::any(engine).await;
        let path = if kind == "pki" { "" } else { "tls/shop" };
        let subject = server.subject_with(json!({}), json!({"kind": kind, "path": path}), server.token());
        let found = subject.plan(&bundle).await.map_or_else(|error| error.code().to_owned(), |_| "good".to_owned());
        assert_eq!(found, expected, "{kind} at {engine}");
    }
    let server = Server::any("kv2").await;
    for mount in ["nowhere".to_owned(), format!("{}/below", server.mount)] {
        let subject = server.subject_with(json!({}), json!({"mount": mount}), server.token());
        assert_eq!(subject.plan(&bundle).await.unwrap_err().code(), "mount_unknown", "{mount}");
    }
}
