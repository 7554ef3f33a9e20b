//! A store that calls before each commit.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::Result;
use certlib_core::lock::{LeaderLock, Lease, LeaseInfo, LeaseRequest};
use certlib_core::queue::{
    Claim, ClaimRequest, Enqueued, Extension, Job, JobFilter, JobQueue, JobState, NewJob, QueueStats, RetryPolicy,
    Settlement,
};
use certlib_core::store::{Commit, Page, Query, RawRecord, SharedStore, Store, WriteBatch};
use futures::future::BoxFuture;
use tokio::sync::watch;

type Hook = dyn Fn(&WriteBatch) -> BoxFuture<'static, ()> + Send + Sync;

/// Waits for its hook before each commit is passed on.
pub(crate) struct Hooked {
    inner: SharedStore,
    hook: Box<Hook>,
}

impl Hooked {
    pub(crate) fn new(
        inner: SharedStore,
        hook: impl Fn(&WriteBatch) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { inner, hook: Box::new(hook) })
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooked").finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for Hooked {
    async fn get(&self, kind: &str, id: &str) -> Result<Option<RawRecord>> {
        self.inner.get(kind, id).await
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        self.inner.query(query).await
    }

    async fn commit(&self, batch: WriteBatch) -> Result<Commit> {
        (self.hook)(&batch).await;
        self.inner.commit(batch).await
    }
}

#[async_trait]
impl LeaderLock for Hooked {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Option<Lease>> {
        self.inner.acquire(request).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool> {
        self.inner.renew(lease, ttl).await
    }

    async fn release(&self, lease: &Lease) -> Result<bool> {
        self.inner.release(lease).await
    }

    async fn inspect(&self, name: &str) -> Result<Option<LeaseInfo>> {
        self.inner.inspect(name).await
    }

    async fn raise(&self, name: &str, floor: u64) -> Result<u64> {
        self.inner.raise(name, floor).await
    }

    fn vacancies(&self) -> watch::Receiver<u64> {
        self.inner.vacancies()
    }
}

#[async_trait]
impl JobQueue for Hooked {
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        self.inner.enqueue(jobs).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>> {
        self.inner.claim(request).await
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<Extension>> {
        self.inner.extend(claims, lease).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>> {
        self.inner.settle(settlements).await
    }

    async fn reap(&self, policy: &RetryPolicy, limit: usize) -> Result<Vec<Job>> {
        self.inner.reap(policy, limit).await
    }

    async fn cancel(&self, id: &str) -> Result<Job> {
        self.inner.cancel(id).await
    }

    async fn retry(&self, id: &str, delay: Duration) -> Result<Job> {
        self.inner.retry(id, delay).await
    }

    async fn purge(&self, state: JobState, older_than: Duration, limit: usize) -> Result<Vec<String>> {
        self.inner.purge(state, older_than, limit).await
    }

    async fn job(&self, id: &str) -> Result<Option<Job>> {
        self.inner.job(id).await
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        self.inner.jobs(filter).await
    }

    async fn stats(&self) -> Result<QueueStats> {
        self.inner.stats().await
    }

    fn wakeups(&self) -> watch::Receiver<u64> {
        self.inner.wakeups()
    }
}
