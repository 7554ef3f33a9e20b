//! The store: every call, through its share of the connections.

use std::fmt;
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

use crate::database::Database;
use crate::gate::{Gate, Gates};
use crate::options::MongoOptions;
use crate::transaction::transact;
use crate::transition::{Cancel, Purge, Retry};
use crate::watch::Watcher;
use crate::{commit, enqueue, job, lease, open, query, queue, transition};

/// A [`Store`] in a MongoDB replica set.
///
/// Clones and lane views share one pool of connections and one change stream, which end with the last of them.
///
/// # Lanes
/// The pool is divided ([`MongoOptions::max_pool_size`]): a call takes a place in its share before it takes a
/// connection, so at most as many connections as the share has are in use for it. The view that [`Store::lane`] gives
/// has the share of that lane, and the store itself, which leads, beats and answers operators, has a share as well. A
/// lane whose every call hangs makes its own calls wait, and nobody else's.
///
/// # A node that is killed
/// What it had locked in an open transaction stays locked until the server ends that transaction: after
/// `transactionLifetimeLimitSeconds`, 60 by default, which is as long as a job is leased. Whoever shortens the leases
/// of jobs or of the leader should shorten that as well. Other jobs and records are not held up.
///
/// # Cancel safety
/// Dropping the future of a write leaves it either made or not. A claim that was made and never heard of is taken back
/// when its lease has passed.
#[derive(Clone)]
pub struct MongoStore {
    shared: Arc<Shared>,
    gate: Gate,
}

struct Shared {
    database: Arc<Database>,
    gates: Gates,
    _watcher: Watcher,
}

impl fmt::Debug for MongoStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoStore").field("database", &self.shared.database.handle.name()).finish_non_exhaustive()
    }
}

impl MongoStore {
    /// Connects to the replica set at `url`, a connection string such as
    /// `mongodb://user:password@host-1,host-2/certlib?replicaSet=rs0&tls=true`, checks that it keeps what certlib
    /// promises, and creates or upgrades its collections, which are all named `certlib_*`. The user needs the role
    /// `readWrite` on the database.
    ///
    /// The password is neither shown nor logged.
    ///
    /// # Errors
    /// `IoPermanent` with `setting`, `found` and `needed`: `write_concern`, `journal`, `read_preference` and
    /// `read_concern` when the connection string asks for less than is needed; `topology` for a server without
    /// replication, a sharded cluster, or a secondary; `server_version`; `feature_compatibility`; `storage_engine`;
    /// `clock_skew`. `IoPermanent` `url_invalid`, `database_name_invalid`, `schema_version` and `schema_conflict`.
    /// `Auth` when the login or a permission is refused; `Network` when no primary answers.
    pub async fn connect(url: &SecretString, options: MongoOptions) -> Result<Self> {
        let opened = tokio::time::timeout(options.operation_timeout, open::open(url.expose(), &options)).await;
        let database = Arc::new(opened.map_err(|_| crate::error::timed_out("store.open"))??);
        let watcher = Watcher::start(&database).await;
        let gates = Gates::new(options.max_pool_size, options.operation_timeout);
        let gate = gates.shared();
        Ok(Self { shared: Arc::new(Shared { database, gates, _watcher: watcher }), gate })
    }

    pub(crate) fn database(&self) -> &Database {
        &self.shared.database
    }
}

#[async_trait]
impl Store for MongoStore {
    async fn get(&self, kind: &str, id: &str) -> Result<Option<RawRecord>> {
        self.gate.read("store.get", query::get(self.database(), kind, id)).await
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        self.gate.read("store.query", query::query(self.database(), query)).await
    }

    async fn commit(&self, batch: WriteBatch) -> Result<Commit> {
        batch.jobs.iter().try_for_each(NewJob::check)?;
        self.gate.write("store.commit", commit::commit(self.database(), batch)).await
    }

    fn lane(&self, lane: Lane) -> Option<SharedStore> {
        let gate = self.shared.gates.lane(lane);
        Some(Arc::new(Self { shared: self.shared.clone(), gate }))
    }
}

#[async_trait]
impl JobQueue for MongoStore {
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        jobs.iter().try_for_each(NewJob::check)?;
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        self.gate.write("queue.enqueue", enqueue::enqueue(self.database(), &jobs)).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>> {
        self.gate.write("queue.claim", queue::claim(self.database(), request)).await
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<Extension>> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        self.gate.write("queue.extend", queue::extend(self.database(), claims, lease)).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>> {
        if settlements.is_empty() {
            return Ok(Vec::new());
        }
        self.gate.write("queue.settle", transition::settle(self.database(), settlements)).await
    }

    async fn reap(&self, policy: &RetryPolicy, limit: usize) -> Result<Vec<Job>> {
        self.gate.write("queue.reap", transition::reap(self.database(), policy, limit)).await
    }

    async fn cancel(&self, id: &str) -> Result<Job> {
        self.gate.write("queue.cancel", transact(self.database(), &Cancel { id: id.to_owned() })).await
    }

    async fn retry(&self, id: &str, delay: Duration) -> Result<Job> {
        self.gate.write("queue.retry", transact(self.database(), &Retry { id: id.to_owned(), delay })).await
    }

    async fn purge(&self, state: JobState, older_than: Duration, limit: usize) -> Result<Vec<String>> {
        self.gate.write("queue.purge", transact(self.database(), &Purge { state, older_than, limit })).await
    }

    async fn job(&self, id: &str) -> Result<Option<Job>> {
        self.gate.read("queue.job", job::find(self.database(), id)).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        self.gate.read("queue.jobs", job::list(self.database(), filter)).await
    }

    async fn stats(&self) -> Result<QueueStats> {
        self.gate.read("queue.stats", job::stats(self.database())).await
    }

    fn wakeups(&self) -> watch::Receiver<u64> {
        self.database().wakeups.subscribe()
    }
}

#[async_trait]
impl LeaderLock for MongoStore {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Option<Lease>> {
        self.gate.write("lock.acquire", lease::acquire(self.database(), request)).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool> {
        self.gate.write("lock.renew", lease::renew(self.database(), lease, ttl)).await
    }

    async fn release(&self, lease: &Lease) -> Result<bool> {
        self.gate.write("lock.release", lease::release(self.database(), lease)).await
    }

    async fn inspect(&self, name: &str) -> Result<Option<LeaseInfo>> {
        self.gate.read("lock.inspect", lease::inspect(self.database(), name)).await
    }

    async fn raise(&self, name: &str, floor: u64) -> Result<u64> {
        self.gate.write("lock.raise", lease::raise(self.database(), name, floor)).await
    }

    fn vacancies(&self) -> watch::Receiver<u64> {
        self.database().vacancies.subscribe()
    }
}
