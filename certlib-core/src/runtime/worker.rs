//! Workers: claim jobs of a lane, keep their leases, settle them.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::engine::Engine;
use super::handler::{Handled, JobContext, JobHandler};
use crate::backoff::Jitter;
use crate::context::Context;
use crate::error::{Error, ErrorClass, codes};
use crate::metrics;
use crate::queue::{Claim, Extension, Job, Lane, Outcome, RetryPolicy, Settlement, after_failure};
use crate::store::WriteBatch;

/// Starts a claiming loop for each lane, and one loop that keeps leases and takes back what crashed workers left.
pub(super) fn spawn(
    engine: &Arc<Engine>,
    handlers: Vec<Arc<dyn JobHandler>>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    let handlers: Arc<HashMap<&'static str, Arc<dyn JobHandler>>> =
        Arc::new(handlers.into_iter().map(|handler| (handler.kind(), handler)).collect());
    let running = Arc::new(Running::default());
    let lanes = TaskTracker::new();
    for (lane, slots) in &engine.settings.lanes {
        let worker = Worker {
            engine: engine.clone(),
            handlers: handlers.clone(),
            running: running.clone(),
            lane: *lane,
            slots: Arc::new(Semaphore::new(*slots)),
            jobs: lanes.clone(),
        };
        tasks.spawn(lanes.track_future(worker.run(stop.clone())));
    }
    lanes.close();
    tasks.spawn(keep_leases(engine.clone(), running, lanes));
    tasks.spawn(reap(engine.clone(), stop.clone()));
}

/// The jobs that run on this node.
#[derive(Debug, Default)]
struct Running {
    jobs: Mutex<HashMap<Claim, RunningJob>>,
}

#[derive(Debug, Clone)]
struct RunningJob {
    /// Fires when the handler should stop.
    cancel: CancellationToken,
    /// Fires when the claim is lost: then even what should not be interrupted must stop.
    lost: CancellationToken,
    /// Why it fired.
    why: Arc<Mutex<Option<StopReason>>>,
    /// When the lease was last known to hold, by the monotonic clock.
    held_at: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopReason {
    Requested,
    Shutdown,
    LeaseLost,
}

impl RunningJob {
    fn stop(&self, why: StopReason) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.cancel.cancel();
        if why == StopReason::LeaseLost {
            self.lost.cancel();
        }
    }

    fn reason(&self) -> Option<StopReason> {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<Claim, RunningJob>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claims(&self) -> Vec<Claim> {
        self.lock().keys().cloned().collect()
    }
}

/// The claiming loop of one lane.
struct Worker {
    engine: Arc<Engine>,
    handlers: Arc<HashMap<&'static str, Arc<dyn JobHandler>>>,
    running: Arc<Running>,
    lane: Lane,
    slots: Arc<Semaphore>,
    jobs: TaskTracker,
}

impl Worker {
    async fn run(self, stop: CancellationToken) {
        let mut wakeups = self.engine.store.wakeups();
        let settings = &self.engine.settings;
        let freed = Arc::new(Notify::new());
        while !stop.is_cancelled() {
            wakeups.borrow_and_update();
            let free = self.slots.available_permits();
            let mut claimed = 0;
            if free > 0 {
                // Leases count from before the request was sent.
                let sent = self.engine.clock.monotonic();
                let claim = self.engine.store.claim(self.lane, &self.engine.node_id, free, settings.job_lease);
                match claim.await {
                    Ok(jobs) => {
                        claimed = jobs.len();
                        for job in jobs {
                            // There are at least as many permits as jobs: only this loop takes them.
                            let Ok(permit) = self.slots.clone().acquire_owned().await else { return };
                            self.start(job, sent, permit, freed.clone());
                        }
                    }
                    Err(error) => tracing::warn!(lane = %self.lane, %error, "cannot claim jobs"),
                }
            }
            if claimed == free && claimed > 0 {
                // Full: there may be more, as soon as a slot is free.
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = freed.notified() => {}
                }
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                _ = wakeups.changed() => {}
                () = freed.notified() => {}
                () = self.engine.clock.sleep(settings.poll_interval) => {}
            }
        }
        for job in self.running.lock().values() {
            job.stop(StopReason::Shutdown);
        }
    }

    fn start(&self, job: Job, held_at: Duration, permit: OwnedSemaphorePermit, freed: Arc<Notify>) {
        let entry = RunningJob {
            cancel: CancellationToken::new(),
            lost: CancellationToken::new(),
            why: Arc::default(),
            held_at,
        };
        let claim = job.claim();
        self.running.lock().insert(claim.clone(), entry.clone());
        let (engine, running) = (self.engine.clone(), self.running.clone());
        let handler = self.handlers.get(&*job.kind).cloned();
        let span = tracing::info_span!("job", id = %job.id, kind = %job.kind, attempt = job.attempt);
        let work = async move {
            execute(&engine, handler.as_deref(), &job, &entry).await;
            running.lock().remove(&claim);
            drop(permit);
            freed.notify_one();
        };
        self.jobs.spawn(work.instrument(span));
    }
}

async fn execute(engine: &Engine, handler: Option<&dyn JobHandler>, job: &Job, entry: &RunningJob) {
    let started = engine.clock.monotonic();
    let outcome = match handler {
        None => {
            // Another node may have one: during an upgrade, or where nodes are built differently.
            tracing::warn!(kind = %job.kind, "this node has no handler for this type of job");
            Some((WriteBatch::new(), Outcome::Snooze { delay: UNKNOWN_KIND }))
        }
        Some(handler) => {
            let policy = handler.retry_policy().unwrap_or_else(|| engine.settings.retry.clone());
            let cx = Context::with(engine.clock.clone(), entry.cancel.clone(), &*job.id);
            let context = JobContext { cx, claim: job.claim(), lost: entry.lost.clone() };
            let result = AssertUnwindSafe(handler.run(job, &context)).catch_unwind().await.unwrap_or_else(|_| {
                Err(Error::transient("worker.run", "panic", "the handler panicked; see the log of this node"))
            });
            match result {
                Ok(Handled::Commit { batch, outcome }) => Some((*batch, outcome)),
                Ok(Handled::Succeeded) => Some((WriteBatch::new(), Outcome::Succeeded)),
                Ok(Handled::Snooze(delay)) => Some((WriteBatch::new(), Outcome::Snooze { delay })),
                Err(error) => failed(&policy, job, entry, &error).map(|outcome| (WriteBatch::new(), outcome)),
            }
        }
    };
    if let Some((batch, outcome)) = outcome {
        settle(engine, job, batch, outcome, engine.clock.monotonic().saturating_sub(started)).await;
    }
}

/// The outcome of a handler's error; `None` when the job is no longer ours to settle.
fn failed(policy: &RetryPolicy, job: &Job, entry: &RunningJob, error: &Error) -> Option<Outcome> {
    if error.code() == codes::LEASE_LOST || entry.reason() == Some(StopReason::LeaseLost) {
        tracing::warn!(%error, "lost the claim; another worker goes on");
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
    tracing::warn!(%error, state = outcome.state().as_str(), "the attempt failed");
    Some(outcome)
}

/// How long a job rests that this node cannot run.
const UNKNOWN_KIND: Duration = Duration::from_secs(60);

/// How soon a job runs again whose last commit met somebody else's.
const AGAIN: Duration = Duration::from_secs(1);

/// Settles, trying again while the store is away: a result that is reached should not be lost.
async fn settle(engine: &Engine, job: &Job, mut batch: WriteBatch, mut outcome: Outcome, duration: Duration) {
    for wait in [100, 500, 2000] {
        let settlement = Settlement { claim: job.claim(), outcome: outcome.clone(), duration };
        match engine.store.commit(batch.clone().settle(settlement)).await {
            Ok(_) => {
                metrics::job_settled(&job.kind, outcome.state().as_str(), duration);
                return;
            }
            Err(error) if error.is_conflict() => {
                tracing::info!(%error, "something changed meanwhile; running again");
                (batch, outcome) = (WriteBatch::new(), Outcome::Snooze { delay: AGAIN });
            }
            Err(error) if error.class().is_retryable() => {
                tracing::warn!(%error, "cannot settle, trying again");
                engine.clock.sleep(Duration::from_millis(wait)).await;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot settle; whoever has the job, or takes it back, goes on");
                return;
            }
        }
    }
    tracing::error!("the store stayed away; the job will be taken back when its lease ends");
}

/// Extends the leases of everything that runs here, until all lanes have ended.
async fn keep_leases(engine: Arc<Engine>, running: Arc<Running>, lanes: TaskTracker) {
    let lease = engine.settings.job_lease;
    loop {
        tokio::select! {
            () = lanes.wait() => return,
            () = engine.clock.sleep(lease / 4) => {}
        }
        let claims = running.claims();
        if claims.is_empty() {
            continue;
        }
        let sent = engine.clock.monotonic();
        // A store that does not answer must not keep the rule below from being looked at.
        let answers = tokio::select! {
            answers = engine.store.extend(&claims, lease) => answers,
            () = engine.clock.sleep(lease / 4) => Err(Error::network("worker.extend", "timeout", "the store is silent")),
        };
        match answers {
            Ok(answers) => {
                let mut jobs = running.lock();
                for (claim, answer) in claims.iter().zip(answers) {
                    let Some(job) = jobs.get_mut(claim) else { continue };
                    match answer {
                        Extension::Held { cancel_requested } => {
                            job.held_at = sent;
                            if cancel_requested {
                                job.stop(StopReason::Requested);
                            }
                        }
                        Extension::Lost => job.stop(StopReason::LeaseLost),
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot extend leases"),
        }
        // A lease that was not extended for 0.7 of its time may be gone before the next chance: begin nothing new.
        let now = engine.clock.monotonic();
        for job in running.lock().values() {
            if now.saturating_sub(job.held_at) > lease.mul_f64(0.7) {
                job.stop(StopReason::LeaseLost);
            }
        }
    }
}

/// Takes jobs back whose workers vanished.
async fn reap(engine: Arc<Engine>, stop: CancellationToken) {
    const PAGE: usize = 100;
    let policy = engine.settings.retry.clone();
    loop {
        match engine.store.reap(&policy, PAGE).await {
            Ok(jobs) => {
                for job in &jobs {
                    tracing::warn!(id = %job.id, kind = %job.kind, state = job.state.as_str(), "its worker vanished");
                }
                if jobs.len() == PAGE {
                    continue;
                }
            }
            Err(error) => tracing::warn!(%error, "cannot take jobs back"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = engine.clock.sleep(engine.settings.job_lease / 4) => {}
        }
    }
}
