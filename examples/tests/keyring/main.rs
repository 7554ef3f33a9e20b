//! The key under all secrets is rotated by real processes on real databases, which read and write meanwhile, and are
//! stopped and killed: no read fails, and no secret is left under a key that is gone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod nodes;
mod paused;
mod steps;
mod storm;

#[path = "../support/database.rs"]
mod database;
#[path = "../support/kept.rs"]
mod kept;

use certlib_testkit::counterpart::Postgres;
use certlib_testkit::require;
use tokio::sync::Mutex;

/// The tests take turns: two cores are one cluster's worth.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_rotations_on_sqlite_survive_kills() {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().unwrap();
    storm::two_rotations(&sqlite(&folder)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_rotations_on_postgres_survive_kills() {
    let _turn = TURN.lock().await;
    let postgres = require!(Postgres::builder().durable().start().await);
    storm::two_rotations(&postgres.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_writer_on_sqlite_stores_nothing_under_a_removed_key() {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().unwrap();
    paused::writers(&sqlite(&folder)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_writer_on_postgres_stores_nothing_under_a_removed_key() {
    let _turn = TURN.lock().await;
    let postgres = require!(Postgres::builder().durable().start().await);
    paused::writers(&postgres.url()).await;
}

fn sqlite(folder: &tempfile::TempDir) -> String {
    format!("sqlite:{}", folder.path().join("certlib.db").display())
}
