//! Tokens, client certificates, and who may do what.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::ManualClock;
use certlib_core::error::Effect;
use certlib_core::{Context, ErrorClass};
use certlib_testkit::globalsign::{Fault, GlobalSignSim, Injection};
use certlib_testkit::pki::TestCa;
use futures::future::join_all;
use serde_json::json;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::common::{finish, request};
use crate::support::{credentials, credentials_with, issuer, issuer_with};

#[tokio::test]
async fn one_login_serves_all_calls_and_is_renewed_in_time() {
    let ca = GlobalSignSim::start().await.unwrap();
    let clock = ManualClock::new(OffsetDateTime::now_utc());
    let cx = Context::with(Arc::new(clock.clone()), CancellationToken::new(), "test");
    let issuer = issuer(&ca, json!({})).await;
    let requests: Vec<_> = (0..8).map(|_| request(&["a.example.com"]).0).collect();
    for submitted in join_all(requests.iter().map(|request| issuer.submit(&cx, request))).await {
        submitted.unwrap();
    }
    assert_eq!((ca.count("POST", "login"), ca.count("GET", "validationpolicy")), (1, 1));

    clock.advance(Duration::from_secs(9 * 60 - 1));
    issuer.submit(&cx, &requests[0]).await.unwrap();
    assert_eq!(ca.count("POST", "login"), 1);
    clock.advance(Duration::from_secs(2));
    for submitted in join_all(requests.iter().map(|request| issuer.submit(&cx, request))).await {
        submitted.unwrap();
    }
    assert_eq!((ca.count("POST", "login"), ca.count("GET", "validationpolicy")), (2, 1));
    clock.advance(Duration::from_secs(3600));
    issuer.submit(&cx, &requests[0]).await.unwrap();
    assert_eq!((ca.count("POST", "login"), ca.count("GET", "validationpolicy")), (3, 2));
}

#[tokio::test]
async fn a_token_that_counts_no_more_is_replaced_once() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let (wanted, _) = request(&["a.example.com"]);
    let handle = issuer.submit(&cx, &wanted).await.unwrap();
    ca.expire_tokens();
    let asked: Vec<_> = join_all((0..4).map(|_| issuer.poll(&cx, &handle))).await;
    assert!(asked.iter().all(Result::is_ok), "{asked:?}");
    assert_eq!(ca.count("POST", "login"), 2);
    ca.expire_tokens();
    issuer.submit(&cx, &wanted).await.unwrap();
    assert_eq!((ca.count("POST", "login"), ca.certificates().len()), (3, 2));

    // Refused with a fresh token as well: no third time.
    ca.inject(Injection::new(Fault::Unauthorized).on("GET", "certificates/"));
    let error = issuer.poll(&cx, &handle).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Auth);
    assert_eq!(ca.count("POST", "login"), 4);
}

#[tokio::test]
async fn a_login_that_is_refused_ends_the_attempt_and_shows_nothing() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let (wanted, _) = request(&["a.example.com"]);
    let stranger = issuer_with(&ca, credentials(&ca, "CANARY-SECRET"), json!({})).await;
    let error = stranger.submit(&cx, &wanted).await.unwrap_err();
    assert_eq!((error.class(), error.code(), error.effect()), (ErrorClass::Auth, "login_refused", Effect::None));
    assert_eq!(ca.count("POST", "login"), 1, "not asked twice");

    let good = issuer(&ca, json!({})).await;
    let handle = good.submit(&cx, &wanted).await.unwrap();
    let error = stranger.poll(&cx, &handle).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "login_refused"));
    let shown = format!("{error:?} {error} {stranger:?} {good:?}");
    for secret in ["CANARY", ca.api_key(), ca.api_secret(), "PRIVATE KEY"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[tokio::test]
async fn a_login_in_trouble_is_tried_again_later() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let (wanted, _) = request(&["a.example.com"]);
    for fault in [Fault::Broken { status: 503 }, Fault::RateLimited { retry_after: None }, Fault::LoseReply] {
        ca.inject(Injection::new(fault.clone()).on("POST", "login").times(1));
        let error = issuer.submit(&cx, &wanted).await.unwrap_err();
        assert!(error.class().is_retryable(), "{fault:?}: {error:?}");
        assert_eq!(error.effect(), Effect::None, "{fault:?}: nothing was ordered");
    }
    ca.inject(Injection::new(Fault::Garbled).on("POST", "login").times(1));
    let error = issuer.submit(&cx, &wanted).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("answer_invalid", Effect::None));
    finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await;
    assert_eq!(ca.certificates().len(), 1);
}

#[tokio::test]
async fn a_foreign_client_certificate_is_refused() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let foreign = TestCa::new("other clients").unwrap().issue_client("stranger").unwrap();
    let stranger = issuer_with(&ca, credentials_with(&ca, ca.api_secret(), &foreign), json!({})).await;
    let (wanted, _) = request(&["a.example.com"]);
    let error = stranger.submit(&cx, &wanted).await.unwrap_err();
    assert_eq!((error.class(), error.effect()), (ErrorClass::Auth, Effect::None), "{error:?}");
    assert!(ca.history().is_empty() && ca.certificates().is_empty());
}

#[tokio::test]
async fn an_account_that_may_only_read_is_told_apart() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let (wanted, _) = request(&["a.example.com"]);
    let handle = issuer.submit(&cx, &wanted).await.unwrap();
    ca.set_read_only(true);
    let bundle = finish(issuer.as_ref(), &cx, &handle).await;
    assert_eq!(issuer.submit(&cx, &wanted).await.unwrap_err().class(), ErrorClass::Auth);
    let reason = certlib_core::issuer::RevocationReason::Superseded;
    let error = issuer.revoker().unwrap().revoke(&cx, &bundle, reason).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Auth);
}
