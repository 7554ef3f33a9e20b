//! What goes wrong on demand.

use std::time::{Duration, Instant};

use certlib_testkit::digicert::{DigiCertSim, Fault, Injection};
use serde_json::Value;

use crate::support::{ask, order, request, send};

async fn me(ca: &DigiCertSim) -> Option<(u16, Option<String>, String)> {
    let response = send(ca, ca.api_key(), "GET", "user/me", &Value::Null).await?;
    let wait = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    Some((response.status().as_u16(), wait, response.text().await.ok()?))
}

#[tokio::test]
async fn refusals() {
    let ca = DigiCertSim::start().await.unwrap();
    let page = Fault::Answer { status: 200, content_type: "text/html".to_owned(), body: "<p>hello".to_owned() };
    let table = [
        (Fault::RateLimited { retry_after: None }, 429, None, "request_limit_exceeded"),
        (Fault::RateLimited { retry_after: Some(Duration::from_secs(7)) }, 429, Some("7"), "request_limit_exceeded"),
        (Fault::Broken { status: 502 }, 502, None, "errors"),
        (Fault::Maintenance, 503, None, "<html>"),
        (Fault::Unauthorized, 401, None, "invalid_api_key"),
        (Fault::Forbidden, 403, None, "missing_permission"),
        (Fault::Garbled, 200, None, "upstream"),
        (page, 200, None, "<p>hello"),
    ];
    for (fault, status, wait, part) in table {
        ca.inject(Injection::new(fault.clone()).on("GET", "user/me").times(2));
        for _ in 0..2 {
            let (seen, retry, text) = me(&ca).await.unwrap();
            assert_eq!((seen, retry.as_deref()), (status, wait), "{fault:?}");
            assert!(text.contains(part), "{text}");
        }
        let (status, _, text) = me(&ca).await.unwrap();
        assert!(status == 200 && serde_json::from_str::<Value>(&text).is_ok());
    }
    ca.inject(Injection::new(Fault::Truncated).times(1));
    assert!(serde_json::from_str::<Value>(&me(&ca).await.unwrap().2).is_err());
    ca.inject(Injection::new(Fault::Maintenance).after(1));
    assert_eq!((me(&ca).await.unwrap().0, me(&ca).await.unwrap().0), (200, 503));
    ca.clear_faults();
    assert_eq!(me(&ca).await.unwrap().0, 200);
    assert_eq!(ca.count("GET", "user/me"), ca.history().len());
}

#[tokio::test]
async fn an_order_whose_answer_is_lost_is_there() {
    let ca = DigiCertSim::start().await.unwrap();
    let (_, csr) = request(&["a.example.com"]);
    let body = order(&csr, &["a.example.com"]);
    let path = "order/certificate/ssl_basic";
    ca.inject(Injection::new(Fault::LoseRequest).on("POST", "order/certificate").times(1));
    assert!(send(&ca, ca.api_key(), "POST", path, &body).await.is_none());
    assert_eq!(ca.orders().len(), 0);
    ca.inject(Injection::new(Fault::LoseReply).on("POST", "order/certificate").times(1));
    assert!(send(&ca, ca.api_key(), "POST", path, &body).await.is_none());
    assert_eq!(ca.orders().len(), 1);
    let (_, list) = ask(&ca, "GET", "order/certificate?filters[common_name]=a.example.com", Value::Null).await;
    assert_eq!(list["orders"][0]["id"], ca.orders()[0].id);
    let posts: Vec<_> = ca.history().into_iter().filter(|record| record.method == "POST").collect();
    assert_eq!(posts.iter().map(|record| record.status).collect::<Vec<_>>(), [None, None]);
}

#[tokio::test]
async fn slow_answers_and_other_paths() {
    let ca = DigiCertSim::builder().plain_http().start().await.unwrap();
    ca.inject(Injection::new(Fault::Slow(Duration::from_millis(50))).times(1));
    let begin = Instant::now();
    assert_eq!(me(&ca).await.unwrap().0, 200);
    assert!(begin.elapsed() >= Duration::from_millis(50));
    let other = reqwest::get(format!("http://{}/elsewhere", ca.addr())).await.unwrap();
    assert_eq!(
        (other.status().as_u16(), &other.headers()["content-type"]),
        (404, &"text/html; charset=UTF-8".parse().unwrap())
    );
    assert!(other.text().await.unwrap().starts_with("<html>"));
    assert!(!format!("{ca:?} {:?}", ca.history()).contains(ca.api_key()));
}
