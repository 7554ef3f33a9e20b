//! A store in memory: for tests, doctests, benches and simulation. Nothing survives the process.
//!
//! ```
//! use certlib_core::clock::SystemClock;
//! use certlib_core::memory::MemoryStore;
//! use certlib_core::queue::{ClaimRequest, JobQueue, Lane, NewJob};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> certlib_core::Result<()> {
//! let store = MemoryStore::new(SystemClock::shared());
//! store.enqueue(vec![NewJob::new("greet", Lane::Notification, serde_json::json!({"name": "Ada"}))]).await?;
//! let lease = std::time::Duration::from_secs(60);
//! let jobs = store.claim(&ClaimRequest::new(Lane::Notification, "worker-1", 10, lease)).await?;
//! assert_eq!(jobs[0].payload["name"], "Ada");
//! # Ok(())
//! # }
//! ```

mod jobs;
mod leases;
mod records;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;
use tokio::sync::watch;

use self::jobs::Jobs;
use self::leases::Leases;
use self::records::Records;
use crate::clock::Clock;
use crate::error::Result;
use crate::lock::{LeaderLock, Lease, LeaseInfo, LeaseRequest};
use crate::model::Event;
use crate::queue::{
    Claim, ClaimRequest, Enqueued, Extension, Job, JobFilter, JobQueue, JobState, NewJob, QueueStats, RetryPolicy,
    Settlement, later,
};
use crate::store::{Commit, Condition, Page, Query, RawRecord, Store, Write, WriteBatch};

/// A [`Store`] in memory, with the same promises as the durable ones except durability.
///
/// Everything is behind one mutex that is never held across an await, so every method is atomic and every future is
/// ready at the first poll. Queries cost what they return plus what their filters skip.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    wakeups: watch::Sender<u64>,
    vacancies: watch::Sender<u64>,
}

#[derive(Clone, Default)]
struct State {
    records: Records,
    jobs: Jobs,
    leases: Leases,
}

impl State {
    /// Whether the settlement was accepted; its event is written with it.
    fn settle(&mut self, settlement: &Settlement, now: OffsetDateTime) -> Result<bool> {
        let Some(event) = self.jobs.settle(settlement, now) else { return Ok(false) };
        self.write(event.as_slice())?;
        Ok(true)
    }

    fn write(&mut self, events: &[Event]) -> Result<()> {
        let writes = events.iter().map(Write::of).collect::<Result<_>>()?;
        self.records.apply(writes);
        Ok(())
    }
}

impl MemoryStore {
    /// An empty store that measures `run_at` and leases by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default(), wakeups: watch::Sender::new(0), vacancies: watch::Sender::new(0) }
    }

    /// A backup: all that is in the store now.
    #[cfg(feature = "conformance")]
    pub fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(self.lock().clone())
    }

    /// Sets the store back to an earlier state, as an operator would who restores a backup: leases and all. Times stay
    /// what they were, so what was leased then may have expired.
    #[cfg(feature = "conformance")]
    pub fn restore(&self, snapshot: &MemorySnapshot) {
        *self.lock() = snapshot.0.clone();
        bump(&self.wakeups);
    }

    /// Runs `change` alone, and then tells the workers if a job became due in it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (result, due) = {
            let mut state = self.lock();
            (change(&mut state), state.jobs.take_became_due())
        };
        if due {
            bump(&self.wakeups);
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No change can panic halfway: a poisoned state is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was in a [`MemoryStore`] at some moment.
#[cfg(feature = "conformance")]
#[derive(Clone)]
pub struct MemorySnapshot(State);

#[cfg(feature = "conformance")]
impl fmt::Debug for MemorySnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySnapshot").finish_non_exhaustive()
    }
}

fn bump(counter: &watch::Sender<u64>) {
    counter.send_modify(|count| *count = count.wrapping_add(1));
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, kind: &str, id: &str) -> Result<Option<RawRecord>> {
        Ok(self.lock().records.get(kind, id))
    }

    async fn query(&self, query: &Query) -> Result<Page> {
        Ok(self.lock().records.query(query))
    }

    async fn commit(&self, batch: WriteBatch) -> Result<Commit> {
        batch.jobs.iter().try_for_each(NewJob::check)?;
        let now = self.clock.now();
        self.change(|state| {
            for condition in &batch.conditions {
                match condition {
                    Condition::Record { kind, id, revision } => state.records.require(kind, id, *revision)?,
                    Condition::Claim(claim) => state.jobs.require(claim)?,
                    Condition::Lease(lease) => state.leases.require(lease)?,
                }
            }
            if let Some(settlement) = &batch.settlement {
                state.jobs.require(&settlement.claim)?;
            }
            // Nothing below fails, unless an event could not be encoded.
            let revisions = state.records.apply(batch.writes);
            if let Some(settlement) = &batch.settlement {
                state.settle(settlement, now)?;
            }
            let jobs = batch.jobs.into_iter().map(|job| state.jobs.enqueue(job, now)).collect();
            Ok(Commit::new(revisions, jobs))
        })
    }
}

#[async_trait]
impl JobQueue for MemoryStore {
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        jobs.iter().try_for_each(NewJob::check)?;
        let now = self.clock.now();
        Ok(self.change(|state| jobs.into_iter().map(|job| state.jobs.enqueue(job, now)).collect()))
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>> {
        let now = self.clock.now();
        Ok(self.change(|state| state.jobs.claim(request, now)))
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<Extension>> {
        let until = later(self.clock.now(), lease);
        Ok(self.change(|state| claims.iter().map(|claim| state.jobs.extend(claim, until)).collect()))
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>> {
        let now = self.clock.now();
        self.change(|state| settlements.iter().map(|settlement| state.settle(settlement, now)).collect())
    }

    async fn reap(&self, policy: &RetryPolicy, limit: usize) -> Result<Vec<Job>> {
        let now = self.clock.now();
        self.change(|state| {
            let (jobs, events) = state.jobs.reap(policy, limit, now);
            state.write(&events)?;
            Ok(jobs)
        })
    }

    async fn cancel(&self, id: &str) -> Result<Job> {
        let now = self.clock.now();
        self.change(|state| state.jobs.cancel(id, now))
    }

    async fn retry(&self, id: &str, delay: Duration) -> Result<Job> {
        let now = self.clock.now();
        self.change(|state| state.jobs.retry(id, now, delay))
    }

    async fn purge(&self, state: JobState, older_than: Duration, limit: usize) -> Result<Vec<String>> {
        let now = self.clock.now();
        Ok(self.change(|all| all.jobs.purge(state, now, older_than, limit)))
    }

    async fn job(&self, id: &str) -> Result<Option<Job>> {
        Ok(self.lock().jobs.get(id))
    }

    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>> {
        Ok(self.lock().jobs.list(filter))
    }

    async fn stats(&self) -> Result<QueueStats> {
        Ok(self.lock().jobs.stats())
    }

    fn wakeups(&self) -> watch::Receiver<u64> {
        self.wakeups.subscribe()
    }
}

#[async_trait]
impl LeaderLock for MemoryStore {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Option<Lease>> {
        let now = self.clock.monotonic();
        Ok(self.lock().leases.acquire(request, now))
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool> {
        let now = self.clock.monotonic();
        Ok(self.lock().leases.renew(lease, now.saturating_add(ttl)))
    }

    async fn release(&self, lease: &Lease) -> Result<bool> {
        let released = self.lock().leases.release(lease);
        if released {
            bump(&self.vacancies);
        }
        Ok(released)
    }

    async fn raise(&self, name: &str, floor: u64) -> Result<u64> {
        let epoch = self.lock().leases.raise(name, floor);
        bump(&self.vacancies);
        Ok(epoch)
    }

    fn vacancies(&self) -> watch::Receiver<u64> {
        self.vacancies.subscribe()
    }

    async fn inspect(&self, name: &str) -> Result<Option<LeaseInfo>> {
        let now = self.clock.monotonic();
        Ok(self.lock().leases.inspect(name, now))
    }
}
