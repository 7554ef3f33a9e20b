//! Jobs: look, retry, cancel.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use certlib_core::queue::{AttemptRecord, Job, JobFilter, JobState};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::views::Failure;
use crate::extract::Params;
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
    let job_state = query.state.as_deref().map(|name| {
        JobState::parse(name).ok_or_else(|| {
            let known = JobState::ALL.map(JobState::as_str).join(" ");
            Problem::invalid("query_invalid", "there is no such state of a job").with("known", known)
        })
    });
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
