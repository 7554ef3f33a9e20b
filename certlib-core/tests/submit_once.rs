//! An order whose answer was lost is neither lost itself nor placed twice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub, missing_docs)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use certlib_core::client::{Client, OrderResolution};
use certlib_core::conformance::dying::{Death, DyingStore};
use certlib_core::error::{Error, codes};
use certlib_core::model::{CertificateState, Order, OrderStage};
use certlib_core::queue::{JobFilter, JobState};
use certlib_core::runtime::{Role, RunningRuntime};
use common::{Memory, VISIBLE_AFTER, World};

const STEP: Duration = Duration::from_millis(500);

async fn only_order(client: &Client, certificate: &str) -> Order {
    let mut orders = client.orders("shop", certificate).await.unwrap();
    assert_eq!(orders.len(), 1, "{orders:#?}");
    orders.remove(0)
}

async fn is_active(client: &Client, certificate: &str) -> bool {
    client.certificate("shop", certificate).await.unwrap().state == CertificateState::Active
}

async fn asked(memory: Memory, answers_lost: usize) -> (World, RunningRuntime, String) {
    let world = World::new();
    *world.ca.memory.lock().unwrap() = memory;
    world.ca.answers_lost.store(answers_lost, Ordering::SeqCst);
    let node = world.builder().build().unwrap().start();
    let client = node.client();
    let id = world.certificate(&client, &[]).await;
    client.issue("shop", &id).await.unwrap();
    (world, node, id)
}

#[tokio::test]
async fn a_lost_order_is_found_again() {
    let (world, node, id) = asked(Memory::Searchable, 1).await;
    let client = node.client();
    world.until(STEP, || is_active(&client, &id)).await;
    assert_eq!(world.ca.submits.load(Ordering::SeqCst), 1, "it is not placed again");
    assert_eq!(only_order(&client, &id).await.stage, OrderStage::Issued);
    world.stop(node).await;
}

#[tokio::test]
async fn what_the_ca_never_got_is_placed_again_but_not_before_it_could_be_seen() {
    let (world, node, id) = asked(Memory::Searchable, 0).await;
    let client = node.client();
    world.until(STEP, || is_active(&client, &id)).await;
    // The process died after it wrote down that it would ask, before it did.
    let dying = DyingStore::new(world.store.clone(), 3, Death::After);
    let workers = |settings: &mut certlib_core::runtime::Settings| settings.roles = vec![Role::Worker];
    let second = world.builder_on(dying.clone()).settings(workers).build().unwrap().start();
    world.stop(node).await;
    client.renew("shop", &id).await.unwrap();
    world.until(STEP, || async { dying.is_dead() }).await;
    world.stop(second).await;
    let open = client.orders("shop", &id).await.unwrap().pop().unwrap();
    assert_eq!((open.stage, world.ca.submits.load(Ordering::SeqCst)), (OrderStage::Submitting, 1));

    let third = world.builder().build().unwrap().start();
    let live = || async { client.certificate("shop", &id).await.unwrap().active_version == Some(2) };
    world.until(STEP, live).await;
    let order = client.orders("shop", &id).await.unwrap().pop().unwrap();
    let waited = order.submitted_at.unwrap() - open.submitted_at.unwrap();
    assert!(waited >= VISIBLE_AFTER, "{waited}");
    assert_eq!((order.id, world.ca.submits.load(Ordering::SeqCst)), (open.id, 2));
    world.stop(third).await;
}

#[tokio::test]
async fn nobody_can_tell_so_somebody_decides() {
    for (resolution, submits) in [("repeat", 2), ("adopt", 1), ("abandon", 2)] {
        let (world, node, id) = asked(Memory::None, 1).await;
        let client = node.client();
        world.until(STEP, || failed(&client)).await;
        let order = only_order(&client, &id).await;
        assert_eq!((order.stage, world.ca.submits.load(Ordering::SeqCst)), (OrderStage::Parked, 1));
        let certificate = client.certificate("shop", &id).await.unwrap();
        assert_eq!(certificate.last_error.unwrap().code, "order_unclear");
        let events = client.events("shop", Some(&id), 100).await.unwrap();
        assert_eq!(events.iter().filter(|event| event.kind == "certificate.order_unclear").count(), 1);

        // To ask again changes nothing: it is still not known.
        client.issue("shop", &id).await.unwrap();
        world.until(STEP, || failed(&client)).await;
        assert_eq!(world.ca.submits.load(Ordering::SeqCst), 1);

        let decision = match resolution {
            "repeat" => OrderResolution::Repeat,
            "adopt" => OrderResolution::Adopt(world.ca.placed_as(&order.id)),
            _ => OrderResolution::Abandon,
        };
        client.resolve_order("shop", &order.id, decision).await.unwrap();
        if resolution == "abandon" {
            let error = client.resolve_order("shop", &order.id, OrderResolution::Repeat).await.unwrap_err();
            assert_eq!(error.code(), "order_closed");
            client.issue("shop", &id).await.unwrap();
        }
        world.until(STEP, || is_active(&client, &id)).await;
        assert_eq!(world.ca.submits.load(Ordering::SeqCst), submits, "{resolution}");
        world.stop(node).await;
    }
}

#[tokio::test]
async fn an_order_the_ca_has_is_not_placed_again() {
    let world = World::new();
    world.ca.pending.store(usize::MAX, Ordering::SeqCst);
    let node = world.builder().build().unwrap().start();
    let client = node.client();
    let id = world.certificate(&client, &[]).await;
    client.issue("shop", &id).await.unwrap();
    world.until(STEP, || async { world.ca.polls.load(Ordering::SeqCst) > 0 }).await;
    let order = only_order(&client, &id).await;
    let refused = client.resolve_order("shop", &order.id, OrderResolution::Repeat).await.unwrap_err();
    assert_eq!(refused.code(), "order_placed");
    let foreign = client.resolve_order("other", &order.id, OrderResolution::Abandon).await.unwrap_err();
    assert_eq!(foreign.code(), "not_found");
    world.stop(node).await;
}

#[tokio::test]
async fn credentials_that_expire_do_not_cost_an_order() {
    let world = World::new();
    world.ca.pending.store(1, Ordering::SeqCst);
    let node = world.builder().build().unwrap().start();
    let client = node.client();
    let id = world.certificate(&client, &[]).await;
    client.issue("shop", &id).await.unwrap();
    world.until(Duration::from_millis(1), || async { world.ca.polls.load(Ordering::SeqCst) > 0 }).await;
    *world.ca.fail.lock().unwrap() = Some(|| certlib_core::Error::auth("fake", "denied", "the key expired"));
    let state = || async { client.certificate("shop", &id).await.unwrap().state };
    world.until(STEP, || async { state().await == CertificateState::IssueFailed }).await;
    assert_eq!(only_order(&client, &id).await.stage, OrderStage::Placed);
    *world.ca.fail.lock().unwrap() = None;
    client.issue("shop", &id).await.unwrap();
    world.until(STEP, || is_active(&client, &id)).await;
    assert_eq!(
        (only_order(&client, &id).await.stage, world.ca.submits.load(Ordering::SeqCst)),
        (OrderStage::Issued, 1)
    );
    world.stop(node).await;
}

/// Until the job of the certificate has failed for good.
async fn failed(client: &Client) -> bool {
    let filter = JobFilter { kind: Some("issue_certificate".into()), ..JobFilter::default() };
    client.jobs("shop", filter).await.unwrap()[0].state == JobState::Failed
}

#[tokio::test]
async fn a_search_that_fails_ends_no_order() {
    let (world, node, id) = asked(Memory::Searchable, 1).await;
    let client = node.client();
    *world.ca.search_fails.lock().unwrap() = Some(|| Error::validation("fake", "http_status", "no such list"));
    world.until(STEP, || failed(&client)).await;
    assert_eq!(only_order(&client, &id).await.stage, OrderStage::Submitting);
    *world.ca.search_fails.lock().unwrap() = None;
    client.issue("shop", &id).await.unwrap();
    world.until(STEP, || is_active(&client, &id)).await;
    assert_eq!(
        (only_order(&client, &id).await.stage, world.ca.submits.load(Ordering::SeqCst)),
        (OrderStage::Issued, 1)
    );
    world.stop(node).await;
}

#[tokio::test]
async fn somebody_decides_between_orders_that_look_alike() {
    let (world, node, id) = asked(Memory::Searchable, 1).await;
    let client = node.client();
    *world.ca.search_fails.lock().unwrap() = Some(|| Error::validation("fake", codes::ORDER_AMBIGUOUS, "two"));
    world.until(STEP, || failed(&client)).await;
    let order = only_order(&client, &id).await;
    assert_eq!((order.stage, world.ca.submits.load(Ordering::SeqCst)), (OrderStage::Parked, 1));
    let adopted = OrderResolution::Adopt(world.ca.placed_as(&order.id));
    client.resolve_order("shop", &order.id, adopted).await.unwrap();
    world.until(STEP, || is_active(&client, &id)).await;
    assert_eq!(world.ca.submits.load(Ordering::SeqCst), 1);
    world.stop(node).await;
}

#[tokio::test]
async fn a_decision_stands_whatever_a_worker_does_meanwhile() {
    let (world, node, id) = asked(Memory::Searchable, 1).await;
    let client = node.client();
    *world.ca.abandons.lock().unwrap() = Some(client.clone());
    let stage = || async { client.orders("shop", &id).await.unwrap().pop().map(|order| order.stage) };
    world.until(STEP, || async { stage().await == Some(OrderStage::Rejected) }).await;
    for _ in 0..40 {
        world.clock.advance(STEP);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let orders = client.orders("shop", &id).await.unwrap();
    assert_eq!(orders[0].stage, OrderStage::Rejected, "{orders:#?}");
    assert_eq!(orders[0].error.as_ref().unwrap().code, "order_abandoned");
    world.stop(node).await;
}

#[tokio::test]
async fn what_certainly_did_not_arrive_is_not_in_doubt() {
    let world = World::new();
    *world.ca.memory.lock().unwrap() = Memory::None;
    *world.ca.fail.lock().unwrap() = Some(|| Error::network("fake", "connect_refused", "away"));
    let node = world.builder().build().unwrap().start();
    let client = node.client();
    let id = world.certificate(&client, &[]).await;
    client.issue("shop", &id).await.unwrap();
    let retried = || async { client.certificate("shop", &id).await.unwrap().last_error.is_some() };
    world.until(STEP, retried).await;
    assert_eq!(only_order(&client, &id).await.stage, OrderStage::Intended);
    *world.ca.fail.lock().unwrap() = None;
    world.until(STEP, || is_active(&client, &id)).await;
    assert_eq!(world.ca.submits.load(Ordering::SeqCst), 1);
    world.stop(node).await;
}
