//! What goes wrong on demand.

use std::time::{Duration, Instant};

use certlib_testkit::entrust::{EcsSim, EcsStatus, Fault, Injection};
use serde_json::{Value, json};

use super::{
    ecs::{ask, client, order},
    request,
};

#[tokio::test]
async fn refusals() {
    let sim = EcsSim::start().await.unwrap();
    let table = [
        (Fault::RateLimited { retry_after: Some(Duration::from_secs(7)) }, 429, Some("7")),
        (Fault::RateLimited { retry_after: None }, 429, None),
        (Fault::Broken { status: 502 }, 502, None),
        (Fault::Unauthorized, 401, None),
        (Fault::Forbidden, 403, None),
    ];
    let version =
        || client(&sim).get(format!("{}/application/version", sim.url())).basic_auth(EcsSim::USER, Some(EcsSim::KEY));
    for (fault, status, wait) in table {
        sim.inject(Injection::new(fault).on("GET", "/application/").times(2));
        for _ in 0..2 {
            let response = version().send().await.unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers().get("retry-after").map(|value| value.to_str().unwrap()), wait);
            let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
            assert_eq!(body["status"], status);
        }
        assert_eq!(version().send().await.unwrap().status(), 200, "and then it behaves");
    }
}

#[tokio::test]
async fn answers_that_are_no_json() {
    let sim = EcsSim::start().await.unwrap();
    sim.inject(Injection::new(Fault::Maintenance).times(1));
    let (status, body) = ask(&sim, "GET", "application/version", Value::Null).await;
    assert!(status == 503 && body.as_str().unwrap().starts_with("<html>"));
    sim.inject(Injection::new(Fault::Garbled).on("POST", "/certificates").times(1));
    let (status, body) = ask(&sim, "POST", "certificates", order(&request(&["shop.example"]).0)).await;
    assert_eq!((status, body.is_string(), sim.orders().len()), (200, true, 1), "and yet it was ordered");
    sim.inject(Injection::new(Fault::Truncated).on("GET", "/clients").times(1));
    let (status, body) = ask(&sim, "GET", "clients", Value::Null).await;
    assert_eq!((status, body.is_string()), (200, true), "half of it is no JSON");
    let (content_type, body) = ("text/plain".to_owned(), "teapot".to_owned());
    sim.inject(Injection::new(Fault::Answer { status: 418, content_type, body }).after(1).times(1));
    assert_eq!(ask(&sim, "GET", "clients", Value::Null).await.0, 200);
    assert_eq!(ask(&sim, "GET", "clients", Value::Null).await, (418, json!("teapot")));
}

#[tokio::test]
async fn an_order_whose_answer_was_lost_is_found() {
    let sim = EcsSim::start().await.unwrap();
    let mut body = order(&request(&["shop.example"]).0);
    body["tracking"] = json!({ "trackingInfo": "order-4711" });
    let post = async || {
        let request = client(&sim).post(format!("{}/certificates", sim.url())).body(body.to_string());
        request.basic_auth(EcsSim::USER, Some(EcsSim::KEY)).send().await
    };
    sim.inject(Injection::new(Fault::LoseRequest).on("POST", "/certificates").times(1));
    assert!(post().await.is_err());
    assert_eq!(sim.orders().len(), 0);
    sim.inject(Injection::new(Fault::LoseReply).on("POST", "/certificates").times(1));
    assert!(post().await.is_err());
    let (_, found) = ask(&sim, "GET", "certificates?limit=1000", Value::Null).await;
    let id = found["certificates"][0]["trackingId"].as_i64().unwrap();
    let (_, details) = ask(&sim, "GET", &format!("certificates/{id}"), Value::Null).await;
    assert_eq!((&details["tracking"]["trackingInfo"], &details["csr"]), (&json!("order-4711"), &body["csr"]));
    assert_eq!(sim.order(id).unwrap().status, EcsStatus::Active);
    let statuses: Vec<_> = sim.history().iter().map(|record| record.status).collect();
    assert_eq!(statuses, [None, None, Some(200), Some(200)]);
}

#[tokio::test]
async fn slow_until_the_faults_are_cleared() {
    let sim = EcsSim::start().await.unwrap();
    let by = Duration::from_millis(50);
    sim.inject(Injection::new(Fault::Slow(by)));
    let began = Instant::now();
    assert_eq!(ask(&sim, "GET", "organizations", Value::Null).await.0, 200);
    assert!(began.elapsed() >= by);
    sim.clear_faults();
    sim.advance(Duration::from_secs(3_600));
    ask(&sim, "GET", "organizations", Value::Null).await;
    let history = sim.history();
    assert!(history[1].at - history[0].at > time::Duration::minutes(59));
    assert_eq!((history[0].method.as_str(), history[0].path.as_str()), ("GET", "/enterprise/v2/organizations"));
}
