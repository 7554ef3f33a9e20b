//! Targets, and the distributions that attach certificates to them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::rules::{ApprovalRule, MaintenanceWindow, Rollout};
use crate::store::{Index, Record};

/// Module kind, credential and location: reusable by many certificates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Its id.
    pub id: String,
    /// The project that owns it.
    pub project: String,
    /// Its name, for people.
    pub name: String,
    /// Which module delivers to it.
    pub module: String,
    /// How to deliver.
    pub config: Value,
    /// Where.
    pub location: Value,
    /// How to log in.
    pub credential_id: Option<String>,
    /// Who must agree before anything is delivered here; `None`: nobody.
    #[serde(default)]
    pub approval: Option<ApprovalRule>,
    /// When it may be touched; `None`: always.
    #[serde(default)]
    pub window: Option<MaintenanceWindow>,
    /// Nothing is delivered here until somebody lifts the pause. Set by people, and by the engine when the target says that
    /// it is gone for good.
    #[serde(default)]
    pub paused: bool,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Record for Target {
    const KIND: &'static str = "target";
    const FIELDS: &'static [&'static str] = &["project", "name", "module"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("project", &*self.project).field("name", &*self.name).field("module", &*self.module)
    }
}

/// What a target holds, and who works on it: keeps two runs from meeting there. Same id as the target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetState {
    /// The target's id.
    pub id: String,
    /// The run that is at work there.
    pub run_id: Option<String>,
    /// The version of each certificate that was deployed last: the target's generation. A run never deploys a lower
    /// one.
    pub versions: BTreeMap<String, u32>,
}

impl Record for TargetState {
    const KIND: &'static str = "target_state";
    const FIELDS: &'static [&'static str] = &[];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
    }
}

/// A certificate's attachment to targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Its id.
    pub id: String,
    /// The project that owns it.
    pub project: String,
    /// The certificate.
    pub certificate_id: String,
    /// The targets' ids, without doubles.
    pub targets: Vec<String>,
    /// How many targets are worked on at the same time.
    pub batch_size: usize,
    /// When it runs.
    pub trigger: Trigger,
    /// Who must agree before anything is delivered; `None`: nobody, unless a target wants it.
    #[serde(default)]
    pub approval: Option<ApprovalRule>,
    /// How far a failure may spread.
    #[serde(default)]
    pub rollout: Rollout,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Distribution {
    /// The batch size unless another is asked for.
    pub const DEFAULT_BATCH: usize = 10;
}

impl Record for Distribution {
    const KIND: &'static str = "distribution";
    const FIELDS: &'static [&'static str] = &["project", "certificate"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("project", &*self.project).field("certificate", &*self.certificate_id)
    }
}

/// When a distribution runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// After every issuance.
    #[default]
    Automatic,
    /// When asked to.
    Manual,
}
