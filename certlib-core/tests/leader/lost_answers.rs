//! Answers get lost: nothing is lost with them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::Result;
use certlib_core::clock::Clock as _;
use certlib_core::lock::{LeaderLock as _, LeaseRequest};
use certlib_core::scheduler::{LEASE, Sweep, SweepContext};

use crate::faults::{Fault, Nodes};

const TTL: Duration = Duration::from_secs(90);
const STEP: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Idle;

#[async_trait]
impl Sweep for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }

    async fn run(&self, _: &SweepContext) -> Result<usize> {
        Ok(0)
    }
}

#[tokio::test]
async fn a_grant_whose_answer_was_lost_is_found_again() {
    for (fault, within) in [(Fault::AnswerLost, Duration::from_secs(6)), (Fault::Silence, Duration::from_secs(36))] {
        let nodes = Nodes::new();
        nodes.store.fail("acquire", fault, 1);
        let node = nodes.start(Idle);
        let taken = nodes.until(STEP, TTL, || node.is_leader()).await;
        assert!(taken <= within, "{fault:?}: {taken:?}");
        assert_eq!(nodes.epoch().await, 1, "{fault:?}: the same grant");
        // The lease is trusted from before the request that was answered; the store counts from after that.
        for what in ["renew", "release"] {
            nodes.store.fail(what, Fault::BlackHole, usize::MAX);
        }
        let sent = *nodes.store.granted.lock().unwrap();
        nodes.until(STEP, TTL, || !node.is_leader()).await;
        let trusted = nodes.clock.monotonic() - sent;
        assert!(trusted >= Duration::from_secs(63) && trusted <= Duration::from_secs(63) + STEP, "{trusted:?}");
        let left = nodes.store.inner.inspect(LEASE).await.unwrap().unwrap().remaining;
        assert!(left >= Duration::from_secs(26), "{fault:?}: the store's lease is the longer one: {left:?}");
    }
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_is_sent_again() {
    for fault in [Fault::AnswerLost, Fault::Silence, Fault::Refused] {
        let nodes = Nodes::new();
        let node = nodes.start(Idle);
        nodes.settle().await;
        for _ in 0..10 {
            nodes.store.fail("renew", fault, 1);
            nodes.until(STEP, TTL, || !node.is_leader() || nodes.clock.monotonic().as_secs() % 40 == 39).await;
            nodes.pass(Duration::from_secs(1)).await;
            assert!(node.is_leader(), "{fault:?}");
        }
        assert_eq!(nodes.epoch().await, 1);
    }
}

#[tokio::test]
async fn a_release_whose_answer_was_lost_is_still_a_release() {
    for fault in [Fault::AnswerLost, Fault::Silence, Fault::Refused, Fault::BlackHole] {
        let nodes = Nodes::new();
        let node = nodes.start(Idle);
        nodes.settle().await;
        let next = nodes.start(Idle);
        nodes.settle().await;
        nodes.store.fail("release", fault, 1);
        let stopping = tokio::spawn(node.shutdown());
        let taken = nodes.until(STEP, TTL, || next.is_leader()).await;
        let limit = if fault == Fault::BlackHole { Duration::from_secs(3) } else { Duration::from_secs(1) };
        assert!(taken <= limit, "{fault:?}: {taken:?}");
        nodes.until(STEP, TTL, || stopping.is_finished()).await;
        stopping.await.unwrap();
        assert!(next.is_leader());
        assert_eq!(nodes.epoch().await, 2);
    }
}

#[tokio::test]
async fn a_node_that_stops_while_it_asks_leaves_no_lease_behind() {
    let nodes = Nodes::new();
    nodes.store.fail("acquire", Fault::Silence, 1);
    let node = nodes.start(Idle);
    nodes.settle().await;
    assert!(!nodes.store.inner.inspect(LEASE).await.unwrap().unwrap().released);
    tokio::join!(node.shutdown(), nodes.settle());
    assert!(nodes.store.inner.inspect(LEASE).await.unwrap().unwrap().released);
}

#[tokio::test]
async fn a_grant_that_nobody_waits_for_is_given_back() {
    let nodes = Nodes::new();
    let node = nodes.start(Idle);
    nodes.settle().await;
    // Its term ends, and the store does not hear of it.
    for what in ["renew", "release"] {
        nodes.store.fail(what, Fault::BlackHole, usize::MAX);
    }
    nodes.until(STEP, TTL, || !node.is_leader()).await;
    nodes.store.heal();
    let taken = nodes.until(STEP, TTL, || node.is_leader()).await;
    assert!(taken <= Duration::from_secs(7), "not only when its own old lease has expired: {taken:?}");
    assert_eq!(nodes.epoch().await, 2);
    assert_eq!(nodes.store.releases.load(Ordering::SeqCst), 2);
    let request = LeaseRequest::new(LEASE, "other", "n", TTL);
    assert_eq!(nodes.store.inner.acquire(&request).await.unwrap(), None);
}
