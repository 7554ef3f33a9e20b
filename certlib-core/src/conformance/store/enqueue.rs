//! Enqueueing: one active job for each key, bounded payloads.

use std::time::Duration;

use serde_json::{Value, json};

use super::StoreHarness;
use super::fixture::{Fixture, LANE, START, assert_code, at_once, job, settlement};
use crate::queue::{JobFilter, JobState, Lane, NewJob, Outcome, PAYLOAD_DEPTH_MAX, PAYLOAD_HARD_MAX, PAYLOAD_MAX};
use crate::store::WriteBatch;

/// Every field of a new job is kept.
pub async fn a_job_reads_as_it_was_enqueued(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let payload = json!({"text": "é 🦀 ' \" \\", "list": [1, -2.5, null, true], "big": 9_007_199_254_740_991_i64});
    let new = NewJob::new("some_kind", Lane::Discovery, payload.clone())
        .with_key("a/b'c")
        .with_project("shop")
        .with_priority(-7)
        .with_delay(Duration::from_millis(1500));
    let id = new.id.clone();
    let enqueued = f.enqueue(vec![new]).await.unwrap();
    assert_eq!((&enqueued[0].id, enqueued[0].deduplicated), (&id, false));

    let job = f.load_job(&id).await;
    assert_eq!((&*job.kind, job.lane, job.key.as_deref()), ("some_kind", Lane::Discovery, Some("a/b'c")));
    assert_eq!((&*job.project, &job.payload, job.priority), ("shop", &payload, -7));
    assert_eq!((job.state, job.attempt, job.claim_epoch, job.crash_count), (JobState::Pending, 0, 0, 0));
    assert_eq!((job.lease_until, job.worker, job.finished_at), (None, None, None));
    assert!(!job.cancel_requested && !job.rerun_requested && job.attempts.is_empty());
    f.assert_near(job.created_at, START);
    f.assert_near(job.run_at, START + Duration::from_millis(1500));
    assert!(f.job("absent").await.unwrap().is_none());
    assert!(f.enqueue(Vec::new()).await.unwrap().is_empty());
}

/// While a job of a kind and key is active, another is the same job; once it is over, it is a new one.
pub async fn one_active_job_for_each_key(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let enqueued = f.enqueue(vec![job().with_key("k"), job().with_key("k")]).await.unwrap();
    let first = enqueued[0].id.clone();
    assert_eq!((enqueued[0].deduplicated, enqueued[1].deduplicated), (false, true));
    assert_eq!(enqueued[1].id, first);
    let commit = f.commit(WriteBatch::new().enqueue(job().with_key("k"))).await.unwrap();
    assert_eq!((&commit.jobs[0].id, commit.jobs[0].deduplicated), (&first, true));

    let other_kind = NewJob::new("other_job", LANE, Value::Null).with_key("k");
    let others = f.enqueue(vec![job().with_key("K"), job().with_key(""), other_kind, job(), job()]).await.unwrap();
    assert!(others.iter().all(|other| !other.deduplicated));

    let claimed = f.claim_as("worker").await;
    assert_eq!(claimed.len(), 6);
    let running = claimed.iter().find(|job| job.id == first).unwrap();
    assert!(f.settle_one(running, Outcome::Succeeded).await);
    let again = f.enqueue(vec![job().with_key("k")]).await.unwrap();
    assert!(!again[0].deduplicated && again[0].id != first);
}

/// An enqueue that meets its job waiting is not swallowed either: the more urgent of the two decides when it runs, and
/// with which priority.
pub async fn an_urgent_enqueue_hurries_a_waiting_job(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let hour = Duration::from_secs(3600);
    let waiting = f.enqueue(vec![job().with_key("k").with_delay(hour).with_priority(1)]).await.unwrap();
    f.enqueue(vec![job().with_key("k").with_delay(hour * 2).with_priority(-5)]).await.unwrap();
    let unchanged = f.load_job(&waiting[0].id).await;
    f.assert_near(unchanged.run_at, START + hour);
    assert_eq!(unchanged.priority, 1);
    assert!(f.claim_as("worker").await.is_empty());

    let urgent = f.enqueue(vec![job().with_key("k").with_priority(10)]).await.unwrap();
    assert_eq!((&urgent[0].id, urgent[0].deduplicated), (&waiting[0].id, true));
    let claimed = f.claim_as("worker").await;
    assert_eq!((claimed.len(), claimed[0].priority, claimed[0].attempt), (1, 10, 1));
}

/// An enqueue that meets its job in progress is not swallowed: the job runs once more after it ends, with a fresh
/// ladder, however often it was enqueued meanwhile.
pub async fn an_enqueue_during_the_run_runs_it_again(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    for in_commit in [false, true] {
        let running = f.running(job().with_key("k")).await;
        for _ in 0..3 {
            let enqueued = f.enqueue(vec![job().with_key("k")]).await.unwrap();
            assert_eq!((&enqueued[0].id, enqueued[0].deduplicated), (&running.id, true));
        }
        assert!(f.load_job(&running.id).await.rerun_requested);
        let outcome = settlement(&running, Outcome::Succeeded);
        if in_commit {
            f.commit(WriteBatch::new().settle(outcome)).await.unwrap();
        } else {
            assert_eq!(f.settle(vec![outcome]).await.unwrap(), [true]);
        }
        let again = f.claim_one().await;
        assert_eq!((&again.id, again.attempt, again.rerun_requested), (&running.id, 1, false));
        assert_eq!(again.claim_epoch, running.claim_epoch + 1);
        assert!(f.settle_one(&again, Outcome::Succeeded).await);
        assert_eq!(f.state_of(&running.id).await, JobState::Succeeded);
        assert!(f.claim_as("worker").await.is_empty());
    }
}

/// However many enqueue a key at the same time, one job is made and all are told its id.
pub async fn concurrent_enqueues_of_a_key_make_one_job(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    for round in 0..5 {
        let enqueued = at_once(16, |_| {
            let store = f.store.clone();
            async move { store.enqueue(vec![job().with_key(format!("k{round}"))]).await.unwrap().remove(0) }
        })
        .await;
        assert_eq!(enqueued.iter().filter(|one| !one.deduplicated).count(), 1);
        assert!(enqueued.iter().all(|one| one.id == enqueued[0].id));
    }
    assert_eq!(f.jobs(&JobFilter::default()).await.unwrap().len(), 5);
}

/// Enqueueing the same job again, as after a lost answer, changes nothing.
pub async fn an_id_is_enqueued_once(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let new = job();
    assert!(!f.enqueue(vec![new.clone()]).await.unwrap()[0].deduplicated);
    let running = f.claim_one().await;
    let again = f.enqueue(vec![new.clone().with_priority(5)]).await.unwrap();
    assert_eq!((&again[0].id, again[0].deduplicated), (&new.id, true));
    assert!(f.settle_one(&running, Outcome::Succeeded).await);
    assert!(f.commit(WriteBatch::new().enqueue(new.clone())).await.unwrap().jobs[0].deduplicated);
    let job = f.load_job(&new.id).await;
    assert_eq!((job.state, job.priority), (JobState::Succeeded, 0));
}

/// Too large, too deep, or with a NUL: refused, and nothing beside it is enqueued. The largest that fits is kept.
pub async fn payloads_have_limits(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let nested = |depth: usize| (1..depth).fold(json!([]), |inner, _| json!([inner]));
    let sized = |bytes: usize| Value::String("x".repeat(bytes - 2));
    let with = |payload: Value| NewJob::new("test_job", LANE, payload);
    let bad = [
        (with(sized(PAYLOAD_MAX + 1)), "payload_too_large"),
        (with(sized(PAYLOAD_HARD_MAX + 1)).with_payload_limit(usize::MAX), "payload_too_large"),
        (with(nested(PAYLOAD_DEPTH_MAX + 1)), "payload_invalid"),
        (with(json!({"a": "\0"})), "payload_invalid"),
        (with(json!({"\0": 1})), "payload_invalid"),
        (with(json!([{"n": (1_u64 << 53) + 1}])), "payload_invalid"),
        (with(json!(-(1_i64 << 53) - 1)), "payload_invalid"),
        (with(json!(u64::MAX)), "payload_invalid"),
    ];
    for (bad, code) in bad {
        assert_code(f.enqueue(vec![job(), bad.clone()]).await, code);
        assert_code(f.commit(WriteBatch::new().enqueue(job()).enqueue(bad)).await, code);
    }
    assert!(f.jobs(&JobFilter::default()).await.unwrap().is_empty());
    let exact = json!([1_i64 << 53, -(1_i64 << 53), 0.1, 1e300]);
    for payload in [sized(PAYLOAD_MAX), nested(PAYLOAD_DEPTH_MAX), exact, Value::Null, json!("")] {
        let id = f.enqueue_one(with(payload.clone())).await;
        assert!(f.load_job(&id).await.payload == payload);
    }
    let largest = sized(PAYLOAD_HARD_MAX);
    let id = f.enqueue_one(with(largest.clone()).with_payload_limit(PAYLOAD_HARD_MAX)).await;
    assert!(f.load_job(&id).await.payload == largest);
}

/// Ids, types, projects and keys out of bounds are refused, with everything beside them.
pub async fn an_invalid_job_is_refused(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let with_id = |id: &str| {
        let mut job = job();
        id.clone_into(&mut job.id);
        job
    };
    let bad = [
        with_id(""),
        with_id(&"x".repeat(201)),
        with_id("a\nb"),
        NewJob::new("", LANE, Value::Null),
        NewJob::new("nul\0", LANE, Value::Null),
        job().with_key("x".repeat(501)),
        job().with_key("nul\0"),
        job().with_project("x".repeat(201)),
        job().with_parent("x".repeat(201)),
        job().with_parent("a\tb"),
    ];
    for bad in bad {
        assert_code(f.enqueue(vec![job(), bad.clone()]).await, "job_invalid");
        assert_code(f.commit(WriteBatch::new().enqueue(job()).enqueue(bad)).await, "job_invalid");
    }
    assert!(f.jobs(&JobFilter::default()).await.unwrap().is_empty());
    let largest = with_id(&"i".repeat(200)).with_key("k".repeat(500)).with_project("p".repeat(200));
    let id = f.enqueue_one(largest.clone()).await;
    assert_eq!((f.load_job(&id).await.key, &id), (largest.key, &largest.id));
}

/// Whatever makes a job due wakes who waits for work.
pub async fn workers_are_woken(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let mut wakeups = f.wakeups();
    let mut woken = || {
        let changed = wakeups.has_changed().unwrap();
        wakeups.mark_unchanged();
        changed
    };
    f.enqueue(vec![job()]).await.unwrap();
    assert!(woken(), "enqueue");
    f.commit(WriteBatch::new().enqueue(job().with_key("k"))).await.unwrap();
    assert!(woken(), "commit");
    let running = f.claim_as("worker").await;
    assert!(!woken(), "a claim is no work");
    assert!(f.settle_one(&running[0], Outcome::Release).await);
    assert!(woken(), "release");
    f.enqueue(vec![job().with_key("k")]).await.unwrap();
    assert!(!woken(), "the job is running");
    assert!(f.settle_one(&running[1], Outcome::Succeeded).await);
    assert!(woken(), "run again");
    f.cancel(&running[0].id).await.unwrap();
    f.retry(&running[0].id).await.unwrap();
    assert!(woken(), "retry");
}
