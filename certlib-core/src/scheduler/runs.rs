//! Sees to runs that nobody works on.

use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;

use super::due::{Advance, Due, sweep_due};
use super::{Sweep, SweepContext};
use crate::distribution::{self, EXECUTE, LOOK_AFTER};
use crate::error::Result;
use crate::model::{Certificate, CertificateVersion, Run, RunState, TargetRun, VersionState};
use crate::queue::{Job, JobFilter, JobState};
use crate::store::{StoreExt as _, TypedQuery, Versioned, WriteBatch};

/// Takes up runs whose job ended without them, brings cancelled ones to an end where a target was left in the middle,
/// and tries again, once a day, what the newest version did not reach.
#[derive(Debug, Clone, Copy)]
pub struct RunSweep;

/// How long after a try the next one is due.
const AGAIN: Duration = distribution::TAKE_UP_AGAIN;

#[async_trait]
impl Sweep for RunSweep {
    fn name(&self) -> &'static str {
        "run"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        sweep_due(cx, self).await
    }
}

#[async_trait]
impl Due for RunSweep {
    type Record = Run;
    const FIELD: &'static str = "due";

    /// Moves a run's due time on, and gives it a job if it needs one.
    async fn advance(&self, cx: &SweepContext, run: &mut Versioned<Run>, now: OffsetDateTime) -> Result<Advance> {
        let filter = JobFilter { kind: Some(EXECUTE.to_owned()), key: Some(run.id.clone()), ..JobFilter::default() };
        let last = cx.store.jobs(&JobFilter { limit: 1, ..filter }).await?.pop();
        let state = last.as_ref().map(|job: &Job| job.state);
        let mut enqueue = false;
        if run.state == RunState::AwaitingApproval {
            run.due = None;
        } else if state.is_some_and(JobState::is_active) {
            run.due = Some(now + LOOK_AFTER);
        } else if run.finished_at.is_some() {
            enqueue = is_wanted(cx, run, now).await?;
            run.due = enqueue.then_some(now + AGAIN);
        } else if state == Some(JobState::Cancelled) && !has_begun_target(cx, run).await? {
            run.finish(RunState::Cancelled, now, None);
        } else {
            if state == Some(JobState::Cancelled) {
                run.state = RunState::Cancelled;
            }
            enqueue = true;
            run.due = Some(now + LOOK_AFTER);
        }
        let batch = WriteBatch::new();
        Ok(Advance::with(if enqueue { batch.enqueue(distribution::job(run)) } else { batch }))
    }
}

/// Whether a run that did not reach all its targets still delivers what its certificate should be.
async fn is_wanted(cx: &SweepContext, run: &Run, now: OffsetDateTime) -> Result<bool> {
    let Some(certificate) = cx.store.find::<Certificate>(&run.certificate_id).await? else { return Ok(false) };
    let id = CertificateVersion::id_of(&run.certificate_id, run.version);
    let Some(version) = cx.store.find::<CertificateVersion>(&id).await? else { return Ok(false) };
    Ok(certificate.wanted_version() == run.version
        && version.state == VersionState::Issued
        && version.leaf.not_after > now)
}

async fn has_begun_target(cx: &SweepContext, run: &Run) -> Result<bool> {
    let targets = cx.store.list_all(TypedQuery::<TargetRun>::new().equal("run", &*run.id)).await?;
    Ok(targets.iter().any(|target| target.is_begun()))
}
