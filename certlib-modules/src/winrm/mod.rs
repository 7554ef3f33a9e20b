//! The `winrm` module: certificates as files on a Windows machine, over WinRM.
//!
//! Files are written beside their place and swapped in with one call that keeps the access list, so that at every
//! moment each path holds the old file or the new one, whole. Scripts and data reach the machine by standard input of
//! PowerShell, inside TLS or encrypted by the login, never on a command line.
//!
//! # Settings
//! Location: [`WinRmLocation`]; configuration: [`WinRmConfig`]; credentials: [`WinRmCredentials`].
//!
//! ```
//! use certlib_core::module::{ErasedModule, TargetSpec};
//! use certlib_core::Secret;
//! use certlib_modules::winrm::WinRmModule;
//! use serde_json::json;
//!
//! let target = TargetSpec::new(
//!     "t-1",
//!     "app-01",
//!     json!({
//!         "reload_command": "powershell -NoProfile -Command Restart-Service -Name ExampleApp",
//!         "endpoints": [{"host": "app-01.example.com", "port": 8443}],
//!     }),
//!     json!({
//!         "url": "https://app-01.example.com:5986/wsman",
//!         "root": "D:\\tls",
//!         "paths": {
//!             "fullchain": "D:\\tls\\app.pem",
//!             "key": {"path": "D:\\tls\\app.key", "acl": {"readers": ["NT SERVICE\\ExampleApp"]}},
//!         },
//!     }),
//!     Some(Secret::new(r#"{"login": {"method": "ntlm", "user": "EXAMPLE\\deploy", "password": "..."}}"#.to_owned())),
//! );
//! ErasedModule::check(&WinRmModule::new(), &target)?;
//! # Ok::<(), certlib_core::Error>(())
//! ```
//!
//! # Permissions
//! The login may use WinRM: by default that takes an administrator (for local ones other than the built-in also
//! `LocalAccountTokenFilterPolicy = 1`), or a member of *Remote Management Users*. It reads, writes and deletes in the
//! directories of the files, and may change the access lists that are set. A share cannot be reached this way with
//! NTLM (the "double hop"), only from an account that Kerberos may delegate.
//!
//! # What is promised
//! `dry_run` runs one script that only reads: it shows each file with the digest and the access list of what is there,
//! and the commands. `rollback` restores content and access list of every file, deletes those that were not there, and
//! runs the commands again; the former owner comes back if the login may give files away.
//!
//! Not supported: CredSSP, `insecure_skip_verify` (put the issuer of WinRM's certificate into `tls.ca_pem`), links at a
//! file's own path.

mod config;
pub(crate) mod delivery;
pub(crate) mod host;
mod layout;
mod path;
mod sddl;
pub(crate) mod wsman;

use std::sync::Arc;
use std::time::Duration;

use certlib_core::module::{
    ApprovedPlan, Capabilities, DistributionModule, Facts, Journal, Plan, RollbackOutcome, Target, Validation, Verb,
};
use certlib_core::{CertificateBundle, Context, Effect, Result};

pub use self::config::{WinRmConfig, WinRmCredentials, WinRmLocation};
pub use self::delivery::{Change, Former, New, Swap, Undo};
use self::delivery::{Commands, Delivery, Recorder};
use self::host::Host;
pub use self::layout::{Acl, WindowsOutput, WindowsPaths};
use self::wsman::{Client, Reach};
pub use self::wsman::{Login, WsmanSettings};
use crate::files::verdict;
use crate::net::{Lookup, SystemLookup};

/// Delivers to files of a Windows machine that is reached by WinRM.
#[derive(Debug, Clone)]
pub struct WinRmModule {
    lookup: Arc<dyn Lookup>,
}

impl Default for WinRmModule {
    fn default() -> Self {
        Self::new()
    }
}

impl WinRmModule {
    /// The module.
    pub fn new() -> Self {
        Self::with_lookup(Arc::new(SystemLookup))
    }

    /// The module over another resolver.
    pub fn with_lookup(lookup: Arc<dyn Lookup>) -> Self {
        Self { lookup }
    }

    fn reach(&self, target: Target<'_, Self>) -> Result<Reach> {
        Reach::new(&target.location.url, &target.config.connection, Arc::clone(&self.lookup))
    }
}

/// A connection that is made when it is first needed.
fn host<'a>(reach: &'a Reach, target: Target<'a, WinRmModule>) -> Host<'a> {
    let WinRmConfig { connection, wsman, .. } = target.config;
    Host { client: Client::new(reach, connection, wsman, &target.credentials.login) }
}

/// Puts the parts of a target together for the shared code.
fn delivery<'a>(target: Target<'a, WinRmModule>) -> Result<Delivery<'a>> {
    let WinRmConfig { connection, test_command, reload_command, command_timeout_ms, endpoints, pfx, .. } =
        target.config;
    Ok(Delivery {
        module: WinRmModule::KIND,
        target: target.name,
        machine: wsman::check(&target.location.url, connection)?.to_string(),
        outputs: target.location.paths.outputs(),
        root: target.location.root.as_deref(),
        commands: Commands {
            test: test_command.as_deref(),
            reload: reload_command.as_deref(),
            limit: Duration::from_millis(*command_timeout_ms),
        },
        endpoints,
        pfx: *pfx,
        pfx_password: target.credentials.pfx_password.as_ref(),
    })
}

/// The journal of this module holds nothing but files.
struct Own<'j>(&'j Journal<'j, Undo>);

#[async_trait::async_trait]
impl Recorder for Own<'_> {
    async fn entries(&self) -> Result<Vec<Undo>> {
        self.0.entries().await
    }

    async fn record(&self, step: &str, undo: Undo) -> Result<()> {
        self.0.record(step, &undo).await
    }
}

impl DistributionModule for WinRmModule {
    const KIND: &'static str = "winrm";
    type Config = WinRmConfig;
    type Credentials = WinRmCredentials;
    type Location = WinRmLocation;
    type Undo = Undo;

    fn capabilities(&self) -> Capabilities {
        // Swaps are atomic one by one; a pair of files is not one step.
        Capabilities::default()
    }

    fn check(&self, target: Target<'_, Self>) -> Result<()> {
        let url = wsman::check(&target.location.url, &target.config.connection)?;
        target.config.wsman.check()?;
        target.credentials.login.check(&url)?;
        delivery(target)?.check()
    }

    async fn dry_run(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Plan> {
        self.check(target)?;
        let (reach, delivery) = (self.reach(target)?, delivery(target)?);
        let mut host = host(&reach, target);
        let planned = delivery.plan(cx, &mut host, bundle).await;
        host.client.close().await;
        let planned = planned?;
        Ok(Plan::new(delivery.module, delivery.target, planned.base, planned.steps))
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
        let (reach, delivery) = (self.reach(target)?, delivery(target)?);
        let mut host = host(&reach, target);
        let plan = plan.plan();
        let reload = plan.steps.iter().any(|step| step.verb == Verb::Reload);
        let facts = delivery.execute(cx, &mut host, bundle, &plan.base, reload, &Own(undo)).await;
        host.client.close().await;
        facts
    }

    async fn validate(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Validation> {
        let (reach, delivery) = (self.reach(target)?, delivery(target)?);
        if let Some(validation) = delivery.probe(cx, bundle).await {
            return Ok(validation);
        }
        let mut host = host(&reach, target);
        let check = delivery.read_back(&mut host, bundle).await;
        host.client.close().await;
        Ok(verdict(vec![check?]))
    }

    async fn rollback(&self, cx: &Context, target: Target<'_, Self>, undo: Vec<Undo>) -> Result<RollbackOutcome> {
        self.check(target)?;
        if undo.is_empty() {
            return Ok(RollbackOutcome::NothingToDo);
        }
        let (reach, delivery) = (self.reach(target)?, delivery(target)?);
        let mut host = host(&reach, target);
        let outcome = delivery.rollback(cx, &mut host, &undo).await;
        host.client.close().await;
        outcome.map_err(|error| error.with_effect(Effect::Possible))
    }
}
