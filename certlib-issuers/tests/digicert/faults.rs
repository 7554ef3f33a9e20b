//! Answers that are lost, late, or none of CertCentral's.

use std::time::Duration;

use certlib_core::error::Effect;
use certlib_core::issuer::OrderState;
use certlib_core::{Context, ErrorClass};
use certlib_testkit::digicert::{Course, DigiCertSim, Fault, Injection};
use serde_json::json;

use crate::common::{finish, request};
use crate::support::{issuer, pending, search};

#[tokio::test]
async fn a_lost_order_is_found_and_not_placed_again() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let since = cx.clock.now() - Duration::from_secs(300);
    // Others with the same name, before and after.
    let (other, _) = request(&["a.example.com"]);
    issuer.submit(&cx, &other).await.unwrap();
    for pending in [0, 1] {
        ca.set_course(Course::default().pending(pending));
        ca.inject(Injection::new(Fault::LoseReply).on("POST", "order/certificate/").times(1));
        let (mut wanted, key) = request(&["a.example.com"]);
        wanted.reference = format!("order-{pending}");
        let error = issuer.submit(&cx, &wanted).await.unwrap_err();
        assert!(error.class().is_retryable() && error.effect() == Effect::Possible, "{error:?}");
        let orders = ca.orders().len();
        let handle = search(issuer.as_ref()).find(&cx, &wanted, since).await.unwrap().expect("it is there");
        let bundle = finish(issuer.as_ref(), &cx, &handle).await;
        bundle.with_key(key).unwrap();
        assert_eq!(ca.orders().len(), orders);
    }
    let (unknown, _) = request(&["a.example.com"]);
    assert!(search(issuer.as_ref()).find(&cx, &unknown, since).await.unwrap().is_none());
}

#[tokio::test]
async fn an_order_that_never_arrived_is_not_found() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    ca.inject(Injection::new(Fault::LoseRequest).on("POST", "order/certificate/"));
    let (wanted, _) = request(&["a.example.com"]);
    issuer.submit(&cx, &wanted).await.unwrap_err();
    let since = cx.clock.now() - Duration::from_secs(300);
    assert!(search(issuer.as_ref()).find(&cx, &wanted, since).await.unwrap().is_none());
}

#[tokio::test]
async fn two_orders_for_one_key_are_not_chosen_between() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let (wanted, _) = request(&["a.example.com"]);
    issuer.submit(&cx, &wanted).await.unwrap();
    issuer.submit(&cx, &wanted).await.unwrap();
    let since = cx.clock.now() - Duration::from_secs(300);
    let error = search(issuer.as_ref()).find(&cx, &wanted, since).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "order_ambiguous"));
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_leaves_the_order_to_be_found() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let since = cx.clock.now() - Duration::from_secs(300);
    for fault in [Fault::Garbled, Fault::Truncated] {
        let (wanted, _) = request(&["a.example.com"]);
        ca.inject(Injection::new(fault).on("POST", "order/certificate/").times(1));
        let error = issuer.submit(&cx, &wanted).await.unwrap_err();
        assert_ne!(error.effect(), Effect::None, "{error:?}");
        assert!(search(issuer.as_ref()).find(&cx, &wanted, since).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn storms_leave_an_order_where_it_is() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let (wanted, _) = request(&["a.example.com"]);
    let handle = issuer.submit(&cx, &wanted).await.unwrap();
    let wait = Duration::from_secs(77);
    let limited = Fault::RateLimited { retry_after: Some(wait) };
    for (fault, retry_after) in [
        (limited, Some(wait)),
        (Fault::Broken { status: 500 }, None),
        (Fault::Broken { status: 502 }, None),
        (Fault::Maintenance, None),
        (Fault::LoseReply, None),
    ] {
        for part in ["order/certificate/", "certificate/"] {
            ca.inject(Injection::new(fault.clone()).on("GET", part).after(u32::from(part == "certificate/")).times(1));
            let error = issuer.poll(&cx, &handle).await.unwrap_err();
            assert!(error.class().is_retryable(), "{fault:?}: {error:?}");
            assert_eq!(error.retry_after(), retry_after, "{fault:?}");
            ca.clear_faults();
        }
    }
    finish(issuer.as_ref(), &cx, &handle).await;

    // Placing is asked for once; what was refused was not done.
    let (wanted, _) = request(&["b.example.com"]);
    ca.inject(Injection::new(Fault::RateLimited { retry_after: Some(wait) }).on("POST", ""));
    let error = issuer.submit(&cx, &wanted).await.unwrap_err();
    assert_eq!((error.class(), error.effect()), (ErrorClass::IoTransient, Effect::None));
    assert_eq!(error.retry_after(), Some(wait));
    assert_eq!(ca.orders().len(), 1);
}

#[tokio::test]
async fn an_unknown_order_is_waited_for_a_while_and_then_over() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let (wanted, _) = request(&["a.example.com"]);
    let mut handle = issuer.submit(&cx, &wanted).await.unwrap();
    handle.0["order"] = json!(4711);
    pending(issuer.as_ref(), &cx, &handle).await;
    handle.0["submitted"] = json!("2026-01-01T00:00:00Z");
    let error = issuer.poll(&cx, &handle).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Validation, "the order is over");

    // A page of the network in front says nothing about the order.
    let page = Fault::Answer { status: 404, content_type: "text/html".to_owned(), body: "<html>".to_owned() };
    ca.inject(Injection::new(page).on("GET", "order/certificate/"));
    let error = issuer.poll(&cx, &handle).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "answer_invalid"));
}

#[tokio::test]
async fn pages_of_proxies_are_not_believed() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let (wanted, _) = request(&["a.example.com"]);
    let handle = issuer.submit(&cx, &wanted).await.unwrap();
    for part in ["order/certificate/", "download"] {
        ca.inject(Injection::new(Fault::Garbled).on("GET", part).times(1));
        let error = issuer.poll(&cx, &handle).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::IoPermanent, "answer_invalid"), "{part}");
        assert!(!format!("{error:?}").contains("upstream"), "{error:?}");
    }
    // Issued, but not to be had yet.
    let missing = Fault::Answer { status: 404, content_type: "text/html".to_owned(), body: String::new() };
    ca.inject(Injection::new(missing).on("GET", "download").times(1));
    assert!(matches!(issuer.poll(&cx, &handle).await.unwrap(), OrderState::Pending { .. }));
    finish(issuer.as_ref(), &cx, &handle).await;
}
