//! Logins: tokens, their life and their end, HTTP Basic, and roles.

use certlib_core::error::{Effect, ErrorClass};
use certlib_testkit::f5::{F5Sim, Fault, Injection, Role};
use serde_json::json;

use crate::common::{journal, served};
use crate::lab::Lab;

#[tokio::test]
async fn a_token_lives_as_long_as_configured_and_is_deleted() {
    let lab = Lab::new().await;
    let subject = lab.subject(|config, _| config["auth"] = json!({ "token_lifetime_s": 3_000 }));
    // It cannot be deleted, so it can be looked at.
    lab.bigip
        .inject(Injection::new(Fault::Error { status: 500, message: "x".to_owned() }).on("DELETE", "shared/authz"));
    subject.plan(&lab.bundle(1)).await.unwrap();
    assert_eq!(lab.bigip.token_timeouts(), [3_000]);
    lab.bigip.clear_faults();
    lab.bigip.expire_tokens();
    lab.plain().plan(&lab.bundle(1)).await.unwrap();
    assert_eq!(lab.bigip.live_tokens(), 0);
    let history = lab.bigip.history();
    assert!(history.iter().all(|record| !record.with_basic), "no password but in the login");
    assert_eq!(lab.bigip.count("PATCH", "shared/authz"), 1, "only where it is configured");
}

#[tokio::test]
async fn an_extension_that_fails_shows_no_token() {
    let lab = Lab::new().await;
    let subject = lab.subject(|config, _| config["auth"] = json!({ "token_lifetime_s": 3_000 }));
    for fault in [Fault::Error { status: 406, message: "x".to_owned() }, Fault::LoseRequest] {
        lab.bigip.inject(Injection::new(fault).on("PATCH", "shared/authz").times(1));
        let error = subject.plan(&lab.bundle(1)).await.unwrap_err();
        assert_eq!(error.effect(), Effect::None);
        let text = format!("{error} {error:?}");
        assert!(!text.contains("tokens/"), "{text}");
        assert_eq!(lab.bigip.live_tokens(), 0, "and it is deleted");
    }
}

#[tokio::test]
async fn a_token_may_end_before_any_request() {
    for expired in 0.. {
        let lab = Lab::new().await;
        lab.bigip.inject(Injection::new(Fault::ExpireToken).on("GET", "tm/").after(expired).times(1));
        let posts = Injection::new(Fault::ExpireToken).on("POST", "tm/").after(expired).times(1);
        let by_get = lab.plain().deliver(&lab.bundle(1), &journal()).await;
        assert!(by_get.is_ok(), "GET {expired}: {by_get:?}");
        lab.bigip.clear_faults();
        lab.bigip.inject(posts);
        let by_post = lab.plain().deliver(&lab.bundle(2), &journal()).await;
        assert!(by_post.is_ok(), "POST {expired}: {by_post:?}");
        assert_eq!(lab.selected(), lab.issued(2).fingerprint);
        lab.assert_clean();
        if lab.bigip.history().iter().filter(|record| record.status == Some(401)).count() == 0 {
            assert!(expired > 10, "neither was met");
            return;
        }
    }
}

#[tokio::test]
async fn there_is_one_fresh_login_at_most() {
    let lab = Lab::new().await;
    let before = lab.bigip.describe();
    lab.bigip.inject(Injection::new(Fault::ExpireToken).on("GET", "tm/ltm/profile").times(2));
    let error = lab.plain().deliver(&lab.bundle(1), &journal()).await.unwrap_err();
    assert_eq!((error.code(), error.class(), error.effect()), ("permission_denied", ErrorClass::Auth, Effect::None));
    assert_eq!(lab.bigip.count("POST", "shared/authn/login"), 2);
    assert_eq!(lab.bigip.describe(), before);
    lab.assert_clean();
}

#[tokio::test]
async fn basic_only_where_it_is_configured() {
    let lab = Lab::new().await;
    let subject = lab.subject(|config, _| config["auth"] = json!({ "method": "basic" }));
    subject.deliver(&lab.bundle(1), &journal()).await.unwrap();
    assert!(served(&subject.validate(&lab.bundle(1)).await.unwrap()));
    let history = lab.bigip.history();
    assert!(history.iter().all(|record| record.with_basic && !record.with_token));
    assert_eq!(lab.bigip.count("POST", "shared/authn"), 0);
    let wrong = lab.as_user(subject, F5Sim::USER, "wrong-password");
    let error = wrong.plan(&lab.bundle(2)).await.unwrap_err();
    assert_eq!((error.code(), error.class(), error.effect()), ("login_failed", ErrorClass::Auth, Effect::None));
    let requests = lab.bigip.history().len() - history.len();
    assert_eq!(requests, 1, "a wrong password is not tried twice");
}

#[tokio::test]
async fn other_providers_and_wrong_passwords() {
    let lab = Lab::new().await;
    let wrong = lab.as_user(lab.plain(), F5Sim::USER, "wrong-password");
    let error = wrong.deliver(&lab.bundle(1), &journal()).await.unwrap_err();
    assert_eq!((error.code(), error.class(), error.effect()), ("login_failed", ErrorClass::Auth, Effect::None));
    assert_eq!(lab.bigip.count("POST", "shared/authn/login"), 1);

    let bigip = F5Sim::builder().remote_user("ldap", "jo", "jos-password", Role::Administrator).start().await.unwrap();
    bigip.install("/Common/former", lab.issued(0)).unwrap();
    bigip.add_client_ssl("/Common/shop", &["/Common/former"]).unwrap();
    let at = |provider: &str| {
        let subject = lab.subject(|config, location| {
            config["connection"]["tls"]["ca_pem"] = json!(bigip.ca_pem());
            config["auth"] = json!({ "provider": provider });
            *location = json!({ "url": bigip.url(), "profiles": [{ "name": "/Common/shop" }] });
        });
        lab.as_user(subject, "jo", "jos-password")
    };
    assert_eq!(at("tmos").plan(&lab.bundle(1)).await.unwrap_err().code(), "login_failed");
    at("ldap").deliver(&lab.bundle(1), &journal()).await.unwrap();
    // A user who has all the tokens there can be.
    bigip.inject(Injection::new(Fault::Error { status: 500, message: "x".to_owned() }).on("DELETE", "shared/authz"));
    for _ in 0..100 {
        at("ldap").validate(&lab.bundle(1)).await.unwrap();
    }
    let error = at("ldap").plan(&lab.bundle(2)).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("login_unavailable", ErrorClass::IoTransient));
}

#[tokio::test]
async fn who_may_not_remove_files_overwrites_them() {
    let lab = Lab::new().await;
    let subject = lab.as_user(lab.plain(), "operator", "operator-password");
    subject.deliver(&lab.bundle(1), &journal()).await.unwrap();
    assert_eq!(lab.selected(), lab.issued(1).fingerprint);
    let uploads = lab.bigip.uploads();
    assert_eq!(uploads.len(), 3);
    assert!(uploads.iter().all(|(_, content)| content == b"\n"), "a key must not lie around");
    assert_eq!(lab.bigip.live_tokens(), 0);
}

#[tokio::test]
async fn a_unit_that_is_not_trusted_gets_no_password() {
    let lab = Lab::new().await;
    let subject = lab.subject(|config, _| config["connection"]["tls"] = json!({ "ca_pem": lab.issued(0).issuer_pem }));
    let error = subject.plan(&lab.bundle(1)).await.unwrap_err();
    assert_eq!((error.code(), error.class(), error.effect()), ("tls_untrusted", ErrorClass::Auth, Effect::None));
    let forbidden = lab.subject(|config, _| config["connection"]["addresses"] = json!({}));
    assert_eq!(forbidden.plan(&lab.bundle(1)).await.unwrap_err().code(), "address_forbidden");
    assert!(lab.bigip.history().is_empty());
}
