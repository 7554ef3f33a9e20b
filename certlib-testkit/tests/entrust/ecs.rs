//! What happens to orders of the Enterprise API.

use std::time::Duration;

use certlib_testkit::{
    entrust::{EcsSim, EcsStatus},
    pki::Flaw,
    tls,
};
use rcgen::PublicKeyData as _;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{http, pem, request};

/// The client that has everything.
pub(crate) fn client(sim: &EcsSim) -> Client {
    http(sim.ca_pem(), Some(sim.client_certificate()))
}

/// Status and body of the answer to a good request; a body that is no JSON is a string.
pub(crate) async fn ask(sim: &EcsSim, method: &str, path: &str, body: Value) -> (u16, Value) {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let request = client(sim).request(method, format!("{}/{path}", sim.url()));
    let request = request.basic_auth(EcsSim::USER, Some(EcsSim::KEY));
    let request = if body.is_null() { request } else { request.body(body.to_string()) };
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// An order for `shop.example`.
pub(crate) fn order(csr: &[u8]) -> Value {
    json!({ "csr": pem(csr), "certType": "STANDARD_SSL", "certLifetime": "P90D", "eku": "SERVER_AUTH" })
}

async fn place(sim: &EcsSim, body: Value) -> i64 {
    let (status, body) = ask(sim, "POST", "certificates", body).await;
    assert_eq!(status, 201, "{body}");
    body["trackingId"].as_i64().unwrap()
}

async fn status(sim: &EcsSim, id: i64) -> String {
    let (_, body) = ask(sim, "GET", &format!("certificates/{id}"), Value::Null).await;
    body["status"].as_str().unwrap().to_owned()
}

fn message(body: &Value) -> &str {
    body["errors"][0]["message"].as_str().unwrap()
}

#[tokio::test]
async fn both_credentials_are_needed() {
    let sim = EcsSim::start().await.unwrap();
    let url = format!("{}/application/version", sim.url());
    let without = http(sim.ca_pem(), None);
    for (client, user, expected) in [
        (client(&sim), Some((EcsSim::USER, EcsSim::KEY)), 200),
        (client(&sim), Some((EcsSim::USER, "wrong")), 401),
        (client(&sim), None, 401),
        (without.clone(), Some((EcsSim::USER, EcsSim::KEY)), 403),
        (without, None, 401),
    ] {
        let request = client.get(&url);
        let request = match user {
            Some((user, key)) => request.basic_auth(user, Some(key)),
            None => request,
        };
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), expected);
        assert_eq!(response.headers().contains_key("www-authenticate"), expected == 401);
    }
    let shown: Vec<_> =
        sim.history().iter().map(|record| (record.with_basic, record.with_certificate, record.status)).collect();
    let expected = [(true, true, 200), (true, true, 401), (false, true, 401), (true, false, 403), (false, false, 401)];
    assert_eq!(shown, expected.map(|(basic, certificate, status)| (basic, certificate, Some(status))));
    assert!(!format!("{sim:?}{:?}", sim.history()).contains(EcsSim::KEY));
}

#[tokio::test]
async fn polls_are_counted_and_humans_decide() {
    let sim = EcsSim::builder().pending_polls(2).start().await.unwrap();
    let csr = request(&["shop.example"]).0;
    let id = place(&sim, order(&csr)).await;
    for expected in ["PENDING", "PENDING", "ACTIVE", "ACTIVE"] {
        assert_eq!(status(&sim, id).await, expected);
    }
    sim.set_pending_polls(0);
    let mut queued = order(&csr);
    queued["queueForApproval"] = true.into();
    let (yes, no) = (place(&sim, queued.clone()).await, place(&sim, queued.clone()).await);
    let (over_http, refused) = (place(&sim, queued.clone()).await, place(&sim, queued).await);
    for _ in 0..3 {
        assert_eq!(status(&sim, yes).await, "PENDING", "as long as it takes");
    }
    sim.approve(yes).unwrap();
    sim.decline(no, "not ours").unwrap();
    assert_eq!((status(&sim, yes).await, status(&sim, no).await), ("ACTIVE".to_owned(), "DECLINED".to_owned()));
    assert!(
        sim.approve(no).is_err() && sim.decline(yes, "").is_err() && sim.approve(1).is_err() && sim.finish(no).is_err()
    );
    let patch = async |id: i64, operation: &str| {
        let body = json!({ "operation": operation, "declineReason": "no" });
        ask(&sim, "PATCH", &format!("certificates/{id}"), body).await
    };
    assert_eq!(patch(over_http, "APPROVE").await.1["status"], "ACTIVE");
    assert_eq!(patch(refused, "DECLINE").await.1["status"], "DECLINED");
    assert_eq!(sim.order(refused).unwrap().reason.as_deref(), Some("no"));
    assert_eq!(patch(over_http, "SUSPEND").await.1["status"], "SUSPENDED");
    assert_eq!(patch(over_http, "SUSPEND").await.0, 400);
    assert_eq!(patch(over_http, "UNSUSPEND").await.1["status"], "ACTIVE");
    assert_eq!(patch(over_http, "DANCE").await.0, 400);

    sim.set_rejections(true);
    let never = place(&sim, order(&csr)).await;
    sim.set_rejections(false);
    assert_eq!(status(&sim, never).await, "DECLINED");

    sim.set_approvals(true);
    sim.set_pending_polls(9);
    let id = place(&sim, order(&csr)).await;
    sim.approve(id).unwrap();
    assert_eq!(status(&sim, id).await, "PENDING");
    sim.finish(id).unwrap();
    assert_eq!(sim.order(id).unwrap().status, EcsStatus::Active);
}

#[tokio::test]
async fn a_validation_orders_nothing() {
    let sim = EcsSim::builder().inventory(1).start().await.unwrap();
    let mut body = order(&request(&["shop.example"]).0);
    body["validateOnly"] = true.into();
    assert_eq!(ask(&sim, "POST", "certificates", body.clone()).await, (200, json!({})));
    body["certType"] = "MUSHROOM".into();
    assert_eq!(ask(&sim, "POST", "certificates", body.clone()).await.0, 400);
    assert_eq!(sim.orders().len(), 0);
    let inventory = async || ask(&sim, "GET", "inventories", Value::Null).await.1["inventories"][0].clone();
    assert_eq!(inventory().await["remainingCount"], 1);
    (body["certType"], body["validateOnly"]) = ("STANDARD_SSL".into(), "false".into());
    place(&sim, body.clone()).await;
    assert_eq!((&inventory().await["remainingCount"], &inventory().await["usedCount"]), (&json!(0), &json!(1)));
    let (code, refusal) = ask(&sim, "POST", "certificates", body.clone()).await;
    assert_eq!((code, message(&refusal).contains("inventory")), (400, true));
    sim.set_inventory(None);
    place(&sim, body).await;
}

#[tokio::test]
async fn orders_are_checked() {
    let sim = EcsSim::start().await.unwrap();
    let other = sim.add_organization("Other Inc", true);
    sim.add_domain(other, "other.example", true);
    let csr = request(&["shop.example"]).0;
    for (field, value, part) in [
        ("csr", json!("no request"), "csr"),
        ("csr", Value::Null, "csr"),
        ("certType", Value::Null, "certType"),
        ("certLifetime", Value::Null, "certLifetime"),
        ("certLifetime", json!("P2Y"), "out of range"),
        ("certLifetime", json!("soon"), "cannot be read"),
        ("certExpiryDate", json!("2099-01-01"), "exclude"),
        ("signingAlg", json!("SHA-1"), "signingAlg"),
        ("eku", json!("EVERYTHING"), "eku"),
        ("clientId", json!(99), "clientId"),
        ("clientId", json!(other), "not approved"),
        ("org", json!("Nobody Inc"), "Nobody Inc"),
        ("subjectAltName", json!(["other.example"]), "other.example"),
    ] {
        let mut body = order(&csr);
        body[field] = value.clone();
        let (code, refusal) = ask(&sim, "POST", "certificates", body).await;
        assert_eq!(code, 400, "{field} {value}");
        assert!(message(&refusal).contains(part), "{field} {value}: {refusal}");
    }
    let private = json!({ "certType": "PRIVATE_SSL", "certLifetime": "P1Y", "csr": pem(&request(&["a.internal"]).0) });
    place(&sim, private).await;
    for path in ["nothing", "certificates/1", "certificates/x", "clients/99/domains", "clients/1/domains/none.example"]
    {
        assert_eq!(ask(&sim, "GET", path, Value::Null).await.0, 404, "{path}");
    }
    let domains = ask(&sim, "GET", "domains", Value::Null).await.1;
    assert_eq!(domains["domains"].as_array().unwrap().len(), 2);
    assert_eq!(ask(&sim, "GET", "clients", Value::Null).await.1["clients"][1]["clientId"], other);
}

#[tokio::test]
async fn renewed_reissued_revoked_expired() {
    let sim = EcsSim::start().await.unwrap();
    let first = place(&sim, order(&request(&["shop.example"]).0)).await;
    let fingerprint = sim.order(first).unwrap().fingerprint.unwrap();
    let (_, found) = ask(&sim, "GET", &format!("certificates/thumbprints/{fingerprint}"), Value::Null).await;
    assert_eq!(found["trackingId"], first);

    let (csr, key) = request(&["shop.example"]);
    let path = format!("certificates/{first}/reissues");
    let (code, second) =
        ask(&sim, "POST", &path, json!({ "csr": pem(&csr), "subjectAltName": ["www.shop.example"] })).await;
    let second_id = second["trackingId"].as_i64().unwrap();
    assert_eq!((code, sim.order(first).unwrap().status), (201, EcsStatus::Reissued));
    assert_eq!(sim.order(second_id).unwrap().names, ["shop.example", "www.shop.example"]);
    let der = pem::parse(second["endEntityCert"].as_str().unwrap()).unwrap().into_contents();
    assert_eq!(X509Certificate::from_der(&der).unwrap().1.public_key().raw, key.subject_public_key_info());
    assert_eq!(ask(&sim, "POST", &path, json!({})).await.0, 400, "not twice");
    let path = format!("certificates/{second_id}/reissues");
    assert_eq!(ask(&sim, "POST", &path, json!({ "certLifetime": "P1Y" })).await.0, 400, "the end stays");

    sim.advance(Duration::from_secs(91 * 86_400));
    assert_eq!(status(&sim, second_id).await, "EXPIRED");
    let revoke = json!({ "crlReason": "superseded" });
    assert_eq!(ask(&sim, "POST", &format!("certificates/{second_id}/revocations"), revoke.clone()).await.0, 400);
    let renewal = json!({ "csr": pem(&csr), "certLifetime": "P90D" });
    let (code, third) = ask(&sim, "POST", &format!("certificates/{second_id}/renewals"), renewal).await;
    let third = third["trackingId"].as_i64().unwrap();
    assert_eq!((code, sim.order(second_id).unwrap().status), (201, EcsStatus::Renewed));
    assert_eq!(ask(&sim, "POST", &format!("certificates/{third}/revocations"), revoke).await.0, 200);
    let revoked = sim.order(third).unwrap();
    assert_eq!((revoked.status, revoked.reason.as_deref()), (EcsStatus::Revoked, Some("superseded")));
    let (_, found) = ask(&sim, "GET", "certificates?status=REVOKED&limit=1", Value::Null).await;
    assert_eq!((&found["summary"]["total"], &found["certificates"][0]["trackingId"]), (&json!(1), &json!(third)));
}

#[tokio::test]
async fn a_certificate_may_be_wrong() {
    let sim = EcsSim::start().await.unwrap();
    let (csr, key) = request(&["shop.example"]);
    let key = key.subject_public_key_info();
    for flaw in [Flaw::OtherKey, Flaw::OtherNames, Flaw::Expired] {
        sim.spoil_next(flaw);
    }
    // The key is right, the name is right, it is valid.
    for expected in [(false, true, true), (true, false, true), (true, true, false), (true, true, true)] {
        let (_, body) = ask(&sim, "POST", "certificates", order(&csr)).await;
        let der = pem::parse(body["endEntityCert"].as_str().unwrap()).unwrap().into_contents();
        let (_, read) = X509Certificate::from_der(&der).unwrap();
        let named = der.windows(12).any(|part| part == b"shop.example");
        assert_eq!((read.public_key().raw == key, named, read.validity().is_valid()), expected);
        assert_eq!(sim.orders().last().unwrap().fingerprint, Some(tls::fingerprint(&der)));
    }
}
