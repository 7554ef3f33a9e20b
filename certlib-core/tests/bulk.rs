//! Many jobs at once: retried after an outage, cancelled with what they belong to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::time::Duration;

use certlib_core::Error;
use certlib_core::client::BulkRetry;
use certlib_core::clock::Clock as _;
use certlib_core::queue::{ClaimRequest, Job, JobFilter, JobState, Lane, NewJob, Outcome, Settlement};

use crate::common::World;
use crate::common::jobs::job;

const LEASE: Duration = Duration::from_secs(60);

impl World {
    async fn claim(&self, limit: usize) -> Vec<Job> {
        self.store.claim(&ClaimRequest::new(Lane::Notification, "w", limit, LEASE)).await.unwrap()
    }

    /// Jobs that ended like this.
    async fn ended(&self, jobs: Vec<NewJob>, outcome: Outcome) -> Vec<String> {
        let count = jobs.len();
        let ids = self.store.enqueue(jobs).await.unwrap().into_iter().map(|job| job.id).collect();
        let claimed = self.claim(count).await;
        let settlements = claimed.iter().map(|job| Settlement {
            claim: job.claim(),
            outcome: outcome.clone(),
            duration: Duration::ZERO,
        });
        let settled = self.store.settle(settlements.collect()).await.unwrap();
        assert_eq!(settled, vec![true; count]);
        ids
    }

    async fn state(&self, id: &str) -> JobState {
        self.store.job(id).await.unwrap().unwrap().state
    }
}

fn dead() -> Outcome {
    Outcome::DeadLetter { error: Error::network("t", "down", "down").to_record() }
}

#[tokio::test]
async fn what_an_outage_killed_runs_again_spread_over_time() {
    let world = World::new();
    let client = world.builder().build().unwrap().client();
    let ids = world.ended((0..300).map(|_| job("mail")).collect(), dead()).await;
    let done = world.ended(vec![job("mail")], Outcome::Succeeded).await.remove(0);
    let foreign = world.ended(vec![job("mail").with_project("other")], dead()).await.remove(0);
    let bulk = || BulkRetry { spread: Duration::from_secs(600), ..BulkRetry::default() };
    let dry = client.retry_jobs("shop", JobFilter::default(), BulkRetry { dry_run: true, ..bulk() }).await.unwrap();
    assert_eq!((dry.done, world.state(&ids[0]).await), (300, JobState::DeadLetter));

    let some = client.retry_jobs("shop", JobFilter::default(), BulkRetry { limit: 100, ..bulk() }).await.unwrap();
    assert_eq!((some.done, some.limited), (100, true));
    let rest = client.retry_jobs("shop", JobFilter::default(), bulk()).await.unwrap();
    assert_eq!((rest.done, rest.limited, rest.skipped.len()), (200, false, 0));
    let now = world.clock.now();
    let mut waits = Vec::new();
    for id in &ids {
        let job = world.store.job(id).await.unwrap().unwrap();
        assert_eq!((job.state, job.attempt), (JobState::Pending, 0));
        waits.push((job.run_at - now).as_seconds_f64());
    }
    assert!(waits.iter().all(|wait| (0.0..=600.0).contains(wait)));
    for tenth in 0..10 {
        let from = 60.0 * f64::from(tenth);
        let share = waits.iter().filter(|wait| (from..from + 60.0).contains(*wait)).count();
        assert!((8..=60).contains(&share), "{share} of 300 in one tenth of the time");
    }
    assert_eq!(world.state(&done).await, JobState::Succeeded);
    assert_eq!(world.state(&foreign).await, JobState::DeadLetter, "another project's");
    let none = client.retry_jobs("shop", JobFilter::default(), bulk()).await.unwrap();
    assert_eq!(none.done, 0, "again: nothing left");
}

#[tokio::test]
async fn of_one_key_only_the_newest_counts() {
    let world = World::new();
    let client = world.builder().build().unwrap().client();
    let keyed = |key: &str| vec![job("mail").with_key(key)];
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(world.ended(keyed("a"), dead()).await.remove(0));
        world.clock.advance(Duration::from_secs(1));
    }
    world.ended(keyed("b"), dead()).await;
    world.clock.advance(Duration::from_secs(1));
    world.ended(keyed("b"), Outcome::Succeeded).await;
    world.ended(keyed("c"), dead()).await;
    world.clock.advance(Duration::from_secs(1));
    world.store.enqueue(keyed("c")).await.unwrap();
    let report = client.retry_jobs("shop", JobFilter::default(), BulkRetry::default()).await.unwrap();
    assert_eq!(report.done, 1);
    assert_eq!(report.skipped["superseded"], 4);
    assert_eq!(world.state(&ids[2]).await, JobState::Pending);
    assert_eq!(world.state(&ids[1]).await, JobState::DeadLetter);
}

#[tokio::test]
async fn only_what_ended_without_success_can_be_retried() {
    let world = World::new();
    let client = world.builder().build().unwrap().client();
    let cancelled = world.ended(vec![job("mail")], Outcome::Cancelled).await.remove(0);
    for state in [JobState::Pending, JobState::InProgress, JobState::Succeeded] {
        let filter = JobFilter { state: Some(state), ..JobFilter::default() };
        let error = client.retry_jobs("shop", filter, BulkRetry::default()).await.unwrap_err();
        assert_eq!(error.code(), "state_not_retryable");
    }
    let report = client.retry_jobs("shop", JobFilter::default(), BulkRetry::default()).await.unwrap();
    assert_eq!(report.done, 0, "what was cancelled was cancelled on purpose");
    let filter = JobFilter { state: Some(JobState::Cancelled), ..JobFilter::default() };
    assert_eq!(client.retry_jobs("shop", filter, BulkRetry::default()).await.unwrap().done, 1);
    assert_eq!(world.state(&cancelled).await, JobState::Pending);
}

#[tokio::test]
async fn a_parent_is_cancelled_with_all_its_jobs_and_no_others() {
    let world = World::new();
    let client = world.builder().build().unwrap().client();
    let of = |parent: &'static str, count| (0..count).map(move |_| job("part").with_parent(parent));
    world.store.enqueue(of("wanted", 700).chain(of("spared", 50)).collect()).await.unwrap();
    let running = world.claim(20).await;
    assert!(running.iter().all(|job| job.parent == "wanted"));
    let report = client.cancel_jobs("shop", JobFilter::default(), Some("wanted")).await.unwrap();
    assert_eq!(report.done, 700);
    for job in &running {
        let job = world.store.job(&job.id).await.unwrap().unwrap();
        assert!(job.state == JobState::InProgress && job.cancel_requested);
    }
    let left = world.store.stats().await.unwrap().by_kind["part"];
    assert_eq!((left.pending, left.in_progress), (50, 20));
    assert_eq!(client.cancel_jobs("other", JobFilter::default(), None).await.unwrap().done, 0);
    assert_eq!(client.cancel_jobs("shop", JobFilter::default(), None).await.unwrap().done, 50);
}
