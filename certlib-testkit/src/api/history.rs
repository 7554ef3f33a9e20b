//! What was asked of a simulator.

use time::OffsetDateTime;

/// One request, as it was answered. Bodies, keys and tokens are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The HTTP method.
    pub method: String,
    /// The path below the root of the API, such as `order/certificate/17`.
    pub path: String,
    /// The query, empty without one.
    pub query: String,
    /// The status of the answer; `None` when the connection was cut instead.
    pub status: Option<u16>,
    /// When the request came, by the simulator's clock.
    pub at: OffsetDateTime,
}
