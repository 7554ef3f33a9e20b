//! Reissues of an order, and orders that take the place of another.

use std::time::Duration;

use certlib_core::issuer::{AsyncIssuer, IssueRequest};
use certlib_core::{CertificateBundle, Context, ErrorClass};
use certlib_testkit::digicert::{Approvals, Course, DigiCertSim, Fault, Injection};
use serde_json::json;

use crate::common::{finish, rejection, request};
use crate::support::{issuer, pending, search};

async fn issue(issuer: &dyn AsyncIssuer, cx: &Context, names: &[&str]) -> CertificateBundle {
    let (wanted, _) = request(names);
    finish(issuer, cx, &issuer.submit(cx, &wanted).await.unwrap()).await
}

fn renewal(names: &[&str], former: &CertificateBundle) -> (IssueRequest, certlib_core::bundle::PrivateKey) {
    let (mut wanted, key) = request(names);
    wanted.replaces = Some(former.leaf_der().to_vec());
    (wanted, key)
}

#[tokio::test]
async fn an_order_is_reissued_while_it_lives() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let mut former = issue(issuer.as_ref(), &cx, &["a.example.com"]).await;
    for (names, polls) in [(&["a.example.com"][..], 0), (&["a.example.com", "b.example.com"], 2)] {
        ca.set_course(Course::default().pending(polls));
        let (wanted, key) = renewal(names, &former);
        let handle = issuer.submit(&cx, &wanted).await.unwrap();
        for _ in 0..polls {
            pending(issuer.as_ref(), &cx, &handle).await;
        }
        let bundle = finish(issuer.as_ref(), &cx, &handle).await.with_key(key).unwrap();
        assert_ne!(bundle.fingerprint(), former.fingerprint());
        former = bundle;
    }
    assert_eq!((ca.orders().len(), ca.orders()[0].certificate_ids.len()), (1, 3));
    assert_eq!(ca.count("POST", "/reissue"), 2);
}

#[tokio::test]
async fn a_new_order_is_placed_where_a_reissue_would_not_do() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let plain = issuer(&ca, json!({})).await;
    let former = issue(plain.as_ref(), &cx, &["a.example.com", "b.example.com"]).await;
    let renewing = issuer(&ca, json!({ "renew": "renew" })).await;
    let longer = issuer(&ca, json!({ "validity_days": 400, "order_validity_days": 400 })).await;
    let other = issuer(&ca, json!({ "product": "ssl_securesite_flex" })).await;
    let both = ["a.example.com", "b.example.com"];
    for (issuer, names) in [
        (&renewing, &both[..]),
        (&longer, &both),
        (&other, &both),
        // A name would be taken away.
        (&plain, &["a.example.com"]),
        // Another common name.
        (&plain, &["b.example.com", "a.example.com"]),
    ] {
        let orders = ca.orders().len();
        let (wanted, _) = renewal(names, &former);
        finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await;
        assert_eq!(ca.orders().len(), orders + 1, "{names:?}");
    }
    assert_eq!(ca.count("POST", "/reissue"), 0);
    // What DigiCert does not know, or knows under another certificate, is no obstacle.
    let stranger = certlib_testkit::pki::TestCa::new("other").unwrap().issue(&["a.example.com"]).unwrap();
    let stranger = CertificateBundle::from_pem(stranger.certificate_pem.as_bytes()).unwrap();
    let (wanted, _) = renewal(&["a.example.com"], &stranger);
    finish(plain.as_ref(), &cx, &plain.submit(&cx, &wanted).await.unwrap()).await;
}

#[tokio::test]
async fn an_order_near_its_end_is_renewed_by_name() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    // The order ends with its certificate.
    let issuer = issuer(&ca, json!({ "validity_days": 60, "order_validity_days": 60 })).await;
    let former = issue(issuer.as_ref(), &cx, &["a.example.com"]).await;
    let (mut wanted, _) = renewal(&["a.example.com"], &former);
    wanted.validity = Some(Duration::from_secs(61 * 24 * 3600));
    finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await;
    assert_eq!((ca.orders().len(), ca.count("POST", "/reissue")), (2, 0));
    let client = certlib_testkit::tls::http_client(ca.ca_pem().unwrap()).unwrap();
    let url = format!("{}/order/certificate/{}", ca.url(), ca.orders()[1].id);
    let answer = client.get(url).header("x-dc-devkey", ca.api_key()).send().await.unwrap().bytes().await.unwrap();
    let order: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(order["renewed_order_id"], ca.orders()[0].id);
}

#[tokio::test]
async fn a_lost_reissue_is_found() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let mut former = issue(issuer.as_ref(), &cx, &["a.example.com"]).await;
    // An order that is older than the search.
    let since = cx.clock.now() + Duration::from_secs(5);
    for polls in [0, 1] {
        ca.set_course(Course::default().pending(polls));
        ca.inject(Injection::new(Fault::LoseReply).on("POST", "/reissue").times(1));
        let (wanted, key) = renewal(&["a.example.com"], &former);
        issuer.submit(&cx, &wanted).await.unwrap_err();
        let handle = search(issuer.as_ref()).find(&cx, &wanted, since).await.unwrap().expect("it is there");
        former = finish(issuer.as_ref(), &cx, &handle).await.with_key(key).unwrap();
    }
    assert_eq!((ca.orders().len(), ca.orders()[0].certificate_ids.len()), (1, 3));
}

#[tokio::test]
async fn a_pending_reissue_is_waited_for_and_nothing_is_bought() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let former = issue(issuer.as_ref(), &cx, &["a.example.com"]).await;
    let since = cx.clock.now() + Duration::from_secs(5);
    ca.set_course(Course::default().pending(100));
    let (wanted, _) = renewal(&["a.example.com"], &former);
    ca.inject(Injection::new(Fault::LoseReply).on("POST", "/reissue").times(1));
    issuer.submit(&cx, &wanted).await.unwrap_err();
    // The list of reissues does not show it yet.
    let nothing = Fault::Answer { status: 204, content_type: "application/json".to_owned(), body: String::new() };
    ca.inject(Injection::new(nothing).on("GET", "/reissue"));
    let error = search(issuer.as_ref()).find(&cx, &wanted, since).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "reissue_pending"));
    let error = issuer.submit(&cx, &wanted).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "reissue_pending"));
    assert_eq!(error.effect(), certlib_core::error::Effect::None);
    assert_eq!(ca.orders().len(), 1, "no new order");
    ca.clear_faults();
    assert!(search(issuer.as_ref()).find(&cx, &wanted, since).await.unwrap().is_some());
}

#[tokio::test]
async fn a_reissue_that_is_rejected_is_not_the_former_certificate() {
    let ca = DigiCertSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({ "skip_approval": false })).await;
    let former = issue(issuer.as_ref(), &cx, &["a.example.com"]).await;
    ca.set_course(Course::default().pending(1).rejected());
    let (wanted, _) = renewal(&["a.example.com"], &former);
    let handle = issuer.submit(&cx, &wanted).await.unwrap();
    assert_eq!(rejection(issuer.as_ref(), &cx, &handle).await.code(), "order_rejected");

    ca.set_course(Course::default());
    ca.set_approvals(Approvals::Always);
    let handle = issuer.submit(&cx, &wanted).await.unwrap();
    pending(issuer.as_ref(), &cx, &handle).await;
    ca.reject(ca.orders()[0].pending_requests[0]).unwrap();
    let reason = rejection(issuer.as_ref(), &cx, &handle).await;
    assert_eq!((reason.class(), reason.code()), (ErrorClass::Validation, "order_rejected"));
    assert_eq!(ca.orders()[0].status, "issued", "the former certificate counts");
}
