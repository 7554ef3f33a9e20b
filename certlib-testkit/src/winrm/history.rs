//! What was asked of the simulator, and what ran inside.

use super::{fault::Operation, script::Marker};

/// One HTTP request, as it was answered. Bodies and credentials are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Whether it came over TLS.
    pub https: bool,
    /// The number of the connection among those of its listener.
    pub connection: u64,
    /// What it asked for.
    pub operation: Operation,
    /// Who asked; `None` when nobody was logged in.
    pub user: Option<String>,
    /// How the user logged in: `Basic`, `NTLM`, `Negotiate` or `Certificate`.
    pub scheme: Option<&'static str>,
    /// Whether the message was encrypted beyond TLS.
    pub sealed: bool,
    /// The status of the answer; `None` when the connection was cut instead.
    pub status: Option<u16>,
    /// The code of the fault in the answer.
    pub fault: Option<u32>,
}

/// One command that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Executed {
    /// The command line, as `ps` and the event log show it.
    pub command_line: String,
    /// The PowerShell script, decoded.
    pub script: Option<String>,
    /// How the script names itself.
    pub marker: Option<Marker>,
    /// How many bytes came on standard input. What they were is not kept.
    pub stdin: usize,
    /// Who ran it.
    pub user: String,
    /// How it ended.
    pub exit_code: i32,
}
