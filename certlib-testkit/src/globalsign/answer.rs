//! What the simulator answers, in the shapes of HVCA.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

/// A finished answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    status: u16,
    body: Option<Value>,
    location: Option<String>,
    total: Option<usize>,
}

/// Why a request is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: u16,
    description: String,
}

/// How every handler ends.
pub(super) type Outcome = Result<Answer, Refusal>;

impl Answer {
    /// `200` with a body.
    pub(super) fn ok(body: Value) -> Self {
        Self { status: 200, body: Some(body), ..Self::default() }
    }

    /// A status alone.
    pub(super) fn empty(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// `201` for something that is at this place from now on.
    pub(super) fn created(location: String, body: Option<Value>) -> Self {
        Self { status: 201, body, location: Some(location), ..Self::default() }
    }

    /// One page of so many things.
    pub(super) fn page(items: Vec<Value>, total: usize) -> Self {
        Self { total: Some(total), ..Self::ok(Value::Array(items)) }
    }
}

impl Refusal {
    pub(super) fn new(status: u16, description: impl Into<String>) -> Self {
        Self { status, description: description.into() }
    }

    /// `422`: against the policy, or the state of things.
    pub(super) fn unfit(description: impl Into<String>) -> Self {
        Self::new(422, description)
    }

    /// `404`.
    pub(super) fn absent(kind: &str) -> Self {
        Self::new(404, format!("{kind} not found"))
    }

    /// The refusal with this status that has nothing to do with what was asked.
    pub(super) fn of_status(status: u16) -> Self {
        let description = match status {
            401 => "unauthorized",
            403 => "forbidden",
            429 => "too many requests",
            503 => "service temporarily unavailable",
            _ => "internal error",
        };
        Self::new(status, description)
    }
}

/// An outcome as HTTP.
pub(super) fn render(outcome: Outcome) -> Response<Bytes> {
    let (kind, answer) = match outcome {
        Ok(answer) => ("application/json;charset=utf-8", answer),
        Err(Refusal { status, description }) => {
            let body = Some(json!({ "description": description }));
            ("application/problem+json", Answer { status, body, ..Answer::default() })
        }
    };
    let has_body = answer.body.is_some();
    let body = answer.body.map(|body| body.to_string()).unwrap_or_default();
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if has_body {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    if let Some(location) = answer.location.and_then(|location| HeaderValue::from_str(&location).ok()) {
        headers.insert(header::LOCATION, location);
    }
    if let Some(total) = answer.total {
        headers.insert("total-count", HeaderValue::from(total));
    }
    response
}
