//! AD CS, against simulated certificate services: the web services and the web pages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(feature = "adcs")]

#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod faults;
mod policies;
mod support;

use certlib_core::bundle::{Expected, KeyType, check_issued};
use certlib_core::issuer::{OrderState, Recovery};
use certlib_core::{CertificateBundle, Context, ErrorClass};
use certlib_testkit::adcs::{Fault, Hresult, Injection, Language, Operation};
use serde_json::json;

use self::common::{finish, rejection, request, request_with};
use self::support::{ALL, OTHER, OTHER_PASSWORD, USER, Way, builder, login, pending, start};

#[tokio::test]
async fn issues_what_was_asked_for() {
    // Renewed, the CA has several certificates of the same name.
    let pki = start(builder().ca_renewals(2)).await;
    let cx = Context::new("test");
    for way in ALL {
        let issuer = pki.issuer(way, json!({})).await;
        for (names, kind) in [
            (&["a.example.com"][..], KeyType::EcdsaP256),
            (&["b.example.com", "*.b.example.com", "10.0.0.1"], KeyType::Rsa2048),
        ] {
            let (mut wanted, key) = request_with(names, kind);
            wanted.reference = "order-1".to_owned();
            let handle = issuer.submit(&cx, &wanted).await.unwrap();
            let bundle = finish(issuer.as_ref(), &cx, &handle).await;
            check_issued(&bundle, &Expected::new(&wanted.names, key.public_key(), cx.clock.now())).unwrap();
            assert_eq!(bundle.certificates().len(), 2, "leaf and issuing CA");
            bundle.check_signatures().unwrap();
        }
        assert!(issuer.revoker().is_none() && matches!(issuer.recovery(), Recovery::Park));
    }
    let scheme = |record: &certlib_testkit::adcs::Record| record.scheme;
    let schemes: Vec<_> = pki.sim.history().iter().filter_map(scheme).collect();
    for scheme in ["UsernameToken", "Basic", "Certificate"] {
        assert!(schemes.contains(&scheme), "{scheme}");
    }
    assert_eq!(pki.sim.count(Operation::Other), 0, "no login took a second request");
}

#[tokio::test]
async fn waits_for_a_manager_in_any_language() {
    for language in [Language::English, Language::German] {
        let pki = start(builder().language(language).first_request_id(4711)).await;
        let cx = Context::new("test");
        for way in ALL {
            let issuer = pki.issuer(way, json!({ "template": "Approved" })).await;
            let (wanted, _) = request(&["a.example.com"]);
            let handle = issuer.submit(&cx, &wanted).await.unwrap();
            // A handle is plain data, for whichever node asks next.
            let handle = serde_json::from_str(&serde_json::to_string(&handle).unwrap()).unwrap();
            pending(issuer.as_ref(), &cx, &handle).await;
            pending(issuer.as_ref(), &cx, &handle).await;
            pki.sim.approve(pki.sim.pending()[0].id).unwrap();
            finish(issuer.as_ref(), &cx, &handle).await;

            let (wanted, _) = request(&["b.example.com"]);
            let handle = issuer.submit(&cx, &wanted).await.unwrap();
            pending(issuer.as_ref(), &cx, &handle).await;
            pki.sim.deny(pki.sim.pending()[0].id).unwrap();
            let reason = rejection(issuer.as_ref(), &cx, &handle).await;
            assert_eq!((reason.class(), reason.code()), (ErrorClass::Validation, "order_rejected"), "{way:?}");
        }
        assert_eq!(pki.sim.requests().len(), 8, "one request for each order");
    }
}

#[tokio::test]
async fn a_profile_is_another_template() {
    let pki = start(builder()).await;
    let cx = Context::new("test");
    for way in ALL {
        let issuer = pki.issuer(way, json!({})).await;
        let (mut wanted, _) = request(&["a.example.com"]);
        wanted.profile = Some("Approved".to_owned());
        let handle = issuer.submit(&cx, &wanted).await.unwrap();
        pending(issuer.as_ref(), &cx, &handle).await;
        wanted.profile = Some("Approved\r\nSAN:dns=evil.example".to_owned());
        assert_eq!(issuer.submit(&cx, &wanted).await.unwrap_err().code(), "profile_unknown");
    }
    assert!(pki.sim.requests().iter().all(|request| request.template == "Approved"));
}

#[tokio::test]
async fn refusals_have_classes_and_codes() {
    let pki = start(builder().language(Language::German)).await;
    let cx = Context::new("test");
    let ces = json!({ "cep_url": null, "ces_url": pki.sim.ces_url(Way::Token.auth()) });
    let (wanted, _) = request(&["a.example.com"]);
    for (way, settings) in [(Way::Token, ces), (Way::Pages, json!({}))] {
        let issuer = pki.issuer(way, settings).await;
        for (template, class, code, shown) in [
            ("OthersOnly", ErrorClass::Auth, "template_denied", "0x80094012"),
            ("NoSuchThing", ErrorClass::Validation, "order_rejected", "0x80094800"),
            ("Agents", ErrorClass::Validation, "order_rejected", "0x8009480a"),
        ] {
            let mut wanted = wanted.clone();
            wanted.profile = Some(template.to_owned());
            let error = issuer.submit(&cx, &wanted).await.unwrap_err();
            assert_eq!((error.class(), error.code()), (class, code), "{way:?} {template}");
            assert_eq!(error.effect(), certlib_core::Effect::None, "{way:?} {template}");
            assert!(error.context().any(|(key, value)| (key, value) == ("ca_code", shown)), "{error:?}");
        }
        pki.sim.inject(Injection::new(Fault::Deny(Hresult::ADMIN_DENIED)).times(1));
        let error = issuer.submit(&cx, &wanted).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "order_rejected"), "{way:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_what_was_asked_for_is_noticed() {
    let pki = start(builder()).await;
    let cx = Context::new("test");
    for way in ALL {
        let issuer = pki.issuer(way, json!({})).await;
        for fault in [Fault::WrongKey, Fault::WrongNames(vec!["other.example".to_owned()])] {
            pki.sim.inject(Injection::new(fault.clone()).times(1));
            let (wanted, key) = request(&["a.example.com"]);
            let handle = issuer.submit(&cx, &wanted).await.unwrap();
            let OrderState::Issued { chain_pem } = issuer.poll(&cx, &handle).await.unwrap() else {
                panic!("{fault:?}")
            };
            let expected = Expected::new(&wanted.names, key.public_key(), cx.clock.now());
            let checked =
                CertificateBundle::from_pem(chain_pem.as_bytes()).and_then(|bundle| check_issued(&bundle, &expected));
            assert_eq!(checked.unwrap_err().class(), ErrorClass::Validation, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn logins_that_are_refused_are_not_shown() {
    let pki = start(builder()).await;
    let cx = Context::new("test");
    let (wanted, _) = request(&["a.example.com"]);
    for way in [Way::Token, Way::Basic, Way::Pages] {
        for credentials in [login(USER, "CANARY-wrong"), login("nobody", "CANARY-wrong")] {
            let issuer = pki.issuer_as(way, &credentials, json!({})).await;
            let error = issuer.submit(&cx, &wanted).await.unwrap_err();
            assert_eq!((error.class(), error.effect()), (ErrorClass::Auth, certlib_core::Effect::None), "{way:?}");
            assert!(!format!("{error:?} {error} {issuer:?}").contains("CANARY"));
        }
    }
    assert!(pki.sim.requests().is_empty());
}

#[tokio::test]
async fn only_who_made_a_request_may_ask_for_it() {
    let pki = start(builder()).await;
    let cx = Context::new("test");
    let (wanted, _) = request(&["a.example.com"]);
    for way in [Way::Token, Way::Basic, Way::Pages] {
        let issuer = pki.issuer(way, json!({ "template": "Approved" })).await;
        let stranger = pki.issuer_as(way, &login(OTHER, OTHER_PASSWORD), json!({})).await;
        let handle = issuer.submit(&cx, &wanted).await.unwrap();
        let error = stranger.poll(&cx, &handle).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "denied"), "{way:?}");
        pending(issuer.as_ref(), &cx, &handle).await;
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_an_error_of_the_login() {
    let pki = start(builder()).await;
    let cx = Context::new("test");
    let (wanted, _) = request(&["a.example.com"]);
    let issuer = pki.issuer(Way::Token, json!({})).await;
    pki.sim.advance(std::time::Duration::from_secs(600));
    let error = issuer.submit(&cx, &wanted).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "security_refused"));
}

#[tokio::test]
async fn an_order_is_asked_for_where_it_was_placed() {
    let pki = start(builder()).await;
    let cx = Context::new("test");
    let (wanted, _) = request(&["a.example.com"]);
    for (placed, configured) in [(Way::Token, Way::Pages), (Way::Pages, Way::Token)] {
        let before = pki.issuer(placed, json!({ "template": "Approved" })).await;
        let handle = before.submit(&cx, &wanted).await.unwrap();
        let after = pki.issuer(configured, json!({})).await;
        pending(after.as_ref(), &cx, &handle).await;
        pki.sim.approve(pki.sim.pending()[0].id).unwrap();
        finish(after.as_ref(), &cx, &handle).await;
    }
}
