//! Doing what was planned: one write, which the API server makes whole or not at all.

use certlib_core::Context;
use certlib_core::error::{Effect, Error, Result, codes};
use certlib_core::module::{ApprovedPlan, Facts, Journal};

use super::found::Found;
use super::plan::Delivery;
use super::undo::{Change, Is, Undo, pending};
use super::{OPERATION, owner};

/// The journal is about another cluster or another Secret.
pub(super) const WRONG_CLUSTER: &str = "wrong_cluster";

impl Delivery<'_> {
    /// Delivers, as planned, or goes on where an earlier attempt stopped.
    ///
    /// # Errors
    /// As [`Delivery::plan`]; `Validation` `plan_stale`, `foreign_change`, `wrong_cluster`. The effect is
    /// [`Effect::Possible`] once a request was sent whose answer is not that it was declined.
    pub(super) async fn execute(
        &self,
        cx: &Context,
        approved: &ApprovedPlan,
        journal: &Journal<'_, Undo>,
    ) -> Result<Facts> {
        match pending(journal.entries().await?) {
            Some(change) => self.resume(cx, &change, journal).await.map_err(possible),
            None => self.begin(cx, approved, journal).await,
        }
    }

    async fn begin(&self, cx: &Context, approved: &ApprovedPlan, journal: &Journal<'_, Undo>) -> Result<Facts> {
        let survey = self.survey(cx).await?;
        if survey.base != approved.plan().base {
            return Err(stale(
                "the Secret, the settings or the certificate changed since the plan was made; plan again",
            ));
        }
        if let (true, Some(found)) = (survey.keep, &survey.found) {
            return Ok(self.facts(found, false, false));
        }
        if let Some(found) = &survey.found {
            owner::check(found, &self.fields, self.config, &self.place)?;
        }
        cx.check_cancelled(OPERATION)?;
        let (server, found) = (self.cluster.server(), survey.found.as_ref());
        let change = Box::new(Change::record(server, &self.place, &self.fields, found, survey.after));
        journal.record("apply", &Undo::Applying(change)).await?;
        self.apply(cx, found, journal).await.map(|now| self.facts(&now, true, false))
    }

    async fn resume(&self, cx: &Context, change: &Change, journal: &Journal<'_, Undo>) -> Result<Facts> {
        if change.server != self.cluster.server() || change.place() != self.place {
            let why = "an interrupted attempt was about another Secret; roll that one back first";
            return Err(Error::validation(OPERATION, WRONG_CLUSTER, why)
                .with("then", format!("{} {}", change.server, change.place()))
                .with("now", format!("{} {}", self.cluster.server(), self.place)));
        }
        if !change.makes(&self.fields) {
            return Err(stale("an interrupted attempt was about to write something else to this Secret"));
        }
        let found = self.cluster.get(cx, &self.place).await?;
        match (change.classify(found.as_ref()), &found) {
            (Is::New, Some(found)) => Ok(self.facts(found, true, true)),
            (Is::Former, found) => {
                if let Some(found) = found {
                    owner::check(found, &self.fields, self.config, &self.place)?;
                }
                self.apply(cx, found.as_ref(), journal).await.map(|now| self.facts(&now, true, true))
            }
            _ => {
                let why = "somebody else changed the Secret after an interrupted attempt";
                Err(Error::validation(OPERATION, codes::FOREIGN_CHANGE, why).with("secret", &self.place))
            }
        }
    }

    /// Applies the fields to exactly the version that was found, and takes note when the API server declined.
    async fn apply(&self, cx: &Context, found: Option<&Found>, journal: &Journal<'_, Undo>) -> Result<Found> {
        let body = self.fields.body(&self.place, found.map(Found::version));
        let params = self.fields.params(self.config.take_over && found.is_some(), false);
        match self.cluster.apply(cx, &self.place, &body, &params).await {
            Ok(applied) if found.is_none() && !applied.created => {
                let why = "somebody else made the Secret at the same moment";
                Err(possible(Error::validation(OPERATION, codes::FOREIGN_CHANGE, why).with("secret", &self.place)))
            }
            Ok(applied) => Ok(applied.found),
            Err(error) if error.effect() == Effect::None => {
                let error = match error.code() {
                    // The dry run found neither: somebody else came in between.
                    codes::CONFLICT | "field_conflict" => {
                        stale("the Secret changed since the plan was made; plan again").with_source(error)
                    }
                    _ => error,
                };
                match journal.record("not_taken", &Undo::NotTaken).await {
                    Ok(()) => Err(error),
                    // The journal still says that something may have been changed, and so must we.
                    Err(_) => Err(possible(error)),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn facts(&self, found: &Found, changed: bool, resumed: bool) -> Facts {
        Facts::new()
            .with("server", self.cluster.server())
            .with("secret", self.place.to_string())
            .with("resource_version", found.version().resource_version)
            .with("changed", changed)
            .with("resumed", resumed)
    }
}

fn stale(why: &str) -> Error {
    Error::validation(OPERATION, codes::PLAN_STALE, why)
}

fn possible(error: Error) -> Error {
    error.with_effect(Effect::Possible)
}
