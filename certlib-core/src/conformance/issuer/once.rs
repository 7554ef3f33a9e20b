//! What is ordered once is ordered once.

use std::time::Duration;

use super::lab::PROJECT;
use super::{CaFault, IssuerHarness, Lab};
use crate::client::OrderResolution;
use crate::conformance::dying::{Death, DyingStore};
use crate::issuer::Recovery;
use crate::model::{CertificateState, OrderStage};

/// To ask again while an order is under way, from wherever, places no second one.
pub async fn submit_is_idempotent(harness: &impl IssuerHarness) {
    let lab = Lab::new(harness).await;
    lab.ca.set(CaFault::Pending).await;
    let (first, second) = (lab.start(), lab.start());
    for _ in 0..3 {
        first.client().issue(PROJECT, &lab.certificate).await.unwrap();
        second.client().issue(PROJECT, &lab.certificate).await.unwrap();
        lab.go_on(Duration::from_secs(20)).await;
    }
    assert_eq!((lab.ca.orders().await, lab.begun().await), (1, 1), "{:?}", lab.calls());
    lab.ca.set(CaFault::None).await;
    lab.until("issued", async || lab.state().await == CertificateState::Active).await;
    assert_eq!(lab.ca.orders().await, 1);
    lab.stop(first).await;
    lab.stop(second).await;
}

/// Wherever the process dies, another one gets the certificate; the CA has one order, unless this is one of those where a
/// second costs nothing, or which cannot say: then somebody is asked.
pub async fn crash_between_submit_and_save(harness: &impl IssuerHarness) {
    for death in [Death::Before, Death::After] {
        for nth in 1.. {
            let lab = Lab::new(harness).await;
            let dying = DyingStore::new(lab.store.clone(), nth, death);
            let node = lab.start_on(dying.clone());
            lab.client().issue(PROJECT, &lab.certificate).await.unwrap();
            let idle = async || lab.is_idle().await && lab.state().await == CertificateState::Active;
            lab.until("issued or dead", async || dying.is_dead() || idle().await).await;
            lab.stop(node).await;
            if !dying.is_dead() {
                assert!(nth > 3, "{nth} writes in all");
                break;
            }
            // Nothing runs now: the dead process's leases pass in one step.
            lab.clock.advance(Duration::from_secs(61));
            let node = lab.start();
            let parked = async || lab.begun().await > 0 && lab.order().await.stage == OrderStage::Parked;
            lab.until("issued or parked", async || idle().await || parked().await).await;
            if parked().await {
                lab.client().resolve_order(PROJECT, &lab.order().await.id, OrderResolution::Abandon).await.unwrap();
                lab.issue().await;
            } else {
                let most = if repeats(&lab) { 2 } else { 1 };
                let orders = lab.ca.orders().await;
                assert!(orders <= most, "write {nth} {death:?}: {orders} orders; {:?}", lab.calls());
            }
            assert_eq!(lab.record().await.active_version, Some(1), "write {nth} {death:?}");
            lab.stop(node).await;
        }
    }
}

/// An order whose answer was lost is found again; or placed again where that costs nothing; or somebody is asked.
pub async fn a_lost_answer_orders_nothing_twice(harness: &impl IssuerHarness) {
    let lab = Lab::new(harness).await;
    lab.ca.set(CaFault::LoseAnswers).await;
    let node = lab.start();
    lab.client().issue(PROJECT, &lab.certificate).await.unwrap();
    lab.until("placed", async || lab.ca.orders().await > 0).await;
    lab.until("noticed", async || lab.calls().iter().any(|called| called.error.is_some())).await;
    lab.ca.set(CaFault::None).await;
    let parked = async || lab.order().await.stage == OrderStage::Parked;
    let active = async || lab.state().await == CertificateState::Active;
    lab.until("issued or parked", async || active().await || parked().await).await;
    let most = if repeats(&lab) { 2 } else { 1 };
    let orders = lab.ca.orders().await;
    assert!(orders <= most && lab.begun().await == 1, "{orders} orders; {:?}", lab.calls());
    lab.stop(node).await;
}

/// However long an order is pending, it is the only one.
pub async fn pending_never_reorders(harness: &impl IssuerHarness) {
    let lab = Lab::new(harness).await;
    lab.ca.set(CaFault::Pending).await;
    let node = lab.start();
    lab.client().issue(PROJECT, &lab.certificate).await.unwrap();
    lab.go_on(Duration::from_secs(24 * 3600)).await;
    assert_eq!((lab.ca.orders().await, lab.begun().await), (1, 1), "{:?}", lab.calls());
    assert_eq!(lab.state().await, CertificateState::Issuing);
    lab.ca.set(CaFault::None).await;
    lab.until("issued", async || lab.state().await == CertificateState::Active).await;
    assert_eq!(lab.ca.orders().await, 1);
    lab.stop(node).await;
}

fn repeats(lab: &Lab) -> bool {
    matches!(lab.issuer().recovery(), Recovery::Repeat)
}
