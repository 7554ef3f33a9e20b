//! Commits under a claim or a lease: whoever lost it changes nothing.

use std::time::Duration;

use super::StoreHarness;
use super::fixture::{Fixture, Item, LEASE, assert_code, failure, job, settlement};
use crate::lock::Lease;
use crate::queue::{Claim, JobFilter, JobState, Outcome, RetryPolicy};
use crate::store::{Condition, WriteBatch};

const TTL: Duration = Duration::from_secs(90);

fn write() -> WriteBatch {
    WriteBatch::new().put(&Item::new("written", "g")).unwrap()
}

async fn assert_writes(f: &Fixture, batch: WriteBatch) {
    f.commit(batch.delete::<Item>("written")).await.unwrap();
}

async fn assert_refused(f: &Fixture, batch: WriteBatch) {
    assert_code(f.commit(batch).await, "lease_lost");
    assert_eq!(f.item("written").await, None);
}

/// A worker whose job was taken back writes nothing, even if the next worker has its name.
pub async fn a_stale_claim_writes_nothing(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let first = f.running(job()).await;
    assert_writes(&f, write().require(Condition::Claim(first.claim()))).await;

    f.pass(LEASE);
    assert_eq!(f.reap(&RetryPolicy::default(), 10).await.unwrap().len(), 1);
    assert_refused(&f, write().require(Condition::Claim(first.claim()))).await;
    f.pass(Duration::from_secs(120));
    let second = f.claim_one().await;
    assert_eq!((&second.id, &second.worker), (&first.id, &first.worker));
    assert!(second.claim_epoch > first.claim_epoch);
    assert_refused(&f, write().require(Condition::Claim(first.claim()))).await;
    assert_refused(&f, write().settle(settlement(&first, Outcome::Succeeded))).await;
    assert_eq!(f.state_of(&first.id).await, JobState::InProgress);
    assert_writes(&f, write().require(Condition::Claim(second.claim()))).await;
}

/// The result of a job and what it wrote are one commit.
pub async fn a_settlement_commits_with_its_writes(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let running = f.running(job()).await;
    let next = job().with_key("next");
    f.commit(write().settle(settlement(&running, Outcome::Succeeded)).enqueue(next)).await.unwrap();
    assert!(f.item("written").await.is_some());
    assert_eq!(f.state_of(&running.id).await, JobState::Succeeded);
    assert_eq!(f.claim_one().await.key.as_deref(), Some("next"));

    f.commit(WriteBatch::new().delete::<Item>("written")).await.unwrap();
    let running = f.running(job()).await;
    let refused = write().settle(settlement(&running, Outcome::Succeeded)).insert(&Item::new("written", "g")).unwrap();
    f.commit(write()).await.unwrap();
    assert_code(f.commit(refused).await, "conflict");
    assert_eq!(f.state_of(&running.id).await, JobState::InProgress);
}

/// A settlement without a claim that holds is refused, with everything beside it.
pub async fn a_settlement_needs_its_claim(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let id = f.enqueue_one(job()).await;
    let waiting = f.load_job(&id).await;
    assert_refused(&f, write().settle(settlement(&waiting, Outcome::Succeeded))).await;
    assert_refused(&f, write().require(Condition::Claim(waiting.claim()))).await;
    assert_eq!(f.state_of(&id).await, JobState::Pending);

    let running = f.claim_one().await;
    for claim in [
        Claim { epoch: running.claim_epoch + 1, ..running.claim() },
        Claim { epoch: 0, ..running.claim() },
        Claim { job: "absent".to_owned(), epoch: 1 },
    ] {
        assert_refused(&f, write().require(Condition::Claim(claim))).await;
    }
    assert!(f.settle_one(&running, Outcome::Succeeded).await);
    assert_refused(&f, write().require(Condition::Claim(running.claim()))).await;
    assert_refused(&f, write().settle(settlement(&running, Outcome::Failed { error: failure() }))).await;
    assert_eq!(f.state_of(&id).await, JobState::Succeeded);
}

/// Once another leader was granted the lease, the former one writes nothing.
pub async fn a_stale_leader_writes_nothing(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let first = f.acquire("leader", "one", TTL).await.unwrap().unwrap();
    assert_writes(&f, write().require(Condition::Lease(first.clone()))).await;
    f.pass(TTL);
    let second = f.acquire("leader", "two", TTL).await.unwrap().unwrap();
    assert_refused(&f, write().require(Condition::Lease(first.clone()))).await;
    assert_writes(&f, write().require(Condition::Lease(second))).await;

    f.pass(TTL);
    let third = f.acquire("leader", "one", TTL).await.unwrap().unwrap();
    assert_refused(&f, write().require(Condition::Lease(first))).await;
    assert_writes(&f, write().require(Condition::Lease(third))).await;
}

/// Who gave the lease back writes nothing, although nobody else has it.
pub async fn a_released_lease_writes_nothing(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let lease = f.acquire("leader", "one", TTL).await.unwrap().unwrap();
    assert!(f.release(&lease).await.unwrap());
    assert_refused(&f, write().require(Condition::Lease(lease))).await;
}

/// The epoch alone decides: no clock can turn a lease that nobody took into a refusal.
pub async fn an_expired_lease_that_nobody_took_still_writes(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let lease = f.acquire("leader", "one", TTL).await.unwrap().unwrap();
    f.pass(TTL * 10);
    assert_writes(&f, write().require(Condition::Lease(lease))).await;
}

/// Name, holder and epoch must all be those of the grant.
pub async fn a_lease_of_another_holder_writes_nothing(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let lease = f.acquire("leader", "one", TTL).await.unwrap().unwrap();
    for forged in [
        Lease { holder: "two".to_owned(), ..lease.clone() },
        Lease { name: "other".to_owned(), ..lease.clone() },
        Lease { epoch: lease.epoch + 1, ..lease.clone() },
        Lease { epoch: 0, ..lease.clone() },
    ] {
        assert_refused(&f, write().require(Condition::Lease(forged))).await;
    }
    assert_writes(&f, write().require(Condition::Lease(lease))).await;
}

/// One condition that fails is enough, whichever it is.
pub async fn every_condition_counts(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let lease = f.acquire("leader", "one", TTL).await.unwrap().unwrap();
    let running = f.running(job()).await;
    let absent = || Condition::Record { kind: "conformance_item", id: "written".to_owned(), revision: None };
    let good = || vec![absent(), Condition::Claim(running.claim()), Condition::Lease(lease.clone())];
    let bad: [(Condition, &str); 3] = [
        (Condition::Record { kind: "conformance_item", id: "absent".to_owned(), revision: Some(1) }, "conflict"),
        (Condition::Claim(Claim { epoch: 9, ..running.claim() }), "lease_lost"),
        (Condition::Lease(Lease { epoch: 9, ..lease.clone() }), "lease_lost"),
    ];
    for (bad, code) in bad {
        for place in 0..=3 {
            let mut conditions = good();
            conditions.insert(place, bad.clone());
            let batch = conditions.into_iter().fold(write().enqueue(job()), WriteBatch::require);
            assert_code(f.commit(batch).await, code);
        }
    }
    assert_eq!(f.item("written").await, None);
    assert_eq!(f.jobs(&JobFilter::default()).await.unwrap().len(), 1);
    assert_writes(&f, good().into_iter().fold(write(), WriteBatch::require)).await;
}

/// A job may make way for another with its key in the commit that ends it.
pub async fn a_batch_settles_before_it_enqueues(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let running = f.running(job().with_key("k")).await;
    let successor = job().with_key("k");
    let id = successor.id.clone();
    let batch = WriteBatch::new().enqueue(successor).settle(settlement(&running, Outcome::Succeeded));
    let enqueued = f.commit(batch).await.unwrap().jobs.remove(0);
    assert_eq!((&enqueued.id, enqueued.deduplicated), (&id, false));
    assert_eq!(f.state_of(&running.id).await, JobState::Succeeded);
    assert_eq!(f.claim_one().await.id, id);
}
