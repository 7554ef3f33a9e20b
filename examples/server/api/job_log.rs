//! The logs of jobs: page by page, or as they grow.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use certlib_core::model::{JobLogLine, LogPosition};
use futures::{Stream, StreamExt as _, future, stream};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::jobs::page_size;
use super::views::word;
use crate::extract::Params;
use crate::problem::{Problem, Problems, Result};

/// How often a silent stream says that it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which lines to show.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReadLog {
    /// Only lines after this one: its position, such as `3-17`.
    after: Option<String>,
    /// At most this many, 1 to 1000; 100 by default.
    limit: Option<usize>,
}

/// Where to begin.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FollowLog {
    /// Only lines after this one. The header `Last-Event-ID`, which browsers send when they reconnect, wins.
    after: Option<String>,
}

/// One page of a log.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogPage {
    /// Oldest first.
    lines: Vec<LogLineView>,
    /// What to give as `after` for the next page; null when there is none yet.
    next: Option<String>,
}

/// One line of a log.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogLineView {
    /// Where it stands in the log.
    position: String,
    /// The attempt it is about.
    attempt: u32,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// `info`, `warn` or `error`.
    level: String,
    message: String,
}

impl From<JobLogLine> for LogLineView {
    fn from(line: JobLogLine) -> Self {
        Self {
            position: line.position.to_string(),
            attempt: line.attempt,
            at: line.at,
            level: word(line.level),
            message: line.message,
        }
    }
}

/// What a job said while it ran.
#[utoipa::path(get, path = "/api/v1/projects/{project}/jobs/{id}/log", tag = "jobs", security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id"), ReadLog),
    responses((status = 200, body = LogPage), Problems))]
pub(super) async fn read(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
    Params(query): Params<ReadLog>,
) -> Result<Json<LogPage>> {
    let limit = page_size(query.limit)?;
    let after = position(query.after.as_deref())?;
    let lines = state.client.job_log(&project, &id, after, limit).await?;
    let next = (lines.len() == limit).then(|| lines.last().map(|line| line.position.to_string())).flatten();
    Ok(Json(LogPage { lines: lines.into_iter().map(LogLineView::from).collect(), next }))
}

/// What a job says while it runs, as server-sent events: `line` with a line of the log, its position as the id, and
/// `end` when the job has ended. Who reconnects goes on where they stopped.
#[utoipa::path(get, path = "/api/v1/projects/{project}/jobs/{id}/log/stream", tag = "jobs", security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id"), FollowLog),
    responses(
        (status = 200, description = "A stream of lines", content_type = "text/event-stream", body = LogLineView),
        Problems
    ))]
pub(super) async fn follow(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
    Params(query): Params<FollowLog>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let after = position(last.or(query.after.as_deref()))?;
    // Before the stream begins, errors are answers like any other.
    state.client.job(&project, &id).await?;
    let permit = state.streams.clone().try_acquire_owned().map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", "too many logs are being followed")
    })?;
    let lines = state.client.follow_job_log(&project, &id, after);
    // The end of the log, unless it was cut short: then whoever reads it should come back.
    let lines = lines.map(Some).chain(stream::once(future::ready(None)));
    let events = lines.scan(false, |failed, line| {
        let event = match line {
            Some(Ok(line)) => Some(line_event(line)),
            Some(Err(error)) => {
                tracing::warn!(error = ?error, "cannot go on following a log");
                *failed = true;
                None
            }
            None => (!*failed).then(|| Event::default().event("end").data("{}")),
        };
        future::ready(event)
    });
    let events = events.take_until(state.stopping.clone().cancelled_owned()).map(move |event| {
        // As long as the stream lives.
        let _ = &permit;
        Ok(event)
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn line_event(line: JobLogLine) -> Event {
    let position = line.position.to_string();
    let data = serde_json::to_string(&LogLineView::from(line)).unwrap_or_default();
    Event::default().event("line").id(position).data(data)
}

fn position(text: Option<&str>) -> Result<Option<LogPosition>> {
    Ok(text.filter(|text| !text.is_empty()).map(str::parse).transpose()?)
}
