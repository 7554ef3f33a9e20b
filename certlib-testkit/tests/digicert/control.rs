//! Control over domains.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use certlib_testkit::digicert::{DigiCertSim, Proof};
use serde_json::{Value, json};

use crate::support::{ask, code, order, place, read, request};

#[tokio::test]
async fn an_order_waits_for_its_token() {
    let ca = DigiCertSim::builder().plain_http().unvalidated_domains().start().await.unwrap();
    let names = ["a.example.com", "b.example.com"];
    let (_, csr) = request(&names);
    let mut body = order(&csr, &names);
    body["dcv_method"] = json!("dns-txt-token");
    let (_, placed) = ask(&ca, "POST", "order/certificate/ssl_dv_geotrust", body).await;
    let id = placed["id"].as_u64().unwrap();
    let value = placed["dcv_random_value"].as_str().unwrap();
    let shown = read(&ca, id).await;
    assert_eq!((&shown["status"], &shown["dcv_random_value"]), (&json!("pending"), &json!(value)));
    let check = format!("order/certificate/{id}/check-dcv");
    assert_eq!(code(&ask(&ca, "PUT", &check, json!({})).await), (400, "invalid_dns_txt"));

    let (_, changed) =
        ask(&ca, "PUT", &format!("order/certificate/{id}/dcv-method"), json!({ "dcv_method": "http-token" })).await;
    assert_ne!(changed["dcv_random_value"], json!(value), "another method, another value");
    assert_eq!(code(&ask(&ca, "PUT", &check, json!({})).await), (400, "file_random_value_not_found"));
    let (_, same) = ask(&ca, "PUT", &format!("order/certificate/{id}/dcv-random-value"), json!({})).await;
    assert_eq!(same["dcv_random_value"], changed["dcv_random_value"]);
    ca.publish(value);
    assert_eq!(ask(&ca, "PUT", &check, json!({})).await.0, 400, "the former value is worth nothing");
    ca.publish(changed["dcv_random_value"].as_str().unwrap());
    let (status, checked) = ask(&ca, "PUT", &check, json!({})).await;
    assert_eq!((status, &checked["dcv_status"], &checked["order_status"]), (200, &json!("valid"), &json!("issued")));
    assert_eq!(read(&ca, id).await["certificate"]["id"], checked["certificate_id"]);
    assert_eq!(place(&ca, "x.a.example.com").await.1["certificate_chain"].as_array().map(Vec::len), Some(3), "reused");
    assert_eq!(place(&ca, "example.com").await.1["certificate_chain"], Value::Null, "but not above");
}

#[tokio::test]
async fn a_witness_sees_some_names_and_values_end() {
    let ca = DigiCertSim::builder().plain_http().unvalidated_domains().start().await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::<Proof>::new()));
    let kept = Arc::clone(&seen);
    ca.watch(move |proof| {
        kept.lock().unwrap().push(proof.clone());
        proof.domain == "b.example.com"
    });
    let names = ["*.a.example.com", "b.example.com"];
    let (_, csr) = request(&names);
    let mut body = order(&csr, &names);
    body["dcv_method"] = json!("dns-cname-token");
    let (_, placed) = ask(&ca, "POST", "order/certificate/ssl_basic", body).await;
    let check = format!("order/certificate/{}/check-dcv", placed["id"]);
    let (status, checked) = ask(&ca, "PUT", &check, json!({})).await;
    assert_eq!((status, &checked["dcv_status"], &checked["order_status"]), (200, &json!("pending"), &json!("pending")));
    let domains: Vec<_> = seen.lock().unwrap().iter().map(|proof| proof.domain.clone()).collect();
    assert_eq!(domains, ["a.example.com", "b.example.com"]);
    assert_eq!(code(&ask(&ca, "PUT", &check, json!({})).await), (400, "invalid_dns_cname"));
    ca.watch(|_| true);
    ca.advance(Duration::from_secs(31 * 24 * 3_600));
    assert_eq!(ask(&ca, "PUT", &check, json!({})).await.0, 400, "the value has expired");
    let renew = format!("order/certificate/{}/dcv-random-value", placed["id"]);
    assert_eq!(ask(&ca, "PUT", &renew, json!({})).await.0, 200);
    assert_eq!(ask(&ca, "PUT", &check, json!({})).await.1["order_status"], "issued");
}

#[tokio::test]
async fn domains_and_organizations_are_validated_ahead() {
    let ca = DigiCertSim::builder()
        .plain_http()
        .unvalidated_domains()
        .organization(7, "Other", false)
        .start()
        .await
        .unwrap();
    let new = json!({ "name": "example.com", "organization": { "id": 7 }, "dcv_method": "dns-txt-token" });
    let (status, made) = ask(&ca, "POST", "domain", new.clone()).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(code(&ask(&ca, "POST", "domain", new).await), (400, "domain_already_exists"));
    let path = format!("domain/{}", made["id"]);
    let validate = format!("{path}/dcv/validate-token");
    assert_eq!(code(&ask(&ca, "PUT", &validate, json!({})).await), (400, "invalid_dns_txt"));
    let (_, other) = ask(&ca, "PUT", &format!("{path}/dcv/method"), json!({ "dcv_method": "dns-cname-token" })).await;
    assert_eq!(other["dcv_token"]["verification_value"], "dcv.digicert.com");
    ca.publish(other["dcv_token"]["token"].as_str().unwrap());
    assert_eq!(ask(&ca, "PUT", &validate, json!({})).await.0, 204);
    let (_, shown) = ask(&ca, "GET", &format!("{path}?include_dcv=true"), Value::Null).await;
    assert_eq!((&shown["status"], &shown["dcv_token"]["status"]), (&json!("active"), &json!("valid")));
    assert_eq!(ask(&ca, "GET", "domain", Value::Null).await.1["domains"].as_array().unwrap().len(), 1);

    let (_, csr) = request(&["a.example.com"]);
    let mut body = order(&csr, &["a.example.com"]);
    body["organization"]["id"] = json!(7);
    let (_, placed) = ask(&ca, "POST", "order/certificate/ssl_basic", body).await;
    let id = placed["id"].as_u64().unwrap();
    assert_eq!(read(&ca, id).await["status"], "pending", "its organization is not validated");
    ca.set_organization_validated(7, true);
    assert_eq!(read(&ca, id).await["status"], "issued");
    ca.advance(Duration::from_secs(201 * 24 * 3_600));
    assert_eq!(place(&ca, "b.example.com").await.1["certificate_chain"], Value::Null, "validations end");
    ca.validate_domain("example.com");
    assert_eq!(place(&ca, "b.example.com").await.1["certificate_chain"].as_array().map(Vec::len), Some(3));
}
