//! What several resources show.

use axum::Json;
use axum::http::header::LOCATION;
use axum::http::{HeaderName, StatusCode};
use certlib_core::error::ErrorRecord;
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

/// 201 with the place of what was made.
pub(super) type Created<T> = (StatusCode, [(HeaderName, String); 1], Json<T>);

/// 201: `value`, at `location`.
pub(super) fn created<T>(location: String, value: T) -> Created<T> {
    (StatusCode::CREATED, [(LOCATION, location)], Json(value))
}

/// 202: the job `job_id` of `project` will do it.
pub(super) fn accepted(project: &str, job_id: String) -> Created<Accepted> {
    let location = format!("/api/v1/projects/{project}/jobs/{job_id}");
    (StatusCode::ACCEPTED, [(LOCATION, location)], Json(Accepted { job_id }))
}

/// The job that does what was asked.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Accepted {
    job_id: String,
}

/// Why something failed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Failure {
    /// What helps: `network` and `io_transient` may pass, `auth`, `validation` and `io_permanent` will not.
    class: &'static str,
    /// The exact cause, for programs.
    code: String,
    /// What was being done.
    operation: String,
    /// One line for people.
    message: String,
}

impl From<ErrorRecord> for Failure {
    fn from(error: ErrorRecord) -> Self {
        Self { class: error.class.as_str(), code: error.code, operation: error.operation, message: error.message }
    }
}

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventView {
    id: String,
    /// What, such as `certificate.issued`.
    kind: String,
    data: serde_json::Value,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
}

impl From<certlib_core::model::Event> for EventView {
    fn from(event: certlib_core::model::Event) -> Self {
        Self { id: event.id, kind: event.kind, data: event.data, at: event.at }
    }
}

/// What a type that is written as a word in JSON is called there.
pub(super) fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
