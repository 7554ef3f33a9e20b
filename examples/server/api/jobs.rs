//! Jobs: look, retry one or many, cancel.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use certlib_core::client::BulkRetry;
use certlib_core::queue::{AttemptRecord, Job, JobFilter, JobState};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::views::Failure;
use crate::extract::{OptionalBody, Params};
use crate::problem::{Problem, Problems, Result};

/// Which jobs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListJobs {
    /// `pending`, `in_progress`, `succeeded`, `partial`, `failed`, `cancelled` or `dead_letter`.
    state: Option<String>,
    /// Of this type, such as `issue_certificate`.
    kind: Option<String>,
    /// About this: a certificate's id for issuance, a run's id for distribution.
    key: Option<String>,
    /// Only jobs older than this one: the last id of the page before.
    before: Option<String>,
    /// At most this many, 1 to 1000; 100 by default.
    limit: Option<usize>,
}

/// One page of jobs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobPage {
    /// Newest first.
    jobs: Vec<JobView>,
    /// What to give as `before` for the next page; null when this was the last.
    next: Option<String>,
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobView {
    id: String,
    kind: String,
    lane: &'static str,
    key: Option<String>,
    state: &'static str,
    payload: Value,
    /// How many attempts were started since it was enqueued or retried.
    attempt: u32,
    cancel_requested: bool,
    /// The attempts that failed, oldest first.
    attempts: Vec<AttemptView>,
    /// When it may run.
    #[serde(with = "time::serde::rfc3339")]
    run_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    finished_at: Option<OffsetDateTime>,
}

/// One failed attempt.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AttemptView {
    attempt: u32,
    error: Failure,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    duration_ms: u64,
}

impl From<Job> for JobView {
    fn from(job: Job) -> Self {
        Self {
            lane: job.lane.as_str(),
            state: job.state.as_str(),
            attempts: job.attempts.into_iter().map(AttemptView::from).collect(),
            id: job.id,
            kind: job.kind,
            key: job.key,
            payload: job.payload,
            attempt: job.attempt,
            cancel_requested: job.cancel_requested,
            run_at: job.run_at,
            created_at: job.created_at,
            finished_at: job.finished_at,
        }
    }
}

impl From<AttemptRecord> for AttemptView {
    fn from(record: AttemptRecord) -> Self {
        let AttemptRecord { attempt, error, at, duration_ms } = record;
        Self { attempt, error: error.into(), at, duration_ms }
    }
}

/// The jobs of a project, newest first.
#[utoipa::path(get, path = "/api/v1/projects/{project}/jobs", tag = "jobs", security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ListJobs),
    responses((status = 200, body = JobPage), Problems))]
pub(super) async fn list(
    State(state): State<AppState>,
    Path(project): Path<String>,
    Params(query): Params<ListJobs>,
) -> Result<Json<JobPage>> {
    state.client.project(&project).await?;
    let job_state = query.state.as_deref().map(|name| job_state(name, "query_invalid"));
    let limit = page_size(query.limit)?;
    let filter = JobFilter {
        project: None,
        state: job_state.transpose()?,
        kind: query.kind,
        key: query.key,
        before: query.before,
        limit,
    };
    let jobs = state.client.jobs(&project, filter).await?;
    let next = (jobs.len() == limit).then(|| jobs.last().map(|job| job.id.clone())).flatten();
    Ok(Json(JobPage { jobs: jobs.into_iter().map(JobView::from).collect(), next }))
}

fn job_state(name: &str, code: &'static str) -> Result<JobState> {
    JobState::parse(name).ok_or_else(|| {
        let known = JobState::ALL.map(JobState::as_str).join(" ");
        Problem::invalid(code, "there is no such state of a job").with("known", known)
    })
}

/// How many to show on a page.
pub(super) fn page_size(limit: Option<usize>) -> Result<usize> {
    match limit.unwrap_or(100) {
        limit @ 1..=1000 => Ok(limit),
        _ => Err(Problem::invalid("query_invalid", "the limit is 1 to 1000")),
    }
}

/// One job, with the attempts that failed.
#[utoipa::path(get, path = "/api/v1/projects/{project}/jobs/{id}", tag = "jobs", security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    responses((status = 200, body = JobView), Problems))]
pub(super) async fn get(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
) -> Result<Json<JobView>> {
    Ok(Json(state.client.job(&project, &id).await?.into()))
}

/// Runs a failed, dead-lettered, cancelled or partial job again, with the same payload.
#[utoipa::path(post, path = "/api/v1/projects/{project}/jobs/{id}/retry", tag = "jobs", security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    responses((status = 202, body = JobView), Problems))]
pub(super) async fn retry(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
) -> Result<(StatusCode, Json<JobView>)> {
    Ok((StatusCode::ACCEPTED, Json(state.client.retry_job(&project, &id).await?.into())))
}

/// Cancels a job: at once if it waits, at its next safe point if it runs.
#[utoipa::path(post, path = "/api/v1/projects/{project}/jobs/{id}/cancel", tag = "jobs", security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    responses((status = 202, body = JobView), Problems))]
pub(super) async fn cancel(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
) -> Result<(StatusCode, Json<JobView>)> {
    Ok((StatusCode::ACCEPTED, Json(state.client.cancel_job(&project, &id).await?.into())))
}

/// Which jobs to run again, and how.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RetryMany {
    /// `failed`, `partial`, `dead_letter` or `cancelled`; the first three by default.
    state: Option<String>,
    /// Of this type, such as `issue_certificate`.
    kind: Option<String>,
    /// About this: a certificate's id for issuance, a run's id for distribution.
    key: Option<String>,
    /// Of this parent: a certificate's id for its distributions.
    parent: Option<String>,
    /// At most this many, the newest, 1 to 10000; 500 by default.
    #[schema(minimum = 1, maximum = 10000)]
    limit: Option<usize>,
    /// Each job waits a random share of this before it runs, 0 to 86400; 600 by default.
    #[schema(minimum = 0, maximum = 86400)]
    spread_seconds: Option<u64>,
    /// Only say what would be done.
    dry_run: bool,
}

/// What became of them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RetriedMany {
    /// How many run again, or would.
    retried: usize,
    /// How many were passed over, by reason, such as `superseded` or `job_active`.
    skipped: BTreeMap<String, usize>,
    /// Whether the limit was reached: there may be more.
    limited: bool,
}

/// Runs many jobs again that ended without success, spread over some time: after an outage. Of several about the same
/// thing only the newest; what runs again already is passed over.
#[utoipa::path(post, path = "/api/v1/projects/{project}/jobs/retry", tag = "jobs", security(("token" = [])),
    params(("project" = String, Path, description = "The project")),
    request_body = Option<RetryMany>,
    responses((status = 200, body = RetriedMany), Problems))]
pub(super) async fn retry_many(
    State(state): State<AppState>,
    Path(project): Path<String>,
    OptionalBody(body): OptionalBody<RetryMany>,
) -> Result<Json<RetriedMany>> {
    state.client.project(&project).await?;
    let job_state = body.state.as_deref().map(|name| job_state(name, "body_invalid")).transpose()?;
    let bulk = BulkRetry::default();
    let limit = body.limit.unwrap_or(bulk.limit);
    let spread = body.spread_seconds.map_or(bulk.spread, Duration::from_secs);
    if limit == 0 || limit > BulkRetry::LIMIT_MAX || spread > Duration::from_secs(86_400) {
        return Err(Problem::invalid("body_invalid", "the limit is 1 to 10000, the spread 0 to 86400 seconds"));
    }
    let filter = JobFilter { state: job_state, kind: body.kind, key: body.key, ..JobFilter::default() };
    let bulk = BulkRetry { limit, spread, parent: body.parent, dry_run: body.dry_run };
    let report = state.client.retry_jobs(&project, filter, bulk).await?;
    Ok(Json(RetriedMany { retried: report.done, skipped: report.skipped, limited: report.limited }))
}
