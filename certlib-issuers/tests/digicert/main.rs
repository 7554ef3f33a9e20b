//! DigiCert, against a simulated account of CertCentral.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(feature = "digicert")]

#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod faults;
mod renewal;
mod revocation;
mod support;

use certlib_core::bundle::{Expected, KeyType, check_issued};
use certlib_core::issuer::OrderState;
use certlib_core::{CertificateBundle, Context, ErrorClass};
use certlib_testkit::digicert::{Approvals, Course, DigiCertSim, KeyRole};
use certlib_testkit::pki::Flaw;
use serde_json::json;

use self::common::{finish, rejection, request, request_with};
use self::support::{issuer, issuer_with, pending};

#[tokio::test]
async fn issues_what_was_asked_for() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({ "validity_days": 30 })).await;
    for (names, kind, product) in [
        (&["a.example.com"][..], KeyType::EcdsaP256, None),
        (&["b.example.com", "*.b.example.com"], KeyType::Rsa2048, Some("ssl_securesite_flex")),
        (&["c.example.com", "d.example.com"], KeyType::EcdsaP384, Some("ssl_ev_basic")),
    ] {
        let (mut request, key) = request_with(names, kind);
        request.profile = product.map(str::to_owned);
        let handle = issuer.submit(&cx, &request).await.unwrap();
        let bundle = finish(issuer.as_ref(), &cx, &handle).await;
        check_issued(&bundle, &Expected::new(&request.names, key.public_key(), cx.clock.now())).unwrap();
        assert_eq!(bundle.certificates().len(), 2, "leaf and issuing CA");
        let days = (bundle.leaf().not_after - cx.clock.now()).whole_days();
        assert!((29..=30).contains(&days), "{days}");
    }
    assert_eq!(ca.count("POST", "order/certificate"), 3);
}

#[tokio::test]
async fn products_with_domain_validation_have_no_organization() {
    let ca = DigiCertSim::builder().unvalidated_domains().start().await.unwrap();
    let cx = Context::new("test");
    let settings = json!({ "product": "ssl_dv_geotrust", "organization_id": null, "dcv_method": "dns-txt-token" });
    let issuer = issuer(&ca, settings).await;
    let (request, _) = request(&["a.example.com"]);
    let handle = issuer.submit(&cx, &request).await.unwrap();
    pending(issuer.as_ref(), &cx, &handle).await;
    ca.validate_domain("example.com");
    finish(issuer.as_ref(), &cx, &handle).await;
}

#[tokio::test]
async fn an_order_is_pending_whatever_it_is_called() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    for word in ["pending", "processing", "needs_csr", "a word that nobody knows"] {
        ca.set_course(Course::default().pending(2).shown_as(word));
        let (request, _) = request(&["a.example.com"]);
        let handle = issuer.submit(&cx, &request).await.unwrap();
        // A handle is plain data, for whichever node asks next.
        let kept = serde_json::to_string(&handle).unwrap();
        let handle = serde_json::from_str(&kept).unwrap();
        pending(issuer.as_ref(), &cx, &handle).await;
        pending(issuer.as_ref(), &cx, &handle).await;
        finish(issuer.as_ref(), &cx, &handle).await;
    }
}

#[tokio::test]
async fn approvals_are_waited_for_unless_they_are_skipped() {
    let ca = DigiCertSim::builder().approvals(Approvals::Skippable).start().await.unwrap();
    let cx = Context::new("test");
    let skipping = issuer(&ca, json!({})).await;
    let (wanted, _) = request(&["a.example.com"]);
    finish(skipping.as_ref(), &cx, &skipping.submit(&cx, &wanted).await.unwrap()).await;

    let patient = issuer(&ca, json!({ "skip_approval": false })).await;
    let (wanted, _) = request(&["b.example.com"]);
    let handle = patient.submit(&cx, &wanted).await.unwrap();
    pending(patient.as_ref(), &cx, &handle).await;
    ca.approve(ca.orders()[1].pending_requests[0]).unwrap();
    finish(patient.as_ref(), &cx, &handle).await;

    let (wanted, _) = request(&["c.example.com"]);
    let handle = patient.submit(&cx, &wanted).await.unwrap();
    pending(patient.as_ref(), &cx, &handle).await;
    ca.reject(ca.orders()[2].pending_requests[0]).unwrap();
    let reason = rejection(patient.as_ref(), &cx, &handle).await;
    assert_eq!((reason.class(), reason.code()), (ErrorClass::Validation, "order_rejected"));
}

#[tokio::test]
async fn orders_that_are_over_are_rejected() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    for (course, status) in [
        (Course::default().rejected(), "rejected"),
        (Course::default().pending(1).rejected(), "rejected"),
        (Course::default().canceled(), "canceled"),
    ] {
        ca.set_course(course);
        let (request, _) = request(&["a.example.com"]);
        let handle = issuer.submit(&cx, &request).await.unwrap();
        let reason = rejection(issuer.as_ref(), &cx, &handle).await;
        assert_eq!((reason.class(), reason.code()), (ErrorClass::Validation, "order_rejected"));
        assert!(reason.context().any(|(key, value)| (key, value) == ("status", status)), "{reason:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_what_was_asked_for_is_noticed() {
    let ca = DigiCertSim::start().await.unwrap();
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
async fn keys_without_the_right_are_refused_and_not_shown() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let (request, _) = request(&["a.example.com"]);
    ca.add_key("CANARY-VIEWER", KeyRole::ViewOnly);
    for key in ["CANARY-STRANGER", "CANARY-VIEWER"] {
        let issuer = issuer_with(&ca, key, json!({})).await;
        let error = issuer.submit(&cx, &request).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Auth, "{error:?}");
        assert!(!format!("{error:?} {error} {issuer:?}").contains("CANARY"));
    }
    assert!(ca.orders().is_empty());

    ca.add_key("ORDERS", KeyRole::Orders);
    let issuer = issuer_with(&ca, "ORDERS", json!({ "skip_approval": false })).await;
    finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &request).await.unwrap()).await;
    ca.remove_key("ORDERS");
    let (other, _) = common::request(&["b.example.com"]);
    assert_eq!(issuer.submit(&cx, &other).await.unwrap_err().class(), ErrorClass::Auth);
}

#[tokio::test]
async fn what_cannot_be_ordered_is_refused() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let (mut wanted, _) = request(&["a.example.com"]);
    wanted.profile = Some("../../user".to_owned());
    assert_eq!(issuer.submit(&cx, &wanted).await.unwrap_err().code(), "profile_unknown");
    let long = format!("{}.example.com", "a".repeat(60));
    let (wanted, _) = request(&[&long]);
    assert_eq!(issuer.submit(&cx, &wanted).await.unwrap_err().code(), "name_too_long");
    assert_eq!(ca.history().len(), 0, "nothing was asked");

    let (mut wanted, _) = request(&["a.example.com"]);
    wanted.profile = Some("no_such_product".to_owned());
    assert_eq!(issuer.submit(&cx, &wanted).await.unwrap_err().class(), ErrorClass::Validation);
    let lonely = self::support::issuer(&ca, json!({ "organization_id": 7 })).await;
    wanted.profile = None;
    let error = lonely.submit(&cx, &wanted).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Validation);
    assert!(error.context().any(|(key, value)| (key, value) == ("ca_code", "invalid_organization")), "{error:?}");
}
