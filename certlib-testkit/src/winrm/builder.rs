//! How a simulated Windows host is described before it starts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::Duration,
};

use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    WinRmSim,
    auth::Settings,
    certlib,
    script::{Bootstrap, ScriptCall, ScriptMatcher, ScriptOutput, Scripts, Twin},
    server::{Listener, Shared, State},
    shells::{Limits, Shells},
    tls::Ports,
    windows::{Windows, WindowsError},
};
use crate::{
    Error, Result,
    http_server::{HttpServer, Tls},
    logins::{Account, Hardening, Logins, Policy},
    tls::fingerprint,
};

/// Describes a [`WinRmSim`]; made by [`WinRmSim::builder`].
#[derive(Clone, Debug)]
#[must_use = "a simulator exists only once it is started"]
pub struct WinRmSimBuilder {
    windows: Windows,
    scripts: Scripts,
    settings: Settings,
    policy: Policy,
    accounts: Vec<Account>,
    /// PEM of a certificate, and whose it is.
    certificates: Vec<(String, String)>,
    limits: Limits,
    max_envelope: usize,
    progress: bool,
}

impl Default for WinRmSimBuilder {
    fn default() -> Self {
        Self {
            windows: Windows::new(20_348),
            scripts: Scripts::default(),
            settings: Settings { basic: true, certificate: true, negotiate: true, allow_unencrypted: false },
            policy: Policy {
                hardening: Hardening::default(),
                lockout: None,
                domain: "WORKGROUP".to_owned(),
                computer: String::new(),
            },
            accounts: Vec::new(),
            certificates: Vec::new(),
            limits: Limits { shells: 30, commands: 25, idle: Duration::from_secs(7200) },
            max_envelope: 500 * 1024,
            progress: false,
        }
    }
}

impl WinRmSimBuilder {
    /// The build of Windows; 20348 (Server 2022) unless told otherwise.
    pub fn build(mut self, build: u32) -> Self {
        self.windows.set_build(build);
        self
    }

    /// Arranges the host before it starts.
    pub fn windows(mut self, arrange: impl FnOnce(&mut Windows)) -> Self {
        arrange(&mut self.windows);
        self
    }

    /// Adds an administrator. Names are compared without regard to case; `DOMAIN\name` and `name@domain` work as well.
    pub fn user(self, name: &str, password: &str) -> Self {
        self.account(name, password, true)
    }

    /// Adds somebody who can log in but may not use WinRM: access denied.
    pub fn unprivileged_user(self, name: &str, password: &str) -> Self {
        self.account(name, password, false)
    }

    /// Lets a client certificate (PEM) log in as a user, over HTTPS.
    pub fn certificate_user(mut self, certificate_pem: &str, user: &str) -> Self {
        self.certificates.push((certificate_pem.to_owned(), user.to_owned()));
        self
    }

    /// The domain that accounts may be written with, beside the name of the computer; `WORKGROUP` unless told
    /// otherwise.
    pub fn domain(mut self, domain: &str) -> Self {
        domain.clone_into(&mut self.policy.domain);
        self
    }

    /// Whether `Basic` is offered: `Auth/Basic`. It is, over HTTPS, unless told otherwise.
    pub fn basic(mut self, offered: bool) -> Self {
        self.settings.basic = offered;
        self
    }

    /// Whether `Negotiate` and `NTLM` are offered. They are unless told otherwise.
    pub fn negotiate(mut self, offered: bool) -> Self {
        self.settings.negotiate = offered;
        self
    }

    /// Takes messages that are not encrypted over plain HTTP, and `Basic` with them: `AllowUnencrypted`.
    pub fn allow_unencrypted(mut self) -> Self {
        self.settings.allow_unencrypted = true;
        self
    }

    /// How strictly NTLM over HTTPS is tied to the TLS connection: `CbtHardeningLevel`.
    pub fn hardening(mut self, hardening: Hardening) -> Self {
        self.policy.hardening = hardening;
        self
    }

    /// Locks an account after so many failed logins in a row.
    pub fn lockout(mut self, failures: u32) -> Self {
        self.policy.lockout = Some(failures);
        self
    }

    /// How many shells a user may have: `MaxShellsPerUser`, 30 unless told otherwise.
    pub fn max_shells(mut self, shells: usize) -> Self {
        self.limits.shells = shells;
        self
    }

    /// How many commands a shell may have: `MaxProcessesPerShell`, 25 unless told otherwise. A command counts until it
    /// is signalled to terminate.
    pub fn max_commands(mut self, commands: usize) -> Self {
        self.limits.commands = commands;
        self
    }

    /// How large a request may be: `MaxEnvelopeSizekb`, 500 unless told otherwise. A larger one gets `413`.
    pub fn max_envelope_kb(mut self, kb: usize) -> Self {
        self.max_envelope = kb * 1024;
        self
    }

    /// After how long without a request a shell ends, unless its client asks for another time; two hours unless told
    /// otherwise.
    pub fn idle_timeout(mut self, after: Duration) -> Self {
        self.limits.idle = after;
        self
    }

    /// Makes PowerShell report progress on standard error, as it does for a user's first login, unless a script sets
    /// `$ProgressPreference`.
    pub fn progress(mut self) -> Self {
        self.progress = true;
        self
    }

    /// Runs `handler` for the commands that `matcher` is for. Of several, the first that was registered runs; what is
    /// built in comes last.
    ///
    /// A PowerShell script runs when its standard input has ended if its text reads that (`[Console]::In`,
    /// `OpenStandardInput`, `$input`, `-Command -`), and at once otherwise. Another program runs at once.
    pub fn script(
        mut self,
        matcher: ScriptMatcher,
        handler: impl Fn(&ScriptCall, &mut Windows) -> ScriptOutput + Send + Sync + 'static,
    ) -> Self {
        self.scripts.add(matcher, Arc::new(handler));
        self
    }

    /// Runs `twin` for PowerShell scripts that begin with `# certlib:NAME`: JSON in and JSON out. The JSON is the
    /// standard input and one line of standard output, and an error is thrown (CLIXML, exit code 1), unless a
    /// [`Bootstrap`] does it another way.
    pub fn twin(
        mut self,
        name: &str,
        twin: impl Fn(&Value, &mut Windows) -> Result<Value, WindowsError> + Send + Sync + 'static,
    ) -> Self {
        self.scripts.add_twin(name, Twin { text: None, run: Arc::new(twin) });
        self
    }

    /// Runs the scripts with which certlib's own modules `winrm` and `iis` work, as [`CERTLIB_SCRIPTS`] lists them. What
    /// is registered by [`script`](Self::script), or by [`twin`](Self::twin) after this, goes before them.
    ///
    /// Each script is known by its whole text. One that has another text than this version of the test kit was made
    /// for is refused, and the module that sent it fails: `script_failed` with the reason `script_unknown_to_testkit`,
    /// or `powershell_failed` when it is the script that all others are sent through.
    ///
    /// [`CERTLIB_SCRIPTS`]: super::CERTLIB_SCRIPTS
    pub fn certlib_scripts(mut self) -> Self {
        certlib::register(&mut self.scripts);
        self
    }

    /// Understands the scripts that `matcher` is for as ones that fetch the real script from standard input. The real
    /// one then counts: its marker, its handler or twin, and its text in the history.
    pub fn bootstrap(mut self, matcher: ScriptMatcher, bootstrap: Bootstrap) -> Self {
        self.scripts.add_bootstrap(matcher, bootstrap);
        self
    }

    /// Binds its ports and starts to answer, over HTTP and HTTPS. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`Error::Io`] when no port can be bound, [`Error::Crypto`] when no certificate can be made or the one of a user
    /// cannot be read.
    ///
    /// Cancel safe: a simulator that was not returned is gone.
    pub async fn start(self) -> Result<WinRmSim> {
        let unreadable = |error: &dyn std::fmt::Display| Error::Crypto(error.to_string());
        let mut certificates = BTreeMap::new();
        for (pem, user) in &self.certificates {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| unreadable(&error))?;
            certificates.insert(fingerprint(&der), user.clone());
        }
        let (tls, ca_pem) = Tls::own("simulated WinRM root", !certificates.is_empty())?;
        let own = match &tls {
            Tls::Encrypted { issued, .. } | Tls::Mutual { issued, .. } => {
                CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).map_err(|error| unreadable(&error))?
            }
            Tls::Plain => return Err(Error::Crypto("no certificate for HTTPS".to_owned())),
        };
        // It is signed with SHA-256, which is therefore the hash of the channel binding.
        let hash = digest::digest(&digest::SHA256, &own).as_ref().to_vec();
        let policy = Policy { computer: self.windows.computer_name.clone(), ..self.policy };
        let state = State {
            windows: self.windows,
            scripts: self.scripts,
            logins: Logins::new(policy, self.accounts, certificates),
            shells: Shells::new(self.limits),
            faults: Vec::new(),
            history: Vec::new(),
            executed: Vec::new(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
            settings: self.settings,
            max_envelope: self.max_envelope,
            progress: self.progress,
        });
        let listener = |certificate| Arc::new(Listener { shared: Arc::clone(&shared), certificate });
        let https = HttpServer::start(tls, listener(Some(hash))).await?;
        let http = HttpServer::start(Tls::Plain, listener(None)).await?;
        Ok(WinRmSim { shared, http, https, ca_pem, ports: Ports::default(), stop: CancellationToken::new() })
    }

    fn account(mut self, name: &str, password: &str, allowed: bool) -> Self {
        let (name, password) = (name.to_owned(), password.to_owned());
        self.accounts.push(Account { name, password, allowed, failures: 0 });
        self
    }
}
