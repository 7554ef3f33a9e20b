//! A cancelled delivery stops at its next safe point: no target is left between swap and proof, whenever the request
//! comes, and even if the worker dies after it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::time::Duration;

use certlib_core::Client;
use certlib_core::clock::Clock as _;
use certlib_core::conformance::dying::DyingStore;
use certlib_core::model::{RunState, TargetStatus};
use certlib_core::queue::{Job, JobFilter, JobState};
use certlib_core::runtime::{Role, RunningRuntime, Settings};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::common::jobs::tick;
use crate::common::{Fault, World};

const TARGETS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const STEP: Duration = Duration::from_millis(500);
/// How long one swap takes.
const PACE: Duration = Duration::from_secs(4);
const HEARTBEAT: Duration = Duration::from_secs(15);

struct Scene {
    world: World,
    client: Client,
    certificate: String,
}

#[derive(Debug, Default)]
struct Tally {
    waiting: usize,
    running: usize,
    over: usize,
    crashed: usize,
    resumed: usize,
}

impl Scene {
    /// A certificate that is live on its targets.
    async fn new() -> Self {
        let world = World::new();
        let node = world.builder().build().unwrap().start();
        let client = node.client();
        let certificate = world.certificate(&client, &TARGETS).await;
        client.issue("shop", &certificate).await.unwrap();
        let live = || async { client.certificate("shop", &certificate).await.unwrap().active_version == Some(1) };
        world.until(Duration::from_millis(50), live).await;
        let idle = || async { world.store.stats().await.unwrap().by_kind.is_empty() };
        world.until(Duration::from_millis(500), idle).await;
        world.stop(node).await;
        Self { client: world.builder().build().unwrap().client(), world, certificate }
    }

    fn start(&self, store: std::sync::Arc<DyingStore>, roles: Vec<Role>) -> RunningRuntime {
        let settings = |settings: &mut Settings| settings.roles = roles;
        self.world.builder_on(store).settings(settings).build().unwrap().start()
    }

    async fn job(&self) -> Job {
        let filter = JobFilter { kind: Some("distribution_execute".into()), limit: 1, ..JobFilter::default() };
        self.client.jobs("shop", filter).await.unwrap().remove(0)
    }

    async fn pass(&self, time: Duration, step: Duration) {
        let until = self.world.clock.monotonic() + time;
        while self.world.clock.monotonic() < until {
            tick(&self.world.clock, step).await;
        }
    }

    /// Delivers again to targets that lost their file, cancels after `delay`, and perhaps has the worker die after
    /// that.
    async fn cancel_after(
        &self,
        delay: Duration,
        dies_after: Option<Duration>,
        fault: Option<Fault>,
        tally: &mut Tally,
    ) {
        let world = &self.world;
        for name in TARGETS {
            world.fleet.with(name, |target| (target.file, target.served, target.fault) = (None, None, None));
        }
        world.fleet.fault("d", fault);
        *world.fleet.pace.lock().unwrap() = Some((world.clock.clone(), PACE));
        let store = DyingStore::mortal(world.store.clone());
        let node = self.start(store.clone(), vec![Role::Worker]);
        self.client.distribute("shop", &self.certificate).await.unwrap();
        self.pass(delay, STEP).await;
        let asked_at = world.clock.monotonic();
        let job = self.job().await;
        match self.client.cancel_job("shop", &job.id).await {
            Ok(job) if job.state == JobState::Cancelled => tally.waiting += 1,
            Ok(job) => {
                assert!(job.cancel_requested);
                tally.running += 1;
            }
            Err(error) => {
                assert_eq!(error.code(), "job_finished");
                tally.over += 1;
            }
        }
        let mut crashed = false;
        if let Some(wait) = dies_after {
            self.pass(wait, STEP).await;
            crashed = self.job().await.state == JobState::InProgress;
            tally.crashed += usize::from(crashed);
            store.kill();
        }
        if crashed {
            // The next node finds out when the lease has passed.
            drop(node);
            let other = self.start(DyingStore::mortal(world.store.clone()), vec![Role::Worker]);
            self.pass(Duration::from_secs(60 + 16), 4 * STEP).await;
            assert_eq!(self.job().await.state, JobState::Cancelled, "it must not run again");
            drop(other);
        } else if dies_after.is_none() {
            // What was begun ends: a heartbeat, the swap in hand, and the way back.
            let bound = HEARTBEAT + 2 * PACE + Duration::from_secs(2);
            while self.job().await.state.is_active() {
                tick(&world.clock, STEP).await;
                assert!(world.clock.monotonic() <= asked_at + bound, "cancelled after {delay:?}, and still at work");
            }
            drop(node);
        }
        self.look(crashed, tally).await;
    }

    /// Every target is whole, and every run over.
    async fn look(&self, crashed: bool, tally: &mut Tally) {
        let status = self.client.distribution_status("shop", &self.certificate).await.unwrap().unwrap();
        let begun = status.targets.iter().any(|target| target.status == TargetStatus::Running);
        if begun || self.job().await.state.is_active() || status.run.finished_at.is_none() {
            assert!(crashed || self.job().await.state == JobState::Cancelled || begun, "{status:?}");
            tally.resumed += usize::from(begun);
            // The sweep sees to what a dead worker left in the middle.
            let node = self.start(DyingStore::mortal(self.world.store.clone()), vec![Role::Worker, Role::Scheduler]);
            self.pass(Duration::from_secs(40 * 60), HEARTBEAT).await;
            drop(node);
        }
        let status = self.client.distribution_status("shop", &self.certificate).await.unwrap().unwrap();
        assert!(status.run.finished_at.is_some(), "{status:?}");
        assert_ne!(status.run.state, RunState::Running);
        for target in &status.targets {
            assert_ne!(target.status, TargetStatus::Running, "{target:?}");
            self.world.fleet.with(&target.target_name, |real| {
                assert_eq!(real.file, real.served, "{}: swapped and not proven", target.target_name);
                let delivered = target.status == TargetStatus::Validated;
                assert_eq!(delivered, real.file.is_some(), "{}: {target:?}", target.target_name);
            });
        }
    }
}

#[tokio::test]
async fn three_hundred_cancels_leave_nothing_in_between() {
    let scene = Scene::new().await;
    let mut rng = StdRng::seed_from_u64(12);
    let mut tally = Tally::default();
    for round in 0..300 {
        let delay = Duration::from_millis(rng.random_range(0..5_000));
        let dies_after = (round % 3 == 0).then(|| Duration::from_millis(rng.random_range(0..2_000)));
        let fault = [None, Some(Fault::KeepsServingOld), Some(Fault::BreaksHalfway)][round % 2 + round % 3 / 2];
        // A target that was "delivered" keeps no fault for the next round.
        scene.cancel_after(delay, dies_after, fault, &mut tally).await;
    }
    assert!(tally.waiting + tally.running + tally.over == 300 && tally.running > 100, "{tally:?}");
    assert!(tally.crashed > 20 && tally.resumed > 10 && tally.waiting > 0, "{tally:?}");
}
