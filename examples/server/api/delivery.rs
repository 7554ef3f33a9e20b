//! Distribution of a certificate: preview, run, watch.

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use certlib_core::client::{DistributionStatus, PlannedTarget, Request};
use certlib_core::distribution::EXECUTE;
use certlib_core::model::{Run, TargetRun};
use certlib_core::module::Plan;
use certlib_core::queue::JobFilter;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::views::{Failure, word};
use crate::auth::ApiToken;
use crate::extract::{Body, Params};
use crate::problem::{Problems, Result};

/// How to distribute.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Distribute {
    /// Say what would be done, and change nothing.
    #[serde(default)]
    dry_run: bool,
    /// Do not wait for maintenance windows. A pause holds all the same, and so does an approval.
    #[serde(default)]
    urgent: bool,
}

/// Which version to go back to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GoBack {
    /// The version: issued, not revoked, with a day left at least.
    version: u32,
    /// Do not wait for maintenance windows.
    #[serde(default)]
    urgent: bool,
}

/// The runs that deliver, and their jobs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StartedRuns {
    /// One for each distribution of the certificate.
    runs: Vec<StartedRun>,
}

/// A run and the job that works it through.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StartedRun {
    run_id: String,
    job_id: Option<String>,
    version: u32,
}

/// What a run would do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Preview {
    targets: Vec<PreviewTarget>,
}

/// What a run would do to one target: a plan, or why there is none.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PreviewTarget {
    target_id: String,
    target_name: String,
    /// Ordered steps: what is done to what, how it is now and how it will be.
    #[schema(value_type = Option<Object>)]
    plan: Option<Plan>,
    /// SHA-256 of the plan.
    digest: Option<String>,
    /// Whether the plan changes anything.
    changes: bool,
    error: Option<Failure>,
}

impl From<PlannedTarget> for PreviewTarget {
    fn from(target: PlannedTarget) -> Self {
        let (plan, error) = match target.plan {
            Ok(plan) => (Some(plan), None),
            Err(error) => (None, Some(error.into())),
        };
        Self {
            target_id: target.target_id,
            target_name: target.target_name,
            digest: plan.as_ref().map(Plan::digest),
            changes: plan.as_ref().is_some_and(Plan::changes_anything),
            plan,
            error,
        }
    }
}

/// How the latest run stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// Null when nothing was ever distributed.
    run: Option<RunView>,
    targets: Vec<TargetRunView>,
}

/// A run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunView {
    id: String,
    version: u32,
    /// `awaiting-approval`, `running`, `waiting`, `succeeded`, `succeeded-unverified`, `partial-failure`, `failed`,
    /// `cancelled` or `rejected`.
    state: String,
    batch_size: usize,
    requested_by: String,
    /// The request for approval, if one was needed.
    approval_id: Option<String>,
    passes: u32,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    finished_at: Option<OffsetDateTime>,
}

impl From<Run> for RunView {
    fn from(run: Run) -> Self {
        Self {
            state: word(run.state),
            id: run.id,
            version: run.version,
            batch_size: run.batch_size,
            requested_by: run.requested_by,
            approval_id: run.approval_id,
            passes: run.passes,
            created_at: run.created_at,
            finished_at: run.finished_at,
        }
    }
}

/// One target in a run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TargetRunView {
    target_id: String,
    target_name: String,
    module: String,
    /// `queued`, `running`, `validated`, `unverified`, `rolled-back` or `failed`.
    status: String,
    attempt: u32,
    /// Whether another attempt may help.
    retryable: bool,
    /// Why it was not looked at yet, if there is a reason: `paused`, `window` (with `opens`) or `stopped`.
    #[schema(value_type = Option<Object>)]
    waiting: Value,
    /// What was found at the target's endpoints.
    #[schema(value_type = Vec<Object>)]
    endpoints: Value,
    /// What the module reported.
    #[schema(value_type = Option<Object>)]
    facts: Value,
    error: Option<Failure>,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

impl From<TargetRun> for TargetRunView {
    fn from(target: TargetRun) -> Self {
        Self {
            status: word(target.status),
            endpoints: serde_json::to_value(&target.endpoints).unwrap_or_default(),
            facts: serde_json::to_value(&target.facts).unwrap_or_default(),
            waiting: serde_json::to_value(target.waiting).unwrap_or_default(),
            target_id: target.target_id,
            target_name: target.target_name,
            module: target.module,
            attempt: target.attempt,
            retryable: target.retryable,
            error: target.error.map(Failure::from),
            updated_at: target.updated_at,
        }
    }
}

/// Delivers the newest version to all targets of the certificate, or says what that would do.
#[utoipa::path(post, path = "/api/v1/projects/{project}/certificates/{id}/distribute", tag = "distribution",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id"),
        Distribute),
    responses((status = 200, description = "Dry run: what would be done", body = Preview),
        (status = 202, description = "Started", body = StartedRuns), Problems))]
pub(super) async fn distribute(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
    Extension(token): Extension<ApiToken>,
    Params(how): Params<Distribute>,
) -> Result<Response> {
    if how.dry_run {
        let planned = state.client.dry_run(&project, &id, |_| {}).await?;
        let preview = Preview { targets: planned.into_iter().map(PreviewTarget::from).collect() };
        return Ok(Json(preview).into_response());
    }
    let runs = state.client.distribute_as(&project, &id, &request(&token, how.urgent)).await?;
    started(&state, &project, runs).await
}

/// Delivers an older version to all targets of the certificate. They keep it until the next one is issued, or until the
/// newest is distributed again. Approvals, windows and pauses hold for this as well.
#[utoipa::path(post, path = "/api/v1/projects/{project}/certificates/{id}/go-back", tag = "distribution",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    request_body = GoBack, responses((status = 202, description = "Started", body = StartedRuns), Problems))]
pub(super) async fn go_back(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
    Extension(token): Extension<ApiToken>,
    Body(how): Body<GoBack>,
) -> Result<Response> {
    let runs = state.client.go_back(&project, &id, how.version, &request(&token, how.urgent)).await?;
    started(&state, &project, runs).await
}

/// A token stands for whoever has it.
fn request(token: &ApiToken, urgent: bool) -> Request {
    let request = Request::of(&*token.id);
    if urgent { request.urgent() } else { request }
}

async fn started(state: &AppState, project: &str, begun: Vec<Run>) -> Result<Response> {
    let mut runs = Vec::new();
    for run in begun {
        let filter =
            JobFilter { kind: Some(EXECUTE.to_owned()), key: Some(run.id.clone()), limit: 1, ..JobFilter::default() };
        let job = state.client.jobs(project, filter).await?.pop();
        runs.push(StartedRun { run_id: run.id, job_id: job.map(|job| job.id), version: run.version });
    }
    Ok((StatusCode::ACCEPTED, Json(StartedRuns { runs })).into_response())
}

/// How the latest run of a certificate stands, target by target.
#[utoipa::path(get, path = "/api/v1/projects/{project}/certificates/{id}/distribution-status", tag = "distribution",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    responses((status = 200, body = Status), Problems))]
pub(super) async fn status(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
) -> Result<Json<Status>> {
    let status = state.client.distribution_status(&project, &id).await?;
    Ok(Json(match status {
        None => Status { run: None, targets: Vec::new() },
        Some(DistributionStatus { run, targets, .. }) => {
            Status { run: Some(run.into()), targets: targets.into_iter().map(TargetRunView::from).collect() }
        }
    }))
}
