//! Job handlers: what runs when a worker has claimed a job.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::job_log::JobLogger;
use crate::context::Context;
use crate::error::Result;
use crate::model::LogLevel;
use crate::queue::{Claim, Job, Lane, Outcome, RetryPolicy};
use crate::store::{Condition, SharedStore, WriteBatch};

/// Runs one type of job.
///
/// # Contract
/// - A job may run again after any crash, and two workers may believe at the same moment that they run it. Every
///   write therefore demands [`Condition::Claim`](crate::store::Condition::Claim), and whatever is done outside is
///   either idempotent or preceded by a record of it.
/// - When [`Context::cancel`] fires, stop at the next safe point and return a `cancelled` error.
///
/// # Errors
/// The class decides: `network` and `io_transient` are retried on the ladder, the others fail the job.
#[async_trait]
pub trait JobHandler: Debug + Send + Sync + 'static {
    /// The type of job, as in [`Job::kind`].
    fn kind(&self) -> &'static str;

    /// The lane its jobs run in.
    fn lane(&self) -> Lane;

    /// How its jobs are retried, if not as usual.
    fn retry_policy(&self) -> Option<RetryPolicy> {
        None
    }

    /// Does the work.
    async fn run(&self, job: &Job, cx: &JobContext) -> Result<Handled>;
}

/// What a handler is given besides the job.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JobContext {
    /// Clock, cancellation, and the job's id as the operation id.
    pub cx: Context,
    /// The store, over the connections of the job's lane.
    pub store: SharedStore,
    /// The right to run the job: a condition of every write.
    pub claim: Claim,
    /// Fires when the claim is lost. Unlike [`Context::cancel`] it is no request: somebody else is at work already.
    pub lost: CancellationToken,
    pub(super) log: JobLogger,
}

impl JobContext {
    /// A batch that is refused once another worker has the job.
    pub fn batch(&self) -> WriteBatch {
        WriteBatch::new().require(Condition::Claim(self.claim.clone()))
    }

    /// Adds a line to the job's log, for people: never a secret. Returns at once; lines are written in the background,
    /// within a second, and before the job is settled.
    ///
    /// Control characters are escaped and a line is cut at 8 KiB. Of each job, 1,000 lines and 256 KiB are kept.
    pub fn log(&self, level: LogLevel, message: impl AsRef<str>) {
        self.log.log(level, message.as_ref());
    }
}

impl Handled {
    /// Commits `batch` together with the job's success.
    pub fn success(batch: WriteBatch) -> Self {
        Self::Commit { batch: Box::new(batch), outcome: Outcome::Succeeded }
    }
}

/// How a handler ended, if not with an error.
#[derive(Debug)]
#[non_exhaustive]
pub enum Handled {
    /// Done.
    Succeeded,
    /// Nothing to do yet.
    Snooze(Duration),
    /// What was done, to be committed together with the job's end, under the job's claim. When a condition of the
    /// batch does not hold, nothing is written and the job runs again in a moment.
    Commit {
        /// The writes.
        batch: Box<WriteBatch>,
        /// The job's end.
        outcome: Outcome,
    },
}
