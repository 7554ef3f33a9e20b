//! Losing the primary, politely or not, while work is under way: nothing that was acknowledged is lost, nothing is
//! settled twice, and the work goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use certlib_core::queue::{JobQueue, JobState};
use certlib_core::store::{Store, StoreExt, TypedQuery, WriteBatch};
use certlib_core::{Effect, Error, ErrorClass};
use certlib_store_mongo::{MongoOptions, MongoStore};
use certlib_testkit::counterpart::MongoReplicaSet;
use certlib_testkit::require;

use self::support::{Item, LEASE, job, open, request, success};

/// What was acknowledged.
#[derive(Default)]
struct Ledger {
    enqueued: Mutex<HashSet<String>>,
    committed: Mutex<HashSet<i64>>,
    /// How often each job was told that its settlement was accepted.
    settled: Mutex<HashMap<String, u32>>,
    /// How much was acknowledged so far.
    progress: AtomicU64,
    stop: AtomicBool,
    failures: AtomicU64,
}

impl Ledger {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn advance(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// A failure has to be one that a caller may retry.
    async fn failed(&self, error: Error) {
        assert!(error.class().is_retryable(), "{error:?}");
        self.failures.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    /// Waits until more is acknowledged than at the time of the call.
    async fn await_progress(&self, by: u64) -> Duration {
        let (began, before) = (Instant::now(), self.progress.load(Ordering::Relaxed));
        while self.progress.load(Ordering::Relaxed) < before + by {
            assert!(began.elapsed() < Duration::from_secs(60), "no progress");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        began.elapsed()
    }
}

async fn enqueue(store: MongoStore, ledger: Arc<Ledger>) {
    while ledger.goes_on() {
        let jobs = vec![job(), job(), job()];
        match store.enqueue(jobs).await {
            Ok(enqueued) => {
                ledger.enqueued.lock().unwrap().extend(enqueued.into_iter().map(|one| one.id));
                ledger.advance();
            }
            Err(error) => ledger.failed(error).await,
        }
    }
}

async fn commit(store: MongoStore, ledger: Arc<Ledger>, from: i64) {
    for number in from.. {
        if !ledger.goes_on() {
            return;
        }
        let batch = WriteBatch::new().insert(&Item::new(format!("{number}-left"), number)).unwrap();
        let batch = batch.insert(&Item::new(format!("{number}-right"), number)).unwrap();
        match store.commit(batch).await {
            Ok(_) => {
                ledger.committed.lock().unwrap().insert(number);
                ledger.advance();
            }
            Err(error) => ledger.failed(error).await,
        }
    }
}

async fn work(store: MongoStore, ledger: Arc<Ledger>) {
    while ledger.goes_on() {
        let claimed = match store.claim(&request(5)).await {
            Ok(claimed) => claimed,
            Err(error) => {
                ledger.failed(error).await;
                continue;
            }
        };
        if claimed.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        match store.settle(claimed.iter().map(success).collect()).await {
            Ok(answers) => {
                let mut settled = ledger.settled.lock().unwrap();
                for (job, _) in claimed.iter().zip(answers).filter(|(_, accepted)| *accepted) {
                    *settled.entry(job.id.clone()).or_default() += 1;
                }
                ledger.advance();
            }
            // The leases of these pass, and the reaper brings them back.
            Err(error) => ledger.failed(error).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_with_the_primary() {
    let set = require!(MongoReplicaSet::start(3).await);
    let store = open(&set, "certlib").await;
    let ledger = Arc::new(Ledger::default());
    let mut tasks = Vec::new();
    for number in 0..2 {
        tasks.push(tokio::spawn(enqueue(store.clone(), ledger.clone())));
        tasks.push(tokio::spawn(work(store.clone(), ledger.clone())));
        tasks.push(tokio::spawn(commit(store.clone(), ledger.clone(), number * 1_000_000)));
    }
    ledger.await_progress(30).await;
    for kill in [false, true] {
        let former = if kill { set.kill_primary().await.unwrap() } else { set.step_down().await.unwrap() };
        let gap = ledger.await_progress(30).await;
        assert!(gap < Duration::from_secs(30), "work goes on after {gap:?}");
        if kill {
            set.start_member(former).await.unwrap();
            ledger.await_progress(30).await;
        }
    }
    ledger.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    finish(&store, &ledger).await;
}

/// Works off what is left, and compares what is stored with what was acknowledged.
async fn finish(store: &MongoStore, ledger: &Ledger) {
    loop {
        let claimed = store.claim(&request(500)).await.unwrap();
        if claimed.is_empty() {
            break;
        }
        let answers = store.settle(claimed.iter().map(success).collect()).await.unwrap();
        assert!(answers.iter().all(|accepted| *accepted));
        let mut settled = ledger.settled.lock().unwrap();
        claimed.iter().for_each(|job| *settled.entry(job.id.clone()).or_default() += 1);
    }
    let enqueued = ledger.enqueued.lock().unwrap().clone();
    let settled = ledger.settled.lock().unwrap().clone();
    assert!(settled.values().all(|times| *times == 1), "nothing is settled twice");
    let mut in_doubt = 0;
    for id in &enqueued {
        let job = store.job(id).await.unwrap().unwrap_or_else(|| panic!("{id} was acknowledged and is gone"));
        match job.state {
            // Accepted without the answer having arrived counts as well.
            JobState::Succeeded => {}
            // Claimed or settled by a call whose answer was lost: the reaper takes it back when its lease has passed.
            JobState::InProgress => in_doubt += 1,
            state => panic!("{id} is {state:?}"),
        }
    }
    for id in settled.keys() {
        let state = store.job(id).await.unwrap().unwrap().state;
        assert_eq!(state, JobState::Succeeded, "what was accepted stays accepted");
    }
    // At most a batch for each call that failed.
    assert!(in_doubt <= 5 * ledger.failures.load(Ordering::Relaxed), "{in_doubt} jobs are stuck");

    let items = store.list_all(TypedQuery::<Item>::new()).await.unwrap();
    let stored: HashSet<i64> = items.iter().map(|item| item.number).collect();
    assert_eq!(items.len(), 2 * stored.len(), "left and right, or neither");
    let committed = ledger.committed.lock().unwrap();
    assert!(committed.is_subset(&stored), "lost: {:?}", committed.difference(&stored));
    assert!(committed.len() > 20 && enqueued.len() > 100 && settled.len() > 100);
}

/// A primary that neither answers nor closes its connections does not hold a call for longer than it may take, and the
/// set goes on without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_hangs_is_left_behind() {
    let set = require!(MongoReplicaSet::start(3).await);
    let options = MongoOptions::new().with_database("certlib").with_operation_timeout(Duration::from_secs(3));
    let store = MongoStore::connect(&set.url().into(), options).await.unwrap();
    store.insert(Item::new("before", 1)).await.unwrap();
    let primary = set.primary().await.unwrap();
    set.pause_member(primary).unwrap();
    let began = Instant::now();
    let error = store.insert(Item::new("during", 1)).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!((error.class(), error.effect()), (ErrorClass::Network, Effect::Possible), "{error:?}");
    let deadline = Instant::now() + Duration::from_secs(60);
    for attempt in 0.. {
        match store.commit(WriteBatch::new().put(&Item::new("after", attempt)).unwrap()).await {
            Ok(_) => break,
            Err(error) => {
                assert!(error.class().is_retryable(), "{error:?}");
                assert!(Instant::now() < deadline, "{error:?}");
            }
        }
    }
    assert_ne!(set.primary().await.unwrap(), primary);
    set.resume_member(primary).unwrap();
    store.load::<Item>("before").await.unwrap();
    store.load::<Item>("after").await.unwrap();
}

/// Without a majority nothing is acknowledged; with it, everything goes on without a new store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_outlives_its_servers() {
    let set = require!(MongoReplicaSet::start(1).await);
    let options = MongoOptions::new()
        .with_database("certlib")
        .with_server_selection_timeout(Duration::from_millis(300))
        .with_operation_timeout(Duration::from_secs(2));
    let store = MongoStore::connect(&set.url().into(), options).await.unwrap();
    store.enqueue(vec![job()]).await.unwrap();
    let claimed = store.claim(&request(1)).await.unwrap().remove(0);
    let mut wakeups = store.wakeups();
    wakeups.mark_unchanged();

    set.stop_member(0).await.unwrap();
    let error = store.insert(Item::new("away", 1)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Network, "{error:?}");
    assert_eq!(store.get("item", "away").await.unwrap_err().class(), ErrorClass::Network);
    set.start_member(0).await.unwrap();

    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = store.extend(&[claimed.claim()], LEASE).await {
        assert!(error.class().is_retryable() && Instant::now() < deadline, "{error:?}");
    }
    assert_eq!(store.settle(vec![success(&claimed)]).await.unwrap(), [true]);
    let heard = tokio::time::timeout(Duration::from_secs(30), wakeups.changed()).await;
    heard.expect("whoever listens again looks for what it missed").unwrap();
}
