//! A store whose process dies at its n-th commit: shows that whatever runs on it can be resumed.
//!
//! Run the same work once for each `n` until it survives, resume on the store underneath, and look at what is left.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::lock::{LeaderLock, Lease, LeaseInfo};
use crate::queue::{
    Claim, Enqueued, Extension, Job, JobFilter, JobQueue, Lane, NewJob, QueueStats, RetryPolicy, Settlement,
};
use crate::store::{Commit, Page, Query, RawRecord, SharedStore, Store, WriteBatch};
use async_trait::async_trait;
use tokio::sync::watch;

/// When the write that kills the process takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It is not applied.
    Before,
    /// It is applied, and the answer is lost.
    After,
}

/// A store that dies, on top of one that lives.
pub struct DyingStore {
    inner: SharedStore,
    left: AtomicUsize,
    death: Death,
    on_death: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for DyingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DyingStore").field("left", &self.left).field("death", &self.death).finish_non_exhaustive()
    }
}

impl DyingStore {
    /// Dies at commit number `nth` (from 1): every later call fails.
    pub fn new(inner: SharedStore, nth: usize, death: Death) -> Arc<Self> {
        Self::with_last_words(inner, nth, death, || {})
    }

    /// Calls `on_death` at the moment of death, for example to have the process killed for real.
    pub fn with_last_words(
        inner: SharedStore,
        nth: usize,
        death: Death,
        on_death: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { inner, left: AtomicUsize::new(nth), death, on_death: Box::new(on_death) })
    }

    /// Whether it has died.
    pub fn is_dead(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    fn alive(&self) -> Result<()> {
        if self.is_dead() { Err(dead()) } else { Ok(()) }
    }
}

fn dead() -> Error {
    Error::network("test.store", "dead", "the process is dead")
}

#[async_trait]
impl Store for DyingStore {
    async fn get(&self, kind: &str, id: &str) -> Result<Option<RawRecord>> {
        self.alive()?;
        self.inner.get(kind, id).await
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        self.alive()?;
        self.inner.query(query).await
    }

    async fn commit(&self, batch: WriteBatch) -> Result<Commit> {
        let count_down = |left: usize| left.checked_sub(1);
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count_down).map_err(|_| dead())?;
        // The last commit allowed is the one the process dies in.
        if left == 1 {
            if self.death == Death::After {
                self.inner.commit(batch).await?;
            }
            (self.on_death)();
            return Err(dead());
        }
        self.inner.commit(batch).await
    }
}

#[async_trait]
impl JobQueue for DyingStore {
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        self.alive()?;
        self.inner.enqueue(jobs).await
    }

    async fn claim(&self, lane: Lane, worker: &str, limit: usize, lease: Duration) -> Result<Vec<Job>> {
        self.alive()?;
        self.inner.claim(lane, worker, limit, lease).await
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<Extension>> {
        self.alive()?;
        self.inner.extend(claims, lease).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>> {
        self.alive()?;
        self.inner.settle(settlements).await
    }

    async fn reap(&self, policy: &RetryPolicy, limit: usize) -> Result<Vec<Job>> {
        self.alive()?;
        self.inner.reap(policy, limit).await
    }

    async fn cancel(&self, id: &str) -> Result<Job> {
        self.alive()?;
        self.inner.cancel(id).await
    }

    async fn retry(&self, id: &str) -> Result<Job> {
        self.alive()?;
        self.inner.retry(id).await
    }

    async fn job(&self, id: &str) -> Result<Option<Job>> {
        self.alive()?;
        self.inner.job(id).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        self.alive()?;
        self.inner.jobs(filter).await
    }

    async fn stats(&self) -> Result<QueueStats> {
        self.alive()?;
        self.inner.stats().await
    }

    fn wakeups(&self) -> watch::Receiver<u64> {
        self.inner.wakeups()
    }
}

#[async_trait]
impl LeaderLock for DyingStore {
    async fn acquire(&self, name: &str, holder: &str, ttl: Duration) -> Result<Option<Lease>> {
        self.alive()?;
        self.inner.acquire(name, holder, ttl).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool> {
        self.alive()?;
        self.inner.renew(lease, ttl).await
    }

    async fn release(&self, lease: &Lease) -> Result<bool> {
        self.alive()?;
        self.inner.release(lease).await
    }

    async fn inspect(&self, name: &str) -> Result<Option<LeaseInfo>> {
        self.alive()?;
        self.inner.inspect(name).await
    }
}
