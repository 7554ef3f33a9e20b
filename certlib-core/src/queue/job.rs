//! Jobs as data.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::{PAYLOAD_DEPTH_MAX, PAYLOAD_HARD_MAX, PAYLOAD_MAX, later};
use crate::error::{Error, ErrorRecord, Result};
use crate::model;

/// An isolated share of workers: no lane can starve another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Getting certificates from CAs.
    Issuance,
    /// Putting them on targets.
    Distribution,
    /// Telling people and systems.
    Notification,
    /// Looking around.
    Discovery,
    /// Keeping house.
    Maintenance,
}

impl Lane {
    /// All lanes.
    pub const ALL: [Self; 5] =
        [Self::Issuance, Self::Distribution, Self::Notification, Self::Discovery, Self::Maintenance];

    /// The lane's name, as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issuance => "issuance",
            Self::Distribution => "distribution",
            Self::Notification => "notification",
            Self::Discovery => "discovery",
            Self::Maintenance => "maintenance",
        }
    }

    /// The lane with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.as_str() == name)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waiting for its time and a worker.
    Pending,
    /// Leased to a worker.
    InProgress,
    /// Done.
    Succeeded,
    /// Done as far as possible: some of its parts failed for good.
    Partial,
    /// Failed for a reason that a retry cannot mend.
    Failed,
    /// Stopped on request.
    Cancelled,
    /// Out of retries, or poison.
    DeadLetter,
}

impl JobState {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::InProgress,
        Self::Succeeded,
        Self::Partial,
        Self::Failed,
        Self::Cancelled,
        Self::DeadLetter,
    ];

    /// The state's name, as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Succeeded => "succeeded",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::DeadLetter => "dead_letter",
        }
    }

    /// The state with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether the job still has work to do.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Pending | Self::InProgress)
    }
}

/// A job to enqueue.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NewJob {
    /// Its id; UUID version 7 by default.
    pub id: String,
    /// Its type, such as `"issue_certificate"`.
    pub kind: String,
    /// Its lane.
    pub lane: Lane,
    /// Its natural key: at most one active job exists for each kind and key. `None`: no limit.
    pub key: Option<String>,
    /// The project it belongs to; empty for the installation's own.
    pub project: String,
    /// The larger work it is part of: workers take turns between parents, so that one with thousands of jobs delays no
    /// other by more than the jobs that run. `None`: its project.
    pub parent: Option<String>,
    /// What it needs to know. Never a secret.
    pub payload: Value,
    /// How large the payload may be, in bytes of JSON: 256 KiB, at most [`PAYLOAD_HARD_MAX`].
    pub payload_limit: usize,
    /// Higher goes first; 0 is normal.
    pub priority: i16,
    /// How long to wait before it may run.
    pub delay: Duration,
}

impl NewJob {
    /// A job of type `kind`, due at once, without natural key.
    pub fn new(kind: impl Into<String>, lane: Lane, payload: Value) -> Self {
        Self {
            id: model::new_id(),
            kind: kind.into(),
            lane,
            key: None,
            project: String::new(),
            parent: None,
            payload,
            payload_limit: PAYLOAD_MAX,
            priority: 0,
            delay: Duration::ZERO,
        }
    }

    /// Sets the natural key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the project.
    #[must_use]
    pub fn with_project(mut self, project: impl Into<String>) -> Self {
        self.project = project.into();
        self
    }

    /// Sets the parent.
    #[must_use]
    pub fn with_parent(mut self, parent: impl Into<String>) -> Self {
        self.parent = Some(parent.into());
        self
    }

    /// Allows a payload of `bytes`, at most [`PAYLOAD_HARD_MAX`].
    #[must_use]
    pub fn with_payload_limit(mut self, bytes: usize) -> Self {
        self.payload_limit = bytes.min(PAYLOAD_HARD_MAX);
        self
    }

    /// Sets the priority.
    #[must_use]
    pub fn with_priority(mut self, priority: i16) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the delay.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// For stores: the parent, or else the project.
    pub fn effective_parent(&self) -> &str {
        self.parent.as_deref().unwrap_or(&self.project)
    }

    /// Fails unless every part is within its limits; every store calls this.
    ///
    /// # Errors
    /// `Validation` `job_invalid` when the id or the type is empty, one of them, the project or the parent is longer than
    /// 200 bytes or the natural key than 500, or one holds control characters; `payload_too_large`; `payload_invalid`
    /// when the payload is too deep, holds a NUL, or a number that not every JSON reader keeps exactly.
    pub fn check(&self) -> Result<()> {
        let key = self.key.as_deref().unwrap_or_default();
        let parent = self.parent.as_deref().unwrap_or_default();
        let texts = [
            ("id", &*self.id, 200),
            ("kind", &*self.kind, 200),
            ("project", &*self.project, 200),
            ("parent", parent, 200),
            ("key", key, 500),
        ];
        for (name, text, limit) in texts {
            let missing = text.is_empty() && matches!(name, "id" | "kind");
            if missing || text.len() > limit || text.chars().any(char::is_control) {
                let message = "a part of the job is empty, too long, or holds control characters";
                return Err(Error::validation("queue.enqueue", "job_invalid", message)
                    .with("part", name)
                    .with("limit", limit)
                    .with("actual", text.len()));
            }
        }
        let invalid =
            |why: &str| Error::validation("queue.enqueue", "payload_invalid", why.to_owned()).with("job", &self.kind);
        let text = self.payload.to_string();
        let limit = self.payload_limit.min(PAYLOAD_HARD_MAX);
        if text.len() > limit {
            return Err(Error::validation("queue.enqueue", "payload_too_large", "the payload is too large")
                .with("job", &self.kind)
                .with("limit", limit)
                .with("actual", text.len()));
        }
        if text.contains("\\u0000") {
            return Err(invalid("the payload holds a NUL character"));
        }
        if depth(&self.payload) > PAYLOAD_DEPTH_MAX {
            return Err(invalid("the payload is nested too deeply").with("limit", PAYLOAD_DEPTH_MAX));
        }
        if !is_portable(&self.payload) {
            return Err(invalid("the payload holds an integer beyond 2^53; send it as text"));
        }
        Ok(())
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Whether every integer survives in a reader that keeps numbers as doubles.
fn is_portable(value: &Value) -> bool {
    const EXACT: u64 = 1 << 53;
    match value {
        Value::Array(items) => items.iter().all(is_portable),
        Value::Object(members) => members.values().all(is_portable),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => integer.unsigned_abs() <= EXACT,
            (None, Some(_)) => false,
            (None, None) => true,
        },
        _ => true,
    }
}

/// Which jobs a worker wants.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClaimRequest {
    /// Of this lane.
    pub lane: Lane,
    /// Who asks.
    pub worker: String,
    /// At most this many.
    pub limit: usize,
    /// How long they are leased.
    pub lease: Duration,
    /// Parents whose jobs are passed over, because they have their share already.
    pub avoid: Vec<String>,
}

impl ClaimRequest {
    /// Due jobs of `lane`, whoever their parents are.
    pub fn new(lane: Lane, worker: impl Into<String>, limit: usize, lease: Duration) -> Self {
        Self { lane, worker: worker.into(), limit, lease, avoid: Vec::new() }
    }

    /// Passes over the jobs of these parents.
    #[must_use]
    pub fn avoiding(mut self, parents: Vec<String>) -> Self {
        self.avoid = parents;
        self
    }
}

/// What became of an enqueued job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enqueued {
    /// The id of the job that will do the work.
    pub id: String,
    /// Whether an active job of the same key was there already.
    pub deduplicated: bool,
}

/// A leased right to run one job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The job.
    pub job: String,
    /// The fencing token.
    pub epoch: u64,
}

/// What a worker learns when it extends its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Extension {
    /// The claim holds.
    Held {
        /// Somebody asked the job to stop.
        cancel_requested: bool,
    },
    /// The job belongs to somebody else now.
    Lost,
}

/// How a claimed job ends, or pauses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The claim it is made under.
    pub claim: Claim,
    /// The outcome.
    pub outcome: Outcome,
    /// How long the attempt ran.
    pub duration: Duration,
}

/// The outcome of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Done.
    Succeeded,
    /// Done as far as possible.
    Partial {
        /// Why not all of it.
        error: ErrorRecord,
    },
    /// Failed for good.
    Failed {
        /// Why.
        error: ErrorRecord,
    },
    /// Out of retries.
    DeadLetter {
        /// The last failure.
        error: ErrorRecord,
    },
    /// Try again after `delay`; the attempt counts.
    Retry {
        /// Why this attempt failed.
        error: ErrorRecord,
        /// How long to wait.
        delay: Duration,
    },
    /// Nothing to do yet: come back after `delay`; the attempt does not count.
    Snooze {
        /// How long to wait.
        delay: Duration,
    },
    /// Interrupted by a shutdown: due again at once; the attempt does not count.
    Release,
    /// Stopped on request.
    Cancelled,
}

impl Outcome {
    /// The state this outcome leads to.
    pub fn state(&self) -> JobState {
        match self {
            Self::Succeeded => JobState::Succeeded,
            Self::Partial { .. } => JobState::Partial,
            Self::Failed { .. } => JobState::Failed,
            Self::DeadLetter { .. } => JobState::DeadLetter,
            Self::Retry { .. } | Self::Snooze { .. } | Self::Release => JobState::Pending,
            Self::Cancelled => JobState::Cancelled,
        }
    }

    /// The failure, if it was one.
    pub fn error(&self) -> Option<&ErrorRecord> {
        match self {
            Self::Partial { error }
            | Self::Failed { error }
            | Self::DeadLetter { error }
            | Self::Retry { error, .. } => Some(error),
            _ => None,
        }
    }

    /// How long a pending job has to wait.
    pub fn delay(&self) -> Duration {
        match self {
            Self::Retry { delay, .. } | Self::Snooze { delay } => *delay,
            _ => Duration::ZERO,
        }
    }

    /// Whether the attempt counts towards the ladder.
    pub fn counts(&self) -> bool {
        !matches!(self, Self::Snooze { .. } | Self::Release)
    }
}

/// A job as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Job {
    /// Its id.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// Its lane.
    pub lane: Lane,
    /// Its natural key.
    pub key: Option<String>,
    /// The project it belongs to.
    pub project: String,
    /// The larger work it is part of; its project if nothing else was said.
    pub parent: String,
    /// What it needs to know.
    pub payload: Value,
    /// Higher goes first.
    pub priority: i16,
    /// Where it is in its life.
    pub state: JobState,
    /// How many attempts were started since it was enqueued or retried.
    pub attempt: u32,
    /// The fencing token of the latest claim.
    pub claim_epoch: u64,
    /// How often its worker vanished since it was settled last.
    pub crash_count: u32,
    /// When it may run.
    #[serde(with = "time::serde::rfc3339")]
    pub run_at: OffsetDateTime,
    /// When its lease ends, while it is in progress.
    #[serde(with = "time::serde::rfc3339::option")]
    pub lease_until: Option<OffsetDateTime>,
    /// The worker that claimed it last.
    pub worker: Option<String>,
    /// Somebody asked it to stop.
    pub cancel_requested: bool,
    /// Somebody enqueued it again while it ran.
    pub rerun_requested: bool,
    /// The last attempts that failed, oldest first.
    pub attempts: Vec<AttemptRecord>,
    /// When it was enqueued.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it reached a final state.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
}

impl Job {
    /// For stores: a pending job as `new` asks for it, enqueued at `now`.
    pub fn from_new(new: NewJob, now: OffsetDateTime) -> Self {
        Self {
            parent: new.effective_parent().to_owned(),
            id: new.id,
            kind: new.kind,
            lane: new.lane,
            key: new.key,
            project: new.project,
            payload: new.payload,
            priority: new.priority,
            state: JobState::Pending,
            attempt: 0,
            claim_epoch: 0,
            crash_count: 0,
            run_at: later(now, new.delay),
            lease_until: None,
            worker: None,
            cancel_requested: false,
            rerun_requested: false,
            attempts: Vec::new(),
            created_at: now,
            finished_at: None,
        }
    }

    /// The right to run this job as it was claimed.
    pub fn claim(&self) -> Claim {
        Claim { job: self.id.clone(), epoch: self.claim_epoch }
    }
}

/// One failed attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Why it failed.
    pub error: ErrorRecord,
    /// When it was settled.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Of this project.
    pub project: Option<String>,
    /// In this state.
    pub state: Option<JobState>,
    /// Of this type.
    pub kind: Option<String>,
    /// With this natural key.
    pub key: Option<String>,
    /// Older than the job with this id.
    pub before: Option<String>,
    /// At most this many, 1 to 1000; 0 means 100.
    pub limit: usize,
}

impl JobFilter {
    /// For stores: how many jobs to return.
    pub fn effective_limit(&self) -> usize {
        if self.limit == 0 { 100 } else { self.limit.min(1000) }
    }

    /// For stores: whether `job` matches, wherever it stands in the order.
    pub fn matches(&self, job: &Job) -> bool {
        fn is<T: PartialEq>(wanted: &Option<T>, actual: &T) -> bool {
            wanted.as_ref().is_none_or(|wanted| wanted == actual)
        }
        is(&self.project, &job.project)
            && is(&self.state, &job.state)
            && is(&self.kind, &job.kind)
            && (self.key.is_none() || self.key == job.key)
    }
}

/// How much is waiting and running.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QueueStats {
    /// By job type.
    pub by_kind: BTreeMap<String, QueueDepth>,
}

/// The depth of the queue for one job type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct QueueDepth {
    /// Pending, due or not.
    pub pending: u64,
    /// In progress.
    pub in_progress: u64,
    /// In the dead-letter state.
    pub dead_letter: u64,
}
