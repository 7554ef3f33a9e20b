//! CA Gateway: enrolments, searches, revocation.

use std::time::Duration;

use certlib_core::ErrorClass;
use certlib_core::bundle::{Expected, check_issued};
use certlib_core::error::Effect;
use certlib_core::issuer::RevocationReason;
use certlib_testkit::entrust::{CagwSim, CagwStatus, Fault, Injection};
use certlib_testkit::pki::Flaw;
use serde_json::json;

use super::common::request;
use super::{gateway_desk, order, page, refusal};

#[tokio::test]
async fn issued_at_once() {
    let desk = gateway_desk(CagwSim::start().await.unwrap()).await;
    let (mut request, key) = request(&["www.shop.example", "shop.example", "192.0.2.1"]);
    request.validity = Some(Duration::from_secs(30 * 24 * 3600));
    request.profile = Some("tls-server-san".to_owned());
    let handle = desk.submit(&request).await;
    let bundle = desk.collect(&handle).await;
    check_issued(&bundle, &Expected::new(&request.names, key.public_key(), time::OffsetDateTime::now_utc())).unwrap();
    assert_eq!(bundle.certificates().len(), 2, "without the root");
    assert_eq!((bundle.leaf().not_after - bundle.leaf().not_before).whole_days(), 30);
    let spellings = 1 + usize::from(bundle.leaf().serial.starts_with("00"));
    assert_eq!(desk.sim.history().len(), 1 + spellings, "one to enrol, one to collect by each spelling of the number");
}

#[tokio::test]
async fn pending_then_issued_with_and_without_enrolments() {
    for builder in [CagwSim::builder(), CagwSim::builder().without_enrollment_resource()] {
        let desk = gateway_desk(builder.pending_polls(2).start().await.unwrap()).await;
        for round in 0..3 {
            let handle = desk.submit(&order()).await;
            for poll in 0..2 {
                assert!(desk.is_pending(&handle).await, "{round} {poll}");
            }
            let ours = desk.collect(&handle).await.fingerprint().to_string();
            assert_eq!(desk.sim.enrollments().pop().unwrap().fingerprint, Some(ours));
        }
        assert_eq!(desk.sim.enrollments().len(), 3);
    }
}

#[tokio::test]
async fn approvals_are_pending_until_somebody_decides() {
    let desk = gateway_desk(CagwSim::builder().approvals().start().await.unwrap()).await;
    let (first, second) = (desk.submit(&order()).await, desk.submit(&order()).await);
    for _ in 0..3 {
        assert!(desk.is_pending(&first).await && desk.is_pending(&second).await);
    }
    let ids: Vec<_> = desk.sim.enrollments().into_iter().map(|enrollment| enrollment.id).collect();
    desk.sim.approve(&ids[0]).unwrap();
    desk.sim.reject(&ids[1]).unwrap();
    desk.collect(&first).await;
    let reason = desk.rejection(&second).await;
    assert_eq!((reason.class(), reason.code()), (ErrorClass::Validation, "order_rejected"));
}

#[tokio::test]
async fn the_other_shape_of_answers() {
    let desk = gateway_desk(CagwSim::start().await.unwrap()).await;
    let (first, second) = (order(), order());
    let handle = desk.submit(&first).await;
    let bundle = desk.collect(&handle).await;
    let answer = |body: serde_json::Value| Fault::Answer {
        status: 202,
        content_type: "application/json".into(),
        body: body.to_string(),
    };
    desk.sim.inject(Injection::new(answer(json!({ "trackingId": "t-1", "status": "PENDING" }))).times(1));
    let handle = desk.submit(&second).await;
    desk.sim.inject(Injection::new(answer(json!({ "trackingId": "t-1", "status": "AWAITING_APPROVAL" }))).times(1));
    assert!(desk.is_pending(&handle).await);
    let issued = json!({ "trackingId": "t-1", "status": "ISSUED", "certificate": bundle.leaf_pem() });
    desk.sim.inject(Injection::new(answer(issued)).on("GET", "/enrollments/t-1").times(1));
    assert_eq!(desk.collect(&handle).await.fingerprint(), bundle.fingerprint());
    desk.sim.inject(Injection::new(answer(json!({ "trackingId": "t-1", "status": "DENIED" }))).times(1));
    assert_eq!(desk.rejection(&handle).await.code(), "order_rejected");
}

#[tokio::test]
async fn refusals_of_enrolments_place_nothing() {
    let desk = gateway_desk(CagwSim::start().await.unwrap()).await;
    let mut odd = order();
    odd.profile = Some("no such profile".to_owned());
    let error = desk.issuer.submit(&desk.cx, &odd).await.unwrap_err();
    assert_eq!((error.class(), error.effect()), (ErrorClass::Validation, Effect::None));
    assert!(error.to_string().contains("invalid-request"), "{error}");
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
    assert!(desk.sim.enrollments().is_empty());
}

#[tokio::test]
async fn storms_and_garbage_lose_nothing() {
    for polls in [0, 1] {
        let desk = gateway_desk(CagwSim::builder().pending_polls(polls).start().await.unwrap()).await;
        let handle = desk.submit(&order()).await;
        let wait = Duration::from_secs(42);
        desk.sim.inject(Injection::new(Fault::RateLimited { retry_after: Some(wait) }).times(1));
        assert_eq!(desk.poll(&handle).await.unwrap_err().retry_after(), Some(wait));
        for fault in [Fault::Broken { status: 502 }, Fault::Maintenance, Fault::LoseRequest] {
            desk.sim.inject(Injection::new(fault.clone()).times(1));
            assert!(desk.poll(&handle).await.unwrap_err().class().is_retryable(), "{fault:?}");
        }
        desk.sim.inject(Injection::new(page(404)).times(2));
        assert!(desk.poll(&handle).await.unwrap_err().class().is_retryable(), "a page of a proxy");
        desk.sim.clear_faults();
        desk.sim.inject(Injection::new(page(200)).times(1));
        let error = desk.poll(&handle).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::IoPermanent, "answer_invalid"));
        assert!(!format!("{error:?}").contains("secret words"));
        desk.sim.inject(Injection::new(refusal(404)).on("GET", "/certificate-authorities/"));
        assert!(desk.is_pending(&handle).await, "it is young");
        desk.clock.advance(Duration::from_secs(61));
        // What is issued will be shown; what nobody knows of is over.
        let class = if polls == 0 { ErrorClass::IoTransient } else { ErrorClass::Validation };
        assert_eq!(desk.poll(&handle).await.unwrap_err().class(), class);
        desk.sim.clear_faults();
        if polls > 0 {
            assert!(desk.is_pending(&handle).await);
        }
        desk.collect(&handle).await;
        assert_eq!(desk.sim.enrollments().len(), 1);
    }
}

#[tokio::test]
async fn json_that_says_nothing_is_no_answer() {
    let desk = gateway_desk(CagwSim::builder().pending_polls(9).start().await.unwrap()).await;
    let empty = Fault::Answer { status: 200, content_type: "application/json".into(), body: "{}".into() };
    desk.sim.inject(Injection::new(empty.clone()).times(1));
    let error = desk.issuer.submit(&desk.cx, &order()).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("answer_invalid", Effect::Possible));
    let handle = desk.submit(&order()).await;
    desk.sim.inject(Injection::new(empty).times(1));
    let error = desk.poll(&handle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("answer_invalid", ErrorClass::IoPermanent));
    assert!(desk.is_pending(&handle).await);
}

#[tokio::test]
async fn a_wrong_certificate_is_noticed() {
    let desk = gateway_desk(CagwSim::start().await.unwrap()).await;
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
async fn a_lost_enrolment_is_found_among_the_events() {
    let desk = gateway_desk(CagwSim::builder().page(2).start().await.unwrap()).await;
    for _ in 0..5 {
        desk.submit(&order()).await;
    }
    let request = order();
    assert!(desk.find(&request).await.unwrap().is_none());
    desk.sim.inject(Injection::new(Fault::LoseReply).on("POST", "/enrollments").times(1));
    let error = desk.issuer.submit(&desk.cx, &request).await.unwrap_err();
    assert_eq!((error.class(), error.effect()), (ErrorClass::Network, Effect::Possible));
    let handle = desk.find(&request).await.unwrap().expect("it is there");
    let ours = desk.collect(&handle).await.fingerprint().to_string();
    assert_eq!(desk.sim.enrollments().pop().unwrap().fingerprint, Some(ours));
    // One that is not issued cannot be seen.
    desk.sim.set_approvals(true);
    let waiting = order();
    desk.submit(&waiting).await;
    assert!(desk.find(&waiting).await.unwrap().is_none());
    // Two for the same key.
    desk.sim.set_approvals(false);
    desk.submit(&request).await;
    assert_eq!(desk.find(&request).await.unwrap_err().code(), "order_ambiguous");
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_a_lost_one() {
    let desk = gateway_desk(CagwSim::start().await.unwrap()).await;
    let request = order();
    desk.sim.inject(Injection::new(Fault::Garbled).on("POST", "").times(1));
    let error = desk.issuer.submit(&desk.cx, &request).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("answer_invalid", Effect::Possible));
    assert!(desk.find(&request).await.unwrap().is_some());
}

#[tokio::test]
async fn revoked_for_every_reason_and_twice() {
    let desk = gateway_desk(CagwSim::start().await.unwrap()).await;
    let revoker = desk.issuer.revoker().unwrap();
    for reason in [
        RevocationReason::Unspecified,
        RevocationReason::KeyCompromise,
        RevocationReason::AffiliationChanged,
        RevocationReason::Superseded,
        RevocationReason::CessationOfOperation,
        RevocationReason::PrivilegeWithdrawn,
    ] {
        let handle = desk.submit(&order()).await;
        let bundle = desk.collect(&handle).await;
        revoker.revoke(&desk.cx, &bundle, reason).await.unwrap();
        assert!(desk.sim.is_revoked(&bundle.leaf().serial), "{reason:?}");
        revoker.revoke(&desk.cx, &bundle, reason).await.unwrap();
        assert_eq!(desk.rejection(&handle).await.code(), "order_rejected");
    }
    assert!(desk.sim.enrollments().iter().all(|enrollment| enrollment.status == CagwStatus::Completed));
}

#[tokio::test]
async fn serial_numbers_with_a_zero_in_front() {
    let desk = gateway_desk(CagwSim::start().await.unwrap()).await;
    let revoker = desk.issuer.revoker().unwrap();
    let mut padded = 0;
    while padded < 3 {
        let bundle = desk.collect(&desk.submit(&order()).await).await;
        padded += usize::from(bundle.leaf().serial.starts_with("00"));
        revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap();
        assert!(desk.sim.is_revoked(&bundle.leaf().serial));
    }
}

#[tokio::test]
async fn a_rejection_at_once_is_told_by_the_first_poll() {
    // There is nothing to ask for it later.
    let desk = gateway_desk(CagwSim::builder().without_enrollment_resource().start().await.unwrap()).await;
    desk.sim.set_rejections(true);
    let handle = desk.submit(&order()).await;
    let reason = desk.rejection(&handle).await;
    assert_eq!((reason.class(), reason.code()), (ErrorClass::Validation, "order_rejected"));
}

#[tokio::test]
async fn events_are_read_up_to_the_match_and_no_further() {
    let desk =
        gateway_desk(CagwSim::builder().without_enrollment_resource().pending_polls(1).page(1).start().await.unwrap());
    let desk = desk.await;
    let handle = desk.submit(&order()).await;
    for _ in 0..6 {
        desk.submit(&order()).await;
    }
    assert!(desk.is_pending(&handle).await);
    let before = desk.sim.history().len();
    desk.collect(&handle).await;
    let pages =
        desk.sim.history().iter().skip(before).filter(|asked| asked.path.contains("certificate-events")).count();
    assert_eq!(pages, 1, "its event is the first");
}

#[tokio::test]
async fn endless_events_do_not_hold_a_poll() {
    let desk =
        gateway_desk(CagwSim::builder().without_enrollment_resource().pending_polls(9).start().await.unwrap()).await;
    let handle = desk.submit(&order()).await;
    let events: Vec<_> = (0..600).map(|serial| json!({ "serialNumber": format!("7{serial:03X}") })).collect();
    let body = json!({ "events": events, "morePages": true, "nextPageIndex": "1" }).to_string();
    let endless = Fault::Answer { status: 200, content_type: "application/json".into(), body };
    desk.sim.inject(Injection::new(endless).on("GET", "/certificate-events"));
    let before = desk.sim.history().len();
    let error = desk.poll(&handle).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "search_incomplete"));
    assert!(desk.sim.history().len() - before < 110);
}

#[tokio::test]
async fn revocations_that_meet_trouble() {
    let desk = gateway_desk(CagwSim::builder().pending_action_polls(1).start().await.unwrap()).await;
    let revoker = desk.issuer.revoker().unwrap();
    let handle = desk.submit(&order()).await;
    let bundle = desk.collect(&handle).await;
    desk.sim.reject_next_action();
    let error = revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "revocation_rejected"));
    let error = revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap_err();
    assert!(error.class().is_retryable() && error.code() == "revocation_pending", "accepted, not done");
    assert!(!desk.sim.is_revoked(&bundle.leaf().serial));

    let desk = gateway_desk(CagwSim::start().await.unwrap()).await;
    let revoker = desk.issuer.revoker().unwrap();
    let error = revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Validation, "a certificate of another gateway");
    let handle = desk.submit(&order()).await;
    let bundle = desk.collect(&handle).await;
    let other_spelling = u32::from(bundle.leaf().serial.starts_with("00"));
    desk.sim.inject(Injection::new(Fault::LoseReply).on("POST", "/actions").after(other_spelling).times(1));
    let error = revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap_err();
    assert!(error.class().is_retryable());
    desk.sim.reject_next_action();
    revoker.revoke(&desk.cx, &bundle, RevocationReason::Superseded).await.unwrap();
}
