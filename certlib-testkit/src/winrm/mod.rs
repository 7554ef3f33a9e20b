//! A simulated Windows host with WinRM and IIS, inside the test's own process.
//!
//! A [`WinRmSim`] speaks WS-Management over HTTP and HTTPS: shells, commands with standard input and output, faults,
//! quotas; logins by Basic, NTLMv2 (raw and in SPNEGO, with channel bindings) and client certificates; and messages
//! that are encrypted over plain HTTP. Behind it is the state of a host, [`Windows`]: files with access lists, shares,
//! certificate stores, sites and bindings of IIS, and the table of http.sys, whose TLS endpoints are really there
//! ([`WinRmSim::tls_addr`]). It is checked against pywinrm and pypsrp.
//!
//! # What runs
//!
//! There is no PowerShell. Commands are interpreted, in this order:
//!
//! 1. What was registered: [`script`](WinRmSimBuilder::script) for commands of any kind, and
//!    [`twin`](WinRmSimBuilder::twin) for scripts whose first line is `# certlib:NAME`, which get and give JSON. A
//!    [`Bootstrap`] says how a script is understood that fetches another one from standard input. All scripts of
//!    certlib's own modules `winrm` and `iis` come with one call,
//!    [`certlib_scripts`](WinRmSimBuilder::certlib_scripts): those modules can then deliver to the simulated host.
//! 2. What is built in: the usual commands of cmd.exe, and simple scripts of PowerShell (texts, lists, pipelines,
//!    `if`, `throw`, `exit`, and a dozen cmdlets), so that any client gets sensible answers.
//!
//! Everything else is an error, as it would be for a name that nobody knows.
//!
//! # What it does not have
//!
//! Kerberos and CredSSP, NTLMv1, PowerShell remoting (PSRP) and WMI, rights within the host (who is logged in may do
//! everything), pipes between programs, standard input that a program reads before it has ended, and
//! `MaxConcurrentUsers` and memory quotas.
//!
//! ```
//! use certlib_testkit::winrm::{WinRmSim, WindowsError};
//! use serde_json::json;
//!
//! # async fn example() -> certlib_testkit::Result<()> {
//! let host = WinRmSim::builder()
//!     .user("Administrator", "secret")
//!     .windows(|windows| windows.files.add_volume("D:"))
//!     .twin("write", |input, windows| {
//!         let path = input["path"].as_str().ok_or_else(|| WindowsError::invalid_parameter("path"))?;
//!         windows.files.write(path, b"text")?;
//!         Ok(json!({ "written": path }))
//!     })
//!     .start()
//!     .await?;
//! // Give host.https_url(), host.ca_pem() and the account to what is to be tested.
//! # assert!(host.https_url().starts_with("https://127.0.0.1:"));
//! assert!(host.executed().is_empty());
//! host.stop();
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod auth;
mod builder;
mod certlib;
mod command;
mod config;
mod envelope;
mod fault;
mod history;
mod script;
mod sealed;
mod server;
mod shells;
mod tls;
mod windows;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use tokio_util::sync::CancellationToken;

pub use self::{
    builder::WinRmSimBuilder,
    certlib::{CERTLIB_SCRIPTS, CertlibScript},
    fault::{Change, Fault, Injection, Operation},
    history::{Executed, Record},
    script::{Bootstrap, Marker, ScriptCall, ScriptMatcher, ScriptOutput},
    windows::{
        AppPool, Binding, CENTRAL_STORE, CentralStore, CertificateStores, FileInfo, FileSystem, HttpSys, IIS_APP_ID,
        Iis, ImportOptions, SNI, Service, Site, SslEntry, SslKey, StoredCertificate, Windows, WindowsError,
        WindowsResult, pfx_of, thumbprint,
    },
};
use self::{server::Shared, tls::Ports};
pub use crate::logins::Hardening;
use crate::{Result, http_server::HttpServer};

/// A running simulated Windows host. It stops when dropped.
pub struct WinRmSim {
    shared: Arc<Shared>,
    http: HttpServer,
    https: HttpServer,
    ca_pem: String,
    ports: Ports,
    stop: CancellationToken,
}

impl WinRmSim {
    /// Describes one; nothing happens until [`WinRmSimBuilder::start`].
    pub fn builder() -> WinRmSimBuilder {
        WinRmSimBuilder::default()
    }

    /// Where WinRM listens with TLS, such as `https://127.0.0.1:41235/wsman`.
    #[must_use]
    pub fn https_url(&self) -> String {
        format!("{}/wsman", self.https.url())
    }

    /// Where WinRM listens without TLS, such as `http://127.0.0.1:41236/wsman`.
    #[must_use]
    pub fn http_url(&self) -> String {
        format!("{}/wsman", self.http.url())
    }

    /// The address of [`WinRmSim::https_url`].
    #[must_use]
    pub fn https_addr(&self) -> SocketAddr {
        self.https.address()
    }

    /// The address of [`WinRmSim::http_url`].
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http.address()
    }

    /// The root to trust for WinRM over HTTPS, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Where a port of http.sys (such as 443) really is: a TLS server that serves, in every handshake, what the table
    /// has at that moment for the port and the name that the client asks for. Where there is nothing, or every site
    /// with a binding for the port is stopped, the connection ends.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when no port can be bound.
    ///
    /// Cancel safe: asking again gives the same address.
    pub async fn tls_addr(&self, port: u16) -> Result<SocketAddr> {
        self.ports.address(port, &self.shared, &self.stop).await
    }

    /// Looks at the host, or changes it, as somebody who sits in front of it.
    pub fn with<T>(&self, visit: impl FnOnce(&mut Windows) -> T) -> T {
        visit(&mut lock(&self.shared.state).windows)
    }

    /// Changes the password of a user; who is logged in stays so.
    pub fn set_password(&self, user: &str, password: &str) {
        if let Some(account) = lock(&self.shared.state).logins.accounts.get_mut(&user.to_lowercase()) {
            password.clone_into(&mut account.password);
        }
    }

    /// How often a user has failed to log in since the last success.
    #[must_use]
    pub fn failed_logins(&self, user: &str) -> u32 {
        let state = lock(&self.shared.state);
        state.logins.accounts.get(&user.to_lowercase()).map_or(0, |account| account.failures)
    }

    /// Forgets every login of a connection: the next request on it gets `401`.
    pub fn expire_logins(&self) {
        lock(&self.shared.state).logins.forget(None);
    }

    /// Ends all shells, as a restart of the service does.
    pub fn drop_shells(&self) {
        lock(&self.shared.state).shells.clear();
        self.shared.changed.notify_waiters();
    }

    /// How many shells are open: a client that cleans up leaves none.
    #[must_use]
    pub fn open_shells(&self) -> usize {
        lock(&self.shared.state).shells.count()
    }

    /// How many requests for output are held at this moment because there is none yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// Makes it misbehave. Of several faults that a request could meet, the one that was injected first does.
    pub fn inject(&self, injection: Injection) {
        lock(&self.shared.state).faults.push(injection);
    }

    /// Makes it behave.
    pub fn clear_faults(&self) {
        lock(&self.shared.state).faults.clear();
    }

    /// Every HTTP request so far, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Record> {
        lock(&self.shared.state).history.clone()
    }

    /// Every command that has run so far, oldest first.
    #[must_use]
    pub fn executed(&self) -> Vec<Executed> {
        lock(&self.shared.state).executed.clone()
    }

    /// How often a script of this marker has run.
    #[must_use]
    pub fn count(&self, marker: &str) -> usize {
        let state = lock(&self.shared.state);
        let ran = |executed: &&Executed| executed.marker.as_ref().is_some_and(|found| found.name == marker);
        state.executed.iter().filter(ran).count()
    }

    /// Stops listening and ends all connections.
    pub fn stop(self) {}
}

impl Drop for WinRmSim {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for WinRmSim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WinRmSim")
            .field("https_url", &self.https_url())
            .field("http_url", &self.http_url())
            .finish_non_exhaustive()
    }
}

/// Locks a mutex; a test that panicked elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
