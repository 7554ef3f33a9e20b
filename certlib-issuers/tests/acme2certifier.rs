//! ACME against acme2certifier: renewal information and profiles, which Pebble lacks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(feature = "acme")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use certlib_core::bundle::{Expected, check_issued};
use certlib_core::clock::SystemClock;
use certlib_core::issuer::{AsyncIssuer, IssuerFactory as _, RevocationReason};
use certlib_core::secret::Secret;
use certlib_core::{CertificateBundle, Context, ErrorClass};
use certlib_issuers::acme::AcmeFactory;
use certlib_testkit::counterpart::{Acme2Certifier, RenewalWindow, random_mac_key};
use certlib_testkit::require;
use serde_json::json;

use self::common::{MemoryState, finish, request, spec_at, store};

async fn issuer(ca: &Acme2Certifier, profile: Option<&str>, eab: Option<(&str, &str)>) -> Arc<dyn AsyncIssuer> {
    let config = json!({
        "directory_url": ca.directory_url(),
        "root_pem": ca.api_root_pem(),
        "contact": ["mailto:ops@example.com"],
        "terms_of_service_agreed": true,
        "challenge": { "type": "http-01" },
        "profile": profile,
        "eab_kid": eab.map(|(kid, _)| kid),
    });
    let mut spec = spec_at(config, &Arc::new(MemoryState::default()), SystemClock::shared(), store());
    spec.credentials = eab.map(|(_, key)| Secret::new(json!({ "eab_hmac_key": key }).to_string()));
    AcmeFactory::new().build(&Context::new("test"), spec).await.unwrap()
}

async fn issue(issuer: &dyn AsyncIssuer, cx: &Context, name: &str) -> CertificateBundle {
    let (request, key) = request(&[name]);
    let handle = issuer.submit(cx, &request).await.unwrap();
    let bundle = finish(issuer, cx, &handle).await;
    check_issued(&bundle, &Expected::new(&request.names, key.public_key(), cx.clock.now())).unwrap();
    bundle
}

#[tokio::test]
async fn the_window_is_read_and_follows_the_ca() {
    let window = RenewalWindow::default().start_percent(50.0).retry_after(Duration::from_secs(900));
    let mut ca = require!(Acme2Certifier::builder().validity_days(30).renewal_window(window).start().await);
    let cx = Context::new("test");
    let issuer = issuer(&ca, None, None).await;
    let bundle = issue(issuer.as_ref(), &cx, "www.example.com").await;
    let renewal = issuer.renewal_info().unwrap();

    let window = renewal.renewal_window(&cx, &bundle).await.unwrap().unwrap();
    let (from, until) = (bundle.leaf().not_before, bundle.leaf().not_after);
    let middle = from + (until - from) / 2;
    assert!(time::Duration::abs(window.start - middle) < time::Duration::HOUR, "{window:?}, the middle is {middle}");
    assert!(window.end > window.start && window.end <= until + Duration::from_secs(1), "{window:?}");
    assert_eq!(window.retry_after, Some(Duration::from_secs(900)));

    ca.set_renewal_window(RenewalWindow::default().forced().retry_after(Duration::from_secs(5))).unwrap();
    let window = renewal.renewal_window(&cx, &bundle).await.unwrap().unwrap();
    assert!(window.start < cx.clock.now(), "the CA wants it renewed now: {window:?}");
    assert_eq!(window.retry_after, Some(Duration::from_secs(60)), "no CA is asked more often than once a minute");
}

#[tokio::test]
async fn a_ca_without_renewal_information_has_no_opinion() {
    let window = RenewalWindow::default().disabled();
    let ca = require!(Acme2Certifier::builder().renewal_window(window).start().await);
    let cx = Context::new("test");
    let issuer = issuer(&ca, None, None).await;
    let bundle = issue(issuer.as_ref(), &cx, "www.example.com").await;
    assert_eq!(issuer.renewal_info().unwrap().renewal_window(&cx, &bundle).await.unwrap(), None);
}

#[tokio::test]
async fn a_renewal_names_its_predecessor_and_one_that_is_unknown_is_left_out() {
    let ca = require!(Acme2Certifier::start().await);
    let cx = Context::new("test");
    let issuer = issuer(&ca, None, None).await;
    let first = issue(issuer.as_ref(), &cx, "www.example.com").await;
    let foreign = certlib_testkit::pki::TestCa::new("elsewhere").unwrap().issue(&["www.example.com"]).unwrap();
    let foreign = CertificateBundle::from_pem(foreign.certificate_pem.as_bytes()).unwrap();
    for predecessor in [&first, &foreign] {
        let (mut renewal, key) = request(&["www.example.com"]);
        renewal.replaces = Some(predecessor.leaf_der().to_vec());
        let handle = issuer.submit(&cx, &renewal).await.unwrap();
        let bundle = finish(issuer.as_ref(), &cx, &handle).await;
        check_issued(&bundle, &Expected::new(&renewal.names, key.public_key(), cx.clock.now())).unwrap();
    }
    assert_eq!(ca.order_count(), 3);
}

#[tokio::test]
async fn profiles_are_passed_on_and_unknown_ones_are_not() {
    let ca = require!(
        Acme2Certifier::builder().profile("tlsserver", "for servers").profile("shortlived", "six days").start().await
    );
    let cx = Context::new("test");
    let issuer = issuer(&ca, Some("tlsserver"), None).await;
    issue(issuer.as_ref(), &cx, "www.example.com").await;

    let (mut chosen, _) = request(&["api.example.com"]);
    chosen.profile = Some("shortlived".to_owned());
    let handle = issuer.submit(&cx, &chosen).await.unwrap();
    finish(issuer.as_ref(), &cx, &handle).await;
    assert_eq!(ca.order_count(), 2);

    chosen.profile = Some("tlsclient".to_owned());
    let error = issuer.submit(&cx, &chosen).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "profile_unknown"));
    assert!(error.context().any(|(key, value)| key == "known" && value.contains("shortlived")), "{error}");
    assert_eq!(ca.order_count(), 2);
}

#[tokio::test]
async fn an_external_account_may_order_and_revoke() {
    let key = random_mac_key();
    let ca = require!(Acme2Certifier::builder().external_account("kid-1", &key).start().await);
    let cx = Context::new("test");
    let issuer = issuer(&ca, None, Some(("kid-1", &key))).await;
    let bundle = issue(issuer.as_ref(), &cx, "www.example.com").await;
    assert_eq!(ca.crl_pem(), None);
    let revoker = issuer.revoker().unwrap();
    for _ in 0..2 {
        revoker.revoke(&cx, &bundle, RevocationReason::KeyCompromise).await.unwrap();
    }
    assert!(ca.crl_pem().is_some(), "the certificate is on the list");
}
