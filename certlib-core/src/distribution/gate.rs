//! The one gate before anything is delivered, for work that people or the scheduler began alike: it is closed unless nobody
//! has to agree, or enough others have agreed to exactly these plans.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::MODULE_CONCURRENCY;
use crate::error::{Error, Result};
use crate::model::{ApprovalRequest, ApprovalRule, ApprovalState, Distribution, Run, Target, TargetRun};
use crate::runtime::Engine;
use crate::store::StoreExt as _;

const OPERATION: &str = "distribution.admit";

/// Whether a run may deliver.
#[derive(Debug)]
pub(super) enum Admission {
    /// Nobody has to agree.
    Open,
    /// Others have agreed to the plans with these digests, by target.
    Approved(HashMap<String, String>),
    /// Others have to be asked first.
    Ask(ApprovalRule),
    /// It may not.
    Closed(Error),
}

/// What `run` may do to `targets` now.
pub(super) async fn admit<'a>(
    engine: &Engine,
    run: &Run,
    targets: impl Iterator<Item = &'a TargetRun> + Clone,
) -> Result<Admission> {
    let Some(rule) = rule(engine, run, targets.clone()).await? else { return Ok(Admission::Open) };
    let Some(id) = &run.approval_id else { return Ok(Admission::Ask(rule)) };
    let Some(request) = engine.store.find::<ApprovalRequest>(id).await? else {
        return Ok(Admission::Closed(closed("approval_missing", "the request for approval is gone")));
    };
    let plans: HashMap<_, _> =
        targets.filter_map(|target| Some((target.target_id.clone(), planned(target)?))).collect();
    let now = engine.clock.now();
    let allowed = request.subject_id == run.id && request.allows(&digest_of(run, &plans), now);
    Ok(match request.state {
        _ if allowed && enough(&request, &rule) => Admission::Approved(plans),
        _ if allowed => {
            Admission::Closed(closed("approval_insufficient", "more have to agree by now than have agreed"))
        }
        ApprovalState::Approved if now >= request.expires_at => {
            Admission::Closed(closed("approval_expired", "the approval was not used in time; ask again"))
        }
        ApprovalState::Approved => Admission::Closed(closed("approval_other", "something else was approved than this")),
        _ => Admission::Closed(closed("not_approved", "nobody has agreed to this")),
    })
}

/// The strictest of the rules of a distribution and all its targets; `None` when there is none.
async fn rule<'a>(
    engine: &Engine,
    run: &Run,
    targets: impl Iterator<Item = &'a TargetRun>,
) -> Result<Option<ApprovalRule>> {
    let distribution = engine.store.load::<Distribution>(&run.distribution_id).await?.record;
    let ids: Vec<_> = targets.map(|target| target.target_id.clone()).collect();
    let rules: Vec<_> = stream::iter(ids)
        // One that is gone fails by itself, later.
        .map(|id| async move { engine.store.find::<Target>(&id).await.map(|target| target?.record.approval) })
        .buffer_unordered(MODULE_CONCURRENCY)
        .try_collect()
        .await?;
    Ok(rules.into_iter().flatten().chain(distribution.approval).reduce(|one, other| one.and(&other)))
}

/// Whether as many of those who may agree have agreed as `rule` wants now, which may be more than when it was asked for.
fn enough(request: &ApprovalRequest, rule: &ApprovalRule) -> bool {
    let counts = |by: &String| rule.approvers.is_empty() || rule.approvers.contains(by);
    let agreed = request.decisions.iter().filter(|one| one.approve && counts(&one.by)).count();
    u32::try_from(agreed).is_ok_and(|agreed| agreed >= rule.needed)
}

fn planned(target: &TargetRun) -> Option<String> {
    target.plan.as_ref().map(crate::module::Plan::digest)
}

/// SHA-256 of what is approved, lower-case hex: the run, its version, and the digest of each target's plan.
pub(super) fn digest_of(run: &Run, plans: &HashMap<String, String>) -> String {
    let mut lines: Vec<_> = plans.iter().map(|(target, plan)| format!("{target} {plan}\n")).collect();
    lines.sort_unstable();
    let text = format!("run {} version {}\n{}", run.id, run.version, lines.concat());
    digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn closed(code: &'static str, why: &'static str) -> Error {
    Error::validation(OPERATION, code, why)
}
