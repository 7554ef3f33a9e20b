//! Quotas, counters, lists.

use std::time::Duration;

use certlib_testkit::globalsign::GlobalSignSim;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::support::{JSON, Session, body};

const START: i64 = 1_900_000_000;

#[tokio::test]
async fn the_quota_ends() {
    let ca = GlobalSignSim::builder().quota(1).start().await.unwrap();
    let session = Session::new(&ca).await;
    let request = || body(crate::support::now(), &["a.example.com"]).1;
    assert_eq!(session.ask("GET", "quotas/issuance", Value::Null).await, (200, json!({ "value": 1 })));
    session.request(&request()).await;
    assert_eq!(session.ask("GET", "quotas/issuance", Value::Null).await.1["value"], 0);
    let (status, answer) = session.ask("POST", "certificates", request()).await;
    assert!(status == 422 && answer["description"].as_str().unwrap().contains("quota"), "{answer}");
    ca.set_quota(1);
    session.request(&request()).await;

    let none = GlobalSignSim::builder().quota(0).quota_status(403).start().await.unwrap();
    assert_eq!(Session::new(&none).await.ask("POST", "certificates", request()).await.0, 403);
}

#[tokio::test]
async fn lists_come_in_pages_with_a_total() {
    let start = OffsetDateTime::from_unix_timestamp(START).unwrap();
    let ca = GlobalSignSim::builder().clock(move || start).start().await.unwrap();
    let mut session = Session::new(&ca).await;
    let mut serials = Vec::new();
    for number in 0..5 {
        serials.push(session.request(&body(START + number * 60, &["a.example.com"]).1).await);
        ca.advance(Duration::from_secs(60));
    }
    let list = async |session: &Session<'_>, query: &str| {
        let answer = session.send("GET", &format!("stats/{query}"), &Value::Null, JSON).await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{query}");
        let total: usize = answer.headers()["total-count"].to_str().unwrap().parse().unwrap();
        let items: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let items = items.as_array().unwrap().iter().map(|item| item["serial_number"].as_str().unwrap().to_owned());
        (total, items.collect::<Vec<_>>())
    };
    assert_eq!(list(&session, "issued").await, (5, serials.clone()));
    assert_eq!(list(&session, "issued?page=2&per_page=2").await, (5, serials[2..4].to_vec()));
    assert_eq!(list(&session, "issued?page=3&per_page=2").await, (5, serials[4..].to_vec()));
    assert_eq!(list(&session, "issued?page=9&per_page=2").await.1.len(), 0);
    let (from, to) = (START + 60, START + 120);
    assert_eq!(list(&session, &format!("issued?from={from}&to={to}")).await, (2, serials[1..3].to_vec()));
    assert_eq!(list(&session, "expiring").await.0, 0);
    assert_eq!(list(&session, "revoked").await.0, 0);
    for query in ["issued?per_page=101", "issued?page=0", &format!("issued?from={}&to={START}", START - 31 * 86_400)] {
        assert_eq!(session.ask("GET", &format!("stats/{query}"), Value::Null).await.0, 422, "{query}");
    }
    let path = format!("certificates/{}", serials[0]);
    assert_eq!(session.ask("DELETE", &path, Value::Null).await.0, 204);
    assert_eq!(list(&session, "revoked").await, (1, serials[..1].to_vec()));
    assert_eq!(session.ask("GET", "counters/certificates/issued", Value::Null).await.1, json!({ "value": 5 }));
    assert_eq!(session.ask("GET", "counters/certificates/revoked", Value::Null).await.1, json!({ "value": 1 }));
    ca.advance(Duration::from_secs(61 * 86_400));
    session.token = session.login().await;
    assert_eq!(list(&session, "expiring").await.0, 5);
    assert_eq!(list(&session, "issued").await.0, 0, "too long ago");
}
