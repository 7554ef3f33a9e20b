//! What goes wrong on demand.

use std::time::{Duration, Instant};

use certlib_testkit::sectigo::{Fault, Injection, SectigoSim};
use serde_json::{Value, json};

use super::{ask, collect, enroll, enrolment, http, request, send};

#[tokio::test]
async fn refusals() {
    let sim = SectigoSim::start().await.unwrap();
    let not_ready = Fault::Answer {
        status: 400,
        content_type: "application/json".to_owned(),
        body: json!({ "code": -1400 }).to_string(),
    };
    let table = [
        (Fault::RateLimited { retry_after: Some(Duration::from_secs(7)) }, 429, Some("7"), -1),
        (Fault::RateLimited { retry_after: None }, 429, None, -1),
        (Fault::Broken { status: 502 }, 502, None, -2),
        (Fault::Unauthorized, 401, None, -16),
        (Fault::Forbidden, 403, None, -37),
        (not_ready, 400, None, -1400),
    ];
    for (fault, status, wait, code) in table {
        sim.inject(Injection::new(fault).on("GET", "/ssl/").times(2));
        for _ in 0..2 {
            let response = send(&sim, "GET", "ssl/v1/types", Value::Null).await.unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers().get("retry-after").map(|value| value.to_str().unwrap()), wait);
            let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
            assert_eq!(body["code"], code);
        }
        assert_eq!(ask(&sim, "GET", "ssl/v1/types", Value::Null).await.0, 200, "and then it behaves");
    }
}

#[tokio::test]
async fn answers_that_are_no_json() {
    let sim = SectigoSim::start().await.unwrap();
    sim.inject(Injection::new(Fault::Maintenance).times(1));
    let response = send(&sim, "GET", "ssl/v1/types", Value::Null).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["content-type"]), (503, &"text/html".parse().unwrap()));
    assert!(response.text().await.unwrap().starts_with("<html>"));

    sim.inject(Injection::new(Fault::Garbled).on("POST", "/enroll").times(1));
    let (status, body) = ask(&sim, "POST", "ssl/v1/enroll", enrolment(&request("shop.example").0)).await;
    assert_eq!((status, body.is_string(), sim.orders().len()), (200, true, 1), "and yet it was ordered");

    sim.inject(Injection::new(Fault::Truncated).on("GET", "/types").times(1));
    let (status, body) = ask(&sim, "GET", "ssl/v1/types", Value::Null).await;
    assert_eq!((status, body.is_string()), (200, true), "half of it is no JSON");

    let (content_type, body) = ("text/plain".to_owned(), "teapot".to_owned());
    sim.inject(Injection::new(Fault::Answer { status: 418, content_type, body }).after(1).times(1));
    assert_eq!(ask(&sim, "GET", "ssl/v1/types", Value::Null).await.0, 200);
    assert_eq!(ask(&sim, "GET", "ssl/v1/types", Value::Null).await, (418, json!("teapot")));
}

#[tokio::test]
async fn an_order_whose_answer_was_lost_is_found() {
    let sim = SectigoSim::start().await.unwrap();
    let csr = request("shop.example").0;
    sim.inject(Injection::new(Fault::LoseRequest).on("POST", "/enroll").times(1));
    assert!(send(&sim, "POST", "ssl/v1/enroll", enrolment(&csr)).await.is_none());
    assert_eq!(sim.orders().len(), 0);
    sim.inject(Injection::new(Fault::LoseReply).on("POST", "/enroll").times(1));
    let mut body = enrolment(&csr);
    body["externalRequester"] = "order-4711@certlib.example".into();
    assert!(send(&sim, "POST", "ssl/v1/enroll", body).await.is_none());
    let path = "ssl/v1?externalRequester=order-4711%40certlib.example&commonName=shop.example";
    let (_, found) = ask(&sim, "GET", path, Value::Null).await;
    let id = found[0]["sslId"].as_i64().unwrap();
    assert_eq!(collect(&sim, id).await, (200, 1));
    let statuses: Vec<_> = sim.history().iter().map(|record| record.status).collect();
    assert_eq!(statuses, [None, None, Some(200), Some(200)]);
    assert!(sim.history().iter().all(|record| record.login == SectigoSim::LOGIN));
}

#[tokio::test]
async fn slow_until_the_faults_are_cleared() {
    let sim = SectigoSim::start().await.unwrap();
    let by = Duration::from_millis(50);
    sim.inject(Injection::new(Fault::Slow(by)));
    let began = Instant::now();
    let id = enroll(&sim, &request("shop.example").0).await;
    assert!(began.elapsed() >= by);
    sim.clear_faults();
    assert_eq!(collect(&sim, id).await, (200, 1));
}

#[tokio::test]
async fn tokens_end() {
    let sim = SectigoSim::start().await.unwrap();
    let form = |secret: &str| {
        format!("grant_type=client_credentials&client_id={}&client_secret={secret}", SectigoSim::CLIENT_ID)
    };
    let answer = http().post(sim.token_url()).body(form("wrong")).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    let answer = http().post(sim.token_url()).body("grant_type=password").send().await.unwrap();
    assert_eq!(answer.status(), 400);
    let answer = http().post(sim.token_url()).body(form(SectigoSim::CLIENT_SECRET)).send().await.unwrap();
    let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let token = body["access_token"].as_str().unwrap();
    let types = async || {
        let request = http().get(format!("{}/ssl/v1/types", sim.url())).bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(types().await, 200);
    sim.advance(Duration::from_secs(301));
    assert_eq!(types().await, 401);
    assert!(sim.history().iter().all(|record| !format!("{record:?}").contains(token)));
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let sim = SectigoSim::start().await.unwrap();
    for path in ["ssl/v1/unknown/path", "ssl/v2", "smime/v1", "ssl/v1/collect/x/x509"] {
        assert_eq!(ask(&sim, "GET", path, Value::Null).await.0, 404, "{path}");
    }
    let request = http().post(format!("{}/ssl/v1/enroll", sim.url())).body("{not json");
    let request = request.header("login", SectigoSim::LOGIN).header("password", SectigoSim::PASSWORD);
    let answer = request.header("customerUri", SectigoSim::CUSTOMER_URI).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(!format!("{sim:?}").contains(SectigoSim::PASSWORD));
}
