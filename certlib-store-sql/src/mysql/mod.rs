//! MySQL and MariaDB: several hosts, one server.
//!
//! - MariaDB from 10.6, MySQL from 8.0.11; InnoDB only. A server that could forget an acknowledged commit is refused.
//! - All tables are named `certlib_*`; texts are kept as bytes, so nothing depends on the server's collations.
//! - Times are whole Unix milliseconds by the server's own clock, read in the statement that uses them.
//! - The server wakes nobody: whoever enqueues wakes the workers of its own process, and the others find the job when
//!   they next poll.
//! - A leader that dies is replaced as soon as a candidate asks, because its connection dies with it; see
//!   [`MysqlStore`].

mod check;
mod commit;
mod database;
mod error;
mod job;
mod lease;
mod open;
mod options;
#[cfg(test)]
mod plans;
mod query;
mod queue;
mod rows;
mod schema;
mod transition;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::error::Result;
use certlib_core::lock::{LeaderLock, Lease, LeaseInfo, LeaseRequest};
use certlib_core::queue::{
    Claim, ClaimRequest, Enqueued, Extension, Job, JobFilter, JobQueue, JobState, Lane, NewJob, QueueStats,
    RetryPolicy, Settlement,
};
use certlib_core::secret::SecretString;
use certlib_core::store::{Commit, Page, Query, RawRecord, SharedStore, Store, WriteBatch};
use tokio::sync::watch;

use self::database::{Database, Done};
use self::error::uncertain;
use self::lease::Leases;
pub use self::options::{MysqlOptions, MysqlTls};

/// A [`Store`] in a MySQL or MariaDB database.
///
/// Clones share everything. [`Store::lane`] gives a view with connections of its own, over which only that lane works;
/// its heartbeats and leases go over the connections of the store itself.
///
/// # Leases
/// Each lease that this process holds has a connection to itself, which holds a lock of the server (`GET_LOCK`) named
/// after the lease and its epoch. When the process dies, the server frees the lock, and the next candidate that asks
/// takes the lease without waiting for its end. That is safe: the former leader is kept from writing by the epoch, which
/// every commit of a leader compares, and not by the time. When only the connection breaks, the next renewal opens
/// another one and takes the lock again, unless somebody took the lease meanwhile. A server that was restarted since,
/// or another server of a cluster, does not count as a witness.
#[derive(Debug, Clone)]
pub struct MysqlStore {
    /// The connections of this view.
    work: Database,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The connections of the store itself.
    control: Database,
    lanes: BTreeMap<Lane, Database>,
    leases: Leases,
    wakeups: watch::Sender<u64>,
    vacancies: watch::Sender<u64>,
}

impl MysqlStore {
    /// Connects to the database that `url` names (`mysql://user:password@host:port/database`), checks its server, and creates
    /// or upgrades its tables. The database must exist, and the user must be allowed to do everything in it; nothing
    /// outside it is needed.
    ///
    /// # Errors
    /// `IoPermanent` naming setting, found and needed: `server_version`, `durability_off`, `server_read_only`,
    /// `engine_unsuitable`, `packet_too_small`, `binlog_format`, `clock_skew`; `schema_version` with have and need;
    /// `database_missing`. `Validation` `url_invalid`; `Auth` `access_denied`; `Network` `unreachable` or `tls_failed`;
    /// `IoTransient` `migration_busy`.
    pub async fn connect(url: &SecretString, options: MysqlOptions) -> Result<Self> {
        let connector = open::open(url.expose(), &options).await?;
        let database = |connections| Database {
            pool: connector.pool(connections),
            clock: options.clock.clone(),
            packet: connector.packet,
            patience: connector.patience,
        };
        let control = database(options.connections);
        let lanes = Lane::ALL.into_iter().map(|lane| (lane, database(options.lane_connections))).collect();
        let shared = Shared {
            control: control.clone(),
            lanes,
            leases: Leases::new(connector.clone()),
            wakeups: watch::Sender::new(0),
            vacancies: watch::Sender::new(0),
        };
        Ok(Self { work: control, shared: Arc::new(shared) })
    }

    /// Waits for what is running and closes all connections. Everything after that fails with `store_closed`. Leases
    /// that were not released can be taken by others at once.
    pub async fn close(&self) {
        self.shared.leases.close().await;
        for database in self.shared.lanes.values().chain([&self.shared.control]) {
            database.pool.close().await;
        }
    }

    fn told<T>(&self, done: Done<T>) -> T {
        if done.became_due {
            bump(&self.shared.wakeups);
        }
        done.output
    }

    async fn insert(&self, jobs: &[NewJob]) -> Result<Vec<Enqueued>> {
        if let Some(enqueued) = self.told(self.work.statement(&queue::Insert { jobs }).await?) {
            return Ok(enqueued);
        }
        Ok(self.told(self.work.transaction(&queue::Enqueue { jobs }).await?))
    }
}

fn bump(counter: &watch::Sender<u64>) {
    counter.send_modify(|count| *count = count.wrapping_add(1));
}

#[async_trait]
impl Store for MysqlStore {
    async fn get(&self, kind: &str, id: &str) -> Result<Option<RawRecord>> {
        self.work.read(&query::Get { kind, id }).await
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        self.work.read(&query::Find { query }).await
    }

    async fn commit(&self, batch: WriteBatch) -> Result<Commit> {
        batch.jobs.iter().try_for_each(NewJob::check)?;
        Ok(self.told(self.work.transaction(&commit::Apply { batch: &batch }).await?))
    }

    fn lane(&self, lane: Lane) -> Option<SharedStore> {
        let work = self.shared.lanes.get(&lane)?.clone();
        Some(Arc::new(Self { work, shared: self.shared.clone() }))
    }
}

#[async_trait]
impl JobQueue for MysqlStore {
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        jobs.iter().try_for_each(NewJob::check)?;
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        self.insert(&jobs).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>> {
        if request.limit == 0 {
            return Ok(Vec::new());
        }
        // Idle workers ask often: that must cost neither a transaction nor a lock.
        match self.work.read(&queue::MostUrgent { lane: request.lane }).await? {
            Some(urgency) => Ok(self.work.transaction(&queue::ClaimDue { request, urgency }).await?.output),
            None => Ok(Vec::new()),
        }
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<Extension>> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.shared.control.statement(&queue::Extend { claims, lease }).await?.output)
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>> {
        let answers = self.work.statement(&transition::Succeed { settlements: &settlements }).await?.output;
        let open: Vec<_> =
            settlements.iter().zip(&answers).filter(|(_, answer)| answer.is_none()).map(|(one, _)| one).collect();
        let some_done = open.len() < settlements.len();
        let mut rest = match open.is_empty() {
            true => Vec::new(),
            false => {
                let done = self.work.transaction(&transition::Settle { settlements: open }).await;
                self.told(done.map_err(|error| if some_done { uncertain(error) } else { error })?)
            }
        }
        .into_iter();
        Ok(answers.into_iter().map(|answer| answer.or_else(|| rest.next()).unwrap_or(false)).collect())
    }

    async fn reap(&self, policy: &RetryPolicy, limit: usize) -> Result<Vec<Job>> {
        Ok(self.told(self.work.transaction(&transition::Reap { policy, limit }).await?))
    }

    async fn cancel(&self, id: &str) -> Result<Job> {
        Ok(self.told(self.work.transaction(&transition::Cancel { id }).await?))
    }

    async fn retry(&self, id: &str, delay: Duration) -> Result<Job> {
        Ok(self.told(self.work.transaction(&transition::Retry { id, delay }).await?))
    }

    async fn purge(&self, state: JobState, older_than: Duration, limit: usize) -> Result<Vec<String>> {
        if state.is_active() {
            return Ok(Vec::new());
        }
        Ok(self.work.transaction(&transition::Purge { state, older_than, limit }).await?.output)
    }

    async fn job(&self, id: &str) -> Result<Option<Job>> {
        self.work.read(&job::Find { id }).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        self.work.read(&job::List { filter }).await
    }

    async fn stats(&self) -> Result<QueueStats> {
        self.work.read(&job::Stats).await
    }

    fn wakeups(&self) -> watch::Receiver<u64> {
        self.shared.wakeups.subscribe()
    }
}

#[async_trait]
impl LeaderLock for MysqlStore {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Option<Lease>> {
        self.shared.leases.acquire(&self.shared.control, request).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool> {
        self.shared.leases.renew(&self.shared.control, lease, ttl).await
    }

    async fn release(&self, lease: &Lease) -> Result<bool> {
        let released = self.shared.leases.release(&self.shared.control, lease).await?;
        if released {
            bump(&self.shared.vacancies);
        }
        Ok(released)
    }

    async fn raise(&self, name: &str, floor: u64) -> Result<u64> {
        Ok(self.shared.control.transaction(&lease::Raise { name, floor }).await?.output)
    }

    fn vacancies(&self) -> watch::Receiver<u64> {
        self.shared.vacancies.subscribe()
    }

    async fn inspect(&self, name: &str) -> Result<Option<LeaseInfo>> {
        self.shared.control.read(&lease::Inspect { name }).await
    }
}
