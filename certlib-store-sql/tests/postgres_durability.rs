#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "postgres_support/mod.rs"]
mod support;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certlib_core::error::{Effect, Error};
use certlib_core::queue::{ClaimRequest, JobQueue, JobState, Lane, Outcome, Settlement};
use certlib_core::store::{Store, StoreExt, TypedQuery, WriteBatch};
use certlib_store_sql::{PostgresOptions, PostgresStore};
use certlib_testkit::counterpart::Postgres;
use tokio::task::JoinSet;

use self::support::{Item, assert_intact, eventually, job, number, raw, secret};

const LEASE: Duration = Duration::from_secs(60);

/// What was acknowledged, and what was only asked for, while the server was killed.
#[derive(Debug, Default)]
struct Ledger {
    committed: HashSet<i64>,
    /// Asked for, without an answer.
    in_doubt: HashSet<i64>,
    /// Said to have had no effect.
    refused: HashSet<i64>,
    settled: HashMap<String, u32>,
}

struct Load {
    stop: AtomicBool,
    next: AtomicI64,
    ledger: Mutex<Ledger>,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Commits two records and a job of the same number each time.
    async fn write(&self, store: &PostgresStore) {
        while self.goes_on() {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let batch = WriteBatch::new().insert(&Item::new(format!("{n}-left"), n)).unwrap();
            let batch = batch.insert(&Item::new(format!("{n}-right"), n)).unwrap();
            let outcome = store.commit(batch.enqueue(job().with_key(n.to_string()))).await;
            let mut ledger = self.ledger.lock().unwrap();
            match outcome {
                Ok(_) => ledger.committed.insert(n),
                Err(error) if error.effect() == Effect::None => ledger.refused.insert(transient(n, &error)),
                Err(error) => ledger.in_doubt.insert(transient(n, &error)),
            };
        }
    }

    /// Claims and settles.
    async fn work(&self, store: &PostgresStore, worker: usize) {
        while self.goes_on() {
            let request = ClaimRequest::new(Lane::Issuance, format!("worker-{worker}"), 5, LEASE);
            let jobs = match store.claim(&request).await {
                Ok(jobs) => jobs,
                Err(error) => {
                    transient(0, &error);
                    continue;
                }
            };
            let settle = |job: &certlib_core::queue::Job| Settlement {
                claim: job.claim(),
                outcome: Outcome::Succeeded,
                duration: Duration::ZERO,
            };
            let Ok(accepted) = store.settle(jobs.iter().map(settle).collect()).await else { continue };
            let mut ledger = self.ledger.lock().unwrap();
            for (job, _) in jobs.iter().zip(accepted).filter(|(_, accepted)| *accepted) {
                *ledger.settled.entry(job.id.clone()).or_default() += 1;
            }
        }
    }
}

/// What goes wrong while the server is away must be worth another try.
fn transient(n: i64, error: &Error) -> i64 {
    assert!(error.class().is_retryable(), "{error:?}");
    n
}

/// The server is killed in the middle of things, three times. Whatever was acknowledged is there, nothing is there
/// twice or by half, and what was said to have had no effect had none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill() {
    if support::left_out().await {
        return;
    }
    let mut server = Postgres::builder().durable().start().await.unwrap();
    let options = PostgresOptions::new().with_connect_timeout(Duration::from_secs(2));
    let store = PostgresStore::connect(&secret(&server.url()), options).await.unwrap();
    let load = Arc::new(Load { stop: AtomicBool::new(false), next: AtomicI64::new(1), ledger: Mutex::default() });
    let mut tasks = JoinSet::new();
    for worker in 0..6 {
        let (load, store) = (load.clone(), store.clone());
        tasks.spawn(async move {
            match worker % 3 {
                0 => load.work(&store, worker).await,
                _ => load.write(&store).await,
            }
        });
    }
    let mut before = 0;
    for _ in 0..3 {
        let progress = async || {
            let ledger = load.ledger.lock().unwrap();
            (ledger.committed.len() > before + 60).then_some(ledger.committed.len())
        };
        before = eventually("progress", progress).await;
        server.kill();
        server.resume().await.unwrap();
    }
    let progress = async || (load.ledger.lock().unwrap().committed.len() > before + 30).then_some(());
    eventually("progress after the last kill", progress).await;
    load.stop.store(true, Ordering::Relaxed);
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }

    let items = store.list_all(TypedQuery::<Item>::new()).await.unwrap();
    let stored: HashSet<i64> = items.iter().map(|item| item.number).collect();
    let ledger = std::mem::take(&mut *load.ledger.lock().unwrap());
    assert_eq!(items.len(), 2 * stored.len(), "left and right, or neither");
    assert!(ledger.committed.is_subset(&stored), "lost: {:?}", ledger.committed.difference(&stored));
    assert!(ledger.refused.is_disjoint(&stored), "refused and stored: {:?}", ledger.refused.intersection(&stored));
    let known: HashSet<i64> = ledger.committed.union(&ledger.in_doubt).copied().collect();
    assert!(stored.is_subset(&known));
    let mut connection = raw(&server.url()).await;
    let jobs = number(&mut connection, "SELECT count(*) FROM certlib_jobs").await;
    assert_eq!(jobs, i64::try_from(stored.len()).unwrap(), "each with its job");
    for (id, times) in &ledger.settled {
        assert_eq!((*times, store.job(id).await.unwrap().unwrap().state), (1, JobState::Succeeded), "{id}");
    }
    assert!(ledger.settled.len() > 30, "{}", ledger.settled.len());
    store.close().await;
    assert_intact(&server.url()).await;
}
