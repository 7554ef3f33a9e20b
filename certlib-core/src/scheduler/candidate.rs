//! Standing for leader.

use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::LEASE;
use super::epochs::{Look, Regression};
use super::leader::Scheduler;
use super::notice::Leadership;
use super::term::trust;
use crate::error::{Error, Result};
use crate::lock::{Lease, LeaseInfo, LeaseRequest};
use crate::model::Event;
use crate::random;
use crate::store::WriteBatch;

/// The kind of the event that says that the store went back in time.
pub const STORE_REGRESSED_EVENT: &str = "store.regressed";

/// A granted lease, and when it was asked for, by the monotonic clock.
pub(super) type Granted = (Lease, Duration);

impl Scheduler {
    /// Returns when this node was granted the lease, or `None` when it stops.
    pub(super) async fn stand(&self, stop: &CancellationToken) -> Option<Granted> {
        // One nonce until a grant arrives: an attempt whose answer was lost may have been granted, and asking again
        // with the same nonce finds that grant. A new term begins with a new one, and so with a new epoch.
        let nonce = random::id().to_string();
        let mut vacancies = self.engine.store.vacancies();
        let mut in_doubt = false;
        loop {
            vacancies.borrow_and_update();
            let asked = tokio::select! {
                biased;
                () = stop.cancelled() => None,
                asked = self.ask(&nonce, &mut in_doubt) => Some(asked),
            };
            let wait = match asked {
                None => break,
                Some(Ok(Some(granted))) => return Some(granted),
                Some(Ok(None)) => self.engine.settings.leader_poll,
                Some(Err(error)) => {
                    tracing::warn!(%error, "cannot stand for leader");
                    self.engine.settings.leader_poll.max(self.retry_interval())
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Ok(()) = vacancies.changed() => {}
                () = self.engine.clock.sleep(wait) => {}
            }
        }
        if in_doubt && let Ok(Some(info)) = self.answer(self.engine.store.inspect(LEASE), self.retry_interval()).await {
            self.return_forgotten(&info).await;
        }
        None
    }

    /// Asks for the lease once. `in_doubt`: a grant may have been made whose answer did not arrive.
    async fn ask(&self, nonce: &str, in_doubt: &mut bool) -> Result<Option<Granted>> {
        let (store, settings) = (&self.engine.store, &self.engine.settings);
        let patience = settings.leader_heartbeat;
        let info = self.answer(store.inspect(LEASE), patience).await?;
        let look = self.engine.vitals.epochs.look(LEASE, info.as_ref());
        if !self.may_stand(look).await {
            return Ok(None);
        }
        if let Some(info) = info.filter(|_| !*in_doubt) {
            self.return_forgotten(&info).await;
        }
        let request = LeaseRequest::new(LEASE, &*self.engine.node_id, nonce, settings.leader_ttl);
        // A grant is trusted from before the request was sent whose answer arrived. If an earlier attempt was granted
        // and its answer lost, this one extended that grant, and did so after it was sent: the store's expiry is at
        // least the whole of it later. Counting from the first attempt would be no safer, only shorter.
        let sent = self.engine.clock.monotonic();
        *in_doubt = true;
        let Some(lease) = self.answer(store.acquire(&request), patience).await? else {
            *in_doubt = false;
            return Ok(None);
        };
        if self.engine.clock.monotonic() >= sent + trust(settings.leader_ttl) {
            return Err(too_late());
        }
        *in_doubt = false;
        let look = self.engine.vitals.epochs.granted(&lease);
        if !self.may_stand(look).await {
            self.give_back(&lease, 1).await;
            return Ok(None);
        }
        // Before leading: what a restarted node does not know, it cannot guard.
        self.engine.vitals.epochs.keep().await;
        Ok(Some((lease, sent)))
    }

    /// Gives back a grant to this node that nobody here waits for: one that arrived at the store after its request was
    /// given up, or whose release did not.
    async fn return_forgotten(&self, info: &LeaseInfo) {
        if info.holder == self.engine.node_id && !info.released && !info.remaining.is_zero() {
            self.give_back(&Lease { name: info.name.clone(), holder: info.holder.clone(), epoch: info.epoch }, 1).await;
        }
    }

    /// Whether the store can be trusted with a leader; says so when that changes.
    async fn may_stand(&self, look: Look) -> bool {
        match look {
            Look::Fine => true,
            Look::Mended => {
                tracing::info!("the store's epochs are where they should be again");
                self.notify.tell(&Leadership::StoreMended);
                true
            }
            Look::Regressed(regression) => {
                if regression.is_new {
                    self.report(regression).await;
                }
                false
            }
        }
    }

    async fn report(&self, Regression { seen, found, .. }: Regression) {
        tracing::error!(
            seen,
            found,
            "store_regressed: the store went back in time; this node does not lead until the epoch is raised"
        );
        self.notify.tell(&Leadership::StoreRegressed { seen, found });
        let data = json!({ "lease": LEASE, "seen": seen, "found": found });
        let event = Event::new("", STORE_REGRESSED_EVENT, &self.engine.node_id, data, self.engine.clock.now());
        let written = async { self.engine.store.commit(WriteBatch::new().insert(&event)?).await };
        if let Err(error) = self.answer(written, self.retry_interval()).await {
            tracing::warn!(%error, "cannot write the event");
        }
    }

    /// What `call` answers, unless that takes longer than `patience`.
    pub(super) async fn answer<T>(&self, call: impl Future<Output = Result<T>>, patience: Duration) -> Result<T> {
        tokio::select! {
            biased;
            answer = call => answer,
            () = self.engine.clock.sleep(patience) => Err(too_late()),
        }
    }
}

fn too_late() -> Error {
    Error::network("leader.ask", "timeout", "the store did not answer in time")
}
