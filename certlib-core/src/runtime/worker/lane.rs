//! The claiming loop of one lane.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::execution::{Ended, execute};
use super::running::{Kept, Running, RunningJob, StopReason};
use super::settling::{Attempt, Settler};
use super::slots::{Slot, Slots};
use super::turns::Turns;
use crate::queue::{ClaimRequest, Job, Lane, Outcome};
use crate::runtime::engine::Engine;
use crate::runtime::handler::JobHandler;
use crate::runtime::job_log::JobLogger;

/// What a lane's loop works with.
pub(super) struct LaneWorker {
    /// Over the connections of the lane.
    pub(super) engine: Arc<Engine>,
    pub(super) handlers: Arc<HashMap<&'static str, Arc<dyn JobHandler>>>,
    pub(super) running: Arc<Running>,
    pub(super) lane: Lane,
    pub(super) slots: Arc<Slots>,
    pub(super) settler: Settler,
    pub(super) jobs: TaskTracker,
}

/// A job that is claimed and waits for a slot.
struct Claimed {
    job: Job,
    entry: RunningJob,
    kept: Kept,
    since: Duration,
}

impl LaneWorker {
    /// Claims and starts jobs until `stop`; gives back what it did not start.
    pub(super) async fn run(self, stop: CancellationToken) {
        let clock = self.engine.clock.clone();
        let mut wakeups = self.engine.store.wakeups();
        let mut turns = Turns::default();
        let mut ahead = VecDeque::new();
        let mut looked_at = clock.monotonic();
        let mut forgot_at = looked_at;
        // Whether something was enqueued since the last look, and whether there may be something that is due.
        let (mut woken, mut hopeful) = (false, true);
        while !stop.is_cancelled() {
            let poll_due = clock.monotonic().saturating_sub(looked_at) >= self.engine.settings.poll_interval;
            if poll_due || woken || wakeups.has_changed().unwrap_or(false) {
                wakeups.borrow_and_update();
                looked_at = clock.monotonic();
                (woken, hopeful) = (false, true);
                // Looking past a long backlog costs a store what the backlog is: not at every one of many wake-ups.
                if looked_at.saturating_sub(forgot_at) >= self.engine.settings.poll_interval / 10 {
                    forgot_at = looked_at;
                    turns.forget();
                    self.give_back_stale(&mut ahead).await;
                }
            }
            self.start(&mut ahead);
            let limit = self.slots.ahead(self.engine.settings.prefetch);
            let wanted = (self.slots.free() + limit).saturating_sub(ahead.len());
            // While there is enough in hand, the next claim can wait until it is worth its round trip.
            let is_stocked = ahead.len() * 2 > limit;
            if wanted > 0 && hopeful && !is_stocked {
                hopeful = self.claim(wanted, &mut turns, &mut ahead).await > 0;
                if stop.is_cancelled() {
                    break;
                }
                self.start(&mut ahead);
                // What has just begun may be over already, and the next claim the larger for it.
                tokio::task::yield_now().await;
            }
            let left = self.engine.settings.poll_interval.saturating_sub(clock.monotonic().saturating_sub(looked_at));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.slots.freed() => {}
                () = changed(&mut wakeups) => woken = true,
                () = clock.sleep(left) => {}
            }
        }
        for Claimed { entry, kept, .. } in ahead {
            self.settler.release(entry.claim, kept).await;
        }
    }

    /// Claims up to `wanted` jobs, by turns of their parents; says how many there were.
    async fn claim(&self, wanted: usize, turns: &mut Turns, ahead: &mut VecDeque<Claimed>) -> usize {
        let mut claimed = 0;
        for avoid in turns.asks(&self.slots.by_parent(), self.slots.total()) {
            let left = wanted - claimed;
            if left == 0 {
                break;
            }
            // Leases count from before the request was sent.
            let sent = self.engine.clock.monotonic();
            let lease = self.engine.settings.job_lease;
            let request = ClaimRequest::new(self.lane, &*self.engine.node_id, left, lease)
                .avoiding(avoid.iter().cloned().collect());
            let jobs = match self.engine.store.claim(&request).await {
                Ok(jobs) => jobs,
                Err(error) => {
                    tracing::warn!(lane = %self.lane, %error, "cannot claim jobs");
                    return 0;
                }
            };
            turns.answered(avoid, left, jobs.iter().map(|job| &*job.parent));
            claimed += jobs.len();
            for job in jobs {
                let log = JobLogger::new(self.engine.job_logs.clone(), &job);
                let entry = RunningJob::new(job.claim(), sent, log);
                let kept = self.running.keep(entry.clone());
                ahead.push_back(Claimed { job, entry, kept, since: sent });
            }
        }
        claimed
    }

    /// Starts as many of the claimed jobs as fit.
    fn start(&self, ahead: &mut VecDeque<Claimed>) {
        while let Some(next) = ahead.front() {
            let Some(slot) = self.slots.take(&next.job.parent) else { return };
            let Some(next) = ahead.pop_front() else { return };
            self.run_job(next, slot);
        }
    }

    fn run_job(&self, claimed: Claimed, slot: Slot) {
        let Claimed { job, entry, kept, .. } = claimed;
        let (engine, settler) = (self.engine.clone(), self.settler.clone());
        let handler = self.handlers.get(&*job.kind).cloned();
        let span = tracing::info_span!("job", id = %job.id, kind = %job.kind, attempt = job.attempt);
        let work = async move {
            engine.job_logs.stir();
            let started = engine.clock.monotonic();
            let counted = engine.vitals.enter(job.lane);
            let ended = match entry.reason() {
                None => execute(&engine, handler.as_deref(), &job, &entry).await,
                // Something happened while it waited for its slot.
                Some(StopReason::LeaseLost) => None,
                Some(StopReason::Requested) => Some(Ended::from(Outcome::Cancelled)),
                Some(StopReason::Shutdown) => Some(Ended::from(Outcome::Release)),
            };
            let duration = engine.clock.monotonic().saturating_sub(started);
            drop(counted);
            let log = entry.log.finish(&engine.store).await;
            match ended {
                Some(ended) => {
                    let attempt = Attempt { claim: entry.claim, kind: job.kind, duration, log, kept, slot };
                    settler.settle(attempt, ended).await;
                }
                None => settler.abandon(log).await,
            }
        };
        self.jobs.spawn(work.instrument(span));
    }

    /// What waited for as long as another node would take to look for it goes back.
    async fn give_back_stale(&self, ahead: &mut VecDeque<Claimed>) {
        let now = self.engine.clock.monotonic();
        let patience = self.engine.settings.poll_interval;
        let stale = ahead.iter().take_while(|claimed| now.saturating_sub(claimed.since) >= patience).count();
        for Claimed { entry, kept, .. } in ahead.drain(..stale) {
            self.settler.release(entry.claim, kept).await;
        }
    }
}

/// Returns at the next wake-up; never, when there will be none.
async fn changed(wakeups: &mut tokio::sync::watch::Receiver<u64>) {
    if wakeups.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
