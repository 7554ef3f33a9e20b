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
    vault.write("pki/roles/web", json!({ "no_store": true, "allow_any_name": true, "ttl": "1h" })).unwrap();
    let signed = vault.write("pki/sign/web", json!({ "csr": csr, "common_name": "a.example" })).unwrap();
    assert!(signed["certificate"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    assert!(vault.read("pki/cert/none").is_err() && vault.read("pki/roles/none").is_err());
    let (status, _) = ask(&vault, "LIST", "pki/certs", vault.root_token(), Value::Null).await;
    assert_eq!(status, 404, "nothing was kept");
}

/// A mount with an issuer below a root, and a role for `shop.example`.
async fn with_role(more: Value) -> (VaultSim, TestCa) {
    let vault = VaultSim::start().await.unwrap();
    let root = TestCa::new("root").unwrap();
    let issuer = root.intermediate("issuing").unwrap();
    vault.write("sys/mounts/pki", json!({ "type": "pki" })).unwrap();
    let pem = format!("{}{}{}", issuer.certificate_pem(), issuer.key_pem(), root.certificate_pem());
    vault.write("pki/issuers/import/bundle", json!({ "pem_bundle": pem })).unwrap();
    let mut role = json!({ "allowed_domains": "shop.example", "allow_subdomains": true, "max_ttl": "24h" });
    role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    vault.write("pki/roles/web", role).unwrap();
    (vault, root)
}

#[tokio::test]
async fn a_request_is_taken_as_the_role_says() {
    let (vault, _) = with_role(json!({})).await;
    let mut params = rcgen::CertificateParams::new(vec!["a.shop.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let sign = |fields: Value| {
        let mut body = json!({ "csr": csr, "exclude_cn_from_sans": true });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        vault.write("pki/sign/web", body)
    };
    let names = |signed: &Value| {
        let der = pem::parse(signed["certificate"].as_str().unwrap()).unwrap().into_contents();
        let (_, read) = x509_parser::parse_x509_certificate(&der).unwrap();
        read.subject_alternative_name().unwrap().unwrap().value.general_names.len()
    };
    assert!(sign(json!({})).unwrap_err().to_string().contains("common_name field is required"));
    let signed = sign(json!({ "common_name": "b.shop.example", "alt_names": "c.shop.example" })).unwrap();
    assert_eq!(names(&signed), 2, "by itself a role takes the names from the request");
    assert_eq!(signed["ca_chain"].as_array().unwrap().len(), 2);
    let signed = sign(json!({ "common_name": "b.shop.example", "remove_roots_from_chain": true })).unwrap();
    assert_eq!(signed["ca_chain"], json!([signed["issuing_ca"]]));
    let refused = sign(json!({ "common_name": "b.other.example" })).unwrap_err().to_string();
    assert!(refused.contains("common name b.other.example not allowed by this role"), "{refused}");

    let role =
        json!({ "allowed_domains": "other.example", "allow_subdomains": true, "use_csr_sans": false, "ttl": "1h" });
    vault.write("pki/roles/web", role).unwrap();
    let fields = json!({ "common_name": "b.other.example", "alt_names": "c.other.example,d.other.example" });
    assert_eq!(names(&sign(fields).unwrap()), 2, "or from the fields");
    vault.write("pki/roles/web", json!({ "allow_any_name": true, "allow_ip_sans": false, "ttl": "1h" })).unwrap();
    assert!(sign(json!({ "common_name": "b.other.example" })).unwrap_err().to_string().contains("IP Subject"));
}

#[tokio::test]
async fn what_is_too_long_is_shortened_by_the_role_and_refused_beyond_the_issuer() {
    let (vault, _) = with_role(json!({})).await;
    let root = vault.root_token().to_owned();
    let issue = async |path: &str, ttl: &str| {
        ask(&vault, "POST", path, &root, json!({ "common_name": "a.shop.example", "ttl": ttl })).await
    };
    let (status, answer) = issue("pki/issue/web", "72h").await;
    assert!(status == 200 && answer["warnings"][0].as_str().unwrap().contains("maxTTL is being used"), "{answer}");
    let lasts = answer["data"]["expiration"].as_i64().unwrap() - time::OffsetDateTime::now_utc().unix_timestamp();
    assert!((86_300..=86_400).contains(&lasts), "{lasts}");
    vault.write("pki/roles/long", json!({ "allow_any_name": true, "max_ttl": "9000h" })).unwrap();
    let (status, answer) = issue("pki/issue/long", "8000h").await;
    assert!(status == 400 && answer["errors"][0].as_str().unwrap().contains("beyond the expiration"), "{answer}");
    let (status, _) = issue("pki/issuer/default/issue/long", "1h").await;
    assert_eq!(status, 200);
    assert_eq!(issue("pki/issuer/none/issue/long", "1h").await.0, 500);
    assert_eq!(issue("pki/issue/none", "1h").await.0, 400);
    assert!(vault.write("pki/roles/odd", json!({ "ttl": "2h", "max_ttl": "1h" })).is_err());
}

#[tokio::test]
async fn certificates_are_revoked_once_by_number_or_when_they_are_shown() {
    let (vault, _) = with_role(json!({})).await;
    let kept = vault.write("pki/issue/web", json!({ "common_name": "a.shop.example" })).unwrap();
    let number = kept["serial_number"].as_str().unwrap();
    assert_eq!(vault.read(&format!("pki/cert/{number}")).unwrap()["revocation_time"], 0);
    let first = vault.write("pki/revoke", json!({ "serial_number": number })).unwrap();
    vault.advance(Duration::from_secs(60));
    let again = vault.write("pki/revoke", json!({ "serial_number": number.to_uppercase().replace(':', "-") })).unwrap();
    assert_eq!((&first["state"], &first["revocation_time"]), (&json!("revoked"), &again["revocation_time"]));
    assert_eq!(vault.read(&format!("pki/cert/{number}")).unwrap()["revocation_time"], first["revocation_time"]);

    vault.write("pki/roles/web", json!({ "allow_any_name": true, "no_store": true, "ttl": "1h" })).unwrap();
    let lost = vault.write("pki/issue/web", json!({ "common_name": "a.shop.example" })).unwrap();
    let refused = vault.write("pki/revoke", json!({ "serial_number": lost["serial_number"] })).unwrap_err();
    assert!(refused.to_string().contains("not found"), "{refused}");
    vault.write("pki/revoke", json!({ "certificate": lost["certificate"] })).unwrap();
    assert_ne!(
        vault.read(&format!("pki/cert/{}", lost["serial_number"].as_str().unwrap())).unwrap()["revocation_time"],
        0
    );
    let stranger = TestCa::new("another").unwrap().issue(&["a.shop.example"]).unwrap().certificate_pem;
    for body in [
        json!({}),
        json!({ "certificate": stranger }),
        json!({ "certificate": "nonsense" }),
        json!({ "certificate": lost["certificate"], "serial_number": number }),
    ] {
        assert!(vault.write("pki/revoke", body).is_err());
    }
}
