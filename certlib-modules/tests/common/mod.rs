//! What the tests of `file` and `ssh` share.

#![allow(dead_code, reason = "each test program uses a part")]

use std::sync::Arc;

use certlib_core::module::{
    ApprovedPlan, ErasedModule, Facts, JournalSink, MemoryJournal, ModuleRegistry, Plan, RollbackOutcome, TargetSpec,
    Validation,
};
use certlib_core::secret::SecretBytes;
use certlib_core::{CertificateBundle, Context, Result, Secret};
use certlib_testkit::pki::{Issued, TestCa};
use serde_json::Value;

/// A module with a target, as the engine holds them.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) module: Arc<dyn ErasedModule>,
    pub(crate) target: TargetSpec,
    pub(crate) cx: Context,
}

impl Subject {
    pub(crate) fn new(kind: &str, config: Value, location: Value, credentials: Option<Value>) -> Self {
        Self::of(&certlib_modules::registry().unwrap(), kind, config, location, credentials)
    }

    pub(crate) fn of(
        registry: &ModuleRegistry,
        kind: &str,
        config: Value,
        location: Value,
        credentials: Option<Value>,
    ) -> Self {
        let credentials = credentials.map(|value| Secret::new(value.to_string()));
        Self {
            module: registry.module(kind).unwrap(),
            target: TargetSpec::new("t-1", "target", config, location, credentials),
            cx: Context::new("operation"),
        }
    }

    pub(crate) async fn plan(&self, bundle: &CertificateBundle) -> Result<Plan> {
        self.module.dry_run(&self.cx, &self.target, bundle).await
    }

    pub(crate) async fn execute(
        &self,
        bundle: &CertificateBundle,
        plan: Plan,
        journal: &dyn JournalSink,
    ) -> Result<Facts> {
        self.module.execute(&self.cx, &self.target, bundle, &ApprovedPlan::assertion(plan), journal).await
    }

    /// Dry run and delivery.
    pub(crate) async fn deliver(&self, bundle: &CertificateBundle, journal: &dyn JournalSink) -> Result<Facts> {
        let plan = self.plan(bundle).await?;
        self.execute(bundle, plan, journal).await
    }

    pub(crate) async fn validate(&self, bundle: &CertificateBundle) -> Result<Validation> {
        self.module.validate(&self.cx, &self.target, bundle).await
    }

    pub(crate) async fn rollback(&self, journal: &dyn JournalSink) -> Result<RollbackOutcome> {
        let entries: Vec<SecretBytes> = journal.entries().await?;
        self.module.rollback(&self.cx, &self.target, &entries).await
    }
}

/// A fresh certificate from a fresh CA, as text and parsed.
pub(crate) fn certificate(names: &[&str]) -> (Issued, CertificateBundle) {
    let issued = TestCa::new("test root").unwrap().issue(names).unwrap();
    let bundle = CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap();
    (issued, bundle)
}

pub(crate) fn journal() -> MemoryJournal {
    MemoryJournal::new()
}

pub(crate) fn served(validation: &Validation) -> bool {
    matches!(validation, Validation::Served { .. })
}
