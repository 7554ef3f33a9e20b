//! What runs inside: command lines of cmd.exe, and the little of PowerShell that is understood.

pub(super) mod clixml;
