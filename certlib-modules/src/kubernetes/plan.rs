//! Looking at the Secret, and saying what would be done.

use certlib_core::error::Result;
use certlib_core::module::{Plan, Step, Verb};
use certlib_core::{Context, Fingerprint};

use super::cluster::{Cluster, Place};
use super::config::{CERTIFICATE, KubernetesConfig};
use super::desired::Fields;
use super::found::{Found, View};
use super::{MARKER_PREFIX, owner, sha256};

/// One delivery, ready to be looked at or made.
pub(super) struct Delivery<'a> {
    pub(super) cluster: Cluster,
    pub(super) config: &'a KubernetesConfig,
    pub(super) place: Place,
    pub(super) fields: Fields,
}

/// What a look at the Secret showed.
pub(super) struct Survey {
    pub(super) found: Option<Found>,
    /// How the Secret will be, as far as it changes.
    pub(super) after: View,
    /// Whether it is like that already.
    pub(super) keep: bool,
    /// A digest of all that a plan depends on.
    pub(super) base: String,
}

impl Delivery<'_> {
    /// Looks at the Secret. Cancel-safe.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub(super) async fn survey(&self, cx: &Context) -> Result<Survey> {
        let found = self.cluster.get(cx, &self.place).await?;
        let after = self.fields.view(found.as_ref());
        let keep = found.as_ref().is_some_and(|found| holds(&after, found));
        let version = found.as_ref().map(Found::version).map(|version| (version.uid, version.resource_version));
        let Place { namespace, name } = &self.place;
        let facts = (self.cluster.server(), namespace, name, version, self.config.take_over, self.fields.digest());
        // Strings, lists and booleans always encode.
        let base = sha256(&serde_json::to_vec(&facts).unwrap_or_default());
        Ok(Survey { found, after, keep, base })
    }

    /// What an execution would do. The API server has then checked everything that it checks, and stored nothing.
    ///
    /// # Errors
    /// As [`Delivery::survey`], [`owner::check`] and [`Cluster::apply`].
    pub(super) async fn plan(&self, cx: &Context, module: &str, target: &str) -> Result<Plan> {
        let survey = self.survey(cx).await?;
        let steps = if survey.keep { vec![self.keep(&survey)] } else { self.changes(cx, &survey).await? };
        Ok(Plan::new(module, target, survey.base, steps))
    }

    fn keep(&self, survey: &Survey) -> Step {
        Step::new(Verb::Keep, self.subject()).before(leaf(survey.found.as_ref().and_then(Found::leaf)))
    }

    async fn changes(&self, cx: &Context, survey: &Survey) -> Result<Vec<Step>> {
        if let Some(found) = &survey.found {
            owner::check(found, &self.fields, self.config, &self.place)?;
        }
        let version = survey.found.as_ref().map(Found::version);
        let params = self.fields.params(self.config.take_over, true);
        let body = self.fields.body(&self.place, version);
        self.cluster.apply(cx, &self.place, &body, &params).await?;

        let keys: Vec<&str> = self.fields.data.keys().map(String::as_str).collect();
        let after = format!("{}, {}: {}", leaf(self.fields.leaf()), self.fields.secret_type, keys.join(" "));
        let Some(found) = &survey.found else {
            let create = Step::new(Verb::Create, self.subject()).after(after);
            // What we may not delete, we cannot take back.
            let may_delete = self.cluster.may_delete(cx, &self.place).await? != Some(false);
            return Ok(vec![if may_delete { create } else { create.irreversible() }]);
        };
        let mut steps = vec![Step::new(Verb::Replace, self.subject()).before(leaf(found.leaf())).after(after)];
        let gone = |what: &str, keys: &std::collections::BTreeMap<String, Option<String>>| -> Vec<Step> {
            let gone = keys.iter().filter(|(key, value)| value.is_none() && !key.starts_with(MARKER_PREFIX));
            gone.map(|(key, _)| Step::new(Verb::Delete, format!("{} {what} {key}", self.subject()))).collect()
        };
        steps.extend(gone("data", &survey.after.data));
        steps.extend(gone("label", &survey.after.labels));
        steps.extend(gone("annotation", &survey.after.annotations));
        let others = owner::others(found, &self.fields);
        if !others.is_empty() {
            let subject = format!("{} ownership of its fields", self.subject());
            steps.push(Step::new(Verb::Replace, subject).before(others.join(", ")).after(&self.fields.manager));
        }
        Ok(steps)
    }

    pub(super) fn subject(&self) -> String {
        format!("secret {}", self.place)
    }
}

/// Whether everything that matters is in place: our own marks do not.
fn holds(after: &View, found: &Found) -> bool {
    let unmarked = |view: &View| {
        let annotations = view.annotations.iter().filter(|(key, _)| !key.starts_with(MARKER_PREFIX));
        annotations.map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>()
    };
    let now = after.of(found);
    now.data == after.data && now.labels == after.labels && unmarked(&now) == unmarked(after)
}

fn leaf(leaf: Option<Fingerprint>) -> String {
    leaf.map_or_else(|| format!("no certificate in {CERTIFICATE}"), |leaf| format!("leaf {leaf}"))
}
