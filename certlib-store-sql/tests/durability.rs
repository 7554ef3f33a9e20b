#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use certlib_core::lock::{LeaderLock, LeaseRequest};
use certlib_core::queue::{ClaimRequest, JobFilter, JobQueue, JobState, Lane, Outcome, Settlement};
use certlib_core::store::{Store, StoreExt, TypedQuery, WriteBatch};
use certlib_store_sql::SqliteStore;
use tempfile::TempDir;

use self::support::{Item, Process, assert_intact, child_database, job, open, say};

const LEASE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reopened_store_knows_everything() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("certlib.db");
    let store = open(&path).await;
    let mut item = store.insert(Item::new("a", 1)).await.unwrap();
    item.number = 7;
    store.update(&mut item).await.unwrap();
    let lease = store.acquire(&LeaseRequest::new("scheduler", "node", "", LEASE)).await.unwrap().unwrap();
    store.enqueue(vec![job().with_key("done"), job().with_key("waiting").with_delay(LEASE)]).await.unwrap();
    let running = store.claim(&ClaimRequest::new(Lane::Issuance, "worker", 10, LEASE)).await.unwrap().remove(0);
    let before = store.jobs(&JobFilter::default()).await.unwrap();
    store.close().await;
    assert!(!path.with_extension("db-wal").exists(), "a clean end leaves one file");

    let store = open(&path).await;
    let found = store.list_all(TypedQuery::<Item>::new().equal("number", 7_i64)).await.unwrap();
    assert_eq!((found.len(), found[0].revision, &found[0].record), (1, 2, &item.record));
    assert_eq!(store.jobs(&JobFilter::default()).await.unwrap(), before);
    assert!(store.renew(&lease, LEASE).await.unwrap());
    assert_eq!(store.acquire(&LeaseRequest::new("scheduler", "other", "", LEASE)).await.unwrap(), None);
    let done = Settlement { claim: running.claim(), outcome: Outcome::Succeeded, duration: LEASE };
    assert_eq!(store.settle(vec![done]).await.unwrap(), [true]);
    assert!(store.release(&lease).await.unwrap());
    store.close().await;

    let store = open(&path).await;
    assert_eq!(store.job(&running.id).await.unwrap().unwrap().state, JobState::Succeeded);
    assert!(
        store.acquire(&LeaseRequest::new("scheduler", "other", "", LEASE)).await.unwrap().unwrap().epoch > lease.epoch
    );
    assert!(store.enqueue(vec![job().with_key("waiting")]).await.unwrap()[0].deduplicated);
}

/// Commits until it is killed: each commit two records and a job of the same number, and then says so.
async fn commit_until_killed(path: &Path) {
    let store = open(path).await;
    let next = Arc::new(AtomicI64::new(highest(&store).await + 1));
    let writers = (0..8).map(|_| {
        let (store, next) = (store.clone(), next.clone());
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let batch = WriteBatch::new().insert(&Item::new(format!("{number}-left"), number)).unwrap();
                let batch = batch.insert(&Item::new(format!("{number}-right"), number)).unwrap();
                store.commit(batch.enqueue(job().with_key(number.to_string()))).await.unwrap();
                say(&number.to_string());
            }
        })
    });
    futures::future::join_all(writers).await;
}

async fn highest(store: &SqliteStore) -> i64 {
    let last = store.list(TypedQuery::<Item>::new().order_by("number").descending().limit(1)).await.unwrap();
    last.records.first().map_or(0, |item| item.number)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill() {
    if let Some(path) = child_database() {
        return commit_until_killed(&path).await;
    }
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("certlib.db");
    let mut acknowledged: HashSet<i64> = HashSet::new();
    for round in 0..8 {
        let mut child = Process::start("what_was_acknowledged_survives_a_kill", &path);
        let mut said: Vec<_> =
            (0..20 + 17 * round).map(|_| child.next_line().expect("it goes on until it is killed")).collect();
        said.extend(child.kill());
        acknowledged.extend(said.iter().map(|line| line.parse::<i64>().unwrap()));

        let store = open(&path).await;
        let items = store.list_all(TypedQuery::<Item>::new()).await.unwrap();
        let stored: HashSet<i64> = items.iter().map(|item| item.number).collect();
        assert_eq!(items.len(), 2 * stored.len(), "left and right, or neither");
        assert!(acknowledged.is_subset(&stored), "lost: {:?}", acknowledged.difference(&stored));
        let pending = store.stats().await.unwrap().by_kind["test_job"].pending;
        assert_eq!(pending, stored.len() as u64, "each with its job");
        store.close().await;
        assert_intact(&path).await;
    }
    assert!(acknowledged.len() >= 8 * 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_may_be_killed_anywhere() {
    if let Some(path) = child_database() {
        say("begin");
        open(&path).await;
        return;
    }
    let directory = TempDir::new().unwrap();
    for round in 0..20_u32 {
        let path = directory.path().join(format!("{round}.db"));
        let mut child = Process::start("a_migration_may_be_killed_anywhere", &path);
        assert_eq!(child.next_line().as_deref(), Some("begin"));
        // Somewhere between its first and its last statement: what happens to be reached is what is tested.
        for _ in 0..round * 2000 {
            std::hint::spin_loop();
        }
        child.kill();
        let store = open(&path).await;
        store.insert(Item::new("a", 1)).await.unwrap();
        store.close().await;
        assert_intact(&path).await;
    }
}

/// Adds to a shared sum and works off shared jobs, naming each.
async fn compete(path: &Path) {
    let store = open(path).await;
    for _ in 0..25 {
        loop {
            let added = match store.find::<Item>("sum").await.unwrap() {
                None => store.insert(Item::new("sum", 1)).await.map(drop),
                Some(mut sum) => {
                    sum.number += 1;
                    store.update(&mut sum).await
                }
            };
            match added {
                Ok(()) => break,
                Err(error) => assert!(error.is_conflict(), "{error:?}"),
            }
        }
    }
    loop {
        let jobs = store.claim(&ClaimRequest::new(Lane::Issuance, "worker", 3, LEASE)).await.unwrap();
        if jobs.is_empty() {
            break;
        }
        for job in jobs {
            let done = Settlement { claim: job.claim(), outcome: Outcome::Succeeded, duration: Duration::ZERO };
            assert_eq!(store.settle(vec![done]).await.unwrap(), [true]);
            say(&job.id);
        }
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_share_a_file() {
    if let Some(path) = child_database() {
        return compete(&path).await;
    }
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("certlib.db");
    let store = open(&path).await;
    let enqueued: HashSet<String> =
        store.enqueue((0..60).map(|_| job()).collect()).await.unwrap().into_iter().map(|one| one.id).collect();
    let children: Vec<_> = (0..3).map(|_| Process::start("processes_share_a_file", &path)).collect();
    let worked: Vec<String> = children.into_iter().flat_map(Process::finish).collect();
    assert_eq!(worked.len(), enqueued.len(), "each job once");
    assert_eq!(worked.into_iter().collect::<HashSet<_>>(), enqueued);
    assert_eq!(store.load::<Item>("sum").await.unwrap().number, 75);
    store.close().await;
    assert_intact(&path).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_may_create_the_file_together() {
    if let Some(path) = child_database() {
        let store = open(&path).await;
        let id = std::process::id().to_string();
        store.insert(Item::new(&*id, 1)).await.unwrap();
        store.close().await;
        return say(&id);
    }
    let directory = TempDir::new().unwrap();
    for round in 0..4 {
        let path = directory.path().join(format!("{round}.db"));
        let children: Vec<_> =
            (0..4).map(|_| Process::start("processes_may_create_the_file_together", &path)).collect();
        let said: Vec<String> = children.into_iter().flat_map(Process::finish).collect();
        assert_eq!(said.len(), 4);
        let store = open(&path).await;
        for id in said {
            store.load::<Item>(&id).await.unwrap();
        }
        store.close().await;
        assert_intact(&path).await;
    }
}
