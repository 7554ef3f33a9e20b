//! Clusters of real processes on real databases: nodes are stopped, continued and killed while they lead and work.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod jobs;
mod leadership;
mod nodes;

#[path = "../support/database.rs"]
mod database;
#[path = "../support/ledger.rs"]
mod ledger;

use bson::doc;
use certlib_testkit::counterpart::{MongoReplicaSet, Postgres};
use certlib_testkit::require;
use tokio::sync::Mutex;

/// The clusters take turns: two cores are one cluster's worth.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_on_postgres_survives_stops_and_kills() {
    let _turn = TURN.lock().await;
    let postgres = require!(Postgres::builder().durable().start().await);
    leadership::stop_and_kill(&postgres.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_on_mongodb_survives_stops_and_kills() {
    let _turn = TURN.lock().await;
    let mongodb = require!(MongoReplicaSet::start(3).await);
    limit_transactions(&mongodb).await;
    leadership::stop_and_kill(&mongodb.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_on_postgres_survive_kills() {
    let _turn = TURN.lock().await;
    let postgres = require!(Postgres::builder().durable().start().await);
    jobs::kill_workers(&postgres.url(), async || {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_on_mongodb_survive_kills_and_a_new_primary() {
    let _turn = TURN.lock().await;
    let mongodb = require!(MongoReplicaSet::start(3).await);
    limit_transactions(&mongodb).await;
    jobs::kill_workers(&mongodb.url(), async || {
        mongodb.step_down().await.unwrap();
    })
    .await;
}

/// The transaction of a process that was killed or stopped ends soon, and not after the server's default of a minute:
/// that is shorter than leases are by default, but not than they are here.
async fn limit_transactions(mongodb: &MongoReplicaSet) {
    for member in 0..3 {
        let limit = doc! { "setParameter": 1, "transactionLifetimeLimitSeconds": 1 };
        mongodb.command(member, "admin", limit).await.unwrap();
    }
}
