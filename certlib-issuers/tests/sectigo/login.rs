//! Who may do what, and that nobody sees how they log in.

use certlib_core::ErrorClass;
use certlib_core::issuer::RevocationReason;
use certlib_testkit::sectigo::{Fault, Injection, SectigoSim};
use serde_json::json;

use super::{Desk, build, config, credentials, order};

#[tokio::test]
async fn every_part_of_the_login_counts() {
    let sim = SectigoSim::start().await.unwrap();
    for part in ["login", "customer_uri", "password"] {
        let mut wrong = credentials();
        wrong[part] = json!("canary");
        let issuer = build(config(&sim), &wrong).await.unwrap();
        let error = issuer.submit(&certlib_core::Context::new("test"), &order()).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Auth, "{part}");
        assert!(!format!("{error:?} {error}").contains("canary"), "{part}");
    }
    assert!(sim.orders().is_empty());
}

#[tokio::test]
async fn a_certificate_stands_for_the_password() {
    let sim = SectigoSim::builder().tls().start().await.unwrap();
    let (url, identity) = (sim.private_url(), sim.client_certificate().clone());
    let mut config = config(&sim);
    config["url"] = json!(url);
    let mut login = credentials();
    login.as_object_mut().unwrap().remove("password");
    login["certificate_pem"] = json!(identity.certificate_pem);
    login["private_key_pem"] = json!(identity.key_pem);
    let issuer = build(config, &login).await.unwrap();
    let cx = certlib_core::Context::new("test");
    let handle = issuer.submit(&cx, &order()).await.unwrap();
    super::common::finish(&*issuer, &cx, &handle).await;
    assert!(sim.history().iter().all(|record| record.path.starts_with("/private/api/")));
}

#[tokio::test]
async fn nothing_secret_is_shown() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    let shown = format!("{:?}", desk.issuer);
    assert!(!shown.contains(SectigoSim::PASSWORD) && shown.contains("organization_id"), "{shown}");
    let handle = desk.submit(&order()).await;
    assert!(!format!("{handle:?}").contains(SectigoSim::PASSWORD));
}

#[tokio::test]
async fn who_may_only_read_cannot_order_or_revoke() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    let handle = desk.submit(&order()).await;
    desk.sim.inject(Injection::new(Fault::Forbidden).on("POST", ""));
    let bundle = desk.collect(&handle).await;
    let error = desk.issuer.submit(&desk.cx, &order()).await.unwrap_err();
    assert_eq!((error.class(), error.effect()), (ErrorClass::Auth, certlib_core::error::Effect::None));
    let revoked = desk.issuer.revoker().unwrap().revoke(&desk.cx, &bundle, RevocationReason::Superseded).await;
    assert_eq!(revoked.unwrap_err().class(), ErrorClass::Auth);
    assert_eq!(desk.sim.orders().len(), 1);
}
