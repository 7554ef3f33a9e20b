//! Doing what was planned.

use certlib_core::error::codes;
use certlib_core::module::Facts;
use certlib_core::secret::SecretBytes;
use certlib_core::{CertificateBundle, Context, Effect, Error, Result};
use uuid::Uuid;

use super::Delivery;
use super::survey::base;
use super::undo::{Change, Is, Swap, Undo};
use crate::files::{formats, sha256};
use crate::winrm::host::{Found, Host};
use crate::winrm::sddl::Dacl;

const OPERATION: &str = "winrm.execute";

/// The journal is about another machine.
pub(crate) const WRONG_MACHINE: &str = "wrong_machine";

/// Where [`Delivery::execute`] records: the module's own journal, which may hold other entries.
#[async_trait::async_trait]
pub(crate) trait Recorder: Send + Sync {
    /// All entries of a delivery as files.
    async fn entries(&self) -> Result<Vec<Undo>>;
    /// Records before a change.
    async fn record(&self, step: &str, undo: Undo) -> Result<()>;
}

/// What has been swapped.
#[derive(Debug, Default)]
struct Swapped {
    paths: Vec<String>,
    resumed: bool,
    gap: bool,
    owner_lost: bool,
}

impl Delivery<'_> {
    /// Delivers, if the machine still looks like `planned`, or an attempt was interrupted.
    ///
    /// Cancellation is heeded until the first swap; from then on the delivery goes to its end.
    ///
    /// # Errors
    /// As [`plan`](Delivery::plan), and `Validation` `plan_stale`, `foreign_change`, `wrong_machine`; `IoTransient`
    /// `file_in_use`, `command_timeout`, `command_no_status`, `cancelled`; `IoPermanent` `write_failed`,
    /// `test_failed`, `command_failed`. After the first swap the effect is [`Effect::Possible`].
    pub(crate) async fn execute(
        &self,
        cx: &Context,
        host: &mut Host<'_>,
        bundle: &CertificateBundle,
        planned: &str,
        reload_wanted: bool,
        journal: &dyn Recorder,
    ) -> Result<Facts> {
        let entries = journal.entries().await?;
        let reload_recorded = entries.iter().any(|entry| matches!(entry, Undo::Reloading));
        let swap = entries.into_iter().find_map(|entry| match entry {
            Undo::Swap(swap) => Some(swap),
            Undo::Reloading => None,
        });
        let swapped = match swap {
            Some(swap) => self.resume(host, bundle, &swap).await.map_err(possible)?,
            None => match self.begin(cx, host, bundle, planned, reload_wanted, journal).await? {
                Some(swapped) => swapped,
                None => return Ok(Facts::new().with("changed", Vec::<String>::new()).with("reloaded", false)),
            },
        };
        self.test(host).await?;
        if self.commands.reload.is_some() && !reload_recorded {
            journal.record("reload", Undo::Reloading).await.map_err(possible)?;
        }
        self.reload(host).await?;
        Ok(Facts::new()
            .with("changed", swapped.paths)
            .with("reloaded", self.commands.reload.is_some())
            .with("resumed", swapped.resumed)
            .with("replaced_with_gap", swapped.gap)
            .with("owner_kept", !swapped.owner_lost))
    }

    /// A first attempt. `None` when there is nothing to do at all.
    async fn begin(
        &self,
        cx: &Context,
        host: &mut Host<'_>,
        bundle: &CertificateBundle,
        planned: &str,
        reload_wanted: bool,
        journal: &dyn Recorder,
    ) -> Result<Option<Swapped>> {
        cx.check_cancelled(OPERATION)?;
        let items = self.survey(host, bundle).await?;
        if base(&items) != planned {
            return Err(stale("the files on the machine are not those that the plan saw; plan again"));
        }
        let changed: Vec<_> = items.iter().filter(|item| !item.keep).collect();
        if changed.is_empty() {
            return Ok(reload_wanted.then(Swapped::default));
        }
        cx.check_cancelled(OPERATION)?;
        let mut nonce = Uuid::new_v4().simple().to_string();
        nonce.truncate(16);
        let files = changed.iter().map(|item| Change::record(item)).collect();
        let swap = Swap { machine: self.machine.clone(), nonce, files };
        let copy = Swap {
            machine: swap.machine.clone(),
            nonce: swap.nonce.clone(),
            files: changed.iter().map(|item| Change::record(item)).collect(),
        };
        journal.record("swap", Undo::Swap(copy)).await?;
        let contents = changed.iter().map(|item| &item.content);
        let work: Vec<(&Change, &SecretBytes)> = swap.files.iter().zip(contents).collect();
        self.swap(host, &swap, &work).await.map(Some)
    }

    /// Another attempt, after one that recorded what it was about to do.
    async fn resume(&self, host: &mut Host<'_>, bundle: &CertificateBundle, swap: &Swap) -> Result<Swapped> {
        if swap.machine != self.machine {
            return Err(Error::validation(OPERATION, WRONG_MACHINE, "an interrupted attempt was on another machine")
                .with("then", swap.machine.escape_debug())
                .with("now", self.machine.escape_debug()));
        }
        let found = self.look_again(host, swap).await?;
        let mut contents = Vec::new();
        for (change, found) in swap.files.iter().zip(&found) {
            match change.classify(found) {
                Is::Foreign => return Err(foreign(change)),
                Is::New => {}
                Is::Former | Is::FormerContent | Is::Missing => {
                    contents.push((change, self.recorded_content(change, bundle)?));
                }
            }
        }
        // A former attempt may have died with its temporary files in place.
        let strays: Vec<String> = swap.files.iter().map(|change| change.temporary(&swap.nonce)).collect();
        host.remove(&strays).await?;
        let work: Vec<_> = contents.iter().map(|(change, content)| (*change, content)).collect();
        let swapped = self.swap(host, swap, &work).await?;
        let paths = swap.files.iter().map(|change| change.path.clone()).collect();
        Ok(Swapped { paths, resumed: true, ..swapped })
    }

    /// What is at the paths of a swap now.
    pub(super) async fn look_again(&self, host: &mut Host<'_>, swap: &Swap) -> Result<Vec<Found>> {
        let files = swap.files.iter().map(|change| change.path.as_str()).collect();
        Ok(self.look(host, files, Vec::new()).await?.files)
    }

    /// What was going to be written to this file.
    fn recorded_content(&self, change: &Change, bundle: &CertificateBundle) -> Result<SecretBytes> {
        if let Some(content) = &change.after.content {
            return Ok(content.duplicate());
        }
        let content = formats::render(change.format, bundle, self.pfx())?;
        if sha256(content.expose()) != change.after.sha256 {
            return Err(stale("an interrupted attempt was about to write something else to this machine"));
        }
        Ok(content)
    }

    /// Writes every file beside its place, then puts all of them in place.
    async fn swap(&self, host: &mut Host<'_>, swap: &Swap, work: &[(&Change, &SecretBytes)]) -> Result<Swapped> {
        let mut swapped = Swapped::default();
        for (change, content) in work {
            let former = change.before.as_ref().map(|former| former.sddl.as_str());
            let list = staged_list(change.after.sddl.as_deref().or(former));
            if let Err(error) = host.stage(&change.temporary(&swap.nonce), content, list).await {
                return Err(self.abandon(host, swap, error).await);
            }
        }
        for (change, _) in work {
            let temporary = change.temporary(&swap.nonce);
            let list = change.after.sddl.as_deref();
            let replaced = host.replace(Some(&temporary), &change.path, list).await.map_err(possible)?;
            swapped.gap |= replaced.gap;
            swapped.owner_lost |= !replaced.owner_kept;
            swapped.paths.push(change.path.clone());
        }
        Ok(swapped)
    }

    /// Removes temporary files after a failure; only when none is left is the machine certainly unchanged.
    async fn abandon(&self, host: &mut Host<'_>, swap: &Swap, error: Error) -> Error {
        let strays: Vec<String> = swap.files.iter().map(|change| change.temporary(&swap.nonce)).collect();
        if host.remove(&strays).await.is_ok() { error } else { possible(error) }
    }

    /// Runs the test command.
    pub(super) async fn test(&self, host: &mut Host<'_>) -> Result<()> {
        let Some(command) = self.commands.test else { return Ok(()) };
        let output = host.run(command, self.commands.limit).await.map_err(possible)?;
        output.require_success("winrm.test", "test_failed", command)
    }

    /// Runs the reload command.
    pub(super) async fn reload(&self, host: &mut Host<'_>) -> Result<()> {
        let Some(command) = self.commands.reload else { return Ok(()) };
        let output = host.run(command, self.commands.limit).await.map_err(possible)?;
        output.require_success("winrm.reload", "command_failed", command)
    }
}

/// The list that a file is created with, so that nobody reads it who may not. One that takes entries from the directory
/// cannot be given to a new file; the directory's own list is what it gets until its turn comes.
pub(super) fn staged_list(list: Option<&str>) -> Option<&str> {
    list.filter(|list| Dacl::is_protected(list))
}

pub(crate) fn possible(error: Error) -> Error {
    error.with_effect(Effect::Possible)
}

fn stale(message: &str) -> Error {
    Error::validation(OPERATION, codes::PLAN_STALE, message)
}

fn foreign(change: &Change) -> Error {
    let why = "somebody else changed this file meanwhile; nothing was touched";
    Error::validation(OPERATION, codes::FOREIGN_CHANGE, why).with("path", change.path.escape_debug())
}
