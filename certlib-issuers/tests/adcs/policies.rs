//! The policy service: what it decides beforehand, and how often it is asked.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::{Clock, ManualClock, SystemClock};
use certlib_core::{Context, ErrorClass};
use certlib_testkit::adcs::{Auth, Fault, Injection, Operation, Template};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::common::{finish, request, request_with};
use super::support::{Way, builder, start};

#[tokio::test]
async fn templates_that_would_not_do_are_refused_beforehand() {
    let pki = start(builder()).await;
    let cx = Context::new("test");
    let issuer = pki.issuer(Way::Certificate, json!({})).await;
    for (template, class, code) in [
        ("OthersOnly", ErrorClass::Auth, "template_denied"),
        ("NoSuchThing", ErrorClass::Validation, "template_unknown"),
        ("Agents", ErrorClass::Validation, "template_needs_signatures"),
        ("Machine", ErrorClass::Validation, "template_ignores_names"),
        ("LongKeys", ErrorClass::Validation, "key_too_short"),
    ] {
        let (mut wanted, _) = request_with(&["a.example.com"], certlib_core::bundle::KeyType::Rsa2048);
        wanted.profile = Some(template.to_owned());
        let error = issuer.submit(&cx, &wanted).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (class, code), "{template}");
    }
    assert!(pki.sim.requests().is_empty(), "nothing was asked of the CA");
}

#[tokio::test]
async fn the_ca_and_its_service_are_looked_up() {
    let pki = start(builder().ca_name("Ex & Co Issuing CA").renewal_only(&[Auth::Certificate])).await;
    let cx = Context::new("test");
    let (wanted, _) = request(&["a.example.com"]);
    let issuer = pki.issuer(Way::Token, json!({ "ca_name": "Ex & Co Issuing CA" })).await;
    let handle = issuer.submit(&cx, &wanted).await.unwrap();
    finish(issuer.as_ref(), &cx, &handle).await;
    assert_eq!(handle.0["url"], pki.sim.ces_url(Auth::UsernamePassword));
    assert_eq!(handle.0["authority"], "Ex & Co Issuing CA");
    assert!(handle.0["template_version"].as_str().unwrap().ends_with(" 100.1"), "{handle:?}");

    let other = pki.issuer(Way::Token, json!({ "ca_name": "Other CA" })).await;
    assert_eq!(other.submit(&cx, &wanted).await.unwrap_err().code(), "ca_unknown");
    // It takes only renewals with this kind of login.
    let renewing = pki.issuer(Way::Certificate, json!({})).await;
    assert_eq!(renewing.submit(&cx, &wanted).await.unwrap_err().code(), "login_not_offered");
    assert_eq!(pki.sim.requests().len(), 1);
}

#[tokio::test]
async fn policies_are_kept_for_an_hour() {
    let pki = start(builder()).await;
    let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
    let cx = Context::with(clock.clone(), CancellationToken::new(), "test");
    let issuer = pki.issuer(Way::Certificate, json!({})).await;
    let (wanted, _) = request(&["a.example.com"]);
    let asked = || pki.sim.count(Operation::GetPolicies);
    // At the same time as well.
    let both = tokio::join!(issuer.submit(&cx, &wanted), issuer.submit(&cx, &wanted));
    both.0.and(both.1).unwrap();
    assert_eq!(asked(), 1);
    clock.advance(Duration::from_secs(3599));
    issuer.submit(&cx, &wanted).await.unwrap();
    assert_eq!(asked(), 1);
    clock.advance(Duration::from_secs(2));
    issuer.submit(&cx, &wanted).await.unwrap();
    assert_eq!(asked(), 2);
    // What is not known may be new.
    pki.sim.put_template(Template::new("New"));
    let mut newer = wanted.clone();
    newer.profile = Some("New".to_owned());
    issuer.submit(&cx, &newer).await.unwrap();
    assert_eq!(asked(), 3);
}

#[tokio::test]
async fn without_policies_nothing_is_placed() {
    let pki = start(builder()).await;
    let cx = Context::new("test");
    let (wanted, _) = request(&["a.example.com"]);
    let page = Fault::Answer { status: 200, content_type: "text/html".to_owned(), body: "<html/>".to_owned() };
    for (fault, class) in [
        (Fault::LoseReply, ErrorClass::Network),
        (Fault::Broken { status: 503, retry_after: None }, ErrorClass::IoTransient),
        (Fault::Truncated, ErrorClass::IoPermanent),
        (page, ErrorClass::IoPermanent),
    ] {
        let issuer = pki.issuer(Way::Token, json!({})).await;
        pki.sim.inject(Injection::new(fault.clone()).on(Operation::GetPolicies));
        let error = issuer.submit(&cx, &wanted).await.unwrap_err();
        assert_eq!((error.class(), error.effect()), (class, certlib_core::Effect::None), "{fault:?}");
        pki.sim.clear_faults();
        issuer.submit(&cx, &wanted).await.unwrap();
    }
    assert_eq!(pki.sim.requests().len(), 4);
}
