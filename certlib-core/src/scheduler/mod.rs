//! The leader's loop: one node at a time looks for what is due and enqueues it.
//!
//! A sweep only enqueues deduplicated jobs, in commits that demand the leader's lease: a second leader, or a sweep
//! that runs twice, changes nothing. That is what safety rests on; it needs no clock.
//!
//! Clocks decide how soon a leader stops: it trusts its lease for [0.7](crate::runtime::Settings::STEP_DOWN) of its
//! time, counted from before the request was sent whose answer arrived. Then its [`LeaderGate`] closes, by itself, and
//! its [`Watchdog`] drops what still runs. Until 0.9 of that time all of it must have ended, or the host is
//! [told](Leadership::Stuck) and the node does not lead again. The lease is given back only once all of it has ended.
//!
//! Since sweeps do nothing outside the store, a new leader need not wait for what its predecessor may still be doing.

mod approvals;
mod auto_distribution;
mod cadence;
mod candidate;
mod challenges;
mod downloads;
mod due;
mod epochs;
mod events;
mod expiration;
mod gate;
mod hints;
mod job_cleanup;
mod leader;
mod node_cleanup;
mod notice;
mod rate_windows;
mod renewal;
mod rotation;
mod run_cleanup;
mod runs;
mod term;
mod watchdog;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

pub use self::approvals::{APPROVAL_EXPIRED_EVENT, ApprovalSweep};
pub use self::auto_distribution::AutoDistributionSweep;
pub use self::candidate::STORE_REGRESSED_EVENT;
pub use self::challenges::ChallengeSweep;
pub use self::downloads::DownloadSweep;
pub(crate) use self::epochs::Epochs;
pub use self::events::EventSweep;
pub use self::expiration::{EXPIRED_EVENT, EXPIRING_EVENT, ExpirationSweep};
pub use self::gate::LeaderGate;
pub use self::hints::HintSweep;
pub use self::job_cleanup::JobCleanupSweep;
pub use self::leader::ELECTION_EVENT;
pub(crate) use self::leader::Scheduler;
pub use self::node_cleanup::NodeSweep;
pub(crate) use self::notice::Notify;
pub use self::notice::{Leadership, TermEnd};
pub use self::rate_windows::RateWindowSweep;
pub use self::renewal::{POLICY_VIOLATED_EVENT, RenewalSweep};
pub use self::rotation::{
    ENVELOPE_UNREADABLE_EVENT, KEK_PROMOTED_EVENT, KEK_REMOVED_EVENT, ROTATION_CANCELLED_EVENT,
    ROTATION_FINISHED_EVENT, ROTATION_STARTED_EVENT, RotationSweep,
};
pub use self::run_cleanup::RunCleanupSweep;
pub use self::runs::RunSweep;
use self::term::Term;
pub use self::watchdog::Watchdog;
use crate::clock::Clock;
use crate::error::{Result, codes};
use crate::lock::Lease;
use crate::store::{Commit, Condition, SharedStore, WriteBatch};

/// The name of the scheduler's lease.
pub const LEASE: &str = "scheduler";

/// Every lease that certlib takes: the cluster view joins them with the nodes.
pub const LEASES: &[&str] = &[LEASE];

/// Looks for one kind of thing that is due.
///
/// # Contract
/// Costs what is due, not what exists; commits through [`SweepContext::commit`]; may run twice for the same moment.
/// Asks [`SweepContext::is_over`] between items and before anything outside, and then returns. It may also be dropped
/// at any await, when the lease is lost; and it must not block its thread, or the host is told that its leader is
/// [stuck](Leadership::Stuck).
///
/// # Errors
/// Any; it is logged, and the sweep runs again next time.
#[async_trait]
pub trait Sweep: Debug + Send + Sync + 'static {
    /// Its name, for logs and metrics.
    fn name(&self) -> &'static str;

    /// How long after it began it is run again, at the next tick of the leader; zero, the default: at each. What is
    /// found by its time is best looked for at each tick; what only saves room can wait.
    fn interval(&self) -> Duration {
        Duration::ZERO
    }

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
    term: Arc<Term>,
}

impl SweepContext {
    fn new(store: SharedStore, term: Arc<Term>) -> Self {
        Self { store, clock: term.clock.clone(), cancel: term.cancel.clone(), term }
    }

    /// A context under a lease that the caller acquired for `ttl`, just before: to run a sweep by itself, as tests do.
    pub fn under(lease: Lease, ttl: Duration, store: SharedStore, clock: Arc<dyn Clock>) -> Self {
        let sent = clock.monotonic();
        Self::new(store, Arc::new(Term::new(lease, sent, ttl, clock)))
    }

    /// A batch that only the present leader can commit.
    pub fn batch(&self) -> WriteBatch {
        WriteBatch::new().require(Condition::Lease(self.term.lease.clone()))
    }

    /// Commits `batch` as leader: not begun once this node may no longer lead by its own clock, and refused by the
    /// store once another node leads. The condition for the latter is added if it is missing.
    ///
    /// # Errors
    /// As [`Store::commit`](crate::store::Store::commit); `lease_lost` in both cases. Cancel-safe like it.
    pub async fn commit(&self, batch: WriteBatch) -> Result<Commit> {
        let condition = Condition::Lease(self.term.lease.clone());
        let batch = if batch.conditions.contains(&condition) { batch } else { batch.require(condition) };
        self.term.check()?;
        let result = self.store.commit(batch).await;
        if let Err(error) = &result
            && error.code() == codes::LEASE_LOST
        {
            self.term.refused.cancel();
        }
        result
    }

    /// Whether the sweep should return: it was asked to, or this node may no longer lead.
    pub fn is_over(&self) -> bool {
        self.cancel.is_cancelled() || !self.term.gate.is_open()
    }

    /// Whether this node may act as leader, and for how long yet: what a sweep does outside must not take longer.
    pub fn gate(&self) -> &LeaderGate {
        &self.term.gate
    }

    /// The leader's lease.
    pub fn lease(&self) -> &Lease {
        &self.term.lease
    }

    /// Runs `work` beside the sweep, as part of the leader's work: the lease is not given back before it has ended,
    /// and it is dropped, wherever it waits, when the lease is lost.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.term.spawn(work);
    }
}
