//! A database that was set back is noticed, and nobody leads on it before an operator says from where to count.

use std::time::Duration;

use async_trait::async_trait;
use certlib_core::Result;
use certlib_core::clock::Clock as _;
use certlib_core::lock::LeaderLock as _;
use certlib_core::metrics::STORE_REGRESSED;
use certlib_core::model::Event;
use certlib_core::scheduler::{LEASE, Leadership, STORE_REGRESSED_EVENT, Sweep, SweepContext};
use certlib_core::store::{StoreExt as _, TypedQuery};

use crate::faults::{Nodes, scrape};

const TTL: Duration = Duration::from_secs(90);
const STEP: Duration = Duration::from_millis(500);

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
async fn all_nodes_refuse_a_store_that_was_set_back_until_the_floor_is_raised() {
    let nodes = Nodes::new();
    let mut running: Vec<_> = (0..3).map(|_| nodes.start(Idle)).collect();
    nodes.until(STEP, TTL, || running.iter().any(|node| node.is_leader())).await;
    for round in 0..10 {
        let backup = nodes.store.inner.snapshot();
        // A few terms pass: all nodes see their epochs, as leader or while they wait.
        for _ in 0..=round % 3 {
            let place = running.iter().position(|node| node.is_leader()).unwrap();
            running.remove(place).shutdown().await;
            running.push(nodes.start(Idle));
            nodes.until(STEP, TTL, || running.iter().any(|node| node.is_leader())).await;
            nodes.pass(STEP).await;
        }
        let newest = nodes.epoch().await;
        nodes.told.lock().unwrap().clear();

        nodes.store.inner.restore(&backup);
        let older = nodes.epoch().await;
        assert!(older < newest);
        let begun = nodes.clock.monotonic();
        let led = nodes.store.led.lock().unwrap().len();
        while nodes.clock.monotonic() - begun < TTL {
            nodes.pass(STEP).await;
        }
        for _ in 0..400 {
            nodes.pass(STEP).await;
            assert!(running.iter().all(|node| !node.is_leader()), "round {round}");
        }
        for node in &running {
            assert!(scrape(node)[STORE_REGRESSED] > 0.5, "round {round}");
        }
        let regressed = Leadership::StoreRegressed { seen: newest, found: older };
        let told = nodes.told.lock().unwrap().clone();
        assert_eq!(told.iter().filter(|what| **what == regressed).count(), 3, "round {round}: {told:?}");
        assert!(!told.iter().any(|what| matches!(what, Leadership::Gained { .. })), "round {round}: {told:?}");
        assert_eq!(nodes.epoch().await, older, "no epoch was used up");
        let accepted = nodes.store.led.lock().unwrap().iter().skip(led).filter(|(_, epoch)| *epoch != newest).count();
        assert_eq!(accepted, 0, "nobody wrote as leader but the one who had yet to notice, and was refused");
        let events = TypedQuery::<Event>::new().equal("kind", STORE_REGRESSED_EVENT);
        assert!(nodes.store.list_all(events).await.unwrap().len() >= 3);

        let client = running[0].client();
        assert_eq!(client.cluster_instances().await.unwrap().newest_epoch, newest, "round {round}");
        if round % 2 == 0 {
            client.raise_leader_epoch(newest - 1).await.unwrap();
            nodes.pass(TTL).await;
            assert!(running.iter().all(|node| !node.is_leader()), "a floor that is too low mends nothing");
        }
        client.raise_leader_epoch(newest).await.unwrap();
        let taken = nodes.until(STEP, TTL, || running.iter().any(|node| node.is_leader())).await;
        assert!(taken <= Duration::from_secs(1), "round {round}: {taken:?}");
        assert_eq!(nodes.epoch().await, newest + 1);
        nodes.pass(STEP).await;
        assert!(running.iter().all(|node| scrape(node)[STORE_REGRESSED] < 0.5), "round {round}");
    }
}

#[tokio::test]
async fn a_store_set_back_between_the_look_and_the_grant_is_noticed_by_the_grant() {
    let nodes = Nodes::new();
    let node = nodes.start(Idle);
    nodes.settle().await;
    let backup = nodes.store.inner.snapshot();
    nodes.until(STEP, 2 * TTL, || nodes.clock.monotonic() > TTL).await;
    for epoch in 2..=5 {
        if epoch == 5 {
            *nodes.store.set_back.lock().unwrap() = Some(backup.clone());
        }
        nodes.told.lock().unwrap().clear();
        node.client().raise_leader_epoch(epoch - 1).await.unwrap();
        nodes.until(STEP, TTL, || nodes.told.lock().unwrap().len() >= 2).await;
    }
    // In the backup the lease of the first term has long expired: it is granted, under an epoch that was used before.
    let told = nodes.told.lock().unwrap().clone();
    assert_eq!(told[1], Leadership::StoreRegressed { seen: 4, found: 2 }, "{told:?}");
    nodes.pass(TTL).await;
    assert!(!node.is_leader());
    let lease = nodes.store.inner.inspect(LEASE).await.unwrap().unwrap();
    assert!(lease.epoch == 2 && lease.released, "given back, and not asked for again: {lease:?}");
}

#[tokio::test]
async fn a_restarted_node_remembers_what_it_saw() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = Nodes::new();
    let start = || {
        let state = folder.path().join("state");
        nodes.builder().settings(|settings| settings.state_dir = Some(state)).build().unwrap().start()
    };
    let backup = nodes.store.inner.snapshot();
    for epoch in 1..=3 {
        let node = start();
        // The file is written by another thread, in real time.
        while !node.is_leader() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(nodes.epoch().await, epoch);
        node.shutdown().await;
    }
    nodes.store.inner.restore(&backup);
    let node = start();
    nodes.until(STEP, TTL, || scrape(&node)[STORE_REGRESSED] > 0.5).await;
    assert!(nodes.told.lock().unwrap().contains(&Leadership::StoreRegressed { seen: 3, found: 0 }));
    node.client().raise_leader_epoch(3).await.unwrap();
    nodes.settle().await;
    while !node.is_leader() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        nodes.pass(STEP).await;
    }
    assert_eq!(nodes.epoch().await, 4);
    node.shutdown().await;

    std::fs::write(folder.path().join("state/leader-epochs.json"), "not json").unwrap();
    let state = folder.path().join("state");
    let refused = nodes.builder().settings(|settings| settings.state_dir = Some(state)).build().unwrap_err();
    assert_eq!(refused.code(), "state_unreadable");
}
