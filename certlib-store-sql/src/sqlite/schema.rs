//! The schema and its versions.

use certlib_core::clock::Clock;
use certlib_core::error::{Error, Result};
use sqlx::{Row, SqliteConnection};

use super::error::{commit_error, store_error};
use super::timestamp;

/// Every version of the schema as the step from the one before. Steps are only ever added.
const STEPS: [&str; 1] = [include_str!("0001_initial.sql")];

/// Brings the schema to this version, in one transaction: another process that opens the same file waits for it and
/// finds the work done, and one that is killed in it leaves nothing behind.
///
/// # Errors
/// `IoPermanent` `schema_version` when a newer version of certlib wrote the file; and as for any write.
pub(super) async fn migrate(connection: &mut SqliteConnection, clock: &dyn Clock) -> Result<()> {
    execute(connection, "BEGIN IMMEDIATE").await?;
    match upgrade(connection, clock).await {
        Ok(()) => sqlx::query("COMMIT").execute(&mut *connection).await.map(drop).map_err(commit_error),
        Err(error) => {
            // The connection is given up anyway.
            let _ = sqlx::query("ROLLBACK").execute(&mut *connection).await;
            Err(error)
        }
    }
}

async fn upgrade(connection: &mut SqliteConnection, clock: &dyn Clock) -> Result<()> {
    execute(
        connection,
        "CREATE TABLE IF NOT EXISTS certlib_schema (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL)",
    )
    .await?;
    let have: i64 = sqlx::query("SELECT coalesce(max(version), 0) FROM certlib_schema")
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|error| store_error("store.migrate", error))?;
    let newer = || {
        Error::permanent("store.migrate", "schema_version", "a newer version of certlib wrote this database")
            .with("have", have)
            .with("need", STEPS.len())
    };
    let done = usize::try_from(have).map_err(|_| newer())?;
    let missing = STEPS.get(done..).ok_or_else(newer)?;
    for (version, step) in (have + 1..).zip(missing) {
        sqlx::raw_sql(*step)
            .execute(&mut *connection)
            .await
            .map_err(|error| store_error("store.migrate", error).with("version", version))?;
        sqlx::query("INSERT INTO certlib_schema (version, applied_at) VALUES (?1, ?2)")
            .bind(version)
            .bind(timestamp::to_millis(clock.now()))
            .execute(&mut *connection)
            .await
            .map_err(|error| store_error("store.migrate", error).with("version", version))?;
    }
    Ok(())
}

async fn execute(connection: &mut SqliteConnection, sql: &'static str) -> Result<()> {
    sqlx::query(sql).execute(connection).await.map(drop).map_err(|error| store_error("store.migrate", error))
}
