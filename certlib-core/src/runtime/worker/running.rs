//! The jobs that this node has claimed and not settled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::queue::Claim;
use crate::runtime::job_log::JobLogger;

/// All claims that this node must keep.
#[derive(Debug, Default)]
pub(super) struct Running {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    jobs: BTreeMap<u64, RunningJob>,
    next: u64,
}

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct RunningJob {
    pub(super) claim: Claim,
    /// Fires when the handler should stop.
    pub(super) cancel: CancellationToken,
    /// Fires when the claim is lost: then even what should not be interrupted must stop.
    pub(super) lost: CancellationToken,
    pub(super) log: JobLogger,
    /// Why it should stop.
    why: Arc<Mutex<Option<StopReason>>>,
    /// When the lease was last known to hold, by the monotonic clock.
    held_at: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopReason {
    Requested,
    Shutdown,
    LeaseLost,
}

impl RunningJob {
    pub(super) fn new(claim: Claim, held_at: Duration, log: JobLogger) -> Self {
        Self {
            claim,
            cancel: CancellationToken::new(),
            lost: CancellationToken::new(),
            log,
            why: Arc::default(),
            held_at,
        }
    }

    pub(super) fn stop(&self, why: StopReason) {
        let mut reason = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        // A claim that is lost is lost, whatever else was asked for before.
        if why == StopReason::LeaseLost || reason.is_none() {
            *reason = Some(why);
        }
        drop(reason);
        self.cancel.cancel();
        if why == StopReason::LeaseLost {
            self.lost.cancel();
        }
    }

    pub(super) fn reason(&self) -> Option<StopReason> {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Keeps a claim until what is returned is dropped.
    pub(super) fn keep(self: &Arc<Self>, job: RunningJob) -> Kept {
        let mut state = self.lock();
        let ticket = state.next;
        state.next += 1;
        state.jobs.insert(ticket, job);
        Kept { running: self.clone(), ticket }
    }

    /// The claims, with what they are known by here.
    pub(super) fn claims(&self) -> (Vec<u64>, Vec<Claim>) {
        self.lock().jobs.iter().map(|(ticket, job)| (*ticket, job.claim.clone())).unzip()
    }

    /// All jobs, oldest claim first.
    pub(super) fn all(&self) -> Vec<RunningJob> {
        self.lock().jobs.values().cloned().collect()
    }

    /// The lease of the job with this ticket held when `at` was; the job, unless it has ended.
    pub(super) fn held(&self, ticket: u64, at: Duration) -> Option<RunningJob> {
        self.lock().jobs.get_mut(&ticket).map(|job| {
            job.held_at = at;
            job.clone()
        })
    }

    /// The job with this ticket, unless it has ended.
    pub(super) fn job(&self, ticket: u64) -> Option<RunningJob> {
        self.lock().jobs.get(&ticket).cloned()
    }

    /// Those whose lease was not known to hold later than `since`.
    pub(super) fn not_held_since(&self, since: Duration) -> Vec<RunningJob> {
        self.lock().jobs.values().filter(|job| job.held_at < since).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The duty to keep one claim.
#[derive(Debug)]
pub(super) struct Kept {
    running: Arc<Running>,
    ticket: u64,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.running.lock().jobs.remove(&self.ticket);
    }
}
