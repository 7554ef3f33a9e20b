//! Who may do what, and that nobody sees how they log in.

use certlib_core::issuer::RevocationReason;
use certlib_core::{Context, ErrorClass};
use certlib_testkit::entrust::{CagwSim, EcsSim, Fault, Injection};
use certlib_testkit::pki::TestCa;
use serde_json::json;

use super::{build, ecs_config, ecs_credentials, ecs_desk, gateway_config, gateway_desk, identity, order};

#[tokio::test]
async fn every_part_of_the_login_counts() {
    let (ecs, gateway) = (EcsSim::start().await.unwrap(), CagwSim::start().await.unwrap());
    let stranger = identity(&TestCa::new("others").unwrap().issue(&["stranger.example"]).unwrap());
    let mut attempts = Vec::new();
    for part in ["username", "api_key"] {
        let mut wrong = ecs_credentials(&ecs);
        wrong[part] = json!("canary");
        attempts.push((ecs_config(&ecs), wrong));
    }
    let mut wrong = ecs_credentials(&ecs);
    for part in ["certificate_pem", "private_key_pem"] {
        wrong[part] = stranger[part].clone();
    }
    attempts.push((ecs_config(&ecs), wrong));
    attempts.push((gateway_config(&gateway), stranger));
    for (config, credentials) in attempts {
        let issuer = build(config, &credentials).await.unwrap();
        let error = issuer.submit(&Context::new("test"), &order()).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Auth);
        assert!(!format!("{error:?} {error}").contains("canary"));
    }
    assert!(ecs.orders().is_empty() && gateway.enrollments().is_empty());
}

#[tokio::test]
async fn credentials_of_the_other_product_are_refused() {
    let (ecs, gateway) = (EcsSim::start().await.unwrap(), CagwSim::start().await.unwrap());
    let without_login = identity(ecs.client_certificate());
    assert_eq!(build(ecs_config(&ecs), &without_login).await.unwrap_err().code(), "credentials_invalid");
    let with_login = ecs_credentials(&ecs);
    assert_eq!(build(gateway_config(&gateway), &with_login).await.unwrap_err().code(), "credentials_invalid");
}

#[tokio::test]
async fn nothing_secret_is_shown() {
    let ecs = ecs_desk(EcsSim::start().await.unwrap()).await;
    let gateway = gateway_desk(CagwSim::start().await.unwrap()).await;
    for shown in [format!("{:?}", ecs.issuer), format!("{:?}", gateway.issuer)] {
        assert!(!shown.contains(EcsSim::KEY) && !shown.contains("PRIVATE KEY") && shown.contains("Client"), "{shown}");
    }
}

#[tokio::test]
async fn who_may_only_read_cannot_order_or_revoke() {
    let forbidden = || Injection::new(Fault::Forbidden).on("POST", "");
    let ecs = ecs_desk(EcsSim::start().await.unwrap()).await;
    let handle = ecs.submit(&order()).await;
    let bundle = ecs.collect(&handle).await;
    ecs.sim.inject(forbidden());
    assert_eq!(ecs.issuer.submit(&ecs.cx, &order()).await.unwrap_err().class(), ErrorClass::Auth);
    let revoked = ecs.issuer.revoker().unwrap().revoke(&ecs.cx, &bundle, RevocationReason::Superseded).await;
    assert_eq!(revoked.unwrap_err().class(), ErrorClass::Auth);

    let gateway = gateway_desk(CagwSim::start().await.unwrap()).await;
    let handle = gateway.submit(&order()).await;
    let bundle = gateway.collect(&handle).await;
    gateway.sim.inject(forbidden());
    assert_eq!(gateway.issuer.submit(&gateway.cx, &order()).await.unwrap_err().class(), ErrorClass::Auth);
    let revoked = gateway.issuer.revoker().unwrap().revoke(&gateway.cx, &bundle, RevocationReason::Superseded).await;
    assert_eq!(revoked.unwrap_err().class(), ErrorClass::Auth);
    assert_eq!((ecs.sim.orders().len(), gateway.sim.enrollments().len()), (1, 1));
}
