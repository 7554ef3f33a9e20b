//! Opening the file, or saying why not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use certlib_core::classify;
use certlib_core::error::{Error, Result};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection, SqlitePool};

use super::error::{code, primary_code, store_error};
use super::options::SqliteOptions;
use super::{filesystem, schema};

/// Older ones can damage a database in WAL mode that has several connections.
const VERSION_NEEDED: &str = "3.51.3";
/// While another process turns the write-ahead log on, SQLite does not wait: we do.
const WAL_RETRY: Duration = Duration::from_millis(20);

/// Opens the connection that writes, with the schema in place, and the pool that reads.
pub(super) async fn open(path: &Path, options: &SqliteOptions) -> Result<(SqliteConnection, SqlitePool)> {
    let path = checked_path(path, options)?;
    let named = |error: Error| error.with("path", path.display());
    let mut writer = connect(&path, options).await.map_err(named)?;
    if let Err(error) = prepare(&mut writer, options).await {
        // A failure to close adds nothing to the reason why.
        let _ = writer.close().await;
        return Err(named(error));
    }
    let readers = SqlitePoolOptions::new()
        .max_connections(options.readers.max(1))
        .test_before_acquire(false)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_lazy_with(base(&path, options).pragma("query_only", "ON"));
    Ok((writer, readers))
}

/// `path` below its real directory, if a database can be there.
fn checked_path(path: &Path, options: &SqliteOptions) -> Result<PathBuf> {
    let refuse = |code: &'static str, message: &'static str| {
        Error::permanent("store.open", code, message).with("path", path.display())
    };
    let Some(name) = path.file_name() else {
        return Err(refuse("path_invalid", "the path does not name a file"));
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = parent.canonicalize().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => refuse("directory_missing", "the directory of the database does not exist"),
        std::io::ErrorKind::NotADirectory => refuse("path_invalid", "the path leads through a file"),
        kind => Error::new(classify::io(kind), "store.open", "cannot_open", "cannot enter the directory")
            .with("path", path.display())
            .with_source(error),
    })?;
    if !directory.is_dir() {
        return Err(refuse("path_invalid", "the path leads through a file"));
    }
    let file = directory.join(name);
    if file.is_dir() {
        return Err(refuse("path_invalid", "the path is a directory"));
    }
    if !options.create && !file.exists() {
        return Err(refuse("database_missing", "the database does not exist, and was not to be created"));
    }
    if let Some(kind) = filesystem::network_type(&directory) {
        return Err(refuse("network_file_system", "SQLite cannot be trusted on a network file system")
            .with("file_system", kind));
    }
    Ok(file)
}

fn base(path: &Path, options: &SqliteOptions) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(options.create)
        .busy_timeout(options.busy_timeout)
        .foreign_keys(false)
        .synchronous(SqliteSynchronous::Full)
        .pragma("mmap_size", "0")
        .pragma("temp_store", "MEMORY")
        .pragma("trusted_schema", "OFF")
        .statement_cache_capacity(256)
        .disable_statement_logging()
}

/// A connection whose file is a database in WAL mode.
async fn connect(path: &Path, options: &SqliteOptions) -> Result<SqliteConnection> {
    let wal = base(path, options).journal_mode(SqliteJournalMode::Wal).pragma("journal_size_limit", "67108864");
    let mut tries = 1 + options.busy_timeout.as_millis() / WAL_RETRY.as_millis();
    loop {
        match wal.connect().await {
            Ok(connection) => return Ok(connection),
            Err(error) => {
                tries -= 1;
                if tries == 0 || !matches!(primary_code(&error), Some(code::BUSY | code::LOCKED)) {
                    return Err(store_error("store.open", error));
                }
                tokio::time::sleep(WAL_RETRY).await;
            }
        }
    }
}

async fn prepare(connection: &mut SqliteConnection, options: &SqliteOptions) -> Result<()> {
    check_version(&text(connection, "SELECT sqlite_version()").await?)?;
    let mode = text(connection, "PRAGMA journal_mode").await?;
    if mode != "wal" {
        return Err(Error::permanent("store.open", "wal_unavailable", "SQLite cannot keep a write-ahead log here")
            .with("found", mode)
            .with("needed", "wal"));
    }
    if let Some(bytes) = options.max_bytes {
        let page: i64 = number(connection, "PRAGMA page_size").await?;
        let pages = bytes / u64::try_from(page).unwrap_or(4096).max(1);
        limit_pages(connection, pages).await?;
    }
    schema::migrate(connection, &*options.clock).await
}

/// Fails unless the SQLite library with version `found` is safe to use.
fn check_version(found: &str) -> Result<()> {
    let parts = |version: &str| version.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>();
    if parts(found) >= parts(VERSION_NEEDED) {
        return Ok(());
    }
    Err(Error::permanent("store.open", "sqlite_version", "this version of SQLite can damage the database")
        .with("found", found)
        .with("needed", VERSION_NEEDED))
}

async fn limit_pages(connection: &mut SqliteConnection, pages: u64) -> Result<()> {
    // Pragmas take no parameters; a number cannot be anything else.
    sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {}", pages.max(1))))
        .execute(connection)
        .await
        .map(drop)
        .map_err(|error| store_error("store.open", error))
}

async fn text(connection: &mut SqliteConnection, sql: &'static str) -> Result<String> {
    let row = sqlx::query(sql).fetch_one(connection).await;
    row.and_then(|row| row.try_get(0)).map_err(|error| store_error("store.open", error))
}

async fn number(connection: &mut SqliteConnection, sql: &'static str) -> Result<i64> {
    let row = sqlx::query(sql).fetch_one(connection).await;
    row.and_then(|row| row.try_get(0)).map_err(|error| store_error("store.open", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_commit_is_synced_and_no_page_is_mapped() {
        let directory = tempfile::TempDir::new().unwrap();
        let (mut writer, readers) = open(&directory.path().join("x.db"), &SqliteOptions::new()).await.unwrap();
        assert_eq!(text(&mut writer, "PRAGMA journal_mode").await.unwrap(), "wal");
        let mut reader = readers.acquire().await.unwrap();
        for connection in [&mut writer, &mut *reader] {
            for (pragma, value) in
                [("PRAGMA synchronous", 2), ("PRAGMA foreign_keys", 0), ("PRAGMA busy_timeout", 5000)]
            {
                assert_eq!(number(connection, pragma).await.unwrap(), value, "{pragma}");
            }
            let row = sqlx::query("PRAGMA mmap_size").fetch_optional(connection).await.unwrap();
            assert!(row.is_none_or(|row| row.get::<i64, _>(0) == 0), "no memory mapping");
        }
        let write = sqlx::query("DELETE FROM certlib_jobs").execute(&mut *reader).await;
        assert_eq!(primary_code(&write.unwrap_err()), Some(code::READONLY), "readers only read");
    }

    #[test]
    fn versions_with_the_log_reset_race_are_refused() {
        for old in ["3.40.1", "3.46.0", "3.51.2", "3.51", "2.9.9", "", "x"] {
            let error = check_version(old).unwrap_err();
            assert_eq!(error.code(), "sqlite_version");
            let context: Vec<_> = error.context().collect();
            assert_eq!(context, [("found", old), ("needed", VERSION_NEEDED)]);
        }
        for fit in ["3.51.3", "3.51.10", "3.52.0", "3.100.0", "4.0.0"] {
            check_version(fit).unwrap();
        }
    }
}
