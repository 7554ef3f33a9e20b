//! What goes wrong on demand.

use std::time::Duration;

use certlib_testkit::globalsign::{Fault, GlobalSignSim, Injection};
use serde_json::{Value, json};

use crate::support::{JSON, Session, body, now};

async fn quota(session: &Session<'_>) -> Option<(u16, Option<String>, String)> {
    let response = session.send("GET", "quotas/issuance", &Value::Null, JSON).await?;
    let wait = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    Some((response.status().as_u16(), wait, response.text().await.ok()?))
}

#[tokio::test]
async fn refusals() {
    let ca = GlobalSignSim::start().await.unwrap();
    let session = Session::new(&ca).await;
    let table = [
        (Fault::RateLimited { retry_after: Some(Duration::from_secs(7)) }, 429, Some("7"), "too many requests"),
        (Fault::RateLimited { retry_after: None }, 429, None, "description"),
        (Fault::Broken { status: 503 }, 503, None, "temporarily unavailable"),
        (Fault::Maintenance, 503, None, "<html>"),
        (Fault::Unauthorized, 401, None, "unauthorized"),
        (Fault::Forbidden, 403, None, "forbidden"),
        (Fault::Garbled, 200, None, "upstream"),
    ];
    for (fault, status, wait, part) in table {
        ca.inject(Injection::new(fault).on("GET", "quotas/").times(1));
        let (seen, retry, text) = quota(&session).await.unwrap();
        assert_eq!((seen, retry.as_deref()), (status, wait));
        assert!(text.contains(part), "{text}");
        assert_eq!(quota(&session).await.unwrap().2, json!({ "value": 1000 }).to_string());
    }
}

#[tokio::test]
async fn what_was_accepted_without_an_answer_is_in_the_list() {
    let ca = GlobalSignSim::start().await.unwrap();
    let session = Session::new(&ca).await;
    let (_, request) = body(now(), &["a.example.com"]);
    ca.inject(Injection::new(Fault::LoseRequest).on("POST", "certificates").times(1));
    assert!(session.send("POST", "certificates", &request, JSON).await.is_none());
    assert_eq!(ca.certificates().len(), 0);
    ca.inject(Injection::new(Fault::LoseReply).on("POST", "certificates").times(1));
    assert!(session.send("POST", "certificates", &request, JSON).await.is_none());
    let (_, list) = session.ask("GET", "stats/issued", Value::Null).await;
    assert_eq!(list[0]["serial_number"], json!(ca.certificates()[0].serial));
    let posts: Vec<_> = ca.history().into_iter().filter(|record| record.path == "certificates").collect();
    assert_eq!(posts.iter().map(|record| record.status).collect::<Vec<_>>(), [None, None]);
    assert_eq!((ca.count("POST", "login"), ca.count("GET", "stats/")), (1, 1));
}
