//! Settling: one accepted outcome for each claim.

use std::time::Duration;

use super::StoreHarness;
use super::fixture::{Fixture, LEASE, assert_code, at_once, dead_letters, failure, job, settlement};
use crate::error::codes;
use crate::queue::{Claim, JobState, Outcome, RetryPolicy, Settlement};
use crate::store::WriteBatch;

/// Each outcome leads to its state, by itself and in a commit alike.
pub async fn each_outcome_leads_to_its_state(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let delay = Duration::from_secs(30);
    let outcomes = [
        (Outcome::Succeeded, JobState::Succeeded),
        (Outcome::Partial { error: failure() }, JobState::Partial),
        (Outcome::Failed { error: failure() }, JobState::Failed),
        (Outcome::DeadLetter { error: failure() }, JobState::DeadLetter),
        (Outcome::Cancelled, JobState::Cancelled),
        (Outcome::Retry { error: failure(), delay }, JobState::Pending),
        (Outcome::Snooze { delay }, JobState::Pending),
        (Outcome::Release, JobState::Pending),
    ];
    for (outcome, state) in outcomes {
        for in_commit in [false, true] {
            let running = f.running(job()).await;
            if in_commit {
                f.commit(WriteBatch::new().settle(settlement(&running, outcome.clone()))).await.unwrap();
            } else {
                assert!(f.settle_one(&running, outcome.clone()).await);
            }
            let job = f.load_job(&running.id).await;
            assert_eq!((job.state, job.lease_until), (state, None), "{outcome:?}");
            assert_eq!(job.finished_at.is_some(), !state.is_active(), "{outcome:?}");
            let errors: Vec<_> = job.attempts.iter().map(|attempt| &attempt.error).collect();
            assert_eq!(errors, outcome.error().into_iter().collect::<Vec<_>>(), "{outcome:?}");
            if state.is_active() {
                f.cancel(&job.id).await.unwrap();
            } else {
                f.assert_near(job.finished_at.unwrap(), f.now());
            }
        }
    }
}

/// A retry comes back after its delay and not before, and says what went wrong each time.
pub async fn a_retry_waits_and_is_remembered(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    f.enqueue_one(job()).await;
    for attempt in 1..=3_u32 {
        let running = f.claim_one().await;
        assert_eq!((running.attempt, running.claim_epoch), (attempt, u64::from(attempt)));
        let delay = Duration::from_secs(60 * u64::from(attempt));
        assert!(f.settle_one(&running, Outcome::Retry { error: failure(), delay }).await);
        f.pass(delay - f.precision);
        assert!(f.claim_as("worker").await.is_empty());
        f.pass(f.precision);
        let waiting = f.load_job(&running.id).await;
        let last = waiting.attempts.last().unwrap();
        assert_eq!((waiting.attempts.len(), last.attempt, last.duration_ms), (attempt as usize, attempt, 1500));
        assert_eq!(last.error, failure());
        f.assert_near(last.at, f.now() - delay);
    }
}

/// Work that was put off or interrupted did not fail: the attempt is given back.
pub async fn snooze_and_release_do_not_count(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    f.enqueue_one(job()).await;
    for round in 1..=20 {
        let running = f.claim_one().await;
        assert_eq!((running.attempt, running.claim_epoch), (1, round));
        let delay = Duration::from_secs(5);
        let outcome = if round % 2 == 0 { Outcome::Release } else { Outcome::Snooze { delay } };
        assert!(f.settle_one(&running, outcome.clone()).await);
        if round % 2 == 1 {
            assert!(f.claim_as("worker").await.is_empty(), "snoozed");
        }
        f.pass(outcome.delay());
    }
    assert!(f.load_job(&f.claim_one().await.id).await.attempts.is_empty());
}

/// The second settlement of a claim is lost, whatever it says.
pub async fn a_claim_is_settled_once(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let running = f.running(job()).await;
    let twice = vec![
        settlement(&running, Outcome::Succeeded),
        settlement(&running, Outcome::Failed { error: failure() }),
        settlement(&running, Outcome::Release),
    ];
    assert_eq!(f.settle(twice).await.unwrap(), [true, false, false]);
    assert!(!f.settle_one(&running, Outcome::Release).await);
    let job = f.load_job(&running.id).await;
    assert_eq!((job.state, job.attempts.len()), (JobState::Succeeded, 0));
}

/// One lost claim does not spoil the others of its batch; the answers are in the order of the questions.
pub async fn each_settlement_is_answered_for_itself(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    f.enqueue((0..40).map(|_| job()).collect()).await.unwrap();
    let running = f.claim_as("worker").await;
    let lost = |n: usize| n % 3 == 1;
    let settlements = running.iter().enumerate().map(|(n, job)| {
        let mut settlement = settlement(job, Outcome::Succeeded);
        if lost(n) {
            settlement.claim.epoch += 1;
        }
        settlement
    });
    let absent = Settlement {
        claim: Claim { job: "absent".to_owned(), epoch: 1 },
        ..settlement(&running[0], Outcome::Succeeded)
    };
    let answers = f.settle(settlements.chain([absent]).collect()).await.unwrap();
    let expected: Vec<_> = (0..40).map(|n| !lost(n)).chain([false]).collect();
    assert_eq!(answers, expected);
    for (n, job) in running.iter().enumerate() {
        let state = if lost(n) { JobState::InProgress } else { JobState::Succeeded };
        assert_eq!(f.state_of(&job.id).await, state);
    }
    assert!(f.settle(Vec::new()).await.unwrap().is_empty());
}

/// A worker whose job was taken back cannot settle it, neither while it waits nor while the next one runs it.
pub async fn a_late_settlement_is_lost(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let late = f.running(job()).await;
    f.pass(LEASE);
    f.reap(&RetryPolicy::default(), 10).await.unwrap();
    let waiting = f.load_job(&late.id).await;
    assert!(!f.settle_one(&late, Outcome::Succeeded).await);
    assert_eq!(f.load_job(&late.id).await, waiting);
    f.pass(Duration::from_secs(120));
    let current = f.claim_one().await;
    assert!(!f.settle_one(&late, Outcome::Succeeded).await);
    assert_eq!(f.load_job(&late.id).await, current);
    assert!(f.settle_one(&current, Outcome::Succeeded).await);
}

/// A result that arrives after the lease but before the reaper is as good as any.
pub async fn a_settlement_before_the_reaper_counts(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let running = f.running(job()).await;
    f.pass(LEASE * 3);
    assert!(f.settle_one(&running, Outcome::Succeeded).await);
    assert!(f.reap(&RetryPolicy::default(), 10).await.unwrap().is_empty());
    assert_eq!(f.state_of(&running.id).await, JobState::Succeeded);
}

/// Of many settlements of one claim at the same time, exactly one is accepted, and its outcome is what stays.
pub async fn racing_settlements_have_one_winner(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    for _ in 0..10 {
        let running = f.running(job()).await;
        let outcomes = [
            Outcome::Succeeded,
            Outcome::Cancelled,
            Outcome::Failed { error: failure() },
            Outcome::DeadLetter { error: failure() },
        ];
        let accepted = at_once(8, |n| {
            let (store, outcome) = (f.store.clone(), outcomes[n % 4].clone());
            let settlement = settlement(&running, outcome.clone());
            async move { store.settle(vec![settlement]).await.unwrap()[0].then_some(outcome) }
        })
        .await;
        let winners: Vec<_> = accepted.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(f.state_of(&running.id).await, winners[0].state());
    }
}

/// A job that is given up leaves one event, with the settlement that gave it up; a settlement that is refused leaves none.
pub async fn a_given_up_job_leaves_one_event(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let given_up = || Outcome::DeadLetter { error: failure() };
    let alone = f.running(job().with_project("shop").with_key("k")).await;
    assert!(f.settle_one(&alone, given_up()).await);
    assert!(!f.settle_one(&alone, given_up()).await);
    assert_eq!(dead_letters(&f).await, [("shop".to_owned(), alone.id.clone())]);
    let committed = f.running(job()).await;
    f.commit(WriteBatch::new().settle(settlement(&committed, given_up()))).await.unwrap();
    assert_code(f.commit(WriteBatch::new().settle(settlement(&committed, given_up()))).await, codes::LEASE_LOST);
    let batch: Vec<_> = [f.running(job()).await, f.running(job()).await].to_vec();
    let outcomes = [Outcome::Failed { error: failure() }, given_up()];
    let both = batch.iter().zip(outcomes).map(|(job, outcome)| settlement(job, outcome)).collect();
    assert_eq!(f.settle(both).await.unwrap(), [true, true]);
    let subjects: Vec<_> = dead_letters(&f).await.into_iter().map(|(_, subject)| subject).collect();
    assert_eq!(subjects, [alone.id, committed.id, batch[1].id.clone()]);
}
