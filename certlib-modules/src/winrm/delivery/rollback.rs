//! Taking back what was done.

use certlib_core::error::codes;
use certlib_core::module::RollbackOutcome;
use certlib_core::{CertificateBundle, Context, Result};
use futures::future::join_all;

use super::Delivery;
use super::apply::{WRONG_MACHINE, possible, staged_list};
use super::undo::{Change, Is, Swap, Undo};
use crate::files::formats;
use crate::probe;
use crate::winrm::host::Host;

impl Delivery<'_> {
    /// Makes the files as they were before. Tolerates nothing done, half done, and done twice.
    ///
    /// Refused with `foreign_change` when a file is neither the new one nor the former one, with `backup_expired` when
    /// the certificate that would come back has expired, and with `wrong_machine` when the delivery was elsewhere.
    ///
    /// # Errors
    /// `Network` when the machine is lost; `IoPermanent` `permission_denied`, `write_failed`; after the files are back,
    /// as the commands, unless all endpoints serve the former certificate all the same.
    pub(crate) async fn rollback(&self, cx: &Context, host: &mut Host<'_>, undo: &[Undo]) -> Result<RollbackOutcome> {
        let reloaded = undo.iter().any(|entry| matches!(entry, Undo::Reloading));
        let swap = undo.iter().find_map(|entry| match entry {
            Undo::Swap(swap) => Some(swap),
            Undo::Reloading => None,
        });
        let Some(swap) = swap else { return Ok(RollbackOutcome::NothingToDo) };
        if swap.machine != self.machine {
            let (then, now) = (swap.machine.escape_debug(), self.machine.escape_debug());
            let reason = format!("the delivery was to {then}, this is {now}");
            return Ok(RollbackOutcome::Refused { code: WRONG_MACHINE.to_owned(), reason });
        }
        let found = self.look_again(host, swap).await?;
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
        remove_strays(host, swap).await?;
        if changed.is_empty() && !reloaded {
            return Ok(RollbackOutcome::NothingToDo);
        }
        restore(host, swap, &changed).await.map_err(possible)?;
        if reloaded && let Err(error) = self.load_former(host).await {
            if !self.serves_former(cx, swap).await {
                return Err(error);
            }
            tracing::warn!(%error, "the former files are back and served, although the service could not be reloaded");
        }
        Ok(RollbackOutcome::RolledBack)
    }

    async fn load_former(&self, host: &mut Host<'_>) -> Result<()> {
        self.test(host).await?;
        self.reload(host).await
    }

    /// Whether every endpoint serves the former certificate.
    async fn serves_former(&self, cx: &Context, swap: &Swap) -> bool {
        let former = swap.files.iter().find_map(|change| self.former(change));
        let Some(former) = former.filter(|_| !self.endpoints.is_empty()) else { return false };
        let looks = self.endpoints.iter().map(|endpoint| probe::check(cx, endpoint, former.fingerprint()));
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
async fn restore(host: &mut Host<'_>, swap: &Swap, changed: &[&Change]) -> Result<()> {
    for change in changed {
        let Some(former) = &change.before else { continue };
        let temporary = change.undo_temporary(&swap.nonce);
        if let Err(error) = host.stage(&temporary, &former.content, staged_list(Some(&former.sddl))).await {
            // Best effort: the next rollback removes what stays.
            let _ = remove_strays(host, swap).await;
            return Err(error);
        }
    }
    for change in changed {
        match &change.before {
            Some(former) => {
                let temporary = change.undo_temporary(&swap.nonce);
                host.replace(Some(&temporary), &change.path, Some(&former.sddl)).await.map(drop)?;
            }
            None => host.remove(std::slice::from_ref(&change.path)).await?,
        }
    }
    Ok(())
}

/// Removes temporary files of this swap, whichever attempt left them.
async fn remove_strays(host: &mut Host<'_>, swap: &Swap) -> Result<()> {
    let names =
        swap.files.iter().flat_map(|change| [change.temporary(&swap.nonce), change.undo_temporary(&swap.nonce)]);
    host.remove(&names.collect::<Vec<_>>()).await
}

fn refused(code: &str, why: &str, change: &Change) -> RollbackOutcome {
    RollbackOutcome::Refused { code: code.to_owned(), reason: format!("{} {why}", change.path.escape_debug()) }
}
