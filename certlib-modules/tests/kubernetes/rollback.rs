//! The way back, beyond what the conformance suite asks.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::Context;
use certlib_core::clock::ManualClock;
use certlib_core::error::codes;
use certlib_core::module::RollbackOutcome;
use serde_json::json;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::common::journal;
use crate::support::{Certificates, Place, server};

#[track_caller]
fn assert_refused(outcome: &RollbackOutcome, expected: &str) {
    match outcome {
        RollbackOutcome::Refused { code, reason } => {
            assert!(code == expected && !reason.is_empty(), "{code}: {reason}")
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_others_add_is_no_obstacle_to_our_fields() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let subject = place.subject(json!({}));
    subject.deliver(certificates.bundle(0), &journal()).await.unwrap();
    let undo = journal();
    subject.deliver(certificates.bundle(1), &undo).await.unwrap();
    place.merge(json!({"metadata": {"labels": {"theirs": "1"}}, "data": {"theirs": STANDARD.encode("x")}})).await;
    assert_eq!(subject.rollback(&undo).await.unwrap(), RollbackOutcome::RolledBack);
    let secret = place.get().await.unwrap();
    assert_eq!(place.served().await, certificates.issued(0).fingerprint);
    assert_eq!(secret["metadata"]["labels"]["theirs"], "1");
    assert_eq!(secret["data"]["theirs"], STANDARD.encode("x"));
}

#[tokio::test]
async fn a_secret_of_ours_that_others_use_is_not_deleted() {
    let Some(server) = server().await else { return };
    let certificates = Certificates::new();
    let reference = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "u"}]);
    for theirs in
        [json!({"data": {"theirs": STANDARD.encode("x")}}), json!({"metadata": {"ownerReferences": reference}})]
    {
        let place = Place::new(server).await;
        let subject = place.subject(json!({}));
        let undo = journal();
        subject.deliver(certificates.bundle(0), &undo).await.unwrap();
        place.merge(theirs).await;
        assert_refused(&subject.rollback(&undo).await.unwrap(), codes::FOREIGN_CHANGE);
        assert_eq!(place.served().await, certificates.issued(0).fingerprint);
    }
}

#[tokio::test]
async fn what_was_deleted_or_made_anew_is_not_ours() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let subject = place.subject(json!({}));
    subject.deliver(certificates.bundle(0), &journal()).await.unwrap();
    let undo = journal();
    subject.deliver(certificates.bundle(1), &undo).await.unwrap();
    place.delete().await;
    assert_refused(&subject.rollback(&undo).await.unwrap(), codes::FOREIGN_CHANGE);
    assert_eq!(place.get().await, None);
    // The same content, but another object.
    subject.deliver(certificates.bundle(1), &journal()).await.unwrap();
    assert_refused(&subject.rollback(&undo).await.unwrap(), codes::FOREIGN_CHANGE);
    assert_eq!(place.served().await, certificates.issued(1).fingerprint);
}

#[tokio::test]
async fn what_cannot_or_should_not_come_back_does_not() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let mut subject = place.subject(json!({}));
    subject.deliver(certificates.bundle(0), &journal()).await.unwrap();
    let undo = journal();
    subject.deliver(certificates.bundle(1), &undo).await.unwrap();

    let later = ManualClock::new(OffsetDateTime::now_utc() + time::Duration::days(365));
    let now = std::mem::replace(&mut subject.cx, Context::with(Arc::new(later), CancellationToken::new(), "operation"));
    assert_refused(&subject.rollback(&undo).await.unwrap(), "backup_expired");
    subject.cx = now;

    let mut elsewhere = place.subject(json!({}));
    elsewhere.target.location["server"] = json!(server.url().replace("127.0.0.1", "localhost"));
    assert_refused(&elsewhere.rollback(&undo).await.unwrap(), "wrong_cluster");

    place.merge(json!({"immutable": true})).await;
    assert_refused(&subject.rollback(&undo).await.unwrap(), "secret_immutable");
    assert_eq!(place.served().await, certificates.issued(1).fingerprint);
}

#[tokio::test]
async fn settings_that_changed_since_do_not_change_the_way_back() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let subject = place.subject(json!({}));
    subject.deliver(certificates.bundle(0), &journal()).await.unwrap();
    let before = place.state().await;
    let undo = journal();
    place
        .subject(json!({"labels": {"app": "shop"}, "ca_crt": true}))
        .deliver(certificates.bundle(1), &undo)
        .await
        .unwrap();
    let mut other = place.subject(json!({"field_manager": "other"}));
    other.target.location["name"] = json!("another");
    assert_eq!(other.rollback(&undo).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(place.state().await, before);
}
