//! What the simulator answers, in the shapes of CertCentral.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use time::{OffsetDateTime, macros::format_description};

/// A finished answer.
#[derive(Debug)]
pub(super) enum Answer {
    /// A status and JSON.
    Json(u16, Value),
    /// `204`.
    Nothing,
    /// `200` with a file: its type and content.
    File(&'static str, Vec<u8>),
}

/// Why a request is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: u16,
    code: String,
    message: String,
}

/// How every handler ends.
pub(super) type Outcome = Result<Answer, Refusal>;

impl Refusal {
    pub(super) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into() }
    }

    /// `400`.
    pub(super) fn bad(code: &str, message: impl Into<String>) -> Self {
        Self::new(400, code, message)
    }

    /// `404` for an object, such as an `order`.
    pub(super) fn absent(kind: &str) -> Self {
        Self::new(404, &format!("not_found|{kind}"), format!("The specified {kind} was not found."))
    }

    /// `403`: a key that does not suffice.
    pub(super) fn denied() -> Self {
        Self::new(403, "access_denied|missing_permission", "The API key does not have permission to do this.")
    }

    /// The refusal with this status that has nothing to do with what was asked.
    pub(super) fn of_status(status: u16) -> Self {
        match status {
            401 => Self::new(401, "access_denied|invalid_api_key", "The API key is not valid."),
            403 => Self::denied(),
            429 => Self::new(429, "request_limit_exceeded", "Service unavailable, please limit request volume"),
            _ => Self::new(status, "internal_server_error", "An error occurred, please try again."),
        }
    }

    /// What was wrong, for whoever uses the simulator from Rust.
    pub(super) fn text(&self) -> String {
        format!("{} {}: {}", self.status, self.code, self.message)
    }
}

/// An outcome as HTTP.
pub(super) fn render(outcome: Outcome) -> Response<Bytes> {
    const JSON: &str = "application/json";

    let (status, kind, body) = match outcome {
        Ok(Answer::Json(status, body)) => (status, JSON, body.to_string().into_bytes()),
        Ok(Answer::Nothing) => (204, JSON, Vec::new()),
        Ok(Answer::File(kind, content)) => (200, kind, content),
        Err(Refusal { status, code, message }) => {
            (status, JSON, json!({ "errors": [{ "code": code, "message": message }] }).to_string().into_bytes())
        }
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A time as CertCentral writes it.
pub(super) fn moment(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]+00:00");
    at.to_offset(time::UtcOffset::UTC).format(format).unwrap_or_default()
}

/// A day as CertCentral writes it.
pub(super) fn day(at: OffsetDateTime) -> String {
    at.to_offset(time::UtcOffset::UTC).format(format_description!("[year]-[month]-[day]")).unwrap_or_default()
}
