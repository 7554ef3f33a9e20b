//! A store that can be cut off, nodes that only lead, and a recorder of gauges.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::clock::{Clock, ManualClock};
use certlib_core::lock::{LeaderLock, Lease, LeaseInfo, LeaseRequest};
use certlib_core::memory::{MemorySnapshot, MemoryStore};
use certlib_core::queue::{
    Claim, ClaimRequest, Enqueued, Extension, Job, JobFilter, JobQueue, JobState, NewJob, QueueStats, RetryPolicy,
    Settlement,
};
use certlib_core::runtime::{Role, RunningRuntime, Runtime, RuntimeBuilder};
use certlib_core::scheduler::{Leadership, Sweep, Watchdog};
use certlib_core::secret::{Keyring, KeyringEnvelope};
use certlib_core::store::{Commit, Condition, Page, Query, RawRecord, Store, WriteBatch};
use certlib_core::{Error, Result};
use futures::FutureExt as _;
use metrics::{Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::sync::watch;

use crate::common::START;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It does not arrive, and nobody says so.
    BlackHole,
    /// It does not arrive, which is known at once.
    Refused,
    /// It is done, and an error arrives instead of the answer.
    AnswerLost,
    /// It is done, and nothing arrives.
    Silence,
}

/// A store in memory whose calls may go wrong.
#[derive(Debug)]
pub(crate) struct Faulty {
    pub(crate) inner: MemoryStore,
    clock: ManualClock,
    faults: Mutex<HashMap<&'static str, (Fault, usize)>>,
    /// When commits of a leader were begun, and under which epoch.
    pub(crate) led: Mutex<Vec<(Duration, u64)>>,
    /// When the last request that was answered with a lease was begun.
    pub(crate) granted: Mutex<Duration>,
    /// What the store is set back to right before it grants the next lease.
    pub(crate) set_back: Mutex<Option<MemorySnapshot>>,
    /// What must be zero whenever a lease is given back.
    pub(crate) guarded: AtomicUsize,
    pub(crate) releases: AtomicUsize,
}

/// Everything that goes to the store.
pub(crate) const ALL: [&str; 6] = ["acquire", "renew", "release", "inspect", "commit", "read"];

impl Faulty {
    /// The next `times` calls of `what` go wrong.
    pub(crate) fn fail(&self, what: &'static str, fault: Fault, times: usize) {
        self.faults.lock().unwrap().insert(what, (fault, times));
    }

    pub(crate) fn heal(&self) {
        self.faults.lock().unwrap().clear();
    }

    async fn pass<T>(&self, what: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let fault = match self.faults.lock().unwrap().get_mut(what) {
            Some((fault, times)) if *times > 0 => {
                *times -= 1;
                Some(*fault)
            }
            _ => None,
        };
        let away = || Error::network("faulty.call", "reset", "the connection is gone");
        match fault {
            None => call.await,
            Some(Fault::BlackHole) => pending().await,
            Some(Fault::Refused) => Err(away()),
            Some(Fault::AnswerLost) => {
                call.await?;
                Err(away().with_effect(certlib_core::Effect::Possible))
            }
            Some(Fault::Silence) => {
                call.await?;
                pending().await
            }
        }
    }

    fn note_grant(&self, sent: Duration) {
        *self.granted.lock().unwrap() = sent;
    }
}

#[async_trait]
impl LeaderLock for Faulty {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Option<Lease>> {
        let sent = self.clock.monotonic();
        if let Some(backup) = self.set_back.lock().unwrap().take() {
            self.inner.restore(&backup);
        }
        let lease = self.pass("acquire", self.inner.acquire(request)).await?;
        if lease.is_some() {
            self.note_grant(sent);
        }
        Ok(lease)
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool> {
        let sent = self.clock.monotonic();
        let held = self.pass("renew", self.inner.renew(lease, ttl)).await?;
        if held {
            self.note_grant(sent);
        }
        Ok(held)
    }

    async fn release(&self, lease: &Lease) -> Result<bool> {
        assert_eq!(self.guarded.load(Ordering::SeqCst), 0, "given back while its work goes on");
        self.releases.fetch_add(1, Ordering::SeqCst);
        self.pass("release", self.inner.release(lease)).await
    }

    async fn inspect(&self, name: &str) -> Result<Option<LeaseInfo>> {
        self.pass("inspect", self.inner.inspect(name)).await
    }

    async fn raise(&self, name: &str, floor: u64) -> Result<u64> {
        self.inner.raise(name, floor).await
    }

    fn vacancies(&self) -> watch::Receiver<u64> {
        self.inner.vacancies()
    }
}

#[async_trait]
impl JobQueue for Faulty {
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
        self.pass("read", self.inner.stats()).await
    }

    fn wakeups(&self) -> watch::Receiver<u64> {
        self.inner.wakeups()
    }
}

#[async_trait]
impl Store for Faulty {
    async fn get(&self, kind: &str, id: &str) -> Result<Option<RawRecord>> {
        self.pass("read", self.inner.get(kind, id)).await
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        self.pass("read", self.inner.query(query)).await
    }

    async fn commit(&self, batch: WriteBatch) -> Result<Commit> {
        if let Some(Condition::Lease(lease)) = batch.conditions.iter().find(|it| matches!(it, Condition::Lease(_))) {
            self.led.lock().unwrap().push((self.clock.monotonic(), lease.epoch));
        }
        self.pass("commit", self.inner.commit(batch)).await
    }
}

/// Nodes on one faulty store, in virtual time.
pub(crate) struct Nodes {
    pub(crate) clock: ManualClock,
    pub(crate) store: Arc<Faulty>,
    pub(crate) told: Arc<Mutex<Vec<Leadership>>>,
}

impl Nodes {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::new(START);
        let store = Faulty {
            inner: MemoryStore::new(Arc::new(clock.clone())),
            clock: clock.clone(),
            faults: Mutex::default(),
            led: Mutex::default(),
            granted: Mutex::default(),
            set_back: Mutex::default(),
            guarded: AtomicUsize::new(0),
            releases: AtomicUsize::new(0),
        };
        Self { clock, store: Arc::new(store), told: Arc::default() }
    }

    /// A node that works on no jobs and sweeps every second.
    pub(crate) fn builder(&self) -> RuntimeBuilder {
        let told = self.told.clone();
        Runtime::builder(self.store.clone(), Arc::new(KeyringEnvelope::new(Keyring::generate().unwrap())))
            .clock(Arc::new(self.clock.clone()))
            .watchdog(Watchdog::Task)
            .on_leadership(move |what| told.lock().unwrap().push(what.clone()))
            .settings(|settings| {
                settings.roles = vec![Role::Scheduler];
                settings.sweep_interval = Duration::from_secs(1);
            })
    }

    pub(crate) fn start(&self, sweep: impl Sweep) -> RunningRuntime {
        self.builder().sweep(sweep).build().unwrap().start()
    }

    /// Lets everything run that can run now.
    pub(crate) async fn settle(&self) {
        for _ in 0..40 {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.settle().await;
    }

    /// Moves on in steps until `done`; says how long that took, which may not be longer than `limit`.
    pub(crate) async fn until(&self, step: Duration, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
        let begun = self.clock.monotonic();
        self.settle().await;
        while !done() {
            assert!(self.clock.monotonic() - begun < limit, "it did not happen within {limit:?}");
            self.pass(step).await;
        }
        self.clock.monotonic() - begun
    }

    pub(crate) async fn epoch(&self) -> u64 {
        self.store.inner.inspect(certlib_core::scheduler::LEASE).await.unwrap().map_or(0, |lease| lease.epoch)
    }
}

/// What a scrape of `node` shows at this moment, even if it cannot wait for the store.
pub(crate) fn scrape(node: &RunningRuntime) -> HashMap<String, f64> {
    let gauges = Gauges::default();
    metrics::with_local_recorder(&gauges, || drop(node.record_metrics().now_or_never()));
    let values = gauges.values.lock().unwrap();
    values.iter().map(|(name, value)| (name.clone(), *value.0.lock().unwrap())).collect()
}

#[derive(Default)]
struct Gauges {
    values: Mutex<HashMap<String, Arc<Value>>>,
}

#[derive(Default)]
struct Value(Mutex<f64>);

impl GaugeFn for Value {
    fn increment(&self, value: f64) {
        *self.0.lock().unwrap() += value;
    }

    fn decrement(&self, value: f64) {
        *self.0.lock().unwrap() -= value;
    }

    fn set(&self, value: f64) {
        *self.0.lock().unwrap() = value;
    }
}

impl Recorder for Gauges {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = if labels.is_empty() { key.name().to_owned() } else { format!("{}{labels:?}", key.name()) };
        Gauge::from_arc(self.values.lock().unwrap().entry(name).or_default().clone())
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
