//! Simulated hosts: an SSH and SFTP server with a TLS service behind it, inside the test's own process.
//!
//! A [`SimHost`] takes deliveries as a web server's machine would: a client logs in over SSH, writes files over SFTP,
//! runs a test command and a reload command, and the TLS endpoint then presents what was delivered. Files live in
//! memory only. Hosts are cheap, so a [`SimFleet`] of thousands fits into one process. A [`Fault`] makes a host
//! misbehave in one precise way, and [`SimHost::history`] tells what clients really did.
//!
//! ```
//! use certlib_testkit::simhost::{Service, SimHost, UserAuth};
//!
//! # async fn example() -> Result<(), certlib_testkit::simhost::Error> {
//! let host = SimHost::builder()
//!     .name("web-07")
//!     .user("root", UserAuth::password("correct horse"))
//!     .service(Service::new("/etc/ssl/site.pem", "/etc/ssl/site.key"))
//!     .start()
//!     .await?;
//! // Deliver to host.ssh_addr() as root, pinning host.host_key_fingerprint(); test with `certlib-sim test`, reload
//! // with `certlib-sim reload`; then look at host.tls_addr().
//! assert!(host.file("/etc/ssl/site.pem").is_some());
//! assert!(host.history().is_empty());
//! host.stop().await;
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod actor;
mod builder;
mod builtins;
mod certificate;
mod commands;
mod error;
mod exec;
mod fault;
mod filesystem;
mod fleet;
mod history;
mod host;
mod listen;
mod service;
mod sftp;
mod shell;
mod ssh;
mod stream;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use russh::keys::HashAlg;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

pub use self::{
    builder::{SimHostBuilder, UserAuth},
    certificate::TestCertificate,
    error::Error,
    fault::{DropPoint, Fault},
    filesystem::{FileInfo, FileKind},
    fleet::SimFleet,
    history::{Entry, Operation},
    service::Service,
};
use self::{fault::ActiveFault, filesystem::Content, host::Host, listen::Switch};

/// What a command taught to a host does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Checks the files of the [`Service`], as `nginx -t` does: status 1 and a message on standard error when they do
    /// not parse or the private key belongs to another certificate.
    Test,
    /// Reads the files of the [`Service`] and serves them to new TLS connections; when they are not usable, status 1,
    /// a message on standard error, and the previous certificate stays. Faults of reloads apply.
    Reload,
    /// Ends at once with this status and output, and does nothing.
    Reply {
        /// The exit status.
        exit_code: u32,
        /// Standard output.
        stdout: String,
        /// Standard error.
        stderr: String,
    },
    /// Never ends, until the client closes the channel or sends a signal.
    Hang,
    /// Another action each time; the last one repeats.
    Sequence(Vec<Action>),
}

/// A running simulated host. It stops when dropped.
pub struct SimHost {
    host: Arc<Host>,
    ssh_addr: SocketAddr,
    tls_addr: SocketAddr,
    switch: mpsc::Sender<Switch>,
    task: Option<JoinHandle<()>>,
}

impl SimHost {
    /// Describes a host; nothing happens until [`SimHostBuilder::start`].
    pub fn builder() -> SimHostBuilder {
        SimHostBuilder::new()
    }

    /// The name given to the builder.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.host.name
    }

    /// Where the SSH server listens.
    #[must_use]
    pub fn ssh_addr(&self) -> SocketAddr {
        self.ssh_addr
    }

    /// Where the TLS service listens.
    #[must_use]
    pub fn tls_addr(&self) -> SocketAddr {
        self.tls_addr
    }

    /// `SHA256:…` of the (Ed25519) host key that the host owns.
    #[must_use]
    pub fn host_key_fingerprint(&self) -> String {
        let key = self.host.host_key.public_key();
        key.fingerprint(HashAlg::Sha256).to_string()
    }

    /// The line for this host in a `known_hosts` file, without a line break.
    #[must_use]
    pub fn known_hosts_line(&self) -> String {
        let data = self.host.host_key.public_key().key_data().clone();
        let key = russh::keys::PublicKey::new(data, "");
        // An Ed25519 key that came from the generator always encodes.
        let key = key.to_openssh().unwrap_or_default();
        format!("[{}]:{} {}", self.ssh_addr.ip(), self.ssh_addr.port(), key.trim_end())
    }

    /// The bytes of a file, symbolic links followed; `None` when there is no such file.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        let bytes = lock(&self.host.files).read(path).ok()?;
        Some(bytes.to_vec())
    }

    /// Kind, mode, owner and size of what is at a path (a symbolic link itself, not its target).
    #[must_use]
    pub fn info(&self, path: &str) -> Option<FileInfo> {
        lock(&self.host.files).info(path, false).ok()
    }

    /// Everything on the host, by path; directories and links included.
    #[must_use]
    pub fn files(&self) -> Vec<FileInfo> {
        lock(&self.host.files).all()
    }

    /// Puts a file of root's on the host behind the client's back; directories on the way are created.
    /// The history does not mention it.
    ///
    /// # Errors
    /// [`Error::Setup`] when the path is relative, is a directory, or leads through a file.
    pub fn put_file(&self, path: &str, bytes: impl Into<Vec<u8>>, mode: u32) -> Result<(), Error> {
        if !path.starts_with('/') {
            return Err(Error::Setup(format!("{path}: not an absolute path")));
        }
        lock(&self.host.files)
            .put(path, Content::File(Arc::new(bytes.into())), mode)
            .map_err(|error| Error::Setup(format!("{path}: {error}")))
    }

    /// Everything clients did, in order: logins, commands, changes of files.
    #[must_use]
    pub fn history(&self) -> Vec<Entry> {
        lock(&self.host.history).clone()
    }

    /// The part of the history that changed files.
    #[must_use]
    pub fn changes(&self) -> Vec<Operation> {
        let history = lock(&self.host.history);
        history.iter().map(|entry| &entry.operation).filter(|operation| operation.changes_files()).cloned().collect()
    }

    /// Every command that arrived, as sent, oldest first.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        let history = lock(&self.host.history);
        history
            .iter()
            .filter_map(|entry| match &entry.operation {
                Operation::Command(command) => Some(command.clone()),
                _ => None,
            })
            .collect()
    }

    /// How many SSH connections were accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.host.connections.load(Ordering::Relaxed)
    }

    /// How many SSH connections are open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.host.open_connections.load(Ordering::Relaxed)
    }

    /// How many connections the TLS service accepted so far.
    #[must_use]
    pub fn tls_connections(&self) -> u64 {
        self.host.tls_connections.load(Ordering::Relaxed)
    }

    /// SHA-256 of the leaf certificate served now, 64 lower-case hexadecimal digits; `None` while nothing is served.
    #[must_use]
    pub fn served_fingerprint(&self) -> Option<String> {
        self.host.service.fingerprint()
    }

    /// The fault being played.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.host.fault()
    }

    /// Plays another fault from now on, or none. Counts start again at zero. Connections that are open stay open,
    /// also under [`Fault::Refuse`] and [`Fault::Hang`], and meet the new fault with their next operation.
    ///
    /// # Errors
    /// [`Error::Io`] when the SSH port cannot be closed or opened.
    ///
    /// Cancel safe: the fault is set before anything is waited for, and the port follows.
    pub async fn set_fault(&self, fault: Option<Fault>) -> Result<(), Error> {
        let open = fault != Some(Fault::Refuse);
        *lock(&self.host.fault) = ActiveFault::new(fault);
        let (done, waiting) = oneshot::channel();
        let stopped = |_| std::io::ErrorKind::NotConnected.into();
        let answer = match self.switch.send(Switch { open, done }).await {
            Ok(()) => waiting.await.unwrap_or_else(|gone| Err(stopped(gone))),
            Err(_) => Err(std::io::ErrorKind::NotConnected.into()),
        };
        answer.map_err(Error::io("SSH port"))
    }

    /// Teaches the host a command, or changes what one does.
    ///
    /// # Errors
    /// [`Error::Setup`] when it is not a single command.
    pub fn set_command(&self, command: &str, action: Action) -> Result<(), Error> {
        let words = builder::command_words(command)?;
        lock(&self.host.commands).insert(words, commands::program(action));
        Ok(())
    }

    /// Stops listening and ends all connections. Returns when both ports are free.
    ///
    /// Cancel safe: the host stops all the same.
    pub async fn stop(mut self) {
        self.begin_stop();
        if let Some(task) = self.task.take() {
            // The task has no way to fail; if it did, it is gone, which is all that is asked for.
            let _ = task.await;
        }
    }

    fn begin_stop(&self) {
        self.host.stop.cancel();
    }
}

impl Drop for SimHost {
    fn drop(&mut self) {
        self.begin_stop();
    }
}

impl fmt::Debug for SimHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimHost")
            .field("name", &self.host.name)
            .field("ssh_addr", &self.ssh_addr)
            .field("tls_addr", &self.tls_addr)
            .field("fault", &self.host.fault())
            .finish_non_exhaustive()
    }
}

/// Locks a mutex; a test that panicked elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
