//! What was asked of the simulator.

use super::call::Call;

/// One request, as it was answered. Bodies, passwords and tokens are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The HTTP method.
    pub method: String,
    /// The path after `/mgmt/`; a token in it is a `*`.
    pub path: String,
    /// Whether it came with a token.
    pub with_token: bool,
    /// Whether it came with a user name and a password.
    pub with_basic: bool,
    /// The transaction it was for.
    pub coordination: Option<String>,
    /// The status of the answer; `None` when the connection was cut instead.
    pub status: Option<u16>,
}

impl Record {
    pub(super) fn of(call: &Call) -> Self {
        Self {
            method: call.method.clone(),
            path: call.shown_path(),
            with_token: call.token.is_some(),
            with_basic: call.basic.is_some(),
            coordination: call.coordination.clone(),
            status: None,
        }
    }
}
