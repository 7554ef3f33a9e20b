//! The `iis` module: certificates of sites of Internet Information Services, over WinRM.
//!
//! The certificate is imported into a store of the machine, in a PKCS#12 container under a password that is used once
//! and travels by standard input; the key cannot be exported from there by default. Then bindings are switched to it in
//! place, without a moment in which a site shows none: http.sys uses it from the next handshake on. Entries of http.sys
//! that belong to no site, and files of the central certificate store, are delivered to as well.
//!
//! # Settings
//! Location: [`IisLocation`]; configuration: [`IisConfig`]; credentials: [`IisCredentials`].
//!
//! ```
//! use certlib_core::module::{ErasedModule, TargetSpec};
//! use certlib_core::Secret;
//! use certlib_modules::iis::IisModule;
//! use serde_json::json;
//!
//! let target = TargetSpec::new(
//!     "t-1",
//!     "web-01",
//!     json!({"endpoints": [{"host": "web-01.example.com", "server_name": "www.example.com"}]}),
//!     json!({
//!         "url": "https://web-01.example.com:5986/wsman",
//!         "bindings": [{"site": "Default Web Site", "host": "www.example.com"}],
//!     }),
//!     Some(Secret::new(r#"{"login": {"method": "ntlm", "user": "EXAMPLE\\deploy", "password": "..."}}"#.to_owned())),
//! );
//! ErasedModule::check(&IisModule::new(), &target)?;
//! # Ok::<(), certlib_core::Error>(())
//! ```
//!
//! # Permissions
//! The login is an administrator of the machine, elevated: a local one other than the built-in needs
//! `LocalAccountTokenFilterPolicy = 1`. A central store on a share is not reached with NTLM (the "double hop").
//!
//! # What is promised
//! `dry_run` runs scripts that only read: it shows the certificate, each binding and endpoint with the thumbprint it
//! shows now, other sites that change with it because they share address and port, files, pools, and old certificates
//! that go. `rollback` makes every binding show its former certificate, takes bindings away that were made, puts files
//! back, and removes the certificate from the store if it was imported by this delivery and nothing shows it. It cannot
//! bring back certificates that were removed for their age; issuers that were added to the store `CA` stay.
//!
//! Certificates that were brought bear the friendly name `certlib:TARGET:TIME`; none without it is ever removed.

mod apply;
mod config;
mod plan;
mod rollback;
mod server;
mod survey;
mod undo;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use certlib_core::module::{
    ApprovedPlan, Capabilities, DistributionModule, Facts, Journal, Plan, RollbackOutcome, Target, Validation,
};
use certlib_core::{CertificateBundle, Context, Result};

pub use self::config::{
    CentralStore, CertificateStore, HttpSysEntry, IisConfig, IisCredentials, IisLocation, SiteBinding,
};
pub use self::undo::{Shown, Undo, Unit, UnitChange};
use crate::files::{Format, sha256};
use crate::net::{Lookup, SystemLookup};
use crate::winrm::WindowsOutput;
use crate::winrm::delivery::{Commands, Delivery};
use crate::winrm::host::Host;
use crate::winrm::wsman::{self, Client, Reach};

/// Delivers to IIS on a Windows machine that is reached by WinRM.
#[derive(Debug, Clone)]
pub struct IisModule {
    lookup: Arc<dyn Lookup>,
}

impl Default for IisModule {
    fn default() -> Self {
        Self::new()
    }
}

impl IisModule {
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

/// One target, with everything derived from its settings.
#[derive(Debug)]
struct Job<'a> {
    target: &'a str,
    config: &'a IisConfig,
    location: &'a IisLocation,
    machine: String,
    /// What the friendly names of this target's certificates start with.
    marker: String,
    /// The files of the central store.
    files: Option<Delivery<'a>>,
}

/// The files of the central store, one for each host.
fn central_files(location: &IisLocation) -> Vec<WindowsOutput> {
    let central = location.central_store.iter();
    central.flat_map(|central| central.hosts.iter().map(|host| WindowsOutput::new(central.file(host)))).collect()
}

impl<'a> Job<'a> {
    fn new(target: Target<'a, IisModule>, outputs: &'a [WindowsOutput]) -> Result<Self> {
        let Target { config, location, credentials, .. } = target;
        let machine = wsman::check(&location.url, &config.connection)?.to_string();
        let files = (!outputs.is_empty()).then(|| Delivery {
            module: IisModule::KIND,
            target: target.name,
            machine: machine.clone(),
            outputs: outputs.iter().map(|output| (Format::Pfx, output)).collect(),
            root: None,
            commands: Commands { limit: Duration::from_secs(60), ..Commands::default() },
            endpoints: &[],
            pfx: config.pfx,
            pfx_password: credentials.pfx_password.as_ref(),
        });
        let marker = format!("certlib:{}:", mark(target.id));
        Ok(Self { target: target.name, config, location, machine, marker, files })
    }
}

/// A target's id as it may stand in a friendly name.
fn mark(id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&id.len()) && id.chars().all(plain) { id.to_owned() } else { sha256(id.as_bytes()) }
}

/// A connection that is made when it is first needed.
fn host<'a>(reach: &'a Reach, target: Target<'a, IisModule>) -> Host<'a> {
    let IisConfig { connection, wsman, .. } = target.config;
    Host { client: Client::new(reach, connection, wsman, &target.credentials.login) }
}

impl DistributionModule for IisModule {
    const KIND: &'static str = "iis";
    type Config = IisConfig;
    type Credentials = IisCredentials;
    type Location = IisLocation;
    type Undo = Undo;

    fn capabilities(&self) -> Capabilities {
        // Each binding switches in one step; several do not switch together.
        Capabilities::default()
    }

    fn check(&self, target: Target<'_, Self>) -> Result<()> {
        let url = wsman::check(&target.location.url, &target.config.connection)?;
        target.location.check()?;
        target.config.check()?;
        target.credentials.login.check(&url)?;
        let outputs = central_files(target.location);
        match Job::new(target, &outputs)?.files {
            Some(files) => files.check(),
            None => Ok(()),
        }
    }

    async fn dry_run(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Plan> {
        self.check(target)?;
        let (reach, outputs) = (self.reach(target)?, central_files(target.location));
        let job = Job::new(target, &outputs)?;
        let mut host = host(&reach, target);
        let plan = job.plan(cx, &mut host, bundle).await;
        host.client.close().await;
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
        let (reach, outputs) = (self.reach(target)?, central_files(target.location));
        let job = Job::new(target, &outputs)?;
        let mut host = host(&reach, target);
        let facts = job.execute(cx, &mut host, bundle, plan.plan(), undo).await;
        host.client.close().await;
        facts
    }

    async fn validate(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Validation> {
        let (reach, outputs) = (self.reach(target)?, central_files(target.location));
        let job = Job::new(target, &outputs)?;
        if let Some(validation) = job.probe(cx, bundle).await {
            return Ok(validation);
        }
        let mut host = host(&reach, target);
        let validation = job.read_back(&mut host, bundle).await;
        host.client.close().await;
        validation
    }

    async fn rollback(&self, cx: &Context, target: Target<'_, Self>, undo: Vec<Undo>) -> Result<RollbackOutcome> {
        self.check(target)?;
        if undo.is_empty() {
            return Ok(RollbackOutcome::NothingToDo);
        }
        let (reach, outputs) = (self.reach(target)?, central_files(target.location));
        let job = Job::new(target, &outputs)?;
        let mut host = host(&reach, target);
        let outcome = job.rollback(cx, &mut host, undo).await;
        host.client.close().await;
        outcome
    }
}
