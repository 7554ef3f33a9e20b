//! Doing what was planned.

use std::collections::BTreeSet;

use certlib_core::CertificateBundle;
use certlib_core::error::{Effect, Error, Result, codes};
use certlib_core::module::{ApprovedPlan, Facts, Journal, Verb};
use certlib_core::secret::SecretString;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::finish::Removed;
use super::profile::{Pair, Selection};
use super::session::Session;
use super::survey::Survey;
use super::transaction::{Command, Committed};
use super::undo::{Change, Is, Object, Part, Switch, Undo};
use super::upload::source_path;
use super::{Delivery, OPERATION, names};

impl Delivery<'_> {
    /// Delivers.
    ///
    /// # Errors
    /// See [the module](super).
    pub(super) async fn execute(
        &self,
        session: &Session<'_>,
        bundle: &CertificateBundle,
        approved: &ApprovedPlan,
        journal: &Journal<'_, Undo>,
    ) -> Result<Facts> {
        let entries = journal.entries().await?;
        let known = entries.into_iter().find_map(|entry| match entry {
            Undo::Switch(switch) => Some(switch),
            Undo::Clean { .. } => None,
        });
        let resumed = known.is_some();
        let switch = match known {
            Some(switch) => {
                self.check_is_of(&switch, bundle)?;
                session.check_active().await.map_err(possible)?;
                self.resume(session, bundle, &switch).await.map_err(possible)?;
                switch
            }
            None => match self.begin(session, bundle, approved, journal).await? {
                Some(switch) => switch,
                None => return Ok(Facts::new().with("changed", Vec::<String>::new())),
            },
        };
        let removed = self.clean(session, bundle, approved, &switch, journal).await.map_err(possible)?;
        session.keep().await?;
        Ok(self.facts(&switch, removed, resumed))
    }

    /// A first attempt, up to the switch; `None` when there is nothing to do.
    async fn begin(
        &self,
        session: &Session<'_>,
        bundle: &CertificateBundle,
        approved: &ApprovedPlan,
        journal: &Journal<'_, Undo>,
    ) -> Result<Option<Switch>> {
        let key = bundle.key_pem()?;
        let survey = self.survey(session, bundle).await.map_err(|error| error.with_effect(Effect::None))?;
        if self.plan(&survey, bundle) != *approved.plan() {
            return Err(stale(
                "the target, its settings or the certificate changed since the plan was made; plan again",
            ));
        }
        if !survey.changes_anything() {
            return Ok(None);
        }
        session.cx.check_cancelled(OPERATION)?;
        let undo = Undo::Switch(record(&survey, bundle));
        journal.record("switch", &undo).await?;
        let Undo::Switch(switch) = undo else { return Ok(None) };
        let selections = survey.profiles.into_iter().filter(|found| !found.keep).map(|found| found.selection);
        let before: Vec<String> = selections.map(|selection| selection.show()).collect();
        let outcome = self.switch(session, bundle, &key, &switch, &switch.objects, Some(&before)).await;
        let cleared = session.remove_uploads(switch.uploads()).await;
        match (outcome, cleared) {
            (Ok(()), Ok(())) => Ok(Some(switch)),
            // The certificate is in place, but its key lies around: that needs somebody's attention.
            (Ok(()), Err(error)) => Err(possible(error)),
            (Err(error), Ok(())) => Err(error),
            (Err(error), Err(_)) => Err(possible(error)),
        }
    }

    /// Another attempt: does what is not done yet.
    async fn resume(&self, session: &Session<'_>, bundle: &CertificateBundle, switch: &Switch) -> Result<()> {
        let key = bundle.key_pem()?;
        let mut missing = Vec::new();
        for object in &switch.objects {
            let there = match object.part {
                Part::Key => session.has_key(&object.name).await?,
                Part::Cert | Part::Chain => {
                    let index = usize::from(object.part == Part::Chain);
                    match session.cert(&object.name).await? {
                        Some(cert) if cert.holds(bundle, index) => true,
                        Some(_) => return Err(foreign(&object.name)),
                        None => false,
                    }
                }
            };
            if !there {
                missing.push(object.clone());
            }
        }
        let outcome = self.switch(session, bundle, &key, switch, &missing, None).await;
        session.remove_uploads(switch.uploads()).await.and(outcome)
    }

    /// Uploads, makes what is `missing`, and switches the profiles that are not switched yet.
    ///
    /// `before`: what the profiles must still look like.
    async fn switch(
        &self,
        session: &Session<'_>,
        bundle: &CertificateBundle,
        key: &SecretString,
        switch: &Switch,
        missing: &[Object],
        before: Option<&[String]>,
    ) -> Result<()> {
        let none = |error: Error| error.with_effect(Effect::None);
        for object in missing {
            let name = switch.upload(object.part);
            let chain;
            let leaf;
            let content = match object.part {
                Part::Key => key.expose().as_bytes(),
                Part::Cert => {
                    leaf = bundle.leaf_pem();
                    leaf.as_bytes()
                }
                Part::Chain => {
                    chain = bundle.chain_pem();
                    chain.as_bytes()
                }
            };
            session.upload(&name, content).await.map_err(none)?;
        }
        // Looked at again at the last moment: uploads take their time.
        let found = selections(session, &switch.profiles).await.map_err(none)?;
        if let Some(before) = before
            && found.iter().zip(before).any(|(found, before)| found.as_ref().is_none_or(|own| own.show() != *before))
        {
            return Err(stale("a profile was changed while the files were uploaded; plan again"));
        }
        let mut commands: Vec<Command> = missing.iter().map(|object| create(object, switch)).collect();
        for (change, found) in switch.profiles.iter().zip(&found) {
            match (change.classify(found.as_ref()), found) {
                (Is::New, _) => {}
                (Is::Former, Some(found)) => commands.push(point(change, found, true)?),
                _ => return Err(foreign(&change.name)),
            }
        }
        if commands.is_empty() {
            return Ok(());
        }
        session.cx.check_cancelled(OPERATION)?;
        match session.commit(&commands).await {
            Committed::Yes => Ok(()),
            Committed::No(error) => Err(error),
            Committed::Unknown(error) => match selections(session, &switch.profiles).await {
                Ok(found) if is_all(&switch.profiles, &found, Is::New) => Ok(()),
                _ => Err(possible(error)),
            },
        }
    }

    /// Removes what former deliveries left behind: what the plan said, as far as nothing uses it now, and without what the
    /// way back needs. A problem with that does not spoil the delivery.
    async fn clean(
        &self,
        session: &Session<'_>,
        bundle: &CertificateBundle,
        approved: &ApprovedPlan,
        switch: &Switch,
        journal: &Journal<'_, Undo>,
    ) -> Result<Removed> {
        let planned = approved.plan().steps.iter().filter(|step| step.verb == Verb::Delete);
        let planned: BTreeSet<&str> = planned.map(|step| step.subject.as_str()).collect();
        if planned.is_empty() {
            return Ok(Removed::default());
        }
        let mut stale = match self.survey(session, bundle).await {
            Ok(survey) => survey.stale,
            Err(error) => return Ok(Removed { problem: Some(error), ..Removed::default() }),
        };
        let former: BTreeSet<&str> =
            switch.profiles.iter().filter_map(|change| change.before.as_ref()).flat_map(Pair::files).collect();
        stale.retain(|object| planned.contains(object.title().as_str()) && !former.contains(object.name.as_str()));
        if stale.is_empty() {
            return Ok(Removed::default());
        }
        let objects = stale.iter().map(|object| object.name.clone()).collect();
        journal.record("clean", &Undo::Clean { objects }).await?;
        Ok(session.remove(&stale).await)
    }

    fn facts(&self, switch: &Switch, removed: Removed, resumed: bool) -> Facts {
        if let Some(error) = &removed.problem {
            tracing::warn!(%error, "objects of former deliveries could not be removed");
        }
        let changed: Vec<String> = switch.profiles.iter().map(Change::title).collect();
        let created: Vec<String> = switch.objects.iter().map(|object| object.name.clone()).collect();
        Facts::new()
            .with("changed", changed)
            .with("created", created)
            .with("removed", removed.gone)
            .with("kept_in_use", removed.in_use)
            .with("cleaned", removed.problem.is_none())
            .with("saved", self.config.save)
            .with("synced_to", self.config.sync_group.clone())
            .with("resumed", resumed)
    }

    fn check_is_of(&self, switch: &Switch, bundle: &CertificateBundle) -> Result<()> {
        if switch.is_of(bundle, &self.location.pair(&self.marker(), bundle)) {
            return Ok(());
        }
        Err(possible(stale("an interrupted attempt was about to deliver another certificate, or elsewhere")))
    }
}

/// What the journal is told before anything is done.
fn record(survey: &Survey, bundle: &CertificateBundle) -> Switch {
    let mut nonce = Uuid::new_v4().simple().to_string();
    nonce.truncate(16);
    Switch {
        nonce,
        objects: survey.objects.iter().filter(|(_, there)| !there).map(|(object, _)| object.clone()).collect(),
        checksum: super::unit::checksum(bundle.leaf_pem().as_bytes()),
        profiles: survey.profiles.iter().filter(|found| !found.keep).map(|found| found.change(&survey.pair)).collect(),
    }
}

/// What the profiles select now, in the order of `changes`.
pub(super) async fn selections(session: &Session<'_>, changes: &[Change]) -> Result<Vec<Option<Selection>>> {
    let mut found = Vec::with_capacity(changes.len());
    for change in changes {
        found.push(session.selection(change.kind, &change.name).await?);
    }
    Ok(found)
}

/// Whether all profiles are in this state.
pub(super) fn is_all(changes: &[Change], found: &[Option<Selection>], state: Is) -> bool {
    changes.iter().zip(found).all(|(change, found)| change.classify(found.as_ref()) == state)
}

/// Makes an object from its upload.
fn create(object: &Object, switch: &Switch) -> Command {
    let (name, partition, folder) = names::parts(&object.name);
    let mut body = json!({
        "name": name,
        "partition": partition,
        "sourcePath": source_path(&switch.upload(object.part)),
    });
    if let Some(folder) = folder {
        body["subPath"] = json!(folder);
    }
    Command { method: Method::POST, path: command_path(&["tm", "sys", "file", object.part.collection()]), body }
}

/// Lets a profile select the new certificate, or the former one.
pub(super) fn point(change: &Change, found: &Selection, forward: bool) -> Result<Command> {
    let pair = if forward { Some(&change.after) } else { change.before.as_ref() };
    let body: Value = found.replaced(change.entry.as_deref(), pair)?;
    let path = command_path(&["tm", "ltm", "profile", change.kind.as_str(), &names::segment(&change.name)]);
    Ok(Command { method: Method::PATCH, path, body })
}

fn command_path(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

pub(super) fn possible(error: Error) -> Error {
    error.with_effect(Effect::Possible)
}

fn stale(why: &str) -> Error {
    Error::validation(OPERATION, codes::PLAN_STALE, why)
}

fn foreign(name: &str) -> Error {
    let why = "somebody else changed this meanwhile; nothing was touched";
    Error::validation(OPERATION, codes::FOREIGN_CHANGE, why).with("name", name.escape_debug())
}
