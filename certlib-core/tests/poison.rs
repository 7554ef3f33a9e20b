//! A job that takes its worker down with it is tried three times, and harms the others little.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certlib_core::clock::Clock as _;
use certlib_core::conformance::dying::DyingStore;
use certlib_core::queue::{DEAD_LETTER_EVENT, JobState, Lane, NewJob};
use certlib_core::runtime::{Handled, Role, RunningRuntime, Settings};
use serde_json::json;

use crate::common::World;
use crate::common::jobs::{Act, job, tick};

const STEP: Duration = Duration::from_millis(500);

/// A process: what runs on its store is gone when that is dead.
struct Process {
    store: Arc<DyingStore>,
    _node: RunningRuntime,
}

#[derive(Default)]
struct Counts {
    poison_starts: AtomicUsize,
    done: AtomicUsize,
}

fn start(world: &World, counts: &Arc<Counts>) -> Process {
    let store = DyingStore::mortal(world.store.clone());
    let poison = Act::new("poison", Lane::Discovery, {
        let (store, counts) = (store.clone(), counts.clone());
        move |_, _| {
            counts.poison_starts.fetch_add(1, Ordering::SeqCst);
            store.kill();
            std::future::pending()
        }
    });
    let useful = Act::new("useful", Lane::Notification, {
        let (clock, counts, store) = (world.clock.clone(), counts.clone(), store.clone());
        move |_, _| {
            let (clock, counts, store) = (clock.clone(), counts.clone(), store.clone());
            async move {
                clock.sleep(Duration::from_secs(1)).await;
                if store.is_dead() {
                    return std::future::pending().await;
                }
                counts.done.fetch_add(1, Ordering::SeqCst);
                Ok(Handled::Succeeded)
            }
        }
    });
    let settings = |settings: &mut Settings| {
        settings.roles = vec![Role::Worker];
        settings.job_lease = Duration::from_secs(8);
    };
    let builder = world.builder_on(store.clone()).handler(poison).handler(useful).settings(settings);
    Process { store, _node: builder.build().unwrap().start() }
}

/// How many useful jobs two processes do in a given time, with or without a poisonous one among them; processes that
/// die are started again at once.
async fn run(poisoned: bool) -> (usize, usize, Option<String>) {
    const TIME: Duration = Duration::from_secs(480);
    let world = World::new();
    let counts = Arc::new(Counts::default());
    world.store.enqueue((0..6000).map(|_| job("useful").with_project("")).collect()).await.unwrap();
    let poison = NewJob::new("poison", Lane::Discovery, json!({})).with_project("shop");
    let poison_id = poison.id.clone();
    if poisoned {
        world.store.enqueue(vec![poison]).await.unwrap();
    }
    let processes = Mutex::new(vec![start(&world, &counts), start(&world, &counts)]);
    while world.clock.monotonic() < TIME {
        tick(&world.clock, STEP).await;
        for process in processes.lock().unwrap().iter_mut().filter(|process| process.store.is_dead()) {
            *process = start(&world, &counts);
        }
    }
    let fate = poisoned.then_some(poison_id);
    if let Some(id) = &fate {
        let job = world.store.job(id).await.unwrap().unwrap();
        assert_eq!(job.state, JobState::DeadLetter);
        assert_eq!(job.attempts.last().unwrap().error.code, "poison");
        let client = world.builder().build().unwrap().client();
        let events = client.events("shop", Some(id), 10).await.unwrap();
        assert_eq!(events.iter().filter(|event| event.kind == DEAD_LETTER_EVENT).count(), 1);
    }
    (counts.done.load(Ordering::SeqCst), counts.poison_starts.load(Ordering::SeqCst), fate)
}

#[tokio::test]
async fn poison_starts_three_times_and_the_other_lanes_keep_their_pace() {
    let (healthy, _, _) = run(false).await;
    let (poisoned, starts, _) = run(true).await;
    assert_eq!(starts, 3);
    assert!(healthy > 2000, "{healthy}");
    assert!(poisoned * 10 >= healthy * 9, "{poisoned} jobs instead of {healthy}");
}
