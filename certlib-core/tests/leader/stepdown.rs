//! A leader that cannot renew its lease stops before anybody else may start.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::Result;
use certlib_core::clock::Clock as _;
use certlib_core::metrics::IS_LEADER;
use certlib_core::model::Event;
use certlib_core::scheduler::{Leadership, Sweep, SweepContext, TermEnd};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use crate::faults::{ALL, Fault, Nodes, scrape};

const TTL: Duration = Duration::from_secs(90);
const TRUST: Duration = Duration::from_secs(63);

/// A sweep that never comes to its end and asks nobody: it commits, and commits again.
#[derive(Debug)]
struct Restless {
    pause: Duration,
    /// Goes past the check of [`SweepContext::commit`], as a careless sweep might.
    careless: bool,
}

#[async_trait]
impl Sweep for Restless {
    fn name(&self) -> &'static str {
        "restless"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        loop {
            let event = Event::new("shop", "swept", "x", json!({}), cx.clock.now());
            let batch = cx.batch().insert(&event)?;
            if self.careless {
                cx.store.commit(batch).await.ok();
            } else {
                cx.commit(batch).await.ok();
            }
            cx.clock.sleep(self.pause).await;
        }
    }
}

#[tokio::test]
async fn nothing_begins_after_the_deadline_when_the_store_is_gone() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = Nodes::new();
        let pause = Duration::from_millis(rng.random_range(1..3000));
        let node = nodes.start(Restless { pause, careless: rng.random_bool(0.5) });
        nodes.settle().await;
        assert!(node.is_leader(), "seed {seed}");
        let good = Duration::from_millis(rng.random_range(0..150_000));
        while nodes.clock.monotonic() < good {
            nodes.pass(Duration::from_millis(rng.random_range(100..10_000))).await;
        }
        // Sometimes all of the store, sometimes only what keeps the lease: then commits would still be accepted.
        let fault = if rng.random_bool(0.5) { Fault::BlackHole } else { Fault::Refused };
        let gone: &[&str] = if rng.random_bool(0.5) { &ALL } else { &["renew", "acquire"] };
        for what in gone {
            nodes.store.fail(what, fault, usize::MAX);
        }
        let deadline = *nodes.store.granted.lock().unwrap() + TRUST;
        let (led, mut seen_open) = (nodes.store.led.lock().unwrap().len(), false);
        while nodes.clock.monotonic() < deadline + 2 * TTL {
            let now = nodes.clock.monotonic();
            assert!(!node.is_leader() || now < deadline, "seed {seed}: leads at {now:?}, {deadline:?} passed");
            assert_eq!(scrape(&node)[IS_LEADER], f64::from(u8::from(node.is_leader())), "seed {seed}");
            seen_open |= node.is_leader();
            if rng.random_bool(0.1) {
                let hours = if rng.random_bool(0.5) { 1 } else { -1 };
                nodes.clock.step_wall(nodes.clock.now() + time::Duration::hours(hours));
            }
            // Sometimes the tasks of the process get no turn for a while; the gauge must be right even then.
            nodes.clock.advance(Duration::from_millis(rng.random_range(1..20_000)));
            let now = nodes.clock.monotonic();
            assert_eq!(scrape(&node)[IS_LEADER], f64::from(u8::from(now < deadline && node.is_leader())));
            nodes.settle().await;
        }
        let begun = nodes.store.led.lock().unwrap().clone();
        let late: Vec<_> = begun.iter().filter(|(at, _)| *at >= deadline).collect();
        assert!(late.is_empty(), "seed {seed}: begun after {deadline:?}: {late:?}");
        assert!(seen_open && begun.len() >= led, "seed {seed}");
        let told = nodes.told.lock().unwrap().clone();
        assert_eq!(
            told,
            [Leadership::Gained { epoch: 1 }, Leadership::Ended { epoch: 1, why: TermEnd::Expired }],
            "seed {seed}"
        );

        nodes.store.heal();
        nodes.until(Duration::from_millis(500), TTL + TTL, || node.is_leader()).await;
        assert_eq!(nodes.epoch().await, 2, "a new term has a new epoch");
        let (stopped, ()) = tokio::join!(tokio::spawn(node.shutdown()), async {
            nodes
                .until(Duration::from_millis(100), TTL, || {
                    nodes.store.releases.load(std::sync::atomic::Ordering::SeqCst) > 0
                })
                .await;
            nodes.pass(Duration::from_secs(1)).await;
        });
        stopped.unwrap();
    }
}

#[tokio::test]
async fn a_short_outage_costs_nothing() {
    let nodes = Nodes::new();
    let node = nodes.start(Restless { pause: Duration::from_secs(1), careless: false });
    nodes.settle().await;
    for what in ALL {
        nodes.store.fail(what, Fault::BlackHole, usize::MAX);
    }
    // The renewal at 30 s gets no answer; the next is sent while there is still time.
    for _ in 0..50 {
        nodes.pass(Duration::from_secs(1)).await;
        assert!(node.is_leader());
    }
    nodes.store.heal();
    for _ in 0..600 {
        nodes.pass(Duration::from_secs(1)).await;
        assert!(node.is_leader());
    }
    assert_eq!(nodes.epoch().await, 1);
}

#[tokio::test]
async fn steps_of_the_wall_clock_change_nothing() {
    let nodes = Nodes::new();
    let leader = nodes.start(Restless { pause: Duration::from_secs(1), careless: false });
    nodes.settle().await;
    let other = nodes.start(Restless { pause: Duration::from_secs(1), careless: false });
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..1200 {
        if rng.random_bool(0.2) {
            let hours = if rng.random_bool(0.5) { 1 } else { -1 };
            nodes.clock.step_wall(nodes.clock.now() + time::Duration::hours(hours));
        }
        nodes.pass(Duration::from_millis(rng.random_range(100..1000))).await;
        assert!(leader.is_leader() && !other.is_leader());
    }
    assert_eq!(nodes.epoch().await, 1);
}

#[tokio::test]
async fn a_leader_that_the_store_contradicts_stops_at_once() {
    let nodes = Nodes::new();
    let contexts: std::sync::Arc<Mutex<Vec<SweepContext>>> = std::sync::Arc::default();
    #[derive(Debug)]
    struct Showing(std::sync::Arc<Mutex<Vec<SweepContext>>>);
    #[async_trait]
    impl Sweep for Showing {
        fn name(&self) -> &'static str {
            "showing"
        }

        async fn run(&self, cx: &SweepContext) -> Result<usize> {
            self.0.lock().unwrap().push(cx.clone());
            Ok(0)
        }
    }
    let node = nodes.start(Showing(contexts.clone()));
    nodes.until(Duration::from_millis(10), TTL, || !contexts.lock().unwrap().is_empty()).await;
    let cx = contexts.lock().unwrap().remove(0);
    assert!(cx.gate().is_open() && !cx.is_over() && cx.lease().epoch == 1);
    node.client().raise_leader_epoch(7).await.unwrap();
    let event = Event::new("shop", "swept", "x", json!({}), cx.clock.now());
    // Even a batch that does not demand the lease does when it is committed here.
    let batch = certlib_core::store::WriteBatch::new().insert(&event).unwrap();
    assert_eq!(cx.commit(batch.clone()).await.unwrap_err().code(), "lease_lost");
    nodes.settle().await;
    assert!(cx.is_over());
    assert!(nodes.told.lock().unwrap().contains(&Leadership::Ended { epoch: 1, why: TermEnd::Taken }));
    let begun = nodes.store.led.lock().unwrap().len();
    assert_eq!(cx.commit(batch).await.unwrap_err().code(), "lease_lost");
    assert_eq!(nodes.store.led.lock().unwrap().len(), begun, "the store is not even asked");
    nodes.until(Duration::from_millis(100), Duration::from_secs(2), || node.is_leader()).await;
    assert_eq!(nodes.epoch().await, 8);
    assert!(cx.is_over() && !cx.gate().is_open(), "a former term stays closed");
}
