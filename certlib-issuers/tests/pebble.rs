//! ACME against Pebble, with HTTP-01 served by the crate's own responder.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(feature = "acme")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use certlib_core::bundle::{Expected, check_issued};
use certlib_core::clock::SystemClock;
use certlib_core::issuer::{AsyncIssuer, IssuerFactory as _, IssuerSpec, OrderHandle, OrderState, RevocationReason};
use certlib_core::model::AcmeChallenge;
use certlib_core::secret::Secret;
use certlib_core::store::{SharedStore, StoreExt as _, TypedQuery};
use certlib_core::{CertificateBundle, Context, Error, ErrorClass};
use certlib_issuers::acme::AcmeFactory;
use certlib_issuers::challenge::http01::{Http01Responder, serve};
use certlib_testkit::counterpart::{Pebble, random_mac_key};
use certlib_testkit::require;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::common::{MemoryState, finish, rejection, request, spec_at, store};

fn config(pebble: &Pebble) -> Value {
    json!({
        "directory_url": pebble.directory_url(),
        "root_pem": pebble.api_root_pem(),
        "contact": ["mailto:ops@example.com"],
        "terms_of_service_agreed": true,
        "challenge": { "type": "http-01" },
    })
}

fn with(pebble: &Pebble, change: impl FnOnce(&mut Value)) -> Value {
    let mut config = config(pebble);
    change(&mut config);
    config
}

async fn build(config: Value, state: &Arc<MemoryState>, store: &SharedStore) -> Result<Arc<dyn AsyncIssuer>, Error> {
    AcmeFactory::new().build(&Context::new("test"), spec_at(config, state, SystemClock::shared(), store.clone())).await
}

async fn responder(pebble: &Pebble, store: &SharedStore) -> DropGuard {
    let listener = TcpListener::bind(pebble.http_01_addr()).await.unwrap();
    let shutdown = CancellationToken::new();
    tokio::spawn(serve(listener, Http01Responder::new(store.clone()), shutdown.clone()));
    shutdown.drop_guard()
}

async fn pending_challenges(store: &SharedStore) -> usize {
    store.list_all(TypedQuery::<AcmeChallenge>::new()).await.unwrap().len()
}

fn kept(state: &MemoryState, revision: usize) -> Value {
    serde_json::from_slice(&state.history()[revision]).unwrap()
}

#[tokio::test]
async fn issues_what_was_asked_for_with_one_order() {
    let pebble = require!(Pebble::builder().chain_length(2).authz_reuse_percent(0).start().await);
    let (cx, store, state) = (Context::new("test"), store(), Arc::new(MemoryState::default()));
    let _responder = responder(&pebble, &store).await;
    let issuer = build(config(&pebble), &state, &store).await.unwrap();

    let (request, key) = request(&["www.example.test", "API.example.test", "127.0.0.1"]);
    let handle = issuer.submit(&cx, &request).await.unwrap();
    assert_eq!(pebble.order_count(), 1);
    assert_eq!(pending_challenges(&store).await, 0, "submitting only places the order");

    let bundle = finish(issuer.as_ref(), &cx, &handle).await;
    check_issued(&bundle, &Expected::new(&request.names, key.public_key(), cx.clock.now())).unwrap();
    assert_eq!(bundle.certificates().len(), 3, "a leaf and two intermediates");
    assert_eq!(pending_challenges(&store).await, 0, "challenges are cleaned up");

    let again = finish(issuer.as_ref(), &cx, &handle).await;
    assert_eq!(again.fingerprint(), bundle.fingerprint(), "an order that is done gives the same certificate again");
    assert_eq!(pebble.order_count(), 1);
}

#[tokio::test]
async fn another_node_finishes_what_one_began() {
    let pebble = require!(Pebble::start().await);
    let (cx, store, state) = (Context::new("test"), store(), Arc::new(MemoryState::default()));
    let (request, key) = request(&["a.example.test"]);
    let stored = {
        let issuer = build(config(&pebble), &state, &store).await.unwrap();
        let handle = issuer.submit(&cx, &request).await.unwrap();
        // Told to stop before it could do anything: the order stands as it was.
        let stopped = Context::with(SystemClock::shared(), CancellationToken::new(), "test");
        stopped.cancel.cancel();
        assert_eq!(issuer.poll(&stopped, &handle).await.unwrap_err().code(), "cancelled");
        serde_json::to_string(&handle).unwrap()
    };
    let _responder = responder(&pebble, &store).await;
    let issuer = build(config(&pebble), &state, &store).await.unwrap();
    let handle: OrderHandle = serde_json::from_str(&stored).unwrap();
    let bundle = finish(issuer.as_ref(), &cx, &handle).await;
    check_issued(&bundle, &Expected::new(&request.names, key.public_key(), cx.clock.now())).unwrap();
    assert_eq!(pebble.order_count(), 1);
    assert_eq!(state.history().len(), 2, "the account was made once");
}

#[tokio::test]
async fn an_account_is_never_lost() {
    let pebble = require!(Pebble::start().await);
    let (store, state) = (store(), Arc::new(MemoryState::default()));
    build(config(&pebble), &state, &store).await.unwrap();
    let (first, second) = (kept(&state, 0), kept(&state, 1));
    assert_eq!(first["accounts"][0]["url"], Value::Null, "the key is kept before the CA hears of it");
    assert_eq!(first["accounts"][0]["key"], second["accounts"][0]["key"]);
    let url = second["accounts"][0]["url"].as_str().unwrap();

    // A crash after the CA made the account and before its URL was kept.
    state.overwrite(&state.history()[0]);
    build(config(&pebble), &state, &store).await.unwrap();
    assert_eq!(kept(&state, 3)["accounts"][0]["url"], url);

    // Another node registers at the same time and is faster.
    let late = Arc::new(MemoryState::default());
    let winner = state.history()[1].clone();
    late.before_save(move |state| state.overwrite(&winner));
    build(config(&pebble), &late, &store).await.unwrap();
    assert_eq!(late.history().len(), 1, "the winner's account is used");

    state.overwrite(b"[]");
    assert_eq!(build(config(&pebble), &state, &store).await.unwrap_err().code(), "state_invalid");
}

#[tokio::test]
async fn external_accounts() {
    let key = random_mac_key();
    let pebble = require!(Pebble::builder().external_account("kid-1", &key).start().await);
    let store = store();
    let _responder = responder(&pebble, &store).await;
    let build = async |config: Value, key: Option<&str>| {
        let state = Arc::new(MemoryState::default());
        let mut spec: IssuerSpec = spec_at(config, &state, SystemClock::shared(), store.clone());
        spec.credentials = key.map(|key| Secret::new(json!({ "eab_hmac_key": key }).to_string()));
        AcmeFactory::new().build(&Context::new("test"), spec).await
    };

    let error = build(config(&pebble), None).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "external_account_required"));
    let external = with(&pebble, |config| config["eab_kid"] = json!("kid-1"));
    assert_eq!(build(external.clone(), None).await.unwrap_err().code(), "credentials_invalid");
    let error = build(external.clone(), Some(&random_mac_key())).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Auth, "{error}");

    // As another CA's web page would show it.
    let padded = format!("{}=", key.replace('-', "+").replace('_', "/"));
    for key in [key, padded] {
        let issuer = build(external.clone(), Some(&key)).await.unwrap();
        let cx = Context::new("test");
        let handle = issuer.submit(&cx, &request(&["a.example.test"]).0).await.unwrap();
        finish(issuer.as_ref(), &cx, &handle).await;
    }
}

#[tokio::test]
async fn refused_nonces_are_not_failures() {
    let pebble = require!(Pebble::builder().nonce_reject_percent(30).start().await);
    let (cx, store, state) = (Context::new("test"), store(), Arc::new(MemoryState::default()));
    let _responder = responder(&pebble, &store).await;
    let issuer = build(config(&pebble), &state, &store).await.unwrap();
    for number in 0..10 {
        let name = format!("n{number}.example.test");
        let handle = issuer.submit(&cx, &request(&[&name]).0).await.unwrap();
        let bundle = finish(issuer.as_ref(), &cx, &handle).await;
        assert_eq!(bundle.leaf().names, [name]);
    }
    assert_eq!(pebble.order_count(), 10);
}

#[tokio::test]
async fn a_ca_that_refuses_every_nonce_is_left_alone() {
    let pebble = require!(Pebble::builder().nonce_reject_percent(100).start().await);
    let (store, state) = (store(), Arc::new(MemoryState::default()));
    let error = build(config(&pebble), &state, &store).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "bad_nonce"));
    assert_eq!(state.history().len(), 1, "the key is kept for the next attempt");
}

#[tokio::test]
async fn a_name_that_is_not_proven_is_rejected_for_good() {
    let pebble = require!(Pebble::start().await);
    let (cx, state) = (Context::new("test"), Arc::new(MemoryState::default()));
    let (ours, elsewhere) = (store(), store());
    let issuer = build(config(&pebble), &state, &ours).await.unwrap();

    // Nobody listens.
    let handle = issuer.submit(&cx, &request(&["a.example.test"]).0).await.unwrap();
    let reason = rejection(issuer.as_ref(), &cx, &handle).await;
    assert_eq!((reason.class(), reason.code()), (ErrorClass::Validation, "connection"), "{reason}");
    assert!(reason.context().any(|(key, value)| key == "name" && value == "a.example.test"), "{reason}");

    // Somebody listens who knows nothing of it.
    let _responder = responder(&pebble, &elsewhere).await;
    let handle = issuer.submit(&cx, &request(&["b.example.test"]).0).await.unwrap();
    let reason = rejection(issuer.as_ref(), &cx, &handle).await;
    assert_eq!((reason.class(), reason.code()), (ErrorClass::Validation, "unauthorized"), "{reason}");
    assert_eq!(pending_challenges(&ours).await, 0, "challenges are cleaned up after a failure too");
    let again = rejection(issuer.as_ref(), &cx, &handle).await;
    assert_eq!(again.code(), "unauthorized", "asked again, the answer is the same");
}

#[tokio::test]
async fn what_cannot_succeed_is_not_ordered() {
    let pebble = require!(Pebble::start().await);
    let (cx, store, state) = (Context::new("test"), store(), Arc::new(MemoryState::default()));
    let issuer = build(config(&pebble), &state, &store).await.unwrap();
    let error = issuer.submit(&cx, &request(&["*.example.test"]).0).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "challenge_unsuitable"));
    let mut unknown = request(&["a.example.test"]).0;
    unknown.profile = Some("shortlived".into());
    let error = issuer.submit(&cx, &unknown).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "profile_unknown"));
    assert_eq!(pebble.order_count(), 0);

    let error = issuer.submit(&cx, &request(&["a..example.test"][..0]).0).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Validation, "{error}");

    let reluctant = with(&pebble, |config| config["terms_of_service_agreed"] = json!(false));
    let error = build(reluctant, &Arc::new(MemoryState::default()), &store).await.unwrap_err();
    assert_eq!(error.code(), "terms_not_agreed");
    let stranger = certlib_testkit::pki::TestCa::new("stranger").unwrap();
    let untrusted = with(&pebble, |config| config["root_pem"] = json!(stranger.certificate_pem()));
    let error = build(untrusted, &Arc::new(MemoryState::default()), &store).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "tls_failed"), "{error:?}");
}

#[tokio::test]
async fn a_request_for_other_names_than_ordered_is_rejected() {
    let pebble = require!(Pebble::builder().always_valid().start().await);
    let (cx, store, state) = (Context::new("test"), store(), Arc::new(MemoryState::default()));
    let issuer = build(config(&pebble), &state, &store).await.unwrap();
    let (mut order, _) = request(&["a.example.test"]);
    order.csr = request(&["b.example.test"]).0.csr;
    let handle = issuer.submit(&cx, &order).await.unwrap();
    let reason = rejection(issuer.as_ref(), &cx, &handle).await;
    assert_eq!(reason.class(), ErrorClass::Validation, "{reason}");

    let mut foreign = handle.0.clone();
    foreign["names"] = json!(["c.example.test"]);
    let error = issuer.poll(&cx, &OrderHandle(foreign)).await.unwrap_err();
    assert_eq!(error.code(), "order_names_differ");
}

#[tokio::test]
async fn revoking_twice_is_revoking_once() {
    let pebble = require!(Pebble::start().await);
    let (cx, store, state) = (Context::new("test"), store(), Arc::new(MemoryState::default()));
    let _responder = responder(&pebble, &store).await;
    let issuer = build(config(&pebble), &state, &store).await.unwrap();
    let handle = issuer.submit(&cx, &request(&["a.example.test"]).0).await.unwrap();
    let bundle: CertificateBundle = finish(issuer.as_ref(), &cx, &handle).await;

    let status = pebble.certificate_status(&bundle.leaf().serial).await.unwrap();
    assert_eq!(status["Status"], "Valid");
    let revoker = issuer.revoker().unwrap();
    for _ in 0..2 {
        revoker.revoke(&cx, &bundle, RevocationReason::Superseded).await.unwrap();
        let status = pebble.certificate_status(&bundle.leaf().serial).await.unwrap();
        assert_eq!(status["Status"], "Revoked");
    }
    assert_eq!(issuer.renewal_info().unwrap().renewal_window(&cx, &bundle).await.unwrap(), None);
}

#[tokio::test]
async fn an_order_that_is_slow_stays_pending() {
    let pebble = require!(Pebble::builder().validation_delay(Duration::from_secs(3)).start().await);
    let (cx, store, state) = (Context::new("test"), store(), Arc::new(MemoryState::default()));
    let _responder = responder(&pebble, &store).await;
    let issuer = build(config(&pebble), &state, &store).await.unwrap();
    let handle = issuer.submit(&cx, &request(&["a.example.test"]).0).await.unwrap();
    // Told to stop while it waits: the order is as good as before, whoever goes on with it.
    let stopping = Context::new("test");
    let poll = issuer.poll(&stopping, &handle);
    let stop = async {
        while !pebble.log().contains("Pulled a task") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stopping.cancel.cancel();
    };
    match tokio::join!(poll, stop).0 {
        Ok(OrderState::Pending { .. }) => {}
        Err(error) => assert_eq!(error.code(), "cancelled"),
        other => panic!("neither pending nor cancelled: {other:?}"),
    }
    let other_node = build(config(&pebble), &state, &store).await.unwrap();
    finish(other_node.as_ref(), &cx, &handle).await;
    assert_eq!(pebble.order_count(), 1);
    assert_eq!(pebble.log().matches("Pulled a task").count(), 1, "the CA was told once");
    assert_eq!(pending_challenges(&store).await, 0);
}
