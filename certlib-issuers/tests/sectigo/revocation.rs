//! Revocation.

use certlib_core::ErrorClass;
use certlib_core::issuer::RevocationReason;
use certlib_testkit::sectigo::{Fault, Injection, SectigoSim, Status};

use super::{Desk, order};

#[tokio::test]
async fn every_reason_and_twice() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    let revoker = desk.issuer.revoker().unwrap();
    for (reason, code) in [
        (RevocationReason::Unspecified, 0),
        (RevocationReason::KeyCompromise, 1),
        (RevocationReason::AffiliationChanged, 3),
        (RevocationReason::Superseded, 4),
        (RevocationReason::CessationOfOperation, 5),
        (RevocationReason::PrivilegeWithdrawn, 5),
    ] {
        let handle = desk.submit(&order()).await;
        let bundle = desk.collect(&handle).await;
        revoker.revoke(&desk.cx, &bundle, reason).await.unwrap();
        revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap();
        let placed = desk.sim.orders().pop().unwrap();
        assert_eq!((placed.status, placed.reason_code), (Status::Revoked, Some(code)));
        assert_eq!(desk.rejection(&handle).await.code(), "order_rejected");
    }
}

#[tokio::test]
async fn by_the_id_where_the_serial_number_is_not_taken() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    let handle = desk.submit(&order()).await;
    let bundle = desk.collect(&handle).await;
    let body = r#"{"code":-124,"description":"Wrong SSL certificate id."}"#.to_owned();
    let unknown = Fault::Answer { status: 404, content_type: "application/json".into(), body };
    desk.sim.inject(Injection::new(unknown).on("POST", "/revoke/serial/"));
    let revoker = desk.issuer.revoker().unwrap();
    for _ in 0..2 {
        revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap();
    }
    assert_eq!(desk.sim.orders()[0].status, Status::Revoked);
}

#[tokio::test]
async fn serial_numbers_with_a_zero_in_front() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    let revoker = desk.issuer.revoker().unwrap();
    let mut padded = 0;
    while padded < 3 {
        let bundle = desk.collect(&desk.submit(&order()).await).await;
        padded += usize::from(bundle.leaf().serial.starts_with("00"));
        if padded == 2 {
            // Only the id leads to it.
            let body = r#"{"code":-124,"description":"Wrong SSL certificate id."}"#.to_owned();
            let unknown = Fault::Answer { status: 404, content_type: "application/json".into(), body };
            desk.sim.inject(Injection::new(unknown).on("POST", "/revoke/serial/"));
        }
        revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap();
        assert_eq!(desk.sim.orders().pop().unwrap().status, Status::Revoked);
        desk.sim.clear_faults();
    }
}

#[tokio::test]
async fn only_issued_ones_may_mean_revoked_already() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    let handle = desk.submit(&order()).await;
    let bundle = desk.collect(&handle).await;
    let revoker = desk.issuer.revoker().unwrap();
    revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap();
    let body = r#"{"code":-102,"description":"Only issued certificates could be revoked."}"#.to_owned();
    let refusal = Fault::Answer { status: 400, content_type: "application/json".into(), body };
    desk.sim.inject(Injection::new(refusal).on("POST", "/revoke/"));
    revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap();

    let handle = desk.submit(&order()).await;
    let bundle = desk.collect(&handle).await;
    let error = revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Validation, "it is not revoked");
}

#[tokio::test]
async fn what_it_does_not_have_it_cannot_revoke() {
    let (desk, other) =
        (Desk::new(SectigoSim::start().await.unwrap()).await, Desk::new(SectigoSim::start().await.unwrap()).await);
    let handle = other.submit(&order()).await;
    let foreign = other.collect(&handle).await;
    let error = desk.issuer.revoker().unwrap().revoke(&desk.cx, &foreign, RevocationReason::Superseded).await;
    assert_eq!(error.unwrap_err().class(), ErrorClass::Validation);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    let handle = desk.submit(&order()).await;
    let bundle = desk.collect(&handle).await;
    desk.sim.inject(Injection::new(Fault::LoseReply).on("POST", "/revoke/").times(1));
    let revoker = desk.issuer.revoker().unwrap();
    let error = revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap_err();
    assert!(error.class().is_retryable());
    revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap();
    assert_eq!(desk.sim.orders()[0].status, Status::Revoked);
}
