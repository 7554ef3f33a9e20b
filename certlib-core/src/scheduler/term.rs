//! One term of leadership: its lease, its gate, and the work that only it may do.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gate::LeaderGate;
use crate::clock::Clock;
use crate::error::{Error, Result, codes};
use crate::lock::Lease;
use crate::runtime::Settings;

/// The share of the lease after which work that has not ended will not end.
const GIVE_UP: f64 = 0.9;

/// Shared by the leader, its watchdog and its sweeps.
#[derive(Debug)]
pub(super) struct Term {
    pub(super) lease: Lease,
    pub(super) ttl: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) gate: Arc<LeaderGate>,
    /// Fires when the guarded work should end at its next safe point.
    pub(super) cancel: CancellationToken,
    /// Fires when the store refused a write: the lease is somebody else's already.
    pub(super) refused: CancellationToken,
    /// Fires when the work has ended.
    pub(super) over: CancellationToken,
    /// Fires when the work should have ended and did not.
    pub(super) stuck: CancellationToken,
    /// Fires when the guarded work is dropped.
    abort: CancellationToken,
    guarded: TaskTracker,
}

impl Term {
    /// A term under `lease`, whose request was sent at `sent` of the monotonic clock.
    pub(super) fn new(lease: Lease, sent: Duration, ttl: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            lease,
            ttl,
            gate: Arc::new(LeaderGate::new(clock.clone(), sent + trust(ttl))),
            clock,
            cancel: CancellationToken::new(),
            refused: CancellationToken::new(),
            over: CancellationToken::new(),
            stuck: CancellationToken::new(),
            abort: CancellationToken::new(),
            guarded: TaskTracker::new(),
        }
    }

    /// Runs `work` as a task that ends with the term: it is dropped, wherever it waits, when the gate has closed.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let (gate, abort) = (self.gate.clone(), self.abort.clone());
        self.guarded.spawn(async move {
            tokio::select! {
                biased;
                () = abort.cancelled() => {}
                _ = gate.while_open(work) => {}
            }
        });
    }

    /// Closes the gate and drops all guarded work where it waits.
    pub(super) fn abort(&self) {
        self.gate.close();
        self.cancel.cancel();
        self.abort.cancel();
    }

    /// Returns when no guarded work is left. Cancel-safe.
    pub(super) async fn joined(&self) {
        self.guarded.close();
        self.guarded.wait().await;
    }

    /// When to give up on work that does not end, by the monotonic clock.
    pub(super) fn give_up_at(&self) -> Duration {
        self.gate.deadline() + self.ttl.mul_f64(GIVE_UP - Settings::STEP_DOWN)
    }

    /// `lease_lost` once the gate is closed.
    pub(super) fn check(&self) -> Result<()> {
        if self.gate.is_open() {
            return Ok(());
        }
        let why = "this node may no longer act as leader";
        Err(Error::validation("sweep.commit", codes::LEASE_LOST, why).with("epoch", self.lease.epoch))
    }
}

/// How long after its request was sent a lease of `ttl` is trusted.
pub(super) fn trust(ttl: Duration) -> Duration {
    ttl.mul_f64(Settings::STEP_DOWN)
}
