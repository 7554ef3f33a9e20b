//! A pair of units: which one is active, and whether the other one gets the certificate.

use certlib_core::error::{Effect, ErrorClass};
use serde_json::json;

use crate::common::journal;
use crate::lab::{Lab, SHOP};

#[tokio::test]
async fn the_other_unit_gets_the_certificate_and_loses_it_again() {
    let lab = Lab::new().await;
    let subject = lab.subject(|config, _| config["sync_group"] = json!("pair"));
    lab.bigip.set_sync_takes(3);
    let log = journal();
    let facts = subject.deliver(&lab.bundle(1), &log).await.unwrap();
    assert_eq!(facts.0["synced_to"], "pair");
    assert_eq!(lab.bigip.peer_certificates_of(SHOP), [lab.issued(1).fingerprint.clone()]);
    assert!(lab.bigip.count("GET", "tm/cm/sync-status") >= 4, "it waits until the group is in sync");
    subject.rollback(&log).await.unwrap();
    assert_eq!(lab.bigip.peer_certificates_of(SHOP), [lab.issued(0).fingerprint.clone()]);
}

#[tokio::test]
async fn a_group_that_is_not_in_sync_in_time() {
    let lab = Lab::new().await;
    let subject = lab.subject(|config, _| {
        config["sync_group"] = json!("pair");
        config["sync_wait_ms"] = json!(20);
    });
    lab.bigip.set_sync_broken(true);
    let log = journal();
    let error = subject.deliver(&lab.bundle(1), &log).await.unwrap_err();
    assert_eq!(
        (error.code(), error.class(), error.effect()),
        ("sync_pending", ErrorClass::IoTransient, Effect::Possible)
    );
    assert!(error.to_string().contains("Disconnected"), "{error}");
    assert!(lab.bigip.is_saved());
    lab.bigip.set_sync_broken(false);
    let plan = subject.plan(&lab.bundle(1)).await.unwrap();
    subject.execute(&lab.bundle(1), plan, &log).await.unwrap();
    assert_eq!(
        lab.bigip.peer_certificates_of(SHOP),
        [lab.issued(1).fingerprint.clone()],
        "the next attempt catches up"
    );
    let unknown = lab.subject(|config, _| config["sync_group"] = json!("absent"));
    let error = unknown.deliver(&lab.bundle(2), &journal()).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Possible);
    assert!(error.to_string().contains("01020036:3"), "{error}");
}

#[tokio::test]
async fn only_the_active_unit_is_delivered_to() {
    let lab = Lab::new().await;
    let plan = lab.plain().plan(&lab.bundle(1)).await.unwrap();
    lab.bigip.set_standby(true);
    for error in [
        lab.plain().plan(&lab.bundle(1)).await.unwrap_err(),
        lab.plain().execute(&lab.bundle(1), plan, &journal()).await.unwrap_err(),
    ] {
        let expected = ("unit_not_active", ErrorClass::IoTransient, Effect::None);
        assert_eq!((error.code(), error.class(), error.effect()), expected);
    }
    let anyway = lab.subject(|config, _| config["require_active"] = json!(false));
    anyway.deliver(&lab.bundle(1), &journal()).await.unwrap();
    assert_eq!(lab.selected(), lab.issued(1).fingerprint);
}

#[tokio::test]
async fn nothing_is_saved_where_that_is_not_wanted() {
    let lab = Lab::new().await;
    let subject = lab.subject(|config, _| config["save"] = json!(false));
    subject.deliver(&lab.bundle(1), &journal()).await.unwrap();
    assert!(!lab.bigip.is_saved());
    lab.bigip.reboot();
    assert_eq!(lab.selected(), lab.issued(0).fingerprint);
}
