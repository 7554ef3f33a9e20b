//! Taking jobs back never undoes a result, and is not held up by those that are well.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::HashSet;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use certlib_core::clock::ManualClock;
use certlib_core::memory::MemoryStore;
use certlib_core::queue::{ClaimRequest, Job, JobQueue as _, JobState, Lane, Outcome, RetryPolicy, Settlement};
use certlib_core::runtime::Role;
use futures::FutureExt as _;

use crate::common::jobs::{job, tick};
use crate::common::{START, World};

const LEASE: Duration = Duration::from_secs(60);

/// The store in memory never waits.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

fn claim_all(store: &MemoryStore, jobs: usize) -> Vec<Job> {
    let claimed = block_on(store.claim(&ClaimRequest::new(Lane::Notification, "w", jobs, LEASE))).unwrap();
    assert_eq!(claimed.len(), jobs);
    claimed
}

#[test]
fn ten_thousand_races_between_settling_and_reaping() {
    const RACES: usize = 10_000;
    let clock = Arc::new(ManualClock::new(START));
    let store = Arc::new(MemoryStore::new(clock.clone()));
    block_on(store.enqueue((0..RACES).map(|_| job("race")).collect())).unwrap();
    let claimed = claim_all(&store, RACES);
    // Every lease has passed, and every worker comes back with a result at this very moment.
    clock.advance(LEASE);
    let start = Arc::new(Barrier::new(3));
    let settle = |part: Vec<Job>| {
        let (store, start) = (store.clone(), start.clone());
        std::thread::spawn(move || {
            start.wait();
            let settle = |job: Job| {
                let claim = job.claim();
                let settlement = Settlement { claim, outcome: Outcome::Succeeded, duration: Duration::ZERO };
                (job.id, block_on(store.settle(vec![settlement])).unwrap()[0])
            };
            part.into_iter().map(settle).collect::<Vec<_>>()
        })
    };
    let (front, back) = claimed.split_at(RACES / 2);
    // One goes with the reaper, one against it.
    let settlers = [settle(front.to_vec()), settle(back.iter().rev().cloned().collect())];
    start.wait();
    let mut reaped = HashSet::new();
    loop {
        let page = block_on(store.reap(&RetryPolicy::default(), 7)).unwrap();
        if page.is_empty() {
            break;
        }
        for job in page {
            assert!(reaped.insert(job.id), "taken back twice");
        }
    }
    let answers: Vec<_> = settlers.into_iter().flat_map(|settler| settler.join().unwrap()).collect();
    for (id, settled) in answers {
        let job = block_on(store.job(&id)).unwrap().unwrap();
        assert_eq!(settled, !reaped.contains(&id), "{id}: exactly one of the two");
        let wanted = if settled { JobState::Succeeded } else { JobState::Pending };
        assert_eq!(job.state, wanted, "{id}");
        assert_eq!(job.crash_count, u32::from(!settled));
    }
}

#[tokio::test]
async fn those_that_are_well_do_not_hide_one_that_is_stuck() {
    const WELL: usize = 10_000;
    let world = World::new();
    let store = &world.store;
    store.enqueue((0..=WELL).map(|_| job("held")).collect()).await.unwrap();
    let claim = |limit, lease| ClaimRequest::new(Lane::Notification, "elsewhere", limit, lease);
    // The stuck one was claimed last, and all others are kept.
    let well = store.claim(&claim(WELL, Duration::from_secs(3600))).await.unwrap();
    let stuck = store.claim(&claim(1, Duration::from_secs(30))).await.unwrap().remove(0);
    let node = world.builder().settings(|settings| settings.roles = vec![Role::Worker]).build().unwrap().start();
    for _ in 0..30 {
        tick(&world.clock, Duration::from_secs(1)).await;
    }
    assert_eq!(store.job(&stuck.id).await.unwrap().unwrap().state, JobState::InProgress, "its lease has not passed");
    // One round of the reaper.
    for _ in 0..16 {
        tick(&world.clock, Duration::from_secs(1)).await;
    }
    assert_eq!(store.job(&stuck.id).await.unwrap().unwrap().state, JobState::Pending);
    for job in well.iter().step_by(997) {
        assert_eq!(store.job(&job.id).await.unwrap().unwrap().state, JobState::InProgress);
    }
    world.stop(node).await;
}
