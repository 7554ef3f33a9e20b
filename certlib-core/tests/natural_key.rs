//! One active job for each natural key, however many enqueue it at the same time; and no enqueue is in vain.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use certlib_core::clock::SystemClock;
use certlib_core::memory::MemoryStore;
use certlib_core::queue::{JobFilter, Lane};
use certlib_core::runtime::{Handled, Role, Runtime, Settings};
use certlib_core::secret::{Keyring, KeyringEnvelope};
use certlib_core::store::{Condition, SharedStore, WriteBatch};

use crate::common::jobs::{Act, job};

const KEYS: usize = 50;
const NODES: usize = 2;
const THREADS: usize = 16;
const ENQUEUES: usize = 2000;

#[derive(Default)]
struct Key {
    /// How much was asked for, by enqueues that were committed.
    wanted: AtomicU64,
    /// How much of that the latest run knew of.
    seen: AtomicU64,
    running: AtomicU64,
    starts: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn never_two_active_and_every_enqueue_is_followed_by_a_start() {
    let store: SharedStore = Arc::new(MemoryStore::new(SystemClock::shared()));
    let keys: Arc<Vec<Key>> = Arc::new((0..KEYS).map(|_| Key::default()).collect());
    let twice = Arc::new(AtomicBool::new(false));
    let envelope = Arc::new(KeyringEnvelope::new(Keyring::generate().unwrap()));
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        let (keys, twice) = (keys.clone(), twice.clone());
        let act = Act::new("keyed", Lane::Notification, move |job, _| {
            let (keys, twice) = (keys.clone(), twice.clone());
            async move {
                let key = &keys[job.key.as_deref().unwrap().parse::<usize>().unwrap()];
                if key.running.fetch_add(1, Ordering::SeqCst) > 0 {
                    twice.store(true, Ordering::SeqCst);
                }
                key.starts.fetch_add(1, Ordering::SeqCst);
                key.seen.store(key.wanted.load(Ordering::SeqCst), Ordering::SeqCst);
                tokio::task::yield_now().await;
                key.running.fetch_sub(1, Ordering::SeqCst);
                Ok(Handled::Succeeded)
            }
        });
        let settings = |settings: &mut Settings| {
            settings.roles = vec![Role::Worker];
            settings.lanes.insert(Lane::Notification, 16);
        };
        let runtime = Runtime::builder(store.clone(), envelope.clone()).handler(act).settings(settings);
        nodes.push(runtime.build().unwrap().start());
    }
    let refused = Arc::new(Mutex::new(Vec::new()));
    let threads: Vec<_> = (0..NODES * THREADS)
        .map(|thread| {
            let (store, keys, refused) = (store.clone(), keys.clone(), refused.clone());
            tokio::spawn(async move {
                for round in 0..ENQUEUES {
                    let number = (thread * 31 + round * 7) % KEYS;
                    let new = job("keyed").with_key(number.to_string());
                    if round % 10 == 3 {
                        let id = new.id.clone();
                        let condition =
                            Condition::Record { kind: "project", id: "missing".to_owned(), revision: Some(1) };
                        let batch = WriteBatch::new().require(condition).enqueue(new);
                        assert!(store.commit(batch).await.unwrap_err().is_conflict());
                        refused.lock().unwrap().push(id);
                    } else {
                        keys[number].wanted.fetch_add(1, Ordering::SeqCst);
                        store.commit(WriteBatch::new().enqueue(new)).await.unwrap();
                    }
                    if round % 50 == 0 {
                        let same = JobFilter { key: Some(number.to_string()), limit: 20, ..JobFilter::default() };
                        let jobs = store.jobs(&same).await.unwrap();
                        let active = jobs.iter().filter(|job| job.state.is_active()).count();
                        assert!(active <= 1, "{active} active jobs of key {number}");
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.await.unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while store.stats().await.unwrap().by_kind.contains_key("keyed") {
        assert!(Instant::now() < deadline, "it never ends");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!twice.load(Ordering::SeqCst), "two jobs of one key ran at the same time");
    for (number, key) in keys.iter().enumerate() {
        let (wanted, seen) = (key.wanted.load(Ordering::SeqCst), key.seen.load(Ordering::SeqCst));
        assert_eq!(seen, wanted, "key {number}: what was enqueued last was never run");
        assert!(key.starts.load(Ordering::SeqCst) > 0);
    }
    let refused = refused.lock().unwrap().clone();
    assert_eq!(refused.len(), NODES * THREADS * ENQUEUES / 10);
    for id in refused {
        assert!(store.job(&id).await.unwrap().is_none(), "a refused commit enqueued a job");
    }
    for node in nodes {
        node.shutdown().await;
    }
}
