//! Answers that are lost, late, or none of HVCA's.

use std::time::Duration;

use certlib_core::error::Effect;
use certlib_core::issuer::OrderState;
use certlib_core::{Context, ErrorClass};
use certlib_testkit::globalsign::{Course, Fault, GlobalSignSim, Injection};
use serde_json::json;

use crate::common::{finish, request};
use crate::support::{issuer, pending, search};

#[tokio::test]
async fn a_lost_certificate_is_found_and_not_asked_for_again() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let since = cx.clock.now() - Duration::from_secs(300);
    for _ in 0..3 {
        issuer.submit(&cx, &request(&["a.example.com"]).0).await.unwrap();
    }
    ca.inject(Injection::new(Fault::LoseReply).on("POST", "certificates").times(1));
    let (wanted, key) = request(&["a.example.com"]);
    let error = issuer.submit(&cx, &wanted).await.unwrap_err();
    assert!(error.class().is_retryable() && error.effect() == Effect::Possible, "{error:?}");
    let handle = search(issuer.as_ref()).find(&cx, &wanted, since).await.unwrap().expect("it is there");
    finish(issuer.as_ref(), &cx, &handle).await.with_key(key).unwrap();
    assert_eq!(ca.certificates().len(), 4);

    let (unknown, _) = request(&["a.example.com"]);
    assert!(search(issuer.as_ref()).find(&cx, &unknown, since).await.unwrap().is_none());
    // Longer ago than one list looks at.
    let since = cx.clock.now() - Duration::from_secs(70 * 86_400);
    assert!(search(issuer.as_ref()).find(&cx, &wanted, since).await.unwrap().is_some());
    issuer.submit(&cx, &wanted).await.unwrap();
    let error = search(issuer.as_ref()).find(&cx, &wanted, since).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "order_ambiguous"));
}

#[tokio::test]
async fn what_cannot_be_seen_yet_is_not_taken_for_absent() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let since = cx.clock.now() - Duration::from_secs(300);
    ca.set_course(Course::default().pending(1));
    ca.inject(Injection::new(Fault::LoseReply).on("POST", "certificates").times(1));
    let (wanted, _) = request(&["a.example.com"]);
    issuer.submit(&cx, &wanted).await.unwrap_err();
    let error = search(issuer.as_ref()).find(&cx, &wanted, since).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "search_incomplete"));
    assert!(search(issuer.as_ref()).find(&cx, &wanted, since).await.unwrap().is_some());
}

#[tokio::test]
async fn lists_are_read_to_their_end() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let since = cx.clock.now() - Duration::from_secs(300);
    let (wanted, _) = request(&["a.example.com"]);
    issuer.submit(&cx, &wanted).await.unwrap();
    let (other, _) = request(&["b.example.com"]);
    for _ in 0..120 {
        issuer.submit(&cx, &other).await.unwrap();
    }
    assert!(search(issuer.as_ref()).find(&cx, &wanted, since).await.unwrap().is_some());
    assert_eq!(ca.count("GET", "stats/issued"), 2);
}

#[tokio::test]
async fn short_pages_end_no_list() {
    let ca = GlobalSignSim::builder().page(2).start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let since = cx.clock.now() - Duration::from_secs(300);
    let (wanted, _) = request(&["a.example.com"]);
    for _ in 0..4 {
        issuer.submit(&cx, &request(&["b.example.com"]).0).await.unwrap();
    }
    issuer.submit(&cx, &wanted).await.unwrap();
    assert!(search(issuer.as_ref()).find(&cx, &wanted, since).await.unwrap().is_some());
}

#[tokio::test]
async fn a_server_that_ignores_pages_is_not_asked_for_ever() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let page: Vec<_> = (0..100).map(|serial| json!({ "serial_number": format!("{serial:04X}") })).collect();
    let body = json!(page).to_string();
    let same = Fault::Answer { status: 200, content_type: "application/json".to_owned(), body };
    ca.inject(Injection::new(same).on("GET", "stats/issued"));
    let since = cx.clock.now() - Duration::from_secs(300);
    let error = search(issuer.as_ref()).find(&cx, &request(&["a.example.com"]).0, since).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoPermanent, "pages_ignored"));
    assert_eq!(ca.count("GET", "stats/issued"), 2);
}

#[tokio::test]
async fn a_clock_that_is_ahead_hides_nothing() {
    let ahead = || time::OffsetDateTime::now_utc() + time::Duration::minutes(3);
    let ca = GlobalSignSim::builder().clock(ahead).start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let (wanted, _) = request(&["a.example.com"]);
    ca.inject(Injection::new(Fault::LoseReply).on("POST", "certificates").times(1));
    issuer.submit(&cx, &wanted).await.unwrap_err();
    let since = cx.clock.now() - Duration::from_secs(300);
    let search = search(issuer.as_ref());
    assert!(search.find(&cx, &wanted, since).await.unwrap().is_some());
    assert_eq!(search.visible_after(), Duration::from_secs(900));
}

#[tokio::test]
async fn an_answer_without_a_serial_number_leaves_the_certificate_to_be_found() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let page = Fault::Answer { status: 201, content_type: "text/html".to_owned(), body: "<html>".to_owned() };
    ca.inject(Injection::new(page).on("POST", "certificates").times(1));
    let error = issuer.submit(&cx, &request(&["a.example.com"]).0).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoPermanent, "answer_invalid"));
    assert_ne!(error.effect(), Effect::None);
}

#[tokio::test]
async fn storms_leave_a_certificate_where_it_is() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let (wanted, _) = request(&["a.example.com"]);
    let handle = issuer.submit(&cx, &wanted).await.unwrap();
    let wait = Duration::from_secs(77);
    for (fault, retry_after) in [
        (Fault::RateLimited { retry_after: Some(wait) }, Some(wait)),
        (Fault::Broken { status: 500 }, None),
        (Fault::Broken { status: 503 }, None),
        (Fault::Maintenance, None),
        (Fault::LoseReply, None),
    ] {
        for part in ["certificates/", "trustchain"] {
            ca.inject(Injection::new(fault.clone()).on("GET", part).times(1));
            let error = issuer.poll(&cx, &handle).await.unwrap_err();
            assert!(error.class().is_retryable(), "{fault:?}: {error:?}");
            assert_eq!(error.retry_after(), retry_after, "{fault:?}");
        }
    }
    let bundle = finish(issuer.as_ref(), &cx, &handle).await;
    assert_eq!(bundle.certificates().len(), 2);

    ca.inject(Injection::new(Fault::RateLimited { retry_after: Some(wait) }).on("POST", "certificates"));
    let error = issuer.submit(&cx, &wanted).await.unwrap_err();
    assert_eq!((error.class(), error.effect()), (ErrorClass::IoTransient, Effect::None));
    assert_eq!(error.retry_after(), Some(wait));
    assert_eq!(ca.certificates().len(), 1);
}

#[tokio::test]
async fn an_unknown_certificate_is_waited_for_a_while_and_then_over() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    ca.set_course(Course::default().lost());
    let mut handle = issuer.submit(&cx, &request(&["a.example.com"]).0).await.unwrap();
    pending(issuer.as_ref(), &cx, &handle).await;
    handle.0["submitted"] = json!("2026-01-01T00:00:00Z");
    let error = issuer.poll(&cx, &handle).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Validation, "the order is over");
}

#[tokio::test]
async fn pages_of_proxies_are_not_believed() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let handle = issuer.submit(&cx, &request(&["a.example.com"]).0).await.unwrap();
    for part in ["certificates/", "trustchain"] {
        ca.inject(Injection::new(Fault::Garbled).on("GET", part).times(1));
        let error = issuer.poll(&cx, &handle).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::IoPermanent, "answer_invalid"), "{part}");
        assert!(!format!("{error:?}").contains("upstream"), "{error:?}");
    }
    // A chain that is not to be had says nothing about the certificate.
    let missing = Fault::Answer { status: 404, content_type: "text/html".to_owned(), body: String::new() };
    ca.inject(Injection::new(missing).on("GET", "trustchain").times(1));
    let error = issuer.poll(&cx, &handle).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "chain_unavailable"));
    assert!(matches!(issuer.poll(&cx, &handle).await.unwrap(), OrderState::Issued { .. }));
}
