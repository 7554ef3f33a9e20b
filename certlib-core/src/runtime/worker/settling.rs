//! Settling: a plain outcome goes to the store together with those of other jobs of the lane, one that comes with
//! writes in a commit of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::execution::Ended;
use super::running::Kept;
use super::slots::{Slot, Slots};
use crate::error::{Error, codes};
use crate::metrics;
use crate::queue::{Claim, Outcome, Settlement};
use crate::runtime::engine::Engine;
use crate::store::{Condition, Write, WriteBatch};

/// How many outcomes are sent at once.
const BATCH_MAX: usize = 256;

/// How many outcomes may wait; beyond that, jobs hold their slots until theirs has a place.
const WAITING_MAX: usize = 4 * BATCH_MAX;

/// How long to wait before each next try, while the store is away: a result that is reached should not be lost.
const WAITS: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// How soon a job runs again whose last commit met somebody else's.
const AGAIN: Duration = Duration::from_secs(1);

/// Takes the outcomes of a lane.
#[derive(Clone)]
pub(super) struct Settler {
    engine: Arc<Engine>,
    waiting: mpsc::Sender<Waiting>,
}

/// An outcome on its way.
struct Waiting {
    settlement: Settlement,
    /// The job's type; `None` when it never began.
    kind: Option<String>,
    /// What is left of the job's log, to be written first.
    log: Vec<Write>,
    /// The claim is kept until the outcome is stored.
    _kept: Kept,
}

/// What there is to settle.
pub(super) struct Attempt {
    pub(super) claim: Claim,
    pub(super) kind: String,
    pub(super) duration: Duration,
    pub(super) log: Vec<Write>,
    pub(super) kept: Kept,
    pub(super) slot: Slot,
}

impl Settler {
    /// Starts to settle for the lane of these slots. The future ends when all senders are gone and everything is
    /// settled.
    pub(super) fn new(engine: Arc<Engine>, slots: Arc<Slots>) -> (Self, impl Future<Output = ()>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let batches = Batches { engine: engine.clone(), slots, waiting: receiver };
        (Self { engine, waiting: sender }, batches.run())
    }

    /// Settles an attempt. Its slot is free when its outcome is on its way, or when its writes are committed.
    pub(super) async fn settle(&self, attempt: Attempt, ended: Ended) {
        let Attempt { claim, kind, duration, log, kept, slot } = attempt;
        let Ended { batch, outcome } = ended;
        if is_plain(&batch, &claim) && !self.engine.settings.settle_delay.is_zero() {
            // The other end lives as long as this one.
            let Ok(place) = self.waiting.reserve().await else { return };
            slot.leave(duration);
            let settlement = Settlement { claim, outcome, duration };
            place.send(Waiting { settlement, kind: Some(kind), log, _kept: kept });
        } else {
            self.commit(&kind, Settlement { claim, outcome, duration }, batch, log).await;
            slot.leave(duration);
            drop(kept);
        }
    }

    /// Gives back a job that never began.
    pub(super) async fn release(&self, claim: Claim, kept: Kept) {
        let settlement = Settlement { claim, outcome: Outcome::Release, duration: Duration::ZERO };
        let _ = self.waiting.send(Waiting { settlement, kind: None, log: Vec::new(), _kept: kept }).await;
    }

    /// Writes down what a worker did that lost its job.
    pub(super) async fn abandon(&self, log: Vec<Write>) {
        if !log.is_empty()
            && let Err(error) = write(&self.engine, log).await
        {
            tracing::warn!(%error, "cannot write a job's log");
        }
    }

    async fn commit(&self, kind: &str, mut settlement: Settlement, mut batch: WriteBatch, log: Vec<Write>) {
        for wait in WAITS {
            let mut all = batch.clone();
            all.writes.extend(log.iter().cloned());
            match self.engine.store.commit(all.settle(settlement.clone())).await {
                Ok(_) => {
                    self.engine.job_logs.tell();
                    metrics::job_settled(kind, settlement.outcome.state().as_str(), settlement.duration);
                    return;
                }
                Err(error) if error.is_conflict() => {
                    tracing::info!(%error, "something changed meanwhile; running again");
                    (batch, settlement.outcome) = (WriteBatch::new(), Outcome::Snooze { delay: AGAIN });
                }
                Err(error) if error.class().is_retryable() => {
                    tracing::warn!(%error, "cannot settle, trying again");
                    self.engine.clock.sleep(wait).await;
                }
                Err(error) if error.code() == codes::LEASE_LOST || batch.is_empty() => {
                    tracing::warn!(%error, "cannot settle; whoever has the job, or takes it back, goes on");
                    return self.abandon(log).await;
                }
                Err(error) => {
                    tracing::error!(%error, "what the handler wants written is refused");
                    let error = error.to_record();
                    (batch, settlement.outcome) = (WriteBatch::new(), Outcome::Failed { error });
                }
            }
        }
        tracing::error!("the store stayed away; the job will be taken back when its lease ends");
    }
}

/// Whether there is nothing to commit but the outcome.
fn is_plain(batch: &WriteBatch, claim: &Claim) -> bool {
    let own = |condition: &Condition| matches!(condition, Condition::Claim(other) if other == claim);
    batch.is_empty() && batch.conditions.iter().all(own)
}

/// The other end of a [`Settler`].
struct Batches {
    engine: Arc<Engine>,
    slots: Arc<Slots>,
    waiting: mpsc::Receiver<Waiting>,
}

impl Batches {
    async fn run(mut self) {
        while let Some(first) = self.waiting.recv().await {
            let batch = self.gather(first).await;
            self.settle(batch).await;
        }
    }

    /// Waits a moment for more, unless nothing more can come.
    async fn gather(&mut self, first: Waiting) -> Vec<Waiting> {
        let mut batch = vec![first];
        let clock = self.engine.clock.clone();
        let mut delay = clock.sleep(self.engine.settings.settle_delay);
        while batch.len() < BATCH_MAX {
            if let Ok(next) = self.waiting.try_recv() {
                batch.push(next);
                continue;
            }
            if self.slots.is_idle() {
                break;
            }
            tokio::select! {
                biased;
                next = self.waiting.recv() => match next {
                    Some(next) => batch.push(next),
                    None => break,
                },
                () = &mut delay => break,
            }
        }
        batch
    }

    async fn settle(&self, mut batch: Vec<Waiting>) {
        let mut log: Vec<Write> = batch.iter_mut().flat_map(|waiting| std::mem::take(&mut waiting.log)).collect();
        for wait in WAITS {
            match self.try_settle(&batch, &mut log).await {
                Ok(()) => return,
                Err(error) if error.class().is_retryable() => {
                    tracing::warn!(%error, jobs = batch.len(), "cannot settle, trying again");
                    self.engine.clock.sleep(wait).await;
                }
                // One that cannot be settled must not keep the others from it.
                Err(error) if batch.len() > 1 => {
                    tracing::warn!(%error, jobs = batch.len(), "cannot settle together; one by one");
                    for waiting in batch {
                        if let Err(error) = self.try_settle(&[waiting], &mut log).await {
                            tracing::error!(%error, "cannot settle; the job will be taken back when its lease ends");
                        }
                    }
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "cannot settle; the job will be taken back when its lease ends");
                    return;
                }
            }
        }
        tracing::error!(jobs = batch.len(), "the store stayed away; the jobs will be taken back when their leases end");
    }

    /// Writes what is left of `log`, and then settles.
    async fn try_settle(&self, batch: &[Waiting], log: &mut Vec<Write>) -> Result<(), Error> {
        if !log.is_empty() {
            match write(&self.engine, log.clone()).await {
                Err(error) if error.class().is_retryable() => return Err(error),
                // A log that is refused must not hold up a result.
                Err(error) => tracing::warn!(%error, "cannot write the logs of jobs"),
                Ok(()) => {}
            }
            log.clear();
        }
        let settlements = batch.iter().map(|waiting| waiting.settlement.clone()).collect();
        let answers = self.engine.store.settle(settlements).await?;
        self.engine.job_logs.tell();
        for (waiting, settled) in batch.iter().zip(answers) {
            let Settlement { claim, outcome, duration } = &waiting.settlement;
            if !settled {
                // Also the answer to a second try, when the first one succeeded and only its answer was lost.
                tracing::warn!(job = %claim.job, epoch = claim.epoch, "the claim was lost; whoever has the job goes on");
            } else if let Some(kind) = &waiting.kind {
                metrics::job_settled(kind, outcome.state().as_str(), *duration);
            }
        }
        Ok(())
    }
}

/// Writes pieces of logs.
pub(super) async fn write(engine: &Engine, log: Vec<Write>) -> Result<(), Error> {
    let mut batch = WriteBatch::new();
    batch.writes = log;
    engine.store.commit(batch).await.map(drop)
}
