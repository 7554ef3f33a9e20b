//! Taking back what was done.

use certlib_core::Context;
use certlib_core::error::{Result, codes};
use certlib_core::module::RollbackOutcome;

use super::apply::possible;
use super::bound::{Bound, Change, Held, Source, Whose};
use super::client::Cloud;
use super::config::Resource;
use super::stores::Removal;
use super::undo::{self, Undo};

impl Cloud<'_> {
    /// Points the resource at its former certificate again, and removes what was put into stores unless something uses
    /// it. Tolerates nothing done, half done, and done twice.
    ///
    /// Refused with `foreign_change` when the resource uses neither the new certificate nor the former one;
    /// `former_not_restorable` when the former one is known to the delivery network alone; `former_gone` when it has
    /// been deleted; `backup_expired` when it has expired.
    ///
    /// # Errors
    /// As [`Cloud::send`]; `IoTransient` `resource_busy`, `domain_busy`.
    pub(super) async fn rollback(&self, cx: &Context, entries: &[Undo]) -> Result<RollbackOutcome> {
        let mut changed = false;
        if let Some(change) = undo::binding(entries)
            && let Some(now) = self.bound(cx).await?
        {
            match change.whose(&now) {
                Whose::Former => {}
                Whose::Foreign => {
                    let reason = format!("{} uses a certificate that somebody else put there", self.resource_label());
                    return Ok(refused(codes::FOREIGN_CHANGE, reason));
                }
                Whose::New => {
                    if let Some(refusal) = self.obstacle(cx, change).await? {
                        return Ok(refusal);
                    }
                    self.restore(cx, change, &now).await?;
                    changed = true;
                }
            }
        }
        for creation in undo::creations(entries).rev() {
            // Found by name and content, since the answer with the id may have been lost.
            for stored in self.find(cx, creation.store, &creation.wanted).await.map_err(possible)? {
                match self.remove(cx, stored.store, &stored.id).await.map_err(possible)? {
                    Removal::Gone => changed = true,
                    Removal::InUse => tracing::info!(id = stored.id, "a delivered certificate is in use and stays"),
                }
            }
        }
        Ok(if changed { RollbackOutcome::RolledBack } else { RollbackOutcome::NothingToDo })
    }

    /// Why the former certificate cannot come back, if so.
    async fn obstacle(&self, cx: &Context, change: &Change) -> Result<Option<RollbackOutcome>> {
        if !change.former.is_restorable() {
            let reason = "the former certificate was given to the delivery network directly; it never gives its key \
                          back, so set that certificate again from where it came from";
            return Ok(Some(refused("former_not_restorable", reason.to_owned())));
        }
        if let Some(held) = change.expired(cx.clock.now()) {
            let reason = format!("the former certificate {} has expired", held.label());
            return Ok(Some(refused("backup_expired", reason)));
        }
        let gone = self.gone(cx, change).await?;
        Ok(gone.map(|held| refused("former_gone", format!("the former certificate {} is gone", held.label()))))
    }

    /// A former certificate that is not there any more, or cannot be used.
    async fn gone<'c>(&self, cx: &Context, change: &'c Change) -> Result<Option<&'c Held>> {
        let formers = change.formers();
        match &change.former {
            Bound::Listener { .. } => {
                let ids = formers.iter().map(|held| held.id.as_str());
                let there = self.elb_certificates(cx, ids).await?;
                Ok(formers.into_iter().find(|held| !there.get(&held.id).is_some_and(|now| now.is(held))))
            }
            Bound::Host { .. } => {
                for held in formers {
                    if !self.waf_certificate(cx, &held.id).await?.is_some_and(|now| now.is(held)) {
                        return Ok(Some(held));
                    }
                }
                Ok(None)
            }
            Bound::Domain { source: Source::Scm, .. } => {
                for held in formers {
                    let shown = self.scm_show(cx, &held.id).await?;
                    let now = cx.clock.now().unix_timestamp();
                    let good = |shown: &super::scm::Shown| {
                        shown.is_usable() && shown.expires().is_none_or(|expires| expires > now)
                    };
                    if !shown.as_ref().is_some_and(good) {
                        return Ok(Some(held));
                    }
                }
                Ok(None)
            }
            Bound::Domain { source: Source::Own, .. } => Ok(None),
        }
    }

    async fn restore(&self, cx: &Context, change: &Change, now: &Bound) -> Result<()> {
        match (&self.location.resource, &change.former) {
            (Resource::Elb { listener_id: Some(id), .. }, Bound::Listener { .. }) => {
                self.elb_point(cx, id, change.back(now)).await
            }
            (Resource::Waf { host_id, mode }, Bound::Host { held: Some(held), .. }) => {
                self.waf_apply(cx, host_id, *mode, &held.id).await
            }
            (Resource::Cdn { domain }, Bound::Domain { held, .. }) => self.cdn_point(cx, domain, held.as_ref()).await,
            // A resource of another kind than when it was recorded is foreign, and was refused.
            _ => Ok(()),
        }
    }
}

fn refused(code: &str, reason: String) -> RollbackOutcome {
    RollbackOutcome::Refused { code: code.to_owned(), reason }
}
