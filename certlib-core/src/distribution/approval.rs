//! Runs that others have to agree to: asking, with the plans of all targets, and what their answer leads to.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use time::OffsetDateTime;

use super::fanout::Pass;
use super::gate::digest_of;
use super::{LOOK_AFTER, MODULE_CONCURRENCY, TAKE_UP_AGAIN, job, target};
use crate::error::{Error, ErrorClass, Result};
use crate::model::{
    ApprovalRequest, ApprovalRule, ApprovalState, Certificate, CertificateState, Event, Run, RunState, TargetPhase,
    TargetRun, TargetStatus, new_id,
};
use crate::queue::{Outcome, later};
use crate::runtime::Handled;
use crate::store::{SharedStore, StoreExt as _, Versioned, WriteBatch};

/// What a request for approval of a run is about.
pub const RUN_SUBJECT: &str = "run";

/// Makes the plans of all targets and asks for approval of exactly these.
pub(super) async fn ask(
    pass: Arc<Pass>,
    mut run: Versioned<Run>,
    targets: Vec<Versioned<TargetRun>>,
    rule: &ApprovalRule,
) -> Result<Handled> {
    let others = rule.approvers.iter().filter(|name| **name != run.requested_by).count();
    if rule.needed == u32::MAX
        || (!rule.approvers.is_empty() && others < usize::try_from(rule.needed).unwrap_or(usize::MAX))
    {
        let why = "more have to agree than may: the rules of the distribution and its targets leave too few approvers";
        return Err(Error::validation("distribution.ask", "approval_impossible", why).with("may", others));
    }
    let planned: Vec<_> = stream::iter(targets)
        .map(|target| plan(&pass, target))
        .buffer_unordered(run.batch_size.clamp(1, MODULE_CONCURRENCY))
        .try_collect()
        .await?;
    let plans: HashMap<_, _> =
        planned.iter().filter_map(|one| Some((one.target_id.clone(), one.plan.as_ref()?.digest()))).collect();
    let now = pass.engine.clock.now();
    if plans.is_empty() {
        return Err(Error::transient("distribution.ask", "nothing_planned", "no target could be planned; see each"));
    }
    let request = ApprovalRequest {
        id: new_id(),
        project: run.project.clone(),
        subject_kind: RUN_SUBJECT.to_owned(),
        subject_id: run.id.clone(),
        digest: digest_of(&run, &plans),
        requested_by: run.requested_by.clone(),
        requested_at: now,
        needed: rule.needed,
        approvers: rule.approvers.iter().cloned().collect(),
        decisions: Vec::new(),
        state: ApprovalState::Pending,
        expires_at: later(now, rule.ttl()),
    };
    let data = json!({
        "subject_kind": RUN_SUBJECT,
        "subject": &run.id,
        "requested_by": &run.requested_by,
        "certificate": &run.certificate_id,
        "version": run.version,
        "planned": plans.len(),
        "targets": planned.len(),
    });
    let event = Event::new(&run.project, "approval.requested", &request.id, data, now);
    run.state = RunState::AwaitingApproval;
    run.approval_id = Some(request.id.clone());
    // The request itself is watched, and ends the run with it.
    run.due = None;
    let batch = WriteBatch::new().update(&run)?.insert(&request)?.insert(&event)?;
    Ok(Handled::Commit { batch: Box::new(batch), outcome: Outcome::Succeeded })
}

/// Makes and keeps the plan of one target.
async fn plan(pass: &Arc<Pass>, mut target_run: Versioned<TargetRun>) -> Result<TargetRun> {
    // What was delivered before is not planned anew.
    if !target_run.is_unfinished() {
        return Ok(target_run.record);
    }
    match target::dry_run(pass, &target_run).await {
        Ok(plan) => {
            target_run.plan = Some(plan);
            target_run.error = None;
            target_run.status = TargetStatus::Queued;
            target_run.phase = TargetPhase::Queued;
        }
        Err(error) => {
            target_run.plan = None;
            target_run.retryable = error.class().is_retryable();
            target_run.error = Some(error.to_record());
            target_run.status = TargetStatus::Failed;
            target_run.phase = TargetPhase::Done;
        }
    }
    target_run.updated_at = pass.engine.clock.now();
    pass.engine.store.commit(pass.context.batch().update(&target_run)?).await?;
    Ok(target_run.record)
}

/// What follows from how `request` ended, to be committed together with it: its run goes on, or ends.
///
/// # Errors
/// As the store.
pub(crate) async fn decided(store: &SharedStore, request: &ApprovalRequest, now: OffsetDateTime) -> Result<WriteBatch> {
    let batch = WriteBatch::new();
    if request.subject_kind != RUN_SUBJECT || request.state == ApprovalState::Pending {
        return Ok(batch);
    }
    let waits = |run: &Versioned<Run>| {
        run.state == RunState::AwaitingApproval && run.approval_id.as_deref() == Some(&*request.id)
    };
    let Some(mut run) = store.find::<Run>(&request.subject_id).await?.filter(waits) else { return Ok(batch) };
    if request.state == ApprovalState::Approved {
        run.state = RunState::Running;
        run.due = Some(now + LOOK_AFTER);
        return Ok(batch.update(&run)?.enqueue(job(&run)));
    }
    // Who did not answer is asked again, as long as this is what targets should have; who said no is not.
    let (code, why, due) = match request.state {
        ApprovalState::Rejected => ("approval_rejected", "somebody did not agree to this delivery", None),
        _ => ("approval_expired", "nobody agreed to this delivery in time", Some(now + TAKE_UP_AGAIN)),
    };
    let error = Error::new(ErrorClass::Validation, "distribution", code, why).with("request", &request.id).to_record();
    run.finish(RunState::Rejected, now, due);
    let data = json!({ "run": run.id, "version": run.version, "error": error });
    let event = Event::new(&run.project, "distribution.rejected", &run.certificate_id, data, now);
    let mut batch = batch.update(&run)?.insert(&event)?;
    if let Some(mut certificate) = store.find::<Certificate>(&run.certificate_id).await?
        && certificate.wanted_version() == run.version
    {
        // Another distribution of it may have gone well.
        let live = certificate.active_version == Some(run.version);
        certificate.state = if live { CertificateState::PartialFailure } else { CertificateState::DistributionFailed };
        certificate.last_error = Some(error);
        certificate.updated_at = now;
        batch = batch.update(&certificate)?;
    }
    Ok(batch)
}
