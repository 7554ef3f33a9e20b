use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Row as _, SqliteConnection};
use tokio::sync::{Mutex, Notify};

use super::{Bell, Floor, LANE, LEASE, RawClaim, RawJob, now};
use crate::Result;

const SCHEMA: &str = "
    CREATE TABLE raw_jobs (
        id TEXT NOT NULL PRIMARY KEY, kind TEXT NOT NULL, lane TEXT NOT NULL, natural_key TEXT, project TEXT NOT NULL,
        parent TEXT NOT NULL, payload TEXT NOT NULL, priority INTEGER NOT NULL, state TEXT NOT NULL,
        attempt INTEGER NOT NULL DEFAULT 0, claim_epoch INTEGER NOT NULL DEFAULT 0,
        crash_count INTEGER NOT NULL DEFAULT 0, run_at INTEGER NOT NULL, lease_until INTEGER, worker TEXT,
        cancel_requested INTEGER NOT NULL DEFAULT 0, rerun_requested INTEGER NOT NULL DEFAULT 0,
        attempts TEXT NOT NULL DEFAULT '[]', created_at INTEGER NOT NULL, finished_at INTEGER);
    CREATE INDEX raw_jobs_waiting ON raw_jobs (lane, priority DESC, run_at, id) WHERE state = 'pending';
    CREATE TABLE raw_leases (
        name TEXT NOT NULL PRIMARY KEY, holder TEXT NOT NULL, epoch INTEGER NOT NULL, expires_at INTEGER NOT NULL,
        released INTEGER NOT NULL) WITHOUT ROWID;";

const INSERT: &str = "
    INSERT INTO raw_jobs (id, kind, lane, project, parent, payload, priority, state, run_at, created_at)
    SELECT value ->> 0, 'no_op', ?2, '', '', value ->> 1, 0, 'pending', ?3, ?3 FROM json_each(?1)";

const CLAIM: &str = "
    UPDATE raw_jobs SET state = 'in_progress', attempt = attempt + 1, claim_epoch = claim_epoch + 1, worker = ?1,
        lease_until = ?2
    WHERE id IN (SELECT id FROM raw_jobs WHERE state = 'pending' AND lane = ?3 AND run_at <= ?4
                 ORDER BY priority DESC, run_at, id LIMIT ?5)
    RETURNING id, claim_epoch, payload, kind, attempt";

const SETTLE: &str = "
    UPDATE raw_jobs SET state = 'succeeded', crash_count = 0, lease_until = NULL, finished_at = ?2
    FROM json_each(?1) AS n
    WHERE raw_jobs.id = n.value ->> 0 AND claim_epoch = n.value ->> 1 AND state = 'in_progress'
        AND NOT rerun_requested";

const ACQUIRE: &str = "
    INSERT INTO raw_leases VALUES ('scheduler', ?1, 1, ?2 + 3000, 0)
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, epoch = epoch + 1, expires_at = excluded.expires_at,
        released = 0
    WHERE released OR expires_at <= ?2 RETURNING epoch";

const RENEW: &str = "
    UPDATE raw_leases SET expires_at = ?3 + 3000
    WHERE name = 'scheduler' AND holder = ?1 AND epoch = ?2 AND NOT released";

const RELEASE: &str = "
    UPDATE raw_leases SET released = 1 WHERE name = 'scheduler' AND holder = ?1 AND epoch = ?2 AND NOT released";

/// SQLite by hand: one connection, write-ahead log, `synchronous=FULL`, one statement for each call.
#[derive(Debug)]
pub struct SqliteFloor {
    connection: Mutex<SqliteConnection>,
    rung: Arc<Notify>,
}

impl SqliteFloor {
    /// Makes its tables in a new file.
    ///
    /// # Errors
    /// As the database.
    pub async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .disable_statement_logging();
        let mut connection = options.connect().await?;
        sqlx::raw_sql(SCHEMA).execute(&mut connection).await?;
        Ok(Self { connection: Mutex::new(connection), rung: Arc::default() })
    }
}

#[async_trait]
impl Floor for SqliteFloor {
    async fn insert(&self, jobs: &[RawJob]) -> Result<()> {
        let rows = Value::Array(jobs.iter().map(|job| json!([job.id, job.payload])).collect()).to_string();
        let mut connection = self.connection.lock().await;
        sqlx::query(INSERT).bind(rows).bind(LANE).bind(now()).execute(&mut *connection).await?;
        Ok(())
    }

    async fn claim(&self, limit: usize) -> Result<Vec<RawClaim>> {
        let mut connection = self.connection.lock().await;
        let rows = sqlx::query(CLAIM)
            .bind("worker")
            .bind(now() + LEASE)
            .bind(LANE)
            .bind(now())
            .bind(i64::try_from(limit)?)
            .fetch_all(&mut *connection)
            .await?;
        let claim = |row: &sqlx::sqlite::SqliteRow| {
            Ok(RawClaim { id: row.try_get(0)?, epoch: row.try_get(1)?, payload: row.try_get(2)? })
        };
        rows.iter().map(claim).collect()
    }

    async fn settle(&self, claims: &[RawClaim]) -> Result<u64> {
        let claims = Value::Array(claims.iter().map(|claim| json!([claim.id, claim.epoch])).collect()).to_string();
        let mut connection = self.connection.lock().await;
        Ok(sqlx::query(SETTLE).bind(claims).bind(now()).execute(&mut *connection).await?.rows_affected())
    }

    async fn ring(&self, job: &RawJob) -> Result<()> {
        self.insert(std::slice::from_ref(job)).await?;
        self.rung.notify_one();
        Ok(())
    }

    async fn bell(&self) -> Result<Box<dyn Bell>> {
        Ok(Box::new(LocalBell(self.rung.clone())))
    }

    async fn acquire(&self, holder: &str) -> Result<Option<i64>> {
        let mut connection = self.connection.lock().await;
        let mut rows = sqlx::query(ACQUIRE).bind(holder).bind(now()).fetch_all(&mut *connection).await?;
        Ok(rows.pop().map(|row| row.try_get(0)).transpose()?)
    }

    async fn renew(&self, holder: &str, epoch: i64) -> Result<bool> {
        let mut connection = self.connection.lock().await;
        let renewed = sqlx::query(RENEW).bind(holder).bind(epoch).bind(now()).execute(&mut *connection).await?;
        Ok(renewed.rows_affected() == 1)
    }

    async fn release(&self, holder: &str, epoch: i64) -> Result<bool> {
        let mut connection = self.connection.lock().await;
        let released = sqlx::query(RELEASE).bind(holder).bind(epoch).execute(&mut *connection).await?;
        Ok(released.rows_affected() == 1)
    }
}

/// Where the database itself tells nobody: heard within this process only.
#[derive(Debug)]
pub(super) struct LocalBell(pub(super) Arc<Notify>);

#[async_trait]
impl Bell for LocalBell {
    async fn heard(&mut self) -> Result<()> {
        self.0.notified().await;
        Ok(())
    }
}
