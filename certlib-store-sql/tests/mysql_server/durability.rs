use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certlib_core::error::Effect;
use certlib_core::lock::{LeaderLock, LeaseRequest};
use certlib_core::queue::{ClaimRequest, JobFilter, JobQueue, JobState, Lane, Outcome, Settlement};
use certlib_core::store::{Store, StoreExt, TypedQuery, WriteBatch};
use certlib_store_sql::{MysqlOptions, MysqlStore};
use certlib_testkit::counterpart::Mariadb;
use certlib_testkit::process::{START_LIMIT, poll_until};
use certlib_testkit::require;
use sqlx::Row;

use crate::mysql_support::{Database, raw, secret};
use crate::support::{Item, job};

const LEASE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reopened_store_knows_everything() {
    let database = require!(Database::fresh().await);
    let store = database.open().await;
    let mut item = store.insert(Item::new("a", 1)).await.unwrap();
    item.number = 7;
    store.update(&mut item).await.unwrap();
    store.enqueue(vec![job().with_key("done"), job().with_key("waiting").with_delay(LEASE)]).await.unwrap();
    let claim = ClaimRequest::new(Lane::Issuance, "worker", 10, LEASE);
    let running = store.claim(&claim).await.unwrap().remove(0);
    let before = store.jobs(&JobFilter::default()).await.unwrap();
    store.close().await;
    assert_eq!(store.find::<Item>("a").await.unwrap_err().code(), "store_closed");
    let request = LeaseRequest::new("leader", "node", "x", LEASE);
    assert_eq!(store.acquire(&request).await.unwrap_err().code(), "store_closed");

    let store = database.open().await;
    let found = store.list_all(TypedQuery::<Item>::new().equal("number", 7_i64)).await.unwrap();
    assert_eq!((found.len(), found[0].revision, &found[0].record), (1, 2, &item.record));
    assert_eq!(store.jobs(&JobFilter::default()).await.unwrap(), before);
    let done = Settlement { claim: running.claim(), outcome: Outcome::Succeeded, duration: LEASE };
    assert_eq!(store.settle(vec![done]).await.unwrap(), [true]);
    assert_eq!(store.job(&running.id).await.unwrap().unwrap().state, JobState::Succeeded);
    assert!(store.enqueue(vec![job().with_key("waiting")]).await.unwrap()[0].deduplicated);
}

/// What the writers were told.
#[derive(Default)]
struct Told {
    /// Acknowledged.
    kept: Mutex<HashSet<i64>>,
    /// Failed, and nobody knows whether they happened.
    doubtful: Mutex<HashSet<i64>>,
    /// Failed for certain.
    undone: Mutex<HashSet<i64>>,
    /// Jobs whose settlement was acknowledged.
    settled: Mutex<HashSet<String>>,
}

/// Commits two records and a job of the same number, and adds one to a sum, until told to stop.
async fn write_on(store: MysqlStore, next: Arc<AtomicI64>, stop: Arc<AtomicBool>, told: Arc<Told>) {
    while !stop.load(Ordering::Relaxed) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let batch = WriteBatch::new().insert(&Item::new(format!("{number}-left"), number)).unwrap();
        let batch = batch.insert(&Item::new(format!("{number}-right"), number)).unwrap();
        match store.commit(batch.enqueue(job().with_key(number.to_string()))).await {
            Ok(_) => told.kept.lock().unwrap().insert(number),
            Err(error) if error.effect() == Effect::Possible => told.doubtful.lock().unwrap().insert(number),
            Err(_) => told.undone.lock().unwrap().insert(number),
        };
        let claim = ClaimRequest::new(Lane::Issuance, "worker", 2, LEASE);
        for job in store.claim(&claim).await.unwrap_or_default() {
            let done = Settlement { claim: job.claim(), outcome: Outcome::Succeeded, duration: LEASE };
            if let Ok(answers) = store.settle(vec![done]).await {
                assert_eq!(answers, [true], "nobody else has this claim");
                told.settled.lock().unwrap().insert(job.id);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_killed_server() {
    let mut server = require!(Mariadb::start().await);
    let url = server.create_database("certlib").await.unwrap();
    let told = Arc::new(Told::default());
    let next = Arc::new(AtomicI64::new(0));
    for round in 1..=4 {
        let options = MysqlOptions::new().with_acquire_timeout(Duration::from_secs(1));
        let store = MysqlStore::connect(&secret(&url), options).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> =
            (0..8).map(|_| tokio::spawn(write_on(store.clone(), next.clone(), stop.clone(), told.clone()))).collect();
        let before = told.kept.lock().unwrap().len();
        poll_until("load", START_LIMIT, async || (told.kept.lock().unwrap().len() > before + 40).then_some(()))
            .await
            .unwrap();
        server.kill();
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        server.restart().await.unwrap();
        let store = MysqlStore::connect(&secret(&url), MysqlOptions::new()).await.unwrap();
        let items = store.list_all(TypedQuery::<Item>::new()).await.unwrap();
        let ids: HashSet<&str> = items.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids.len(), items.len());
        let numbers: HashSet<i64> = items.iter().map(|item| item.number).collect();
        let kept = told.kept.lock().unwrap().clone();
        assert!(kept.is_subset(&numbers), "round {round} lost {:?}", kept.difference(&numbers));
        assert!(numbers.is_disjoint(&told.undone.lock().unwrap()), "what is said to be undone is undone");
        let possible: HashSet<i64> = kept.union(&told.doubtful.lock().unwrap()).copied().collect();
        assert!(numbers.is_subset(&possible));
        for number in &numbers {
            assert!(ids.contains(&*format!("{number}-left")) && ids.contains(&*format!("{number}-right")));
        }
        assert!(items.iter().all(|item| item.revision == 1), "nothing was applied twice");
        let mut connection = raw(&url).await;
        let row = sqlx::query("SELECT COUNT(*), COUNT(DISTINCT natural_key) FROM certlib_jobs")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let jobs = (row.get::<i64, _>(0), row.get::<i64, _>(1));
        assert_eq!(jobs, (numbers.len() as i64, numbers.len() as i64), "each with its job");
        let settled = told.settled.lock().unwrap().clone();
        for id in settled {
            assert_eq!(store.job(&id).await.unwrap().unwrap().state, JobState::Succeeded);
        }
        let orphans = "SELECT COUNT(*) FROM certlib_record_index AS i
                       LEFT JOIN certlib_records AS r ON r.kind = i.kind AND r.id = i.id WHERE r.id IS NULL";
        let row = sqlx::query(orphans).fetch_one(&mut connection).await.unwrap();
        assert_eq!(row.get::<i64, _>(0), 0, "every index entry has its record");
        store.close().await;
    }
    assert!(!told.settled.lock().unwrap().is_empty());
}
