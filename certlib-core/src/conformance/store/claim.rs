//! Claiming: order, lanes, delays, one winner.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;

use super::StoreHarness;
use super::fixture::{Fixture, LANE, LEASE, at_once, job};
use crate::queue::{ClaimRequest, JobState, Lane, NewJob};

/// A claim counts an attempt, raises the epoch and sets the lease; the claimed job is nobody else's.
pub async fn a_claim_leases_the_job(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let id = f.enqueue_one(job()).await;
    let claimed = f.claim_one().await;
    assert_eq!((&claimed.id, claimed.state, claimed.worker.as_deref()), (&id, JobState::InProgress, Some("worker")));
    assert_eq!((claimed.attempt, claimed.claim_epoch), (1, 1));
    f.assert_near(claimed.lease_until.unwrap(), f.now() + LEASE);
    assert_eq!(f.load_job(&id).await, claimed);
    assert!(f.claim_as("worker").await.is_empty());
    f.pass(LEASE * 2);
    assert!(f.claim_as("other").await.is_empty(), "a passed lease is the reaper's");
}

/// The highest priority first, then the longest due, then the smallest id; never more than asked for.
pub async fn claims_go_by_priority_due_time_and_id(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let named = |id: &str, priority: i16, delay: u64| {
        let mut job = job().with_priority(priority).with_delay(Duration::from_secs(delay));
        id.clone_into(&mut job.id);
        job
    };
    let jobs =
        [("e", 0, 2), ("b", 5, 3), ("g", i16::MIN, 0), ("d", 0, 1), ("c", 0, 1), ("f", -1, 0), ("a", i16::MAX, 4)];
    f.enqueue(jobs.map(|(id, priority, delay)| named(id, priority, delay)).to_vec()).await.unwrap();
    f.pass(Duration::from_secs(10));
    assert!(f.claim(LANE, "worker", 0, LEASE).await.unwrap().is_empty());
    let mut order = Vec::new();
    for limit in [1, 2, 3, 4] {
        let claimed = f.claim(LANE, "worker", limit, LEASE).await.unwrap();
        assert!(claimed.len() <= limit);
        order.extend(claimed.into_iter().map(|job| job.id));
    }
    assert_eq!(order, ["a", "b", "c", "d", "e", "f", "g"]);
}

/// A claim sees its own lane only.
pub async fn lanes_are_apart(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    f.enqueue(Lane::ALL.map(|lane| NewJob::new(lane.as_str(), lane, Value::Null)).to_vec()).await.unwrap();
    for lane in Lane::ALL {
        let claimed = f.claim(lane, "worker", 10, LEASE).await.unwrap();
        assert_eq!(claimed.iter().map(|job| (job.lane, &*job.kind)).collect::<Vec<_>>(), [(lane, lane.as_str())]);
    }
}

/// A job is not due a moment before its delay is over, and due when it is.
pub async fn a_delay_is_honoured_exactly(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    f.enqueue_one(job().with_delay(Duration::MAX)).await;
    for delay in [Duration::from_millis(1), Duration::from_secs(1), Duration::from_secs(86_400)] {
        let delay = delay.max(f.precision);
        f.enqueue_one(job().with_delay(delay)).await;
        f.pass(delay - f.precision);
        assert!(f.claim_as("worker").await.is_empty(), "{delay:?}");
        f.pass(f.precision);
        f.claim_one().await;
    }
}

/// Jobs that wait, however important, do not stand before those that are due.
pub async fn what_is_not_due_hides_nothing_that_is(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let hour = Duration::from_secs(3600);
    let waiting = (0..200).map(|n| job().with_priority(n % 3).with_delay(hour));
    let due = [job().with_priority(-5), job().with_priority(1), job().with_priority(-5)];
    f.enqueue(waiting.chain(due).collect()).await.unwrap();
    let priorities: Vec<_> = f.claim_as("worker").await.iter().map(|job| job.priority).collect();
    assert_eq!(priorities, [1, -5, -5]);
    f.pass(hour);
    let mut all = 0;
    loop {
        match f.claim_as("worker").await.len() {
            0 => break,
            some => all += some,
        }
    }
    assert_eq!(all, 200);
}

/// Sixteen workers that claim at the same time share the jobs out: each job to one of them, none left.
pub async fn a_job_has_one_winner(harness: &impl StoreHarness) {
    const JOBS: usize = 160;
    let f = Fixture::new(harness).await;
    f.enqueue((0..JOBS).map(|_| job()).collect()).await.unwrap();
    let claimed = at_once(16, |number| {
        let store = f.store.clone();
        async move {
            let mut mine = Vec::new();
            loop {
                let jobs = store.claim(&ClaimRequest::new(LANE, format!("worker-{number}"), 3, LEASE)).await.unwrap();
                if jobs.is_empty() {
                    return mine;
                }
                mine.extend(jobs.into_iter().map(|job| (job.id, job.claim_epoch)));
            }
        }
    })
    .await
    .concat();
    assert!(claimed.iter().all(|(_, epoch)| *epoch == 1));
    assert_eq!((claimed.len(), claimed.into_iter().collect::<HashSet<_>>().len()), (JOBS, JOBS));
}

/// Jobs of parents that have their share are passed over, whatever their priority; without that wish they come first.
pub async fn parents_can_be_passed_over(harness: &impl StoreHarness) {
    let f = Fixture::new(harness).await;
    let of = |parent: &str, priority: i16| job().with_parent(parent).with_priority(priority);
    f.enqueue((0..50).map(|_| of("big", 5)).collect()).await.unwrap();
    let small = f.enqueue_one(of("small", 0)).await;
    let projects = f.enqueue_one(job().with_project("shop")).await;
    let request = ClaimRequest::new(LANE, "worker", 10, LEASE);
    let claimed = f.store.claim(&request.clone().avoiding(vec!["big".to_owned(), "absent".to_owned()])).await.unwrap();
    assert_eq!(claimed.iter().map(|job| &job.id).collect::<Vec<_>>(), [&small, &projects]);
    assert_eq!(claimed.iter().map(|job| &*job.parent).collect::<Vec<_>>(), ["small", "shop"]);
    let everyone = vec!["big".to_owned(), "small".to_owned(), "shop".to_owned()];
    assert!(f.store.claim(&request.clone().avoiding(everyone)).await.unwrap().is_empty());
    let rest = f.store.claim(&request).await.unwrap();
    assert!(rest.len() == 10 && rest.iter().all(|job| job.parent == "big"));
}
