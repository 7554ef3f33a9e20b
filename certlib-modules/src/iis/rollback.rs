//! Taking back what was done.

use certlib_core::error::codes;
use certlib_core::module::RollbackOutcome;
use certlib_core::{Context, Effect, Result};

use super::Job;
use super::apply::files_only;
use super::server::{self, Seen, look};
use super::undo::{Is, Shown, Undo, UnitChange};
use crate::winrm;
use crate::winrm::host::Host;

/// What is to be undone.
#[derive(Debug, Default)]
struct Recorded {
    machine: Option<String>,
    /// Store, thumbprint and friendly name of a certificate that is ours.
    import: Option<(String, String, String)>,
    bind: Vec<UnitChange>,
    files: Vec<winrm::Undo>,
    recycling: bool,
}

impl Job<'_> {
    /// Makes the machine as it was before. Tolerates nothing done, half done, and done twice.
    ///
    /// Refused, with nothing done, with `foreign_change` when a binding shows neither the new certificate nor the
    /// former one; with `backup_missing` or `backup_expired` when the former certificate has gone from the store, has
    /// lost its key or has expired; with `wrong_machine`; and for files as `winrm`.
    ///
    /// # Errors
    /// As [`execute`](Job::execute).
    pub(super) async fn rollback(&self, cx: &Context, host: &mut Host<'_>, undo: Vec<Undo>) -> Result<RollbackOutcome> {
        let recorded = Recorded::of(undo);
        if let Some(then) = recorded.machine.as_ref().filter(|then| **then != self.machine) {
            let reason =
                format!("the delivery was to {}, this is {}", then.escape_debug(), self.machine.escape_debug());
            return Ok(refused("wrong_machine", reason));
        }
        let mut back = Vec::new();
        let mut seen = None;
        if recorded.import.is_some() || !recorded.bind.is_empty() {
            let found = look(host, self.location.store).await?;
            for change in &recorded.bind {
                let shown = found.shown(&change.unit);
                match change.classify(shown.as_ref()) {
                    Is::Former => {}
                    Is::New | Is::Between => back.push((change, shown.is_some())),
                    Is::Foreign => {
                        let reason = format!("{} shows neither certificate", change.unit.to_string().escape_debug());
                        return Ok(refused(codes::FOREIGN_CHANGE, reason));
                    }
                }
            }
            for (change, _) in &back {
                if let Some(outcome) = self.cannot_return(cx, &found, change) {
                    return Ok(outcome);
                }
            }
            seen = Some(found);
        }
        let files = match &self.files {
            Some(files) => files.rollback(cx, host, &recorded.files).await?,
            None => RollbackOutcome::NothingToDo,
        };
        if let RollbackOutcome::Refused { .. } = files {
            return Ok(files);
        }
        let mut changed = files == RollbackOutcome::RolledBack || !back.is_empty();
        for (change, there) in back.iter().rev() {
            match &change.before {
                Some(before) => set_back(host, change, before, *there).await?,
                None if *there => server::remove_unit(host, &change.unit).await.map_err(possible)?,
                None => {}
            }
        }
        if let Some((store, thumbprint, friendly_name)) = &recorded.import
            && seen.is_some_and(|seen| seen.certificate(thumbprint).is_some())
        {
            // Not removed if somebody shows it by now: then it is in use, and does no harm.
            let removed = server::remove_certificate(host, store, thumbprint, friendly_name).await.map_err(possible)?;
            changed |= removed;
        }
        // A rollback before this one may have died with everything back in place, and the pools as they were.
        if !changed && !recorded.recycling {
            return Ok(RollbackOutcome::NothingToDo);
        }
        if recorded.recycling {
            server::recycle(host, &self.config.app_pools).await.map_err(possible)?;
        }
        Ok(RollbackOutcome::RolledBack)
    }

    /// Why a unit cannot show its former certificate again.
    fn cannot_return(&self, cx: &Context, seen: &Seen, change: &UnitChange) -> Option<RollbackOutcome> {
        let before = change.before.as_ref().filter(|before| !before.hash.is_empty())?;
        // A certificate in another store was not looked at; binding it tells.
        if !before.store.eq_ignore_ascii_case(self.location.store.as_str()) {
            return None;
        }
        let unit = change.unit.to_string();
        let problem = match seen.certificate(&before.hash) {
            Some(found) if !found.has_key => ("backup_missing", "whose private key is gone"),
            Some(found) if found.not_after <= cx.clock.now().unix_timestamp() => {
                ("backup_expired", "which has expired")
            }
            Some(_) => return None,
            None => ("backup_missing", "which has gone from the store"),
        };
        Some(refused(problem.0, format!("{} showed {}, {}", unit.escape_debug(), before.hash, problem.1)))
    }
}

impl Recorded {
    fn of(undo: Vec<Undo>) -> Self {
        let mut recorded = Self::default();
        for entry in undo {
            match entry {
                Undo::Import { machine, store, thumbprint, friendly_name, was_there } => {
                    recorded.machine = Some(machine);
                    if !was_there {
                        recorded.import = Some((store, thumbprint, friendly_name));
                    }
                }
                Undo::Bind { machine, units, .. } => {
                    recorded.machine = Some(machine);
                    recorded.bind = units;
                }
                Undo::Recycling => recorded.recycling = true,
                entry @ Undo::Files { .. } => recorded.files.extend(files_only(entry)),
            }
        }
        recorded
    }
}

async fn set_back(host: &mut Host<'_>, change: &UnitChange, before: &Shown, there: bool) -> Result<()> {
    match server::set(host, &change.unit, before, there).await {
        Err(error) if server::passes(&error) => server::set(host, &change.unit, before, there).await.map_err(possible),
        other => other.map_err(possible),
    }
}

fn possible(error: certlib_core::Error) -> certlib_core::Error {
    error.with_effect(Effect::Possible)
}

fn refused(code: &str, reason: String) -> RollbackOutcome {
    RollbackOutcome::Refused { code: code.to_owned(), reason }
}
