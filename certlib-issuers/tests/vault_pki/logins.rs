//! Logins: got once, shared, renewed, replaced, refused, never shown.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::ManualClock;
use certlib_core::{Context, ErrorClass};
use certlib_testkit::vault::{Fault, Injection, VaultSim};
use serde_json::json;
use time::OffsetDateTime;

use crate::common::{finish, request};
use crate::support::{Server, approle, token};

const SIGNS: &[(&str, &[&str])] = &[("pki/sign/web", &["update"])];

fn at(clock: &Arc<ManualClock>) -> Context {
    let mut cx = Context::new("test");
    cx.clock = clock.clone();
    cx
}

#[tokio::test]
async fn one_login_serves_all_who_ask_and_a_new_one_what_was_ended() {
    let server = Server::from_builder(VaultSim::builder().policy("signs", SIGNS)).await;
    let sim = server.sim();
    let (role, secret) = sim.create_approle("certlib", json!({ "token_policies": ["signs"] })).unwrap();
    let issuer = server.issuer_with(json!({}), &approle(&role, &secret)).await;
    let cx = Context::new("test");
    let (wanted, _) = request(&["a.shop.example"]);
    let all = (0..8).map(|_| issuer.submit(&cx, &wanted));
    for handle in futures::future::join_all(all).await {
        finish(issuer.as_ref(), &cx, &handle.unwrap()).await;
    }
    assert_eq!((sim.count("auth/approle/login"), sim.count("pki/sign/web")), (1, 8));
    sim.expire_tokens();
    let all = (0..8).map(|_| issuer.submit(&cx, &wanted));
    assert!(futures::future::join_all(all).await.iter().all(Result::is_ok));
    assert_eq!(sim.count("auth/approle/login"), 2, "one of them logged in again, for all");
}

#[tokio::test]
async fn tokens_are_renewed_when_two_thirds_of_their_time_are_over() {
    let server = Server::from_builder(VaultSim::builder().policy("signs", SIGNS)).await;
    let sim = server.sim();
    let clock = Arc::new(ManualClock::new(OffsetDateTime::now_utc()));
    let cx = at(&clock);
    let (wanted, _) = request(&["a.shop.example"]);
    let role = json!({ "token_policies": ["signs"], "token_ttl": "1h" });
    let (role, secret) = sim.create_approle("certlib", role).unwrap();
    for is_given in [false, true] {
        let credentials = match is_given {
            true => token(&sim.create_token(&["signs"], Some(Duration::from_secs(3600))).unwrap()),
            false => approle(&role, &secret),
        };
        let issuer = server.issuer_with(json!({}), &credentials).await;
        let renewals = sim.count("auth/token/renew-self");
        for (minutes, expected) in [(0, 0), (39, 0), (2, 1), (10, 1), (31, 2), (41, 3)] {
            let pause = Duration::from_secs(minutes * 60);
            clock.advance(pause);
            sim.advance(pause);
            issuer.submit(&cx, &wanted).await.unwrap();
            assert_eq!(sim.count("auth/token/renew-self") - renewals, expected, "after {minutes} minutes");
        }
    }
    assert_eq!(sim.count("auth/approle/login"), 1);
}

#[tokio::test]
async fn who_is_refused_is_told_once_and_not_shown() {
    let server = Server::from_builder(VaultSim::builder().policy("reads", &[("pki/cert/*", &["read"])])).await;
    let sim = server.sim();
    let (role, _) = sim.create_approle("certlib", json!({ "token_policies": ["reads"] })).unwrap();
    let reader = sim.create_token(&["reads"], None).unwrap();
    let cx = Context::new("test");
    let (wanted, _) = request(&["a.shop.example"]);
    for (credentials, code) in [
        (token("hvs.CANARY"), "vault_forbidden"),
        (token(&reader), "vault_forbidden"),
        (approle(&role, "CANARY"), "vault_login_refused"),
        (approle("nobody", "CANARY"), "vault_login_refused"),
    ] {
        let issuer = server.issuer_with(json!({}), &credentials).await;
        let error = issuer.submit(&cx, &wanted).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Auth, code));
        let shown = format!("{error:?} {error} {issuer:?}");
        assert!(!shown.contains("CANARY") && !shown.contains(&reader), "{shown}");
    }
    assert!(server.serials().await.is_empty());

    // Vault locks out who tries too often.
    let issuer = server.issuer_with(json!({}), &approle(&role, "CANARY")).await;
    let before = sim.count("auth/approle/login");
    for _ in 0..5 {
        assert_eq!(issuer.submit(&cx, &wanted).await.unwrap_err().code(), "vault_login_refused");
    }
    assert_eq!(sim.count("auth/approle/login") - before, 1);
}

#[tokio::test]
async fn a_login_that_gets_no_answer_is_tried_again() {
    let server = Server::from_builder(VaultSim::builder().policy("signs", SIGNS)).await;
    let sim = server.sim();
    let (role, secret) = sim.create_approle("certlib", json!({ "token_policies": ["signs"] })).unwrap();
    let issuer = server.issuer_with(json!({}), &approle(&role, &secret)).await;
    let cx = Context::new("test");
    let (wanted, _) = request(&["a.shop.example"]);
    for fault in [Fault::InternalError, Fault::LoseReply, Fault::RateLimited { retry_after: None }] {
        sim.inject(Injection::new(fault).on("auth/approle/login").times(1));
        let error = issuer.submit(&cx, &wanted).await.unwrap_err();
        assert!(error.class().is_retryable(), "{error:?}");
    }
    sim.inject(Injection::new(Fault::ReplaceData(json!({}))).on("auth/approle/login").times(1));
    issuer.submit(&cx, &wanted).await.unwrap();
}

#[tokio::test]
async fn mounts_in_namespaces_and_logins_elsewhere() {
    let server = Server::from_builder(VaultSim::builder().namespace("team/a")).await;
    let sim = server.sim();
    sim.write("team/a/sys/mounts/web/pki", json!({ "type": "pki" })).unwrap();
    sim.write("team/a/web/pki/root/generate/internal", json!({ "common_name": "root of a", "ttl": "90d" })).unwrap();
    sim.write("team/a/web/pki/roles/web", json!({ "allow_any_name": true, "ttl": "1h" })).unwrap();
    let cx = Context::new("test");
    let (wanted, _) = request(&["a.shop.example"]);
    let there = json!({ "namespace": "team/a", "mount": "/web/pki/", "login_namespace": "" });
    let issuer = server.issuer(there).await;
    let bundle = finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await;
    assert!(bundle.leaf().issuer.contains("root of a"), "{}", bundle.leaf().issuer);
    let record = sim.history().into_iter().rfind(|record| record.path == "web/pki/sign/web").unwrap();
    assert_eq!((record.namespace.as_str(), record.status), ("team/a", Some(200)));
    let looked = sim.history().into_iter().rfind(|record| record.path == "auth/token/lookup-self").unwrap();
    assert_eq!(looked.namespace, "");
    let elsewhere = server.issuer(json!({ "namespace": "team/b", "login_namespace": "", "mount": "web/pki" })).await;
    assert!(elsewhere.submit(&cx, &wanted).await.is_err());
}
