//! Delivery of certificates as files, written once for every kind of machine that has files and a shell.
//!
//! A module brings a [`FileSystem`] and a [`Delivery`] (what to put where) and gets the four operations of a
//! [`DistributionModule`](certlib_core::module::DistributionModule):
//!
//! - [`Delivery::plan`] looks at every path and says what would change.
//! - [`Delivery::execute`] records the former files, writes the new ones beside them, renames them into place close
//!   together, runs the test command, then the reload command, gives the certificate to a [`Haproxy`], and asks at last
//!   whether the service is well. At every moment each path holds the old file or the new one, whole. After a crash it goes on
//!   where it stopped; it never records its own files as the former ones.
//! - [`Delivery::probe`] and [`Delivery::read_back`] prove that the new certificate is served, or at least in place.
//! - [`Delivery::rollback`] puts the former files back, and refuses when somebody else changed them meanwhile.

mod apply;
mod command;
mod filesystem;
pub(crate) mod formats;
mod haproxy;
mod layout;
mod owner;
mod path;
pub(crate) mod pfx;
mod plan;
mod rollback;
mod survey;
#[cfg(test)]
pub(crate) mod testing;
mod undo;
mod validate;

use std::time::Duration;

use certlib_core::secret::SecretString;
use certlib_core::{Error, Result};
use serde::Deserialize;

pub use self::command::{CommandOutput, Ended, OUTPUT_LIMIT, capture, quote};
pub use self::filesystem::{ANSWER_LIMIT, Attributes, FileState, FileSystem, Found, Replaced};
pub use self::haproxy::{Commit, Haproxy};
pub use self::layout::{Format, Layout, Mode, Output, Paths};
pub use self::pfx::{PfxOptions, PfxProfile};
pub use self::undo::{Change, Former, New, Swap, Undo};
#[cfg(feature = "winrm")]
pub(crate) use self::validate::verdict;
use crate::probe::Endpoint;

/// The largest file that is replaced, in bytes: what was there has to fit into the journal.
pub const FILE_LIMIT: usize = 1024 * 1024;

/// The longest time a command may be given.
const MAX_COMMAND_TIMEOUT: Duration = Duration::from_secs(3600);

/// How to deliver: the part of a configuration that `ssh` and `file` have in common.
///
/// Commands come from configuration alone; nothing of a certificate ever becomes part of one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Settings {
    /// Checks the service's configuration, such as `nginx -t`; run before every reload.
    pub test_command: Option<String>,
    /// Makes the service read its files again, such as `systemctl reload nginx`.
    pub reload_command: Option<String>,
    /// Asks the service whether it is well, such as `systemctl is-active nginx`; run last, after a rollback, too. A
    /// delivery whose check fails has failed, and is taken back.
    pub after_reload_check: Option<String>,
    /// How long a command, or an answer of HAProxy, may take, in milliseconds. A command that takes longer counts as
    /// failed and is stopped; a remote host may let it run on.
    pub command_timeout_ms: u64,
    /// The HAProxy to which the certificate is given at once, after the reload command if there is one, too.
    pub haproxy: Option<Haproxy>,
    /// Where the certificate must be served afterwards. Without any, validation reads the files back.
    pub endpoints: Vec<Endpoint>,
    /// How PKCS#12 files are made.
    pub pfx: PfxOptions,
}

impl Default for Settings {
    /// No commands, no HAProxy, no endpoints; 60 s for a command.
    fn default() -> Self {
        Self {
            test_command: None,
            reload_command: None,
            after_reload_check: None,
            command_timeout_ms: 60_000,
            haproxy: None,
            endpoints: Vec::new(),
            pfx: PfxOptions::default(),
        }
    }
}

/// What is to be delivered to one target, and how.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Delivery<'a> {
    /// The kind of the module.
    pub module: &'static str,
    /// The target's name, for plans.
    pub target: &'a str,
    /// Which machine it is: what the journal recorded on one must not be undone on another.
    pub machine: &'a str,
    /// Which files.
    pub layout: &'a Layout,
    /// Which commands and endpoints.
    pub settings: &'a Settings,
    /// The password of PKCS#12 files.
    pub pfx_password: Option<&'a SecretString>,
}

impl<'a> Delivery<'a> {
    /// A delivery by the module `module` to the target named `target`, without a password for PKCS#12 files.
    pub fn new(
        module: &'static str,
        target: &'a str,
        machine: &'a str,
        layout: &'a Layout,
        settings: &'a Settings,
    ) -> Self {
        Self { module, target, machine, layout, settings, pfx_password: None }
    }

    /// Sets the password of PKCS#12 files.
    #[must_use]
    pub fn with_pfx_password(mut self, password: Option<&'a SecretString>) -> Self {
        self.pfx_password = password;
        self
    }

    /// Checks everything that can be checked without looking at the target.
    ///
    /// # Errors
    /// `Validation`: as [`Layout::check`]; `pfx_password_missing`, `command_invalid`, `timeout_invalid`,
    /// `endpoint_invalid`, `haproxy_needs_combined`, `haproxy_name_invalid`.
    pub fn check(&self) -> Result<()> {
        self.layout.check()?;
        if self.layout.paths.pfx.is_some() && self.pfx_password.is_none() {
            return Err(Error::validation(
                "files.check",
                "pfx_password_missing",
                "a PKCS#12 file needs `pfx_password` in the credentials of the target",
            ));
        }
        let settings = self.settings;
        let commands = [
            ("test_command", &settings.test_command),
            ("reload_command", &settings.reload_command),
            ("after_reload_check", &settings.after_reload_check),
        ];
        for (field, command) in commands {
            if let Some(command) = command {
                command::check(command).map_err(|error| error.with("field", field))?;
            }
        }
        if self.command_timeout().is_zero() || self.command_timeout() > MAX_COMMAND_TIMEOUT {
            return Err(Error::validation(
                "files.check",
                "timeout_invalid",
                "a command may take between 1 ms and one hour",
            )
            .with("field", "command_timeout_ms"));
        }
        self.check_haproxy()?;
        settings.endpoints.iter().try_for_each(Endpoint::check)
    }

    fn command_timeout(&self) -> Duration {
        Duration::from_millis(self.settings.command_timeout_ms)
    }

    fn pfx(&self) -> formats::PfxInput<'a> {
        formats::PfxInput { options: self.settings.pfx, password: self.pfx_password }
    }
}

/// SHA-256, lower-case hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
