//! What the simulator answers, in the shapes of the service.

use serde_json::{Value, json};

/// An answer, before it becomes HTTP.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Body,
    pub(super) headers: Vec<(&'static str, String)>,
}

/// What an answer carries.
#[derive(Debug)]
pub(super) enum Body {
    Empty,
    Json(Value),
    /// A certificate, or the page of a proxy.
    Raw {
        content_type: String,
        bytes: Vec<u8>,
    },
}

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: i64,
    pub(super) description: String,
}

/// How every handler ends.
pub(super) type Outcome = Result<Answer, Refusal>;

impl Answer {
    /// `200` with a body.
    pub(super) fn ok(body: Value) -> Self {
        Self::with(200, Body::Json(body))
    }

    /// A status alone.
    pub(super) fn empty(status: u16) -> Self {
        Self::with(status, Body::Empty)
    }

    /// A body under another status.
    pub(super) fn with(status: u16, body: Body) -> Self {
        Self { status, body, headers: Vec::new() }
    }

    /// One page of a list, and how many there are in all.
    pub(super) fn page(entries: Vec<Value>, total: usize) -> Self {
        Self::ok(entries.into()).header("x-total-count", total.to_string())
    }

    pub(super) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl Refusal {
    /// Any refusal.
    pub(super) fn new(status: u16, code: i64, description: impl Into<String>) -> Self {
        Self { status, code, description: description.into() }
    }

    /// `400`, as most are.
    pub(super) fn bad(code: i64, description: impl Into<String>) -> Self {
        Self::new(400, code, description)
    }

    /// A login that is not known, or whose password, customer, certificate or token is wrong.
    pub(super) fn unknown_user() -> Self {
        Self::new(401, -16, "Unknown user")
    }

    /// A path that the service does not have.
    pub(super) fn no_such_api() -> Self {
        Self::new(404, -1, "Resource not found")
    }

    /// A field that must be there and is not.
    pub(super) fn missing(field: &str) -> Self {
        Self::bad(-7, format!("{field} is required but missing."))
    }

    /// A field that says what it must not say.
    pub(super) fn invalid(field: &str) -> Self {
        Self::bad(-1601, format!("Field '{field}' has invalid value."))
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let body = json!({ "code": refusal.code, "description": refusal.description });
        Self::with(refusal.status, Body::Json(body))
    }
}
