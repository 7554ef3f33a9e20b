//! PostgreSQL, 12 or newer: any number of processes on any number of hosts share one database.
//!
//! - Every commit is durable when it returns. A server that says otherwise is refused when the store is opened, and so
//!   are standbys, and poolers that hand sessions from client to client.
//! - Times are measured by the database's own clock, in whole milliseconds, so that the clocks of the hosts decide
//!   nothing.
//! - Jobs are claimed and settled in batches of one statement each; workers of other processes hear of new jobs at once.
//! - Each lane has connections of its own ([`Store::lane`]), and so have heartbeats and the leader: a lane whose
//!   connections are all stuck delays no other.
//! - A leader that was killed is replaced as soon as a candidate looks, not only when its lease ends: the database knows
//!   that its session is gone. What makes two leaders harmless is the epoch, which every commit of a leader checks while
//!   it keeps others from being granted the lease; a leader that merely lost its connection is therefore fenced like any
//!   other.
//!
//! All tables are named `certlib_*`, in the first existing schema of the connection's search path.

mod address;
mod commit;
mod error;
mod job;
mod lease;
mod notify;
mod open;
mod options;
#[cfg(test)]
mod plans;
mod query;
mod queue;
mod schema;
mod session;
mod transition;

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
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::watch;

use self::address::Address;
use self::lease::Leases;
use self::notify::{Listener, Wakeups};
pub use self::options::PostgresOptions;
use self::session::Sessions;

/// A [`Store`] in a PostgreSQL database.
///
/// Clones, and the views that [`Store::lane`] gives, share everything. Dropping the last one closes the connections in
/// the background; [`PostgresStore::close`] waits for it.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    shared: Arc<Shared>,
    /// The connections that this clone or view uses.
    sessions: Sessions,
}

#[derive(Debug)]
struct Shared {
    control: Sessions,
    lanes: Vec<(Lane, Sessions)>,
    leases: Leases,
    listener: Listener,
    listener_pool: PgPool,
}

impl PostgresStore {
    /// Connects to the database at `url`, looks whether the server can be trusted with it, creates or upgrades its
    /// tables, and starts to listen for other processes on the current Tokio runtime.
    ///
    /// The URL is `postgres://user:password@host:port/database?name=value&..`. TLS: `sslmode` is `disable`, `prefer`
    /// (as always when nothing is said: encrypted if the server can, but nobody is authenticated), `require`,
    /// `verify-ca` or `verify-full`; with `sslrootcert`, a file of roots that are trusted beside the public ones,
    /// `verify-full` goes without saying; `sslcert` and `sslkey` name a client certificate. Over any network that
    /// others can reach, use `verify-full`.
    ///
    /// # Errors
    /// `IoPermanent` with the setting, what was found and what is needed: `postgres_version`, `encoding_unfit`,
    /// `hot_standby`, `read_only`, `synchronous_commit_off`, `durability_off` (`fsync`, `full_page_writes`),
    /// `schema_missing`, `transaction_pooler`, `clock_skew`; `schema_version` with what the database has and what this
    /// version needs; `database_missing`, `permission_denied`. `Validation` `url_invalid`, `Auth` `login_refused` and
    /// `tls_failed`; `Network` and `IoTransient` while the server is away. No error holds the password.
    ///
    /// # Cancel safety
    /// The tables are there or not; nothing else is left behind.
    pub async fn connect(url: &SecretString, options: PostgresOptions) -> Result<Self> {
        Self::connect_with(Address::parse(url)?, options).await
    }

    /// Like [`PostgresStore::connect`], with connection parameters put together by the caller. Note that their `Debug`
    /// shows the password.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`].
    pub async fn connect_with(connection: PgConnectOptions, options: PostgresOptions) -> Result<Self> {
        let address = Address::new(connection, &options);
        let schema = open::check(&address, &options).await?;
        schema::migrate(&address).await?;
        let wakeups = Wakeups::new(&schema);
        let sessions = |connections| Sessions {
            pool: address.pool(connections),
            clock: options.clock.clone(),
            wakeups: wakeups.clone(),
            statement_timeout: options.statement_timeout,
        };
        let control = sessions(options.control_connections.max(1));
        let lanes = Lane::ALL.into_iter().map(|lane| (lane, sessions(options.lane_connections.max(1)))).collect();
        let leases = Leases::new(address.clone(), control.clone());
        // One that listens, and one for the moment when that one is being replaced.
        let listener_pool = address.pool(2);
        let listener = Listener::start(listener_pool.clone(), wakeups.clone()).await;
        let shared = Shared { control: control.clone(), lanes, leases, listener, listener_pool };
        Ok(Self { shared: Arc::new(shared), sessions: control })
    }

    /// Waits for the operations that run, and closes every connection. Leases that are still held can be taken by
    /// others from then on. Everything after that fails with `store_closed`.
    pub async fn close(&self) {
        let shared = &*self.shared;
        shared.listener.stop();
        let pools = shared.lanes.iter().map(|(_, sessions)| &sessions.pool).chain([&shared.control.pool]);
        futures::future::join_all(pools.map(PgPool::close)).await;
        shared.leases.close().await;
        shared.listener_pool.close().await;
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn get(&self, kind: &str, id: &str) -> Result<Option<RawRecord>> {
        self.sessions.run("store.get", &query::Get { kind, id }).await
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        self.sessions.run("store.query", &query::Select { query }).await
    }

    async fn commit(&self, batch: WriteBatch) -> Result<Commit> {
        batch.jobs.iter().try_for_each(NewJob::check)?;
        self.sessions.run("store.commit", &commit::Apply { batch: &batch }).await
    }

    fn lane(&self, lane: Lane) -> Option<SharedStore> {
        let (_, sessions) = self.shared.lanes.iter().find(|(other, _)| *other == lane)?;
        Some(Arc::new(Self { shared: self.shared.clone(), sessions: sessions.clone() }))
    }
}

#[async_trait]
impl JobQueue for PostgresStore {
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        jobs.iter().try_for_each(NewJob::check)?;
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        // One statement, where that is enough.
        if jobs.iter().all(|job| job.key.is_none()) {
            if self.sessions.run("queue.enqueue", &queue::EnqueueNew { jobs: &jobs }).await? {
                return Ok(jobs.into_iter().map(|job| Enqueued { id: job.id, deduplicated: false }).collect());
            }
        } else if let [job] = &*jobs
            && let Some(enqueued) = self.sessions.run("queue.enqueue", &queue::EnqueueOne { job }).await?
        {
            return Ok(vec![enqueued]);
        }
        self.sessions.run("queue.enqueue", &queue::Enqueue { jobs: &jobs }).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>> {
        if request.limit == 0 {
            return Ok(Vec::new());
        }
        self.sessions.run("queue.claim", &queue::ClaimDue { request }).await
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<Extension>> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        // A lane that keeps its connections busy must not lose its claims for it.
        self.shared.control.run("queue.extend", &queue::Extend { claims, lease }).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>> {
        if settlements.is_empty() {
            return Ok(Vec::new());
        }
        if !transition::Succeed::fits(&settlements) {
            return self.sessions.run("queue.settle", &transition::Settle { settlements: &settlements }).await;
        }
        let mut settled = self.sessions.run("queue.settle", &transition::Succeed { settlements: &settlements }).await?;
        let mut accepted: Vec<bool> = settlements.iter().map(|settlement| settled.remove(&settlement.claim)).collect();
        let rest: Vec<usize> = (0..accepted.len()).filter(|&at| !accepted[at]).collect();
        if !rest.is_empty() {
            let left: Vec<Settlement> = rest.iter().map(|&at| settlements[at].clone()).collect();
            let late = self.sessions.run("queue.settle", &transition::Settle { settlements: &left }).await?;
            for (at, late) in rest.into_iter().zip(late) {
                accepted[at] = late;
            }
        }
        Ok(accepted)
    }

    async fn reap(&self, policy: &RetryPolicy, limit: usize) -> Result<Vec<Job>> {
        self.sessions.run("queue.reap", &transition::Reap { policy, limit }).await
    }

    async fn cancel(&self, id: &str) -> Result<Job> {
        self.sessions.run("queue.cancel", &transition::Cancel { id }).await
    }

    async fn retry(&self, id: &str, delay: Duration) -> Result<Job> {
        self.sessions.run("queue.retry", &transition::Retry { id, delay }).await
    }

    async fn purge(&self, state: JobState, older_than: Duration, limit: usize) -> Result<Vec<String>> {
        if state.is_active() {
            return Ok(Vec::new());
        }
        self.sessions.run("queue.purge", &transition::Purge { state, older_than, limit }).await
    }

    async fn job(&self, id: &str) -> Result<Option<Job>> {
        self.sessions.run("queue.job", &job::Find { id }).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        self.sessions.run("queue.jobs", &job::List { filter }).await
    }

    async fn stats(&self) -> Result<QueueStats> {
        self.sessions.run("queue.stats", &job::Stats).await
    }

    fn wakeups(&self) -> watch::Receiver<u64> {
        self.sessions.wakeups.jobs.subscribe()
    }
}

#[async_trait]
impl LeaderLock for PostgresStore {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Option<Lease>> {
        self.shared.leases.acquire(request).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool> {
        self.shared.leases.renew(lease, ttl).await
    }

    async fn release(&self, lease: &Lease) -> Result<bool> {
        self.shared.leases.release(lease).await
    }

    async fn raise(&self, name: &str, floor: u64) -> Result<u64> {
        self.shared.leases.raise(name, floor).await
    }

    fn vacancies(&self) -> watch::Receiver<u64> {
        self.sessions.wakeups.leases.subscribe()
    }

    async fn inspect(&self, name: &str) -> Result<Option<LeaseInfo>> {
        self.shared.leases.inspect(name).await
    }
}
