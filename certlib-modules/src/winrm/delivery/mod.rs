//! Delivery as files of a Windows machine: the twin of [`files`](crate::files), with access lists in place of modes.

mod apply;
mod plan;
mod rollback;
mod survey;
mod undo;
mod validate;

use std::time::Duration;

use certlib_core::secret::SecretString;
use certlib_core::{Error, Result};

pub(crate) use self::apply::Recorder;
pub use self::undo::{Change, Former, New, Swap, Undo};
use super::layout::{self, WindowsOutput};
use super::wsman::COMMAND_LINE_MAX;
use crate::files::formats::PfxInput;
use crate::files::{Format, PfxOptions};
use crate::probe::Endpoint;

/// The longest time a command may be given.
const MAX_COMMAND_TIMEOUT: Duration = Duration::from_secs(3600);

/// Which commands are run around a swap.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Commands<'a> {
    pub(crate) test: Option<&'a str>,
    pub(crate) reload: Option<&'a str>,
    pub(crate) limit: Duration,
}

/// What is to be delivered to one machine, and how.
#[derive(Debug, Clone)]
pub(crate) struct Delivery<'a> {
    /// The kind of the module.
    pub(crate) module: &'static str,
    /// The target's name, for plans.
    pub(crate) target: &'a str,
    /// Which machine it is.
    pub(crate) machine: String,
    /// Which files, in the order in which they are swapped.
    pub(crate) outputs: Vec<(Format, &'a WindowsOutput)>,
    /// A directory that no path may leave.
    pub(crate) root: Option<&'a str>,
    pub(crate) commands: Commands<'a>,
    pub(crate) endpoints: &'a [Endpoint],
    pub(crate) pfx: PfxOptions,
    pub(crate) pfx_password: Option<&'a SecretString>,
}

impl<'a> Delivery<'a> {
    /// Checks everything that can be checked without looking at the machine.
    ///
    /// # Errors
    /// `Validation`: as [`layout::check`]; `pfx_password_missing`, `command_invalid`, `timeout_invalid`,
    /// `endpoint_invalid`.
    pub(crate) fn check(&self) -> Result<()> {
        layout::check(&self.outputs, self.root)?;
        if self.outputs.iter().any(|(format, _)| *format == Format::Pfx) && self.pfx_password.is_none() {
            return Err(Error::validation(
                "winrm.check",
                "pfx_password_missing",
                "a PKCS#12 file needs `pfx_password` in the credentials of the target",
            ));
        }
        for (field, command) in [("test_command", self.commands.test), ("reload_command", self.commands.reload)] {
            if let Some(command) = command {
                check_command(command).map_err(|error| error.with("field", field))?;
            }
        }
        if self.commands.limit.is_zero() || self.commands.limit > MAX_COMMAND_TIMEOUT {
            let why = "a command may take between 1 ms and one hour";
            return Err(Error::validation("winrm.check", "timeout_invalid", why).with("field", "command_timeout_ms"));
        }
        self.endpoints.iter().try_for_each(Endpoint::check)
    }

    fn pfx(&self) -> PfxInput<'a> {
        PfxInput { options: self.pfx, password: self.pfx_password }
    }
}

/// Accepts a line that `cmd.exe` can be given.
fn check_command(command: &str) -> Result<()> {
    let printable = !command.chars().any(char::is_control);
    if command.trim().is_empty() || command.encode_utf16().count() > COMMAND_LINE_MAX || !printable {
        return Err(Error::validation(
            "winrm.check",
            "command_invalid",
            "a command is one line for cmd.exe, of at most 8000 characters",
        ));
    }
    Ok(())
}
