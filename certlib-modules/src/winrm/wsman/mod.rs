//! A client of WS-Management, as far as running commands on a Windows machine needs it.
//!
//! A [`Client`] holds one connection, one shell, and runs one command after the other. Over `http` every message is
//! encrypted by the login's own means (NTLM or Kerberos); over `https` TLS does that, and the login is bound to it.
//! Scripts and data go in by standard input, never on a command line, which other users of the machine could see.
//!
//! After MS-WSMV, MS-WSTIM and MS-NLMP.

mod auth;
mod channel;
mod envelope;
mod fault;
mod login;
mod powershell;
mod seal;
mod session;
mod shell;
mod wire;
mod xml;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::{Error, ErrorClass, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use self::envelope::Header;
pub use self::login::Login;
pub(crate) use self::powershell::COMMAND_LINE_MAX;
use self::session::Session;
use self::shell::{Job, Shell};
use crate::files::{CommandOutput, Ended, OUTPUT_LIMIT};
use crate::net::{Connection, Guard, HttpUrl, Lookup};

/// What is started to run a script that comes in by standard input.
const BOOTSTRAP: &str = include_str!("../scripts/bootstrap.ps1");

/// What the answer of a script starts with.
const MARK: &str = "certlib:";

/// The most that a script may answer, in bytes.
const SCRIPT_OUTPUT: usize = 16 * 1024 * 1024;

const OPERATION: &str = "winrm.script";

/// How to speak WS-Management. Everything has a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct WsmanSettings {
    /// How long the machine may hold a request back before it answers that nothing happened, in milliseconds; from
    /// 500 to 60 000. Default 20 000.
    pub operation_timeout_ms: u64,
    /// How long one step on the machine may take, in milliseconds; at most one hour. Default 120 000.
    pub script_timeout_ms: u64,
    /// The largest message, in KiB: at most the machine's `MaxEnvelopeSizekb`. Default 150, which every Windows takes.
    pub max_envelope_kb: usize,
}

impl Default for WsmanSettings {
    fn default() -> Self {
        Self { operation_timeout_ms: 20_000, script_timeout_ms: 120_000, max_envelope_kb: 150 }
    }
}

impl WsmanSettings {
    /// Checks the limits.
    ///
    /// # Errors
    /// `Validation`: `timeout_invalid`, `envelope_invalid`.
    pub fn check(&self) -> Result<()> {
        let invalid = |code: &'static str, field: &str, why: &str| {
            Err(Error::validation("winrm.check", code, why).with("field", field))
        };
        if !(500..=60_000).contains(&self.operation_timeout_ms) {
            return invalid("timeout_invalid", "wsman.operation_timeout_ms", "it is from 500 to 60000 milliseconds");
        }
        if !(1..=3_600_000).contains(&self.script_timeout_ms) {
            return invalid("timeout_invalid", "wsman.script_timeout_ms", "it is from 1 millisecond to one hour");
        }
        if !(16..=2_048).contains(&self.max_envelope_kb) {
            return invalid("envelope_invalid", "wsman.max_envelope_kb", "an envelope is from 16 to 2048 KiB");
        }
        Ok(())
    }
}

/// Where a machine is, and how to get there: all that a [`Client`] borrows.
#[derive(Debug)]
pub(crate) struct Reach {
    url: HttpUrl,
    guard: Guard,
}

impl Reach {
    /// Checks `url` and `connection`.
    ///
    /// # Errors
    /// As [`Connection::check`]; `Validation` `insecure_unsupported`.
    pub(crate) fn new(url: &str, connection: &Connection, lookup: Arc<dyn Lookup>) -> Result<Self> {
        let url = check(url, connection)?;
        Ok(Self { url, guard: Guard::with_lookup(connection.addresses.clone(), lookup) })
    }
}

/// Checks `url` and `connection`.
///
/// # Errors
/// As [`Connection::check`]; `Validation` `insecure_unsupported`.
pub(crate) fn check(url: &str, connection: &Connection) -> Result<HttpUrl> {
    let url = connection.check(url)?;
    if !connection.tls.verifies() {
        return Err(Error::validation(
            "winrm.check",
            "insecure_unsupported",
            "a machine whose certificate is not verified is not logged in to; put its issuer into `tls.ca_pem`",
        ));
    }
    Ok(url)
}

/// Runs scripts and commands on one machine, one after the other.
#[derive(Debug)]
pub(crate) struct Client<'a> {
    shell: Shell<'a>,
    script_timeout: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer<T> {
    Ok(T),
    Error(ScriptError),
}

/// What a script died of.
#[derive(Deserialize)]
struct ScriptError {
    code: String,
    #[serde(rename = "type")]
    kind: String,
    hresult: i64,
}

impl<'a> Client<'a> {
    /// A client that connects when the first command needs it.
    pub(crate) fn new(
        reach: &'a Reach,
        connection: &'a Connection,
        settings: &WsmanSettings,
        login: &'a Login,
    ) -> Self {
        let max_envelope = settings.max_envelope_kb * 1024;
        let session = Session::new(&reach.url, &reach.guard, connection, login, max_envelope * 2 + 64 * 1024);
        let header = Header {
            to: reach.url.as_url().as_str().to_owned(),
            session: Uuid::new_v4(),
            max_envelope,
            operation_timeout: Duration::from_millis(settings.operation_timeout_ms),
        };
        let grace = Duration::from_millis(connection.timeouts.response_ms);
        Self {
            shell: Shell::new(session, header, grace),
            script_timeout: Duration::from_millis(settings.script_timeout_ms),
        }
    }

    /// Runs a script of ours with `input`, and reads what it answers.
    ///
    /// # Errors
    /// As the connection; `IoTransient` `command_timeout`, `answer_lost`; what the script died of, by its type:
    /// `permission_denied`, `directory_missing`, `file_in_use`, `disk_full`, .. and `script_failed` for the rest.
    pub(crate) async fn script<T: DeserializeOwned>(&mut self, script: &str, input: &impl Serialize) -> Result<T> {
        // A struct of strings and numbers always encodes.
        let input = Zeroizing::new(serde_json::to_vec(input).unwrap_or_default());
        let data = Zeroizing::new(STANDARD.encode(&*input));
        let lines = Zeroizing::new(format!("{}\n{}\n", STANDARD.encode(script), data.as_str()));
        let arguments = powershell::arguments(BOOTSTRAP);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let job = Job {
            command: "powershell.exe",
            arguments: &arguments,
            input: Some(lines.as_bytes()),
            keep: SCRIPT_OUTPUT,
            limit: self.script_timeout,
        };
        let output = self.shell.run(job).await?;
        let text = Zeroizing::new(String::from_utf8_lossy(&output.stdout).into_owned());
        let line = text.lines().rev().find_map(|line| line.trim().strip_prefix(MARK));
        let Some(line) = line.filter(|_| !output.truncated) else {
            return Err(self.silent(output.ended, &output.stderr));
        };
        let json = Zeroizing::new(STANDARD.decode(line.trim()).map_err(|_| lost())?);
        match serde_json::from_slice(&json) {
            Ok(Answer::Ok(answer)) => Ok(answer),
            Ok(Answer::Error(error)) => Err(error.into_error()),
            Err(_) => {
                Err(Error::permanent(OPERATION, "answer_invalid", "a step on the machine answered something else"))
            }
        }
    }

    /// Has `cmd.exe` run a command line; ends it after `limit`.
    ///
    /// # Errors
    /// As the connection. See [`CommandOutput`] for the rest.
    pub(crate) async fn command(&mut self, line: &str, limit: Duration) -> Result<CommandOutput> {
        let job = Job { command: line, arguments: &[], input: None, keep: OUTPUT_LIMIT, limit };
        let output = self.shell.run(job).await?;
        let stderr = powershell::readable(&output.stderr).into_bytes();
        Ok(CommandOutput::new(output.ended, output.stdout.to_vec(), stderr))
    }

    /// Closes the shell and the connection.
    pub(crate) async fn close(self) {
        self.shell.close().await;
    }

    /// A script ended without an answer.
    fn silent(&self, ended: Ended, stderr: &[u8]) -> Error {
        if !stderr.is_empty() {
            // Of the machine's own scripts or of PowerShell itself; it may repeat input, so it stays out of errors.
            tracing::debug!(bytes = stderr.len(), "a step on the machine wrote to standard error");
        }
        match ended {
            Ended::TimedOut => {
                Error::transient(OPERATION, "command_timeout", "a step on the machine did not end in time")
            }
            Ended::Exited(code) if code != 0 => Error::permanent(
                OPERATION,
                "powershell_failed",
                "PowerShell did not run a step to its end; is version 3 or later there, and are scripts allowed?",
            )
            .with("exit", code),
            _ => lost(),
        }
    }
}

fn lost() -> Error {
    Error::transient(OPERATION, "answer_lost", "what a step on the machine answered was lost on the way")
}

impl ScriptError {
    /// By the codes of our own scripts, then by the number and the type that .NET gives; never by text.
    fn into_error(self) -> Error {
        // .NET shows 32 bits with a sign.
        let number = u32::try_from(self.hresult & 0xFFFF_FFFF).unwrap_or_default();
        let (class, code, message): (_, &str, _) = match (self.code.as_str(), number, self.kind.as_str()) {
            ("binding_missing", ..) => (ErrorClass::Validation, "binding_missing", "IIS has no such binding any more"),
            ("endpoint_refused", ..) => {
                (ErrorClass::IoPermanent, "endpoint_refused", "http.sys does not take the certificate for an endpoint")
            }
            ("unreadable", ..) | (_, 0x8007_0005, _) | (_, _, "System.UnauthorizedAccessException") => {
                (ErrorClass::IoPermanent, "permission_denied", "the login has no permission for this on the machine")
            }
            (_, 0x8007_0003, _) => (ErrorClass::Validation, "directory_missing", "there is no such directory"),
            (_, 0x8007_0002, _) => (ErrorClass::Validation, "path_missing", "there is no such file"),
            (_, 0x8007_0020 | 0x8007_0021, _) => {
                (ErrorClass::IoTransient, "file_in_use", "another program has the file open")
            }
            (_, 0x8007_0027 | 0x8007_0070, _) => (ErrorClass::IoPermanent, "disk_full", "the disk is full"),
            (_, 0x8007_0050 | 0x8007_00B7, _) => (ErrorClass::IoPermanent, "already_exists", "it is there already"),
            (_, 0x8007_0056, _) => (
                ErrorClass::IoPermanent,
                "pfx_refused",
                "Windows cannot open the PKCS#12 container; before build 17763 it needs the profile `legacy`",
            ),
            (_, 0x8007_0520, _) => (
                ErrorClass::IoTransient,
                "key_not_ready",
                "Windows does not find the private key of the certificate that it was given",
            ),
            (_, 0x8009_0016, _) => {
                (ErrorClass::IoPermanent, "key_missing_on_target", "the private key on the machine is gone")
            }
            _ => (ErrorClass::IoPermanent, "script_failed", "a step on the machine failed"),
        };
        let kind: String = self.kind.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').take(120).collect();
        let own: String = self.code.chars().filter(|c| c.is_ascii_lowercase() || *c == '_').take(40).collect();
        let error = Error::new(class, OPERATION, code.to_owned(), message)
            .with("type", kind)
            .with("hresult", format!("{number:#010x}"));
        if own.is_empty() { error } else { error.with("reason", own) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bootstrap_fits_on_a_command_line() {
        let line = format!("powershell.exe {}", powershell::arguments(BOOTSTRAP).join(" "));
        assert!(line.len() < COMMAND_LINE_MAX, "{}", line.len());
    }

    #[test]
    fn what_scripts_die_of_is_told_by_numbers() {
        let code = |code: &str, kind: &str, hresult: u32| {
            let hresult = i64::from(hresult.cast_signed());
            let error = ScriptError { code: code.into(), kind: kind.into(), hresult }.into_error();
            (error.code().to_owned(), error.class())
        };
        let permanent = ErrorClass::IoPermanent;
        assert_eq!(
            code("", "System.UnauthorizedAccessException", 0x8007_0005),
            ("permission_denied".into(), permanent)
        );
        assert_eq!(code("", "System.IO.IOException", 0x8007_0020), ("file_in_use".into(), ErrorClass::IoTransient));
        assert_eq!(code("", "System.IO.IOException", 0x8007_0070), ("disk_full".into(), permanent));
        assert_eq!(code("binding_missing", "x", 0x8013_1501), ("binding_missing".into(), ErrorClass::Validation));
        assert_eq!(code("", "System.Exception", 0x8013_1500), ("script_failed".into(), permanent));
    }

    #[test]
    fn settings_have_limits() {
        WsmanSettings::default().check().unwrap();
        for (json, code) in [
            (r#"{"operation_timeout_ms": 499}"#, "timeout_invalid"),
            (r#"{"script_timeout_ms": 0}"#, "timeout_invalid"),
            (r#"{"max_envelope_kb": 1}"#, "envelope_invalid"),
        ] {
            let settings: WsmanSettings = serde_json::from_str(json).unwrap();
            assert_eq!(settings.check().unwrap_err().code(), code);
        }
        assert!(serde_json::from_str::<WsmanSettings>(r#"{"timeout": 1}"#).is_err());
    }
}
