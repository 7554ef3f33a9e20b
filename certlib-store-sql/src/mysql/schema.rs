//! The schema and its versions.
//!
//! Data definition commits by itself here, so a migration cannot be one transaction. Instead every statement is one
//! that may be repeated, each that was done is counted, and whoever comes next goes on after the last one counted.

use certlib_core::error::{Error, Result};
use sqlx::{MySqlConnection, Row};

use super::error::{number, store_error};

/// Every version of the schema as the step from the one before. Steps are only ever added.
const STEPS: [&str; 1] = [include_str!("0001_initial.sql")];

/// How long to wait for another process that migrates, in seconds.
const PATIENCE: i64 = 120;

const LEDGER: &str = "CREATE TABLE IF NOT EXISTS certlib_schema (
     version    BIGINT NOT NULL PRIMARY KEY,
     statements INT    NOT NULL,
     complete   TINYINT NOT NULL,
     applied_at BIGINT NOT NULL
 ) ENGINE=InnoDB";

const COUNT: &str = "INSERT INTO certlib_schema (version, statements, complete, applied_at)
     VALUES (?, ?, ?, TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000)
     ON DUPLICATE KEY UPDATE statements = VALUES(statements), complete = VALUES(complete), applied_at = VALUES(applied_at)";

/// The lock that lets one process migrate at a time; a process that dies gives it back with its connection.
const LOCK: &str = "SELECT GET_LOCK(CONCAT('certlib.', LEFT(SHA2(CONCAT('schema/', DATABASE()), 256), 48)), ?)";
const UNLOCK: &str = "SELECT RELEASE_LOCK(CONCAT('certlib.', LEFT(SHA2(CONCAT('schema/', DATABASE()), 256), 48)))";

/// Brings the schema to this version. Another process that opens the same database waits for it.
///
/// # Errors
/// `IoPermanent` `schema_version` when a newer version of certlib wrote the database; `IoTransient` `migration_busy`
/// when another process did not finish; and as for any write.
pub(super) async fn migrate(connection: &mut MySqlConnection) -> Result<()> {
    migrate_watched(connection, |_| {}).await
}

/// Migrates, and calls `before` with the number of each statement that changes something.
async fn migrate_watched(connection: &mut MySqlConnection, mut before: impl FnMut(usize)) -> Result<()> {
    let granted: Option<i64> = sqlx::query(LOCK)
        .bind(PATIENCE)
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(failed)?;
    if granted != Some(1) {
        let message = "another process has been changing the schema for too long";
        return Err(Error::transient("store.migrate", "migration_busy", message));
    }
    let result = upgrade(connection, &mut before).await;
    let released = sqlx::query(UNLOCK).execute(connection).await.map(drop).map_err(failed);
    result.and(released)
}

async fn upgrade(connection: &mut MySqlConnection, before: &mut impl FnMut(usize)) -> Result<()> {
    let mut count = 0;
    let mut next = || {
        before(count);
        count += 1;
    };
    next();
    execute(connection, LEDGER).await?;
    let last = sqlx::query("SELECT version, statements, complete FROM certlib_schema ORDER BY version DESC LIMIT 1")
        .fetch_optional(&mut *connection)
        .await
        .and_then(|row| row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).transpose())
        .map_err(failed)?;
    let (have, partial): (i64, i64) = match last {
        Some((version, statements, false)) => (version - 1, statements),
        Some((version, _, true)) => (version, 0),
        None => (0, 0),
    };
    let newest = last.map_or(0, |(version, ..): (i64, i64, bool)| version);
    if usize::try_from(newest).is_ok_and(|newest| newest > STEPS.len()) {
        return Err(Error::permanent(
            "store.migrate",
            "schema_version",
            "a newer version of certlib wrote this database",
        )
        .with("have", newest)
        .with("need", STEPS.len()));
    }
    let mut partial = usize::try_from(partial).unwrap_or(0);
    let missing = STEPS.iter().skip(usize::try_from(have).unwrap_or(0));
    for (version, step) in (have + 1..).zip(missing) {
        let statements: Vec<_> = statements(step).collect();
        let located = |error: Error| error.with("version", version);
        for (index, statement) in statements.iter().enumerate().skip(partial) {
            next();
            apply(connection, statement).await.map_err(located)?;
            next();
            let last = index + 1 == statements.len();
            sqlx::query(COUNT)
                .bind(version)
                .bind(i64::try_from(index + 1).unwrap_or(i64::MAX))
                .bind(last)
                .execute(&mut *connection)
                .await
                .map_err(|error| located(failed(error)))?;
        }
        partial = 0;
    }
    Ok(())
}

/// Runs a statement that may have been run already, just before a crash.
async fn apply(connection: &mut MySqlConnection, statement: &'static str) -> Result<()> {
    match sqlx::raw_sql(statement).execute(connection).await {
        Ok(_) => Ok(()),
        // The table, column or key is there, or gone, already.
        Err(error) if matches!(number(&error), Some(1050 | 1060 | 1061 | 1091)) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// The statements of a step; each ends with its line.
fn statements(step: &'static str) -> impl Iterator<Item = &'static str> {
    step.split(";\n").map(str::trim).filter(|statement| !statement.is_empty())
}

async fn execute(connection: &mut MySqlConnection, sql: &'static str) -> Result<()> {
    sqlx::raw_sql(sql).execute(connection).await.map(drop).map_err(failed)
}

fn failed(error: sqlx::Error) -> Error {
    store_error("store.migrate", error)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use certlib_core::queue::JobQueue as _;
    use certlib_core::secret::SecretString;
    use certlib_testkit::counterpart::Mariadb;
    use certlib_testkit::require;
    use sqlx::Connection as _;

    use super::*;
    use crate::mysql::{MysqlOptions, MysqlStore};

    /// Names the database to the process that the test starts from itself, and the statement before which it dies.
    const DATABASE: &str = "CERTLIB_TEST_MIGRATION";
    const DIES_BEFORE: &str = "CERTLIB_TEST_MIGRATION_STATEMENT";

    #[test]
    fn every_statement_can_be_repeated() {
        let all: Vec<_> = STEPS.iter().flat_map(|step| statements(step)).collect();
        assert_eq!(all.len(), 4);
        assert!(all.iter().all(|statement| statement.contains("CREATE TABLE IF NOT EXISTS")));
    }

    /// Migrates, and kills itself at the statement it was told.
    async fn die(url: &str) {
        let wanted: usize = std::env::var(DIES_BEFORE).unwrap().parse().unwrap();
        let mut connection = MySqlConnection::connect(url).await.unwrap();
        let kill = |number| {
            if number == wanted {
                let id = std::process::id().to_string();
                Command::new("sh").args(["-c", "kill -KILL \"$1\"", "kill", &id]).status().unwrap();
                loop {
                    std::thread::park();
                }
            }
        };
        migrate_watched(&mut connection, kill).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_migration_may_be_killed_at_every_statement() {
        if let Ok(url) = std::env::var(DATABASE) {
            return die(&url).await;
        }
        let server = require!(Mariadb::builder().option("innodb-flush-log-at-trx-commit", "2").start().await);
        let repeated = server.create_database("repeated").await.unwrap();
        let mut number = 0;
        loop {
            let fresh = server.create_database(&format!("killed_{number}")).await.unwrap();
            let mut survived = false;
            // One database is killed at once, at each statement; another one time after the other.
            for url in [&fresh, &repeated] {
                let status = Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "mysql::schema::tests::a_migration_may_be_killed_at_every_statement"])
                    .env(DATABASE, url)
                    .env(DIES_BEFORE, number.to_string())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()
                    .unwrap();
                survived |= url == &fresh && status.success();
            }
            let options = MysqlOptions::new().allow_unsafe_durability_for_tests();
            let store = MysqlStore::connect(&SecretString::from(fresh), options).await.unwrap();
            assert!(store.stats().await.unwrap().by_kind.is_empty());
            store.close().await;
            if survived {
                break;
            }
            number += 1;
        }
        assert_eq!(number, 9, "the ledger, and each of four statements with its entry in it");
        let tables = server.sql("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'repeated'").await;
        assert_eq!(tables.unwrap(), "5\n");
        assert_eq!(
            server.sql("SELECT version, statements, complete FROM repeated.certlib_schema").await.unwrap(),
            "1\t4\t1\n"
        );
    }
}
