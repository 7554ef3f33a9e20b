//! The leader's life: stand, lead, keep the lease, sweep, hand over.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::cadence::Cadence;
use super::candidate::Granted;
use super::notice::{Leadership, Notify, TermEnd};
use super::term::{Term, trust};
use super::watchdog::Watchdog;
use super::{Sweep, SweepContext};
use crate::error::{Error, Result};
use crate::lock::Lease;
use crate::metrics;
use crate::model::Event;
use crate::runtime::Engine;

/// The kind of the event that says that a node began to lead.
pub const ELECTION_EVENT: &str = "scheduler.leader_election";

/// How long sweeps may take to come to a safe point when the node stops. A successor should lead within a second.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// Stands for leader; as leader, sweeps.
pub(crate) struct Scheduler {
    pub(super) engine: Arc<Engine>,
    pub(super) notify: Notify,
    sweeps: Arc<[Arc<dyn Sweep>]>,
    watchdog: Watchdog,
}

impl Scheduler {
    pub(crate) fn new(engine: Arc<Engine>, sweeps: Vec<Arc<dyn Sweep>>, watchdog: Watchdog, notify: Notify) -> Self {
        Self { engine, notify, sweeps: sweeps.into(), watchdog }
    }

    /// Stands and leads, term after term, until the node stops or what a leader began cannot be stopped.
    pub(crate) async fn run(self, stop: CancellationToken) {
        metrics::leading(false);
        while let Some(granted) = self.stand(&stop).await {
            if !self.lead(granted, &stop).await {
                tracing::error!("this node does not stand for leader again");
                return;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.engine.clock.sleep(self.retry_interval().min(self.engine.settings.leader_poll)) => {}
            }
        }
    }

    /// Leads until the lease cannot be kept or the node stops; gives the lease back once all guarded work has ended.
    /// `false` if that did not end.
    async fn lead(&self, (lease, sent): Granted, stop: &CancellationToken) -> bool {
        let epoch = lease.epoch;
        let term = Arc::new(Term::new(lease, sent, self.engine.settings.leader_ttl, self.engine.clock.clone()));
        let why = match self.watchdog.watch(term.clone(), self.notify.clone()) {
            Ok(()) => self.serve(&term, stop).await,
            Err(error) => {
                tracing::error!(%error, "nobody may lead unwatched");
                TermEnd::Unwatched
            }
        };
        if why == TermEnd::Stopped {
            // Ask first; the watchdog still drops what does not end before the deadline.
            term.cancel.cancel();
            tokio::select! {
                biased;
                () = term.joined() => {}
                () = self.engine.clock.sleep(STOP_GRACE) => {}
            }
        }
        term.abort();
        metrics::leading(false);
        let joined = tokio::select! {
            biased;
            // Even if it ended after all: the host was told that this node does not lead again.
            () = term.stuck.cancelled() => false,
            () = term.joined() => true,
        };
        term.over.cancel();
        self.engine.vitals.lead(None);
        tracing::info!(epoch, why = why.as_str(), "no longer leading");
        self.notify.tell(&Leadership::Ended { epoch, why });
        if joined {
            self.give_back(&term.lease, if why == TermEnd::Stopped { 3 } else { 1 }).await;
        }
        joined
    }

    /// Sweeps and keeps the lease; says why that ended.
    async fn serve(&self, term: &Arc<Term>, stop: &CancellationToken) -> TermEnd {
        let epoch = term.lease.epoch;
        tracing::info!(epoch, node = %self.engine.node_id, "leading");
        self.engine.vitals.lead(Some(term.gate.clone()));
        metrics::elected();
        metrics::leading(true);
        self.notify.tell(&Leadership::Gained { epoch });
        let cx = SweepContext::new(self.engine.store.clone(), term.clone());
        term.spawn(sweep(cx, self.sweeps.clone(), self.engine.settings.sweep_interval));
        tokio::select! {
            biased;
            () = stop.cancelled() => TermEnd::Stopped,
            () = term.refused.cancelled() => TermEnd::Taken,
            why = self.keep(term) => why,
        }
    }

    /// Renews the lease; returns when it is lost or too old to be trusted.
    async fn keep(&self, term: &Term) -> TermEnd {
        let (clock, retry) = (&self.engine.clock, self.retry_interval());
        let mut wait = self.engine.settings.leader_heartbeat;
        loop {
            let left = term.gate.remaining();
            if left.is_zero() {
                return TermEnd::Expired;
            }
            clock.sleep(wait.min(left)).await;
            let left = term.gate.remaining();
            if left.is_zero() {
                return TermEnd::Expired;
            }
            // As with a grant: the deadline counts from before the request was sent whose answer arrived, so a slow
            // answer makes the lease shorter, not longer. One that does not come leaves time for others.
            let sent = clock.monotonic();
            let patience = (left / 2).max(retry).min(left);
            match self.answer(self.engine.store.renew(&term.lease, term.ttl), patience).await {
                Ok(true) if term.gate.extend(sent + trust(term.ttl)) => wait = self.engine.settings.leader_heartbeat,
                Ok(true) => return TermEnd::Expired,
                Ok(false) => return TermEnd::Taken,
                Err(error) => {
                    tracing::warn!(%error, epoch = term.lease.epoch, "cannot renew the lease");
                    wait = retry;
                }
            }
        }
    }

    /// Gives `lease` back, trying that many `times`; what fails is left to expire.
    pub(super) async fn give_back(&self, lease: &Lease, times: usize) {
        let patience = self.retry_interval().min(Duration::from_secs(2));
        for _ in 0..times {
            match self.answer(self.engine.store.release(lease), patience).await {
                Ok(_) => return,
                Err(error) => tracing::warn!(%error, epoch = lease.epoch, "cannot give the lease back"),
            }
        }
    }

    /// How long to wait before trying again to get or keep the lease: 5 s with the default of 90 s.
    pub(super) fn retry_interval(&self) -> Duration {
        let settings = &self.engine.settings;
        (settings.leader_ttl / 18).min(settings.leader_heartbeat).min(Duration::from_secs(5))
    }
}

/// Sweeps again and again, until told to stop.
async fn sweep(cx: SweepContext, sweeps: Arc<[Arc<dyn Sweep>]>, interval: Duration) {
    let mut announcement = Some(cx.announcement());
    let mut cadence = Cadence::default();
    loop {
        if let Some(event) = announcement.take_if(|_| !cx.is_over())
            && let Err(error) = announce(&cx, &event).await
        {
            tracing::warn!(%error, "cannot announce the new leader yet");
            announcement = Some(event);
        }
        for (index, sweep) in sweeps.iter().enumerate() {
            if cx.is_over() {
                return;
            }
            if cadence.take(index, sweep.interval(), interval, cx.clock.monotonic()) {
                run_one(&cx, &**sweep).await;
            }
        }
        tokio::select! {
            biased;
            () = cx.cancel.cancelled() => return,
            () = cx.clock.sleep(interval) => {}
        }
    }
}

async fn run_one(cx: &SweepContext, sweep: &dyn Sweep) {
    let begun = cx.clock.monotonic();
    let result = AssertUnwindSafe(sweep.run(cx)).catch_unwind().await.unwrap_or_else(|_| {
        Err(Error::transient("sweep.run", "panic", "the sweep panicked; see the log of this node"))
    });
    metrics::swept(sweep.name(), cx.clock.monotonic().saturating_sub(begun), *result.as_ref().unwrap_or(&0));
    match result {
        Ok(0) => {}
        Ok(due) => tracing::info!(sweep = sweep.name(), due, "swept"),
        Err(error) => tracing::warn!(sweep = sweep.name(), %error, "the sweep failed"),
    }
}

/// Writes the event of the election, once: if its answer is lost, the next attempt finds it there.
async fn announce(cx: &SweepContext, event: &Event) -> Result<()> {
    match cx.commit(cx.batch().insert(event)?).await {
        Err(error) if !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

impl SweepContext {
    fn announcement(&self) -> Event {
        let Lease { name, holder, epoch } = self.lease();
        Event::new("", ELECTION_EVENT, holder, json!({ "lease": name, "epoch": epoch }), self.clock.now())
    }
}
