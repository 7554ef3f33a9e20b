//! Doing what was planned.

use std::collections::BTreeSet;

use certlib_core::error::codes;
use certlib_core::module::{ApprovedPlan, Facts, Journal, Verb};
use certlib_core::secret::SecretBytes;
use certlib_core::{CertificateBundle, Context, Effect, Error, Result};
use futures::future::{join_all, try_join, try_join_all};
use uuid::Uuid;

use super::filesystem::{FileSystem, Found};
use super::survey::base;
use super::undo::{Change, Is, Swap, Undo};
use super::{Delivery, FILE_LIMIT, formats, path, sha256};

const OPERATION: &str = "files.execute";

/// The journal is about another machine.
pub(super) const WRONG_MACHINE: &str = "wrong_machine";

/// What has been swapped.
#[derive(Debug, Default)]
struct Swapped {
    paths: Vec<String>,
    resumed: bool,
    gap: bool,
    owner_lost: bool,
    label_lost: bool,
}

impl Delivery<'_> {
    /// Delivers, as planned. See [the module](super) for what is promised.
    ///
    /// Cancellation is heeded until the first rename; from then on the delivery goes to its end.
    ///
    /// # Errors
    /// As [`plan`](Delivery::plan), and `Validation` `plan_stale`, `foreign_change`, `wrong_machine`; `IoPermanent` `write_failed`,
    /// `test_failed`, `command_failed`, `haproxy_refused`, `check_failed`; `IoTransient` `command_timeout`, `command_no_status`,
    /// `haproxy_busy`, `cancelled`. As [`FileSystem::ask`]. After the first rename the effect is [`Effect::Possible`].
    pub async fn execute(
        &self,
        cx: &Context,
        fs: &dyn FileSystem,
        bundle: &CertificateBundle,
        plan: &ApprovedPlan,
        journal: &Journal<'_, Undo>,
    ) -> Result<Facts> {
        self.check()?;
        let entries = journal.entries().await?;
        let reload_recorded = entries.iter().any(|entry| matches!(entry, Undo::Reloading));
        let (mut swap, mut commit) = (None, None);
        for entry in entries {
            match entry {
                Undo::Swap(recorded) => swap = swap.or(Some(recorded)),
                Undo::Committing(recorded) => commit = commit.or(Some(recorded)),
                Undo::Reloading => {}
            }
        }
        let swapped = match (swap, &commit) {
            (Some(swap), _) => self.resume(fs, bundle, &swap).await.map_err(possible)?,
            (None, Some(_)) => self.resume_commit(fs, bundle).await.map_err(possible)?,
            (None, None) => match self.begin(cx, fs, bundle, plan, journal).await? {
                Some(swapped) => swapped,
                None => return Ok(Facts::new().with("changed", Vec::<String>::new()).with("reloaded", false)),
            },
        };
        self.test(fs).await?;
        if self.settings.reload_command.is_some() && !reload_recorded {
            journal.record("reload", &Undo::Reloading).await.map_err(possible)?;
        }
        self.reload(fs).await?;
        self.commit(fs, bundle, commit.as_ref(), journal).await?;
        self.check_reloaded(fs).await?;
        Ok(Facts::new()
            .with("changed", swapped.paths)
            .with("reloaded", self.settings.reload_command.is_some())
            .with("haproxy", self.settings.haproxy.is_some())
            .with("resumed", swapped.resumed)
            .with("replaced_with_gap", swapped.gap)
            .with("owner_kept", !swapped.owner_lost)
            .with("label_kept", !swapped.label_lost))
    }

    /// A first attempt. `None` when there is nothing to do at all.
    async fn begin(
        &self,
        cx: &Context,
        fs: &dyn FileSystem,
        bundle: &CertificateBundle,
        plan: &ApprovedPlan,
        journal: &Journal<'_, Undo>,
    ) -> Result<Option<Swapped>> {
        cx.check_cancelled(OPERATION)?;
        let plan = plan.plan();
        let (items, memory) = try_join(self.survey(fs, bundle), self.memory(fs)).await?;
        if base(&items, memory.as_deref()) != plan.base {
            return Err(stale("the target is not as the plan saw it; plan again"));
        }
        let changed: Vec<_> = items.iter().filter(|item| !item.keep).collect();
        if changed.is_empty() {
            let reloads = plan.steps.iter().any(|step| matches!(step.verb, Verb::Reload | Verb::Call));
            return Ok(reloads.then(Swapped::default));
        }
        cx.check_cancelled(OPERATION)?;
        let mut nonce = Uuid::new_v4().simple().to_string();
        nonce.truncate(16);
        let undo = Undo::Swap(Swap {
            machine: self.machine.to_owned(),
            nonce,
            files: changed.iter().map(|item| Change::record(item)).collect(),
        });
        journal.record("swap", &undo).await?;
        let Undo::Swap(swap) = &undo else { return Ok(None) };
        let contents = changed.iter().map(|item| &item.content);
        let work: Vec<(&Change, &SecretBytes)> = swap.files.iter().zip(contents).collect();
        self.swap(fs, swap, &work).await.map(Some)
    }

    /// Another attempt, after one that recorded what it was about to do.
    async fn resume(&self, fs: &dyn FileSystem, bundle: &CertificateBundle, swap: &Swap) -> Result<Swapped> {
        if swap.machine != self.machine {
            return Err(Error::validation(OPERATION, WRONG_MACHINE, "an interrupted attempt was on another machine")
                .with("then", swap.machine.escape_debug())
                .with("now", self.machine.escape_debug()));
        }
        self.check_root(fs, swap.files.iter().map(|change| change.real.as_str())).await?;
        let found = try_join_all(swap.files.iter().map(|change| fs.observe(&change.path, FILE_LIMIT))).await?;
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
        try_join_all(swap.files.iter().map(async |change| fs.remove(&change.temporary(&swap.nonce)).await)).await?;
        let work: Vec<_> = contents.iter().map(|(change, content)| (*change, content)).collect();
        let swapped = self.swap(fs, swap, &work).await?;
        let paths = swap.files.iter().map(|change| change.path.clone()).collect();
        Ok(Swapped { paths, resumed: true, ..swapped })
    }

    /// Another attempt, after one that found every file as it should be and was about to tell HAProxy.
    async fn resume_commit(&self, fs: &dyn FileSystem, bundle: &CertificateBundle) -> Result<Swapped> {
        let items = self.survey(fs, bundle).await?;
        if items.iter().any(|item| !item.keep) {
            return Err(stale("the files on the target are not those that an interrupted attempt saw; plan again"));
        }
        Ok(Swapped { resumed: true, ..Swapped::default() })
    }

    /// What was going to be written to this file.
    fn recorded_content(&self, change: &Change, bundle: &CertificateBundle) -> Result<SecretBytes> {
        if let Some(content) = &change.after.content {
            return Ok(content.duplicate());
        }
        let content = formats::render(change.format, bundle, self.pfx())?;
        if sha256(content.expose()) != change.after.sha256 {
            return Err(stale("an interrupted attempt was about to write something else to this target"));
        }
        Ok(content)
    }

    /// Writes every file beside its place, then puts all of them in place.
    async fn swap(&self, fs: &dyn FileSystem, swap: &Swap, work: &[(&Change, &SecretBytes)]) -> Result<Swapped> {
        let staged = join_all(work.iter().map(async |(change, content)| {
            fs.stage(&change.temporary(&swap.nonce), content.expose(), &change.after.attributes()).await
        }));
        let mut swapped = Swapped::default();
        for staged in staged.await {
            match staged {
                Ok(has_owner) => swapped.owner_lost |= !has_owner,
                Err(error) => return Err(self.abandon(fs, swap, error).await),
            }
        }
        if swapped.owner_lost {
            tracing::warn!("the former owner of a file could not be kept: the login may not give files away");
        }
        for (change, _) in work {
            let replaced = fs.replace(&change.temporary(&swap.nonce), &change.real).await.map_err(possible)?;
            swapped.gap |= replaced.gap;
            swapped.label_lost |= replaced.label_lost;
            swapped.paths.push(change.path.clone());
        }
        sync(fs, work.iter().map(|(change, _)| change.real.as_str())).await.map_err(possible)?;
        Ok(swapped)
    }

    /// Removes temporary files after a failure; only when none is left is the target certainly unchanged.
    async fn abandon(&self, fs: &dyn FileSystem, swap: &Swap, error: Error) -> Error {
        let gone = join_all(swap.files.iter().map(async |change| {
            let temporary = change.temporary(&swap.nonce);
            fs.remove(&temporary).await.is_ok() || matches!(fs.observe(&temporary, FILE_LIMIT).await, Ok(Found::Absent))
        }));
        if gone.await.into_iter().all(|gone| gone) { error } else { possible(error) }
    }

    /// Runs the test command.
    pub(super) async fn test(&self, fs: &dyn FileSystem) -> Result<()> {
        let Some(command) = &self.settings.test_command else { return Ok(()) };
        let output = fs.run(command, self.command_timeout()).await.map_err(possible)?;
        output.require_success("files.test", "test_failed", command)
    }

    /// Runs the reload command.
    pub(super) async fn reload(&self, fs: &dyn FileSystem) -> Result<()> {
        let Some(command) = &self.settings.reload_command else { return Ok(()) };
        let output = fs.run(command, self.command_timeout()).await.map_err(possible)?;
        output.require_success("files.reload", "command_failed", command)
    }

    /// Asks whether the service is well.
    pub(super) async fn check_reloaded(&self, fs: &dyn FileSystem) -> Result<()> {
        let Some(command) = &self.settings.after_reload_check else { return Ok(()) };
        let output = fs.run(command, self.command_timeout()).await.map_err(possible)?;
        output.require_success("files.check", "check_failed", command)
    }
}

/// Makes changes in the directories of `files` durable.
pub(super) async fn sync(fs: &dyn FileSystem, files: impl Iterator<Item = &str>) -> Result<()> {
    let directories: BTreeSet<&str> = files.map(path::parent).collect();
    try_join_all(directories.into_iter().map(|directory| fs.sync_directory(directory))).await.map(drop)
}

pub(super) fn possible(error: Error) -> Error {
    error.with_effect(Effect::Possible)
}

fn stale(message: &str) -> Error {
    Error::validation(OPERATION, codes::PLAN_STALE, message)
}

fn foreign(change: &Change) -> Error {
    Error::validation(
        OPERATION,
        codes::FOREIGN_CHANGE,
        "somebody else changed this file meanwhile; nothing was touched",
    )
    .with("path", change.path.escape_debug())
}
