//! What goes wrong on the way, and at the CA.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::{Clock, ManualClock, SystemClock};
use certlib_core::error::Effect;
use certlib_core::issuer::{OrderHandle, OrderState};
use certlib_core::{Context, ErrorClass};
use certlib_testkit::adcs::{Fault, Hresult, Injection, Operation};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::common::{finish, request};
use super::support::{ALL, Way, builder, pending, start};

fn operations(way: Way) -> (Operation, Operation) {
    match way {
        Way::Pages => (Operation::Submit, Operation::CheckPending),
        _ => (Operation::Issue, Operation::QueryStatus),
    }
}

#[tokio::test]
async fn it_is_said_whether_the_ca_may_have_the_order() {
    let pki = start(builder()).await;
    let cx = Context::new("test");
    let (wanted, _) = request(&["a.example.com"]);
    let page = |status| Fault::Answer { status, content_type: "text/html".to_owned(), body: "<html/>".to_owned() };
    let soap = |code| Fault::Soap { code, reason: "Grund".to_owned(), invalid_request: false };
    for way in ALL {
        let issuer = pki.issuer(way, json!({})).await;
        for (fault, class, effect) in [
            (Fault::LoseReply, ErrorClass::Network, Effect::Possible),
            (Fault::LoseRequest, ErrorClass::Network, Effect::Possible),
            (Fault::Truncated, ErrorClass::IoPermanent, Effect::Possible),
            (page(200), ErrorClass::IoPermanent, Effect::Possible),
            (page(404), ErrorClass::Validation, Effect::None),
            (Fault::Broken { status: 503, retry_after: None }, ErrorClass::IoTransient, Effect::Possible),
            (Fault::Throttled { retry_after: None }, ErrorClass::IoTransient, Effect::None),
            (Fault::BadCredentials, ErrorClass::Auth, Effect::None),
            // The call did not reach the CA; and it did, and broke off.
            (Fault::Unreachable, ErrorClass::IoTransient, Effect::None),
            (soap(Some(Hresult(0x8007_06be))), ErrorClass::IoTransient, Effect::Possible),
            (soap(Some(Hresult::REVOCATION_OFFLINE)), ErrorClass::IoTransient, Effect::None),
            (soap(Some(Hresult::KEY_LENGTH)), ErrorClass::Validation, Effect::None),
        ] {
            pki.sim.inject(Injection::new(fault.clone()).on(operations(way).0));
            let error = issuer.submit(&cx, &wanted).await.unwrap_err();
            pki.sim.clear_faults();
            assert_eq!((error.class(), error.effect()), (class, effect), "{way:?} {fault:?} {error:?}");
        }
    }
}

#[tokio::test]
async fn a_ca_that_is_away_leaves_the_order_pending() {
    let pki = start(builder()).await;
    let cx = Context::new("test");
    let (wanted, _) = request(&["a.example.com"]);
    let wait = Some(Duration::from_secs(77));
    for way in ALL {
        let issuer = pki.issuer(way, json!({})).await;
        let handle = issuer.submit(&cx, &wanted).await.unwrap();
        for (fault, retry_after) in [
            (Fault::Throttled { retry_after: wait }, wait),
            (Fault::Broken { status: 503, retry_after: wait }, wait),
            (Fault::Broken { status: 502, retry_after: None }, None),
            (Fault::LoseReply, None),
            (Fault::LoseRequest, None),
            (Fault::Unreachable, None),
        ] {
            pki.sim.inject(Injection::new(fault.clone()).on(operations(way).1));
            let error = issuer.poll(&cx, &handle).await.unwrap_err();
            pki.sim.clear_faults();
            assert!(error.class().is_retryable(), "{way:?} {fault:?} {error:?}");
            assert_eq!(error.retry_after(), retry_after, "{way:?} {fault:?}");
        }
        finish(issuer.as_ref(), &cx, &handle).await;
    }
}

#[tokio::test]
async fn answers_that_cannot_be_read_end_the_attempt_and_not_the_order() {
    let pki = start(builder()).await;
    let cx = Context::new("test");
    let (wanted, _) = request(&["a.example.com"]);
    let page = Fault::Answer { status: 200, content_type: "text/html".to_owned(), body: "<html>42".to_owned() };
    for way in ALL {
        let issuer = pki.issuer(way, json!({})).await;
        let handle = issuer.submit(&cx, &wanted).await.unwrap();
        // The pages give the certificate by a request of its own.
        let last = if way == Way::Pages { Operation::Fetch } else { Operation::QueryStatus };
        for (fault, on) in
            [(page.clone(), operations(way).1), (page.clone(), last), (Fault::Truncated, last), (Fault::Garbled, last)]
        {
            pki.sim.inject(Injection::new(fault.clone()).on(on));
            let error = issuer.poll(&cx, &handle).await.unwrap_err();
            pki.sim.clear_faults();
            assert_eq!(error.class(), ErrorClass::IoPermanent, "{way:?} {fault:?} {error:?}");
            assert_eq!(error.code(), "answer_invalid", "{way:?} {fault:?}");
        }
        finish(issuer.as_ref(), &cx, &handle).await;
    }
}

#[tokio::test]
async fn a_request_that_the_ca_does_not_know_is_young_or_over() {
    let pki = start(builder()).await;
    let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
    let cx = Context::with(clock.clone(), CancellationToken::new(), "test");
    let (wanted, _) = request(&["a.example.com"]);
    // The token's clock must be the simulator's.
    for way in [Way::Basic, Way::Certificate, Way::Pages] {
        let issuer = pki.issuer(way, json!({})).await;
        let OrderHandle(mut handle) = issuer.submit(&cx, &wanted).await.unwrap();
        handle["request_id"] = json!(9999);
        let handle = OrderHandle(handle);
        let gone = Fault::Answer { status: 404, content_type: "text/html".to_owned(), body: String::new() };
        pending(issuer.as_ref(), &cx, &handle).await;
        pki.sim.inject(Injection::new(gone.clone()).on(operations(way).1));
        pending(issuer.as_ref(), &cx, &handle).await;
        clock.advance(Duration::from_secs(61));
        assert_eq!(issuer.poll(&cx, &handle).await.unwrap_err().class(), ErrorClass::Validation, "{way:?}");
        pki.sim.clear_faults();
        let error = issuer.poll(&cx, &handle).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "order_unknown"), "{way:?}");
    }
}

#[tokio::test]
async fn a_denial_by_the_policy_is_a_rejection_whenever_it_comes() {
    let pki = start(builder()).await;
    let cx = Context::new("test");
    let (wanted, _) = request(&["a.example.com"]);
    for way in ALL {
        let issuer = pki.issuer(way, json!({})).await;
        let handle = issuer.submit(&cx, &wanted).await.unwrap();
        for code in [Hresult::ADMIN_DENIED, Hresult::TEMPLATE_DENIED, Hresult::EXPIRED] {
            let fault = Fault::Soap { code: Some(code), reason: "Grund".to_owned(), invalid_request: true };
            pki.sim.inject(Injection::new(fault).on(operations(way).1));
            let state = issuer.poll(&cx, &handle).await.unwrap();
            pki.sim.clear_faults();
            let OrderState::Rejected { reason } = state else { panic!("{way:?} {code}: {state:?}") };
            assert_eq!((reason.class(), reason.code()), (ErrorClass::Validation, "order_rejected"));
        }
    }
}
