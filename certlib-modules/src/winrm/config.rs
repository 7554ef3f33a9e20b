//! The settings of a `winrm` target.

use certlib_core::secret::SecretString;
use serde::Deserialize;

use super::layout::WindowsPaths;
use super::wsman::{Login, WsmanSettings};
use crate::files::PfxOptions;
use crate::net::Connection;
use crate::probe::Endpoint;

/// Where to deliver.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WinRmLocation {
    /// The URL of WinRM, such as `https://host:5986/wsman`. `http` needs `connection.allow_http`, and a login that
    /// encrypts messages.
    pub url: String,
    /// One path for each wanted form of the certificate; at least one.
    pub paths: WindowsPaths,
    /// A directory that no path may leave, links followed.
    #[serde(default)]
    pub root: Option<String>,
}

/// How to deliver. Everything has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct WinRmConfig {
    /// How to reach WinRM.
    pub connection: Connection,
    /// How to speak with it.
    pub wsman: WsmanSettings,
    /// A line for `cmd.exe` that checks the service's configuration; run before every reload.
    pub test_command: Option<String>,
    /// A line for `cmd.exe` that makes the service read its files again, such as `net stop x && net start x`.
    pub reload_command: Option<String>,
    /// How long a command may take, in milliseconds; 60 s by default.
    pub command_timeout_ms: u64,
    /// Where the certificate must be served afterwards. Without any, validation reads the files back.
    pub endpoints: Vec<Endpoint>,
    /// How PKCS#12 files are made.
    pub pfx: PfxOptions,
}

impl Default for WinRmConfig {
    fn default() -> Self {
        Self {
            connection: Connection::default(),
            wsman: WsmanSettings::default(),
            test_command: None,
            reload_command: None,
            command_timeout_ms: 60_000,
            endpoints: Vec::new(),
            pfx: PfxOptions::default(),
        }
    }
}

/// How to log in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WinRmCredentials {
    /// The way to log in, and its secrets.
    pub login: Login,
    /// The password of PKCS#12 files.
    #[serde(default)]
    pub pfx_password: Option<SecretString>,
}
