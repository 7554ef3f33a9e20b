//! A module that does nothing: what remains is the engine.

use certlib_core::module::{
    ApprovedPlan, Capabilities, DistributionModule, Facts, Journal, Plan, RollbackOutcome, Step, Target, Validation,
    Verb,
};
use certlib_core::{CertificateBundle, Context, Result};
use serde_json::Value;

/// Plans one step, does nothing, and calls it served.
#[derive(Debug, Clone, Copy)]
pub struct NoOp {
    /// Whether each delivery also records one undo of about 4 KB, which the engine seals and stores, as every module
    /// that changes something must.
    pub journals: bool,
}

impl DistributionModule for NoOp {
    const KIND: &'static str = "no-op";
    type Config = Value;
    type Credentials = Option<Value>;
    type Location = Value;
    type Undo = String;

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn check(&self, _: Target<'_, Self>) -> Result<()> {
        Ok(())
    }

    async fn dry_run(&self, _: &Context, target: Target<'_, Self>, _: &CertificateBundle) -> Result<Plan> {
        Ok(Plan::new(Self::KIND, target.name, "nothing", vec![Step::new(Verb::Replace, "nothing")]))
    }

    async fn execute(
        &self,
        _: &Context,
        _: Target<'_, Self>,
        _: &CertificateBundle,
        _: &ApprovedPlan,
        undo: &Journal<'_, String>,
    ) -> Result<Facts> {
        if self.journals {
            undo.record("swap", &"x".repeat(4096)).await?;
        }
        Ok(Facts::new())
    }

    async fn validate(&self, _: &Context, _: Target<'_, Self>, _: &CertificateBundle) -> Result<Validation> {
        Ok(Validation::Served { endpoints: Vec::new() })
    }

    async fn rollback(&self, _: &Context, _: Target<'_, Self>, _: Vec<String>) -> Result<RollbackOutcome> {
        Ok(RollbackOutcome::NothingToDo)
    }
}
