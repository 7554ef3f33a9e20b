//! The `ssh` module: certificates as files on another machine, over SFTP, with commands over SSH.
//!
//! The host proves who it is before anything is sent to it, the login included. One connection serves all steps of
//! an operation, and is kept for a few seconds after a dry run, for the delivery that usually follows. However many targets
//! a host has, only a few are worked on at the same time: see [`SshModule::per_host`].
//!
//! # Settings
//! Location: [`SshLocation`]; configuration: [`SshConfig`]; credentials: [`SshCredentials`].
//!
//! ```
//! use certlib_core::module::{ErasedModule, TargetSpec};
//! use certlib_core::Secret;
//! use certlib_modules::ssh::SshModule;
//! use serde_json::json;
//!
//! let target = TargetSpec::new(
//!     "t-1",
//!     "web-01",
//!     json!({
//!         "host_key": {"fingerprint": "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"},
//!         "test_command": "haproxy -c -f /etc/haproxy/haproxy.cfg",
//!         "reload_command": "systemctl reload haproxy",
//!         "endpoints": [{"host": "web-01.example.com"}],
//!     }),
//!     json!({"host": "web-01.example.com", "paths": {"combined": "/etc/haproxy/site.pem"}}),
//!     Some(Secret::new(r#"{"user": "deploy", "password": "..."}"#.to_owned())),
//! );
//! ErasedModule::check(&SshModule::new(), &target)?;
//!
//! // A login without rights of its own, and a HAProxy that need not be reloaded.
//! let target = TargetSpec::new(
//!     "t-2",
//!     "web-02",
//!     json!({
//!         "host_key": {"fingerprint": "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"},
//!         "sudo": true,
//!         "haproxy": {"socket": "/run/haproxy/admin.sock"},
//!         "after_reload_check": "systemctl is-active haproxy",
//!         "endpoints": [{"host": "web-02.example.com"}],
//!     }),
//!     json!({"host": "web-02.example.com", "paths": {"combined": "/etc/haproxy/site.pem"}}),
//!     Some(Secret::new(r#"{"user": "deploy", "password": "..."}"#.to_owned())),
//! );
//! ErasedModule::check(&SshModule::new(), &target)?;
//! # Ok::<(), certlib_core::Error>(())
//! ```
//!
//! # Rights on the host
//! - Without `sudo`, the login needs to write into the directories of the files, and to read what is there. To give files
//!   to others, it has to be root.
//! - With `sudo`, files are looked at, written and renamed, and the commands run, as root. That takes a rule such as
//!   `deploy ALL=(root) NOPASSWD: /bin/sh`, and no `requiretty`. A password is never asked for: `sudo_refused`.
//!   Whoever can write any file as root is root, so a narrower rule would protect nothing. Each operation is one
//!   `sudo -n -- /bin/sh -c` with a constant script and the paths as its arguments; contents go through standard input and
//!   output, so that neither the list of processes nor the usual log of `sudo` shows a key. The host needs GNU or BusyBox
//!   tools, and `/proc` or `/dev/fd`. At most two operations of a connection are under way at once, besides SFTP; as
//!   OpenSSH counts sessions for a moment after their end, `MaxSessions` should be five or more.
//! - `sudo` can be told to record what goes through it (`log_input`, `log_stdin`, `log_output`, `log_stdout`): then new keys
//!   and former ones are in its I/O logs, or on its log server, in the clear. Switch that off in the rule for the login:
//!   `deploy ALL=(root) NOPASSWD: NOLOG_INPUT: NOLOG_OUTPUT: /bin/sh`.
//! - With `sudo`, every directory on the way to a file, from `/` on, has to be root's, and writable by nobody else unless it
//!   is sticky: whoever can change one decides what root writes to. Otherwise the dry run ends with `directory_not_protected`,
//!   and with `link_not_protected` at a symbolic link that is not root's; in a sticky directory, what is there has to be
//!   root's, too. The file itself may belong to anybody: put the key of a service into a directory of root's, and have the
//!   `group` or `owner` of the file give the service its right to read. A directory that belongs to the service is written to
//!   without `sudo`, with a login of the service's own.
//! - A [`Haproxy`](crate::files::Haproxy) is reached through the connection itself (`direct-streamlocal@openssh.com`), always
//!   with the rights of the login: no program is needed on the host, and `sudo` does not help. OpenSSH allows it unless
//!   `AllowStreamLocalForwarding`, `DisableForwarding` or an option of the login's key says no; it answers alike for that and
//!   for a socket that the login may not use: `socket_refused`.
//! - Where SELinux is enabled, a new file gets the label of the one in whose place it comes (`chcon`), or the one that the
//!   policy has for that place (`restorecon`). Where that is not permitted it is delivered all the same, and the fact
//!   `label_kept` is false, and it is not tried again on that connection. A login that is locked into a directory, or not
//!   shown what the kernel says, does not see whether SELinux is enabled.
//! - A login that has SFTP only (`ForceCommand internal-sftp`) needs a target without commands: they fail, with
//!   `exec_refused` where the host runs something else in their place and says that all is well.

mod auth;
mod config;
mod connect;
mod exec;
mod hostkey;
mod hosts;
mod parked;
mod sftp;
mod socket;
mod sudo;

use certlib_core::module::{
    ApprovedPlan, Capabilities, DistributionModule, Facts, Journal, Plan, RollbackOutcome, Target, Validation,
};
use certlib_core::{CertificateBundle, Context, Effect, Result};

pub use self::config::{SshConfig, SshCredentials, SshLocation};
use self::connect::Connection;
pub use self::hostkey::HostKey;
use self::hosts::{Hosts, PER_HOST};
use self::parked::{Key, Parked};
use self::sftp::RemoteFileSystem;
use self::sudo::Elevated;
use crate::files::{Delivery, FileSystem, Undo};

/// Delivers to files of a host that is reached by SSH.
#[derive(Debug, Clone)]
pub struct SshModule {
    parked: Parked,
    hosts: Hosts,
}

impl Default for SshModule {
    fn default() -> Self {
        Self::new()
    }
}

impl SshModule {
    /// The module, which works on at most four targets of one host at the same time.
    pub fn new() -> Self {
        Self { parked: Parked::default(), hosts: Hosts::new(PER_HOST) }
    }

    /// Works on at most `most` targets of one host at the same time, one at least; the others wait for their turn.
    #[must_use]
    pub fn per_host(self, most: usize) -> Self {
        Self { hosts: Hosts::new(most), ..self }
    }

    /// A connection to the target: a kept one, or a new one.
    async fn connect(&self, cx: &Context, target: Target<'_, Self>) -> Result<RemoteFileSystem> {
        if let Some(kept) = self.parked.take(key(target)).await {
            return Ok(kept);
        }
        let connection = Connection::open(cx, target.location, target.config, target.credentials).await?;
        RemoteFileSystem::start(connection, target.config.request_timeout).await
    }

    /// Keeps a connection when more work for it is likely, and closes it otherwise.
    async fn leave(&self, target: Target<'_, Self>, connection: RemoteFileSystem, more_to_come: bool) {
        if more_to_come {
            self.parked.park(key(target), connection).await;
        } else {
            connection.close().await;
        }
    }
}

/// Whose rights a host's files are used with.
enum Rights<'a> {
    Login(&'a RemoteFileSystem),
    Root(Elevated<'a>),
}

impl<'a> Rights<'a> {
    fn of(target: Target<'_, SshModule>, connection: &'a RemoteFileSystem) -> Self {
        match target.config.sudo {
            true => Self::Root(Elevated::new(connection, target.config.request_timeout)),
            false => Self::Login(connection),
        }
    }

    fn files(&self) -> &dyn FileSystem {
        match self {
            Self::Login(connection) => *connection,
            Self::Root(elevated) => elevated,
        }
    }
}

fn key(target: Target<'_, SshModule>) -> Key {
    Key::of(target.location, target.config, target.credentials)
}

/// Puts the parts of a target together for the shared code.
fn delivery<'a>(target: Target<'a, SshModule>) -> Delivery<'a> {
    let SshLocation { host, layout, .. } = target.location;
    Delivery::new(SshModule::KIND, target.name, host, layout, &target.config.settings)
        .with_pfx_password(target.credentials.pfx_password.as_ref())
}

impl DistributionModule for SshModule {
    const KIND: &'static str = "ssh";
    type Config = SshConfig;
    type Credentials = SshCredentials;
    type Location = SshLocation;
    type Undo = Undo;

    fn capabilities(&self) -> Capabilities {
        // Renames are atomic one by one; a pair of files is not one step.
        Capabilities::default()
    }

    fn check(&self, target: Target<'_, Self>) -> Result<()> {
        target.location.check()?;
        target.config.check()?;
        target.config.admits(&target.location.host)?;
        target.credentials.check()?;
        delivery(target).check()
    }

    async fn dry_run(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Plan> {
        self.check(target)?;
        let _turn = self.hosts.turn(target.location).await;
        let connection = self.connect(cx, target).await?;
        let plan = delivery(target).plan(cx, Rights::of(target, &connection).files(), bundle).await;
        let changes = plan.as_ref().is_ok_and(Plan::changes_anything);
        self.leave(target, connection, changes).await;
        plan
    }

    async fn execute(
        &self,
        cx: &Context,
        target: Target<'_, Self>,
        bundle: &CertificateBundle,
        plan: &ApprovedPlan,
        undo: &Journal<'_, Undo>,
    ) -> Result<Facts> {
        self.check(target)?;
        let _turn = self.hosts.turn(target.location).await;
        let connection = match self.connect(cx, target).await {
            Ok(connection) => connection,
            // Without looking, nobody knows what an earlier attempt has done.
            Err(error) if undo.entries().await.is_ok_and(|entries| entries.is_empty()) => return Err(error),
            Err(error) => return Err(error.with_effect(Effect::Possible)),
        };
        let facts = delivery(target).execute(cx, Rights::of(target, &connection).files(), bundle, plan, undo).await;
        // Without endpoints validation reads the files back; after a failure they are rolled back.
        let more_to_come = facts.is_err() || target.config.settings.endpoints.is_empty();
        self.leave(target, connection, more_to_come).await;
        facts
    }

    async fn validate(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Validation> {
        let delivery = delivery(target);
        if let Some(validation) = delivery.probe(cx, bundle).await {
            return Ok(validation);
        }
        let _turn = self.hosts.turn(target.location).await;
        let connection = self.connect(cx, target).await?;
        let validation = delivery.read_back(Rights::of(target, &connection).files(), bundle).await;
        self.leave(target, connection, false).await;
        validation
    }

    async fn rollback(&self, cx: &Context, target: Target<'_, Self>, undo: Vec<Undo>) -> Result<RollbackOutcome> {
        self.check(target)?;
        if undo.is_empty() {
            return Ok(RollbackOutcome::NothingToDo);
        }
        let _turn = self.hosts.turn(target.location).await;
        let connection = self.connect(cx, target).await?;
        let outcome = delivery(target).rollback(cx, Rights::of(target, &connection).files(), &undo).await;
        self.leave(target, connection, false).await;
        outcome
    }
}
