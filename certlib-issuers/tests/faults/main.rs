//! ACME against a CA that misbehaves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(all(feature = "acme", feature = "local-ca"))]

#[path = "../common/mod.rs"]
mod common;
mod fake;

use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::{Clock, ManualClock, SystemClock};
use certlib_core::issuer::{AsyncIssuer, IssueRequest, IssuerFactory as _, OrderHandle, OrderState, RevocationReason};
use certlib_core::{CertificateBundle, Context, Error, ErrorClass};
use certlib_issuers::acme::AcmeFactory;
use certlib_issuers::local_ca::LocalCa;
use serde_json::{Value, json};
use time::macros::datetime;
use tokio_util::sync::CancellationToken;

use self::common::{MemoryState, finish, rejection, request, spec, spec_at, store};
use self::fake::{FakeCa, Reply};

fn config(ca: &FakeCa) -> Value {
    json!({ "directory_url": ca.url("/dir"), "root_pem": ca.root_pem(), "challenge": { "type": "http-01" } })
}

async fn try_issuer(config: Value) -> Result<Arc<dyn AsyncIssuer>, Error> {
    let spec = spec_at(config, &Arc::new(MemoryState::default()), SystemClock::shared(), store());
    AcmeFactory::new().build(&Context::new("test"), spec).await
}

async fn issuer(ca: &FakeCa) -> Arc<dyn AsyncIssuer> {
    try_issuer(config(ca)).await.unwrap()
}

fn order() -> IssueRequest {
    request(&["a.example"]).0
}

async fn placed(ca: &FakeCa) -> (Arc<dyn AsyncIssuer>, OrderHandle, Context) {
    let (issuer, cx) = (issuer(ca).await, Context::new("test"));
    let handle = issuer.submit(&cx, &order()).await.unwrap();
    (issuer, handle, cx)
}

fn verdict(error: &Error) -> (ErrorClass, &str, Option<Duration>) {
    (error.class(), error.code(), error.retry_after())
}

const HTML: &str = "<html><body><h1>It works!</h1></body></html>";

#[tokio::test]
async fn come_back_later_is_heard_in_both_spellings() {
    let ca = FakeCa::start().await;
    let issuer = issuer(&ca).await;
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(datetime!(2027-03-01 12:00 UTC)));
    let cx = Context::with(clock, CancellationToken::new(), "test");

    let busy = Reply::problem(429, "rateLimited");
    ca.on("/order", [busy.clone().header("Retry-After", "120")]);
    let error = issuer.submit(&cx, &order()).await.unwrap_err();
    assert_eq!(verdict(&error), (ErrorClass::IoTransient, "rate_limited", Some(Duration::from_secs(120))));

    ca.on("/order", [busy.clone().header("Retry-After", "Mon, 01 Mar 2027 12:05:00 GMT")]);
    let error = issuer.submit(&cx, &order()).await.unwrap_err();
    assert_eq!(verdict(&error), (ErrorClass::IoTransient, "rate_limited", Some(Duration::from_secs(300))));

    ca.on("/order", [busy.header("Retry-After", "soon")]);
    let error = issuer.submit(&cx, &order()).await.unwrap_err();
    assert_eq!(verdict(&error), (ErrorClass::IoTransient, "rate_limited", None));

    ca.on("/order", [Reply::new(503, HTML).header("Retry-After", "7")]);
    let error = issuer.submit(&cx, &order()).await.unwrap_err();
    assert_eq!(verdict(&error), (ErrorClass::IoTransient, "acme_problem", Some(Duration::from_secs(7))));
    assert!(!format!("{error:?}").contains("It works"), "the page is not repeated: {error:?}");
    assert_eq!(ca.seen("/order").len(), 4, "nothing is repeated behind the caller's back");
}

#[tokio::test]
async fn answers_that_are_none_end_no_order() {
    let ca = FakeCa::start().await;
    let (issuer, handle, cx) = placed(&ca).await;
    let order_url = "/order/1";
    for (reply, class, code) in [
        (ca.order("valid").truncated(), ErrorClass::Network, "answer_incomplete"),
        (Reply::new(200, HTML), ErrorClass::IoTransient, "answer_invalid"),
        (Reply::new(500, ""), ErrorClass::IoTransient, "acme_problem"),
        (Reply::new(502, HTML), ErrorClass::IoTransient, "acme_problem"),
        (ca.order("confused"), ErrorClass::IoTransient, "answer_invalid"),
        (Reply::problem(400, "serverInternal"), ErrorClass::IoTransient, "server_internal"),
    ] {
        ca.on(order_url, [reply]);
        let error = issuer.poll(&cx, &handle).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (class, code), "{error:?}");
    }
    ca.on(order_url, [ca.order("valid")]);

    let chain = ca.chain_pem();
    for (reply, class, code) in [
        (Reply::new(200, HTML), ErrorClass::IoTransient, "answer_invalid"),
        (Reply::new(200, &chain[..chain.len() / 2]), ErrorClass::IoTransient, "answer_invalid"),
        (Reply::new(200, chain).truncated(), ErrorClass::Network, "answer_incomplete"),
        (Reply::new(200, "x".repeat(2 * 1024 * 1024)), ErrorClass::IoPermanent, "response_too_large"),
    ] {
        ca.on("/certificate", [reply]);
        let error = issuer.poll(&cx, &handle).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (class, code), "{error:?}");
    }
    ca.on("/certificate", [Reply::new(200, chain)]);
    finish(issuer.as_ref(), &cx, &handle).await;
}

#[tokio::test]
async fn peers_that_are_not_the_ca_are_not_spoken_to() {
    let imposter = FakeCa::start_as("ca.example").await;
    let error = try_issuer(config(&imposter)).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "tls_failed"), "another name: {error:?}");

    let (ca, other) = (FakeCa::start().await, FakeCa::start().await);
    let mut untrusted = config(&ca);
    untrusted["root_pem"] = json!(other.root_pem());
    let error = try_issuer(untrusted).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "tls_failed"), "another root: {error:?}");

    ca.on("/dir", [Reply::new(302, "").header("Location", &other.url("/dir"))]);
    let error = try_issuer(config(&ca)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::IoPermanent, "redirects are not followed: {error:?}");

    let mut nobody = config(&ca);
    let addr = certlib_testkit::ports::free_addr().unwrap();
    nobody["directory_url"] = json!(format!("https://{addr}/dir"));
    let error = try_issuer(nobody).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Network, "connect_failed"), "{error:?}");
}

#[tokio::test]
async fn a_refused_nonce_is_replaced_by_the_one_that_came_with_the_refusal() {
    let ca = FakeCa::start().await;
    let issuer = issuer(&ca).await;
    let mut replies = vec![Reply::problem(400, "badNonce"); 10];
    replies.push(ca.order("pending").header("Location", &ca.url("/order/1")));
    ca.on("/order", replies);
    let cx = Context::new("test");
    issuer.submit(&cx, &order()).await.unwrap();
    let nonces: Vec<String> = ca.seen("/order").into_iter().map(|seen| seen.nonce).collect();
    assert_eq!(nonces.len(), 11);
    let distinct: std::collections::BTreeSet<&String> = nonces.iter().collect();
    assert_eq!(distinct.len(), nonces.len(), "no nonce is used twice");
    let number = |nonce: &String| nonce.trim_start_matches("nonce-").parse::<u64>().unwrap();
    assert!(nonces.windows(2).skip(1).all(|pair| number(&pair[1]) == number(&pair[0]) + 1), "{nonces:?}");

    ca.on("/order", [Reply::problem(400, "badNonce")]);
    let error = issuer.submit(&cx, &order()).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "bad_nonce"));
    assert_eq!(ca.seen("/order").len(), 22, "eleven tries and no more");
}

#[tokio::test]
async fn what_the_ca_does_not_want_to_know_is_left_out() {
    let ca = FakeCa::start().await;
    let issuer = issuer(&ca).await;
    let cx = Context::new("test");
    let local = LocalCa::open(&spec(json!({}), &Arc::new(MemoryState::default()))).await.unwrap();
    let predecessor = finish(&local, &cx, &local.submit(&cx, &order()).await.unwrap()).await;
    let mut renewal = order();
    renewal.replaces = Some(predecessor.leaf_der().to_vec());
    renewal.profile = Some("short".to_owned());

    let accepted = ca.order("pending").header("Location", &ca.url("/order/1"));
    ca.on("/order", [Reply::problem(409, "alreadyReplaced"), accepted.clone()]);
    issuer.submit(&cx, &renewal).await.unwrap();
    let seen = ca.seen("/order");
    assert_eq!(seen.len(), 2);
    let id = seen[0].payload["replaces"].as_str().unwrap();
    assert_eq!(id.split('.').count(), 2, "{id}");
    assert_eq!(seen[1].payload.get("replaces"), None);
    for seen in &seen {
        assert_eq!(seen.payload["profile"], "short");
        assert_eq!(seen.payload["identifiers"], json!([{ "type": "dns", "value": "a.example" }]));
    }

    // A CA that is busy is busy for any order.
    ca.on("/order", [Reply::problem(429, "rateLimited"), accepted.clone()]);
    assert_eq!(issuer.submit(&cx, &renewal).await.unwrap_err().class(), ErrorClass::IoTransient);
    assert_eq!(ca.seen("/order").len(), 3);

    // One that takes the order and does not say what it replaces has taken it.
    ca.on("/order", [accepted]);
    let handle = issuer.submit(&cx, &renewal).await.unwrap();
    assert_eq!(ca.seen("/order").len(), 4, "no second order");
    finish(issuer.as_ref(), &cx, &handle).await;
}

#[tokio::test]
async fn what_the_directory_does_not_offer_is_not_used() {
    let ca = FakeCa::start().await;
    let mut directory = ca.directory();
    let entries = directory.as_object_mut().unwrap();
    entries.remove("revokeCert").and(entries.remove("renewalInfo")).unwrap();
    ca.on("/dir", [Reply::new(200, directory)]);
    let (issuer, cx) = (issuer(&ca).await, Context::new("test"));
    let local = LocalCa::open(&spec(json!({}), &Arc::new(MemoryState::default()))).await.unwrap();
    let bundle = finish(&local, &cx, &local.submit(&cx, &order()).await.unwrap()).await;

    let mut renewal = order();
    renewal.replaces = Some(bundle.leaf_der().to_vec());
    issuer.submit(&cx, &renewal).await.unwrap();
    let seen = ca.seen("/order");
    assert_eq!((seen.len(), seen[0].payload.get("replaces")), (1, None));
    assert_eq!(issuer.renewal_info().unwrap().renewal_window(&cx, &bundle).await.unwrap(), None);
    let error = issuer.revoker().unwrap().revoke(&cx, &bundle, RevocationReason::Superseded).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoPermanent, "revocation_unsupported"));
}

#[tokio::test]
async fn an_issuer_is_made_while_the_ca_is_away_once_it_knows_us() {
    let ca = FakeCa::start().await;
    let state = Arc::new(MemoryState::default());
    let cx = Context::new("test");
    let build =
        async || AcmeFactory::new().build(&cx, spec_at(config(&ca), &state, SystemClock::shared(), store())).await;
    build().await.unwrap();
    ca.on("/dir", [Reply::new(503, HTML).header("Retry-After", "30")]);
    let issuer = build().await.unwrap();
    let error = issuer.submit(&cx, &order()).await.unwrap_err();
    assert_eq!(verdict(&error), (ErrorClass::IoTransient, "acme_problem", Some(Duration::from_secs(30))));
    ca.on("/dir", [Reply::new(200, ca.directory())]);
    issuer.submit(&cx, &order()).await.unwrap();
    assert_eq!(ca.seen("/account").len(), 1);
}

#[tokio::test]
async fn a_ca_that_was_told_was_told_whatever_it_answers() {
    for answer in [
        json!({}),
        json!({ "type": "http-01", "url": "https://ca.example/c", "token": "token-1", "status": "invalid",
            "error": { "type": format!("{}connection", fake::PROBLEM), "detail": "nobody there" } }),
    ] {
        let ca = FakeCa::start().await;
        let (issuer, handle, cx) = placed(&ca).await;
        ca.on("/order/1", [ca.order("pending"), ca.order("pending"), ca.order("valid")]);
        ca.on("/authorization", [ca.authorization("pending", "http-01")]);
        ca.on("/challenge", [Reply::new(200, answer)]);
        finish(issuer.as_ref(), &cx, &handle).await;
        let told = ca.seen("/challenge");
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].payload, json!({}));
    }
}

#[tokio::test]
async fn a_slow_ca_decides_when_to_come_back_and_nobody_waits() {
    let ca = FakeCa::start().await;
    let (issuer, handle, cx) = placed(&ca).await;
    ca.on("/order/1", [ca.order("ready"), ca.order("processing").header("Retry-After", "3600")]);
    ca.on("/finalize", [ca.order("processing").header("Retry-After", "3600")]);
    let started = cx.clock.monotonic();
    for _ in 0..2 {
        match issuer.poll(&cx, &handle).await.unwrap() {
            OrderState::Pending { retry_after } => assert_eq!(retry_after, Some(Duration::from_secs(3600))),
            other => panic!("not pending: {other:?}"),
        }
    }
    assert!(cx.clock.monotonic() - started < Duration::from_secs(5));
    assert_eq!(ca.seen("/finalize").len(), 1, "finalized once");
    ca.on("/order/1", [ca.order("valid")]);
    finish(issuer.as_ref(), &cx, &handle).await;
}

#[tokio::test]
async fn a_ca_that_takes_back_that_an_order_is_ready_is_asked_again() {
    let ca = FakeCa::start().await;
    let (issuer, handle, cx) = placed(&ca).await;
    ca.on("/order/1", [ca.order("ready"), ca.order("pending"), ca.order("ready")]);
    ca.on("/finalize", [Reply::problem(403, "orderNotReady"), ca.order("valid")]);
    finish(issuer.as_ref(), &cx, &handle).await;
    assert_eq!(ca.seen("/finalize").len(), 2);
}

#[tokio::test]
async fn orders_that_cannot_be_proven_are_rejected() {
    let ca = FakeCa::start().await;
    let (issuer, handle, cx) = placed(&ca).await;
    ca.on("/order/1", [ca.order("pending")]);
    ca.on("/authorization", [ca.authorization("pending", "dns-01")]);
    let reason = rejection(issuer.as_ref(), &cx, &handle).await;
    assert_eq!((reason.class(), reason.code()), (ErrorClass::Validation, "challenge_unavailable"));
    ca.on("/authorization", [ca.authorization("deactivated", "http-01")]);
    let reason = rejection(issuer.as_ref(), &cx, &handle).await;
    assert_eq!((reason.class(), reason.code()), (ErrorClass::Validation, "authorization_failed"));
    assert!(ca.seen("/challenge").is_empty());

    ca.on("/order/1", [Reply::problem(404, "malformed")]);
    let error = issuer.poll(&cx, &handle).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Validation, "the order is gone: {error}");
}

#[tokio::test]
async fn windows_that_are_odd() {
    let ca = FakeCa::start().await;
    let issuer = issuer(&ca).await;
    let cx = Context::new("test");
    let local = LocalCa::open(&spec(json!({}), &Arc::new(MemoryState::default()))).await.unwrap();
    let bundle: CertificateBundle = finish(&local, &cx, &local.submit(&cx, &order()).await.unwrap()).await;
    // The fake tells certificates apart by path; so must we.
    let id = {
        let mut renewal = order();
        renewal.replaces = Some(bundle.leaf_der().to_vec());
        issuer.submit(&cx, &renewal).await.unwrap();
        ca.seen("/order")[0].payload["replaces"].as_str().unwrap().to_owned()
    };
    let path = format!("/renewal/{id}");
    let window = |start: &str, end: &str| {
        Reply::new(
            200,
            json!({ "suggestedWindow": { "start": start, "end": end }, "explanationURL": "https://ca.example/why" }),
        )
    };
    let renewal = issuer.renewal_info().unwrap();
    let ask = async |reply: Reply| {
        ca.on(&path, [reply]);
        renewal.renewal_window(&cx, &bundle).await
    };
    let (start, end) = ("2027-01-02T04:00:00Z", "2027-01-03T04:00:00+01:00");

    let found = ask(window(start, end)).await.unwrap().unwrap();
    assert_eq!((found.start, found.end), (datetime!(2027-01-02 04:00 UTC), datetime!(2027-01-03 03:00 UTC)));
    assert_eq!(found.retry_after, None, "a CA that does not say when to ask again has still answered");
    assert_eq!(found.explanation_url.as_deref(), Some("https://ca.example/why"));
    let found = ask(window(start, end).header("Retry-After", "21600")).await.unwrap().unwrap();
    assert_eq!(found.retry_after, Some(Duration::from_secs(21_600)));
    let found = ask(window(start, end).header("Retry-After", "99999999")).await.unwrap().unwrap();
    assert_eq!(found.retry_after, Some(Duration::from_secs(86_400)));

    assert_eq!(ask(window(end, start)).await.unwrap(), None, "a window that ends before it starts is no answer");
    assert_eq!(ask(window(start, start)).await.unwrap(), None);
    assert_eq!(ask(Reply::problem(404, "malformed")).await.unwrap(), None, "the CA does not know the certificate");
    let busy = ask(Reply::new(429, "").header("Retry-After", "60")).await.unwrap_err();
    assert_eq!((busy.class(), busy.retry_after()), (ErrorClass::IoTransient, Some(Duration::from_secs(60))));
    assert_eq!(ask(Reply::new(200, HTML)).await.unwrap_err().class(), ErrorClass::IoTransient);
}

#[tokio::test]
async fn revocation_that_was_done_already_is_done() {
    let ca = FakeCa::start().await;
    let issuer = issuer(&ca).await;
    let cx = Context::new("test");
    let bundle = CertificateBundle::from_pem(ca.chain_pem().as_bytes()).unwrap();
    let revoker = issuer.revoker().unwrap();
    ca.on("/revoke", [Reply::new(200, "")]);
    revoker.revoke(&cx, &bundle, RevocationReason::KeyCompromise).await.unwrap();
    revoker.revoke(&cx, &bundle, RevocationReason::Unspecified).await.unwrap();
    let seen = ca.seen("/revoke");
    assert_eq!(seen[0].payload["reason"], 1);
    assert_eq!(seen[1].payload.get("reason"), None);

    ca.on("/revoke", [Reply::problem(400, "alreadyRevoked")]);
    revoker.revoke(&cx, &bundle, RevocationReason::Superseded).await.unwrap();
    ca.on("/revoke", [Reply::problem(403, "unauthorized")]);
    let error = revoker.revoke(&cx, &bundle, RevocationReason::Superseded).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "unauthorized"));
    ca.on("/revoke", [Reply::new(503, "")]);
    let error = revoker.revoke(&cx, &bundle, RevocationReason::Superseded).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::IoTransient);
}

#[tokio::test]
async fn an_account_that_the_ca_closed_is_not_used() {
    let ca = FakeCa::start().await;
    ca.on("/account", [Reply::new(200, json!({ "status": "deactivated" })).header("Location", &ca.url("/account/1"))]);
    let error = try_issuer(config(&ca)).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "account_unusable"));
}
