#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use bson::{Document, doc};
use certlib_core::store::StoreExt;
use certlib_store_mongo::{MongoOptions, MongoStore};

use self::support::{Item, Process, child_database, fresh, indexes, open, raw, say, set};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_refused() {
    let Some(set) = set() else { return };
    let name = fresh();
    let database = raw(set, &name).await;
    open(set, &name).await;
    let schema = database.collection::<Document>("certlib_schema");
    schema.update_one(doc! { "_id": "schema" }, doc! { "$set": { "version": 99_i64 } }).await.unwrap();
    let error = MongoStore::connect(&set.url().into(), MongoOptions::new().with_database(&name)).await.unwrap_err();
    assert_eq!(error.code(), "schema_version");
    assert_eq!(error.context().collect::<Vec<_>>(), [("have", "99"), ("need", "1")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_of_somebody_else_is_reported() {
    let Some(set) = set() else { return };
    let name = fresh();
    let jobs = raw(set, &name).await.collection::<Document>("certlib_jobs");
    let options = mongodb::options::IndexOptions::builder().name("certlib_jobs_age".to_owned()).build();
    let foreign = mongodb::IndexModel::builder().keys(doc! { "other": 1 }).options(options).build();
    jobs.create_index(foreign).await.unwrap();
    let error = MongoStore::connect(&set.url().into(), MongoOptions::new().with_database(&name)).await.unwrap_err();
    assert_eq!(error.code(), "schema_conflict", "{error:?}");
}

/// What a migration that was cut off after any of its steps left behind is completed by the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_may_stop_after_any_step() {
    let Some(set) = set() else { return };
    let complete = fresh();
    open(set, &complete).await;
    let wanted = indexes(&raw(set, &complete).await).await;
    assert!(wanted.len() > 8, "{wanted:?}");
    for steps in 0..=5 {
        let name = fresh();
        let database = raw(set, &name).await;
        open(set, &name).await;
        // Back to what there is when only the first steps were done, and the version was not yet noted.
        database.collection::<Document>("certlib_schema").drop().await.unwrap();
        if steps < 5 {
            database.collection::<Document>("certlib_jobs").drop_indexes().await.unwrap();
        }
        if steps < 4 {
            database.collection::<Document>("certlib_records").drop_indexes().await.unwrap();
        }
        for (step, collection) in [(1, "certlib_records"), (2, "certlib_jobs"), (3, "certlib_leases")] {
            if steps < step {
                database.collection::<Document>(collection).drop().await.unwrap();
            }
        }
        let store = open(set, &name).await;
        assert_eq!(indexes(&database).await, wanted, "after {steps} steps");
        store.insert(Item::new("a", 1)).await.unwrap();
        database.drop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_may_be_killed_anywhere() {
    if let Some((url, database)) = child_database() {
        say("begin");
        MongoStore::connect(&url.into(), MongoOptions::new().with_database(database)).await.unwrap();
        return say("end");
    }
    let Some(set) = set() else { return };
    let complete = fresh();
    open(set, &complete).await;
    let wanted = indexes(&raw(set, &complete).await).await;
    // How long it takes from its first word to its last, so that the kills fall between.
    let mut child = Process::start("a_migration_may_be_killed_anywhere", set, &fresh());
    assert_eq!(child.next_line().as_deref(), Some("begin"));
    let began = Instant::now();
    assert_eq!(child.next_line().as_deref(), Some("end"));
    let whole = began.elapsed();
    child.finish();
    for round in 0..12_u32 {
        let name = fresh();
        let mut child = Process::start("a_migration_may_be_killed_anywhere", set, &name);
        assert_eq!(child.next_line().as_deref(), Some("begin"));
        // What happens to be reached is what is tested; nothing is waited for.
        tokio::time::sleep(whole.mul_f64(f64::from(round) / 11.0).min(Duration::from_secs(5))).await;
        child.kill();
        let store = open(set, &name).await;
        let database = raw(set, &name).await;
        assert_eq!(indexes(&database).await, wanted, "round {round}");
        store.insert(Item::new("a", 1)).await.unwrap();
        database.drop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_may_migrate_together() {
    let Some(set) = set() else { return };
    let name = fresh();
    let stores = (0..6).map(|_| {
        let (url, options) = (set.url(), MongoOptions::new().with_database(&name));
        tokio::spawn(async move { MongoStore::connect(&url.into(), options).await.unwrap() })
    });
    let stores: Vec<_> = futures::future::join_all(stores).await.into_iter().map(|store| store.unwrap()).collect();
    for (number, store) in stores.iter().enumerate() {
        store.insert(Item::new(number.to_string(), 1)).await.unwrap();
    }
    let complete = fresh();
    open(set, &complete).await;
    assert_eq!(indexes(&raw(set, &name).await).await, indexes(&raw(set, &complete).await).await);
}
