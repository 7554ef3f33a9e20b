//! Taking back what was done.

use certlib_core::error::codes;
use certlib_core::module::RollbackOutcome;
use certlib_core::{CertificateBundle, Context, Result};
use futures::future::{join_all, try_join_all};

use super::apply::{WRONG_MACHINE, possible, sync};
use super::filesystem::FileSystem;
use super::haproxy::Commit;
use super::undo::{Change, Is, Swap, Undo};
use super::{Delivery, FILE_LIMIT, formats};
use crate::probe;

impl Delivery<'_> {
    /// Makes the target as it was before. Tolerates nothing done, half done, and done twice.
    ///
    /// Refused with `foreign_change` when a file is neither the new one nor the former one, with `backup_expired` when
    /// the certificate that would come back has expired, and with `wrong_machine` when the delivery was elsewhere; with
    /// `foreign_change`, too, when HAProxy has another certificate than either, and with `haproxy_former_lost` when the one
    /// that it had was in no file, or, when only HAProxy was told and no file changed, is not in the file now.
    ///
    /// # Errors
    /// `Network` when the machine is lost; `IoPermanent` `permission_denied`, `write_failed`; after the files are back,
    /// as the commands (`test_failed`, `command_failed`, `check_failed`, `command_timeout`, `command_no_status`) and HAProxy
    /// (`haproxy_refused`, `haproxy_busy`, as [`FileSystem::ask`]), unless all endpoints serve the
    /// former certificate all the same.
    pub async fn rollback(&self, cx: &Context, fs: &dyn FileSystem, undo: &[Undo]) -> Result<RollbackOutcome> {
        let reloaded = undo.iter().any(|entry| matches!(entry, Undo::Reloading));
        let swap = undo.iter().find_map(|entry| match entry {
            Undo::Swap(swap) => Some(swap),
            _ => None,
        });
        let commit = undo.iter().find_map(|entry| match entry {
            Undo::Committing(commit) => Some(commit),
            _ => None,
        });
        let Some(swap) = swap else {
            return match commit {
                Some(commit) => self.take_back_commit(fs, commit).await,
                None => Ok(RollbackOutcome::NothingToDo),
            };
        };
        if swap.machine != self.machine {
            let (then, now) = (swap.machine.escape_debug(), self.machine.escape_debug());
            let reason = format!("the delivery was to {then}, this is {now}");
            return Ok(RollbackOutcome::Refused { code: WRONG_MACHINE.to_owned(), reason });
        }
        self.check_root(fs, swap.files.iter().map(|change| change.real.as_str())).await?;
        let found = try_join_all(swap.files.iter().map(|change| fs.observe(&change.path, FILE_LIMIT))).await?;
        let mut changed = Vec::new();
        for (change, found) in swap.files.iter().zip(&found) {
            match change.classify(found) {
                Is::Foreign => return Ok(refused(codes::FOREIGN_CHANGE, "is not what was put there", change)),
                Is::Former => {}
                Is::New | Is::FormerContent | Is::Missing => changed.push(change),
            }
        }
        if let Some(change) = changed.iter().find(|change| self.backup_expired(cx, change)) {
            return Ok(refused("backup_expired", "would come back with an expired certificate", change));
        }
        if let Some(commit) = commit {
            match self.memory(fs).await {
                Ok(memory) => {
                    let refusal = memory.and_then(|memory| Self::swap_refusal(commit, swap, &memory));
                    if let Some((code, reason)) = refusal {
                        return Ok(RollbackOutcome::Refused { code: code.to_owned(), reason: reason.to_owned() });
                    }
                }
                // The files can go back all the same: they are what the next start reads. It is told below.
                Err(error) => tracing::warn!(%error, "HAProxy does not say what it serves"),
            }
        }
        remove_strays(fs, swap).await?;
        let told = reloaded || commit.is_some();
        if changed.is_empty() && !told {
            return Ok(RollbackOutcome::NothingToDo);
        }
        restore(fs, swap, &changed).await.map_err(possible)?;
        if told && let Err(error) = self.load_former(fs, swap, reloaded, commit).await {
            if !self.serves_former(cx, swap).await {
                return Err(error);
            }
            tracing::warn!(%error, "the former files are back and served, although the service could not be reloaded");
        }
        Ok(RollbackOutcome::RolledBack)
    }

    /// Takes back what HAProxy was told although no file had to change.
    async fn take_back_commit(&self, fs: &dyn FileSystem, commit: &Commit) -> Result<RollbackOutcome> {
        let outcome = self.take_back(fs, commit).await?;
        if outcome == RollbackOutcome::RolledBack {
            self.check_reloaded(fs).await?;
        }
        Ok(outcome)
    }

    async fn load_former(
        &self,
        fs: &dyn FileSystem,
        swap: &Swap,
        reloaded: bool,
        commit: Option<&Commit>,
    ) -> Result<()> {
        self.test(fs).await?;
        if reloaded {
            self.reload(fs).await?;
        }
        if let Some(commit) = commit {
            self.serve_former(fs, swap, commit).await?;
        }
        self.check_reloaded(fs).await
    }

    /// Whether every endpoint serves the former certificate: then it does not matter that a command failed, as one does
    /// that never worked.
    async fn serves_former(&self, cx: &Context, swap: &Swap) -> bool {
        let former = swap.files.iter().find_map(|change| self.former(change));
        let Some(former) = former.filter(|_| !self.settings.endpoints.is_empty()) else { return false };
        let looks = self.settings.endpoints.iter().map(|endpoint| probe::check(cx, endpoint, former.fingerprint()));
        join_all(looks).await.iter().all(|check| check.problem.is_none())
    }

    /// The certificate that was in a file.
    fn former(&self, change: &Change) -> Option<CertificateBundle> {
        formats::read(change.format, &change.before.as_ref()?.content, self.pfx())
    }

    fn backup_expired(&self, cx: &Context, change: &Change) -> bool {
        self.former(change).is_some_and(|former| former.leaf().not_after <= cx.clock.now())
    }
}

/// Puts former files back and removes those that were not there.
async fn restore(fs: &dyn FileSystem, swap: &Swap, changed: &[&Change]) -> Result<()> {
    let staged = join_all(changed.iter().map(async |change| match &change.before {
        Some(former) => {
            let temporary = change.undo_temporary(&swap.nonce);
            fs.stage(&temporary, former.content.expose(), &former.attributes()).await.map(drop)
        }
        None => Ok(()),
    }));
    if let Some(error) = staged.await.into_iter().find_map(Result::err) {
        // Best effort: the next rollback removes what stays.
        let _ = remove_strays(fs, swap).await;
        return Err(error);
    }
    for change in changed {
        match change.before {
            Some(_) => drop(fs.replace(&change.undo_temporary(&swap.nonce), &change.real).await?),
            None => fs.remove(&change.real).await?,
        }
    }
    sync(fs, changed.iter().map(|change| change.real.as_str())).await
}

/// Removes temporary files of this swap, whichever attempt left them.
async fn remove_strays(fs: &dyn FileSystem, swap: &Swap) -> Result<()> {
    let names =
        swap.files.iter().flat_map(|change| [change.temporary(&swap.nonce), change.undo_temporary(&swap.nonce)]);
    try_join_all(names.map(async |name| fs.remove(&name).await)).await.map(drop)
}

fn refused(code: &str, why: &str, change: &Change) -> RollbackOutcome {
    RollbackOutcome::Refused { code: code.to_owned(), reason: format!("{} {why}", change.path.escape_debug()) }
}
