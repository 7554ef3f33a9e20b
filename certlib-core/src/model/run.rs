//! Runs: one execution of a distribution, target by target.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::rules::Rollout;
use crate::error::ErrorRecord;
use crate::module::{EndpointCheck, Facts, Plan};
use crate::secret::{Aad, Sealed};
use crate::store::{Index, Record, SealedField};

/// One execution of a distribution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// The project that owns it.
    pub project: String,
    /// The certificate.
    pub certificate_id: String,
    /// The distribution.
    pub distribution_id: String,
    /// The version that is delivered.
    pub version: u32,
    /// How many targets are worked on at the same time.
    pub batch_size: usize,
    /// How far a failure may spread.
    #[serde(default)]
    pub rollout: Rollout,
    /// Who asked for it: a person, or [`Run::SCHEDULER`].
    #[serde(default = "scheduler")]
    pub requested_by: String,
    /// An operator wants this version, although targets may hold a newer one.
    #[serde(default)]
    pub back: bool,
    /// Does not wait for maintenance windows. A pause holds all the same.
    #[serde(default)]
    pub urgent: bool,
    /// When those that failed are tried again; what waits for its time may be looked at before.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub retry_at: Option<OffsetDateTime>,
    /// The request for approval that its plans are in, if one was needed.
    #[serde(default)]
    pub approval_id: Option<String>,
    /// Where it stands.
    pub state: RunState,
    /// How often all its open targets were worked through.
    pub passes: u32,
    /// How its targets stand, as of the last finished pass.
    pub summary: RunSummary,
    /// When the sweep has to look at it: to see that somebody works on it, or to try again what failed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub due: Option<OffsetDateTime>,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    /// Whether rollback may still need its journals; a later run releases them.
    #[serde(default)]
    pub kept: bool,
    /// When the clean-up has to look at it.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub tidy_at: Option<OffsetDateTime>,
}

fn scheduler() -> String {
    Run::SCHEDULER.to_owned()
}

impl Run {
    /// Who asks for runs that nobody asked for.
    pub const SCHEDULER: &'static str = "scheduler";

    /// How long after its end the clean-up looks at what the run supersedes.
    const TIDY_AFTER: Duration = Duration::from_secs(24 * 3600);

    /// Ends the run; it is looked at again at `due`.
    pub(crate) fn finish(&mut self, state: RunState, now: OffsetDateTime, due: Option<OffsetDateTime>) {
        self.state = state;
        self.finished_at = Some(now);
        self.due = due;
        self.kept = true;
        // A run that is tried again every day is looked at all the same.
        self.tidy_at.get_or_insert(now + Self::TIDY_AFTER);
    }

    /// The value of the field `delivers` of the runs that deliver `version` as a distribution says.
    pub fn delivers(distribution_id: &str, version: u32) -> String {
        format!("{distribution_id}/{version}")
    }
}

impl Record for Run {
    const KIND: &'static str = "run";
    const FIELDS: &'static [&'static str] =
        &["project", "certificate", "distribution", "delivers", "kept", "due", "tidy_at"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
            .field("project", &*self.project)
            .field("certificate", &*self.certificate_id)
            .field("distribution", &*self.distribution_id)
            .field("delivers", Self::delivers(&self.distribution_id, self.version))
            .maybe("kept", self.kept.then_some(&*self.distribution_id))
            .maybe("due", self.due)
            .maybe("tidy_at", self.tidy_at)
    }
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RunState {
    /// Waiting for a worker, or at work.
    Running,
    /// Some targets failed for reasons that may pass; it goes on later.
    Waiting,
    /// Every target that can be verified was validated.
    Succeeded,
    /// Delivered, but only to targets that cannot be verified.
    SucceededUnverified,
    /// Some targets validated, others did not.
    PartialFailure,
    /// No target took it.
    Failed,
    /// Stopped on request.
    Cancelled,
    /// Its plans are made, and wait for others to agree.
    AwaitingApproval,
    /// Somebody did not agree, or nobody did in time.
    Rejected,
}

/// How many targets of a run stand where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSummary {
    /// All.
    pub targets: usize,
    /// Not looked at yet, or to be tried again.
    pub queued: usize,
    /// At work.
    pub running: usize,
    /// Proven to serve the new certificate.
    pub validated: usize,
    /// Delivered to, and cannot be verified.
    pub unverified: usize,
    /// Serving the former certificate again.
    pub rolled_back: usize,
    /// Failed.
    pub failed: usize,
}

/// One target in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetRun {
    /// `<run id>/<target id>`.
    pub id: String,
    /// The run.
    pub run_id: String,
    /// The target.
    pub target_id: String,
    /// The target's name when the run began.
    pub target_name: String,
    /// Which module delivers.
    pub module: String,
    /// Its public status.
    pub status: TargetStatus,
    /// How far it has come.
    pub phase: TargetPhase,
    /// How often it was tried.
    pub attempt: u32,
    /// What was planned.
    pub plan: Option<Plan>,
    /// What the module reported.
    pub facts: Option<Facts>,
    /// What was found at its endpoints.
    pub endpoints: Vec<EndpointCheck>,
    /// What went wrong last.
    pub error: Option<ErrorRecord>,
    /// Whether another attempt may help.
    pub retryable: bool,
    /// How long the target asked us to wait, in seconds.
    pub retry_after: Option<u64>,
    /// Why it was not looked at yet, if there is a reason.
    #[serde(default)]
    pub waiting: Option<Waiting>,
    /// Undo records written.
    pub journal_entries: u32,
    /// When it was changed last.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// Why a target has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Waiting {
    /// Somebody paused it.
    Paused,
    /// Its maintenance window is closed.
    Window {
        /// When it opens.
        #[serde(with = "time::serde::rfc3339")]
        opens: OffsetDateTime,
    },
    /// Its run was stopped before its turn came, because others failed.
    Stopped,
}

impl TargetRun {
    /// Whether the target was left between its former state and a proven end.
    pub fn is_begun(&self) -> bool {
        !matches!(self.phase, TargetPhase::Queued | TargetPhase::Done)
    }

    /// Whether it neither has the new certificate nor cannot be asked.
    pub fn is_unfinished(&self) -> bool {
        !matches!(self.status, TargetStatus::Validated | TargetStatus::Unverified)
    }

    /// The id of `target_id`'s part in `run_id`.
    pub fn id_of(run_id: &str, target_id: &str) -> String {
        format!("{run_id}/{target_id}")
    }
}

impl Record for TargetRun {
    const KIND: &'static str = "target_run";
    const FIELDS: &'static [&'static str] = &["run"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("run", &*self.run_id)
    }
}

/// The public status of a target in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetStatus {
    /// Not looked at yet, or to be tried again.
    Queued,
    /// At work.
    Running,
    /// Proven to serve the new certificate.
    Validated,
    /// Delivered to, and cannot be verified.
    Unverified,
    /// Serving the former certificate again.
    RolledBack,
    /// Failed.
    Failed,
}

/// How far a target has come: intent is written before each step, so a crash is resumed where it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TargetPhase {
    /// Nothing was done.
    Queued,
    /// The plan is kept; execution has begun or is about to.
    Executing,
    /// Executed; to be validated.
    Executed,
    /// Being rolled back.
    RollingBack,
    /// At its end: see the status.
    Done,
}

/// One undo record, sealed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// `<target run id>/<sequence>`.
    pub id: String,
    /// The project that owns it.
    pub project: String,
    /// The target run.
    pub target_run_id: String,
    /// From 1.
    pub sequence: u32,
    /// What was about to be done.
    pub step: String,
    /// What undoes it.
    pub sealed: Sealed,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

impl JournalEntry {
    /// The id of entry `sequence` of a target run; sorts by sequence.
    pub fn id_of(target_run_id: &str, sequence: u32) -> String {
        format!("{target_run_id}/{sequence:06}")
    }

    /// Where the undo record of entry `id` is sealed.
    pub(crate) fn aad<'a>(project: &'a str, id: &'a str) -> Aad<'a> {
        Aad::new(project, Self::KIND, id, "undo")
    }
}

impl Record for JournalEntry {
    const KIND: &'static str = "journal_entry";
    const FIELDS: &'static [&'static str] = &["target_run"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("target_run", &*self.target_run_id)
    }

    fn sealed(&self) -> Option<SealedField<'_>> {
        Some(SealedField { sealed: &self.sealed, aad: Self::aad(&self.project, &self.id) })
    }

    fn replace_sealed(&mut self, sealed: Sealed) {
        self.sealed = sealed;
    }
}
