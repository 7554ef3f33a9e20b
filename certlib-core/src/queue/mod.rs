//! The job queue: durable work, leased to one worker at a time.

mod job;
mod retry;
mod transition;

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

pub use self::job::{
    AttemptRecord, Claim, ClaimRequest, Enqueued, Extension, Job, JobFilter, JobState, Lane, NewJob, Outcome,
    QueueDepth, QueueStats, Settlement,
};
pub use self::retry::{CrashVerdict, RETRY_AFTER_MAX, RetryPolicy, after_crash, after_failure};
pub use self::transition::{DEAD_LETTER_EVENT, later};
use crate::error::Result;

/// The largest payload, in bytes of JSON, unless a job asks for more.
pub const PAYLOAD_MAX: usize = 256 * 1024;
/// The largest payload that any job can ask for.
pub const PAYLOAD_HARD_MAX: usize = 1024 * 1024;
/// The deepest nesting of a payload.
pub const PAYLOAD_DEPTH_MAX: usize = 32;
/// How many attempts a job remembers.
pub const ATTEMPTS_KEPT: usize = 50;

/// Durable work.
///
/// # Contract
/// - Delivery is at least once; at most one settlement is accepted for each claim epoch.
/// - Every claim raises `claim_epoch`, which is never reset, not even by [`JobQueue::retry`]. Whoever shows an older
///   epoch is told `lease_lost` and changes nothing.
/// - At most one active (pending or in progress) job exists for each `(kind, key)`. Enqueueing another returns the
///   first with `deduplicated`; if that one is in progress, it is run again after it settles; if it waits, it goes as
///   soon, and with as much priority, as the more urgent of the two. Enqueueing a job whose id is there already changes
///   nothing, so an enqueue whose answer was lost may be repeated.
/// - `run_at` and leases are measured by the store's own clock.
///
/// # Errors
/// As for [`Store`](crate::store::Store); enqueueing adds `Validation` `job_invalid`, `payload_invalid`, and
/// `payload_too_large` with limit and actual size.
#[async_trait]
pub trait JobQueue: Debug + Send + Sync + 'static {
    /// Adds jobs.
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<Enqueued>>;

    /// Leases due jobs to a worker: by priority (highest first), due time, id. Counts an attempt.
    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Job>>;

    /// Extends leases to `lease` from now; says for each claim whether it still holds.
    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<Extension>>;

    /// Settles claimed jobs; `false` for each whose claim was lost. A job that ends in the dead-letter state leaves a
    /// `job.dead_letter` event, in the same transaction.
    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<bool>>;

    /// Takes jobs back whose lease has passed: pending again after the policy's wait, cancelled if that was asked
    /// for, or dead-lettered as poison, with its event. At most `limit`; returns them as they now are.
    async fn reap(&self, policy: &RetryPolicy, limit: usize) -> Result<Vec<Job>>;

    /// Cancels a pending job at once; asks a running one to stop. Returns the job as it now is.
    ///
    /// `not_found` if there is none; `job_finished` if it is over.
    async fn cancel(&self, id: &str) -> Result<Job>;

    /// Makes a failed, dead-lettered, cancelled or partial job pending again after `delay`, with a fresh ladder.
    ///
    /// `not_found` if there is none; `job_active` if it, or another of the same key, is pending or in progress;
    /// `job_finished` if it succeeded.
    async fn retry(&self, id: &str, delay: Duration) -> Result<Job>;

    /// Deletes jobs in the final `state` that ended more than `older_than` ago, the oldest first, at most `limit`;
    /// returns their ids. Deletes nothing when the state is not final.
    async fn purge(&self, state: JobState, older_than: Duration, limit: usize) -> Result<Vec<String>>;

    /// The job with `id`.
    async fn job(&self, id: &str) -> Result<Option<Job>>;

    /// Jobs that match `filter`, newest first.
    async fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>>;

    /// How much is waiting and running.
    async fn stats(&self) -> Result<QueueStats>;

    /// A counter that changes when jobs may have become claimable. Missing a change is harmless: workers also poll.
    fn wakeups(&self) -> watch::Receiver<u64>;
}
