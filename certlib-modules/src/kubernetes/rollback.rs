//! Taking back what was done.

use certlib_core::error::{Error, Result, codes};
use certlib_core::module::RollbackOutcome;
use certlib_core::{CertificateBundle, Context};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::core::params::PatchParams;

use super::apply::WRONG_CLUSTER;
use super::cluster::{Cluster, Place};
use super::config::CERTIFICATE;
use super::found::Found;
use super::managers;
use super::undo::{Change, Is, Undo, pending};

/// How often a Secret that keeps changing beside our fields is looked at again.
const TRIES: usize = 5;

/// Puts the former state back, or deletes the Secret if there was none.
///
/// Refused with `foreign_change` when the Secret is neither as we made it nor as it was, with `backup_expired` when the
/// certificate that would come back has expired, with `secret_immutable` when it cannot be changed any more, and with
/// `wrong_cluster` when the delivery was elsewhere.
///
/// # Errors
/// As [`Cluster::get`], [`Cluster::apply`] and [`Cluster::delete`]; `conflict` when the Secret changes all the time.
pub(super) async fn rollback(cx: &Context, cluster: &Cluster, undo: Vec<Undo>) -> Result<RollbackOutcome> {
    let Some(change) = pending(undo) else { return Ok(RollbackOutcome::NothingToDo) };
    if change.server != cluster.server() {
        let reason = format!("the delivery was to {}, this is {}", change.server, cluster.server());
        return Ok(refused(WRONG_CLUSTER, reason));
    }
    let place = change.place();
    let way = Way { cx, cluster, place, change: &change };
    let mut tries = 1;
    loop {
        let found = cluster.get(cx, &way.place).await?;
        match way.back(found).await {
            // Somebody changed it between the look and the write: what they changed decides.
            Err(error) if error.is_conflict() && tries < TRIES => tries += 1,
            outcome => return outcome,
        }
    }
}

/// What stays the same from try to try.
struct Way<'a> {
    cx: &'a Context,
    cluster: &'a Cluster,
    place: Place,
    change: &'a Change,
}

impl Way<'_> {
    async fn back(&self, found: Option<Found>) -> Result<RollbackOutcome> {
        let found = match (self.change.classify(found.as_ref()), found) {
            (Is::Former, found) => {
                if let Some(found) = found {
                    self.give_back(&found).await;
                }
                return Ok(RollbackOutcome::NothingToDo);
            }
            (Is::New, Some(found)) => found,
            _ => return Ok(self.refused(codes::FOREIGN_CHANGE, "is not what was put there")),
        };
        if found.is_immutable() {
            return Ok(self.refused("secret_immutable", "was made immutable"));
        }
        let Some(fields) = self.change.undoing() else { return self.delete(&found).await };
        let former = fields.data.get(CERTIFICATE).map(|value| CertificateBundle::from_pem(value.0.expose()));
        if former.is_some_and(|former| former.is_ok_and(|former| former.leaf().not_after <= self.cx.clock.now())) {
            return Ok(self.refused("backup_expired", "would come back with an expired certificate"));
        }
        let body = fields.body(&self.place, Some(found.version()));
        // The content is ours, whoever is said to own it.
        let applied = self.cluster.apply(self.cx, &self.place, &body, &fields.params(true, false)).await?;
        self.give_back(&applied.found).await;
        Ok(RollbackOutcome::RolledBack)
    }

    /// Deletes a Secret that we made, unless somebody else has put something of their own into it.
    async fn delete(&self, found: &Found) -> Result<RollbackOutcome> {
        let ours = |entry: &ManagedFieldsEntry| entry.manager.as_ref() == Some(&self.change.manager);
        if found.owner().is_some() || !found.managers().iter().all(ours) {
            return Ok(self.refused(codes::FOREIGN_CHANGE, "has become somebody else's, too"));
        }
        self.cluster.delete(self.cx, &self.place, found.version()).await?;
        Ok(RollbackOutcome::RolledBack)
    }

    /// Gives fields that were taken over back to their former owners. Content comes first: that this fails is no reason to
    /// say that the rollback did.
    async fn give_back(&self, found: &Found) {
        let Change { before: Some(before), manager, after, .. } = self.change else { return };
        let Some(restored) = managers::restored(&before.managers, found.managers(), manager, after) else { return };
        let restored = serde_json::to_value(restored).unwrap_or_default();
        let params = PatchParams::apply(manager);
        let version = found.version().resource_version;
        let given: Result<(), Error> =
            self.cluster.set_managers(self.cx, &self.place, version, &restored, &params).await;
        if let Err(error) = given {
            tracing::warn!(%error, secret = %self.place, "the fields could not be given back to their former owners");
        }
    }

    fn refused(&self, code: &str, why: &str) -> RollbackOutcome {
        refused(code, format!("secret {} {why}", self.place))
    }
}

fn refused(code: &str, reason: String) -> RollbackOutcome {
    RollbackOutcome::Refused { code: code.to_owned(), reason }
}
