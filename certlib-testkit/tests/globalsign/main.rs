//! The simulated account of GlobalSign Atlas, seen by a plain HTTP client.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod claims;
mod faults;
mod inventory;
mod support;

use std::time::Duration;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use certlib_testkit::{
    globalsign::{Course, GlobalSignSim},
    pki::{Flaw, TestCa},
};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::support::{JSON, Session, body, has_key, http, now, read};

#[tokio::test]
async fn a_certificate_and_a_token_are_needed() {
    let ca = GlobalSignSim::start().await.unwrap();
    let url = format!("{}/trustchain", ca.url());
    let stranger = TestCa::new("other").unwrap().issue_client("stranger").unwrap();
    for client in [http(&ca, None), http(&ca, Some(&stranger))] {
        let error = client.get(&url).send().await.unwrap_err();
        assert!(error.is_connect() || error.is_request(), "{error:?}");
    }
    assert!(ca.history().is_empty(), "the handshake fails");

    let mut session = Session::new(&ca).await;
    assert_eq!(session.ask("GET", "trustchain", Value::Null).await.0, 200);
    for (key, secret) in [(ca.api_key(), "wrong"), ("wrong", ca.api_secret())] {
        let login = json!({ "api_key": key, "api_secret": secret });
        assert_eq!(session.ask("POST", "login", login).await.0, 401);
    }
    ca.advance(Duration::from_secs(599));
    assert_eq!(session.ask("GET", "trustchain", Value::Null).await.0, 200);
    ca.advance(Duration::from_secs(2));
    assert_eq!(session.ask("GET", "trustchain", Value::Null).await.0, 401);
    session.token = session.login().await;
    assert_eq!(session.ask("GET", "trustchain", Value::Null).await.0, 200);
    ca.expire_tokens();
    assert_eq!(session.ask("GET", "trustchain", Value::Null).await.0, 401);
    let shown = format!("{ca:?} {:?}", ca.history());
    assert!(!shown.contains(ca.api_secret()) && !shown.contains(&session.token));
}

#[tokio::test]
async fn a_certificate_is_asked_for_awaited_and_revoked() {
    let ca = GlobalSignSim::start().await.unwrap();
    let session = Session::new(&ca).await;
    ca.set_course(Course::default().pending(2));
    let names = ["a.example.com", "*.b.example.com"];
    let (key, mut request) = body(now(), &names);
    request["san"]["ip_addresses"] = json!(["192.0.2.1"]);
    let serial = session.request(&request).await;
    assert!(serial.chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase()), "{serial}");
    let path = format!("certificates/{serial}");
    for _ in 0..2 {
        assert_eq!(session.ask("GET", &path, Value::Null).await, (202, Value::Null));
    }
    let (status, found) = session.ask("GET", &path, Value::Null).await;
    assert_eq!((status, &found["status"]), (200, &json!("ISSUED")));
    let pem = found["certificate"].as_str().unwrap();
    assert!(has_key(pem, &key));
    let der = pem::parse(pem).unwrap().into_contents();
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    // DER has a zero in front of numbers whose first bit is set.
    let shown = leaf.raw_serial_as_string().replace(':', "").to_uppercase();
    assert_eq!(shown.strip_prefix("00").unwrap_or(&shown), serial);
    let seen = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.len();
    assert_eq!(
        (seen, leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp()),
        (3, 90 * 86_400)
    );

    let (_, chain) = session.ask("GET", "trustchain", Value::Null).await;
    let chain: Vec<_> =
        chain.as_array().unwrap().iter().map(|pem| pem::parse(pem.as_str().unwrap()).unwrap()).collect();
    let (_, issuer) = X509Certificate::from_der(chain[0].contents()).unwrap();
    let (_, root) = X509Certificate::from_der(chain[1].contents()).unwrap();
    leaf.verify_signature(Some(issuer.public_key())).unwrap();
    issuer.verify_signature(Some(root.public_key())).unwrap();

    let revocation = |reason: &str| json!({ "revocation_reason": reason, "revocation_time": now() });
    assert_eq!(session.ask("PATCH", &path, revocation("boredom")).await.0, 422);
    assert_eq!(session.ask("PATCH", &path.to_lowercase(), revocation("superseded")).await.0, 204);
    assert_eq!(session.ask("GET", &path, Value::Null).await.1["status"], "REVOKED");
    assert_eq!(session.ask("PATCH", &path, revocation("superseded")).await.0, 422);
    assert_eq!(ca.certificates()[0].revocation_reason.as_deref(), Some("superseded"));
    assert_eq!(session.ask("GET", "certificates/00", Value::Null).await.0, 404);

    ca.set_course(Course::default().pending(1).lost());
    let path = format!("certificates/{}", session.request(&body(now(), &names).1).await);
    let statuses = [session.ask("GET", &path, Value::Null).await.0, session.ask("GET", &path, Value::Null).await.0];
    assert_eq!(statuses, [202, 404]);
}

#[tokio::test]
async fn the_content_type_is_exact() {
    let ca = GlobalSignSim::start().await.unwrap();
    let session = Session::new(&ca).await;
    let (_, request) = body(now(), &["a.example.com"]);
    for content_type in ["application/json", "application/json; charset=utf-8", "application/json;charset=UTF-8"] {
        let answer = session.send("POST", "certificates", &request, content_type).await.unwrap();
        assert_eq!(answer.status().as_u16(), 415, "{content_type}");
    }
    assert_eq!(session.send("POST", "certificates", &request, JSON).await.unwrap().status().as_u16(), 201);
    assert_eq!(session.ask("POST", "certificates", json!([1])).await.0, 400);
}

#[tokio::test]
async fn the_policy_decides() {
    let ca = GlobalSignSim::start().await.unwrap();
    let session = Session::new(&ca).await;
    assert_eq!(session.ask("GET", "validationpolicy", Value::Null).await, (200, GlobalSignSim::default_policy()));
    let (_, good) = body(now(), &["a.example.com"]);
    let changes: [(&str, &str, Value, u16); 9] = [
        ("/subject_dn", "organization", json!("Mine"), 422),
        ("/subject_dn", "email", json!("a@example.com"), 422),
        ("/san", "dns_names", json!([]), 422),
        ("", "extended_key_usages", json!([]), 422),
        ("", "custom_extensions", json!({}), 422),
        ("", "public_key_signature", json!("AAAA"), 422),
        ("", "public_key", json!("hello"), 422),
        ("/validity", "not_after", json!(now() + 60), 422),
        ("/validity", "not_before", json!("soon"), 400),
    ];
    for (owner, name, value, wanted) in changes {
        let mut request = good.clone();
        request.pointer_mut(owner).unwrap()[name] = value;
        let (status, answer) = session.ask("POST", "certificates", request).await;
        assert_eq!(status, wanted, "{name}");
        assert!(answer["description"].as_str().unwrap().contains(name.trim_end_matches("_signature")), "{answer}");
    }
    let mut longest = good.clone();
    longest["validity"]["not_after"] = json!(0);
    let serial = session.request(&longest).await;
    let (_, stats) = session.ask("GET", "stats/issued", Value::Null).await;
    let found = stats.as_array().unwrap().iter().find(|item| item["serial_number"] == serial.as_str()).unwrap();
    assert_eq!(found["not_after"].as_i64().unwrap() - found["not_before"].as_i64().unwrap(), 17_280_000);

    let mut policy = GlobalSignSim::default_policy();
    policy["public_key"]["key_type"] = json!("RSA");
    policy["public_key"]["allowed_lengths"] = json!([2048]);
    ca.set_policy(policy);
    assert_eq!(session.ask("POST", "certificates", good).await.0, 422, "another type of key");
}

#[tokio::test]
async fn a_public_key_comes_with_a_proof() {
    let mut policy = GlobalSignSim::default_policy();
    policy["public_key"]["key_format"] = json!("PKCS8");
    policy["public_key_signature"] = json!("REQUIRED");
    let ca = GlobalSignSim::builder().policy(policy).start().await.unwrap();
    let session = Session::new(&ca).await;
    let (_, mut request) = body(now(), &["a.example.com"]);
    assert_eq!(session.ask("POST", "certificates", request.clone()).await.0, 422, "a request for PKCS#10");

    let key = KeyPair::generate().unwrap();
    let spki = key.subject_public_key_info();
    let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key.serialize_der()).unwrap();
    let signature = signer.sign(&SystemRandom::new(), &spki).unwrap();
    let text = pem::encode_config(
        &pem::Pem::new("PUBLIC KEY", spki),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    );
    request["public_key_signature"] = json!(STANDARD.encode(signature));
    request["public_key"] = json!(text);
    assert_eq!(session.ask("POST", "certificates", request.clone()).await.0, 422, "a line feed at the end");
    request["public_key"] = json!(text.trim_end());
    let serial = session.request(&request).await;
    let (_, found) = session.ask("GET", &format!("certificates/{serial}"), Value::Null).await;
    assert!(has_key(found["certificate"].as_str().unwrap(), &key));
    let other = signer.sign(&SystemRandom::new(), b"something else").unwrap();
    request["public_key_signature"] = json!(STANDARD.encode(other));
    assert_eq!(session.ask("POST", "certificates", request).await.0, 422, "a wrong proof");
}

#[tokio::test]
async fn wrong_certificates() {
    let ca = GlobalSignSim::start().await.unwrap();
    let session = Session::new(&ca).await;
    for flaw in [Flaw::OtherKey, Flaw::OtherNames, Flaw::Expired] {
        ca.set_course(Course::default().flawed(flaw));
        let (key, request) = body(now(), &["a.example.com"]);
        let serial = session.request(&request).await;
        let (_, found) = session.ask("GET", &format!("certificates/{serial}"), Value::Null).await;
        let pem = found["certificate"].as_str().unwrap();
        let der = pem::parse(pem).unwrap().into_contents();
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        let named = format!("{:?}", leaf.subject_alternative_name().unwrap().unwrap().value).contains("a.example.com");
        let good = [has_key(pem, &key), named, leaf.validity().not_after.timestamp() > now()];
        let bad = [Flaw::OtherKey, Flaw::OtherNames, Flaw::Expired].map(|known| known == flaw);
        assert_eq!(good.map(|good| !good), bad, "{flaw:?}");
    }
}

#[tokio::test]
async fn an_account_may_be_there_for_reading_only() {
    let ca = GlobalSignSim::start().await.unwrap();
    let session = Session::new(&ca).await;
    ca.set_read_only(true);
    assert_eq!(session.ask("POST", "certificates", body(now(), &["a.example.com"]).1).await.0, 403);
    assert_eq!(session.ask("GET", "validationpolicy", Value::Null).await.0, 200);
    let answer = session.client.get(format!("{}/nothing", ca.url())).bearer_auth(&session.token).send().await.unwrap();
    assert_eq!(read(answer).await.0, 404);
}
