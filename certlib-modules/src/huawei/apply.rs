//! Doing what was planned.

use certlib_core::error::{Effect, Error, Result, codes};
use certlib_core::module::{ApprovedPlan, Facts, Journal};
use certlib_core::{CertificateBundle, Context};

use super::OPERATION;
use super::bound::{Bound, Change, Held, Whose};
use super::client::Cloud;
use super::config::Resource;
use super::stores::{Material, Removal, Store, Stored, check_sizes};
use super::survey::{Survey, same_resource};
use super::undo::{self, Binding, Creation, Retirement, Undo};

impl Cloud<'_> {
    /// Delivers, as planned. Heeds cancellation until the resource is pointed at the new certificate.
    ///
    /// # Errors
    /// As [`plan`](Cloud::plan), and `Validation` `plan_stale`, `foreign_change`; `IoTransient` `resource_busy`,
    /// `domain_busy`, `cancelled`. [`Effect::Possible`] as soon as anything may have been made.
    pub(super) async fn execute(
        &self,
        cx: &Context,
        bundle: &CertificateBundle,
        plan: &ApprovedPlan,
        journal: &Journal<'_, Undo>,
    ) -> Result<Facts> {
        cx.check_cancelled(OPERATION)?;
        let entries = journal.entries().await?;
        let resumed = !entries.is_empty();
        let placed = |error: Error| if resumed { possible(error) } else { error };
        let wrong = |leaf| leaf != bundle.fingerprint();
        if entries.iter().filter_map(Undo::leaf).any(wrong) {
            return Err(possible(stale("an interrupted attempt was about to deliver another certificate")));
        }
        let survey = self.survey(cx, bundle).await.map_err(placed)?;
        if !resumed && survey.base(self) != plan.plan().base {
            return Err(stale("the target is not as the plan saw it; plan again"));
        }
        let recorded = undo::binding(&entries);
        if recorded.is_none() && resumed && !same_resource(&plan.plan().base, &survey.bound) {
            return Err(possible(foreign()));
        }
        if !resumed && survey.is_delivered() {
            return Ok(Facts::new().with("changed", false));
        }
        check_sizes(&self.stores(), bundle).map_err(placed)?;
        let (ids, created) = self.put_into_stores(cx, bundle, &survey, &entries, journal).await?;
        let touched = |error: Error| if resumed || created { possible(error) } else { error };
        if let Some(now) = &survey.bound {
            cx.check_cancelled(OPERATION).map_err(touched)?;
            self.bind(cx, bundle, now, recorded, &ids, journal).await.map_err(touched)?;
        }
        let retired = self.retire(cx, &survey, journal).await.map_err(possible)?;
        let mut facts = Facts::new().with("changed", true).with("resumed", resumed).with("retired", retired);
        for (store, id) in &ids {
            let name = match store {
                Store::Scm => "scm_certificate_id",
                Store::Elb => "elb_certificate_id",
                Store::Waf => "waf_certificate_id",
            };
            facts = facts.with(name, id.as_str());
        }
        Ok(facts)
    }

    /// Makes sure that every store has the certificate; where it has it, and whether anything was made.
    async fn put_into_stores(
        &self,
        cx: &Context,
        bundle: &CertificateBundle,
        survey: &Survey,
        entries: &[Undo],
        journal: &Journal<'_, Undo>,
    ) -> Result<(Vec<(Store, String)>, bool)> {
        let key = bundle.key_pem()?;
        let mut ids: Vec<(Store, String)> = Vec::new();
        let mut touched = !entries.is_empty();
        let mut created = false;
        for (store, found) in &survey.stores {
            if let Some(stored) = found.first() {
                ids.push((*store, stored.id.clone()));
                continue;
            }
            let placed = |error: Error| if touched { possible(error) } else { error };
            cx.check_cancelled(OPERATION).map_err(placed)?;
            if !undo::creations(entries).any(|creation| creation.store == *store) {
                let creation = Creation { store: *store, wanted: survey.wanted.clone() };
                journal.record("create", &Undo::Create(creation)).await.map_err(placed)?;
            }
            let scm_id = ids.iter().find(|(store, _)| *store == Store::Scm).map(|(_, id)| id.as_str());
            let material = Material { name: &survey.wanted.name, bundle, key: &key, scm_id };
            let id = self.create(cx, *store, &material).await.map_err(placed)?;
            ids.push((*store, id));
            touched = true;
            created = true;
        }
        Ok((ids, created))
    }

    /// Points the resource at the certificate.
    async fn bind(
        &self,
        cx: &Context,
        bundle: &CertificateBundle,
        now: &Bound,
        recorded: Option<&Change>,
        ids: &[(Store, String)],
        journal: &Journal<'_, Undo>,
    ) -> Result<()> {
        let fresh;
        let change = match recorded {
            Some(change) => change,
            None => {
                // The last store is the resource's own.
                let id = ids.last().map(|(_, id)| id.as_str()).unwrap_or_default();
                let new = Held::new(id, &self.wanted(bundle).name, Some(bundle.leaf()));
                fresh = Change::new(now.clone(), new, self.place());
                let binding = Binding { change: Box::new(fresh.clone()), leaf: bundle.fingerprint() };
                journal.record("bind", &Undo::Bind(binding)).await?;
                &fresh
            }
        };
        match change.whose(now) {
            Whose::New => Ok(()),
            Whose::Foreign => Err(foreign()),
            Whose::Former => match &self.location.resource {
                Resource::Elb { listener_id: Some(id), .. } => self.elb_point(cx, id, change.forward(now)).await,
                Resource::Cdn { domain } => self.cdn_point(cx, domain, Some(&change.new)).await,
                Resource::Waf { host_id, mode } => self.waf_apply(cx, host_id, *mode, &change.new.id).await,
                Resource::Scm {} | Resource::Elb { listener_id: None, .. } => Ok(()),
            },
        }
    }

    /// Removes earlier generations; the names of those that went. That one stays is no reason to fail a delivery: the
    /// next one tries again.
    ///
    /// # Errors
    /// Those of the journal.
    async fn retire(&self, cx: &Context, survey: &Survey, journal: &Journal<'_, Undo>) -> Result<Vec<String>> {
        let mut gone = Vec::new();
        for Stored { store, id, name } in &survey.retired {
            let retirement = Retirement { store: *store, id: id.clone(), name: name.clone() };
            journal.record("retire", &Undo::Retire(retirement)).await?;
            match self.remove(cx, *store, id).await {
                Ok(Removal::Gone) => gone.push(name.clone()),
                Ok(Removal::InUse) => tracing::info!(id, "an earlier certificate is in use and stays"),
                Err(error) => tracing::warn!(%error, id, "an earlier certificate cannot be removed"),
            }
        }
        Ok(gone)
    }
}

pub(super) fn possible(error: Error) -> Error {
    error.with_effect(Effect::Possible)
}

fn stale(message: &str) -> Error {
    Error::validation(OPERATION, codes::PLAN_STALE, message)
}

fn foreign() -> Error {
    let why = "somebody else changed the resource's certificate meanwhile; it was not touched";
    Error::validation(OPERATION, codes::FOREIGN_CHANGE, why)
}
