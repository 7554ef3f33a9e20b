//! What was asked of the simulator.

use super::state::Incoming;

/// One request, as it was answered. Bodies and tokens are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The HTTP method.
    pub method: String,
    /// The namespace of its header, empty without one.
    pub namespace: String,
    /// The path after `/v1/`.
    pub path: String,
    /// The query, empty without one.
    pub query: String,
    /// Whether it came with a token.
    pub with_token: bool,
    /// Whether the standby got it.
    pub standby: bool,
    /// The status of the answer; `None` when the connection was cut instead.
    pub status: Option<u16>,
}

impl Record {
    pub(super) fn of(received: &Incoming, standby: bool) -> Self {
        Self {
            method: received.method.clone(),
            namespace: received.namespace.clone(),
            path: received.path.clone(),
            query: received.query.clone(),
            with_token: received.token.is_some(),
            standby,
            status: None,
        }
    }
}
