//! A CA's renewal information (RFC 9773) moves renewals, and what was revoked is renewed at once; on acme2certifier.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use certlib_core::Client;
use certlib_core::client::Revocation;
use certlib_core::issuer::RevocationReason;
use certlib_core::model::{Certificate, CertificateState};
use certlib_testkit::counterpart::{Acme2Certifier, RenewalWindow};
use certlib_testkit::require;
use serde_json::{Value, json};

#[path = "support/node.rs"]
mod node;

use node::{Node, quick_polls};

const DAY: Duration = Duration::from_secs(86_400);

fn config(ca: &Acme2Certifier) -> Value {
    json!({
        "directory_url": ca.directory_url(),
        "root_pem": ca.api_root_pem(),
        "contact": ["mailto:ops@example.com"],
        "terms_of_service_agreed": true,
        "challenge": { "type": "http-01" },
        "poll": quick_polls(),
    })
}

async fn until(client: &Client, id: &str, what: &str, done: impl Fn(&Certificate) -> bool) -> Certificate {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let certificate = client.certificate("shop", id).await.unwrap();
        if done(&certificate) {
            return certificate;
        }
        assert!(Instant::now() < deadline, "{what}: {certificate:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_moves_a_renewal() {
    let window = RenewalWindow::default().start_percent(20.0).length(DAY).retry_after(Duration::from_secs(60));
    let mut ca = require!(Acme2Certifier::builder().validity_days(90).renewal_window(window).start().await);
    let node = Node::start().await;
    let client = node.running.client();
    let id = node.certificate(config(&ca), None, &["www.shop.example"], Vec::new()).await;
    node.until(&id, CertificateState::Active).await;
    let hinted = until(&client, &id, "the window is read", |certificate| certificate.hint.is_some()).await;

    let leaf = client.material("shop", &id, None, false).await.unwrap().version.leaf;
    let (hint, renew_at) = (hinted.hint.unwrap(), hinted.renew_at.unwrap());
    assert!(hint.start <= renew_at && renew_at <= hint.end);
    let expected = leaf.not_before + (leaf.not_after - leaf.not_before) * 0.2;
    let off: time::Duration = hint.start - expected;
    assert!(off.abs() < time::Duration::HOUR, "{hint:?}, expected {expected}");
    assert!(renew_at < leaf.not_before + (leaf.not_after - leaf.not_before) * 0.5, "earlier than by lifetime alone");

    // The CA changes its mind: the window lies in the past, so the next certificate of this kind is renewed at once.
    ca.set_renewal_window(RenewalWindow::default().start_percent(-10.0).length(DAY)).unwrap();
    let other = node.certificate(config(&ca), None, &["api.shop.example"], Vec::new()).await;
    until(&client, &other, "a window in the past renews at once", |certificate| certificate.latest_version >= 2).await;
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_renewed_at_once() {
    let ca = require!(Acme2Certifier::start().await);
    let node = Node::start().await;
    let client = node.running.client();
    let id = node.certificate(config(&ca), None, &["www.shop.example"], Vec::new()).await;
    node.until(&id, CertificateState::Active).await;
    let serial = client.material("shop", &id, None, false).await.unwrap().version.leaf.serial;
    assert_eq!(ca.crl_pem(), None);

    let revocation = Revocation { reason: RevocationReason::KeyCompromise, ..Revocation::default() };
    client.revoke("shop", &id, revocation).await.unwrap();
    let renewed = until(&client, &id, "renewed at once", |certificate| certificate.active_version == Some(2)).await;
    assert_eq!(renewed.state, CertificateState::Active);
    assert!(client.is_revoked("shop", &id, 1).await.unwrap());
    assert!(ca.crl_pem().is_some(), "the CA revoked {serial}");
    node.running.shutdown().await;
}
