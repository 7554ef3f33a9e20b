//! What the gateway answers.

use serde_json::{Value, json};

use crate::entrust::call::Answer;

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    code: &'static str,
    pub(super) message: String,
    target: String,
}

/// How every handler ends.
pub(super) type Outcome = Result<Value, Refusal>;

impl Refusal {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        let code = match status {
            400 => "invalid.request",
            401 | 403 => "access.denied",
            404 => "resource.not.found",
            409 => "conflict",
            429 => "too.many.requests",
            _ => "internal.error",
        };
        Self { status, code, message: message.into(), target: String::new() }
    }

    /// `400` because of a field.
    pub(super) fn bad(target: &str, message: impl Into<String>) -> Self {
        Self { target: target.to_owned(), ..Self::new(400, message) }
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::new(404, format!("{what} was not found"))
    }
}

impl From<Refusal> for Answer {
    fn from(Refusal { status, code, message, target }: Refusal) -> Self {
        let error = json!({ "code": code, "message": message, "target": target, "value": "" });
        Answer::json(status, &json!({ "type": "ErrorResponse", "message": told(&message), "error": error }))
    }
}

/// The `message` of every answer.
pub(super) fn told(message: &str) -> Value {
    json!({ "message": message, "details": [] })
}
