//! Taking back what was done.

use std::collections::BTreeSet;

use certlib_core::Context;
use certlib_core::error::{Result, codes};
use certlib_core::module::RollbackOutcome;

use super::NetScalerCredentials;
use super::apply::{rebind, used_files};
use super::objects::{Bound, PairFiles};
use super::session::Session;
use super::undo::{Delivery, HolderChange, Is};

/// A way back.
pub(super) struct WayBack<'w, 'a> {
    pub(super) session: &'w mut Session<'a>,
    pub(super) credentials: &'w NetScalerCredentials,
    pub(super) delivery: &'w Delivery,
    /// The delivery may have been saved.
    pub(super) saved: bool,
}

/// The holders that have to change, with what is bound there now.
type Now<'w> = Vec<(&'w HolderChange, BTreeSet<Bound>)>;

impl<'w> WayBack<'w, '_> {
    /// Makes everything as it was. Tolerates nothing done, half done, and done twice.
    ///
    /// # Errors
    /// What the appliance says; `IoTransient` `not_primary`.
    pub(super) async fn run(&mut self, cx: &Context) -> Result<RollbackOutcome> {
        let delivery = self.delivery;
        let now = self.session.pair(&delivery.pair).await?;
        let is = delivery.classify(now.as_ref());
        if is == Is::Foreign {
            return Ok(refused(codes::FOREIGN_CHANGE, &delivery.pair, "is not what was put there"));
        }
        let holders = match self.look().await? {
            Ok(holders) => holders,
            Err(refusal) => return Ok(refusal),
        };
        if is == Is::After
            && delivery.changes_files()
            && let Some(refusal) = self.cannot_return(cx).await?
        {
            return Ok(refusal);
        }
        let mut changed = false;
        for (change, now) in &holders {
            changed |= self.restore_holder(change, now).await?;
        }
        changed |= self.restore_pair(is).await?;
        changed |= self.restore_issuers().await?;
        changed |= self.remove_files().await?;
        if self.saved && (changed || self.session.unsaved().await? != Some(false)) {
            self.session.require_primary().await?;
            self.session.save().await?;
        }
        Ok(if changed { RollbackOutcome::RolledBack } else { RollbackOutcome::NothingToDo })
    }

    async fn look(&mut self) -> Result<Result<Now<'w>, RollbackOutcome>> {
        let mut found = Vec::new();
        for change in &self.delivery.holders {
            let now = self.session.bindings(change.kind, &change.name).await?;
            match now.filter(|now| !change.is_foreign(now)) {
                Some(now) => found.push((change, now)),
                None => {
                    let label = change.kind.label(&change.name);
                    return Ok(Err(refused(codes::FOREIGN_CHANGE, &label, "has another certificate")));
                }
            }
        }
        Ok(Ok(found))
    }

    /// Why the former state must not, or cannot, come back.
    async fn cannot_return(&mut self, cx: &Context) -> Result<Option<RollbackOutcome>> {
        let delivery = self.delivery;
        if let Some(before) = &delivery.before {
            if before.expires().is_some_and(|at| at <= cx.clock.now()) {
                return Ok(Some(refused(
                    "backup_expired",
                    &delivery.pair,
                    "would come back with an expired certificate",
                )));
            }
            if !delivery.restorable {
                return Ok(Some(refused("former_files_missing", &before.cert, "was not on the appliance any more")));
            }
            return Ok(None);
        }
        // A pair that was added goes: not while somebody else uses it.
        let known = |(kind, name): &(super::HolderKind, String)| {
            delivery.holders.iter().any(|change| change.kind == *kind && change.name == *name)
        };
        let holders = self.session.holders(&delivery.pair).await?;
        let stranger = holders.iter().find(|holder| !known(holder));
        Ok(stranger.map(|(kind, name)| {
            refused(codes::FOREIGN_CHANGE, &kind.label(name), "has been given the new certificate by somebody else")
        }))
    }

    async fn restore_holder(&mut self, change: &HolderChange, now: &BTreeSet<Bound>) -> Result<bool> {
        // A server certificate may have been displaced without having been unbound.
        let gone = |bound: &&Bound| !now.contains(*bound) && (!bound.sni || !change.after.contains(*bound));
        let add: BTreeSet<_> = change.before.iter().filter(gone).cloned().collect();
        let remove: BTreeSet<_> = change.added().filter(|bound| now.contains(*bound)).cloned().collect();
        if add.is_empty() && remove.is_empty() {
            return Ok(false);
        }
        rebind(self.session, change, now, &add, &remove).await
    }

    async fn restore_pair(&mut self, is: Is) -> Result<bool> {
        let Delivery { pair, before, folder, .. } = self.delivery;
        let Some(before) = before else {
            if is == Is::Before {
                return Ok(false);
            }
            self.session.ensure_link(pair, None).await?;
            return self.session.remove_pair(pair).await;
        };
        let mut changed = false;
        if is == Is::After && self.delivery.changes_files() {
            let link = self.session.pair(pair).await?.and_then(|now| now.link);
            if link.is_some() && link != before.link {
                self.session.ensure_link(pair, None).await?;
            }
            let is_ours = before.key.as_ref().and_then(|key| folder.file(key));
            let is_ours = is_ours.is_some_and(|file| file.starts_with(super::names::MARK));
            let passphrase = self.credentials.former_passphrase.as_ref().filter(|_| !is_ours);
            let mut files = PairFiles::new(pair, &before.cert, before.key.as_deref()).with_passphrase(passphrase);
            files.nodomaincheck = true;
            self.session.update_pair(&files).await?;
            changed = true;
        }
        Ok(self.session.ensure_link(pair, before.link.as_deref()).await? || changed)
    }

    /// Removes issuers that were added and nobody links to, and links that were made and nobody relies on.
    async fn restore_issuers(&mut self) -> Result<bool> {
        let mut pairs = self.session.pairs().await?;
        let mut changed = false;
        let changed_ones: Vec<_> = self.delivery.issuers.iter().filter(|issuer| issuer.changes()).collect();
        for issuer in changed_ones {
            let Some(link) = pairs.get(&issuer.name).map(|pair| pair.link.clone()) else { continue };
            let users = pairs.iter().filter(|(_, pair)| pair.link.as_ref() == Some(&issuer.name));
            if users.filter(|(name, _)| **name != self.delivery.pair).count() > 0 {
                continue;
            }
            let linked_by_us = link.is_some() && link == issuer.link_after && link != issuer.link_before;
            if issuer.added.is_some() && linked_by_us {
                if self.session.retire_pair(&issuer.name).await? {
                    pairs.remove(&issuer.name);
                    changed = true;
                }
                continue;
            }
            if linked_by_us {
                self.session.ensure_link(&issuer.name, issuer.link_before.as_deref()).await?;
                if let Some(pair) = pairs.get_mut(&issuer.name) {
                    pair.link.clone_from(&issuer.link_before);
                }
                changed = true;
            }
            if issuer.added.is_some() && self.session.remove_pair(&issuer.name).await? {
                pairs.remove(&issuer.name);
                changed = true;
            }
        }
        Ok(changed)
    }

    async fn remove_files(&mut self) -> Result<bool> {
        let Delivery { files, folder, .. } = self.delivery;
        let used = used_files(&self.session.pairs().await?, folder);
        let there = self.session.files(&folder.path).await?;
        let mut changed = false;
        let ours: Vec<_> = files.iter().filter(|file| there.contains(*file) && !used.contains(*file)).collect();
        for file in ours {
            self.session.remove_file(&folder.path, file).await?;
            changed = true;
        }
        Ok(changed)
    }
}

pub(super) fn refused(code: &str, what: &str, why: &str) -> RollbackOutcome {
    RollbackOutcome::Refused { code: code.to_owned(), reason: format!("{} {why}", what.escape_debug()) }
}
