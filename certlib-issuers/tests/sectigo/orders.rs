//! Orders: what is asked for, what pending means, and what comes back.

use std::time::Duration;

use certlib_core::bundle::{Expected, check_issued};
use certlib_core::error::{Effect, ErrorClass};
use certlib_testkit::pki::Flaw;
use certlib_testkit::sectigo::{ChainOrder, Fault, Injection, SectigoSim, Status};
use serde_json::json;

use super::common::request;
use super::{Desk, order, order_for};

#[tokio::test]
async fn issued_at_once_with_everything_that_was_configured() {
    let sim = SectigoSim::builder().custom_field("cost centre", true).start().await.unwrap();
    let desk = Desk::with(sim, |config| {
        config["custom_fields"] = json!({ "cost centre": "17" });
        config["external_requester"] = json!("web@shop.example");
        config["comment"] = json!("shop");
    })
    .await;
    let (mut request, key) = request(&["www.shop.example", "shop.example"]);
    request.reference = "order-4711".to_owned();
    let handle = desk.submit(&request).await;
    let bundle = desk.collect(&handle).await;
    check_issued(&bundle, &Expected::new(&request.names, key.public_key(), time::OffsetDateTime::now_utc())).unwrap();
    assert_eq!(bundle.certificates().len(), 2, "the leaf and its issuer");
    let placed = desk.sim.orders().remove(0);
    assert_eq!(placed.comments, "shop order-4711");
    assert_eq!(placed.custom_fields, [("cost centre".to_owned(), "17".to_owned())]);
    assert_eq!(desk.asked("GET", "/types"), 0, "a profile by its id needs no question");
}

#[tokio::test]
async fn profiles_by_name_and_terms_that_fit() {
    let sim = SectigoSim::start().await.unwrap();
    let other = sim.add_profile("Short", &[7, 30], true);
    let desk = Desk::with(sim, |config| config["certificate_type"] = json!("instant ssl")).await;
    let days =
        |bundle: &certlib_core::CertificateBundle| (bundle.leaf().not_after - bundle.leaf().not_before).whole_days();
    for (profile, validity, expected) in [
        (None, None, 90),
        (None, Some(91), 365),
        (None, Some(4000), 365),
        (Some("Short".to_owned()), Some(8), 30),
        (Some(other.to_string()), Some(2), 7),
    ] {
        let mut request = order();
        request.profile = profile;
        request.validity = validity.map(|days: u64| Duration::from_secs(days * 24 * 3600));
        let handle = desk.submit(&request).await;
        assert_eq!(days(&desk.collect(&handle).await), expected, "{request:?}");
    }
    let mut request = order();
    request.profile = Some("No such profile".to_owned());
    let error = desk.issuer.submit(&desk.cx, &request).await.unwrap_err();
    assert_eq!(
        (error.class(), error.code(), error.effect()),
        (ErrorClass::Validation, "profile_unknown", Effect::None)
    );
    assert_eq!(desk.sim.orders().len(), 5);
}

#[tokio::test]
async fn any_order_of_the_chain_becomes_leaf_first() {
    for order_of_chain in [ChainOrder::Usual, ChainOrder::Shuffled] {
        let desk = Desk::new(SectigoSim::builder().chain_order(order_of_chain).start().await.unwrap()).await;
        let handle = desk.submit(&order()).await;
        let bundle = desk.collect(&handle).await;
        assert_eq!((bundle.is_authority(), bundle.certificates().len()), (false, 2));
    }
}

#[tokio::test]
async fn what_is_not_ready_is_pending() {
    for code in [0, -103, -109, -183, -1400] {
        let sim = SectigoSim::builder().pending_polls(1).collect_lag(2).not_ready_code(code).start().await.unwrap();
        let desk = Desk::new(sim).await;
        let handle = desk.submit(&order()).await;
        for poll in 0..3 {
            assert!(desk.is_pending(&handle).await, "{code}: poll {poll}");
        }
        desk.collect(&handle).await;
        assert_eq!(desk.sim.orders().len(), 1);
    }
}

#[tokio::test]
async fn approvals_are_pending_until_somebody_decides() {
    let desk = Desk::new(SectigoSim::builder().approvals().start().await.unwrap()).await;
    let (first, second) = (desk.submit(&order()).await, desk.submit(&order()).await);
    for _ in 0..3 {
        assert!(desk.is_pending(&first).await && desk.is_pending(&second).await);
    }
    let ids: Vec<_> = desk.sim.orders().iter().map(|order| order.id).collect();
    desk.sim.approve(ids[0]).unwrap();
    desk.sim.decline(ids[1]).unwrap();
    desk.collect(&first).await;
    let reason = desk.rejection(&second).await;
    assert_eq!((reason.class(), reason.code()), (ErrorClass::Validation, "order_rejected"));
    assert!(reason.to_string().contains("declined"), "{reason}");
}

#[tokio::test]
async fn approves_by_itself_where_that_is_wanted() {
    let sim = SectigoSim::builder().approvals().start().await.unwrap();
    let desk = Desk::with(sim, |config| config["approve"] = json!(true)).await;
    let handle = desk.submit(&order()).await;
    assert!(desk.is_pending(&handle).await);
    desk.collect(&handle).await;
    // Somebody decided between the two questions.
    let handle = desk.submit(&order()).await;
    for code in [-1112, -1601] {
        let body = json!({ "code": code, "description": "Certificate can't be approved" }).to_string();
        let late = Fault::Answer { status: 400, content_type: "application/json".into(), body };
        desk.sim.inject(Injection::new(late).on("POST", "/approve/").times(1));
        assert!(desk.is_pending(&handle).await, "{code}");
    }
    // Who may not approve is told so, and the order stays.
    desk.sim.inject(Injection::new(Fault::Forbidden).on("POST", "/approve/").times(1));
    assert_eq!(desk.poll(&handle).await.unwrap_err().class(), ErrorClass::Auth);
    assert!(desk.is_pending(&handle).await);
    desk.collect(&handle).await;
}

#[tokio::test]
async fn the_authority_says_no() {
    let sim = SectigoSim::builder().pending_polls(9).start().await.unwrap();
    let desk = Desk::new(sim).await;
    let handle = desk.submit(&order()).await;
    desk.sim.reject(desk.sim.orders()[0].id).unwrap();
    assert_eq!(desk.rejection(&handle).await.code(), "order_rejected");
}

#[tokio::test]
async fn refusals_of_orders_have_classes() {
    let desk = Desk::new(SectigoSim::builder().domain_validation().start().await.unwrap()).await;
    let error = desk.issuer.submit(&desk.cx, &order()).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "domain_not_validated"));

    let desk = Desk::new(SectigoSim::builder().custom_field("cost centre", true).start().await.unwrap()).await;
    let error = desk.issuer.submit(&desk.cx, &order()).await.unwrap_err();
    assert_eq!((error.class(), error.effect()), (ErrorClass::Validation, Effect::None));
    assert!(error.to_string().contains("-62"), "{error}");

    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    let answer = |status, code: i64| Fault::Answer {
        status,
        content_type: "application/json".into(),
        body: json!({ "code": code, "description": "secret words" }).to_string(),
    };
    for (fault, class, effect) in [
        (answer(400, -1), ErrorClass::IoTransient, Effect::Possible),
        (answer(400, -140), ErrorClass::IoTransient, Effect::None),
        (answer(400, -3), ErrorClass::Auth, Effect::None),
        (answer(400, -36), ErrorClass::Validation, Effect::None),
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
async fn storms_leave_the_order_pending() {
    let desk = Desk::new(SectigoSim::builder().pending_polls(1).start().await.unwrap()).await;
    let handle = desk.submit(&order()).await;
    let wait = Duration::from_secs(42);
    for fault in [
        Fault::RateLimited { retry_after: Some(wait) },
        Fault::Broken { status: 500 },
        Fault::Maintenance,
        Fault::LoseRequest,
        Fault::LoseReply,
    ] {
        let is_throttled = matches!(fault, Fault::RateLimited { .. });
        desk.sim.inject(Injection::new(fault.clone()).times(1));
        let error = desk.poll(&handle).await.unwrap_err();
        assert!(error.class().is_retryable(), "{fault:?}: {error}");
        assert_eq!(error.retry_after(), is_throttled.then_some(wait), "{fault:?}");
    }
    desk.collect(&handle).await;
    assert_eq!(desk.sim.orders().len(), 1);
}

#[tokio::test]
async fn an_unknown_order_is_pending_while_it_is_young() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    let handle = desk.submit(&order()).await;
    for status in [404, 400] {
        let body = r#"{"code":-124,"description":"Wrong SSL certificate id."}"#.to_owned();
        desk.sim.clear_faults();
        desk.sim.inject(Injection::new(Fault::Answer { status, content_type: "application/json".into(), body }));
        assert!(desk.is_pending(&handle).await, "{status}");
    }
    desk.clock.advance(Duration::from_secs(61));
    assert_eq!(desk.poll(&handle).await.unwrap_err().class(), ErrorClass::Validation);
    // The page of a proxy says nothing about the order.
    desk.sim.clear_faults();
    let page = Fault::Answer { status: 404, content_type: "text/html".into(), body: "<html>".into() };
    desk.sim.inject(Injection::new(page));
    assert!(desk.poll(&handle).await.unwrap_err().class().is_retryable());
    desk.sim.clear_faults();
    desk.collect(&handle).await;
}

#[tokio::test]
async fn what_cannot_be_read_fails_and_loses_nothing() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    let handle = desk.submit(&order()).await;
    let page = || Fault::Answer { status: 200, content_type: "text/html".into(), body: "<html>secret</html>".into() };
    for injection in [
        Injection::new(Fault::Garbled).times(1),
        Injection::new(page()).times(1),
        Injection::new(page()).on("GET", "/collect/").times(1),
    ] {
        desk.sim.inject(injection);
        let error = desk.poll(&handle).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::IoPermanent, "answer_invalid"));
        assert!(!format!("{error:?}").contains("secret"));
    }
    desk.collect(&handle).await;
}

#[tokio::test]
async fn a_wrong_certificate_is_noticed() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    for (flaw, code) in [
        (Flaw::OtherKey, "key_mismatch"),
        (Flaw::OtherNames, "issued_names_differ"),
        (Flaw::Expired, "issued_validity"),
    ] {
        desk.sim.spoil_next(flaw);
        let (mut request, key) = request(&["shop.example"]);
        request.reference = format!("{flaw:?}");
        let handle = desk.submit(&request).await;
        let bundle = match desk.poll(&handle).await.unwrap() {
            certlib_core::issuer::OrderState::Issued { chain_pem } => {
                certlib_core::CertificateBundle::from_pem(chain_pem.as_bytes()).unwrap()
            }
            other => panic!("{flaw:?}: {other:?}"),
        };
        let expected = Expected::new(&request.names, key.public_key(), time::OffsetDateTime::now_utc());
        assert_eq!(check_issued(&bundle, &expected).unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn renewals_are_further_orders_with_a_new_key() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    let handle = desk.submit(&order()).await;
    let first = desk.collect(&handle).await;
    let mut renewal = order();
    renewal.reference = "order-4712".to_owned();
    renewal.replaces = Some(first.leaf_der().to_vec());
    let handle = desk.submit(&renewal).await;
    let second = desk.collect(&handle).await;
    assert_ne!(first.fingerprint(), second.fingerprint());
    let orders = desk.sim.orders();
    assert!(orders.len() == 2 && orders.iter().all(|order| order.status == Status::Issued));
}

#[tokio::test]
async fn names_of_all_kinds_are_asked_for() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    let handle = desk.submit(&order_for(&["*.shop.example", "192.0.2.1"])).await;
    let mut names = desk.collect(&handle).await.leaf().names.clone();
    names.sort();
    assert_eq!(names, ["*.shop.example", "192.0.2.1"]);
}
