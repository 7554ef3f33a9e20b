//! The schema and its versions.

use certlib_core::error::{Error, Result};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};

use super::address::Address;
use super::error::{in_doubt, store_error};

/// Every version of the schema as the step from the one before. Steps are only ever added.
const STEPS: [&str; 1] = [include_str!("0001_initial.sql")];

/// Waits for other migrators of the same schema, and for as long as a large table may take.
const BEGIN: &str = "SET LOCAL lock_timeout = '5min'; SET LOCAL statement_timeout = '1h';
    SELECT pg_advisory_xact_lock(hashtextextended('certlib ' || current_schema(), 0))";

const VERSIONS: &str = "CREATE TABLE certlib_schema (version bigint PRIMARY KEY, applied_at timestamptz NOT NULL)";

/// Brings the schema to this version, in one transaction: another process that opens the same database waits for it
/// and finds the work done, and one that is killed in it leaves nothing behind. A role that may not create tables can
/// use a schema that is there.
///
/// # Errors
/// `IoPermanent` `schema_version` when a newer version of certlib wrote the schema; and as for any write.
pub(super) async fn migrate(address: &Address) -> Result<()> {
    let mut connection = address.connect().await?;
    let outcome = upgrade(&mut connection).await;
    // What a failed goodbye could tell is of no use.
    let _ = connection.close().await;
    outcome
}

async fn upgrade(connection: &mut PgConnection) -> Result<()> {
    let mut tx = connection.begin().await.map_err(failed)?;
    sqlx::raw_sql(BEGIN).execute(&mut *tx).await.map_err(failed)?;
    let exists = sqlx::query(
        "SELECT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'certlib_schema')",
    );
    let exists: bool = exists.fetch_one(&mut *tx).await.and_then(|row| row.try_get(0)).map_err(failed)?;
    let have: i64 = if exists {
        let newest = sqlx::query("SELECT coalesce(max(version), 0) FROM certlib_schema");
        newest.fetch_one(&mut *tx).await.and_then(|row| row.try_get(0)).map_err(failed)?
    } else {
        sqlx::query(VERSIONS).execute(&mut *tx).await.map_err(failed)?;
        0
    };
    let newer = || {
        Error::permanent("store.migrate", "schema_version", "a newer version of certlib wrote this database")
            .with("have", have)
            .with("need", STEPS.len())
    };
    let done = usize::try_from(have).map_err(|_| newer())?;
    let missing = STEPS.get(done..).ok_or_else(newer)?;
    for (version, step) in (have + 1..).zip(missing) {
        sqlx::raw_sql(*step).execute(&mut *tx).await.map_err(|error| failed(error).with("version", version))?;
        sqlx::query("INSERT INTO certlib_schema (version, applied_at) VALUES ($1, clock_timestamp())")
            .bind(version)
            .execute(&mut *tx)
            .await
            .map_err(|error| failed(error).with("version", version))?;
    }
    tx.commit().await.map_err(|error| in_doubt(failed(error)))
}

fn failed(error: sqlx::Error) -> Error {
    store_error("store.migrate", error)
}
