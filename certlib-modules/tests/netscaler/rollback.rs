//! When going back is refused, and what stays because others use it.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::ManualClock;
use certlib_core::module::{RollbackOutcome, Verb};
use certlib_core::{Context, Effect};
use certlib_testkit::netscaler::AdminCall;
use serde_json::json;
use time::OffsetDateTime;

use crate::support::{NAME, Shop, refused};

#[tokio::test]
async fn an_issuer_that_another_pair_uses_by_now_stays() {
    let shop = Shop::new().await;
    let mut work = shop.work(json!({}));
    work.deliver(&shop.pki.by_b().bundle()).await.unwrap();
    let added = shop.link_of("shop").unwrap();
    let other = shop.pki.by_b();
    shop.sim.put_pair("", "other", &other.issued.certificate_pem, &other.issued.key_pem).unwrap();
    shop.sim.link("", "other", &added).unwrap();
    assert_eq!(work.rollback().await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(shop.serves(NAME).await, shop.former.fingerprint());
    assert_eq!(shop.link_of("other").as_ref(), Some(&added), "with its chain");
    assert_eq!(shop.link_of(&added).as_deref(), Some("upper-ca"));
    assert!(shop.sim.files("").contains(&format!("{added}.cer")), "and its file");
    shop.sim.restart();
    assert_eq!(shop.link_of("other").as_ref(), Some(&added));
}

#[tokio::test]
async fn an_expired_certificate_does_not_come_back() {
    let shop = Shop::new().await;
    let mut work = shop.work(json!({}));
    let new = shop.pki.by_b();
    work.deliver(&new.bundle()).await.unwrap();
    let later = ManualClock::new(OffsetDateTime::now_utc() + Duration::from_secs(31 * 24 * 3600));
    work.cx = Context::with(Arc::new(later), Default::default(), "operation");
    assert_eq!(refused(work.rollback().await.unwrap()), "backup_expired");
    assert_eq!(shop.serves(NAME).await, new.fingerprint());
}

#[tokio::test]
async fn a_way_back_that_is_missing_is_said_before() {
    let shop = Shop::new().await;
    shop.sim.call("", &AdminCall::delete("systemfile/shop.key?args=filelocation:%2Fnsconfig%2Fssl")).unwrap();
    let mut work = shop.work(json!({}));
    let new = shop.pki.by_b();
    let plan = work.plan(&new.bundle()).await.unwrap();
    let replace = plan.steps.iter().find(|step| step.verb == Verb::Replace).unwrap();
    assert!(!replace.reversible, "{plan}");
    work.deliver(&new.bundle()).await.unwrap();
    assert_eq!(refused(work.rollback().await.unwrap()), "former_files_missing");
    assert_eq!(shop.serves(NAME).await, new.fingerprint());
}

#[tokio::test]
async fn the_journal_of_another_target_is_not_used() {
    let shop = Shop::new().await;
    let mut work = shop.work(json!({}));
    let new = shop.pki.by_b();
    work.deliver(&new.bundle()).await.unwrap();
    work.target.location["certkey"] = json!("other");
    assert_eq!(refused(work.rollback().await.unwrap()), "wrong_target");
    let plan = work.plan(&shop.pki.by_b().bundle()).await.unwrap();
    let error = work.execute(&new.bundle(), &plan).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("wrong_target", Effect::Possible));
    assert_eq!(shop.serves(NAME).await, new.fingerprint());
}

#[tokio::test]
async fn a_link_that_somebody_else_made_is_theirs() {
    let shop = Shop::new().await;
    let mut work = shop.work(json!({}));
    work.deliver(&shop.pki.by_b().bundle()).await.unwrap();
    let twin = certlib_testkit::pki::TestCa::new("lower B").unwrap();
    shop.sim.put_authority("", "twin", twin.certificate_pem()).unwrap();
    shop.sim.call("", &AdminCall::post("sslcertkey?action=unlink", json!({ "certkey": "shop" }))).unwrap();
    shop.sim.link("", "shop", "twin").unwrap();
    let theirs = shop.sim.snapshot("");
    assert_eq!(refused(work.rollback().await.unwrap()), "foreign_change");
    assert_eq!(shop.sim.snapshot(""), theirs);
}

#[tokio::test]
async fn a_pair_that_somebody_removed_is_not_made_again() {
    let shop = Shop::new().await;
    let mut work = shop.work(json!({}));
    work.deliver(&shop.pki.by_b().bundle()).await.unwrap();
    for path in ["sslvserver_sslcertkey_binding/web?args=certkeyname:shop", "sslcertkey/shop"] {
        shop.sim.call("", &AdminCall::delete(path)).unwrap();
    }
    assert_eq!(refused(work.rollback().await.unwrap()), "foreign_change");
}

#[tokio::test]
async fn what_was_saved_is_saved_again() {
    let shop = Shop::new().await;
    let mut work = shop.work(json!({}));
    work.deliver(&shop.pki.by_b().bundle()).await.unwrap();
    work.rollback().await.unwrap();
    shop.sim.restart();
    assert_eq!(shop.serves(NAME).await, shop.former.fingerprint());
    let mut unsaved = shop.work(json!({ "save": false }));
    unsaved.deliver(&shop.pki.by_b().bundle()).await.unwrap();
    let saves = shop.sim.saves("");
    unsaved.rollback().await.unwrap();
    assert_eq!(shop.sim.saves(""), saves, "nothing was saved, so nothing is");
}
