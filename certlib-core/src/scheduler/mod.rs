//! The leader's loop: one node at a time looks for what is due and enqueues it.
//!
//! A sweep only enqueues deduplicated jobs, in commits that demand the leader's lease: a second leader, or a sweep
//! that runs twice, changes nothing.

mod challenges;
mod due;
mod hints;
mod renewal;
mod runs;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use self::challenges::ChallengeSweep;
pub use self::hints::HintSweep;
pub use self::renewal::RenewalSweep;
pub use self::runs::RunSweep;
use crate::clock::Clock;
use crate::error::Result;
use crate::lock::Lease;
use crate::metrics;
use crate::runtime::{Engine, Settings};
use crate::store::{Condition, SharedStore, WriteBatch};

/// The name of the scheduler's lease.
pub const LEASE: &str = "scheduler";

/// Looks for one kind of thing that is due.
///
/// # Contract
/// Costs what is due, not what exists; commits through [`SweepContext::batch`]; may run twice for the same moment.
///
/// # Errors
/// Any; it is logged, and the sweep runs again next time.
#[async_trait]
pub trait Sweep: Debug + Send + Sync + 'static {
    /// Its name, for logs.
    fn name(&self) -> &'static str;

    /// Enqueues what is due; says how much that was.
    async fn run(&self, cx: &SweepContext) -> Result<usize>;
}

/// What a sweep is given.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SweepContext {
    /// The store.
    pub store: SharedStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Fires when the sweep must stop: leadership is lost or the node shuts down.
    pub cancel: CancellationToken,
    lease: Lease,
}

impl SweepContext {
    /// A batch that only the present leader can commit.
    pub fn batch(&self) -> WriteBatch {
        WriteBatch::new().require(Condition::Lease(self.lease.clone()))
    }
}

/// Stands for leader; as leader, sweeps.
pub(crate) struct Scheduler {
    engine: Arc<Engine>,
    sweeps: Vec<Arc<dyn Sweep>>,
}

impl Scheduler {
    pub(crate) fn new(engine: Arc<Engine>, sweeps: Vec<Arc<dyn Sweep>>) -> Self {
        Self { engine, sweeps }
    }

    pub(crate) async fn run(self, stop: CancellationToken) {
        let settings = &self.engine.settings;
        metrics::leading(false);
        while !stop.is_cancelled() {
            // The deadline counts from before the request was sent: a slow answer makes the lease shorter, not longer.
            let sent = self.engine.clock.monotonic();
            match self.engine.store.acquire(LEASE, &self.engine.node_id, settings.leader_ttl).await {
                Ok(Some(lease)) => self.lead(lease, sent, &stop).await,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "cannot stand for leader"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.engine.clock.sleep(retry_interval(settings)) => {}
            }
        }
    }

    /// Leads until the lease cannot be kept or the node stops; gives the lease back if it still can.
    async fn lead(&self, lease: Lease, sent: Duration, stop: &CancellationToken) {
        tracing::info!(epoch = lease.epoch, node = %self.engine.node_id, "leading");
        metrics::leading(true);
        let cancel = stop.child_token();
        let cx = SweepContext {
            store: self.engine.store.clone(),
            clock: self.engine.clock.clone(),
            cancel: cancel.clone(),
            lease: lease.clone(),
        };
        {
            let sweeping = self.sweep_forever(cx);
            tokio::pin!(sweeping);
            tokio::select! {
                () = self.keep(&lease, sent) => tracing::warn!(epoch = lease.epoch, "no longer leading"),
                () = stop.cancelled() => {}
                () = &mut sweeping => {}
            }
            cancel.cancel();
            // The sweep's future is dropped here, before the lease is given back: its last commit either happened or
            // did not, and no later one follows.
        }
        metrics::leading(false);
        if let Err(error) = self.engine.store.release(&lease).await {
            tracing::warn!(%error, "cannot give the lease back; it will expire");
        }
    }

    /// Renews the lease; returns when it is lost or too old to be trusted.
    async fn keep(&self, lease: &Lease, sent: Duration) {
        let settings = &self.engine.settings;
        let clock = &self.engine.clock;
        let trust = settings.leader_ttl.mul_f64(Settings::STEP_DOWN);
        let mut deadline = sent + trust;
        let mut wait = settings.leader_heartbeat;
        loop {
            let left = deadline.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return;
            }
            clock.sleep(wait.min(left)).await;
            let sent = clock.monotonic();
            if sent >= deadline {
                return;
            }
            let renewal = self.engine.store.renew(lease, settings.leader_ttl);
            let renewed = tokio::select! {
                renewed = renewal => renewed,
                () = clock.sleep(deadline - sent) => return,
            };
            match renewed {
                Ok(true) => {
                    deadline = sent + trust;
                    wait = settings.leader_heartbeat;
                }
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot renew the lease");
                    wait = retry_interval(settings);
                }
            }
        }
    }

    async fn sweep_forever(&self, cx: SweepContext) {
        loop {
            for sweep in &self.sweeps {
                match sweep.run(&cx).await {
                    Ok(0) => {}
                    Ok(due) => tracing::info!(sweep = sweep.name(), due, "swept"),
                    Err(error) => tracing::warn!(sweep = sweep.name(), %error, "the sweep failed"),
                }
            }
            cx.clock.sleep(self.engine.settings.sweep_interval).await;
        }
    }
}

/// How long to wait before trying again to get or keep the lease.
fn retry_interval(settings: &Settings) -> Duration {
    (settings.leader_ttl / 18).min(settings.leader_heartbeat)
}
