//! What the Enterprise API answers.

use serde_json::{Value, json};

use crate::entrust::call::Answer;

/// Why a request is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) messages: Vec<String>,
}

/// How every handler ends.
pub(super) type Outcome = Result<Answer, Refusal>;

impl Refusal {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, messages: vec![message.into()] }
    }

    /// `400`, as most are.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    pub(super) fn not_found() -> Self {
        Self::new(404, "Resource not found")
    }
}

impl From<Refusal> for Answer {
    fn from(Refusal { status, messages }: Refusal) -> Self {
        let errors: Vec<Value> =
            messages.iter().map(|message| json!({ "message": message, "code": u32::from(status) * 10 })).collect();
        // Clients that send user and key only when they are asked wait for that.
        let challenges = status == 401;
        Answer { challenges, ..Answer::json(status, &json!({ "status": status, "errors": errors })) }
    }
}
