//! Several nodes on one store: who leads, who works, and what a stop leaves behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::error::codes;
use certlib_core::lock::LeaseRequest;
use certlib_core::model::{CertificateState, Project, RunState, TargetStatus};
use certlib_core::queue::{Job, JobFilter, JobState, Lane, NewJob};
use certlib_core::runtime::{Handled, JobContext, JobHandler, Role};
use certlib_core::scheduler::{LEASE, Sweep, SweepContext};
use certlib_core::{Error, Result};
use mockall::mock;
use serde_json::json;

use crate::common::World;

const MS: Duration = Duration::from_millis(50);
const SECOND: Duration = Duration::from_secs(1);

mock! {
    #[derive(Debug)]
    Sweep {}

    #[async_trait]
    impl Sweep for Sweep {
        fn name(&self) -> &'static str;
        async fn run(&self, cx: &SweepContext) -> Result<usize>;
    }
}

/// A sweep that counts its runs and keeps the last context it was given.
fn counting(runs: &Arc<AtomicUsize>, last: &Arc<Mutex<Option<SweepContext>>>) -> MockSweep {
    let (runs, last) = (runs.clone(), last.clone());
    let mut sweep = MockSweep::new();
    sweep.expect_name().return_const("counting");
    sweep.expect_run().returning(move |cx| {
        runs.fetch_add(1, Ordering::SeqCst);
        *last.lock().unwrap() = Some(cx.clone());
        Ok(0)
    });
    sweep
}

#[tokio::test]
async fn one_node_sweeps_and_hands_over_when_it_stops() {
    let world = World::new();
    let (ran_a, ran_b, last_a, last_b) = (Arc::default(), Arc::default(), Arc::default(), Arc::default());
    let a = world.builder().sweep(counting(&ran_a, &last_a)).build().unwrap().start();
    world.until(MS, || async { ran_a.load(Ordering::SeqCst) > 0 }).await;
    let b = world.builder().sweep(counting(&ran_b, &last_b)).build().unwrap().start();
    world.until(SECOND, || async { ran_a.load(Ordering::SeqCst) > 5 }).await;
    assert_eq!(ran_b.load(Ordering::SeqCst), 0, "two leaders");
    let before = world.store.inspect(LEASE).await.unwrap().unwrap();

    let stopped_at = world.elapsed();
    a.shutdown().await;
    let after = world.store.inspect(LEASE).await.unwrap().unwrap();
    assert!(after.released || after.epoch > before.epoch, "given back, and perhaps taken again at once");
    world.until(MS, || async { ran_b.load(Ordering::SeqCst) > 0 }).await;
    assert!(world.elapsed() - stopped_at <= SECOND, "a graceful stop is taken over at once");
    assert!(world.store.inspect(LEASE).await.unwrap().unwrap().epoch > before.epoch);

    // What the former leader still holds in its hands can no longer be written.
    let stale = last_a.lock().unwrap().take().unwrap();
    let batch = stale.batch().insert(&Project::new("late", common::START).unwrap()).unwrap();
    assert_eq!(world.store.commit(batch).await.unwrap_err().code(), codes::LEASE_LOST);
    assert!(world.store.get("project", "late").await.unwrap().is_none());
    b.shutdown().await;
}

#[tokio::test]
async fn a_vanished_leader_is_replaced_when_its_lease_ends() {
    let world = World::new();
    let lease =
        world.store.acquire(&LeaseRequest::new(LEASE, "vanished", "", Duration::from_secs(90))).await.unwrap().unwrap();
    let (runs, last) = (Arc::default(), Arc::default());
    let node = world.builder().sweep(counting(&runs, &last)).build().unwrap().start();
    world.until(SECOND, || async { runs.load(Ordering::SeqCst) > 0 }).await;
    let taken = world.elapsed();
    assert!(taken >= Duration::from_secs(90) && taken <= Duration::from_secs(97), "{taken:?}");
    assert!(!world.store.renew(&lease, Duration::from_secs(90)).await.unwrap());
    node.shutdown().await;
}

/// A job that runs until it is told to stop.
#[derive(Debug, Default)]
struct Endless {
    started: Arc<AtomicUsize>,
}

#[async_trait]
impl JobHandler for Endless {
    fn kind(&self) -> &'static str {
        "endless"
    }

    fn lane(&self) -> Lane {
        Lane::Notification
    }

    async fn run(&self, _: &Job, cx: &JobContext) -> Result<Handled> {
        self.started.fetch_add(1, Ordering::SeqCst);
        cx.cx.cancel.cancelled().await;
        Err(Error::transient("endless", codes::CANCELLED, "told to stop"))
    }
}

#[tokio::test]
async fn a_shutdown_gives_jobs_back_without_counting_the_attempt() {
    let world = World::new();
    let endless = Endless::default();
    let started = endless.started.clone();
    let node = world.builder().handler(endless).build().unwrap().start();
    let job = NewJob::new("endless", Lane::Notification, json!({}));
    let id = world.store.enqueue(vec![job]).await.unwrap().remove(0).id;
    world.until(MS, || async { started.load(Ordering::SeqCst) == 1 }).await;
    let stopped_at = world.elapsed();
    world.stop(node).await;
    assert!(world.elapsed() - stopped_at >= Duration::from_secs(10), "it had its grace");
    let job = world.store.job(&id).await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt, job.attempts.len()), (JobState::Pending, 0, 0));
}

#[tokio::test]
async fn a_running_job_is_cancelled_at_its_next_heartbeat() {
    let world = World::new();
    let endless = Endless::default();
    let started = endless.started.clone();
    let node = world.builder().handler(endless).build().unwrap().start();
    let job = NewJob::new("endless", Lane::Notification, json!({}));
    let id = world.store.enqueue(vec![job]).await.unwrap().remove(0).id;
    world.until(MS, || async { started.load(Ordering::SeqCst) == 1 }).await;
    assert!(world.store.cancel(&id).await.unwrap().cancel_requested);
    world.until(SECOND, || async { world.store.job(&id).await.unwrap().unwrap().state == JobState::Cancelled }).await;
    node.shutdown().await;
}

#[tokio::test]
async fn two_nodes_share_the_work_and_do_nothing_twice() {
    let world = World::new();
    let a = world.builder().build().unwrap().start();
    let b = world.builder().settings(|settings| settings.roles = vec![Role::Worker]).build().unwrap().start();
    let client = a.client();
    let names: Vec<String> = (0..40).map(|index| format!("t{index:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let id = world.certificate(&client, &names).await;
    for _ in 0..20 {
        client.issue("shop", &id).await.unwrap();
    }
    let active = || async { client.certificate("shop", &id).await.unwrap().state == CertificateState::Active };
    world.until(MS, active).await;
    assert_eq!(world.ca.submits.load(Ordering::SeqCst), world.versions(&client, &id).await);
    assert_eq!(world.fleet.swaps.load(Ordering::SeqCst) % 40, 0, "each target once for each version");
    let status = client.distribution_status("shop", &id).await.unwrap().unwrap();
    assert_eq!(status.run.state, RunState::Succeeded);
    assert!(status.targets.iter().all(|target| target.status == TargetStatus::Validated));
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn a_cancelled_run_leaves_nothing_in_between_and_can_be_taken_up_again() {
    let world = World::new();
    // Heartbeats tell a running job that it is cancelled, so the run must outlast one: its targets are slow.
    *world.fleet.pace.lock().unwrap() = Some((world.clock.clone(), Duration::from_secs(4)));
    let node = world.builder().build().unwrap().start();
    let client = node.client();
    let names: Vec<String> = (0..100).map(|index| format!("t{index:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let id = world.certificate(&client, &names).await;
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { world.fleet.swaps.load(Ordering::SeqCst) > 0 }).await;
    let filter = JobFilter { kind: Some("distribution_execute".into()), ..JobFilter::default() };
    let job = client.jobs("shop", filter).await.unwrap().remove(0);
    client.cancel_job("shop", &job.id).await.unwrap();
    let state = || async { client.job("shop", &job.id).await.unwrap().state };
    world.until(SECOND, || async { state().await == JobState::Cancelled }).await;
    let status = client.distribution_status("shop", &id).await.unwrap().unwrap();
    assert_eq!(status.run.state, RunState::Cancelled);
    let validated = status.targets.iter().filter(|target| target.status == TargetStatus::Validated).count();
    let queued = status.targets.iter().filter(|target| target.status == TargetStatus::Queued).count();
    assert!(validated > 0 && queued > 0 && validated + queued == 100, "{validated} + {queued}");

    *world.fleet.pace.lock().unwrap() = None;
    client.retry_job("shop", &job.id).await.unwrap();
    world.until(MS, || async { state().await == JobState::Succeeded }).await;
    assert_eq!(world.fleet.swaps.load(Ordering::SeqCst), 100);
    node.shutdown().await;
}

impl World {
    fn elapsed(&self) -> Duration {
        use certlib_core::clock::Clock as _;
        self.clock.monotonic()
    }

    async fn versions(&self, client: &certlib_core::Client, id: &str) -> usize {
        client.versions("shop", id).await.unwrap().len()
    }
}
