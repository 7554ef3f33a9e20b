//! Entrust Certificate Services: orders, searches, revocation.

use std::time::Duration;

use certlib_core::ErrorClass;
use certlib_core::bundle::{Expected, check_issued};
use certlib_core::error::Effect;
use certlib_core::issuer::RevocationReason;
use certlib_testkit::entrust::{EcsSim, EcsStatus, Fault, Injection};
use certlib_testkit::pki::Flaw;
use serde_json::json;

use super::common::request;
use super::{Desk, ecs_config, ecs_credentials, ecs_desk, order, page, refusal};

#[tokio::test]
async fn issued_at_once_with_everything_that_was_configured() {
    let desk = ecs_desk(EcsSim::start().await.unwrap()).await;
    let (mut request, key) = request(&["www.shop.example", "shop.example"]);
    request.reference = "order-4711".to_owned();
    request.validity = Some(Duration::from_secs(30 * 24 * 3600));
    let handle = desk.submit(&request).await;
    let bundle = desk.collect(&handle).await;
    check_issued(&bundle, &Expected::new(&request.names, key.public_key(), time::OffsetDateTime::now_utc())).unwrap();
    assert_eq!(bundle.certificates().len(), 2);
    assert_eq!((bundle.leaf().not_after - bundle.leaf().not_before).whole_days(), 30);
    let placed = desk.sim.orders().remove(0);
    assert_eq!(placed.tracking["trackingInfo"], "certlib order-4711");
    assert_eq!(placed.tracking["requesterEmail"], "web@shop.example");
    assert_eq!(desk.sim.history().len(), 2, "one to order, one to collect");
}

#[tokio::test]
async fn pending_then_issued() {
    let desk = ecs_desk(EcsSim::builder().pending_polls(3).start().await.unwrap()).await;
    let handle = desk.submit(&order()).await;
    for _ in 0..3 {
        assert!(desk.is_pending(&handle).await);
    }
    desk.collect(&handle).await;
    assert_eq!(desk.sim.orders().len(), 1);
}

#[tokio::test]
async fn approvals_are_pending_until_somebody_decides() {
    let sim = EcsSim::start().await.unwrap();
    let (mut config, credentials) = (ecs_config(&sim), ecs_credentials(&sim));
    config["queue_for_approval"] = json!(true);
    let desk = Desk::with(sim, config, credentials).await;
    let (first, second) = (desk.submit(&order()).await, desk.submit(&order()).await);
    for _ in 0..3 {
        assert!(desk.is_pending(&first).await && desk.is_pending(&second).await);
    }
    let ids: Vec<_> = desk.sim.orders().iter().map(|order| order.id).collect();
    desk.sim.approve(ids[0]).unwrap();
    desk.sim.decline(ids[1], "no").unwrap();
    desk.collect(&first).await;
    let reason = desk.rejection(&second).await;
    assert_eq!((reason.class(), reason.code()), (ErrorClass::Validation, "order_rejected"));
    assert!(reason.to_string().contains("declined"), "{reason}");
}

#[tokio::test]
async fn words_that_are_new_are_pending() {
    let desk = ecs_desk(EcsSim::start().await.unwrap()).await;
    let handle = desk.submit(&order()).await;
    let body = r#"{"status":"AWAITING_APPROVAL","trackingId":1}"#.to_owned();
    let answer = Fault::Answer { status: 200, content_type: "application/json".into(), body };
    desk.sim.inject(Injection::new(answer).times(1));
    assert!(desk.is_pending(&handle).await);
    let body = r#"{"status":"ACTIVE","trackingId":1}"#.to_owned();
    let answer = Fault::Answer { status: 200, content_type: "application/json".into(), body };
    desk.sim.inject(Injection::new(answer).times(1));
    assert!(desk.is_pending(&handle).await, "active, but not to be had yet");
    desk.collect(&handle).await;
}

#[tokio::test]
async fn refusals_of_orders_place_nothing() {
    let desk = ecs_desk(EcsSim::builder().inventory(0).start().await.unwrap()).await;
    let error = desk.issuer.submit(&desk.cx, &order()).await.unwrap_err();
    assert_eq!((error.class(), error.effect()), (ErrorClass::Validation, Effect::None), "no inventory");
    desk.sim.set_inventory(None);
    let (foreign, _) = request(&["www.elsewhere.example"]);
    assert_eq!(desk.issuer.submit(&desk.cx, &foreign).await.unwrap_err().class(), ErrorClass::Validation);
    let mut odd = order();
    odd.profile = Some("no such/type".to_owned());
    assert_eq!(desk.issuer.submit(&desk.cx, &odd).await.unwrap_err().code(), "profile_unknown");
    for (fault, class, effect) in [
        (refusal(400), ErrorClass::Validation, Effect::None),
        (Fault::Broken { status: 500 }, ErrorClass::IoTransient, Effect::Possible),
        (Fault::RateLimited { retry_after: None }, ErrorClass::IoTransient, Effect::None),
        (Fault::LoseRequest, ErrorClass::Network, Effect::Possible),
    ] {
        desk.sim.inject(Injection::new(fault.clone()).times(1));
        let error = desk.issuer.submit(&desk.cx, &order()).await.unwrap_err();
        assert_eq!((error.class(), error.effect()), (class, effect), "{fault:?}");
        assert!(!format!("{error:?}").contains("secret words"));
    }
    assert!(desk.sim.orders().is_empty());
}

#[tokio::test]
async fn storms_and_garbage_lose_nothing() {
    let desk = ecs_desk(EcsSim::start().await.unwrap()).await;
    let handle = desk.submit(&order()).await;
    let wait = Duration::from_secs(42);
    desk.sim.inject(Injection::new(Fault::RateLimited { retry_after: Some(wait) }).times(1));
    assert_eq!(desk.poll(&handle).await.unwrap_err().retry_after(), Some(wait));
    for fault in [Fault::Broken { status: 502 }, Fault::Maintenance, Fault::LoseReply, page(404)] {
        desk.sim.inject(Injection::new(fault.clone()).times(1));
        assert!(desk.poll(&handle).await.unwrap_err().class().is_retryable(), "{fault:?}");
    }
    for fault in [Fault::Garbled, page(200)] {
        desk.sim.inject(Injection::new(fault).times(1));
        let error = desk.poll(&handle).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::IoPermanent, "answer_invalid"));
        assert!(!format!("{error:?}").contains("secret words"));
    }
    desk.sim.inject(Injection::new(refusal(404)).times(2));
    assert!(desk.is_pending(&handle).await, "it is young");
    desk.clock.advance(Duration::from_secs(61));
    assert_eq!(desk.poll(&handle).await.unwrap_err().class(), ErrorClass::Validation);
    desk.collect(&handle).await;
    assert_eq!(desk.sim.orders().len(), 1);
}

#[tokio::test]
async fn a_wrong_certificate_is_noticed() {
    let desk = ecs_desk(EcsSim::start().await.unwrap()).await;
    for (flaw, code) in [
        (Flaw::OtherKey, "key_mismatch"),
        (Flaw::OtherNames, "issued_names_differ"),
        (Flaw::Expired, "issued_validity"),
    ] {
        desk.sim.spoil_next(flaw);
        let (request, key) = request(&["shop.example"]);
        let handle = desk.submit(&request).await;
        let bundle = desk.collect(&handle).await;
        let expected = Expected::new(&request.names, key.public_key(), time::OffsetDateTime::now_utc());
        assert_eq!(check_issued(&bundle, &expected).unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn a_lost_order_is_found() {
    for polls in [0, 99] {
        let desk = ecs_desk(EcsSim::builder().pending_polls(polls).start().await.unwrap()).await;
        for number in 0..3 {
            let mut other = order();
            other.reference = format!("other-{number}");
            desk.submit(&other).await;
        }
        for reference in ["order-4711", ""] {
            let mut request = order();
            request.reference = reference.to_owned();
            assert!(desk.find(&request).await.unwrap().is_none());
            desk.sim.inject(Injection::new(Fault::LoseReply).on("POST", "/certificates").times(1));
            let error = desk.issuer.submit(&desk.cx, &request).await.unwrap_err();
            assert_eq!((error.class(), error.effect()), (ErrorClass::Network, Effect::Possible));
            let handle = desk.find(&request).await.unwrap().expect("it is there");
            desk.sim.orders().iter().for_each(|order| drop(desk.sim.finish(order.id)));
            let ours = desk.collect(&handle).await.fingerprint().to_string();
            assert_eq!(desk.sim.orders().pop().unwrap().fingerprint, Some(ours));
        }
        assert_eq!(desk.sim.orders().len(), 5);
    }
}

#[tokio::test]
async fn a_lost_order_that_was_declined_is_found_and_rejected() {
    let desk = ecs_desk(EcsSim::builder().approvals().start().await.unwrap()).await;
    let request = order();
    desk.sim.inject(Injection::new(Fault::LoseReply).on("POST", "/certificates").times(1));
    desk.issuer.submit(&desk.cx, &request).await.unwrap_err();
    desk.sim.decline(desk.sim.orders()[0].id, "no").unwrap();
    let handle = desk.find(&request).await.unwrap().expect("it is there");
    assert_eq!(desk.rejection(&handle).await.code(), "order_rejected");
}

#[tokio::test]
async fn short_pages_end_no_list() {
    let desk = ecs_desk(EcsSim::builder().page(2).start().await.unwrap()).await;
    for number in 0..5 {
        let mut other = order();
        other.reference = format!("other-{number}");
        desk.submit(&other).await;
    }
    let request = order();
    desk.submit(&request).await;
    assert!(desk.find(&request).await.unwrap().is_some());
}

#[tokio::test]
async fn the_tracking_text_tells_where_no_request_is_shown() {
    let desk = ecs_desk(EcsSim::builder().pending_polls(9).start().await.unwrap()).await;
    let request = order();
    desk.submit(&request).await;
    let shown = |text: &str| {
        let body = json!({ "status": "PENDING", "trackingId": 1, "tracking": { "trackingInfo": text } }).to_string();
        let answer = Fault::Answer { status: 200, content_type: "application/json".into(), body };
        Injection::new(answer).on("GET", "/certificates/").times(1)
    };
    desk.sim.inject(shown("certlib order-4711"));
    assert!(desk.find(&request).await.unwrap().is_some());
    desk.sim.inject(shown("certlib order-4712"));
    assert!(desk.find(&request).await.unwrap().is_none());
}

#[tokio::test]
async fn two_of_the_same_are_ambiguous() {
    let desk = ecs_desk(EcsSim::start().await.unwrap()).await;
    let request = order();
    desk.submit(&request).await;
    desk.submit(&request).await;
    assert_eq!(desk.find(&request).await.unwrap_err().code(), "order_ambiguous");
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_a_lost_one() {
    let desk = ecs_desk(EcsSim::start().await.unwrap()).await;
    let request = order();
    desk.sim.inject(Injection::new(Fault::Garbled).on("POST", "").times(1));
    let error = desk.issuer.submit(&desk.cx, &request).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("answer_invalid", Effect::Possible));
    assert!(desk.find(&request).await.unwrap().is_some());
}

#[tokio::test]
async fn revoked_for_every_reason_and_twice() {
    let desk = ecs_desk(EcsSim::start().await.unwrap()).await;
    let revoker = desk.issuer.revoker().unwrap();
    for (reason, word) in [
        (RevocationReason::Unspecified, "superseded"),
        (RevocationReason::KeyCompromise, "keyCompromise"),
        (RevocationReason::AffiliationChanged, "affiliationChanged"),
        (RevocationReason::Superseded, "superseded"),
        (RevocationReason::CessationOfOperation, "cessationOfOperation"),
        (RevocationReason::PrivilegeWithdrawn, "cessationOfOperation"),
    ] {
        let handle = desk.submit(&order()).await;
        let bundle = desk.collect(&handle).await;
        assert!(bundle.leaf().serial.starts_with('0'), "a zero that the API leaves out");
        revoker.revoke(&desk.cx, &bundle, reason).await.unwrap();
        revoker.revoke(&desk.cx, &bundle, reason).await.unwrap();
        let placed = desk.sim.orders().pop().unwrap();
        assert_eq!((placed.status, placed.reason.as_deref()), (EcsStatus::Revoked, Some(word)));
        assert_eq!(desk.rejection(&handle).await.code(), "order_rejected");
    }
}

#[tokio::test]
async fn revocations_that_meet_trouble() {
    let desk = ecs_desk(EcsSim::start().await.unwrap()).await;
    let revoker = desk.issuer.revoker().unwrap();
    let handle = desk.submit(&order()).await;
    let bundle = desk.collect(&handle).await;
    desk.sim.inject(Injection::new(refusal(400)).on("POST", "/revocations").times(1));
    let error = revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Validation);
    desk.sim.inject(Injection::new(Fault::LoseReply).on("POST", "/revocations").times(1));
    let error = revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap_err();
    assert!(error.class().is_retryable());
    revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap();

    let other = ecs_desk(EcsSim::start().await.unwrap()).await;
    let error = other.issuer.revoker().unwrap().revoke(&other.cx, &bundle, RevocationReason::Superseded).await;
    assert_eq!(error.unwrap_err().code(), "certificate_unknown");
}
