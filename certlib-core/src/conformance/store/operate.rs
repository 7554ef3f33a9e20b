//! What operators do with jobs: cancel, retry, count, list.

use std::time::Duration;

use super::StoreHarness;
use super::fixture::{Fixture, LANE, LEASE, assert_code, failure, job};
use crate::queue::{JobFilter, JobState, NewJob, Outcome, QueueDepth};

/// A job that waits is cancelled at once and never runs; its key is free.
pub async fn a_pending_job_is_cancelled_at_once(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let id = f.enqueue_one(job().with_key("k")).await;
    let cancelled = f.cancel(&id).await.unwrap();
    assert_eq!(cancelled.state, JobState::Cancelled);
    f.assert_near(cancelled.finished_at.unwrap(), f.now());
    assert_eq!(f.load_job(&id).await, cancelled);
    assert!(f.claim_as("worker").await.is_empty());
    assert!(!f.enqueue(vec![job().with_key("k")]).await.unwrap()[0].deduplicated);
}

/// A job that runs is asked to stop and goes on until its worker settles it.
pub async fn a_running_job_is_asked_to_stop(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let running = f.running(job()).await;
    let asked = f.cancel(&running.id).await.unwrap();
    assert_eq!((asked.state, asked.cancel_requested), (JobState::InProgress, true));
    assert_eq!(f.cancel(&running.id).await.unwrap(), asked, "asking twice is asking once");
    assert!(f.settle_one(&running, Outcome::Succeeded).await, "it was too late to stop");
    assert_eq!(f.state_of(&running.id).await, JobState::Succeeded);

    let running = f.running(job()).await;
    f.cancel(&running.id).await.unwrap();
    assert!(f.settle_one(&running, Outcome::Cancelled).await);
    assert_eq!(f.state_of(&running.id).await, JobState::Cancelled);
}

/// A worker that has not noticed and wants another try does not bring the job back.
pub async fn a_cancelled_job_is_not_tried_again(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let delay = Duration::from_secs(1);
    for outcome in [Outcome::Retry { error: failure(), delay }, Outcome::Snooze { delay }, Outcome::Release] {
        let running = f.running(job()).await;
        f.cancel(&running.id).await.unwrap();
        assert!(f.settle_one(&running, outcome).await);
        assert_eq!(f.state_of(&running.id).await, JobState::Cancelled);
        f.pass(LEASE);
        assert!(f.claim_as("worker").await.is_empty());
    }
}

/// There is nothing to cancel in a job that is over or never was.
pub async fn what_is_over_cannot_be_cancelled(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    assert_code(f.cancel("absent").await, "not_found");
    let error = failure();
    for outcome in [Outcome::Succeeded, Outcome::Failed { error: error.clone() }, Outcome::DeadLetter { error }] {
        let running = f.running(job()).await;
        assert!(f.settle_one(&running, outcome).await);
        let before = f.load_job(&running.id).await;
        assert_code(f.cancel(&running.id).await, "job_finished");
        assert_eq!(f.load_job(&running.id).await, before);
    }
}

/// Retrying begins the ladder anew but never the epoch, and keeps what went wrong before.
pub async fn a_retried_job_starts_afresh_under_a_newer_epoch(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let error = failure();
    f.enqueue_one(job()).await;
    let first = f.claim_one().await;
    assert!(f.settle_one(&first, Outcome::Retry { error: error.clone(), delay: Duration::ZERO }).await);
    let ends = [
        Outcome::DeadLetter { error: error.clone() },
        Outcome::Failed { error: error.clone() },
        Outcome::Partial { error },
        Outcome::Cancelled,
    ];
    let mut running = f.claim_one().await;
    for end in ends {
        let former = running.clone();
        assert!(f.settle_one(&running, end).await);
        let ended = f.load_job(&running.id).await;
        let fresh = f.retry(&running.id).await.unwrap();
        assert_eq!((fresh.state, fresh.attempt, fresh.crash_count), (JobState::Pending, 0, 0));
        assert_eq!((fresh.claim_epoch, fresh.finished_at), (former.claim_epoch, None));
        assert_eq!((&fresh.attempts, fresh.cancel_requested), (&ended.attempts, false));
        f.assert_near(fresh.run_at, f.now());
        assert_eq!(f.load_job(&running.id).await, fresh);

        running = f.claim_one().await;
        assert_eq!((running.attempt, running.claim_epoch), (1, former.claim_epoch + 1));
        assert!(!f.settle_one(&former, Outcome::Succeeded).await, "the claim of its former life");
    }
}

/// What waits, runs or succeeded is not retried, nor what has an active successor.
pub async fn a_retry_needs_an_ended_job(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    assert_code(f.retry("absent").await, "not_found");
    let id = f.enqueue_one(job().with_key("k")).await;
    assert_code(f.retry(&id).await, "job_active");
    let running = f.claim_one().await;
    assert_code(f.retry(&id).await, "job_active");
    assert!(f.settle_one(&running, Outcome::Failed { error: failure() }).await);

    let successor = f.running(job().with_key("k")).await;
    assert_code(f.retry(&id).await, "job_active");
    assert!(!f.load_job(&successor.id).await.rerun_requested, "a refused retry leaves no trace");
    assert!(f.settle_one(&successor, Outcome::Succeeded).await);
    assert_code(f.retry(&successor.id).await, "job_finished");
    assert_eq!(f.retry(&id).await.unwrap().state, JobState::Pending);
}

/// Waiting, running and dead jobs are counted for each kind; finished ones are not.
pub async fn stats_count_by_kind(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    assert!(f.stats().await.unwrap().by_kind.is_empty());
    let kind = |name: &str| NewJob::new(name, LANE, serde_json::Value::Null);
    f.enqueue(vec![kind("a"), kind("a"), kind("a"), kind("b"), kind("c")]).await.unwrap();
    let running = f.claim_as("worker").await;
    let ends = [
        Outcome::DeadLetter { error: failure() },
        Outcome::Snooze { delay: LEASE },
        Outcome::Succeeded,
        Outcome::Failed { error: failure() },
    ];
    for (job, end) in running.iter().zip(ends) {
        assert!(f.settle_one(job, end).await);
    }
    f.enqueue_one(kind("c").with_delay(LEASE)).await;
    let by_kind = f.stats().await.unwrap().by_kind;
    let depth = |pending, in_progress, dead_letter| {
        let mut depth = QueueDepth::default();
        (depth.pending, depth.in_progress, depth.dead_letter) = (pending, in_progress, dead_letter);
        depth
    };
    assert_eq!(
        by_kind.into_iter().collect::<Vec<_>>(),
        [("a".to_owned(), depth(1, 0, 1)), ("c".to_owned(), depth(1, 1, 0))]
    );
}

/// Newest first, page by page.
pub async fn jobs_are_listed_newest_first(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let mut enqueued = Vec::new();
    for n in 0..30 {
        enqueued.push(f.enqueue_one(job()).await);
        if n % 3 == 0 {
            f.pass(Duration::from_secs(1));
        }
    }
    enqueued.reverse();
    let all = f.jobs(&JobFilter::default()).await.unwrap();
    let ids: Vec<_> = all.iter().map(|job| job.id.clone()).collect();
    assert!(all.is_sorted_by(|a, b| a.created_at >= b.created_at));
    assert_eq!(ids.len(), 30);
    for limit in [1, 4, 7, 30] {
        let mut paged: Vec<String> = Vec::new();
        loop {
            let filter = JobFilter { before: paged.last().cloned(), limit, ..JobFilter::default() };
            let page = f.jobs(&filter).await.unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            paged.extend(page.into_iter().map(|job| job.id));
        }
        assert_eq!(paged, ids, "limit {limit}");
    }
    let filter = JobFilter { before: Some("absent".to_owned()), ..JobFilter::default() };
    assert!(f.jobs(&filter).await.unwrap().is_empty());
    f.enqueue((0..100).map(|_| job()).collect()).await.unwrap();
    assert_eq!(f.jobs(&JobFilter::default()).await.unwrap().len(), 100);
}

/// Every part of a filter must match.
pub async fn job_filters_combine(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let mut created = Vec::new();
    for project in ["", "p", "q'"] {
        for kind in ["a", "b"] {
            for key in [None, Some("k"), Some("%")] {
                let mut new = NewJob::new(kind, LANE, serde_json::Value::Null).with_project(project);
                new.key = key.map(|key| format!("{key}-{project}"));
                created.push(f.enqueue_one(new).await);
            }
        }
    }
    for (n, job) in f.claim_as("worker").await.iter().enumerate() {
        match n % 3 {
            0 => assert!(f.settle_one(job, Outcome::DeadLetter { error: failure() }).await),
            1 => assert!(f.settle_one(job, Outcome::Release).await),
            _ => {}
        }
    }
    let all = f.jobs(&JobFilter::default()).await.unwrap();
    assert_eq!(all.len(), created.len());
    let texts = |values: &[&str]| -> Vec<Option<String>> {
        std::iter::once(None).chain(values.iter().map(|value| Some((*value).to_owned()))).collect()
    };
    let states =
        [None, Some(JobState::Pending), Some(JobState::InProgress), Some(JobState::DeadLetter), Some(JobState::Failed)];
    for project in texts(&["", "p", "q'", "absent"]) {
        for kind in texts(&["a", "b"]) {
            for key in texts(&["k-p", "%-q'", "%"]) {
                for state in states {
                    let (project, kind, key) = (project.clone(), kind.clone(), key.clone());
                    let filter = JobFilter { project, kind, key, state, ..JobFilter::default() };
                    let expected: Vec<_> = all.iter().filter(|job| filter.matches(job)).cloned().collect();
                    assert_eq!(f.jobs(&filter).await.unwrap(), expected, "{filter:?}");
                }
            }
        }
    }
}

/// A job can be made to wait before it runs again, so that many do not run at once.
pub async fn a_retry_may_wait(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let failed = f.running(job()).await;
    assert!(f.settle_one(&failed, Outcome::Failed { error: failure() }).await);
    let wait = Duration::from_secs(90);
    let again = f.store.retry(&failed.id, wait).await.unwrap();
    assert_eq!((again.state, again.finished_at), (JobState::Pending, None));
    f.assert_near(again.run_at, f.now() + wait);
    f.pass(wait - f.precision);
    assert!(f.claim_as("worker").await.is_empty());
    f.pass(f.precision);
    assert_eq!(f.claim_one().await.id, failed.id);
}

/// Only jobs of that state that ended long enough ago go, the oldest first; their keys and ids can be used again.
pub async fn old_jobs_are_purged(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let hour = Duration::from_secs(3600);
    let mut ended = Vec::new();
    for n in 0..4 {
        let job = f.running(job().with_key(format!("k{n}"))).await;
        assert!(f.settle_one(&job, Outcome::Succeeded).await);
        ended.push(job.id);
        f.pass(hour);
    }
    let failed = f.running(job()).await;
    assert!(f.settle_one(&failed, Outcome::Failed { error: failure() }).await);
    let active = [f.running(job()).await.id, f.enqueue_one(job()).await];
    f.pass(f.precision);
    assert!(f.purge(JobState::Succeeded, hour * 4, 10).await.unwrap() == ended[..1]);
    assert_eq!(f.purge(JobState::Succeeded, Duration::ZERO, 2).await.unwrap(), ended[1..3]);
    assert!(f.purge(JobState::Succeeded, hour * 2, 10).await.unwrap().is_empty());
    for state in [JobState::Pending, JobState::InProgress] {
        assert!(f.purge(state, Duration::ZERO, 10).await.unwrap().is_empty(), "{state:?} is not an end");
    }
    assert!(f.purge(JobState::Failed, Duration::MAX, 10).await.unwrap().is_empty());
    for id in &ended[..3] {
        assert!(f.job(id).await.unwrap().is_none());
    }
    for id in active.iter().chain([&failed.id, &ended[3]]) {
        assert!(f.job(id).await.unwrap().is_some());
    }
    let mut again = job().with_key("k0");
    again.id.clone_from(&ended[0]);
    assert!(!f.enqueue(vec![again]).await.unwrap()[0].deduplicated);
    assert_eq!(f.jobs(&JobFilter::default()).await.unwrap().len(), 5);
}
