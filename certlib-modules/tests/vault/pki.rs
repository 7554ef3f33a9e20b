//! PKI mounts: the certificate becomes the default issuer.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::ManualClock;
use certlib_core::error::{Effect, ErrorClass, codes};
use certlib_core::module::{RollbackOutcome, Validation, Verb};
use certlib_core::{CertificateBundle, Context, Error};
use certlib_testkit::pki::TestCa;
use certlib_testkit::vault::{Fault, Injection, VaultSim};
use futures::FutureExt as _;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::common::{Subject, journal, served};
use crate::support::{Event, Eventful, Server, bundles};

/// An authority below a root, with its key.
fn authority(name: &str) -> CertificateBundle {
    let root = TestCa::new("root").unwrap();
    let authority = root.intermediate(name).unwrap();
    let pem = format!("{}{}{}", authority.certificate_pem(), root.certificate_pem(), authority.key_pem());
    CertificateBundle::from_pem(pem.as_bytes()).unwrap()
}

fn subject(server: &Server, config: Value) -> Subject {
    server.subject_with(config, json!({"kind": "pki", "path": ""}), server.token())
}

/// A mount with a root of its own that issues, and a role.
async fn with_root() -> Server {
    let server = Server::any("pki").await;
    let mount = &server.mount;
    server.write(&format!("{mount}/root/generate/internal"), json!({"common_name": "own root"})).await;
    let role = json!({"allow_any_name": true, "enforce_hostnames": false, "ttl": "1h"});
    server.write(&format!("{mount}/roles/web"), role).await;
    server
}

async fn default(server: &Server) -> String {
    let config = server.read(&format!("{}/config/issuers", server.mount)).await;
    config["default"].as_str().unwrap().to_owned()
}

async fn issue(server: &Server) -> Value {
    server.write(&format!("{}/issue/web", server.mount), json!({"common_name": "shop.example.com"})).await
}

#[track_caller]
fn refusal(outcome: RollbackOutcome) -> (String, String) {
    match outcome {
        RollbackOutcome::Refused { code, reason } => (code, reason),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_certificate_issues_from_then_on_and_there_is_no_way_back() {
    let server = with_root().await;
    let bundle = authority("new");
    let subject = subject(&server, json!({}));
    let plan = subject.plan(&bundle).await.unwrap();
    let shown: Vec<_> = plan.steps.iter().map(|step| (step.verb, step.reversible)).collect();
    assert_eq!(shown, [(Verb::Create, false), (Verb::Replace, false)], "{plan}");
    let former = default(&server).await;
    let journal = journal();
    let facts = subject.execute(&bundle, plan, &journal).await.unwrap();
    assert_eq!((&facts.0["switched"], &facts.0["former_issuer"]), (&json!(true), &json!(former)));
    assert!(served(&subject.validate(&bundle).await.unwrap()));
    let issued = issue(&server).await;
    assert_eq!(issued["issuing_ca"].as_str().unwrap().trim(), bundle.leaf_pem().trim());

    let state = default(&server).await;
    assert_eq!(refusal(subject.rollback(&journal).await.unwrap()).0, "ratcheted");
    assert_eq!(default(&server).await, state);
    let plan = subject.plan(&bundle).await.unwrap();
    assert!(!plan.changes_anything(), "{plan}");
    let facts = subject.execute(&bundle, plan, &crate::common::journal()).await.unwrap();
    assert_eq!(facts.0["switched"], false);
}

#[tokio::test]
async fn the_former_issuer_comes_back_as_long_as_nothing_was_issued() {
    let server = with_root().await;
    let (bundle, next) = (authority("new"), authority("next"));
    let former = default(&server).await;
    server
        .write(
            &format!("{}/config/issuers", server.mount),
            json!({"default": former, "default_follows_latest_issuer": true}),
        )
        .await;
    issue(&server).await;
    let subject = subject(&server, json!({"pki_rollback": "if_unused"}));
    let plan = subject.plan(&bundle).await.unwrap();
    assert!(plan.steps[1].reversible && !plan.steps[0].reversible);
    let journal = journal();
    subject.execute(&bundle, plan, &journal).await.unwrap();
    assert_ne!(default(&server).await, former);
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(default(&server).await, former);
    let config = server.read(&format!("{}/config/issuers", server.mount)).await;
    assert_eq!(config["default_follows_latest_issuer"], true, "as it was");
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::NothingToDo);

    let journal = crate::common::journal();
    subject.deliver(&next, &journal).await.unwrap();
    issue(&server).await;
    let (code, reason) = refusal(subject.rollback(&journal).await.unwrap());
    assert!(code == "ratcheted" && reason.contains("issued since"), "{code} {reason}");
}

#[tokio::test]
async fn what_is_issued_and_not_kept_cannot_be_counted() {
    let server = with_root().await;
    let bundle = authority("new");
    let subject = subject(&server, json!({"pki_rollback": "if_unused"}));
    let journal = journal();
    subject.deliver(&bundle, &journal).await.unwrap();
    let role = json!({"allow_any_name": true, "no_store": true});
    server.write(&format!("{}/roles/hidden", server.mount), role).await;
    let (code, reason) = refusal(subject.rollback(&journal).await.unwrap());
    assert!(code == "ratcheted" && reason.contains("cannot be told"), "{code} {reason}");
    // Known before: there is nothing to compare with afterwards.
    let journal = crate::common::journal();
    subject.deliver(&authority("next"), &journal).await.unwrap();
    server.delete(&format!("{}/roles/hidden", server.mount)).await;
    assert_eq!(refusal(subject.rollback(&journal).await.unwrap()).0, "ratcheted");
}

#[tokio::test]
async fn an_issuer_that_is_gone_or_expired_does_not_come_back() {
    let server = with_root().await;
    let former = default(&server).await;
    let mut subject = subject(&server, json!({"pki_rollback": "if_unused"}));
    let journal = journal();
    subject.deliver(&authority("new"), &journal).await.unwrap();
    let clock = subject.cx.clone();
    let later = ManualClock::new(OffsetDateTime::now_utc() + Duration::from_secs(400 * 24 * 3600));
    subject.cx = Context::with(Arc::new(later), Default::default(), "operation");
    assert_eq!(refusal(subject.rollback(&journal).await.unwrap()).0, "backup_expired");
    subject.cx = clock;
    server.delete(&format!("{}/issuer/{former}", server.mount)).await;
    let (code, reason) = refusal(subject.rollback(&journal).await.unwrap());
    assert!(code == "ratcheted" && reason.contains("not there"), "{code} {reason}");
}

#[tokio::test]
async fn an_empty_mount_gets_its_first_issuer() {
    let server = Server::any("pki").await;
    let bundle = authority("first");
    let subject = subject(&server, json!({"pki_rollback": "if_unused"}));
    let Validation::NotServed { reason, .. } = subject.validate(&bundle).await.unwrap() else { panic!() };
    assert!(reason.contains("no default issuer"), "{reason}");
    let journal = journal();
    let facts = subject.deliver(&bundle, &journal).await.unwrap();
    assert_eq!(facts.0["former_issuer"], Value::Null);
    assert!(served(&subject.validate(&bundle).await.unwrap()));
    let (code, reason) = refusal(subject.rollback(&journal).await.unwrap());
    assert!(code == "ratcheted" && reason.contains("none before"), "{code} {reason}");
}

#[tokio::test]
async fn a_switch_by_somebody_else_is_left_alone() {
    let server = with_root().await;
    let (bundle, theirs) = (authority("new"), authority("theirs"));
    let subject = subject(&server, json!({"pki_rollback": "if_unused"}));
    let plan = subject.plan(&bundle).await.unwrap();
    let event: Event = |server| {
        async {
            let theirs = authority("in between");
            let pem = theirs.key_pem().unwrap().expose().clone() + &theirs.leaf_pem();
            let imported = server.write(&format!("{}/config/ca", server.mount), json!({"pem_bundle": pem})).await;
            let id = imported["imported_issuers"][0].clone();
            server.write(&format!("{}/config/issuers", server.mount), json!({"default": id})).await;
            None::<Error>
        }
        .boxed()
    };
    let sink = Eventful { inner: journal(), step: "issuer", event, server: &server };
    let error = subject.execute(&bundle, plan, &sink).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), (codes::FOREIGN_CHANGE, Effect::Possible));
    assert_eq!(refusal(subject.rollback(&sink.inner).await.unwrap()).0, codes::FOREIGN_CHANGE);

    let journal = crate::common::journal();
    subject.deliver(&theirs, &journal).await.unwrap();
    let plan = subject.plan(&bundle).await.unwrap();
    subject.deliver(&authority("another"), &crate::common::journal()).await.unwrap();
    let error = subject.execute(&bundle, plan, &crate::common::journal()).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), (codes::PLAN_STALE, Effect::None));
    assert_eq!(refusal(subject.rollback(&journal).await.unwrap()).0, codes::FOREIGN_CHANGE);
}

#[tokio::test]
async fn a_lost_answer_is_found_out_by_the_next_attempt() {
    let server = Server::simulated("pki").await;
    server.write("secret/root/generate/internal", json!({"common_name": "own root"})).await;
    for path in ["secret/issuers/import", "secret/config/issuers"] {
        for fault in [Fault::LoseReply, Fault::LoseRequest] {
            let bundle = authority("new");
            let subject = subject(&server, json!({"pki_rollback": "if_unused"}));
            let (plan, journal) = (subject.plan(&bundle).await.unwrap(), journal());
            let former = default(&server).await;
            server.sim().inject(Injection::new(fault.clone()).method("POST").on(path).times(1));
            let error = subject.execute(&bundle, plan.clone(), &journal).await.unwrap_err();
            assert_eq!(error.effect(), Effect::Possible, "{path} {fault:?}");
            subject.execute(&bundle, plan, &journal).await.unwrap();
            assert!(served(&subject.validate(&bundle).await.unwrap()));
            assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
            assert_eq!(default(&server).await, former);
        }
    }
}

#[tokio::test]
async fn only_authorities_go_to_mounts_for_them() {
    let server = Server::any("pki").await;
    let [leaf] = bundles();
    let error = subject(&server, json!({})).plan(&leaf).await.unwrap_err();
    assert_eq!(
        (error.code(), error.class(), error.effect()),
        ("not_an_authority", ErrorClass::Validation, Effect::None)
    );
    let keyless = CertificateBundle::from_pem(authority("a").fullchain_pem().as_bytes()).unwrap();
    assert_eq!(subject(&server, json!({})).plan(&keyless).await.unwrap_err().code(), "key_missing");
    // A secret is not delivered to a PKI mount, nor an issuer to a secret.
    for kind in ["kv", "kv1", "kv2"] {
        let subject = server.subject_with(json!({}), json!({"kind": kind}), server.token());
        let error = subject.plan(&leaf).await.unwrap_err();
        assert_eq!((error.code(), error.class()), ("mount_kind", ErrorClass::Validation), "{kind}");
    }
    let server = Server::any("kv2").await;
    let error = subject(&server, json!({})).plan(&authority("a")).await.unwrap_err();
    assert_eq!(error.code(), "mount_kind");
}

#[tokio::test]
async fn a_vault_with_one_issuer_a_mount_is_not_delivered_to() {
    let server = Server::from_builder(VaultSim::builder().with_single_issuers(), "pki").await;
    let error = subject(&server, json!({})).plan(&authority("a")).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("pki_unsupported", ErrorClass::Validation));
}
