//! GlobalSign, against a simulated account of Atlas.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(feature = "globalsign")]

#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod faults;
mod login;
mod policy;
mod support;

use std::time::Duration;

use certlib_core::bundle::{Expected, KeyType, check_issued};
use certlib_core::issuer::{OrderState, RevocationReason};
use certlib_core::{CertificateBundle, Context, ErrorClass};
use certlib_testkit::globalsign::{Course, GlobalSignSim};
use certlib_testkit::pki::Flaw;
use serde_json::json;

use self::common::{finish, request, request_with};
use self::support::{issuer, pending};

#[tokio::test]
async fn issues_what_was_asked_for() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({ "validity_days": 30 })).await;
    for (names, kind) in [
        (&["a.example.com"][..], KeyType::EcdsaP256),
        (&["b.example.com", "*.b.example.com", "192.0.2.7"], KeyType::EcdsaP384),
    ] {
        let (request, key) = request_with(names, kind);
        let handle = issuer.submit(&cx, &request).await.unwrap();
        let bundle = finish(issuer.as_ref(), &cx, &handle).await;
        check_issued(&bundle, &Expected::new(&request.names, key.public_key(), cx.clock.now())).unwrap();
        assert_eq!(bundle.certificates().len(), 2, "leaf and issuing CA, without the root");
        let days = (bundle.leaf().not_after - cx.clock.now()).whole_days();
        assert!((29..=30).contains(&days), "{days}");
    }
    assert_eq!((ca.count("POST", "certificates"), ca.count("POST", "login")), (2, 1));
}

#[tokio::test]
async fn a_certificate_is_pending_until_it_is_there() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    ca.set_course(Course::default().pending(2));
    let (wanted, _) = request(&["a.example.com"]);
    let handle = issuer.submit(&cx, &wanted).await.unwrap();
    // A handle is plain data, for whichever node asks next.
    let handle = serde_json::from_str(&serde_json::to_string(&handle).unwrap()).unwrap();
    pending(issuer.as_ref(), &cx, &handle).await;
    pending(issuer.as_ref(), &cx, &handle).await;
    finish(issuer.as_ref(), &cx, &handle).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_what_was_asked_for_is_noticed() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    for flaw in [Flaw::OtherKey, Flaw::OtherNames, Flaw::Expired, Flaw::OtherIssuer] {
        ca.set_course(Course::default().flawed(flaw));
        let (request, key) = request(&["a.example.com"]);
        let handle = issuer.submit(&cx, &request).await.unwrap();
        let OrderState::Issued { chain_pem } = issuer.poll(&cx, &handle).await.unwrap() else { panic!("{flaw:?}") };
        let checked = CertificateBundle::from_pem(chain_pem.as_bytes())
            .and_then(|bundle| check_issued(&bundle, &Expected::new(&request.names, key.public_key(), cx.clock.now())));
        assert_eq!(checked.unwrap_err().class(), ErrorClass::Validation, "{flaw:?}");
    }
}

#[tokio::test]
async fn a_certificate_is_revoked_for_every_reason_and_twice() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    for (reason, word) in [
        (RevocationReason::Unspecified, "unspecified"),
        (RevocationReason::KeyCompromise, "keyCompromise"),
        (RevocationReason::AffiliationChanged, "affiliationChanged"),
        (RevocationReason::Superseded, "superseded"),
        (RevocationReason::CessationOfOperation, "cessationOfOperation"),
        (RevocationReason::PrivilegeWithdrawn, "privilegeWithdrawn"),
    ] {
        let (wanted, _) = request(&["a.example.com"]);
        let handle = issuer.submit(&cx, &wanted).await.unwrap();
        let bundle = finish(issuer.as_ref(), &cx, &handle).await;
        for _ in 0..2 {
            issuer.revoker().unwrap().revoke(&cx, &bundle, reason).await.unwrap();
        }
        let own =
            |pem: &str| CertificateBundle::from_pem(pem.as_bytes()).unwrap().fingerprint() == bundle.fingerprint();
        let found = ca.certificates().into_iter().find(|found| own(&found.pem)).unwrap();
        assert_eq!(found.revocation_reason.as_deref(), Some(word));
        // What is revoked is not handed out any more.
        assert!(matches!(issuer.poll(&cx, &handle).await.unwrap(), OrderState::Rejected { .. }));
    }
    let stranger = certlib_testkit::pki::TestCa::new("other").unwrap().issue(&["a.example.com"]).unwrap();
    let stranger = CertificateBundle::from_pem(stranger.certificate_pem.as_bytes()).unwrap();
    let error = issuer.revoker().unwrap().revoke(&cx, &stranger, RevocationReason::Superseded).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Validation);
}

#[tokio::test]
async fn names_without_a_verified_claim_and_quotas_that_are_used_up_are_refused() {
    let ca = GlobalSignSim::builder().requiring_claims().quota(1).start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let (wanted, _) = request(&["a.example.com"]);
    assert_eq!(issuer.submit(&cx, &wanted).await.unwrap_err().class(), ErrorClass::Validation);
    ca.verify_domain("example.com");
    finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await;
    assert_eq!(issuer.submit(&cx, &wanted).await.unwrap_err().class(), ErrorClass::Validation);
    assert_eq!(ca.certificates().len(), 1);
}

#[tokio::test]
async fn validities_are_honoured_and_shortened_to_what_is_allowed() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    for (asked, days) in [(7200, 0), (10 * 86_400, 9), (4000 * 86_400, 199)] {
        let (mut wanted, _) = request(&["a.example.com"]);
        wanted.validity = Some(Duration::from_secs(asked));
        let handle = issuer.submit(&cx, &wanted).await.unwrap();
        let bundle = finish(issuer.as_ref(), &cx, &handle).await;
        assert_eq!((bundle.leaf().not_after - cx.clock.now()).whole_days(), days);
    }
}
