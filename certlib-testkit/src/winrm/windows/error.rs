//! What Windows says when it does not do something.

use std::fmt;

/// Why an operation on the simulated Windows failed: the code that clients classify by, and the message of Windows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowsError {
    /// The `HRESULT`, such as `0x80070005`.
    pub code: u32,
    /// The .NET exception that PowerShell shows, such as `System.UnauthorizedAccessException`.
    pub exception: &'static str,
    /// The message, in English.
    pub message: String,
}

impl WindowsError {
    /// An error with any code.
    pub fn new(code: u32, exception: &'static str, message: impl Into<String>) -> Self {
        Self { code, exception, message: message.into() }
    }

    /// `0x80070002`: the file is not there.
    pub fn file_not_found(path: &str) -> Self {
        Self::new(0x8007_0002, "System.IO.FileNotFoundException", format!("Could not find file '{path}'."))
    }

    /// `0x80070003`: a directory on the way is not there.
    pub fn path_not_found(path: &str) -> Self {
        let message = format!("Could not find a part of the path '{path}'.");
        Self::new(0x8007_0003, "System.IO.DirectoryNotFoundException", message)
    }

    /// `0x80070005`: no rights, or a read-only file.
    pub fn access_denied(what: &str) -> Self {
        Self::new(0x8007_0005, "System.UnauthorizedAccessException", format!("Access to the path '{what}' is denied."))
    }

    /// `0x80070011`: a move or replacement across volumes.
    pub fn not_same_device(path: &str) -> Self {
        let message = format!("The system cannot move the file to a different disk drive. : '{path}'");
        Self::new(0x8007_0011, "System.IO.IOException", message)
    }

    /// `0x80070020`: somebody has the file open.
    pub fn sharing_violation(path: &str) -> Self {
        let message =
            format!("The process cannot access the file '{path}' because it is being used by another process.");
        Self::new(0x8007_0020, "System.IO.IOException", message)
    }

    /// `0x80070035`: the server of a share cannot be reached.
    pub fn network_path_not_found(path: &str) -> Self {
        Self::new(0x8007_0035, "System.IO.IOException", format!("The network path was not found. : '{path}'"))
    }

    /// `0x80070056`: a wrong password, or a PFX that this version of Windows cannot read.
    pub fn wrong_password() -> Self {
        let message = "The specified network password is not correct.";
        Self::new(0x8007_0056, "System.Security.Cryptography.CryptographicException", message)
    }

    /// `0x80070057`: a parameter that makes no sense.
    pub fn invalid_parameter(what: impl fmt::Display) -> Self {
        Self::new(0x8007_0057, "System.ArgumentException", format!("The parameter is incorrect. {what}"))
    }

    /// `0x80070070`: the volume is full.
    pub fn disk_full(path: &str) -> Self {
        Self::new(0x8007_0070, "System.IO.IOException", format!("There is not enough space on the disk. : '{path}'"))
    }

    /// `0x8007007B`: no path of Windows.
    pub fn invalid_name(path: &str) -> Self {
        let message = format!("The filename, directory name, or volume label syntax is incorrect. : '{path}'");
        Self::new(0x8007_007B, "System.IO.IOException", message)
    }

    /// `0x80070091`: a directory that is to be removed holds something.
    pub fn not_empty(path: &str) -> Self {
        Self::new(0x8007_0091, "System.IO.IOException", format!("The directory is not empty. : '{path}'"))
    }

    /// `0x800700B7`: it is there already.
    pub fn already_exists(what: &str) -> Self {
        let message = format!("Cannot create a file when that file already exists. : '{what}'");
        Self::new(0x8007_00B7, "System.IO.IOException", message)
    }

    /// `0x80070520`: the private key of the certificate is not where http.sys can use it.
    pub fn no_logon_session() -> Self {
        let message = "A specified logon session does not exist. It may already have been terminated.";
        Self::new(0x8007_0520, "System.Runtime.InteropServices.COMException", message)
    }

    /// `0x80070490`: no such element (certificate, site, binding, application pool, service).
    pub fn not_found(what: impl fmt::Display) -> Self {
        let message = format!("Cannot find {what}.");
        Self::new(0x8007_0490, "System.Management.Automation.ItemNotFoundException", message)
    }

    /// `0x8009000B`: the private key may not leave the store.
    pub fn not_exportable() -> Self {
        let message = "Key not valid for use in specified state.";
        Self::new(0x8009_000B, "System.Security.Cryptography.CryptographicException", message)
    }

    /// `0x80092002`: no certificate or PFX.
    pub fn bad_encoding() -> Self {
        let message = "An error occurred during encode or decode operation.";
        Self::new(0x8009_2002, "System.Security.Cryptography.CryptographicException", message)
    }
}

impl fmt::Display for WindowsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:08X})", self.message, self.code)
    }
}

impl std::error::Error for WindowsError {}

/// What every operation on the simulated Windows gives.
pub type WindowsResult<T> = Result<T, WindowsError>;

/// Failures that are to happen later: an operation looks here before it does anything.
#[derive(Clone, Debug, Default)]
pub(super) struct Trips(Vec<Trip>);

#[derive(Clone, Debug)]
struct Trip {
    /// The beginning of the operation's target, lower case; empty meets all.
    target: String,
    skip: u32,
    left: u32,
    error: WindowsError,
}

impl Trips {
    pub(super) fn set(&mut self, target: &str, skip: u32, times: u32, error: WindowsError) {
        self.0.push(Trip { target: target.to_lowercase(), skip, left: times, error });
    }

    /// Fails when the time for it has come.
    pub(super) fn check(&mut self, target: &str) -> WindowsResult<()> {
        let target = target.to_lowercase();
        let Some(trip) = self.0.iter_mut().find(|trip| trip.left > 0 && target.starts_with(&trip.target)) else {
            return Ok(());
        };
        if trip.skip > 0 {
            trip.skip -= 1;
            return Ok(());
        }
        trip.left -= 1;
        Err(trip.error.clone())
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_comes_after_so_many_and_ends_after_so_many() {
        let mut trips = Trips::default();
        trips.set("C:\\a", 1, 2, WindowsError::disk_full("C:\\a"));
        let outcomes: Vec<bool> = (0..4).map(|_| trips.check("c:\\A\\b").is_ok()).collect();
        assert_eq!(outcomes, [true, false, false, true]);
        trips.set("", 0, 1, WindowsError::disk_full("C:\\a"));
        trips.clear();
        assert!(trips.check("anything").is_ok());
    }
}
