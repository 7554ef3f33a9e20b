//! What `hvac` does not ask for: engines and logins beyond its methods.

use std::time::Duration;

use certlib_testkit::pki::TestCa;
use certlib_testkit::vault::VaultSim;
use serde_json::{Value, json};

use crate::ask;

#[tokio::test]
async fn versions_delete_themselves_by_the_clock_of_the_simulator() {
    let vault = VaultSim::start().await.unwrap();
    vault.write("sys/mounts/secret", json!({ "type": "kv", "options": { "version": "2" } })).unwrap();
    vault.write("secret/metadata/a", json!({ "delete_version_after": "1h" })).unwrap();
    vault.write("secret/data/a", json!({ "data": { "x": "1", "y": { "z": 2 } } })).unwrap();
    vault.advance(Duration::from_secs(3_599));
    assert_eq!(vault.read("secret/data/a").unwrap()["data"]["x"], "1");
    assert_eq!(vault.read("secret/subkeys/a").unwrap()["data"], json!({ "x": null, "y": null }));
    vault.advance(Duration::from_secs(2));
    let (status, body) = ask(&vault, "GET", "secret/data/a", vault.root_token(), Value::Null).await;
    assert_eq!((status, &body["data"]["data"], &body["data"]["metadata"]["version"]), (404, &Value::Null, &json!(1)));
    vault.write("secret/data/a", json!({ "data": {}, "options": { "cas": 1 } })).unwrap();
    assert_eq!(vault.patch("secret/data/a", json!({ "data": { "x": "2" } })).unwrap()["version"], 3);
}

#[tokio::test]
async fn requests_of_the_wrong_form_are_told_so() {
    let vault = VaultSim::start().await.unwrap();
    let root = vault.root_token().to_owned();
    for (path, version) in [("first", "1"), ("second", "2")] {
        vault.write(&format!("sys/mounts/{path}"), json!({ "type": "kv", "options": { "version": version } })).unwrap();
    }
    vault.write("second/data/a b", json!({ "data": { "x": "1" } })).unwrap();
    assert_eq!(ask(&vault, "GET", "second/data/a%20b", &root, Value::Null).await.0, 200);
    let (status, body) = ask(&vault, "PATCH", "second/data/a%20b", &root, json!({ "data": {} })).await;
    assert_eq!(status, 415, "{body}");
    let (status, body) = ask(&vault, "POST", "second/a", &root, json!({ "x": "1" })).await;
    assert!(status == 404 && body["warnings"][0].as_str().unwrap().contains("versioned"), "{body}");
    for body in [json!({}), json!({ "data": "x" }), json!({ "data": {}, "options": { "cas": "x" } })] {
        assert_eq!(ask(&vault, "POST", "second/data/new", &root, body).await.0, 400);
    }
    assert_eq!(ask(&vault, "POST", "second/delete/a%20b", &root, json!({})).await.0, 400);
    assert_eq!(ask(&vault, "DELETE", "second/destroy/a%20b", &root, Value::Null).await.0, 405);
    // The first version takes what looks like check-and-set for fields.
    vault.write("first/a", json!({ "options": { "cas": 7 }, "x": "1" })).unwrap();
    assert_eq!(vault.read("first/a").unwrap()["options"]["cas"], 7);
    for (path, kind) in [("first/a", "1"), ("second/data/a", "2")] {
        let found = vault.read(&format!("sys/internal/ui/mounts/{path}")).unwrap();
        assert_eq!(found["options"]["version"], kind);
    }
}

#[tokio::test]
async fn an_import_moves_the_default_issuer_only_where_it_is_told_to() {
    let vault = VaultSim::start().await.unwrap();
    vault.write("sys/mounts/pki", json!({ "type": "pki" })).unwrap();
    assert_eq!(vault.read("pki/config/issuers").unwrap()["default"], "");
    let import = |ca: &TestCa, key: bool| {
        let key = if key { ca.key_pem() } else { String::new() };
        let body = json!({ "pem_bundle": format!("{}{key}", ca.certificate_pem()) });
        vault.write("pki/issuers/import/bundle", body).unwrap()["imported_issuers"][0].clone()
    };
    let [first, second, third, fourth] = ["1", "2", "3", "4"].map(|name| TestCa::new(name).unwrap());
    let default = || vault.read("pki/config/issuers").unwrap()["default"].clone();
    let one = import(&first, true);
    assert_eq!(default(), one);
    import(&second, true);
    assert_eq!(default(), one);
    vault.write("pki/config/issuers", json!({ "default": one, "default_follows_latest_issuer": true })).unwrap();
    import(&third, false);
    assert_eq!(default(), one, "without a key it cannot issue");
    let four = import(&fourth, true);
    assert_eq!(default(), four);
    assert!(vault.write("pki/config/issuers", json!({ "default": "none" })).is_err());
    let csr = {
        let body = json!({ "common_name": "below" });
        vault.write("sys/mounts/below", json!({ "type": "pki" })).unwrap();
        vault.write("below/intermediate/generate/internal", body).unwrap()["csr"].clone()
    };
    vault.write("pki/roles/web", json!({ "no_store": true })).unwrap();
    let signed = vault.write("pki/sign/web", json!({ "csr": csr, "common_name": "a.example" })).unwrap();
    assert!(signed["certificate"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    assert!(vault.read("pki/cert/none").is_err() && vault.read("pki/roles/none").is_err());
    let (status, _) = ask(&vault, "LIST", "pki/certs", vault.root_token(), Value::Null).await;
    assert_eq!(status, 404, "nothing was kept");
}
