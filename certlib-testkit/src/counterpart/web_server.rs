use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{read, write};
use crate::{
    Result,
    process::{self, Child, START_LIMIT},
    tls,
};

/// Appended to a configuration to make it invalid in the syntax of every server here.
const NONSENSE: &str = "\nthis_is_no_directive_at_all on;\n";

/// What nginx, HAProxy and Apache have in common: a TLS address, a configuration file, a command that checks it, and a
/// command that makes the server take up new certificate files.
#[derive(Debug)]
pub struct WebServer {
    process: Child,
    addr: SocketAddr,
    config: Config,
    test_command: String,
    reload_command: String,
    folder: TempDir,
}

/// A configuration file as it was first written.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// The shell commands of one kind of server.
pub(super) struct Commands {
    pub(super) start: Command,
    pub(super) test: String,
    pub(super) reload: Reload,
}

pub(super) enum Reload {
    /// This command line.
    Command(String),
    /// This signal to the main process.
    Signal(&'static str),
}

impl WebServer {
    pub(super) async fn start(
        name: &'static str,
        addr: SocketAddr,
        folder: TempDir,
        config: Config,
        commands: Commands,
    ) -> Result<WebServer> {
        write(&config.path, &config.text)?;
        let mut process = Child::spawn(name, commands.start, folder.path())?;
        process.wait_for_port(addr).await?;
        let reload_command = match commands.reload {
            Reload::Command(line) => line,
            Reload::Signal(signal) => format!("kill -{signal} {}", process.id()),
        };
        Ok(WebServer { process, addr, config, test_command: commands.test, reload_command, folder })
    }

    /// Where it serves TLS.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The directory with its configuration and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A shell command that checks the configuration and the certificate files, and fails when they are unusable.
    pub fn test_command(&self) -> &str {
        &self.test_command
    }

    /// A shell command that makes the server serve what the certificate files hold now.
    pub fn reload_command(&self) -> &str {
        &self.reload_command
    }

    /// Runs [`reload_command`](Self::reload_command) here. The change shows a moment later: see
    /// [`await_served`](Self::await_served).
    ///
    /// # Errors
    ///
    /// [`Error::Command`](crate::Error::Command) when the server refuses.
    pub async fn reload(&self) -> Result<()> {
        process::shell(&self.reload_command).await.map(drop)
    }

    /// The SHA-256 (hexadecimal) of the leaf that is served now.
    ///
    /// # Errors
    ///
    /// As [`tls::leaf_fingerprint`].
    pub async fn served_fingerprint(&self) -> Result<String> {
        tls::leaf_fingerprint(self.addr, "localhost").await
    }

    /// Waits until the leaf with this SHA-256 (hexadecimal) is served.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`](crate::Error::Timeout) when it is not.
    pub async fn await_served(&self, fingerprint: &str) -> Result<()> {
        tls::await_served(self.addr, fingerprint, START_LIMIT).await
    }

    /// Makes the configuration invalid, so that the test command fails and a reload changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) when the file cannot be written.
    pub fn break_config(&self) -> Result<()> {
        write(&self.config.path, format!("{}{NONSENSE}", self.config.text))
    }

    /// Takes [`break_config`](Self::break_config) back.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) when the file cannot be written.
    pub fn restore_config(&self) -> Result<()> {
        write(&self.config.path, &self.config.text)
    }

    /// What it wrote to its output and to its error log.
    pub fn log(&self) -> String {
        self.process.log() + &read(&self.folder.path().join("error.log")).unwrap_or_default()
    }

    pub(super) async fn stop(self) -> Result<()> {
        self.process.stop().await.map(drop)
    }
}
