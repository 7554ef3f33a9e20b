//! A module at work on one target.

use std::sync::Arc;

use super::{ModuleFixture, ModuleHarness};
use crate::bundle::CertificateBundle;
use crate::context::Context;
use crate::error::Result;
use crate::module::{
    ApprovedPlan, ErasedModule, Facts, JournalSink, MemoryJournal, Plan, RollbackOutcome, TargetSpec, Validation,
};

/// A module, a target for it, and what is needed to call it as the engine does.
pub struct Bench {
    /// The module.
    pub module: Arc<dyn ErasedModule>,
    /// The target, and how to look at it.
    pub fixture: Box<dyn ModuleFixture>,
    target: TargetSpec,
    cx: Context,
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").field("module", &self.module).finish_non_exhaustive()
    }
}

impl Bench {
    /// A fresh target.
    pub async fn new(harness: &impl ModuleHarness) -> Self {
        let fixture = harness.fresh().await.expect("a harness that gave a target gives another");
        let target = fixture.target();
        // One operation, whatever is tried how often: that is what modules may rely on.
        let cx = Context::new("conformance-1");
        Self { module: harness.module(), fixture, target, cx }
    }

    /// What is delivered first.
    pub fn new_bundle(&self) -> CertificateBundle {
        self.fixture.bundle(1)
    }

    /// How the target looks, without the module's help.
    pub async fn state(&self) -> String {
        self.fixture.state().await
    }

    /// Whether the module can say what is served.
    pub fn verifies(&self) -> bool {
        self.module.capabilities().verifiable
    }

    /// A dry run.
    pub async fn plan(&self, bundle: &CertificateBundle) -> Plan {
        self.try_plan(&self.target, bundle).await.unwrap()
    }

    /// A dry run with another login, or other settings.
    pub async fn try_plan(&self, target: &TargetSpec, bundle: &CertificateBundle) -> Result<Plan> {
        self.module.dry_run(&self.cx, target, bundle).await
    }

    /// Executes `plan`.
    pub async fn execute(&self, bundle: &CertificateBundle, plan: &Plan, journal: &dyn JournalSink) -> Result<Facts> {
        let plan = ApprovedPlan::assertion(plan.clone());
        self.module.execute(&self.cx, &self.target, bundle, &plan, journal).await
    }

    /// Dry run and delivery; gives the journal.
    pub async fn deliver(&self, bundle: &CertificateBundle) -> MemoryJournal {
        let journal = MemoryJournal::new();
        let plan = self.plan(bundle).await;
        self.execute(bundle, &plan, &journal).await.unwrap();
        journal
    }

    /// Proof of delivery.
    pub async fn validate(&self, bundle: &CertificateBundle) -> Validation {
        self.module.validate(&self.cx, &self.target, bundle).await.unwrap()
    }

    /// Whether `bundle` is proven to be served; `None` when the module cannot tell.
    pub async fn serves(&self, bundle: &CertificateBundle) -> Option<bool> {
        match self.validate(bundle).await {
            Validation::Served { endpoints } => {
                assert!(!endpoints.is_empty(), "proven by nothing");
                Some(true)
            }
            Validation::NotServed { reason, .. } => {
                assert!(!reason.is_empty(), "it must say why");
                Some(false)
            }
            Validation::Skipped => None,
        }
    }

    /// The way back.
    pub async fn roll_back(&self, journal: &dyn JournalSink) -> Result<RollbackOutcome> {
        let entries = journal.entries().await?;
        self.module.rollback(&self.cx, &self.target, &entries).await
    }
}
