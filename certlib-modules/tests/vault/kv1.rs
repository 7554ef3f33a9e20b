//! Secrets without versions.

use certlib_core::error::{Effect, ErrorClass, codes};
use certlib_core::module::{RollbackOutcome, Verb};
use certlib_testkit::vault::{Fault, Injection};
use futures::FutureExt as _;
use serde_json::{Value, json};

use crate::common::{journal, served};
use crate::support::{Event, Eventful, Server, bundles, fields};

#[tokio::test]
async fn a_secret_is_made_and_taken_away_again() {
    let server = Server::any("kv1").await;
    let [bundle] = bundles();
    let subject = server.subject(json!({}));
    let plan = subject.plan(&bundle).await.unwrap();
    assert_eq!((plan.steps.len(), plan.steps[0].verb), (1, Verb::Create), "{plan}");
    assert_eq!(plan.steps[0].after, Some(format!("sha256:{}", bundle.fingerprint())));
    let journal = journal();
    subject.execute(&bundle, plan, &journal).await.unwrap();
    assert_eq!(Value::Object(server.fields().await.unwrap()), fields(&bundle));
    assert!(served(&subject.validate(&bundle).await.unwrap()));
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(server.fields().await, None);
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::NothingToDo);
}

#[tokio::test]
async fn other_fields_stay_and_the_former_ones_come_back() {
    let server = Server::any("kv1").await;
    let [old, new] = bundles();
    let mut before = fields(&old);
    before["password"] = json!("correct horse");
    server.put(before.clone()).await;
    let subject = server.subject(json!({}));
    let plan = subject.plan(&new).await.unwrap();
    // What the plan shows is no way to try short passwords.
    server.put(json!({"password": "correct horse"})).await;
    let short = subject.plan(&new).await.unwrap();
    assert_ne!(short.base, plan.base);
    server.put(before.clone()).await;
    let journal = journal();
    subject.execute(&new, plan, &journal).await.unwrap();
    assert_eq!(server.fields().await.unwrap()["password"], "correct horse");
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(Value::Object(server.fields().await.unwrap()), before);
}

#[tokio::test]
async fn what_changes_just_before_is_seen() {
    let server = Server::any("kv1").await;
    let [old, new] = bundles();
    server.put(fields(&old)).await;
    let subject = server.subject(json!({}));
    let plan = subject.plan(&new).await.unwrap();
    let event: Event = |server| {
        async {
            server.put(json!({"theirs": "new"})).await;
            None
        }
        .boxed()
    };
    let sink = Eventful { inner: journal(), step: "secret", event, server: &server };
    let error = subject.execute(&new, plan, &sink).await.unwrap_err();
    assert_eq!(
        (error.code(), error.class(), error.effect()),
        (codes::PLAN_STALE, ErrorClass::Validation, Effect::None)
    );
    assert_eq!(Value::Object(server.fields().await.unwrap()), json!({"theirs": "new"}));
    assert_eq!(subject.rollback(&sink.inner).await.unwrap(), RollbackOutcome::NothingToDo);
}

#[tokio::test]
async fn a_lost_answer_is_found_out_by_the_next_attempt() {
    let server = Server::simulated("kv1").await;
    let [old, new] = bundles();
    server.put(fields(&old)).await;
    let before = server.state().await;
    let subject = server.subject(json!({}));
    for fault in [Fault::LoseReply, Fault::LoseRequest] {
        let (plan, journal) = (subject.plan(&new).await.unwrap(), journal());
        server.sim().inject(Injection::new(fault.clone()).method("POST").on("secret/tls").times(1));
        let error = subject.execute(&new, plan.clone(), &journal).await.unwrap_err();
        assert_eq!((error.class(), error.effect()), (ErrorClass::Network, Effect::Possible), "{fault:?}");
        let facts = subject.execute(&new, plan, &journal).await.unwrap();
        assert_eq!(facts.0["resumed"], true);
        assert!(served(&subject.validate(&new).await.unwrap()));
        assert_eq!(journal.steps(), ["secret"], "the backup is taken once");
        assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
        assert_eq!(server.state().await, before);
    }
}

#[tokio::test]
async fn a_rollback_that_meets_a_change_refuses() {
    let server = Server::any("kv1").await;
    let [bundle] = bundles();
    let subject = server.subject(json!({}));
    let journal = journal();
    subject.deliver(&bundle, &journal).await.unwrap();
    let mut theirs = fields(&bundle);
    theirs["added"] = json!("later");
    server.put(theirs.clone()).await;
    match subject.rollback(&journal).await.unwrap() {
        RollbackOutcome::Refused { code, .. } => assert_eq!(code, codes::FOREIGN_CHANGE),
        outcome => panic!("{outcome:?}"),
    }
    assert_eq!(Value::Object(server.fields().await.unwrap()), theirs);
}
