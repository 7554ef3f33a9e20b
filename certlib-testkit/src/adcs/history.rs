//! What was asked of the simulator.

use super::{fault::Operation, hresult::Hresult};

/// One HTTP request, as it was answered. Bodies and credentials are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The number of the connection.
    pub connection: u64,
    /// The HTTP method.
    pub method: String,
    /// The path, decoded.
    pub path: String,
    /// What it asked for.
    pub operation: Operation,
    /// Who asked; `None` when nobody was logged in.
    pub user: Option<String>,
    /// How the user logged in: `Basic`, `NTLM`, `Negotiate`, `Certificate` or `UsernameToken`.
    pub scheme: Option<&'static str>,
    /// The request id that it is about.
    pub request_id: Option<u32>,
    /// The status of the answer; `None` when the connection was cut instead.
    pub status: Option<u16>,
    /// The code of the error in the answer.
    pub code: Option<Hresult>,
}
