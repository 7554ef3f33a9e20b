//! The `huawei` module against a simulated Huawei Cloud, and, where `HUAWEI_AK` and its like are set, the real one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod cdn;
mod cleanup;
mod conformance;
mod elb;
mod faults;
mod real;
mod scm;
mod settings;
mod waf;

use std::sync::Arc;

use certlib_core::module::{
    ApprovedPlan, ErasedModule, Facts, JournalSink as _, MemoryJournal, Plan, RollbackOutcome, TargetSpec, Validation,
};
use certlib_core::{CertificateBundle, Context, Result, Secret};
use certlib_testkit::huawei::{HuaweiSim, HuaweiSimBuilder};
use certlib_testkit::pki::{Issued, TestCa};
use serde_json::{Value, json};

/// A simulated cloud, a target in it, and certificates for the target.
pub(crate) struct Case {
    pub(crate) sim: HuaweiSim,
    pub(crate) module: Arc<dyn ErasedModule>,
    pub(crate) target: TargetSpec,
    pub(crate) cx: Context,
    ca: TestCa,
    names: Vec<String>,
}

impl Case {
    /// A target that names its project; set its resource with [`Case::resource`].
    pub(crate) async fn new(names: &[&str]) -> Self {
        Self::with(HuaweiSim::builder(), names).await
    }

    pub(crate) async fn with(builder: HuaweiSimBuilder, names: &[&str]) -> Self {
        let sim = builder.start().await.unwrap();
        let config = json!({
            "connection": {
                "allow_http": true,
                "addresses": {"allow_loopback": true},
                "tls": {"ca_pem": sim.ca_pem()},
            },
            "tries": 1,
        });
        let url = sim.url();
        let location = json!({
            "region": sim.region(),
            "project_id": sim.project_id(),
            "resource": {"service": "scm"},
            "urls": {"iam": url, "scm": url, "elb": url, "cdn": url, "waf": url},
        });
        let credentials = json!({"access_key": sim.access_key(), "secret_key": sim.secret_key()});
        let module = certlib_modules::registry().unwrap().module("huawei").unwrap();
        let target = TargetSpec::new("t-1", "shop", config, location, Some(Secret::new(credentials.to_string())));
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Self { sim, module, target, cx: Context::new("operation"), ca: TestCa::new("test root").unwrap(), names }
    }

    pub(crate) fn resource(mut self, resource: Value) -> Self {
        self.target.location["resource"] = resource;
        self
    }

    pub(crate) fn config(&mut self, name: &str, value: Value) {
        self.target.config[name] = value;
    }

    pub(crate) fn location(&mut self, name: &str, value: Value) {
        self.target.location[name] = value;
    }

    pub(crate) fn credentials(&mut self, value: Value) {
        self.target.credentials = Some(Secret::new(value.to_string()));
    }

    /// A new certificate for the names of the case.
    pub(crate) fn issue(&self) -> Issued {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        self.ca.issue(&names).unwrap()
    }

    pub(crate) fn issue_for(&self, names: &[&str]) -> Issued {
        self.ca.issue(names).unwrap()
    }

    pub(crate) async fn plan(&self, bundle: &CertificateBundle) -> Result<Plan> {
        self.module.dry_run(&self.cx, &self.target, bundle).await
    }

    pub(crate) async fn execute(
        &self,
        bundle: &CertificateBundle,
        plan: Plan,
        journal: &MemoryJournal,
    ) -> Result<Facts> {
        let plan = ApprovedPlan::assertion(plan);
        self.module.execute(&self.cx, &self.target, bundle, &plan, journal).await
    }

    /// Dry run and delivery.
    pub(crate) async fn deliver(&self, bundle: &CertificateBundle, journal: &MemoryJournal) -> Result<Facts> {
        let plan = self.plan(bundle).await?;
        self.execute(bundle, plan, journal).await
    }

    pub(crate) async fn validate(&self, bundle: &CertificateBundle) -> Result<Validation> {
        self.module.validate(&self.cx, &self.target, bundle).await
    }

    pub(crate) async fn rollback(&self, journal: &MemoryJournal) -> Result<RollbackOutcome> {
        let entries = journal.entries().await.unwrap();
        self.module.rollback(&self.cx, &self.target, &entries).await
    }
}

pub(crate) fn bundle(issued: &Issued) -> CertificateBundle {
    CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap()
}

pub(crate) fn journal() -> MemoryJournal {
    MemoryJournal::new()
}

pub(crate) fn served(validation: &Validation) -> bool {
    matches!(validation, Validation::Served { .. })
}

pub(crate) fn refusal(outcome: RollbackOutcome) -> String {
    match outcome {
        RollbackOutcome::Refused { code, reason } => {
            assert!(!reason.is_empty());
            code
        }
        outcome => panic!("{outcome:?}"),
    }
}

/// The verbs and subjects of a plan.
pub(crate) fn steps(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|step| format!("{} {}", step.verb, step.subject)).collect()
}
