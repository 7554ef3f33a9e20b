//! One attempt at one job: from the handler's answer to the outcome.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;

use super::running::{RunningJob, StopReason};
use crate::backoff::Jitter;
use crate::context::Context;
use crate::error::{Error, ErrorClass, codes};
use crate::model::LogLevel;
use crate::queue::{Job, JobState, Outcome, RetryPolicy, after_failure};
use crate::runtime::engine::Engine;
use crate::runtime::handler::{Handled, JobContext, JobHandler};
use crate::store::WriteBatch;

/// How long a job rests that this node cannot run.
const UNKNOWN_KIND: Duration = Duration::from_secs(60);

/// What an attempt came to.
#[derive(Debug)]
pub(super) struct Ended {
    /// To be committed together with the outcome.
    pub(super) batch: WriteBatch,
    pub(super) outcome: Outcome,
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        Self { batch: WriteBatch::new(), outcome }
    }
}

/// Runs the handler; `None` when the job is no longer ours to settle.
pub(super) async fn execute(
    engine: &Engine,
    handler: Option<&dyn JobHandler>,
    job: &Job,
    entry: &RunningJob,
) -> Option<Ended> {
    let Some(handler) = handler else {
        // Another node may have one: during an upgrade, or where nodes are built differently.
        tracing::warn!(kind = %job.kind, "this node has no handler for this type of job");
        entry.log.log(LogLevel::Warn, "this node has no handler for this type of job");
        return Some(Outcome::Snooze { delay: UNKNOWN_KIND }.into());
    };
    let context = JobContext {
        cx: Context::with(engine.clock.clone(), entry.cancel.clone(), &*job.id),
        store: engine.store.clone(),
        claim: entry.claim.clone(),
        lost: entry.lost.clone(),
        log: entry.log.clone(),
    };
    let result = AssertUnwindSafe(handler.run(job, &context)).catch_unwind().await.unwrap_or_else(|_| {
        Err(Error::transient("worker.run", "panic", "the handler panicked; see the log of this node"))
    });
    let ended = match result {
        Ok(Handled::Commit { batch, outcome }) => {
            if let Some(error) = outcome.error() {
                let level = if outcome.state().is_active() { LogLevel::Warn } else { LogLevel::Error };
                entry.log.log(level, &format!("[{}] {}", error.class, error.message));
            }
            Ended { batch: *batch, outcome }
        }
        Ok(Handled::Succeeded) => Outcome::Succeeded.into(),
        Ok(Handled::Snooze(delay)) => Outcome::Snooze { delay }.into(),
        Err(error) => {
            let policy = handler.retry_policy();
            failed(policy.as_ref().unwrap_or(&engine.settings.retry), job, entry, &error)?.into()
        }
    };
    if entry.log.has_spoken() {
        let (level, message) = farewell(&ended.outcome);
        entry.log.log(level, &message);
    }
    Some(ended)
}

/// The outcome of a handler's error; `None` when the job is no longer ours to settle.
fn failed(policy: &RetryPolicy, job: &Job, entry: &RunningJob, error: &Error) -> Option<Outcome> {
    if error.code() == codes::LEASE_LOST || entry.reason() == Some(StopReason::LeaseLost) {
        tracing::warn!(%error, "lost the claim; another worker goes on");
        entry.log.log(LogLevel::Warn, "the claim was lost: another worker goes on");
        return None;
    }
    // Somebody wrote the same record at the same moment: no fault of the job's.
    let busy;
    let error = if error.is_conflict() {
        busy = Error::transient("worker.run", "busy", error.to_string());
        &busy
    } else {
        error
    };
    let outcome = match entry.reason() {
        Some(StopReason::Requested) if error.code() == codes::CANCELLED => Outcome::Cancelled,
        Some(StopReason::Shutdown) if error.class() == ErrorClass::IoTransient => Outcome::Release,
        _ => after_failure(policy, job.attempt, error, Jitter::random()),
    };
    let level = match outcome.state() {
        JobState::Failed | JobState::DeadLetter => LogLevel::Error,
        JobState::Cancelled => LogLevel::Info,
        _ => LogLevel::Warn,
    };
    tracing::warn!(%error, state = outcome.state().as_str(), "the attempt failed");
    entry.log.log(level, &format!("[{}] {error}", error.class()));
    Some(outcome)
}

/// The last line of an attempt's log.
fn farewell(outcome: &Outcome) -> (LogLevel, String) {
    match outcome {
        Outcome::Retry { delay, .. } => {
            (LogLevel::Warn, format!("attempt failed; the next one in {} s", delay.as_secs()))
        }
        Outcome::Snooze { delay } => (LogLevel::Info, format!("nothing to do yet; again in {} s", delay.as_secs())),
        Outcome::Release => (LogLevel::Info, "interrupted by a shutdown; given back".to_owned()),
        Outcome::Partial { .. } | Outcome::Failed { .. } | Outcome::DeadLetter { .. } => {
            (LogLevel::Error, outcome.state().as_str().to_owned())
        }
        Outcome::Succeeded | Outcome::Cancelled => (LogLevel::Info, outcome.state().as_str().to_owned()),
    }
}
