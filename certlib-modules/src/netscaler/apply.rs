//! Doing what was planned. Every step looks first, so that it can be taken again after a crash or a lost answer.

use std::collections::BTreeSet;

use certlib_core::error::{Effect, Error, Result, codes};
use certlib_core::module::{Facts, Journal};
use certlib_core::{CertificateBundle, Context};
use zeroize::Zeroizing;

use super::NetScalerConfig;
use super::OPERATION;
use super::names::Folder;
use super::nitro::Why;
use super::objects::{Bound, PairFiles};
use super::session::Session;
use super::undo::{Delivery, HolderChange, Is, Undo};

/// A delivery under way.
pub(super) struct Work<'w, 'a> {
    pub(super) session: &'w mut Session<'a>,
    pub(super) config: &'w NetScalerConfig,
    pub(super) delivery: &'w Delivery,
}

impl Work<'_, '_> {
    /// Carries the delivery out, from wherever an earlier attempt left it.
    ///
    /// Cancellation is heeded until the pair or the first binding changes; from then on it goes to its end.
    ///
    /// # Errors
    /// `Validation` `foreign_change`; `IoTransient` `not_primary`, `cancelled`; `IoPermanent` `switch_failed`,
    /// `link_failed`, `declined`; and what the appliance says. The effect is always [`Effect::Possible`].
    pub(super) async fn run(
        &mut self,
        cx: &Context,
        bundle: &CertificateBundle,
        journal: &Journal<'_, Undo>,
        saving_recorded: bool,
    ) -> Result<Facts> {
        self.prepare(bundle).await?;
        cx.check_cancelled(OPERATION)?;
        self.session.require_primary().await?;
        self.switch_pair().await?;
        for holder in &self.delivery.holders {
            self.switch_holder(holder).await?;
        }
        self.confirm().await?;
        let mut removed = self.remove_pairs().await;
        if self.config.save {
            if !saving_recorded {
                journal.record("save", &Undo::Saving).await?;
            }
            self.session.require_primary().await?;
            self.session.save().await?;
        }
        removed.extend(self.remove_files().await);
        let issuers: Vec<_> = self.delivery.issuers.iter().map(|issuer| issuer.name.clone()).collect();
        let holders: Vec<_> = self.delivery.holders.iter().map(|holder| holder.kind.label(&holder.name)).collect();
        Ok(Facts::new()
            .with("certkey", self.delivery.pair.clone())
            .with("uploaded", self.delivery.files.clone())
            .with("issuers", issuers)
            .with("rebound", holders)
            .with("saved", self.config.save)
            .with("removed", removed))
    }

    /// Everything that nobody sees yet: files, the issuers' pairs, and links among them.
    async fn prepare(&mut self, bundle: &CertificateBundle) -> Result<()> {
        let delivery = self.delivery;
        for file in &delivery.files {
            let content = content(delivery, bundle, file)?;
            self.session.upload(&delivery.folder.path, file, &content).await?;
        }
        let changing: Vec<_> = delivery.issuers.iter().rev().filter(|issuer| issuer.changes()).collect();
        for issuer in changing {
            if let Some(file) = &issuer.added
                && self.session.pair(&issuer.name).await?.is_none()
            {
                let path = delivery.folder.reference(file);
                let added = self.session.add_pair(&PairFiles::new(&issuer.name, &path, None)).await;
                // Somebody else may have been quicker, under this very name: then it is the same certificate.
                if let Err(failed) = added
                    && !(failed.why == Why::Exists && self.session.pair(&issuer.name).await?.is_some())
                {
                    return Err(failed.error);
                }
            }
            if issuer.link_before != issuer.link_after {
                let now = self.session.pair(&issuer.name).await?.and_then(|pair| pair.link);
                if now != issuer.link_before && now != issuer.link_after {
                    return Err(foreign(&issuer.name));
                }
                self.session.ensure_link(&issuer.name, issuer.link_after.as_deref()).await?;
            }
        }
        Ok(())
    }

    async fn switch_pair(&mut self) -> Result<()> {
        let Delivery { pair, before, after, .. } = self.delivery;
        let now = self.session.pair(pair).await?;
        match self.delivery.classify(now.as_ref()) {
            Is::Foreign => return Err(foreign(pair)),
            Is::After => {}
            Is::Before if !self.delivery.changes_files() => {}
            Is::Before => {
                let mut files = PairFiles::new(pair, &after.cert, after.key.as_deref());
                if before.is_none() {
                    let added = self.session.add_pair(&files).await;
                    if let Err(failed) = added {
                        let made = failed.why == Why::Exists && {
                            let now = self.session.pair(pair).await?;
                            now.is_some() && self.delivery.classify(now.as_ref()) == Is::After
                        };
                        if !made {
                            return Err(failed.error);
                        }
                    }
                } else {
                    let link = now.and_then(|now| now.link);
                    if link.is_some() && link != after.link {
                        self.session.ensure_link(pair, None).await?;
                    }
                    files.nodomaincheck = !self.config.domain_check;
                    self.session.update_pair(&files).await?;
                }
            }
        }
        self.session.ensure_link(pair, after.link.as_deref()).await.map(drop)
    }

    async fn switch_holder(&mut self, change: &HolderChange) -> Result<()> {
        let Some(now) = self.session.bindings(change.kind, &change.name).await? else {
            return Err(foreign(&change.name));
        };
        if change.is_foreign(&now) {
            return Err(foreign(&change.name));
        }
        let add: BTreeSet<_> = change.added().filter(|bound| !now.contains(bound)).cloned().collect();
        let remove: BTreeSet<_> = change.removed().cloned().collect();
        rebind(self.session, change, &now, &add, &remove).await.map(drop)
    }

    /// Reads everything back.
    async fn confirm(&mut self) -> Result<()> {
        let delivery = self.delivery;
        let failed = |what: &str| {
            let why = "what was changed does not show; the node may have lost its role, or somebody else changed it";
            Error::permanent(OPERATION, "switch_failed", why).with("object", what)
        };
        let now = self.session.pair(&delivery.pair).await?;
        let linked = now.as_ref().is_some_and(|now| now.link == delivery.after.link);
        if delivery.classify(now.as_ref()) != Is::After || !linked {
            self.session.require_primary().await?;
            return Err(failed(&delivery.pair));
        }
        for change in &delivery.holders {
            let now = self.session.bindings(change.kind, &change.name).await?;
            if !now.is_some_and(|now| change.is_made(&now)) {
                self.session.require_primary().await?;
                return Err(failed(&change.name));
            }
        }
        Ok(())
    }

    /// Removes pairs that nobody needs. Failing at it is no failure of the delivery.
    async fn remove_pairs(&mut self) -> Vec<String> {
        let mut removed = Vec::new();
        for name in &self.delivery.garbage.pairs {
            match self.session.retire_pair(name).await {
                Ok(true) => removed.push(name.clone()),
                Ok(false) => tracing::info!(certkey = %name, "an old pair is still in use and stays"),
                Err(error) => tracing::warn!(%error, "an old pair could not be removed"),
            }
        }
        removed
    }

    /// Removes files that nobody needs, having looked once more.
    async fn remove_files(&mut self) -> Vec<String> {
        let Delivery { garbage, folder, .. } = self.delivery;
        if garbage.files.is_empty() {
            return Vec::new();
        }
        let used = match self.session.pairs().await {
            Ok(pairs) => used_files(&pairs, folder),
            Err(error) => {
                tracing::warn!(%error, "old files could not be removed");
                return Vec::new();
            }
        };
        let mut removed = Vec::new();
        let free: Vec<_> = garbage.files.iter().filter(|file| !used.contains(*file)).collect();
        for file in free {
            match self.session.remove_file(&folder.path, file).await {
                Ok(()) => removed.push(file.clone()),
                Err(error) => tracing::warn!(%error, "an old file could not be removed"),
            }
        }
        removed
    }
}

/// The files in `folder` that some pair is made of.
pub(super) fn used_files(pairs: &std::collections::BTreeMap<String, super::Pair>, folder: &Folder) -> BTreeSet<String> {
    let files = pairs.values().flat_map(|pair| [Some(&pair.cert), pair.key.as_ref()]).flatten();
    files.filter_map(|path| folder.file(path)).map(str::to_owned).collect()
}

/// Binds and unbinds; what comes is bound before what goes is unbound, unless the appliance does not have both. Whether
/// it changed anything.
pub(super) async fn rebind(
    session: &mut Session<'_>,
    change: &HolderChange,
    now: &BTreeSet<Bound>,
    add: &BTreeSet<Bound>,
    remove: &BTreeSet<Bound>,
) -> Result<bool> {
    let (kind, name) = (change.kind, change.name.as_str());
    let mut changed = !add.is_empty();
    for bound in add {
        let Err(failed) = session.bind(kind, name, bound).await else { continue };
        // Two SNI certificates for one domain do not go together: a gap of one request.
        let rivals: Vec<_> = remove.iter().filter(|rival| rival.sni == bound.sni && now.contains(rival)).collect();
        if failed.why != Why::Declined || rivals.is_empty() {
            return Err(failed.error);
        }
        for rival in &rivals {
            session.unbind(kind, name, rival).await?;
        }
        if let Err(second) = session.bind(kind, name, bound).await {
            for rival in rivals {
                if let Err(failed) = session.bind(kind, name, rival).await {
                    tracing::warn!(error = %failed.error, "the former certificate could not be bound again at once");
                }
            }
            return Err(second.error);
        }
    }
    let now = session.bindings(kind, name).await?.unwrap_or_default();
    let left: Vec<_> = remove.iter().filter(|bound| now.contains(bound)).collect();
    for bound in left {
        session.unbind(kind, name, bound).await?;
        changed = true;
    }
    Ok(changed)
}

fn content(delivery: &Delivery, bundle: &CertificateBundle, file: &str) -> Result<Zeroizing<Vec<u8>>> {
    let is = |path: Option<&String>| path.and_then(|path| delivery.folder.file(path)) == Some(file);
    if is(Some(&delivery.after.cert)) {
        return Ok(Zeroizing::new(bundle.leaf_pem().into_bytes()));
    }
    if is(delivery.after.key.as_ref()) {
        return Ok(Zeroizing::new(bundle.key_pem()?.expose().as_bytes().to_vec()));
    }
    let position = delivery.issuers.iter().position(|issuer| issuer.added.as_deref() == Some(file));
    let der = position.and_then(|position| bundle.certificates().get(position + 1));
    let der = der.ok_or_else(|| stale("an interrupted attempt was about to deliver another chain"))?;
    let one = CertificateBundle::new(vec![der.clone()], None)?;
    Ok(Zeroizing::new(one.leaf_pem().into_bytes()))
}

pub(super) fn stale(why: &str) -> Error {
    Error::validation(OPERATION, codes::PLAN_STALE, why)
}

fn foreign(what: &str) -> Error {
    let why = "somebody else changed the target while the delivery was under way; look at it, then deliver again";
    Error::validation(OPERATION, codes::FOREIGN_CHANGE, why).with("object", what)
}

/// After the first record nobody knows for sure.
pub(super) fn possible(error: Error) -> Error {
    error.with_effect(Effect::Possible)
}
