//! Parents take turns, and outcomes are stored together.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certlib_core::clock::Clock as _;
use certlib_core::conformance::dying::DyingStore;
use certlib_core::queue::{JobFilter, JobState, Lane};
use certlib_core::runtime::{Handled, Role, Settings};

use crate::common::World;
use crate::common::jobs::{Act, job, tick};

const SLOW: Duration = Duration::from_secs(20);

/// How long a second parent's job waits behind 1,000 jobs of a first one that each take 20 s.
async fn wait_behind_a_thousand(slots: usize) -> Duration {
    let world = World::new();
    let started = Arc::new(Mutex::new(None));
    let slow = Act::new("slow", Lane::Notification, {
        let (clock, started) = (world.clock.clone(), started.clone());
        move |job, _| {
            let (clock, started) = (clock.clone(), started.clone());
            async move {
                if job.parent == "second" {
                    *started.lock().unwrap() = Some(clock.monotonic());
                }
                clock.sleep(SLOW).await;
                Ok(Handled::Succeeded)
            }
        }
    });
    let settings = move |settings: &mut Settings| {
        settings.roles = vec![Role::Worker];
        settings.lanes.insert(Lane::Notification, slots);
    };
    let node = world.builder().handler(slow).settings(settings).build().unwrap().start();
    let first = (0..1000).map(|_| job("slow").with_parent("first")).collect();
    world.store.enqueue(first).await.unwrap();
    for _ in 0..50 {
        tick(&world.clock, Duration::from_secs(1)).await;
    }
    let enqueued_at = world.clock.monotonic();
    world.store.enqueue(vec![job("slow").with_parent("second")]).await.unwrap();
    while started.lock().unwrap().is_none() {
        tick(&world.clock, Duration::from_millis(500)).await;
        assert!(world.clock.monotonic() < enqueued_at + 40 * SLOW, "{slots} slots: it never starts");
    }
    let started_at = started.lock().unwrap().unwrap();
    drop(node);
    started_at - enqueued_at
}

#[tokio::test]
async fn a_second_parent_waits_for_one_job_at_most() {
    for slots in [1, 2, 3, 4, 16] {
        let waited = wait_behind_a_thousand(slots).await;
        assert!(waited <= SLOW + Duration::from_secs(1), "{slots} slots: {waited:?}");
    }
}

#[tokio::test]
async fn many_outcomes_are_one_write() {
    const JOBS: usize = 3000;
    let world = World::new();
    let store = DyingStore::mortal(world.store.clone());
    let ran = Arc::new(AtomicUsize::new(0));
    let quick = Act::new("quick", Lane::Notification, {
        let ran = ran.clone();
        move |_, _| {
            ran.fetch_add(1, Ordering::SeqCst);
            async { Ok(Handled::Succeeded) }
        }
    });
    let settings = |settings: &mut Settings| {
        settings.roles = vec![Role::Worker];
        settings.lanes.insert(Lane::Notification, 200);
    };
    world.store.enqueue((0..JOBS).map(|_| job("quick")).collect()).await.unwrap();
    let node = world.builder_on(store.clone()).handler(quick).settings(settings).build().unwrap().start();
    let left = || async { world.store.stats().await.unwrap().by_kind.get("quick").copied().unwrap_or_default() };
    while left().await != <_>::default() {
        tick(&world.clock, Duration::from_millis(1)).await;
    }
    assert_eq!(ran.load(Ordering::SeqCst), JOBS);
    let done = JobFilter { state: Some(JobState::Succeeded), limit: 1000, ..JobFilter::default() };
    assert_eq!(world.store.jobs(&done).await.unwrap().len(), 1000);
    assert!(store.writes() <= JOBS / 20, "{} writes", store.writes());
    world.stop(node).await;
}

#[tokio::test]
async fn without_delay_each_outcome_is_stored_before_the_slot_is_free() {
    let world = World::new();
    let store = DyingStore::mortal(world.store.clone());
    let quick = Act::new("quick", Lane::Notification, |_, _| async { Ok(Handled::Succeeded) });
    let settings = |settings: &mut Settings| {
        settings.roles = vec![Role::Worker];
        settings.settle_delay = Duration::ZERO;
    };
    let node = world.builder_on(store.clone()).handler(quick).settings(settings).build().unwrap().start();
    world.store.enqueue((0..50).map(|_| job("quick")).collect()).await.unwrap();
    let left = || async { world.store.stats().await.unwrap().by_kind.get("quick").copied().unwrap_or_default() };
    while left().await != <_>::default() {
        tick(&world.clock, Duration::from_millis(1)).await;
    }
    assert!(store.writes() >= 50, "{} writes", store.writes());
    world.stop(node).await;
}

#[tokio::test]
async fn what_was_claimed_ahead_goes_back_when_the_node_stops() {
    let world = World::new();
    let clock = world.clock.clone();
    // Quick until told otherwise: then it runs until it is asked to stop.
    let slow = Arc::new(AtomicUsize::new(0));
    let act = Act::new("changing", Lane::Notification, {
        let slow = slow.clone();
        move |_, cx| {
            let slow = slow.load(Ordering::SeqCst) > 0;
            async move {
                if slow {
                    cx.cx.cancel.cancelled().await;
                    cx.cx.check_cancelled("changing")?;
                }
                Ok(Handled::Succeeded)
            }
        }
    });
    let settings = |settings: &mut Settings| {
        settings.roles = vec![Role::Worker];
        settings.poll_interval = Duration::from_secs(30);
    };
    let node = world.builder().handler(act).settings(settings).build().unwrap().start();
    world.store.enqueue((0..100).map(|_| job("changing")).collect()).await.unwrap();
    let depth = || async { world.store.stats().await.unwrap().by_kind.get("changing").copied().unwrap_or_default() };
    while depth().await != <_>::default() {
        tick(&clock, Duration::from_millis(1)).await;
    }
    slow.store(1, Ordering::SeqCst);
    world.store.enqueue((0..100).map(|_| job("changing")).collect()).await.unwrap();
    tick(&clock, Duration::from_millis(1)).await;
    let busy = depth().await.in_progress;
    assert!(busy > 4, "nothing was claimed ahead: {busy}");
    world.stop(node).await;
    assert_eq!((depth().await.pending, depth().await.in_progress), (100, 0));
    let waiting = JobFilter { state: Some(JobState::Pending), limit: 200, ..JobFilter::default() };
    for job in world.store.jobs(&waiting).await.unwrap() {
        assert_eq!((job.attempt, job.attempts.len()), (0, 0));
    }
}
