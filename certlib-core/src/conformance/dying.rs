//! A store whose process dies at its n-th write: shows that whatever runs on it can be resumed.
//!
//! Run the same work once for each `n` until it survives, resume on the store underneath, and look at what is left.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::lock::{LeaderLock, Lease, LeaseInfo, LeaseRequest};
use crate::queue::{
    Claim, ClaimRequest, Enqueued, Extension, Job, JobFilter, JobQueue, JobState, NewJob, QueueStats, RetryPolicy,
    Settlement,
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
    writes: AtomicUsize,
    death: Death,
    on_death: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for DyingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DyingStore").field("left", &self.left).field("death", &self.death).finish_non_exhaustive()
    }
}

impl DyingStore {
    /// Dies at write number `nth` (from 1), be it a commit or a settlement: every later call fails.
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
        let (left, writes) = (AtomicUsize::new(nth), AtomicUsize::new(0));
        Arc::new(Self { inner, left, writes, death, on_death: Box::new(on_death) })
    }

    /// Lives until it is [killed](Self::kill).
    pub fn mortal(inner: SharedStore) -> Arc<Self> {
        Self::new(inner, usize::MAX, Death::Before)
    }

    /// Dies now: every later call fails.
    pub fn kill(&self) {
        self.left.store(0, Ordering::SeqCst);
    }

    /// How many writes it was asked for while it lived.
    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// Whether it has died.
    pub fn is_dead(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    /// Does what is written, unless the process died before; dies in the last write allowed.
    async fn write<T>(&self, write: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let count_down = |left: usize| left.checked_sub(1);
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count_down).map_err(|_| dead())?;
        self.writes.fetch_add(1, Ordering::SeqCst);
        if left == 1 {
            if self.death == Death::After {
                write.await?;
            }
            (self.on_death)();
            return Err(dead());
        }
        write.await
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
        self.write(self.inner.commit(batch)).await
    }
}

#[async_trait]
impl JobQueue for DyingStore {
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        self.alive()?;
        self.inner.enqueue(jobs).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>> {
        self.alive()?;
        self.inner.claim(request).await
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<Extension>> {
        self.alive()?;
        self.inner.extend(claims, lease).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>> {
        self.write(self.inner.settle(settlements)).await
    }

    async fn reap(&self, policy: &RetryPolicy, limit: usize) -> Result<Vec<Job>> {
        self.alive()?;
        self.inner.reap(policy, limit).await
    }

    async fn cancel(&self, id: &str) -> Result<Job> {
        self.alive()?;
        self.inner.cancel(id).await
    }

    async fn retry(&self, id: &str, delay: Duration) -> Result<Job> {
        self.alive()?;
        self.inner.retry(id, delay).await
    }

    async fn purge(&self, state: JobState, older_than: Duration, limit: usize) -> Result<Vec<String>> {
        self.alive()?;
        self.inner.purge(state, older_than, limit).await
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
    async fn acquire(&self, request: &LeaseRequest) -> Result<Option<Lease>> {
        self.alive()?;
        self.inner.acquire(request).await
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

    async fn raise(&self, name: &str, floor: u64) -> Result<u64> {
        self.alive()?;
        self.inner.raise(name, floor).await
    }

    fn vacancies(&self) -> watch::Receiver<u64> {
        self.inner.vacancies()
    }
}
