//! What the simulator answers, in the shapes of iControl REST.

use serde_json::{Value, json};

/// The version that every link of the simulator carries.
pub(super) const VERSION: &str = "16.1.4";

/// A finished answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

/// Why a request is not carried out.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) message: String,
}

/// How every handler ends: the body of a `200`, or a refusal.
pub(super) type Outcome = Result<Value, Refusal>;

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok(body) => Self { status: 200, body },
            Err(refusal) => refusal.into(),
        }
    }
}

impl From<Refusal> for Answer {
    fn from(Refusal { status, message }: Refusal) -> Self {
        let body = if status == 401 {
            json!({
                "code": 401,
                "message": message,
                "originalRequestBody": null,
                "referer": "127.0.0.1",
                "restOperationId": 6_611_904,
                "kind": ":resterrorresponse",
            })
        } else {
            let api_error = if message.starts_with("transaction failed:") { 2 } else { 3 };
            json!({ "code": status, "message": message, "errorStack": [], "apiError": api_error })
        };
        Self { status, body }
    }
}

impl Refusal {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// `400` without an F5 code.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// `400` for a property that is missing or wrong.
    pub(super) fn property(message: &str) -> Self {
        Self::new(400, format!("01070734:3: Configuration error: {message}"))
    }

    /// `404` for an object.
    pub(super) fn absent(kind: &str, name: &str) -> Self {
        Self::new(404, format!("01020036:3: The requested {kind} ({name}) was not found."))
    }

    /// `409`.
    pub(super) fn exists(kind: &str, name: &str, partition: &str) -> Self {
        let message = format!("01020066:3: The requested {kind} ({name}) already exists in partition {partition}.");
        Self::new(409, message)
    }

    /// `400`: something else needs the object.
    pub(super) fn in_use(kind: &str, name: &str, user_kind: &str, user: &str) -> Self {
        let message = format!(
            "01070265:3: The {kind} ({name}) cannot be deleted because it is in use by a {user_kind} ({user})."
        );
        Self::new(400, message)
    }

    /// `404` for a path that nothing answers at.
    pub(super) fn no_route(path: &str) -> Self {
        Self::new(404, format!("Public URI path not registered: /mgmt/{path}"))
    }

    /// `401`: no login, or one that has ended.
    pub(super) fn unauthorized() -> Self {
        Self::new(
            401,
            "Authorization failed: no user authentication header or token detected. Uri:http://localhost:8100",
        )
    }

    /// `401`: a login that does not suffice.
    pub(super) fn denied(user: &str, method: &str, path: &str) -> Self {
        let message = format!(
            "Authorization failed: user=https://localhost/mgmt/shared/authz/users/{user} resource=/mgmt/{path} \
             verb={method} uri:http://localhost:8100/mgmt/{path}"
        );
        Self::new(401, message)
    }
}

/// The link to something below `/mgmt/`.
pub(super) fn link(path: &str) -> String {
    format!("https://localhost/mgmt/{path}?ver={VERSION}")
}
