//! Orders whose answer was lost are found again.

use certlib_core::error::Effect;
use certlib_core::issuer::{IssueRequest, OrderHandle, Recovery};
use certlib_core::{Error, ErrorClass};
use certlib_testkit::sectigo::{Fault, Injection, SectigoSim};
use time::{Duration, OffsetDateTime};

use super::{Desk, order};

async fn find(desk: &Desk, request: &IssueRequest) -> Result<Option<OrderHandle>, Error> {
    let Recovery::Search(search) = desk.issuer.recovery() else { panic!("it can be searched") };
    search.find(&desk.cx, request, OffsetDateTime::now_utc() - Duration::minutes(5)).await
}

/// Places an order whose answer is lost.
async fn lose(desk: &Desk, request: &IssueRequest) {
    desk.sim.inject(Injection::new(Fault::LoseReply).on("POST", "/enroll").times(1));
    let error = desk.issuer.submit(&desk.cx, request).await.unwrap_err();
    assert_eq!((error.class(), error.effect()), (ErrorClass::Network, Effect::Possible));
}

/// Lets orders show no comments, as some logins see them.
fn hide_comments(desk: &Desk, status: &str) {
    let body = format!(r#"{{"sslId":1,"status":"{status}","requested":"01/01/2099"}}"#);
    let detail = Fault::Answer { status: 200, content_type: "application/json".into(), body };
    for id in desk.sim.orders().iter().map(|order| order.id) {
        desk.sim.inject(Injection::new(detail.clone()).on("GET", &format!("/ssl/v1/{id}")));
    }
}

#[tokio::test]
async fn a_lost_order_is_found_by_its_comment() {
    for polls in [0, 3] {
        let desk = Desk::new(SectigoSim::builder().pending_polls(polls).start().await.unwrap()).await;
        // Others with the same names.
        for number in 0..3 {
            let mut other = order();
            other.reference = format!("other-{number}");
            desk.submit(&other).await;
        }
        let request = order();
        assert!(find(&desk, &request).await.unwrap().is_none());
        lose(&desk, &request).await;
        let handle = find(&desk, &request).await.unwrap().expect("it is there");
        desk.sim.orders().iter().for_each(|order| drop(desk.sim.finish(order.id)));
        let bundle = desk.collect(&handle).await;
        let placed = desk.sim.orders().pop().unwrap();
        assert_eq!(placed.fingerprint, Some(bundle.fingerprint().to_string()));
        assert_eq!(desk.sim.orders().len(), 4);
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_a_lost_one() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    let request = order();
    desk.sim.inject(Injection::new(Fault::Garbled).on("POST", "/enroll").times(1));
    let error = desk.issuer.submit(&desk.cx, &request).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("answer_invalid", Effect::Possible));
    assert!(find(&desk, &request).await.unwrap().is_some());
}

#[tokio::test]
async fn only_the_same_names_are_looked_at() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    for _ in 0..250 {
        desk.submit(&super::order_for(&["www.shop.example"])).await;
    }
    let asked = desk.sim.history().len();
    let request = order();
    lose(&desk, &request).await;
    assert!(find(&desk, &request).await.unwrap().is_some());
    assert_eq!(desk.sim.history().len() - asked, 4, "the order, two pages, one order");
}

#[tokio::test]
async fn without_comments_the_key_tells() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    desk.submit(&order()).await;
    let request = order();
    lose(&desk, &request).await;
    hide_comments(&desk, "Issued");
    let handle = find(&desk, &request).await.unwrap().expect("by its certificate");
    desk.sim.clear_faults();
    let ours = desk.collect(&handle).await.fingerprint().to_string();
    assert_eq!(desk.sim.orders().pop().unwrap().fingerprint, Some(ours));
    hide_comments(&desk, "Issued");
    assert!(find(&desk, &order()).await.unwrap().is_none(), "another key");
}

#[tokio::test]
async fn what_shows_nothing_is_left_to_people() {
    let desk = Desk::new(SectigoSim::builder().pending_polls(99).start().await.unwrap()).await;
    let request = order();
    lose(&desk, &request).await;
    hide_comments(&desk, "Applied");
    let error = find(&desk, &request).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "search_incomplete"), "it may pass");
    desk.clock.advance(std::time::Duration::from_secs(3600));
    let error = find(&desk, &request).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "order_ambiguous"));
}

#[tokio::test]
async fn lists_that_show_only_ids_hide_nothing() {
    for page in [200, 2] {
        let desk = Desk::new(SectigoSim::builder().short_lists().page(page).start().await.unwrap()).await;
        for number in 0..5 {
            let mut other = order();
            other.reference = format!("other-{number}");
            desk.submit(&other).await;
        }
        let request = order();
        assert!(find(&desk, &request).await.unwrap().is_none());
        lose(&desk, &request).await;
        let handle = find(&desk, &request).await.unwrap().expect("it is there");
        let ours = desk.collect(&handle).await.fingerprint().to_string();
        assert_eq!(desk.sim.orders().pop().unwrap().fingerprint, Some(ours));
        assert_eq!(desk.sim.orders().len(), 6, "no second one");
    }
}

#[tokio::test]
async fn an_entry_that_cannot_be_collected_does_not_end_the_search() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    desk.submit(&order()).await;
    let discovered = desk.sim.orders()[0].id;
    let answer = |status: u16, body: String| Fault::Answer { status, content_type: "application/json".into(), body };
    let shown = format!(r#"{{"sslId":{discovered},"status":"Issued"}}"#);
    desk.sim.inject(Injection::new(answer(200, shown)).on("GET", &format!("/ssl/v1/{discovered}")));
    let refused = r#"{"code":-1501,"description":"The certificate is not managed."}"#.to_owned();
    desk.sim.inject(Injection::new(answer(400, refused)).on("GET", &format!("/collect/{discovered}/")));
    let request = order();
    let error = find(&desk, &request).await.unwrap_err();
    assert_eq!(error.code(), "search_incomplete", "it may be the one");
    lose(&desk, &request).await;
    let handle = find(&desk, &request).await.unwrap().expect("ours is there as well");
    let ours = desk.collect(&handle).await.fingerprint().to_string();
    assert_eq!(desk.sim.orders().pop().unwrap().fingerprint, Some(ours));
}

#[tokio::test]
async fn two_of_the_same_are_ambiguous() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    let request = order();
    desk.submit(&request).await;
    desk.submit(&request).await;
    assert_eq!(find(&desk, &request).await.unwrap_err().code(), "order_ambiguous");
}

#[tokio::test]
async fn a_search_that_fails_says_so() {
    let desk = Desk::new(SectigoSim::start().await.unwrap()).await;
    let request = order();
    lose(&desk, &request).await;
    for (fault, class) in [
        (Fault::Maintenance, ErrorClass::IoTransient),
        (Fault::Forbidden, ErrorClass::Auth),
        (Fault::Garbled, ErrorClass::IoPermanent),
        (Fault::LoseReply, ErrorClass::Network),
    ] {
        desk.sim.inject(Injection::new(fault).times(1));
        assert_eq!(find(&desk, &request).await.unwrap_err().class(), class);
    }
    assert!(find(&desk, &request).await.unwrap().is_some());
}
