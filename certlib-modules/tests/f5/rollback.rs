//! The way back, and when it is refused.

use std::sync::Arc;

use certlib_core::Context;
use certlib_core::clock::ManualClock;
use certlib_core::module::{MemoryJournal, RollbackOutcome};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::common::{Subject, journal};
use crate::lab::{BACK, Lab, SHOP_PATH};

async fn delivered(lab: &Lab) -> (Subject, MemoryJournal) {
    let (subject, log) = (lab.plain(), journal());
    subject.deliver(&lab.bundle(1), &log).await.unwrap();
    (subject, log)
}

async fn refused(lab: &Lab, subject: &Subject, log: &MemoryJournal) -> (String, String) {
    let before = lab.bigip.describe();
    let outcome = subject.rollback(log).await.unwrap();
    assert_eq!(lab.bigip.describe(), before, "nothing was touched");
    match outcome {
        RollbackOutcome::Refused { code, reason } => (code, reason),
        outcome => panic!("{outcome:?}"),
    }
}

#[tokio::test]
async fn all_profiles_go_back_together_in_one_transaction() {
    let lab = Lab::new().await;
    let before = lab.bigip.describe();
    let (subject, log) = delivered(&lab).await;
    let commits = lab.bigip.count("PATCH", "tm/transaction/");
    assert_eq!(subject.rollback(&log).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(lab.bigip.count("PATCH", "tm/transaction/"), commits + 1);
    assert_eq!(lab.bigip.describe(), before);
    assert!(lab.bigip.is_saved());
    lab.assert_clean();
}

#[tokio::test]
async fn a_profile_of_somebody_else() {
    let lab = Lab::new().await;
    let (subject, log) = delivered(&lab).await;
    lab.meddle();
    let (code, reason) = refused(&lab, &subject, &log).await;
    assert_eq!(code, "foreign_change");
    assert!(reason.contains("/Common/shop"), "{reason}");
    lab.bigip.operate("DELETE", "tm/ltm/profile/server-ssl/~Common~back", Value::Null).unwrap();
    assert_eq!(refused(&lab, &subject, &log).await.0, "foreign_change");
}

#[tokio::test]
async fn a_profile_that_went_back_by_hand() {
    let lab = Lab::new().await;
    let (subject, log) = delivered(&lab).await;
    let entry = json!({
        "name": "former",
        "cert": "/Common/former.crt",
        "key": "/Common/former.key",
        "chain": "/Common/former_chain.crt",
    });
    lab.bigip.operate("PATCH", SHOP_PATH, json!({ "certKeyChain": [entry] })).unwrap();
    assert_eq!(subject.rollback(&log).await.unwrap(), RollbackOutcome::RolledBack, "the other one goes back");
    assert!(!lab.bigip.describe().contains("certlib_"), "{BACK}");
}

#[tokio::test]
async fn new_content_in_the_new_file() {
    let lab = Lab::new().await;
    let (subject, log) = delivered(&lab).await;
    let files = lab.bigip.files();
    let made = files.iter().find(|name| name.contains("certlib_") && name.ends_with("example.crt")).unwrap();
    lab.bigip.install(made.trim_end_matches(".crt"), lab.issued(4)).unwrap();
    assert_eq!(refused(&lab, &subject, &log).await.0, "foreign_change");
}

#[tokio::test]
async fn a_former_certificate_that_is_gone_or_has_expired() {
    let lab = Lab::new().await;
    let (mut subject, log) = delivered(&lab).await;
    let later = OffsetDateTime::now_utc() + Duration::days(60);
    let now = std::mem::replace(
        &mut subject.cx,
        Context::with(Arc::new(ManualClock::new(later)), Default::default(), "operation"),
    );
    assert_eq!(refused(&lab, &subject, &log).await.0, "backup_expired");
    subject.cx = now;
    lab.bigip.operate("DELETE", "tm/sys/file/ssl-key/~Common~former.key", Value::Null).unwrap();
    assert_eq!(refused(&lab, &subject, &log).await.0, "backup_missing");
    lab.bigip.operate("DELETE", "tm/sys/file/ssl-cert/~Common~former.crt", Value::Null).unwrap();
    assert_eq!(refused(&lab, &subject, &log).await.0, "backup_missing");
}

#[tokio::test]
async fn a_new_object_that_somebody_uses_stays() {
    let lab = Lab::new().await;
    let (subject, log) = delivered(&lab).await;
    let files = lab.bigip.files();
    let made = |ending: &str| {
        let own = |name: &&String| name.contains("certlib_") && name.ends_with(ending) && !name.contains("chain");
        files.iter().find(own).unwrap().clone()
    };
    let body = json!({ "name": "other", "cert": made(".crt"), "key": made(".key") });
    lab.bigip.operate("POST", "tm/ltm/profile/server-ssl", body).unwrap();
    assert_eq!(subject.rollback(&log).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(lab.selected(), lab.issued(0).fingerprint);
    let left: Vec<String> = lab.bigip.files().into_iter().filter(|name| name.contains("certlib_")).collect();
    assert_eq!(left, [made(".crt"), made(".key")]);
}

#[tokio::test]
async fn an_unsaved_way_back_is_saved_by_the_next_attempt() {
    let lab = Lab::new().await;
    let (subject, log) = delivered(&lab).await;
    let fault = certlib_testkit::f5::Fault::Error { status: 500, message: "x".to_owned() };
    lab.bigip.inject(certlib_testkit::f5::Injection::new(fault).on("POST", "tm/sys/config"));
    subject.rollback(&log).await.unwrap_err();
    assert_eq!((lab.selected(), lab.bigip.is_saved()), (lab.issued(0).fingerprint.clone(), false));
    lab.bigip.clear_faults();
    assert_eq!(subject.rollback(&log).await.unwrap(), RollbackOutcome::NothingToDo);
    assert!(lab.bigip.is_saved());
}
