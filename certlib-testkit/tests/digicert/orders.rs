//! The life of orders.

use std::time::Duration;

use certlib_testkit::{
    digicert::{Approvals, Course, DigiCertSim, KeyRole},
    pki::Flaw,
    tls,
};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::support::{ask, code, has_key, order, place, read, request, send, with};

#[tokio::test]
async fn an_order_is_issued_at_once_and_can_be_downloaded() {
    let ca = DigiCertSim::builder().plain_http().start().await.unwrap();
    let names = ["shop.example.com", "www.example.com"];
    let (key, csr) = request(&names);
    let (status, placed) = ask(&ca, "POST", "order/certificate/ssl_multi_domain", order(&csr, &names)).await;
    assert_eq!(status, 201, "{placed}");
    assert_eq!(placed["requests"][0]["status"], "approved");
    let shown = read(&ca, placed["id"].as_u64().unwrap()).await;
    assert_eq!((&shown["status"], &shown["certificate"]["id"]), (&json!("issued"), &placed["certificate_id"]));
    assert_eq!(shown["certificate"]["dns_names"], json!(names));
    assert_eq!(shown["certificate"]["csr"], json!(csr));
    assert_eq!(shown["certificate"]["key_size"], 256);
    assert_eq!(shown["certificate"]["days_remaining"].as_i64().map(|days| (197..=199).contains(&days)), Some(true));

    let id = &placed["certificate_id"];
    let download = async |format: &str| {
        let path = format!("certificate/{id}/download/format/{format}");
        send(&ca, ca.api_key(), "GET", &path, &Value::Null).await.unwrap().text().await.unwrap()
    };
    for (format, certificates) in [("pem_all", 3), ("pem_noroot", 2), ("pem_nointermediate", 1)] {
        let text = download(format).await;
        assert_eq!(text.matches("-----BEGIN CERTIFICATE-----\r\n").count(), certificates, "{format}");
        assert!(has_key(&text, &key), "the leaf comes first");
    }
    assert!(download("pem_all").await.replace("\r\n", "\n").ends_with(ca.root_pem()));
    let p7b = pem::parse(download("p7b").await).unwrap();
    let leaf = pem::parse(download("pem_nointermediate").await).unwrap().into_contents();
    assert!(p7b.tag() == "PKCS7" && p7b.contents().windows(leaf.len()).any(|part| part == leaf));
    let (_, chain) = ask(&ca, "GET", &format!("certificate/{id}/chain"), Value::Null).await;
    assert_eq!(chain["intermediates"].as_array().map(Vec::len), Some(1));
    assert_eq!(code(&ask(&ca, "GET", &format!("certificate/{id}/download/format/apache"), Value::Null).await).0, 400);

    for name in ["serial_number", "thumbprint"] {
        let name = shown["certificate"][name].as_str().unwrap();
        let (status, found) = ask(&ca, "GET", &format!("order/certificate/{}", name.to_lowercase()), Value::Null).await;
        assert_eq!((status, &found["id"]), (200, &placed["id"]));
    }
}

#[tokio::test]
async fn looks_pass_until_it_ends() {
    let ca = DigiCertSim::builder().plain_http().start().await.unwrap();
    for (course, end) in [
        (Course::default(), "issued"),
        (Course::default().rejected(), "rejected"),
        (Course::default().canceled(), "canceled"),
    ] {
        ca.set_course(course.pending(2).shown_as("processing"));
        let (id, placed) = place(&ca, "a.example.com").await;
        assert_eq!(placed["certificate_chain"], Value::Null);
        assert_eq!(read(&ca, id).await["status"], "processing");
        let second = read(&ca, id).await;
        assert_eq!(second["status"], "processing");
        let path = format!("certificate/{}/download/format/pem_noroot", second["certificate"]["id"]);
        assert_eq!(code(&ask(&ca, "GET", &path, Value::Null).await), (404, "cert_not_found"));
        assert_eq!(read(&ca, id).await["status"], end);
        assert_eq!(ask(&ca, "GET", &path, Value::Null).await.0, if end == "issued" { 200 } else { 404 });
    }
}

#[tokio::test]
async fn a_person_approves_or_does_not() {
    let ca = DigiCertSim::builder().plain_http().approvals(Approvals::Always).start().await.unwrap();
    let (first, placed) = place(&ca, "a.example.com").await;
    let (second, _) = place(&ca, "b.example.com").await;
    let (third, answer) = place(&ca, "c.example.com").await;
    assert_eq!(placed["requests"][0]["status"], "pending");
    for _ in 0..3 {
        assert_eq!(read(&ca, first).await["status"], "needs_approval");
    }
    let orders = ca.orders();
    ca.approve(orders[0].pending_requests[0]).unwrap();
    ca.reject(orders[1].pending_requests[0]).unwrap();
    assert!(ca.approve(orders[0].pending_requests[0]).is_err(), "only once");
    assert_eq!(read(&ca, first).await["status"], "issued");
    let rejected = read(&ca, second).await;
    assert_eq!((&rejected["status"], &rejected["requests"][0]["status"]), (&json!("rejected"), &json!("rejected")));
    let path = format!("request/{}/status", answer["requests"][0]["id"]);
    let body = json!({ "status": "approved", "processor_comment": "fine" });
    ca.add_key("MEMBER", KeyRole::Standard);
    assert_eq!(with(&ca, "MEMBER", "PUT", &path, body.clone()).await.0, 403);
    assert_eq!(ask(&ca, "PUT", &path, body).await.0, 204);
    assert_eq!(read(&ca, third).await["status"], "issued");

    ca.set_approvals(Approvals::Skippable);
    let (_, csr) = request(&["d.example.com"]);
    let mut body = order(&csr, &["d.example.com"]);
    body["skip_approval"] = json!(true);
    let path = "order/certificate/ssl_basic";
    assert_eq!(ask(&ca, "POST", path, body.clone()).await.1["requests"][0]["status"], "approved");
    assert_eq!(with(&ca, "MEMBER", "POST", path, body).await.1["requests"][0]["status"], "pending");
}

#[tokio::test]
async fn a_reissue_has_another_certificate() {
    let ca = DigiCertSim::builder().plain_http().start().await.unwrap();
    let (id, placed) = place(&ca, "a.example.com").await;
    ca.set_course(Course::default().pending(1));
    let (key, csr) = request(&["a.example.com", "b.example.com"]);
    let names = ["a.example.com", "b.example.com"];
    let body = json!({ "certificate": { "common_name": names[0], "dns_names": names, "csr": csr } });
    let (status, answer) = ask(&ca, "POST", &format!("order/certificate/{id}/reissue"), body.clone()).await;
    assert_eq!((status, &answer["id"]), (201, &json!(id)));
    let pending = read(&ca, id).await;
    assert_eq!(
        (&pending["status"], &pending["certificate"]["id"]),
        (&json!("reissue_pending"), &placed["certificate_id"])
    );
    let revoke = format!("certificate/{}/revoke", placed["certificate_id"]);
    let skip = json!({ "skip_approval": true });
    assert_eq!(code(&ask(&ca, "PUT", &revoke, skip.clone()).await), (400, "pending_reissue"));
    let done = read(&ca, id).await;
    assert_eq!(done["status"], "issued");
    assert_ne!(done["certificate"]["id"], placed["certificate_id"]);
    assert_eq!(done["certificate"]["dns_names"], json!(names));
    assert!(has_key(&ca.certificate_pem(done["certificate"]["id"].as_u64().unwrap()).unwrap(), &key));

    ca.set_course(Course::default());
    let (key, csr) = request(&["a.example.com"]);
    let path = format!("order/certificate/{id}/duplicate");
    let (status, answer) = ask(&ca, "POST", &path, json!({ "certificate": { "csr": csr } })).await;
    assert_eq!(status, 201);
    assert!(has_key(answer["certificate_chain"][0]["pem"].as_str().unwrap(), &key));
    let (_, list) = ask(&ca, "GET", &path, Value::Null).await;
    assert_eq!(
        (&list["certificates"][0]["id"], &list["certificates"][0]["sub_id"]),
        (&answer["certificate_id"], &json!("001"))
    );
    assert_eq!(read(&ca, id).await["certificate"]["id"], done["certificate"]["id"], "the reissue is still the one");

    assert_eq!(ask(&ca, "PUT", &revoke, skip.clone()).await.0, 204);
    assert_eq!(read(&ca, id).await["status"], "issued", "there are others");
    assert_eq!(ask(&ca, "PUT", &format!("order/certificate/{id}/revoke"), skip).await.0, 204);
    assert_eq!(read(&ca, id).await["status"], "revoked");
    assert_eq!(code(&ask(&ca, "POST", &path, body).await).0, 400);
}

#[tokio::test]
async fn revocation_is_asked_for_unless_it_is_skipped() {
    let ca = DigiCertSim::builder().plain_http().start().await.unwrap();
    let (id, placed) = place(&ca, "a.example.com").await;
    let path = format!("certificate/{}/revoke", placed["certificate_id"]);
    let reason = |reason: &str| json!({ "comments": "c", "revocation_reason": reason });
    assert_eq!(ask(&ca, "PUT", &path, reason("boredom")).await.0, 400);
    let (status, asked) = ask(&ca, "PUT", &path, reason("superseded")).await;
    assert_eq!((status, &asked["status"], &asked["comments"]), (201, &json!("pending"), &json!("c")));
    assert_eq!(read(&ca, id).await["status"], "issued");
    ca.approve(asked["id"].as_u64().unwrap()).unwrap();
    assert_eq!(read(&ca, id).await["status"], "revoked");

    ca.add_key("MEMBER", KeyRole::Standard);
    let (_, placed) = place(&ca, "b.example.com").await;
    let path = format!("certificate/{}/revoke", placed["certificate_id"]);
    let skip = json!({ "skip_approval": true });
    assert_eq!(with(&ca, "MEMBER", "PUT", &path, skip.clone()).await.0, 201, "only administrators skip");
    assert_eq!(ask(&ca, "PUT", &path, skip).await.0, 204);

    let keeps = DigiCertSim::builder().plain_http().keeping_orders().start().await.unwrap();
    let (id, placed) = place(&keeps, "a.example.com").await;
    keeps.revoke(placed["certificate_id"].as_u64().unwrap()).unwrap();
    assert_eq!(read(&keeps, id).await["status"], "issued");
}

#[tokio::test]
async fn keys_have_roles_and_end() {
    let ca = DigiCertSim::builder().plain_http().start().await.unwrap();
    ca.add_key("READER", KeyRole::ViewOnly);
    ca.add_key("ORDERS", KeyRole::Orders);
    let me = with(&ca, "READER", "GET", "user/me", Value::Null).await;
    assert_eq!((me.0, &me.1["access_roles"][0]["id"]), (200, &json!(102)));
    let (_, csr) = request(&["a.example.com"]);
    let body = order(&csr, &["a.example.com"]);
    let path = "order/certificate/ssl_basic";
    let denied = with(&ca, "READER", "POST", path, body.clone()).await;
    assert_eq!(code(&denied), (403, "access_denied|missing_permission"));
    assert_eq!(with(&ca, "ORDERS", "POST", path, body).await.0, 201);
    assert_eq!(with(&ca, "ORDERS", "POST", "domain", json!({ "name": "example.com" })).await.0, 403);
    let unknown = with(&ca, "NOBODY", "GET", "user/me", Value::Null).await;
    assert_eq!(code(&unknown), (401, "access_denied|invalid_api_key"));
    ca.remove_key("READER");
    assert_eq!(with(&ca, "READER", "GET", "user/me", Value::Null).await.0, 401);
}

#[tokio::test]
async fn what_is_wrong_with_an_order_is_said() {
    let ca = DigiCertSim::builder().plain_http().start().await.unwrap();
    let (_, csr) = request(&["a.example.com"]);
    let good = order(&csr, &["a.example.com"]);
    let changed = |pointer: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    let table = [
        ("ssl_basic", changed("/certificate/csr", json!("hello")), "csr_invalid_cannot_parse"),
        ("ssl_basic", changed("/certificate/signature_hash", json!("md5")), "invalid_signature_hash"),
        ("ssl_basic", changed("/certificate/dns_names", json!(["a_b.example.com"])), "invalid_domain"),
        ("ssl_plus", changed("/certificate/dns_names", json!(["b.example.com"])), "invalid_dns_names"),
        ("ssl_plus", changed("/certificate/common_name", json!("*.example.com")), "invalid_domain"),
        ("ssl_basic", changed("/organization/id", json!(1)), "invalid_organization"),
        ("ssl_basic", changed("/organization", json!(null)), "missing_organization"),
        ("ssl_basic", changed("/order_validity", json!(null)), "missing_validity"),
        ("ssl_basic", changed("/order_validity", json!({ "days": 0 })), "invalid_validity"),
        ("ssl_basic", json!([1]), "bad_request_format"),
    ];
    for (product, body, wanted) in table {
        let answer = ask(&ca, "POST", &format!("order/certificate/{product}"), body).await;
        assert_eq!(code(&answer), (400, wanted));
    }
    let mut body = good.clone();
    body["certificate"]["cert_validity"] = json!({ "days": 366 });
    let answer = ask(&ca, "POST", "order/certificate/ssl_basic", body.clone()).await;
    assert_eq!(code(&answer), (400, "cert_validity_exceeds_order_validity"));
    body["certificate"]["cert_validity"] = json!({ "days": 30 });
    let (_, placed) = ask(&ca, "POST", "order/certificate/ssl_basic", body).await;
    let shown = read(&ca, placed["id"].as_u64().unwrap()).await;
    assert!((29..=30).contains(&shown["certificate"]["days_remaining"].as_i64().unwrap()));
    assert_eq!(code(&ask(&ca, "GET", "order/certificate/99", Value::Null).await), (404, "not_found|order"));
    assert_eq!(code(&ask(&ca, "GET", "nothing", Value::Null).await), (404, "not_found|route"));
    let (_, product) = ask(&ca, "GET", "product/ssl_plus", Value::Null).await;
    assert_eq!((&product["name_id"], &product["additional_dns_names_allowed"]), (&json!("ssl_plus"), &json!(false)));
}

#[tokio::test]
async fn wrong_certificates() {
    let ca = DigiCertSim::builder().plain_http().start().await.unwrap();
    for flaw in [Flaw::OtherKey, Flaw::OtherNames, Flaw::Expired, Flaw::OtherIssuer] {
        ca.set_course(Course::default().flawed(flaw));
        let (key, csr) = request(&["a.example.com"]);
        let (_, placed) = ask(&ca, "POST", "order/certificate/ssl_basic", order(&csr, &["a.example.com"])).await;
        let pem = placed["certificate_chain"][0]["pem"].as_str().unwrap();
        let (leaf, issuer) = (pem::parse(pem).unwrap(), placed["certificate_chain"][1]["pem"].as_str().unwrap());
        let issuer = pem::parse(issuer).unwrap();
        let (_, leaf) = X509Certificate::from_der(leaf.contents()).unwrap();
        let (_, issuer) = X509Certificate::from_der(issuer.contents()).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        let good = [
            has_key(pem, &key),
            format!("{:?}", names.value.general_names).contains("a.example.com"),
            leaf.validity().is_valid(),
            leaf.verify_signature(Some(issuer.public_key())).is_ok(),
        ];
        let bad = [Flaw::OtherKey, Flaw::OtherNames, Flaw::Expired, Flaw::OtherIssuer].map(|known| known == flaw);
        assert_eq!(good.map(|good| !good), bad, "{flaw:?}");
        assert_eq!(leaf.issuer(), issuer.subject());
    }
}

#[tokio::test]
async fn time_can_be_told_and_moved() {
    let noon = time::OffsetDateTime::from_unix_timestamp(2_000_000_000).unwrap();
    let ca = DigiCertSim::builder().clock(move || noon).start().await.unwrap();
    let (id, placed) = place(&ca, "a.example.com").await;
    let shown = read(&ca, id).await;
    assert_eq!(shown["date_created"], "2033-05-18T03:33:20+00:00");
    assert_eq!(shown["certificate"]["valid_from"], "2033-05-18");
    ca.advance(Duration::from_secs(366 * 24 * 3_600));
    assert_eq!(read(&ca, id).await["status"], "expired");
    assert_eq!(ca.history().last().unwrap().at, noon + time::Duration::days(366));
    let pem = placed["certificate_chain"][0]["pem"].as_str().unwrap();
    assert_eq!(tls::fingerprint(pem::parse(pem).unwrap().contents()).len(), 64);
}

#[tokio::test]
async fn what_is_pending_can_be_canceled() {
    let ca = DigiCertSim::builder().plain_http().start().await.unwrap();
    ca.set_course(Course::default().pending(9));
    let (id, _) = place(&ca, "a.example.com").await;
    let path = format!("order/certificate/{id}/status");
    assert_eq!(ask(&ca, "PUT", &path, json!({ "status": "CANCELED", "note": "n" })).await.0, 204);
    assert_eq!(read(&ca, id).await["status"], "canceled");
    assert!(ca.cancel(id).is_err());
}
