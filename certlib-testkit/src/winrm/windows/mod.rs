//! The simulated Windows: what scripts and commands act on, and what tests arrange and look at.

mod accounts;
mod certificates;
mod error;
mod files;
mod http_sys;
mod iis;
mod path;
mod sites;

use std::collections::{BTreeMap, BTreeSet};

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, LocalKeyId, PrivateKey, PrivateKeyChain};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use self::accounts::Accounts;
pub use self::{
    certificates::{CertificateStores, ImportOptions, StoredCertificate, thumbprint},
    error::{WindowsError, WindowsResult},
    files::{FileInfo, FileSystem},
    http_sys::{HttpSys, IIS_APP_ID, SslEntry, SslKey},
    iis::{AppPool, Binding, CENTRAL_STORE, CentralStore, Iis, SNI, Site},
};
use crate::{Error, Result, pki::Issued};

/// A service of Windows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Service {
    /// Whether it runs.
    pub running: bool,
    /// How often it was started.
    pub starts: u32,
}

/// The state of one Windows host. Handlers of scripts get it, and so do tests, through
/// [`WinRmSim::with`](super::WinRmSim::with).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Windows {
    /// The name of the computer, upper case.
    pub computer_name: String,
    /// The version of PowerShell.
    pub powershell_version: String,
    /// The PowerShell modules that are there.
    pub modules: BTreeSet<String>,
    /// Whether remote logins are elevated; UAC takes that from local accounts other than the first.
    pub elevated: bool,
    /// Files and shares.
    pub files: FileSystem,
    /// Certificates.
    pub certificates: CertificateStores,
    /// Sites and pools.
    pub iis: Iis,
    /// TLS bindings.
    pub http_sys: HttpSys,
    /// Services, by name in lower case.
    pub services: BTreeMap<String, Service>,
    accounts: Accounts,
    build: u32,
}

impl Windows {
    /// A host with a `C:` drive, empty certificate stores, IIS without a site, and the PowerShell modules for both.
    pub(super) fn new(build: u32) -> Self {
        let modules = ["PKI", "WebAdministration", "IISAdministration"].map(str::to_owned).into();
        Self {
            computer_name: "WINSIM".to_owned(),
            powershell_version: "5.1".to_owned(),
            modules,
            elevated: true,
            files: FileSystem::new(),
            certificates: CertificateStores::new(build),
            iis: Iis::new(),
            http_sys: HttpSys::default(),
            services: BTreeMap::new(),
            accounts: Accounts::default(),
            build,
        }
    }

    /// The build of Windows: 14393 is Server 2016, 17763 is 2019, 20348 is 2022.
    pub fn build(&self) -> u32 {
        self.build
    }

    /// Changes the build.
    pub fn set_build(&mut self, build: u32) {
        self.build = build;
        self.certificates.build = build;
    }

    /// Adds an account with its SID; those that every Windows has, and those of services and application pools, are
    /// there without it.
    pub fn add_account(&mut self, name: &str, sid: &str) {
        self.accounts.add(name, sid);
    }

    /// The SID of an account, in any case; `None` when there is none of that name. A service and an application pool
    /// have one each: `NT SERVICE\NAME` and `IIS APPPOOL\NAME`.
    #[must_use]
    pub fn sid_of(&self, name: &str) -> Option<String> {
        let last = name.rsplit('\\').next().unwrap_or(name);
        let is = |authority: &str| name.to_lowercase() == format!("{authority}\\{}", last.to_lowercase());
        if is("nt service") && self.services.contains_key(&last.to_lowercase()) {
            return Some(accounts::service_sid(last));
        }
        if is("iis apppool") && self.iis.pool(last).is_ok() {
            return Some(accounts::pool_sid(last));
        }
        self.accounts.sid(name)
    }

    /// Adds a service that runs.
    pub fn add_service(&mut self, name: &str) {
        self.services.insert(name.to_lowercase(), Service { running: true, starts: 1 });
    }

    /// Restarts a service.
    ///
    /// # Errors
    /// `0x80070490` when there is none of that name.
    pub fn restart_service(&mut self, name: &str) -> WindowsResult<()> {
        let service = self.services.get_mut(&name.to_lowercase());
        let service = service.ok_or_else(|| WindowsError::not_found(format_args!("any service with name '{name}'")))?;
        service.running = true;
        service.starts += 1;
        Ok(())
    }
}

/// A SID as SDDL gives it back: abbreviated where that is possible.
pub(super) fn sddl_sid(sid: &str) -> &str {
    accounts::abbreviation(sid).unwrap_or(sid)
}

/// A PFX (AES-256) of a certificate with its chain and key, to set a host up with.
///
/// # Errors
/// [`Error::Crypto`] when certificate or key cannot be read.
pub fn pfx_of(issued: &Issued, password: &str) -> Result<Vec<u8>> {
    let failed = |error: &dyn std::fmt::Display| Error::Crypto(error.to_string());
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).map_err(|error| failed(&error))?;
    let key = PrivateKey::from_der(key.secret_der()).map_err(|error| failed(&error))?;
    let mut chain = Vec::new();
    for der in CertificateDer::pem_slice_iter(issued.full_chain().as_bytes()) {
        let der = der.map_err(|error| failed(&error))?;
        chain.push(Certificate::from_der(&der).map_err(|error| failed(&error))?);
    }
    let mut keystore = KeyStore::new();
    let chain = PrivateKeyChain::new(LocalKeyId(vec![1, 0, 0, 0]), key, chain);
    keystore.add_entry("simulated", KeyStoreEntry::PrivateKeyChain(chain));
    keystore.writer(password).encryption_iterations(2000).write().map_err(|error| failed(&error))
}
