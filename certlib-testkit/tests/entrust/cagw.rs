//! The CA Gateway: what it does, and what goes wrong on demand.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use certlib_testkit::{
    entrust::{CagwSim, CagwStatus, Fault, Injection},
    pki::Flaw,
    tls,
};
use rcgen::PublicKeyData as _;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{http, pem, request};

/// The answer to a good request below the authority; `None` when there was none.
async fn send(sim: &CagwSim, method: &str, path: &str, body: Value) -> Option<Response> {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let url = format!("{}/v1/certificate-authorities/{}/{path}", sim.url(), CagwSim::AUTHORITY);
    let request = http(sim.ca_pem(), Some(sim.client_certificate())).request(method, url);
    let request = if body.is_null() { request } else { request.body(body.to_string()) };
    request.send().await.ok()
}

/// Its status and body; a body that is no JSON is a string.
async fn ask(sim: &CagwSim, method: &str, path: &str, body: Value) -> (u16, Value) {
    let response = send(sim, method, path, body).await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn enrollment(csr: &[u8]) -> Value {
    json!({
        "profileId": "tls-server",
        "requiredFormat": { "format": "X509", "protection": null },
        "csr": STANDARD.encode(csr),
        "subjectVariables": [{ "type": "cn", "value": "shop.example" }],
        "subjectAltNames": [{ "type": "dNSName", "value": "www.shop.example" }],
        "optionalCertificateRequestDetails": { "validityPeriod": "PT129600M" },
        "includeCa": true,
    })
}

async fn enroll(sim: &CagwSim, csr: &[u8]) -> Value {
    let (status, body) = ask(sim, "POST", "enrollments", enrollment(csr)).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["type"], "EnrollmentResponse");
    body["enrollment"].clone()
}

fn body(enrollment: &Value) -> Vec<u8> {
    STANDARD.decode(enrollment["body"].as_str().unwrap()).unwrap()
}

fn action(kind: &str) -> Value {
    json!({ "action": { "type": kind, "reason": "superseded", "comment": "replaced", "issueCrl": false } })
}

#[tokio::test]
async fn the_client_certificate_is_all() {
    let sim = CagwSim::start().await.unwrap();
    let url = format!("{}/v1/certificate-authorities", sim.url());
    let good = http(sim.ca_pem(), Some(sim.client_certificate())).get(&url).send().await.unwrap();
    let body: Value = serde_json::from_str(&good.text().await.unwrap()).unwrap();
    assert_eq!(body["caList"][0]["id"], CagwSim::AUTHORITY);
    let refused = http(sim.ca_pem(), None).get(&url).send().await.unwrap();
    assert_eq!(refused.status(), 403);
    let body: Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
    assert!(body["error"]["code"].is_string() && body["error"]["message"].is_string());
    let certificates: Vec<_> = sim.history().iter().map(|record| record.with_certificate).collect();
    assert_eq!(certificates, [true, false]);

    let (_, authority) = ask(&sim, "GET", "", Value::Null).await;
    let shown = STANDARD.decode(authority["ca"]["certificate"]["certificateData"].as_str().unwrap()).unwrap();
    assert_eq!(shown, pem::parse(sim.issuer_pem()).unwrap().contents());
    let (_, profiles) = ask(&sim, "GET", "profiles", Value::Null).await;
    assert_eq!(profiles["profiles"].as_array().unwrap().len(), 2);
    let (_, profile) = ask(&sim, "GET", "profiles/tls-server", Value::Null).await;
    assert_eq!(profile["profile"]["subjectVariableRequirements"][0], json!({ "name": "cn", "required": true }));
    for path in ["profiles/none", "certificates/4711", "enrollments/none", "actions/none", "nothing"] {
        assert_eq!(ask(&sim, "GET", path, Value::Null).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn an_enrollment_gives_a_certificate() {
    let sim = CagwSim::start().await.unwrap();
    let (csr, key) = request(&["other.example"]);
    let enrollment = enroll(&sim, &csr).await;
    assert_eq!(enrollment["status"], "COMPLETED");
    let der = body(&enrollment);
    let (_, read) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(read.public_key().raw, key.subject_public_key_info());
    assert!(read.subject().to_string().contains("shop.example"));
    assert!(!der.windows(13).any(|part| part == b"other.example"), "what is given counts, not the request");
    let (from, until) = (read.validity().not_before.timestamp(), read.validity().not_after.timestamp());
    assert_eq!(until - from, 90 * 86_400 + 3_600);
    let chain: Vec<Vec<u8>> = enrollment["chain"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| STANDARD.decode(one.as_str().unwrap()).unwrap())
        .collect();
    assert_eq!(chain, [sim.issuer_pem(), sim.root_pem()].map(|text| pem::parse(text).unwrap().into_contents()));

    let known = sim.enrollment(enrollment["id"].as_str().unwrap()).unwrap();
    assert_eq!(known.fingerprint, Some(tls::fingerprint(&der)));
    let serial = known.serial.unwrap();
    assert_eq!(ask(&sim, "GET", &format!("certificates/00{serial}"), Value::Null).await.0, 404, "it is not the same");
    for written in [serial.clone(), serial.to_lowercase()] {
        let (_, found) = ask(&sim, "GET", &format!("certificates/{written}"), Value::Null).await;
        assert_eq!(found["certificate"]["status"], "normal");
        assert_eq!(found["certificate"]["certificateData"], enrollment["body"]);
    }
}

#[tokio::test]
async fn enrollments_are_checked() {
    let sim = CagwSim::start().await.unwrap();
    let csr = request(&["shop.example"]).0;
    for (pointer, value, target) in [
        ("/csr", json!(pem(&csr)), "csr"),
        ("/csr", json!(STANDARD.encode("no request")), "csr"),
        ("/csr", Value::Null, "csr"),
        ("/profileId", json!("none"), "profileId"),
        ("/requiredFormat/format", json!("PEM"), "requiredFormat.format"),
        ("/requiredFormat/format", json!("PKCS12"), "requiredFormat.format"),
        ("/optionalCertificateRequestDetails/validityPeriod", json!("90 days"), "validityPeriod"),
        ("/optionalCertificateRequestDetails/validityPeriod", json!("P99Y"), "validityPeriod"),
        ("/optionalCertificateRequestDetails/validityPeriod", json!("2020-01-01/2020-02-01"), "validityPeriod"),
    ] {
        let mut body = enrollment(&csr);
        *body.pointer_mut(pointer).unwrap() = value.clone();
        let (status, refusal) = ask(&sim, "POST", "enrollments", body).await;
        assert_eq!((status, &refusal["error"]["target"]), (400, &json!(target)), "{pointer} {value}");
    }
    let mut body = enrollment(&csr);
    (body["profileId"], body["subjectAltNames"]) = ("tls-server-san".into(), json!([]));
    assert_eq!(ask(&sim, "POST", "enrollments", body).await.1["error"]["target"], "subjectAltNames");
    assert_eq!(sim.enrollments().len(), 0);
}

#[tokio::test]
async fn polls_are_counted_and_humans_decide() {
    let sim = CagwSim::builder().pending_polls(2).start().await.unwrap();
    let csr = request(&["shop.example"]).0;
    let first = enroll(&sim, &csr).await;
    assert!(first["status"] == "ACCEPTED" && first.get("body").is_none());
    let look = async |id: &Value| {
        let path = format!("enrollments/{}", id.as_str().unwrap());
        ask(&sim, "GET", &path, Value::Null).await.1["enrollment"].clone()
    };
    for expected in ["ACCEPTED", "ACCEPTED", "COMPLETED", "COMPLETED"] {
        assert_eq!(look(&first["id"]).await["status"], expected);
    }
    assert!(look(&first["id"]).await["body"].is_string());

    sim.set_approvals(true);
    sim.set_pending_polls(0);
    let (yes, no) = (enroll(&sim, &csr).await, enroll(&sim, &csr).await);
    for _ in 0..3 {
        assert_eq!(look(&yes["id"]).await["status"], "AWAITING_APPROVAL", "as long as it takes");
    }
    let id = |enrollment: &Value| enrollment["id"].as_str().unwrap().to_owned();
    sim.approve(&id(&yes)).unwrap();
    sim.reject(&id(&no)).unwrap();
    assert_eq!(
        (&look(&yes["id"]).await["status"], &look(&no["id"]).await["status"]),
        (&json!("COMPLETED"), &json!("REJECTED"))
    );
    assert!(sim.approve(&id(&no)).is_err() && sim.reject(&id(&yes)).is_err() && sim.finish("none").is_err());
    let third = enroll(&sim, &csr).await;
    sim.finish(&id(&third)).unwrap();
    assert_eq!(sim.enrollment(&id(&third)).unwrap().status, CagwStatus::Completed);

    sim.set_rejections(true);
    let never = enroll(&sim, &csr).await;
    assert_eq!((&never["status"], never.get("body")), (&json!("REJECTED"), None));
}

#[tokio::test]
async fn without_the_resource_the_events_tell() {
    let sim = CagwSim::builder().pending_polls(1).without_enrollment_resource().start().await.unwrap();
    let (csr, key) = request(&["shop.example"]);
    let made = enroll(&sim, &csr).await;
    let path = format!("enrollments/{}", made["id"].as_str().unwrap());
    assert_eq!(ask(&sim, "GET", &path, Value::Null).await.0, 404);
    let events = async || ask(&sim, "GET", "certificate-events?startDate=2026-01-01T00:00:00Z", Value::Null).await.1;
    assert_eq!(events().await["events"], json!([]));
    let found = events().await;
    assert_eq!(found["events"][0]["action"], "issued");
    let der = STANDARD.decode(found["events"][0]["certificate"].as_str().unwrap()).unwrap();
    assert_eq!(X509Certificate::from_der(&der).unwrap().1.public_key().raw, key.subject_public_key_info());
}

#[tokio::test]
async fn actions_and_their_events() {
    let sim = CagwSim::builder().page(2).start().await.unwrap();
    let csr = request(&["shop.example"]).0;
    enroll(&sim, &csr).await;
    let serial = sim.enrollments()[0].serial.clone().unwrap();
    let path = format!("certificates/{serial}/actions");
    let act = async |body: Value| ask(&sim, "POST", &path, body).await;
    let standing =
        async || ask(&sim, "GET", &format!("certificates/{serial}"), Value::Null).await.1["certificate"].clone();
    let done = async |kind: &str| act(action(kind)).await.1["action"]["status"].clone();
    assert_eq!(done("HoldAction").await, "COMPLETED");
    assert_eq!(standing().await["status"], "held");
    assert_eq!(done("HoldAction").await, "REJECTED");
    assert_eq!(done("UnholdAction").await, "COMPLETED");
    sim.reject_next_action();
    assert_eq!(done("RevokeAction").await, "REJECTED");
    assert_eq!((&standing().await["status"], sim.is_revoked(&serial)), (&json!("normal"), false));
    assert_eq!(done("RevokeAction").await, "COMPLETED");
    assert!(sim.is_revoked(&serial.to_lowercase()) && !sim.is_revoked("4711"));
    let shown = standing().await;
    assert_eq!((&shown["status"], &shown["revocationInfo"]["reason"]), (&json!("revoked"), &json!("superseded")));
    assert_eq!(done("RevokeAction").await, "REJECTED", "twice");
    let mut again = action("RevokeAction");
    again["action"]["succeedIfAlreadyInRequestedState"] = true.into();
    assert_eq!(act(again).await.1["action"]["status"], "COMPLETED");
    assert_eq!(act(action("Dance")).await.0, 400);
    let mut bored = action("RevokeAction");
    bored["action"]["reason"] = "boredom".into();
    assert_eq!(act(bored).await.1["error"]["target"], "action.reason");

    let (mut seen, mut next) = (Vec::new(), String::new());
    loop {
        let path = format!("certificate-events?%24fields=-events.certificate&startDate=2026-01-01T00:00:00Z{next}");
        let (_, page) = ask(&sim, "GET", &path, Value::Null).await;
        let events = page["events"].as_array().unwrap();
        assert!(events.len() <= 2 && events.iter().all(|event| event.get("certificate").is_none()));
        seen.extend(events.iter().map(|event| event["action"].as_str().unwrap().to_owned()));
        if page["morePages"] == false {
            break;
        }
        next = format!("&nextPageIndex={}", page["nextPageIndex"].as_str().unwrap());
    }
    assert_eq!(seen, ["issued", "held", "unheld", "revoked"]);
    sim.advance(Duration::from_secs(86_400));
    let tomorrow = (sim.history()[0].at + time::Duration::days(1)).date();
    let path = format!("certificate-events?startDate={tomorrow}T23:59:59Z");
    assert_eq!(ask(&sim, "GET", &path, Value::Null).await.1["events"], json!([]));
}

#[tokio::test]
async fn an_action_may_take_its_time() {
    let sim = CagwSim::builder().pending_action_polls(1).start().await.unwrap();
    enroll(&sim, &request(&["shop.example"]).0).await;
    let serial = sim.enrollments()[0].serial.clone().unwrap();
    let (_, made) = ask(&sim, "POST", &format!("certificates/{serial}/actions"), action("RevokeAction")).await;
    assert_eq!(made["action"]["status"], "ACCEPTED");
    let id = made["action"]["id"].as_str().unwrap();
    let (_, found) = ask(&sim, "GET", &format!("actions/{id}"), Value::Null).await;
    assert_eq!(found["action"]["status"], "ACCEPTED");
    let (_, found) = ask(&sim, "GET", &format!("certificates/{serial}/actions/{id}"), Value::Null).await;
    assert_eq!(found["action"]["status"], "COMPLETED");
}

#[tokio::test]
async fn faults_and_flaws() {
    let sim = CagwSim::start().await.unwrap();
    let (csr, key) = request(&["shop.example"]);
    let wait = Some(Duration::from_secs(3));
    sim.inject(Injection::new(Fault::RateLimited { retry_after: wait }).on("POST", "/enrollments").times(1));
    let answer = send(&sim, "POST", "enrollments", enrollment(&csr)).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "3"));
    sim.inject(Injection::new(Fault::Broken { status: 500 }).times(1));
    assert_eq!(ask(&sim, "POST", "enrollments", enrollment(&csr)).await.1["error"]["code"], "internal.error");
    assert_eq!(sim.enrollments().len(), 0);
    sim.inject(Injection::new(Fault::LoseReply).on("POST", "/enrollments").times(1));
    assert!(send(&sim, "POST", "enrollments", enrollment(&csr)).await.is_none());
    let (_, found) = ask(&sim, "GET", "certificate-events", Value::Null).await;
    let der = STANDARD.decode(found["events"][0]["certificate"].as_str().unwrap()).unwrap();
    assert_eq!(sim.enrollments()[0].fingerprint, Some(tls::fingerprint(&der)), "found by its key");

    sim.spoil_next(Flaw::OtherKey);
    let der = body(&enroll(&sim, &csr).await);
    assert_ne!(X509Certificate::from_der(&der).unwrap().1.public_key().raw, key.subject_public_key_info());
    assert!(!format!("{sim:?}").contains("PRIVATE"));
}
