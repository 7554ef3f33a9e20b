//! Doing what was planned.

use certlib_core::error::codes;
use certlib_core::module::{Facts, Journal, Plan};
use certlib_core::{CertificateBundle, Context, Effect, Error, Result};
use time::macros::format_description;

use super::Job;
use super::plan::Base;
use super::server::{self, Import};
use super::survey::{Survey, thumbprint};
use super::undo::{Is, Undo, UnitChange};
use crate::winrm;
use crate::winrm::delivery::Recorder;
use crate::winrm::host::Host;

const OPERATION: &str = "iis.execute";

/// What an earlier attempt recorded.
#[derive(Debug, Default)]
struct Recorded {
    /// The friendly name of the import.
    import: Option<String>,
    bind: Option<Vec<UnitChange>>,
    files: bool,
    recycling: bool,
}

impl Job<'_> {
    /// Delivers, if the machine still looks like the plan saw it, or an attempt was interrupted.
    ///
    /// # Errors
    /// As [`plan`](Job::plan), and `Validation` `plan_stale`, `foreign_change`, `wrong_machine`; `IoTransient`
    /// `key_not_ready`, `file_in_use`, `cancelled`; `IoPermanent` `pfx_refused`, `import_failed`, `bind_failed`,
    /// `endpoint_refused`. After the first change the effect is [`Effect::Possible`].
    pub(super) async fn execute(
        &self,
        cx: &Context,
        host: &mut Host<'_>,
        bundle: &CertificateBundle,
        plan: &Plan,
        journal: &Journal<'_, Undo>,
    ) -> Result<Facts> {
        bundle.key_pem()?;
        let recorded = self.recorded(journal.entries().await?, bundle)?;
        let resumed = recorded.import.is_some() || recorded.bind.is_some() || recorded.files || recorded.recycling;
        let planned = Base::parse(&plan.base);
        cx.check_cancelled(OPERATION)?;
        let survey = self.survey(host, bundle).await.map_err(|error| if resumed { possible(error) } else { error })?;
        if !resumed && !self.fits(&planned, survey.as_ref()) {
            return Err(stale("the machine is not as the plan saw it; plan again"));
        }
        let mut facts = Facts::new().with("resumed", resumed);
        let mut changed = false;
        if let Some(survey) = &survey {
            changed |= self.put_into_store(cx, host, bundle, survey, &recorded, journal).await?;
            let bound = self.bind(host, survey, &recorded, &planned, journal).await;
            let bound = bound.map_err(|error| if changed || resumed { possible(error) } else { error })?;
            changed |= !bound.is_empty();
            facts = facts.with("thumbprint", survey.thumbprint.clone()).with("bound", bound);
        }
        if let Some(files) = &self.files {
            let recorder = FilesJournal(journal);
            let result = files.execute(cx, host, bundle, &planned.files, false, &recorder).await;
            let written = result.map_err(|error| if changed || resumed { possible(error) } else { error })?;
            let paths = written.0.get("changed").cloned().unwrap_or_default();
            changed |= paths.as_array().is_some_and(|paths| !paths.is_empty());
            facts = facts.with("files", paths);
        }
        if changed || resumed {
            if !self.config.app_pools.is_empty() && !recorded.recycling {
                journal.record("recycle", &Undo::Recycling).await.map_err(possible)?;
            }
            server::recycle(host, &self.config.app_pools).await.map_err(possible)?;
            if let Some(survey) = &survey {
                // What is gone back to, whatever its age.
                let recorded = recorded.bind.iter().flatten().filter_map(|change| change.before.as_ref());
                let found = survey.items.iter().filter_map(|item| item.found.as_ref());
                let former: Vec<String> = recorded.chain(found).map(|shown| shown.hash.clone()).collect();
                facts = facts.with("removed", self.clean_up(host, bundle, &former).await);
            }
        }
        Ok(facts.with("changed", changed))
    }

    fn recorded(&self, entries: Vec<Undo>, bundle: &CertificateBundle) -> Result<Recorded> {
        let wanted = thumbprint(bundle);
        let mut recorded = Recorded::default();
        for entry in entries {
            match entry {
                Undo::Import { machine, friendly_name, thumbprint, .. } => {
                    self.check_machine_is(&machine)?;
                    if thumbprint != wanted {
                        let why = "an interrupted attempt was about to deliver another certificate to this target";
                        return Err(Error::validation(OPERATION, codes::PLAN_STALE, why).with_effect(Effect::Possible));
                    }
                    recorded.import = Some(friendly_name);
                }
                Undo::Bind { machine, units, .. } => {
                    self.check_machine_is(&machine)?;
                    recorded.bind = Some(units);
                }
                Undo::Files { .. } => recorded.files = true,
                Undo::Recycling => recorded.recycling = true,
            }
        }
        Ok(recorded)
    }

    fn check_machine_is(&self, then: &str) -> Result<()> {
        if then == self.machine {
            return Ok(());
        }
        Err(Error::validation(OPERATION, "wrong_machine", "an interrupted attempt was on another machine")
            .with("then", then.escape_debug())
            .with("now", self.machine.escape_debug())
            .with_effect(Effect::Possible))
    }

    /// Whether the machine is as planned; files are looked at when it is their turn.
    fn fits(&self, planned: &Base, survey: Option<&Survey>) -> bool {
        Base::of(survey, Some(&planned.files)) == *planned
    }

    /// Imports the certificate, unless it is there with its key. Tells whether it did.
    async fn put_into_store(
        &self,
        cx: &Context,
        host: &mut Host<'_>,
        bundle: &CertificateBundle,
        survey: &Survey,
        recorded: &Recorded,
        journal: &Journal<'_, Undo>,
    ) -> Result<bool> {
        if survey.imported || self.units_are_empty() {
            return Ok(false);
        }
        let friendly_name = match &recorded.import {
            Some(name) => name.clone(),
            None => {
                let format = format_description!("[year][month][day]T[hour][minute][second]Z");
                let now = cx.clock.now().to_offset(time::UtcOffset::UTC);
                let name = format!("{}{}", self.marker, now.format(format).unwrap_or_default());
                let undo = Undo::Import {
                    machine: self.machine.clone(),
                    store: self.location.store.as_str().to_owned(),
                    thumbprint: survey.thumbprint.clone(),
                    friendly_name: name.clone(),
                    was_there: survey.seen.certificate(&survey.thumbprint).is_some(),
                };
                journal.record("import", &undo).await?;
                name
            }
        };
        let import = Import {
            store: self.location.store,
            thumbprint: &survey.thumbprint,
            friendly_name: &friendly_name,
            exportable: self.config.exportable,
            pfx: self.config.pfx,
        };
        server::import(host, bundle, import).await.map_err(possible)?;
        Ok(true)
    }

    /// Makes every unit show the certificate. Answers which were changed.
    async fn bind(
        &self,
        host: &mut Host<'_>,
        survey: &Survey,
        recorded: &Recorded,
        planned: &Base,
        journal: &Journal<'_, Undo>,
    ) -> Result<Vec<String>> {
        let fresh: Vec<UnitChange>;
        let units = match &recorded.bind {
            Some(units) => units,
            None => {
                if survey.units_digest() != planned.units {
                    return Err(stale("the bindings are not as the plan saw them; plan again"));
                }
                let changed = || {
                    survey
                        .items
                        .iter()
                        .filter(|item| !item.keep)
                        .filter(|item| item.found.as_ref() != Some(&item.wanted))
                };
                let list = || {
                    changed().map(|item| UnitChange {
                        unit: item.unit.clone(),
                        before: item.found.clone(),
                        after: item.wanted.clone(),
                    })
                };
                fresh = list().collect();
                if !fresh.is_empty() {
                    let (machine, thumbprint) = (self.machine.clone(), survey.thumbprint.clone());
                    journal.record("bind", &Undo::Bind { machine, thumbprint, units: list().collect() }).await?;
                }
                &fresh
            }
        };
        let found: Vec<_> = units.iter().map(|change| survey.seen.shown(&change.unit)).collect();
        for (change, found) in units.iter().zip(&found) {
            if change.classify(found.as_ref()) == Is::Foreign {
                let why = "somebody else changed this binding meanwhile; it was not touched";
                return Err(possible(Error::validation(OPERATION, codes::FOREIGN_CHANGE, why))
                    .with("subject", change.unit.to_string().escape_debug()));
            }
        }
        let mut bound = Vec::new();
        for (change, found) in units.iter().zip(&found) {
            if change.classify(found.as_ref()) == Is::New {
                continue;
            }
            let first = server::set(host, &change.unit, &change.after, found.is_some()).await;
            let result = match first {
                Err(error) if server::passes(&error) => {
                    server::set(host, &change.unit, &change.after, found.is_some()).await
                }
                other => other,
            };
            result.map_err(possible)?;
            bound.push(change.unit.to_string());
        }
        Ok(bound)
    }

    /// Removes what is older than the certificates that are kept. Failing at it fails nothing.
    async fn clean_up(&self, host: &mut Host<'_>, bundle: &CertificateBundle, former: &[String]) -> Vec<String> {
        let survey = match self.survey(host, bundle).await {
            Ok(Some(survey)) => survey,
            Ok(None) => return Vec::new(),
            Err(error) => {
                tracing::warn!(%error, "old certificates were not removed");
                return Vec::new();
            }
        };
        let mut removed = Vec::new();
        for old in self.old_certificates(&survey, former) {
            let store = self.location.store.as_str();
            match server::remove_certificate(host, store, &old.thumbprint, &self.marker).await {
                Ok(true) => removed.push(old.thumbprint.clone()),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, thumbprint = old.thumbprint, "an old certificate was not removed"),
            }
        }
        removed
    }
}

/// The part of the journal that is about files.
pub(super) struct FilesJournal<'j>(pub(super) &'j Journal<'j, Undo>);

#[async_trait::async_trait]
impl Recorder for FilesJournal<'_> {
    async fn entries(&self) -> Result<Vec<winrm::Undo>> {
        let entries = self.0.entries().await?;
        Ok(entries.into_iter().filter_map(files_only).collect())
    }

    async fn record(&self, step: &str, undo: winrm::Undo) -> Result<()> {
        self.0.record(step, &Undo::Files { undo }).await
    }
}

pub(super) fn files_only(entry: Undo) -> Option<winrm::Undo> {
    match entry {
        Undo::Files { undo } => Some(undo),
        Undo::Import { .. } | Undo::Bind { .. } | Undo::Recycling => None,
    }
}

fn possible(error: Error) -> Error {
    error.with_effect(Effect::Possible)
}

fn stale(message: &str) -> Error {
    Error::validation(OPERATION, codes::PLAN_STALE, message)
}
