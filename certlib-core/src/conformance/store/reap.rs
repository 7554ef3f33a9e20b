//! Extending leases, and taking back the jobs of workers that did not.

use std::time::Duration;

use super::StoreHarness;
use super::fixture::{Fixture, LEASE, at_once, dead_letters, job, settlement};
use crate::backoff::Ladder;
use crate::queue::{Claim, Extension, JobState, Outcome, RetryPolicy};

/// A policy whose waits are exact.
fn policy() -> RetryPolicy {
    RetryPolicy::with_ladder(Ladder::new(vec![Duration::from_secs(10), Duration::from_secs(20)], 0.0))
}

const HELD: Extension = Extension::Held { cancel_requested: false };

/// A heartbeat moves the end of the lease; one for a lost claim says so.
pub async fn an_extended_lease_is_not_reaped(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let running = f.running(job()).await;
    for _ in 0..5 {
        f.pass(LEASE - f.precision);
        assert_eq!(f.extend(&[running.claim()], LEASE).await.unwrap(), [HELD]);
        assert!(f.reap(&policy(), 10).await.unwrap().is_empty());
    }
    f.assert_near(f.load_job(&running.id).await.lease_until.unwrap(), f.now() + LEASE);
    f.pass(LEASE * 2);
    assert_eq!(f.extend(&[running.claim()], LEASE).await.unwrap(), [HELD], "the reaper has not been there");

    let stale = Claim { epoch: running.claim_epoch - 1, ..running.claim() };
    let absent = Claim { job: "absent".to_owned(), epoch: 1 };
    f.cancel(&running.id).await.unwrap();
    let answers = f.extend(&[stale, running.claim(), absent], LEASE).await.unwrap();
    assert_eq!(answers, [Extension::Lost, Extension::Held { cancel_requested: true }, Extension::Lost]);
    assert!(f.settle_one(&running, Outcome::Cancelled).await);
    assert_eq!(f.extend(&[running.claim()], LEASE).await.unwrap(), [Extension::Lost]);
    assert!(f.extend(&[], LEASE).await.unwrap().is_empty());
}

/// The reaper takes what has passed, when it has passed, and nothing else.
pub async fn only_passed_leases_are_reaped(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let early = f.running(job()).await;
    f.pass(Duration::from_secs(30));
    let late = f.running(job()).await;
    let waiting = f.enqueue_one(job().with_delay(LEASE * 9)).await;
    f.pass(LEASE - Duration::from_secs(30) - f.precision);
    assert!(f.reap(&policy(), 10).await.unwrap().is_empty());
    f.pass(f.precision);
    let reaped = f.reap(&policy(), 10).await.unwrap();
    assert_eq!(reaped.iter().map(|job| &job.id).collect::<Vec<_>>(), [&early.id]);
    assert_eq!(reaped[0], f.load_job(&early.id).await);
    assert_eq!(f.state_of(&late.id).await, JobState::InProgress);
    assert_eq!(f.state_of(&waiting).await, JobState::Pending);
}

/// A pass is bounded; what it left, the next one takes.
pub async fn the_reaper_keeps_to_its_limit(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    f.enqueue((0..25).map(|_| job()).collect()).await.unwrap();
    assert_eq!(f.claim_as("worker").await.len(), 25);
    f.pass(LEASE);
    let mut passes = Vec::new();
    for _ in 0..4 {
        passes.push(f.reap(&policy(), 10).await.unwrap().len());
    }
    assert_eq!(passes, [10, 10, 5, 0]);
}

/// A job that lost its worker waits for the ladder's step and remembers why.
pub async fn a_crashed_job_waits_for_its_ladder(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let running = f.running(job()).await;
    f.pass(LEASE);
    let reaped = f.reap(&policy(), 10).await.unwrap().remove(0);
    assert_eq!((reaped.state, reaped.attempt, reaped.crash_count), (JobState::Pending, 1, 1));
    assert_eq!((reaped.lease_until, reaped.claim_epoch), (None, running.claim_epoch));
    let attempt = reaped.attempts.last().unwrap();
    assert_eq!((attempt.attempt, &*attempt.error.code), (1, "worker_lost"));
    f.assert_near(attempt.at, f.now());
    f.pass(Duration::from_secs(10) - f.precision);
    assert!(f.claim_as("worker").await.is_empty());
    f.pass(f.precision);
    let again = f.claim_one().await;
    assert_eq!((&again.id, again.attempt, again.claim_epoch), (&running.id, 2, running.claim_epoch + 1));
}

/// Three lost workers in a row end the job.
pub async fn a_job_that_kills_its_workers_is_isolated(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    f.enqueue_one(job().with_key("k")).await;
    let mut starts = 0;
    let dead = loop {
        let running = f.claim_one().await;
        starts += 1;
        f.pass(LEASE);
        let job = f.reap(&policy(), 10).await.unwrap().remove(0);
        assert_eq!(job.id, running.id);
        if job.state != JobState::Pending {
            break job;
        }
        f.pass(Duration::from_secs(20));
    };
    assert_eq!((starts, dead.state, dead.crash_count), (3, JobState::DeadLetter, 3));
    assert_eq!(dead.attempts.last().unwrap().error.code, "poison");
    assert!(dead.finished_at.is_some());
    f.pass(LEASE * 1000);
    assert!(f.claim_as("worker").await.is_empty());
    assert!(!f.enqueue(vec![job().with_key("k")]).await.unwrap()[0].deduplicated);
}

/// A job that was asked to stop and lost its worker has stopped.
pub async fn a_crash_after_a_cancel_ends_the_job(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let running = f.running(job()).await;
    f.cancel(&running.id).await.unwrap();
    f.pass(LEASE);
    let reaped = f.reap(&policy(), 10).await.unwrap().remove(0);
    assert_eq!(reaped.state, JobState::Cancelled);
    assert!(reaped.finished_at.is_some());
    f.pass(LEASE * 1000);
    assert!(f.claim_as("worker").await.is_empty());
}

/// Either the result came first or the reaper did, and both know which.
pub async fn settling_and_reaping_have_one_winner(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    for _ in 0..30 {
        let running = f.running(job()).await;
        f.pass(LEASE);
        let results = at_once(2, |n| {
            let (store, settlement) = (f.store.clone(), settlement(&running, Outcome::Succeeded));
            async move {
                if n == 0 {
                    store.settle(vec![settlement]).await.unwrap()[0]
                } else {
                    store.reap(&policy(), 10).await.unwrap().len() == 1
                }
            }
        })
        .await;
        let state = f.state_of(&running.id).await;
        match results[..] {
            [true, false] => assert_eq!(state, JobState::Succeeded),
            [false, true] => assert_eq!(state, JobState::Pending),
            _ => panic!("settled and reaped: {results:?}"),
        }
        if state.is_active() {
            f.cancel(&running.id).await.unwrap();
        }
    }
}

/// Either the heartbeat came first or the reaper did, and both know which.
pub async fn extending_and_reaping_have_one_winner(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    for _ in 0..30 {
        let running = f.running(job()).await;
        f.pass(LEASE);
        let results = at_once(2, |n| {
            let (store, claim) = (f.store.clone(), running.claim());
            async move {
                if n == 0 {
                    store.extend(&[claim], LEASE).await.unwrap()[0] == HELD
                } else {
                    store.reap(&policy(), 10).await.unwrap().len() == 1
                }
            }
        })
        .await;
        let state = f.state_of(&running.id).await;
        match results[..] {
            [true, false] => assert!(f.settle_one(&running, Outcome::Succeeded).await),
            [false, true] => {
                assert_eq!(state, JobState::Pending);
                f.cancel(&running.id).await.unwrap();
            }
            _ => panic!("extended and reaped: {results:?}"),
        }
    }
}

/// A job that kills its workers leaves one event when it is given up.
pub async fn a_poisoned_job_leaves_one_event(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let policy = RetryPolicy::default();
    let id = f.enqueue_one(job().with_project("shop")).await;
    for _ in 0..policy.poison_after {
        assert!(dead_letters(&f).await.is_empty());
        f.claim_one().await;
        f.pass(LEASE);
        f.reap(&policy, 10).await.unwrap();
        f.pass(Duration::from_secs(3600));
    }
    assert_eq!(f.state_of(&id).await, JobState::DeadLetter);
    assert!(f.reap(&policy, 10).await.unwrap().is_empty());
    assert_eq!(dead_letters(&f).await, [("shop".to_owned(), id)]);
}
