//! The local CA, from its first root to refusals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(feature = "local-ca")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use certlib_core::bundle::{Expected, KeyType, check_issued};
use certlib_core::clock::{ManualClock, SystemClock};
use certlib_core::issuer::{AsyncIssuer, IssuerFactory as _, OrderHandle, OrderState};
use certlib_core::{CertificateBundle, Context, ErrorClass};
use certlib_issuers::local_ca::{LocalCa, LocalCaFactory};
use serde_json::json;
use time::OffsetDateTime;
use time::macros::datetime;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use self::common::{MemoryState, request, request_with, spec, spec_at, store};

const NOW: OffsetDateTime = datetime!(2027-01-01 12:00 UTC);

async fn issued(ca: &dyn AsyncIssuer, cx: &Context, handle: &OrderHandle) -> CertificateBundle {
    match ca.poll(cx, handle).await.unwrap() {
        OrderState::Issued { chain_pem } => CertificateBundle::from_pem(chain_pem.as_bytes()).unwrap(),
        other => panic!("not issued: {other:?}"),
    }
}

fn manual() -> (ManualClock, Context) {
    let clock = ManualClock::new(NOW);
    let cx = Context::with(Arc::new(clock.clone()), CancellationToken::new(), "test");
    (clock, cx)
}

#[tokio::test]
async fn issues_what_was_asked_for_under_one_root() {
    let cx = Context::new("test");
    let state = Arc::new(MemoryState::default());
    let ca = LocalCaFactory.build(&cx, spec(json!({}), &state)).await.unwrap();
    let root = LocalCa::open(&spec(json!({}), &state)).await.unwrap().root_pem();

    for kind in [KeyType::EcdsaP256, KeyType::EcdsaP521, KeyType::Ed25519, KeyType::Rsa2048] {
        let (request, key) = request_with(&["a.example", "*.b.example", "192.0.2.7"], kind);
        let handle = ca.submit(&cx, &request).await.unwrap();
        let bundle = issued(ca.as_ref(), &cx, &handle).await;
        let now = cx.clock.now();
        check_issued(&bundle, &Expected::new(&request.names, key.public_key(), now)).unwrap();
        assert_eq!(bundle.certificates().len(), 2);
        assert_eq!(bundle.chain_pem().replace('\r', ""), root.replace('\r', ""));
        let left = bundle.leaf().not_after - now;
        assert!(left <= Duration::from_secs(90 * 86_400) && left > Duration::from_secs(89 * 86_400), "{left}");
    }
    assert!(ca.revoker().is_none());
    assert!(ca.renewal_info().is_none());
    assert_eq!(state.history().len(), 1, "one root was made");
}

#[tokio::test]
async fn leaf_and_root_carry_what_clients_look_at() {
    let cx = Context::new("test");
    let state = Arc::new(MemoryState::default());
    let ca = LocalCa::open(&spec(json!({ "common_name": "Ada's CA" }), &state)).await.unwrap();
    let (request, _) = request_with(&["a.example"], KeyType::Rsa2048);
    let bundle = issued(&ca, &cx, &ca.submit(&cx, &request).await.unwrap()).await;

    let [leaf, root] = bundle.certificates() else { panic!("leaf and root") };
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    let (_, root) = X509Certificate::from_der(root).unwrap();
    assert_eq!(root.subject().to_string(), "CN=Ada's CA");
    assert_eq!(leaf.issuer(), root.subject());

    assert!(root.is_ca() && !leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
    let usage = root.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && !extended.client_auth);

    let authority = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(identifier) => identifier.key_identifier.clone(),
        _ => None,
    });
    let subject = |certificate: &X509Certificate<'_>| {
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
            _ => None,
        })
    };
    assert_eq!(authority.unwrap().0, subject(&root).unwrap());
    assert!(subject(&leaf).is_some());

    for certificate in [&leaf, &root] {
        assert_eq!(certificate.raw_serial().len(), 16);
        assert_eq!(certificate.raw_serial()[0] & 0x80, 0, "a serial number is positive");
    }
    let again = issued(&ca, &cx, &ca.submit(&cx, &request).await.unwrap()).await;
    assert_ne!(again.leaf().serial, bundle.leaf().serial);
}

#[tokio::test]
async fn validity_is_honoured_and_ends_with_the_root() {
    let (clock, cx) = manual();
    let state = Arc::new(MemoryState::default());
    let config = json!({ "validity_seconds": 3600, "root_validity_seconds": 86_400 });
    let shared = Arc::new(clock.clone());
    let ca = LocalCa::open(&spec_at(config, &state, shared, store())).await.unwrap();

    let (mut request, _) = request(&["a.example"]);
    let bundle = issued(&ca, &cx, &ca.submit(&cx, &request).await.unwrap()).await;
    assert_eq!(bundle.leaf().not_after, NOW + Duration::from_secs(3600));
    assert!(bundle.leaf().not_before <= NOW);

    request.validity = Some(Duration::from_secs(120));
    let handle = ca.submit(&cx, &request).await.unwrap();
    assert_eq!(issued(&ca, &cx, &handle).await.leaf().not_after, NOW + Duration::from_secs(120));

    request.validity = Some(Duration::from_secs(365 * 86_400));
    let handle = ca.submit(&cx, &request).await.unwrap();
    assert_eq!(issued(&ca, &cx, &handle).await.leaf().not_after, NOW + Duration::from_secs(86_400));

    clock.advance(Duration::from_secs(86_401));
    let error = ca.poll(&cx, &handle).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoPermanent, "root_expired"));

    request.validity = Some(Duration::ZERO);
    assert_eq!(ca.submit(&cx, &request).await.unwrap_err().code(), "validity_invalid");
}

#[tokio::test]
async fn a_handle_survives_a_restart_and_a_repeated_poll() {
    let cx = Context::new("test");
    let state = Arc::new(MemoryState::default());
    let (request, key) = request(&["a.example"]);
    let stored = {
        let ca = LocalCa::open(&spec(json!({}), &state)).await.unwrap();
        serde_json::to_string(&ca.submit(&cx, &request).await.unwrap()).unwrap()
    };
    let handle: OrderHandle = serde_json::from_str(&stored).unwrap();
    let ca = LocalCa::open(&spec(json!({}), &state)).await.unwrap();
    for _ in 0..2 {
        let bundle = issued(&ca, &cx, &handle).await;
        check_issued(&bundle, &Expected::new(&request.names, key.public_key(), cx.clock.now())).unwrap();
    }
    let error = ca.poll(&cx, &OrderHandle(json!({ "order_url": "https://ca.example/1" }))).await.unwrap_err();
    assert_eq!(error.code(), "handle_invalid");
}

#[tokio::test]
async fn nodes_that_start_together_share_the_root_of_the_winner() {
    let state = Arc::new(MemoryState::default());
    let specs: Vec<_> = (0..8).map(|_| spec(json!({}), &state)).collect();
    let opened = futures::future::join_all(specs.iter().map(LocalCa::open)).await;
    let roots: std::collections::BTreeSet<String> = opened.into_iter().map(|ca| ca.unwrap().root_pem()).collect();
    assert_eq!(roots.len(), 1);
    assert_eq!(state.history().len(), 1);

    // The same, with the other node certainly between our load and our save.
    let winner = state.history().remove(0);
    let late = Arc::new(MemoryState::default());
    late.before_save(move |state| state.overwrite(&winner));
    let root = LocalCa::open(&spec(json!({}), &late)).await.unwrap().root_pem();
    assert_eq!(Some(&root), roots.first());
}

#[tokio::test]
async fn requests_for_other_names_are_refused_and_damaged_state_is_not_used() {
    let cx = Context::new("test");
    let state = Arc::new(MemoryState::default());
    let ca = LocalCa::open(&spec(json!({}), &state)).await.unwrap();
    let (mut foreign, _) = request(&["a.example"]);
    let handle = ca.submit(&cx, &foreign).await.unwrap();
    foreign.names = vec!["b.example".to_owned()];
    let error = ca.submit(&cx, &foreign).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "csr_names_differ"));

    let mut changed = handle.0.clone();
    changed["names"] = json!(["b.example"]);
    match ca.poll(&cx, &OrderHandle(changed)).await.unwrap() {
        OrderState::Rejected { reason } => assert_eq!(reason.code(), "csr_names_differ"),
        other => panic!("not rejected: {other:?}"),
    }

    state.overwrite(b"{\"key\":\"AAAA\",\"certificate\":\"AAAA\"}");
    let error = LocalCa::open(&spec(json!({}), &state)).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoPermanent, "state_invalid"));
}

#[tokio::test]
async fn neither_debug_nor_errors_show_the_key() {
    let state = Arc::new(MemoryState::default());
    let ca = LocalCa::open(&spec(json!({}), &state)).await.unwrap();
    let kept: serde_json::Value = serde_json::from_slice(&state.history()[0]).unwrap();
    let key = kept["key"].as_str().unwrap();
    assert!(!format!("{ca:?}").contains(key));
    assert!(!format!("{:?}", spec_at(json!({}), &state, SystemClock::shared(), store())).contains(key));
}
