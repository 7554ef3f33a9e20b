//! What was asked of the simulator.

use time::OffsetDateTime;

/// One request, as it was answered. Bodies, user names and keys are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The HTTP method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The query, empty without one.
    pub query: String,
    /// Whether it came with a user and a key.
    pub with_basic: bool,
    /// Whether it came with a client certificate.
    pub with_certificate: bool,
    /// The status of the answer; `None` when the connection was cut instead.
    pub status: Option<u16>,
    /// When it was answered, by the simulator's clock.
    pub at: OffsetDateTime,
}
