//! What was asked of the simulator.

use super::nitro::Call;

/// One request, as it was answered. Bodies, cookies and logins are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Which node got it: 0, or 1 for the peer.
    pub node: usize,
    /// The number of the connection it came on; each node counts its own, from 1.
    pub connection: u64,
    /// The HTTP method.
    pub method: String,
    /// Such as `sslcertkey`.
    pub resource: String,
    /// What was named behind the resource, empty if nothing was.
    pub name: String,
    /// The query as it was sent, empty without one.
    pub query: String,
    /// Whether the node was the primary one then.
    pub primary: bool,
    /// The status of the answer; `None` when the connection was cut instead.
    pub status: Option<u16>,
}

impl Record {
    pub(super) fn of(node: usize, connection: u64, primary: bool, call: &Call) -> Self {
        Self {
            node,
            connection,
            method: call.method.as_str().to_owned(),
            resource: call.resource.clone(),
            name: call.name.clone().unwrap_or_default(),
            query: call.query.clone(),
            primary,
            status: None,
        }
    }

    /// Whether it was to change the configuration or a file; logging in and out, and going to a partition, are not.
    pub fn is_change(&self) -> bool {
        self.method != "GET" && !matches!(self.resource.as_str(), "login" | "logout" | "nspartition")
    }
}
