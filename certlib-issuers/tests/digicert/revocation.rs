//! Revocation, with and without somebody who approves it.

use certlib_core::issuer::{AsyncIssuer, RevocationReason};
use certlib_core::{CertificateBundle, Context, ErrorClass, Result};
use certlib_testkit::digicert::{Course, DigiCertSim, KeyRole};
use serde_json::json;

use crate::common::{finish, request};
use crate::support::{issuer, issuer_with};

async fn issue(issuer: &dyn AsyncIssuer, cx: &Context) -> CertificateBundle {
    let (wanted, _) = request(&["a.example.com"]);
    finish(issuer, cx, &issuer.submit(cx, &wanted).await.unwrap()).await
}

async fn revoke(issuer: &dyn AsyncIssuer, cx: &Context, bundle: &CertificateBundle) -> Result<()> {
    issuer.revoker().unwrap().revoke(cx, bundle, RevocationReason::KeyCompromise).await
}

#[tokio::test]
async fn a_certificate_is_revoked_for_every_reason_and_twice() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    for (number, reason) in [
        RevocationReason::Unspecified,
        RevocationReason::KeyCompromise,
        RevocationReason::AffiliationChanged,
        RevocationReason::Superseded,
        RevocationReason::CessationOfOperation,
        RevocationReason::PrivilegeWithdrawn,
    ]
    .into_iter()
    .enumerate()
    {
        let bundle = issue(issuer.as_ref(), &cx).await;
        for _ in 0..2 {
            issuer.revoker().unwrap().revoke(&cx, &bundle, reason).await.unwrap();
        }
        assert_eq!(ca.orders()[number].status, "revoked");
    }
    assert_eq!(ca.count("PUT", "order/"), 0, "never a whole order");
}

#[tokio::test]
async fn the_former_certificate_of_an_order_is_revoked_alone() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let former = issue(issuer.as_ref(), &cx).await;
    let (mut wanted, _) = request(&["a.example.com"]);
    wanted.replaces = Some(former.leaf_der().to_vec());
    finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await;
    revoke(issuer.as_ref(), &cx, &former).await.unwrap();
    assert_eq!(ca.orders()[0].status, "issued");
}

#[tokio::test]
async fn a_revocation_that_waits_for_approval_is_asked_for_once() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    ca.add_key("STANDARD", KeyRole::Standard);
    let issuer = issuer_with(&ca, "STANDARD", json!({})).await;
    let bundle = issue(issuer.as_ref(), &cx).await;
    for _ in 0..2 {
        let error = revoke(issuer.as_ref(), &cx, &bundle).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "approval_pending"));
    }
    assert_eq!(ca.orders()[0].pending_requests.len(), 1);
    ca.approve(ca.orders()[0].pending_requests[0]).unwrap();
    revoke(issuer.as_ref(), &cx, &bundle).await.unwrap();
    assert_eq!(ca.orders()[0].status, "revoked");
}

#[tokio::test]
async fn a_request_for_another_certificate_of_the_order_is_not_this_one() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    ca.add_key("STANDARD", KeyRole::Standard);
    let issuer = issuer_with(&ca, "STANDARD", json!({})).await;
    let former = issue(issuer.as_ref(), &cx).await;
    let (mut wanted, _) = request(&["a.example.com"]);
    wanted.replaces = Some(former.leaf_der().to_vec());
    let current = finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await;
    for (bundle, requests) in [(&former, 1), (&current, 2), (&current, 2)] {
        let error = revoke(issuer.as_ref(), &cx, bundle).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "approval_pending"));
        assert_eq!(ca.orders()[0].pending_requests.len(), requests);
    }
}

#[tokio::test]
async fn what_cannot_be_revoked_says_so() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let bundle = issue(issuer.as_ref(), &cx).await;
    ca.set_course(Course::default().pending(100));
    let (mut wanted, _) = request(&["a.example.com"]);
    wanted.replaces = Some(bundle.leaf_der().to_vec());
    issuer.submit(&cx, &wanted).await.unwrap();
    let error = revoke(issuer.as_ref(), &cx, &bundle).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "reissue_pending"));

    ca.add_key("VIEWER", KeyRole::ViewOnly);
    ca.cancel(ca.orders()[0].id).unwrap();
    let viewer = issuer_with(&ca, "VIEWER", json!({})).await;
    assert_eq!(revoke(viewer.as_ref(), &cx, &bundle).await.unwrap_err().class(), ErrorClass::Auth);
    let stranger = certlib_testkit::pki::TestCa::new("other").unwrap().issue(&["a.example.com"]).unwrap();
    let stranger = CertificateBundle::from_pem(stranger.certificate_pem.as_bytes()).unwrap();
    assert_eq!(revoke(issuer.as_ref(), &cx, &stranger).await.unwrap_err().class(), ErrorClass::Validation);
}
