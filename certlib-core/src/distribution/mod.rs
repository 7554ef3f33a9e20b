//! Distribution: one run delivers one version to many targets, each with its own state machine.
//!
//! A sliding window of `batch_size` targets is worked on at the same time, further limited per module. A failed target
//! stops no other, unless a [`Rollout`](crate::model::Rollout) says so. Where others have to agree, a run first makes its
//! plans and asks; it then executes these plans and no others. Everything a target goes through is kept before it happens, so a run is resumed after a crash
//! where it stood.

mod approval;
mod fanout;
mod gate;
mod gone;
mod journal;
mod outcome;
mod target;

use std::time::Duration;

use serde_json::json;
use time::OffsetDateTime;

pub use self::approval::RUN_SUBJECT;
pub(crate) use self::approval::decided;
pub(crate) use self::fanout::DistributionHandler;
pub use self::outcome::{Judgement, TargetResult, judge};
use crate::model::{Distribution, Run, RunState, RunSummary, new_id};
use crate::queue::{Lane, NewJob};

/// The type of job that works a run through.
pub const EXECUTE: &str = "distribution_execute";

/// How many targets of one module are worked on at the same time, unless the module says otherwise.
pub const MODULE_CONCURRENCY: usize = 25;

/// How long after it should have been worked on a run is looked at by the sweep.
pub(crate) const LOOK_AFTER: Duration = Duration::from_secs(15 * 60);

/// How long after its last attempt a run that did not reach all its targets is taken up again, as long as it delivers
/// the newest version: what people mend in the meantime should not need them to say so.
pub(crate) const TAKE_UP_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// A run that delivers `version` as `distribution` says.
pub(crate) fn new_run(distribution: &Distribution, version: u32, now: OffsetDateTime) -> Run {
    let targets = distribution.targets.len();
    Run {
        id: new_id(),
        project: distribution.project.clone(),
        certificate_id: distribution.certificate_id.clone(),
        distribution_id: distribution.id.clone(),
        version,
        batch_size: distribution.batch_size,
        rollout: distribution.rollout,
        requested_by: Run::SCHEDULER.to_owned(),
        back: false,
        urgent: false,
        retry_at: None,
        approval_id: None,
        state: RunState::Running,
        passes: 0,
        summary: RunSummary { targets, queued: targets, ..RunSummary::default() },
        due: Some(now + LOOK_AFTER),
        created_at: now,
        finished_at: None,
        kept: false,
        tidy_at: None,
    }
}

/// The job that works `run` through.
pub(crate) fn job(run: &Run) -> NewJob {
    NewJob::new(EXECUTE, Lane::Distribution, json!({ "run_id": run.id })).with_key(&*run.id).with_project(&*run.project)
}
