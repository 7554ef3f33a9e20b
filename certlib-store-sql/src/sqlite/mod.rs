//! SQLite: the embedded default. One file on one host, no server.
//!
//! - Every commit is durable when it returns: write-ahead log, `synchronous=FULL`. Writes that wait for the disk at
//!   the same time share one sync.
//! - Any number of processes of one host may open the same file; network file systems are refused.
//! - Times are kept in whole milliseconds of the wall clock, so that they mean the same after a restart: a claim or a
//!   lease is cut short or prolonged by as much as that clock is set. No promise depends on it, only punctuality.

mod commit;
mod error;
mod filesystem;
mod job;
mod lease;
mod open;
mod options;
#[cfg(test)]
mod plans;
mod query;
mod queue;
mod schema;
mod transition;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::clock::Clock;
use certlib_core::error::Result;
use certlib_core::lock::{LeaderLock, Lease, LeaseInfo, LeaseRequest};
use certlib_core::queue::{
    Claim, ClaimRequest, Enqueued, Extension, Job, JobFilter, JobQueue, JobState, NewJob, QueueStats, RetryPolicy,
    Settlement,
};
use certlib_core::store::{Commit, Page, Query, RawRecord, Store, WriteBatch};
use sqlx::SqlitePool;
use tokio::sync::watch;

pub use self::options::SqliteOptions;
use self::writer::Writer;
use certlib_core::store::timestamp;

/// A [`Store`] in a SQLite file.
///
/// Clones share one connection that writes and a few that read. Dropping the last clone closes them in the background;
/// [`SqliteStore::close`] waits for it.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    writer: Writer,
    readers: SqlitePool,
    clock: Arc<dyn Clock>,
    wakeups: watch::Sender<u64>,
    vacancies: watch::Sender<u64>,
}

impl SqliteStore {
    /// Opens the database at `path`, creates or upgrades its tables, and starts to serve it on the current Tokio
    /// runtime. All its tables are named `certlib_*`.
    ///
    /// # Errors
    /// `IoPermanent` naming what is wrong: `sqlite_version`, `schema_version`, `path_invalid`, `directory_missing`,
    /// `database_missing`, `cannot_open`, `read_only`, `not_a_database`, `database_corrupt`, `network_file_system`,
    /// `wal_unavailable`; `IoTransient` `database_busy` when another process did not stop writing.
    pub async fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self> {
        let (connection, readers) = open::open(path.as_ref(), &options).await?;
        let wakeups = watch::Sender::new(0);
        let writer = Writer::start(connection, options.clock.clone(), wakeups.clone());
        Ok(Self { writer, readers, clock: options.clock, wakeups, vacancies: watch::Sender::new(0) })
    }

    /// Finishes the writes that are waiting and closes the file. Everything after that fails with `store_closed`.
    pub async fn close(&self) {
        // The writer goes last: then the log is merged into the file and removed.
        self.readers.close().await;
        self.writer.close().await;
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, kind: &str, id: &str) -> Result<Option<RawRecord>> {
        query::get(&self.readers, kind, id).await
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        query::query(&self.readers, query).await
    }

    async fn commit(&self, batch: WriteBatch) -> Result<Commit> {
        batch.jobs.iter().try_for_each(NewJob::check)?;
        self.writer.write(commit::Apply { batch }).await
    }
}

#[async_trait]
impl JobQueue for SqliteStore {
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        jobs.iter().try_for_each(NewJob::check)?;
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        self.writer.write(queue::Enqueue { jobs }).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>> {
        self.writer.write(queue::ClaimDue { request: request.clone() }).await
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<Extension>> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        self.writer.write(queue::Extend { claims: claims.to_vec(), lease }).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>> {
        if settlements.is_empty() {
            return Ok(Vec::new());
        }
        self.writer.write(transition::Settle { settlements }).await
    }

    async fn reap(&self, policy: &RetryPolicy, limit: usize) -> Result<Vec<Job>> {
        self.writer.write(transition::Reap { policy: policy.clone(), limit }).await
    }

    async fn cancel(&self, id: &str) -> Result<Job> {
        self.writer.write(transition::Cancel { id: id.to_owned() }).await
    }

    async fn retry(&self, id: &str, delay: Duration) -> Result<Job> {
        self.writer.write(transition::Retry { id: id.to_owned(), delay }).await
    }

    async fn purge(&self, state: JobState, older_than: Duration, limit: usize) -> Result<Vec<String>> {
        self.writer.write(transition::Purge { state, older_than, limit }).await
    }

    async fn job(&self, id: &str) -> Result<Option<Job>> {
        job::find(&self.readers, id).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        job::list(&self.readers, filter).await
    }

    async fn stats(&self) -> Result<QueueStats> {
        job::stats(&self.readers).await
    }

    fn wakeups(&self) -> watch::Receiver<u64> {
        self.wakeups.subscribe()
    }
}

#[async_trait]
impl LeaderLock for SqliteStore {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Option<Lease>> {
        self.writer.write(lease::Acquire { request: request.clone() }).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool> {
        self.writer.write(lease::Renew { lease: lease.clone(), ttl }).await
    }

    async fn release(&self, lease: &Lease) -> Result<bool> {
        let released = self.writer.write(lease::Release { lease: lease.clone() }).await?;
        if released {
            self.vacancies.send_modify(|count| *count = count.wrapping_add(1));
        }
        Ok(released)
    }

    async fn raise(&self, name: &str, floor: u64) -> Result<u64> {
        self.writer.write(lease::Raise { name: name.to_owned(), floor }).await
    }

    fn vacancies(&self) -> watch::Receiver<u64> {
        self.vacancies.subscribe()
    }

    async fn inspect(&self, name: &str) -> Result<Option<LeaseInfo>> {
        lease::inspect(&self.readers, name, self.clock.now()).await
    }
}
