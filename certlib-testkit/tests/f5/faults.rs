//! What the simulator does wrong when it is told to.

use std::time::{Duration, Instant};

use certlib_testkit::f5::{F5Sim, Fault, Injection};
use certlib_testkit::pki::TestCa;
use serde_json::{Value, json};

use crate::{answer, ask, login, request};

const SAVE: &str = "tm/sys/config";

async fn save(bigip: &F5Sim) -> u16 {
    ask(bigip, "POST", SAVE, json!({ "command": "save" })).await.0
}

#[tokio::test]
async fn faults_without_effect() {
    let bigip = F5Sim::start().await.unwrap();
    for (fault, status) in [
        (Fault::Busy, 503),
        (Fault::Error { status: 409, message: "01020066:3: exists".to_owned() }, 409),
        (Fault::Answer { status: 502, content_type: "text/html".to_owned(), body: "<html>".to_owned() }, 502),
    ] {
        bigip.operate("POST", "tm/auth/partition", json!({ "name": format!("P{status}") })).unwrap();
        bigip.inject(Injection::new(fault.clone()).on("POST", SAVE).times(1));
        assert_eq!(ask(&bigip, "GET", "tm/sys/version", Value::Null).await.0, 200, "other paths are as before");
        assert_eq!(save(&bigip).await, status, "{fault:?}");
        assert!(!bigip.is_saved());
        assert_eq!(save(&bigip).await, 200, "once only");
        assert!(bigip.is_saved());
    }
}

#[tokio::test]
async fn a_lost_reply_has_its_effect_and_a_lost_request_has_none() {
    let bigip = F5Sim::start().await.unwrap();
    for (fault, saved) in [(Fault::LoseRequest, false), (Fault::LoseReply, true)] {
        bigip.operate("POST", "tm/auth/partition", json!({ "name": format!("P{saved}") })).unwrap();
        bigip.inject(Injection::new(fault).on("POST", SAVE).times(1));
        let body = json!({ "command": "save" });
        let request = request(&bigip, "POST", SAVE, &body).basic_auth(F5Sim::USER, Some(F5Sim::PASSWORD));
        request.send().await.unwrap_err();
        assert_eq!(bigip.is_saved(), saved);
    }
    let cut: Vec<_> = bigip.history().iter().map(|record| record.status).collect();
    assert_eq!(cut, [None, None]);
    bigip.operate("POST", "tm/auth/partition", json!({ "name": "P" })).unwrap();
    bigip.inject(Injection::new(Fault::HideReply { status: 500 }).times(1));
    assert_eq!((save(&bigip).await, bigip.is_saved()), (500, true));
}

#[tokio::test]
async fn slow_answers_and_tokens_that_end() {
    let bigip = F5Sim::start().await.unwrap();
    bigip.inject(Injection::new(Fault::Slow(Duration::from_millis(200))).times(1));
    let began = Instant::now();
    assert_eq!(save(&bigip).await, 200);
    assert!(began.elapsed() >= Duration::from_millis(200));
    let (_, body) = login(&bigip, F5Sim::USER, F5Sim::PASSWORD, "tmos").await;
    let token = body["token"]["token"].as_str().unwrap();
    let look = async || {
        answer(request(&bigip, "GET", "tm/sys/version", &Value::Null).header("x-f5-auth-token", token)).await.0
    };
    bigip.inject(Injection::new(Fault::ExpireToken).after(1).times(1));
    assert_eq!([look().await, look().await, look().await], [200, 401, 401]);
}

#[tokio::test]
async fn a_commit_fails_and_somebody_else_is_faster() {
    let bigip = F5Sim::start().await.unwrap();
    bigip.install("/Common/x", &TestCa::new("root").unwrap().issue(&["x.example"]).unwrap()).unwrap();
    let (_, begun) = ask(&bigip, "POST", "tm/transaction", json!({})).await;
    let own = format!("tm/transaction/{}", begun["transId"]);
    bigip.inject(Injection::new(Fault::TransactionFails { message: "01070712:3: x".to_owned() }).on("PATCH", &own));
    let (status, body) = ask(&bigip, "PATCH", &own, json!({ "state": "VALIDATING" })).await;
    assert_eq!((status, body["message"].as_str().unwrap()), (400, "transaction failed:01070712:3: x"));
    assert_eq!(ask(&bigip, "GET", &own, Value::Null).await.1["state"], "FAILED");
    let (method, path) = ("DELETE".to_owned(), "tm/sys/file/ssl-cert/~Common~x.crt".to_owned());
    bigip
        .inject(Injection::new(Fault::Meanwhile { method, path, body: Value::Null }).on("GET", "tm/sys/file").times(1));
    assert_eq!(ask(&bigip, "GET", "tm/sys/file/ssl-cert/~Common~x.crt", Value::Null).await.0, 404);
}

#[tokio::test]
async fn transactions_time_out_and_reboots_forget() {
    let bigip = F5Sim::start().await.unwrap();
    let (_, begun) = ask(&bigip, "POST", "tm/transaction", json!({})).await;
    assert_eq!(bigip.open_transactions(), 1);
    bigip.advance(Duration::from_secs(121));
    assert_eq!(bigip.open_transactions(), 0);
    let own = format!("tm/transaction/{}", begun["transId"]);
    assert_eq!(ask(&bigip, "PATCH", &own, json!({ "state": "VALIDATING" })).await.0, 404);
    bigip.install("/Common/x", &TestCa::new("root").unwrap().issue(&["x.example"]).unwrap()).unwrap();
    assert!(bigip.files().contains(&"/Common/x.crt".to_owned()));
    bigip.reboot();
    assert_eq!(bigip.files(), ["/Common/default.crt", "/Common/default.key"]);
}
