//! Revocation.

use certlib_core::issuer::RevocationReason;
use certlib_core::{CertificateBundle, Context, ErrorClass};
use certlib_testkit::pki::TestCa;
use certlib_testkit::vault::{Fault, Injection};
use serde_json::json;

use crate::common::{finish, request};
use crate::support::Server;

#[tokio::test]
async fn a_certificate_is_revoked_once_and_again() {
    let server = Server::any().await;
    let cx = Context::new("test");
    let issuer = server.issuer(json!({})).await;
    let (wanted, _) = request(&["a.shop.example"]);
    let [first, other] = [
        finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await,
        finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await,
    ];
    let revoker = issuer.revoker().unwrap();
    for reason in [RevocationReason::KeyCompromise, RevocationReason::Superseded] {
        revoker.revoke(&cx, &first, reason).await.unwrap();
        assert!(server.is_revoked(&first).await && !server.is_revoked(&other).await);
    }
}

#[tokio::test]
async fn what_is_not_kept_is_revoked_when_it_is_shown_to_vault() {
    let server = Server::any().await;
    let cx = Context::new("test");
    server.role("web", json!({ "no_store": true })).await;
    let issuer = server.issuer(json!({})).await;
    let (wanted, _) = request(&["a.shop.example"]);
    let bundle = finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await;
    assert!(!server.serials().await.iter().any(|serial| serial.replace(':', "") == bundle.leaf().serial));
    for _ in 0..2 {
        issuer.revoker().unwrap().revoke(&cx, &bundle, RevocationReason::Unspecified).await.unwrap();
        assert!(server.is_revoked(&bundle).await);
    }
}

#[tokio::test]
async fn what_cannot_be_revoked_is_an_error() {
    let server = Server::simulated().await;
    let cx = Context::new("test");
    let issuer = server.issuer(json!({})).await;
    let revoker = issuer.revoker().unwrap();
    let foreign = TestCa::new("another").unwrap().issue(&["a.shop.example"]).unwrap().certificate_pem;
    let foreign = CertificateBundle::from_pem(foreign.as_bytes()).unwrap();
    let error = revoker.revoke(&cx, &foreign, RevocationReason::Unspecified).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Validation);

    let (wanted, _) = request(&["a.shop.example"]);
    let bundle = finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await;
    server.sim().inject(Injection::new(Fault::RateLimited { retry_after: None }).on("pki/revoke").times(1));
    let error = revoker.revoke(&cx, &bundle, RevocationReason::Unspecified).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "vault_busy"));
    // The answer is lost: once more does no harm.
    server.sim().inject(Injection::new(Fault::LoseReply).on("pki/revoke").times(1));
    assert!(revoker.revoke(&cx, &bundle, RevocationReason::Unspecified).await.unwrap_err().class().is_retryable());
    revoker.revoke(&cx, &bundle, RevocationReason::Unspecified).await.unwrap();
    assert!(server.is_revoked(&bundle).await);
}
