use std::sync::Arc;
use std::time::Duration;

use certlib_core::error::ErrorClass;
use certlib_core::queue::{ClaimRequest, JobQueue, Lane, NewJob};
use certlib_core::store::{Condition, Record, Store, StoreExt, TypedQuery, WriteBatch};
use certlib_store_sql::{MysqlOptions, MysqlStore};
use certlib_testkit::counterpart::Mariadb;
use certlib_testkit::process::{START_LIMIT, poll_until};
use certlib_testkit::require;
use futures::future::join_all;

use crate::mysql_support::{Database, raw, secret};
use crate::support::{Item, job};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_is_found_again() {
    let mut server = require!(Mariadb::builder().option("innodb-flush-log-at-trx-commit", "2").start().await);
    let url = server.create_database("certlib").await.unwrap();
    let options = MysqlOptions::new().allow_unsafe_durability_for_tests().with_acquire_timeout(Duration::from_secs(2));
    let store = MysqlStore::connect(&secret(&url), options).await.unwrap();
    store.insert(Item::new("before", 1)).await.unwrap();
    server.kill();
    let error = store.find::<Item>("before").await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Network, "{error:?}");
    let error = store.insert(Item::new("during", 1)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Network, "{error:?}");
    server.restart().await.unwrap();
    assert_eq!(store.load::<Item>("before").await.unwrap().number, 1);
    assert!(store.find::<Item>("during").await.unwrap().is_none());

    // Politely too, and without a pause in between: old connections are not trusted.
    server.restart().await.unwrap();
    poll_until("a write", START_LIMIT, async || store.insert(Item::new("after", 1)).await.ok()).await.unwrap();
    store.enqueue(vec![job()]).await.unwrap();
    let claim = ClaimRequest::new(Lane::Issuance, "worker", 10, Duration::from_secs(60));
    assert_eq!(store.claim(&claim).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_connections_cost_no_read_and_no_transaction() {
    let database = require!(Database::fresh().await);
    let store = database.open().await;
    let lane = store.lane(Lane::Issuance).unwrap();
    store.insert(Item::new("a", 0)).await.unwrap();
    for round in 0..10_i64 {
        // All connections are open, and fresh enough to be trusted unasked.
        join_all((0..4).map(|_| store.find::<Item>("a"))).await;
        join_all((0..4).map(|_| lane.find::<Item>("a"))).await;
        database.kill("user = 'certlib'").await;
        assert_eq!(store.load::<Item>("a").await.unwrap().number, round);
        let mut item = lane.load::<Item>("a").await.unwrap();
        item.number += 1;
        lane.update(&mut item).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_somebody_keeps_locked_is_a_passing_trouble() {
    let database = require!(Database::fresh().await);
    let options = MysqlOptions::new().allow_unsafe_durability_for_tests().with_lock_timeout(Duration::from_secs(1));
    let store = MysqlStore::connect(&secret(&database.url), options).await.unwrap();
    store.insert(Item::new("a", 1)).await.unwrap();
    let mut other = raw(&database.url).await;
    sqlx::raw_sql("BEGIN; SELECT * FROM certlib_records FOR UPDATE").execute(&mut other).await.unwrap();
    let mut item = store.load::<Item>("a").await.unwrap();
    item.number = 2;
    let error = store.update(&mut item).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("lock_timeout", ErrorClass::IoTransient), "{error:?}");
    assert_eq!(error.effect(), certlib_core::error::Effect::None);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    store.update(&mut item).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_cross_each_other_all_succeed() {
    let database = require!(Database::fresh().await);
    let store = Arc::new(database.open().await);
    let names = ["a", "b", "c", "d", "e", "f"];
    let tasks = (0..12_usize).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..15 {
                // Each goes through the same records and keys in its own order.
                let mut order = names;
                order.rotate_left((n + round) % names.len());
                if n % 2 == 0 {
                    order.reverse();
                }
                let batch = order.into_iter().fold(WriteBatch::new(), |batch, name| {
                    let job = job().with_key(name);
                    batch.put(&Item::new(name, round as i64)).unwrap().enqueue(job)
                });
                store.commit(batch).await.unwrap();
                let jobs: Vec<NewJob> = names.iter().rev().map(|name| job().with_key(*name)).collect();
                store.enqueue(jobs).await.unwrap();
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
    let stats = store.stats().await.unwrap();
    assert_eq!(stats.by_kind["test_job"].pending, names.len() as u64);
    assert_eq!(store.load::<Item>("a").await.unwrap().revision, 180);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fits_no_packet_is_refused_by_name() {
    let database = require!(Database::fresh().await);
    let store = database.open().await;
    let error = store.insert(Item::sized("large", 20 * 1024 * 1024)).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("too_large", ErrorClass::Validation), "{error:?}");
    assert!(error.context().any(|pair| pair == ("setting", "max_allowed_packet")));
    store.insert(Item::sized("fits", 3 * 1024 * 1024)).await.unwrap();
    assert_eq!(store.load::<Item>("fits").await.unwrap().text.len(), 3 * 1024 * 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_exist_does_not_when_the_commit_is_done() {
    let database = require!(Database::fresh().await);
    let store = database.open().await;
    for round in 0..40 {
        // Each writes what the other wants not to be there.
        let batch = |absent: &str, written: &str| {
            let condition = Condition::Record { kind: Item::KIND, id: format!("{round}-{absent}"), revision: None };
            WriteBatch::new().require(condition).put(&Item::new(format!("{round}-{written}"), round)).unwrap()
        };
        let (left, right) = tokio::join!(store.commit(batch("a", "b")), store.commit(batch("b", "a")));
        let (lost, won): (Vec<_>, Vec<_>) = [left, right].into_iter().partition(Result::is_err);
        assert_eq!((lost.len(), won.len()), (1, 1), "round {round}");
        assert!(lost.into_iter().all(|error| error.unwrap_err().is_conflict()));
    }
    assert_eq!(store.list_all(TypedQuery::<Item>::new()).await.unwrap().len(), 40);
}
