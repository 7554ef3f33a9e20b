//! What the simulator answers, in the shapes of the services.

use serde_json::{Value, json};

/// An answer, before it becomes HTTP.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Option<Value>,
    pub(super) retry_after: Option<u64>,
}

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
    shape: Shape,
}

/// How an error is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// `error_code` and `error_msg`.
    Flat,
    /// The same under `error`.
    Nested,
}

/// How every handler ends.
pub(super) type Outcome = Result<Answer, Refusal>;

impl Answer {
    /// `200` with a body.
    pub(super) fn ok(body: Value) -> Self {
        Self::with(200, body)
    }

    /// A body under another status.
    pub(super) fn with(status: u16, body: Value) -> Self {
        Self { status, body: Some(body), retry_after: None }
    }

    /// A status alone.
    pub(super) fn empty(status: u16) -> Self {
        Self { status, body: None, retry_after: None }
    }
}

impl Refusal {
    /// In the words of the gateway.
    pub(super) fn gateway(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), shape: Shape::Flat }
    }

    /// In the words of the certificate manager, load balancers and firewall.
    pub(super) fn flat(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self::gateway(status, code, message)
    }

    /// In the words of the delivery network.
    pub(super) fn nested(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { shape: Shape::Nested, ..Self::flat(status, code, message) }
    }

    /// A path that no service has.
    pub(super) fn no_such_api() -> Self {
        Self::gateway(404, "APIGW.0101", "The API does not exist or has not been published in the environment")
    }

    pub(super) fn answer(self, request_id: &str) -> Answer {
        let Self { status, code, message, shape } = self;
        let body = match shape {
            Shape::Flat => json!({ "error_code": code, "error_msg": message, "request_id": request_id }),
            Shape::Nested => json!({ "error": { "error_code": code, "error_msg": message } }),
        };
        Answer::with(status, body)
    }
}
