//! The way back, and when it is refused.

use std::sync::Arc;

use certlib_core::Context;
use certlib_core::clock::ManualClock;
use certlib_core::error::codes;
use certlib_core::module::RollbackOutcome;
use certlib_core::{Effect, ErrorClass};
use certlib_testkit::winrm::{WindowsError, thumbprint};
use serde_json::json;
use time::OffsetDateTime;

use crate::common::journal;
use crate::{ADMIN, SHOP, bound, bundle, host_with, install, issue, state, subject};

fn refused(outcome: &RollbackOutcome) -> &str {
    match outcome {
        RollbackOutcome::Refused { code, reason } => {
            assert!(!reason.is_empty());
            code
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_failure_halfway_is_taken_back() {
    let host = host_with(&issue()).await;
    let before = state(&host);
    let subject = subject(&host, json!({}));
    let new = bundle(&issue());
    host.with(|windows| windows.iis.fail(ADMIN.0, 0, 5, WindowsError::access_denied("applicationHost.config")));
    let undo = journal();
    let error = subject.deliver(&new, &undo).await.unwrap_err();
    let found = (error.code(), error.class(), error.effect());
    assert_eq!(found, ("permission_denied", ErrorClass::IoPermanent, Effect::Possible));
    assert_eq!(bound(&host, SHOP), Some(thumbprint(new.leaf_der())), "the first binding was switched");
    host.with(|windows| windows.iis.clear_failures());
    assert_eq!(subject.rollback(&undo).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(state(&host), before);
    assert_eq!(subject.rollback(&undo).await.unwrap(), RollbackOutcome::NothingToDo);
}

#[tokio::test]
async fn a_locked_configuration_is_transient() {
    let host = host_with(&issue()).await;
    let before = state(&host);
    let subject = subject(&host, json!({}));
    let new = bundle(&issue());
    host.with(|windows| windows.iis.locked = true);
    let undo = journal();
    let plan = subject.plan(&new).await.unwrap();
    let error = subject.execute(&new, plan.clone(), &undo).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("file_in_use", ErrorClass::IoTransient));
    host.with(|windows| windows.iis.locked = false);
    subject.execute(&new, plan, &undo).await.unwrap();
    assert_eq!(bound(&host, ADMIN), Some(thumbprint(new.leaf_der())));
    assert_eq!(subject.rollback(&undo).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(state(&host), before);
}

#[tokio::test]
async fn what_others_bound_meanwhile_stays() {
    let (new, theirs) = (issue(), issue());
    let host = host_with(&issue()).await;
    let subject = subject(&host, json!({}));
    let plan = subject.plan(&bundle(&new)).await.unwrap();
    let undo = journal();
    host.with(|windows| windows.iis.fail(ADMIN.0, 0, 5, WindowsError::access_denied("x")));
    subject.execute(&bundle(&new), plan.clone(), &undo).await.unwrap_err();
    host.with(|windows| {
        windows.iis.clear_failures();
        let hash = install(windows, &theirs);
        windows.add_ssl_certificate(SHOP.0, SHOP.1, &hash, "My").unwrap();
    });
    let before = state(&host);
    let error = subject.execute(&bundle(&new), plan, &undo).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), (codes::FOREIGN_CHANGE, Effect::Possible));
    assert_eq!(refused(&subject.rollback(&undo).await.unwrap()), codes::FOREIGN_CHANGE);
    assert_eq!(state(&host), before);
}

#[tokio::test]
async fn nothing_goes_back_to_what_is_gone() {
    let former = issue();
    let old = thumbprint(bundle(&former).leaf_der());
    let host = host_with(&former).await;
    let subject = subject(&host, json!({}));
    let undo = journal();
    subject.deliver(&bundle(&issue()), &undo).await.unwrap();
    host.with(|windows| windows.certificates.drop_key("My", &old).unwrap());
    let keyless = state(&host);
    assert_eq!(refused(&subject.rollback(&undo).await.unwrap()), "backup_missing");
    assert_eq!(state(&host), keyless);
    host.with(|windows| windows.certificates.remove("My", &old).unwrap());
    let gone = state(&host);
    assert_eq!(refused(&subject.rollback(&undo).await.unwrap()), "backup_missing");
    assert_eq!(state(&host), gone);
}

#[tokio::test]
async fn nothing_goes_back_to_what_has_expired() {
    let host = host_with(&issue()).await;
    let mut subject = subject(&host, json!({}));
    let undo = journal();
    subject.deliver(&bundle(&issue()), &undo).await.unwrap();
    let before = state(&host);
    let later = ManualClock::new(OffsetDateTime::now_utc() + time::Duration::days(365 * 30));
    subject.cx = Context::with(Arc::new(later), Default::default(), "t");
    assert_eq!(refused(&subject.rollback(&undo).await.unwrap()), "backup_expired");
    assert_eq!(state(&host), before);
}

#[tokio::test]
async fn another_machine_is_left_alone() {
    let former = issue();
    let (one, other) = (host_with(&former).await, host_with(&former).await);
    let new = bundle(&issue());
    let undo = journal();
    subject(&one, json!({})).deliver(&new, &undo).await.unwrap();
    let before = state(&other);
    let moved = subject(&other, json!({}));
    assert_eq!(refused(&moved.rollback(&undo).await.unwrap()), "wrong_machine");
    let plan = moved.plan(&new).await.unwrap();
    let error = moved.execute(&new, plan, &undo).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("wrong_machine", Effect::Possible));
    assert_eq!(state(&other), before);
}

#[tokio::test]
async fn a_certificate_that_others_use_by_now_stays_in_the_store() {
    let former = issue();
    let host = host_with(&former).await;
    let subject = subject(&host, json!({}));
    let new = bundle(&issue());
    let hash = thumbprint(new.leaf_der());
    let undo = journal();
    subject.deliver(&new, &undo).await.unwrap();
    host.with(|windows| {
        windows.iis.add_site("Other");
        windows.add_binding("Other", "https", "*:7443:", 0).unwrap();
        windows.add_ssl_certificate("Other", "*:7443:", &hash, "My").unwrap();
    });
    assert_eq!(subject.rollback(&undo).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(bound(&host, SHOP), Some(thumbprint(bundle(&former).leaf_der())));
    assert!(host.with(|windows| windows.certificates.get("My", &hash).is_ok()));
}
