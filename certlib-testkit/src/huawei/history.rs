//! What was asked of the simulator.

/// One request, as it was answered. Bodies and signatures are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The HTTP method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The query, empty without one.
    pub query: String,
    /// The access key that the request names, empty without one.
    pub access_key: String,
    /// The status of the answer; `None` when the connection was cut instead.
    pub status: Option<u16>,
}
