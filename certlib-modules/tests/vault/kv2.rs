//! Secrets with versions.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::ManualClock;
use certlib_core::error::{Effect, Error, ErrorClass, codes};
use certlib_core::module::{JournalSink, MemoryJournal, RollbackOutcome, Validation, Verb};
use certlib_core::{CertificateBundle, Context};
use futures::FutureExt as _;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::common::{Subject, journal, served};
use crate::support::{Event, Eventful, PATH, Server, bundles, fields};

fn refusal(outcome: &RollbackOutcome) -> &str {
    match outcome {
        RollbackOutcome::Refused { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_first_delivery_makes_a_secret_and_rollback_takes_it_away() {
    let server = Server::any("kv2").await;
    let [bundle] = bundles();
    let subject = server.subject(json!({}));
    let plan = subject.plan(&bundle).await.unwrap();
    let verbs: Vec<_> = plan.steps.iter().map(|step| step.verb).collect();
    assert_eq!(verbs, [Verb::Create, Verb::Replace], "{plan}");
    assert_eq!(plan.steps[0].subject, server.data_path());
    assert_eq!(plan.steps[0].before, None);
    assert_eq!(plan.steps[0].after, Some(format!("version 1: sha256:{}", bundle.fingerprint())));
    let journal = journal();
    let facts = subject.execute(&bundle, plan, &journal).await.unwrap();
    assert_eq!((&facts.0["written"], &facts.0["resumed"]), (&json!(true), &json!(false)));
    assert_eq!(Value::Object(server.fields().await.unwrap()), fields(&bundle));
    let custom = server.custom().await;
    assert_eq!(custom["certlib_fingerprint"], bundle.fingerprint().to_string());
    assert_eq!(custom["certlib_target"], "t-1");
    assert!(custom["certlib_not_after"].as_str().unwrap().ends_with('Z'));
    assert!(served(&subject.validate(&bundle).await.unwrap()));

    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(server.fields().await, None);
    assert_eq!(server.custom().await, Value::Null);
    assert_eq!(server.version().await, 1, "deleted, so that an operator can undelete it");
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::NothingToDo);
    let Validation::NotServed { reason, .. } = subject.validate(&bundle).await.unwrap() else { panic!() };
    assert!(reason.contains("is not there"), "{reason}");

    // Over a deleted version, and back to it.
    let plan = subject.plan(&bundle).await.unwrap();
    assert_eq!(plan.steps[0].before.as_deref(), Some("version 1: deleted"));
    let journal = MemoryJournal::new();
    subject.execute(&bundle, plan, &journal).await.unwrap();
    assert_eq!(server.version().await, 2);
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(server.fields().await, None);
}

#[tokio::test]
async fn other_fields_and_words_stay_and_rollback_is_a_new_version() {
    let server = Server::any("kv2").await;
    let [old, new] = bundles();
    let mut before = fields(&old);
    before["password"] = json!("correct horse");
    before["nested"] = json!({"a": [1, 0.5, null, true]});
    server.put(before.clone()).await;
    let words = json!({"custom_metadata": {"owner": "shop", "certlib_fingerprint": "theirs"}});
    server.write(&server.metadata_path(), words).await;
    let subject = server.subject(json!({}));
    let plan = subject.plan(&new).await.unwrap();
    let after = plan.steps[0].after.as_deref().unwrap();
    assert!(after.starts_with("version 2: ") && after.ends_with(", 2 other fields kept"), "{after}");
    assert_eq!(plan.steps[0].before, Some(format!("version 1: sha256:{}", old.fingerprint())));
    let journal = journal();
    subject.execute(&new, plan, &journal).await.unwrap();
    let mut after = fields(&new);
    after["password"] = json!("correct horse");
    after["nested"] = before["nested"].clone();
    assert_eq!(Value::Object(server.fields().await.unwrap()), after);
    assert_eq!(server.custom().await["owner"], "shop");
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(Value::Object(server.fields().await.unwrap()), before);
    assert_eq!(server.version().await, 3);
    assert_eq!(server.custom().await, json!({"owner": "shop", "certlib_fingerprint": "theirs"}));
}

#[tokio::test]
async fn the_way_back_does_not_depend_on_versions_that_vault_keeps() {
    let server = Server::any("kv2").await;
    let [old, new] = bundles();
    server.write(&server.metadata_path(), json!({"max_versions": 1, "cas_required": true})).await;
    server.write(&server.data_path(), json!({"options": {"cas": 0}, "data": fields(&old)})).await;
    let subject = server.subject(json!({}));
    let journal = journal();
    subject.deliver(&new, &journal).await.unwrap();
    assert_eq!(server.read(&format!("{}?version=1", server.data_path())).await, Value::Null, "gone");
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(Value::Object(server.fields().await.unwrap()), fields(&old));
    assert_eq!(server.read(&server.metadata_path()).await["cas_required"], true);
}

#[tokio::test]
async fn fields_have_the_names_that_are_configured() {
    let server = Server::any("kv2").await;
    let [bundle] = bundles();
    let names = json!({
        "certificate": null, "chain": null, "private_key": "tls.key", "fullchain": "tls.crt",
        "serial": "serial", "fingerprint": "sha256", "not_after": "until",
    });
    let config = json!({"fields": names, "custom_metadata": false});
    let subject = server.subject_with(config, json!({"path": "/a b/ä%2F/"}), server.token());
    let journal = journal();
    let plan = subject.plan(&bundle).await.unwrap();
    assert_eq!(plan.steps.len(), 1, "{plan}");
    subject.execute(&bundle, plan, &journal).await.unwrap();
    let data = server.read(&format!("{}/data/a%20b/%C3%A4%252F", server.mount)).await["data"].clone();
    assert_eq!(data["tls.crt"], bundle.fullchain_pem());
    assert_eq!(data["sha256"], bundle.fingerprint().to_string());
    assert_eq!(data.as_object().unwrap().len(), 5, "{data}");
    assert!(served(&subject.validate(&bundle).await.unwrap()));
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
}

#[tokio::test]
async fn without_its_key_a_certificate_goes_where_no_key_is_wanted() {
    let server = Server::any("kv2").await;
    let [bundle] = bundles();
    let bare = CertificateBundle::from_pem(bundle.fullchain_pem().as_bytes()).unwrap();
    let error = server.subject(json!({})).plan(&bare).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("key_missing", ErrorClass::Validation));
    let subject = server.subject(json!({"fields": {"private_key": null}}));
    subject.deliver(&bare, &journal()).await.unwrap();
    assert!(!server.fields().await.unwrap().contains_key("private_key"));
}

/// Delivers while somebody else writes at the last moment.
async fn race(server: &Server, subject: &Subject, bundle: &CertificateBundle) -> (Error, MemoryJournal) {
    let plan = subject.plan(bundle).await.unwrap();
    let event: Event = |server| {
        async {
            server.put(json!({"theirs": "new"})).await;
            None
        }
        .boxed()
    };
    let sink = Eventful { inner: journal(), step: "secret", event, server };
    let error = subject.execute(bundle, plan, &sink).await.unwrap_err();
    (error, sink.inner)
}

#[tokio::test]
async fn what_somebody_writes_at_the_last_moment_wins() {
    let server = Server::any("kv2").await;
    let [old, new] = bundles();
    server.put(fields(&old)).await;
    let subject = server.subject(json!({}));
    let (error, journal) = race(&server, &subject, &new).await;
    assert_eq!(
        (error.code(), error.class(), error.effect()),
        (codes::PLAN_STALE, ErrorClass::Validation, Effect::None)
    );
    assert_eq!(journal.steps(), ["secret", "not_written"]);
    let theirs = server.state().await;
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::NothingToDo);
    assert_eq!(server.state().await, theirs);
    // A new plan, with the same journal, goes through.
    subject.deliver(&new, &journal).await.unwrap();
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(server.state().await, theirs);
}

#[tokio::test]
async fn a_death_before_writing_leaves_nothing_to_undo_whatever_others_do() {
    let server = Server::any("kv2").await;
    let [old, new, theirs] = bundles();
    server.put(fields(&old)).await;
    let subject = server.subject(json!({}));
    let plan = subject.plan(&new).await.unwrap();
    let event: Event = |_| async { Some(Error::transient("t", "died", "here")) }.boxed();
    let sink = Eventful { inner: journal(), step: "secret", event, server: &server };
    subject.execute(&new, plan.clone(), &sink).await.unwrap_err();
    assert_eq!(subject.rollback(&sink.inner).await.unwrap(), RollbackOutcome::NothingToDo);
    server.put(fields(&theirs)).await;
    let state = server.state().await;
    assert_eq!(subject.rollback(&sink.inner).await.unwrap(), RollbackOutcome::NothingToDo);
    let error = subject.execute(&new, plan, &sink.inner).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), (codes::FOREIGN_CHANGE, Effect::Possible));
    assert_eq!(server.state().await, state);
}

#[tokio::test]
async fn rollback_tells_our_version_from_others() {
    let server = Server::any("kv2").await;
    let [old, new, theirs] = bundles();
    server.put(fields(&old)).await;
    let subject = server.subject(json!({}));
    let deliver = async || {
        let journal = journal();
        subject.deliver(&new, &journal).await.unwrap();
        journal
    };
    // Deleted, destroyed, written over, or as it was: each by somebody else.
    let journal = deliver().await;
    server.delete(&server.data_path()).await;
    assert_eq!(refusal(&subject.rollback(&journal).await.unwrap()), codes::FOREIGN_CHANGE);
    server.write(&format!("{}/destroy/{PATH}", server.mount), json!({"versions": [2]})).await;
    assert_eq!(refusal(&subject.rollback(&journal).await.unwrap()), codes::FOREIGN_CHANGE);
    server.put(fields(&theirs)).await;
    let state = server.state().await;
    assert_eq!(refusal(&subject.rollback(&journal).await.unwrap()), codes::FOREIGN_CHANGE);
    assert_eq!(server.state().await, state);

    server.put(fields(&old)).await;
    server.write(&server.metadata_path(), json!({"custom_metadata": {}})).await;
    let journal = deliver().await;
    server.put(fields(&old)).await;
    let version = server.version().await;
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack, "its custom metadata is ours");
    assert_eq!(server.version().await, version, "the fields were as before already");

    // Words of others about our version stay.
    let journal = deliver().await;
    let words = json!({"custom_metadata": {"certlib_fingerprint": "theirs", "owner": "shop"}});
    server.write(&server.metadata_path(), words.clone()).await;
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(server.custom().await, words["custom_metadata"]);
    assert_eq!(Value::Object(server.fields().await.unwrap()), fields(&old));
}

#[tokio::test]
async fn a_journal_of_another_secret_is_not_used() {
    let server = Server::any("kv2").await;
    let [bundle] = bundles();
    let journal = journal();
    server.subject(json!({})).deliver(&bundle, &journal).await.unwrap();
    let state = server.state().await;
    let other = server.subject_with(json!({}), json!({"path": "tls/other"}), server.token());
    assert_eq!(refusal(&other.rollback(&journal).await.unwrap()), "wrong_target");
    let error = other.deliver(&bundle, &journal).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("wrong_target", Effect::Possible));
    assert_eq!(server.state().await, state);
}

#[tokio::test]
async fn an_expired_certificate_does_not_come_back() {
    let server = Server::any("kv2").await;
    let [old, new] = bundles();
    server.put(fields(&old)).await;
    let mut subject = server.subject(json!({}));
    let journal = journal();
    subject.deliver(&new, &journal).await.unwrap();
    let state = server.state().await;
    let clock = ManualClock::new(OffsetDateTime::now_utc() + Duration::from_secs(40 * 24 * 3600));
    subject.cx = Context::with(Arc::new(clock), Default::default(), "operation");
    assert_eq!(refusal(&subject.rollback(&journal).await.unwrap()), "backup_expired");
    assert_eq!(server.state().await, state);
}

#[tokio::test]
async fn what_cannot_be_written_back_exactly_is_refused_before_anything_is_done() {
    let server = Server::simulated("kv2").await;
    let [bundle] = bundles();
    server.put(json!({"serial": 1.2345678901234568e22})).await;
    let subject = server.subject(json!({}));
    let journal = journal();
    let error = subject.deliver(&bundle, &journal).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("number_inexact", Effect::None));
    assert!(journal.steps().is_empty());

    server.put(json!({"a": "b"})).await;
    let words: serde_json::Map<_, _> = (0..62).map(|n| (format!("word-{n}"), json!("x"))).collect();
    server.write(&server.metadata_path(), json!({"custom_metadata": words})).await;
    let error = subject.plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("metadata_full", ErrorClass::Validation));
    server.subject(json!({"custom_metadata": false})).deliver(&bundle, &journal).await.unwrap();
}

#[tokio::test]
async fn only_what_is_said_about_a_secret_may_change() {
    let server = Server::any("kv2").await;
    let [bundle, other] = bundles();
    server.put(fields(&bundle)).await;
    let before = server.state().await;
    let subject = server.subject(json!({}));
    let plan = subject.plan(&bundle).await.unwrap();
    assert_eq!((plan.steps[0].verb, plan.steps[1].verb), (Verb::Keep, Verb::Replace));
    let journal = journal();
    subject.execute(&bundle, plan.clone(), &journal).await.unwrap();
    assert_eq!((journal.steps(), server.version().await), (vec!["custom_metadata".to_owned()], 1));
    subject.execute(&bundle, plan.clone(), &journal).await.unwrap();
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(server.state().await, before);
    server.put(fields(&other)).await;
    let error = subject.execute(&bundle, plan, &journal).await.unwrap_err();
    assert_eq!(error.code(), codes::FOREIGN_CHANGE);
}

#[tokio::test]
async fn a_secret_that_was_only_described_is_a_new_one() {
    let server = Server::any("kv2").await;
    let [bundle] = bundles();
    server.write(&server.metadata_path(), json!({"custom_metadata": {"owner": "shop"}})).await;
    let subject = server.subject(json!({}));
    let journal = journal();
    subject.deliver(&bundle, &journal).await.unwrap();
    assert_eq!(server.custom().await["owner"], "shop");
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(server.custom().await, json!({"owner": "shop"}));
}

#[tokio::test]
async fn a_stopped_operation_writes_nothing() {
    let server = Server::any("kv2").await;
    let [bundle] = bundles();
    let subject = server.subject(json!({}));
    let plan = subject.plan(&bundle).await.unwrap();
    subject.cx.cancel.cancel();
    let journal = journal();
    let error = subject.execute(&bundle, plan, &journal).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), (codes::CANCELLED, Effect::None));
    assert!(journal.entries().await.unwrap().is_empty());
    assert_eq!(server.fields().await, None);
}
