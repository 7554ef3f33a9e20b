//! A graceful stop: the lease is given back once the last of the leader's work has ended, and the next one begins.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::Result;
use certlib_core::clock::Clock as _;
use certlib_core::model::Event;
use certlib_core::runtime::RunningRuntime;
use certlib_core::scheduler::{ELECTION_EVENT, LEASE, Sweep, SweepContext};
use certlib_core::store::{StoreExt as _, TypedQuery};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use crate::faults::{Faulty, Nodes};

/// Counts what runs as long as it lives, over all nodes and for the store, which looks when a lease is given back.
struct Busy {
    epoch: u64,
    active: Arc<Mutex<Vec<u64>>>,
    store: Arc<Faulty>,
}

impl Busy {
    fn new(epoch: u64, active: &Arc<Mutex<Vec<u64>>>, store: &Arc<Faulty>) -> Self {
        let mut all = active.lock().unwrap();
        all.push(epoch);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 1, "two leaders at work: {all:?}");
        store.guarded.fetch_add(1, Ordering::SeqCst);
        Self { epoch, active: active.clone(), store: store.clone() }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut all = self.active.lock().unwrap();
        let place = all.iter().position(|epoch| *epoch == self.epoch).unwrap();
        all.swap_remove(place);
        self.store.guarded.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A sweep with items, each with work beside it, some of which takes its time to stop and some of which never would.
#[derive(Debug)]
struct Diligent {
    active: Arc<Mutex<Vec<u64>>>,
    store: Arc<Faulty>,
    runs: Arc<AtomicUsize>,
    seed: u64,
}

#[async_trait]
impl Sweep for Diligent {
    fn name(&self) -> &'static str {
        "diligent"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let epoch = cx.lease().epoch;
        let _busy = Busy::new(epoch, &self.active, &self.store);
        self.runs.fetch_add(1, Ordering::SeqCst);
        for item in 0..1000 {
            if cx.is_over() {
                break;
            }
            let event = Event::new("shop", "swept", "x", json!({ "item": item }), cx.clock.now());
            cx.commit(cx.batch().insert(&event)?).await?;
            let (busy, beside) = (Busy::new(epoch, &self.active, &self.store), cx.clone());
            let linger = Duration::from_millis(rng.random_range(0..400));
            let endless = rng.random_bool(0.05);
            cx.spawn(async move {
                let _busy = busy;
                beside.cancel.cancelled().await;
                beside.clock.sleep(linger).await;
                if endless {
                    std::future::pending::<()>().await;
                }
            });
            cx.clock.sleep(Duration::from_millis(rng.random_range(1..100))).await;
        }
        Ok(0)
    }
}

#[tokio::test]
async fn fifty_graceful_stops_hand_over_within_a_second_and_without_overlap() {
    let nodes = Nodes::new();
    let (active, mut rng) = (Arc::default(), StdRng::seed_from_u64(3));
    let start = |seed| -> (RunningRuntime, Arc<AtomicUsize>) {
        let runs = Arc::new(AtomicUsize::new(0));
        let sweep = Diligent { active: Arc::clone(&active), store: nodes.store.clone(), runs: runs.clone(), seed };
        (nodes.start(sweep), runs)
    };
    let (mut leader, runs) = start(0);
    nodes.until(Duration::from_millis(10), Duration::from_secs(1), || runs.load(Ordering::SeqCst) > 0).await;
    for round in 1..=50 {
        let (next, runs) = start(round);
        let busy_for = Duration::from_millis(rng.random_range(0..5000));
        let begun = nodes.clock.monotonic();
        while nodes.clock.monotonic() - begun < busy_for {
            nodes.pass(Duration::from_millis(50)).await;
        }
        assert!(leader.is_leader() && !next.is_leader());
        assert!(nodes.store.guarded.load(Ordering::SeqCst) > 0, "in the midst of a sweep");
        let stopping = tokio::spawn(leader.shutdown());
        let step = Duration::from_millis(10);
        let taken = nodes.until(step, Duration::from_secs(5), || runs.load(Ordering::SeqCst) > 0).await;
        assert!(taken <= Duration::from_secs(1), "round {round}: {taken:?}");
        nodes.settle().await;
        assert!(stopping.is_finished(), "round {round}");
        stopping.await.unwrap();
        assert_eq!(nodes.epoch().await, round + 1);
        leader = next;
    }
    assert_eq!(nodes.store.releases.load(Ordering::SeqCst), 50);

    let elections = TypedQuery::<Event>::new().equal("kind", ELECTION_EVENT);
    let elections = nodes.store.list_all(elections).await.unwrap();
    let epochs: Vec<_> = elections.iter().map(|event| event.data["epoch"].as_u64().unwrap()).collect();
    assert_eq!(epochs, (1..=51).collect::<Vec<_>>(), "each election left its event, once");
    assert!(elections.iter().all(|event| event.data["lease"] == LEASE && !event.subject.is_empty()));
}

#[tokio::test]
async fn a_crashed_leader_is_followed_when_its_lease_ends() {
    let nodes = Nodes::new();
    let sweep = |seed| Diligent { active: Arc::default(), store: nodes.store.clone(), runs: Arc::default(), seed };
    let node = nodes.start(sweep(0));
    nodes.settle().await;
    assert!(node.is_leader());
    // What a crash leaves behind: a lease that nobody renews and nobody gives back.
    for what in ["renew", "release", "acquire", "inspect"] {
        nodes.store.fail(what, crate::faults::Fault::BlackHole, usize::MAX);
    }
    nodes.until(Duration::from_millis(500), Duration::from_secs(90), || !node.is_leader()).await;
    let crashed = nodes.clock.monotonic();
    nodes.store.heal();
    nodes.store.fail("release", crate::faults::Fault::Refused, usize::MAX);
    drop(node);
    let next = nodes.start(sweep(1));
    let step = Duration::from_millis(100);
    nodes.until(step, Duration::from_secs(90), || next.is_leader()).await;
    let lease_left = Duration::from_secs(90 - 63);
    let waited = nodes.clock.monotonic() - crashed;
    assert!(waited <= lease_left + Duration::from_secs(1), "{waited:?}");
}
