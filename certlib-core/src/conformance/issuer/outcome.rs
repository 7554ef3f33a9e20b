//! What an order leads to.

use serde_json::json;

use super::lab::PROJECT;
use super::{CaFault, IssuerHarness, Lab};
use crate::client::Revocation;
use crate::error::ErrorClass;
use crate::issuer::RevocationReason;
use crate::model::{CertificateState, OrderStage};
use crate::queue::{JobFilter, JobState};

/// A certificate is issued, and renewed by a second order.
pub async fn what_is_issued_is_what_was_asked_for(harness: &impl IssuerHarness) {
    let lab = Lab::new(harness).await;
    let node = lab.start();
    lab.issue().await;
    let material = lab.client().material(PROJECT, &lab.certificate, Some(1), true).await.unwrap();
    let mut names = material.bundle.leaf().names.clone();
    names.sort();
    let mut asked = lab.ca.names();
    asked.sort();
    assert_eq!(names, asked);
    assert!(material.bundle.certificates().len() > 1, "the chain comes along");
    lab.client().renew(PROJECT, &lab.certificate).await.unwrap();
    lab.until("renewed", async || lab.record().await.active_version == Some(2)).await;
    let renewed = lab.client().material(PROJECT, &lab.certificate, Some(2), true).await.unwrap();
    assert_ne!(renewed.bundle.fingerprint(), material.bundle.fingerprint());
    lab.stop(node).await;
}

/// An order that the CA refuses is over, and is not placed again by itself.
pub async fn a_rejected_order_ends(harness: &impl IssuerHarness) {
    let lab = Lab::new(harness).await;
    lab.ca.set(CaFault::Reject).await;
    let node = lab.start();
    lab.client().issue(PROJECT, &lab.certificate).await.unwrap();
    lab.until("the job ended", async || lab.is_idle().await).await;
    assert_eq!(lab.state().await, CertificateState::IssueFailed);
    assert_eq!(lab.order().await.stage, OrderStage::Rejected);
    assert_eq!(lab.begun().await, 1);
    lab.stop(node).await;
}

/// A certificate for other names is kept away from everything that could use it, and somebody is told.
pub async fn wrong_certificate_is_quarantined(harness: &impl IssuerHarness) {
    let lab = Lab::new(harness).await;
    lab.ca.set(CaFault::WrongNames).await;
    let node = lab.start();
    lab.client().issue(PROJECT, &lab.certificate).await.unwrap();
    lab.until("the job ended", async || lab.is_idle().await).await;
    assert_eq!((lab.order().await.stage, lab.record().await.latest_version), (OrderStage::Quarantined, 0));
    let events = lab.client().events(PROJECT, Some(&lab.certificate), 100).await.unwrap();
    assert!(events.iter().any(|event| event.kind == "certificate.quarantined"), "{events:?}");
    lab.stop(node).await;
}

/// A certificate is revoked, and to revoke it again succeeds.
pub async fn revoke(harness: &impl IssuerHarness) {
    let lab = Lab::new(harness).await;
    let node = lab.start();
    lab.issue().await;
    let bundle = lab.client().material(PROJECT, &lab.certificate, Some(1), false).await.unwrap().bundle;
    assert!(!lab.ca.is_revoked(&bundle).await);
    let cx = crate::context::Context::new("conformance-revoke");
    let issuer = lab.issuer();
    let revoker = issuer.revoker().expect("an issuer that cannot revoke says that this case is not supported");
    revoker.revoke(&cx, &bundle, RevocationReason::Superseded).await.unwrap();
    assert!(lab.ca.is_revoked(&bundle).await);
    // The way that users go, for what is revoked already.
    let revocation = Revocation { version: Some(1), ..Revocation::default() };
    let job = lab.client().revoke(PROJECT, &lab.certificate, revocation).await.unwrap();
    let state = async || lab.client().job(PROJECT, &job).await.unwrap().state;
    lab.until("revoked again", async || !state().await.is_active()).await;
    assert_eq!(state().await, JobState::Succeeded);
    lab.stop(node).await;
}

/// A login that the CA refuses fails at once, for good, and is not shown.
pub async fn bad_credentials(harness: &impl IssuerHarness) {
    let ca = harness.fresh().await.expect("a harness that gave a CA gives another");
    let Some((config, credentials)) = ca.refused() else { return };
    let secrets = ca.secrets();
    let lab = Lab::with_login(harness, ca, config, credentials).await;
    let node = lab.start();
    lab.client().issue(PROJECT, &lab.certificate).await.unwrap();
    lab.until("the job ended", async || lab.is_idle().await).await;
    let jobs = lab.store.jobs(&JobFilter::default()).await.unwrap();
    let error = lab.record().await.last_error.expect("it is written down");
    assert_eq!((jobs[0].state, error.class), (JobState::Failed, ErrorClass::Auth), "{error:?}");
    assert_eq!(lab.ca.orders().await, 0);
    let events = lab.client().events(PROJECT, None, 1000).await.unwrap();
    let shown = format!("{jobs:?} {error:?} {events:?} {:?} {:?}", lab.record().await, lab.order().await);
    for secret in secrets {
        assert!(!shown.contains(&secret), "a secret is shown");
    }
    lab.stop(node).await;
}

/// A setting that nobody knows is refused before anything is done, as is a configuration that is none.
pub async fn unknown_settings_are_refused(harness: &impl IssuerHarness) {
    let ca = harness.fresh().await.expect("a harness that gave a CA gives another");
    let mut config = ca.config();
    harness.factory().check(&config).expect("the configuration itself is good");
    config["no_such_setting"] = json!(true);
    for bad in [config, json!("text"), json!(["list"])] {
        let error = harness.factory().check(&bad).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Validation);
    }
}
