//! Sites, bindings, application pools and the central certificate store of IIS: its configuration, without http.sys.

use std::collections::BTreeMap;

use super::error::{Trips, WindowsError, WindowsResult};

/// The bit of `sslFlags` that asks for SNI.
pub const SNI: u32 = 1;

/// The bit of `sslFlags` that takes the certificate from the central store.
pub const CENTRAL_STORE: u32 = 2;

/// A binding of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Binding {
    /// `http` or `https`.
    pub protocol: String,
    /// `IP:port:host`, with `*` for every address and an empty host for every name.
    pub information: String,
    /// See the bits [`SNI`] and [`CENTRAL_STORE`]; others are kept.
    pub ssl_flags: u32,
    /// The thumbprint, upper case.
    pub certificate_hash: Option<String>,
    /// The store of the certificate.
    pub certificate_store: Option<String>,
}

impl Binding {
    /// A binding without a certificate.
    pub fn new(protocol: &str, information: &str, ssl_flags: u32) -> Self {
        Self {
            protocol: protocol.to_lowercase(),
            information: information.to_owned(),
            ssl_flags,
            certificate_hash: None,
            certificate_store: None,
        }
    }

    /// Address, port and host of the binding; `None` when it is not of that form.
    pub fn parts(&self) -> Option<(&str, u16, &str)> {
        // An IPv6 address stands in brackets and holds colons itself.
        let (rest, host) = self.information.rsplit_once(':')?;
        let (address, port) = rest.rsplit_once(':')?;
        Some((address, port.parse().ok()?, host))
    }
}

/// A site.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Site {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub started: bool,
    /// Its application pool.
    pub app_pool: String,
    /// Where it listens.
    pub bindings: Vec<Binding>,
}

/// An application pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppPool {
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub started: bool,
    /// How often it was recycled or restarted.
    pub recycles: u32,
}

/// The central certificate store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CentralStore {
    /// Whether it is switched on.
    pub enabled: bool,
    /// The folder with `<host>.pfx` files.
    pub path: String,
    /// The password of the PFX files.
    pub password: String,
}

/// The configuration of IIS. Names of sites and pools are compared without regard to case.
#[derive(Clone, Debug)]
pub struct Iis {
    /// Whether IIS is installed at all.
    pub installed: bool,
    /// The central certificate store.
    pub central_store: CentralStore,
    /// Another process is committing the configuration: changes fail with `0x80070020`.
    pub locked: bool,
    sites: Vec<Site>,
    pools: BTreeMap<String, AppPool>,
    trips: Trips,
    version: u64,
}

impl Iis {
    pub(super) fn new() -> Self {
        let mut iis = Self {
            installed: true,
            central_store: CentralStore::default(),
            locked: false,
            sites: Vec::new(),
            pools: BTreeMap::new(),
            trips: Trips::default(),
            version: 1,
        };
        iis.add_pool("DefaultAppPool");
        iis
    }

    /// Makes changes of a site (any, if the name is empty) fail: the first `skip` pass, then `times` fail.
    pub fn fail(&mut self, site: &str, skip: u32, times: u32, error: WindowsError) {
        self.trips.set(site, skip, times, error);
    }

    /// Forgets what [`Iis::fail`] was told.
    pub fn clear_failures(&mut self) {
        self.trips.clear();
    }

    /// Grows with every change of the configuration.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Adds a site that runs, in `DefaultAppPool`; the one of that name if there is one.
    pub fn add_site(&mut self, name: &str) -> &mut Site {
        self.version += 1;
        let at = self.sites.iter().position(|site| site.name.eq_ignore_ascii_case(name)).unwrap_or_else(|| {
            let id = self.sites.iter().map(|site| site.id).max().unwrap_or_default() + 1;
            let (name, app_pool) = (name.to_owned(), "DefaultAppPool".to_owned());
            self.sites.push(Site { id, name, started: true, app_pool, bindings: Vec::new() });
            self.sites.len() - 1
        });
        &mut self.sites[at]
    }

    /// Adds an application pool that runs.
    pub fn add_pool(&mut self, name: &str) {
        let pool = AppPool { name: name.to_owned(), started: true, recycles: 0 };
        self.pools.entry(name.to_lowercase()).or_insert(pool);
    }

    /// All application pools.
    pub fn pools(&self) -> impl Iterator<Item = &AppPool> {
        self.pools.values()
    }

    /// All sites.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// A site.
    ///
    /// # Errors
    /// `0x80070490` when there is none of that name.
    pub fn site(&self, name: &str) -> WindowsResult<&Site> {
        let found = self.sites.iter().find(|site| site.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| no_site(name))
    }

    /// A site that is to be changed; counts as a change.
    ///
    /// # Errors
    /// As [`Iis::site`], and `0x80070020` while the configuration is locked.
    pub fn site_mut(&mut self, name: &str) -> WindowsResult<&mut Site> {
        self.change(name)?;
        let found = self.sites.iter_mut().find(|site| site.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| no_site(name))
    }

    /// A binding of a site, by its full information.
    ///
    /// # Errors
    /// `0x80070490` when there is no such site or binding.
    pub fn binding(&self, site: &str, protocol: &str, information: &str) -> WindowsResult<&Binding> {
        let same = |binding: &&Binding| is(binding, protocol, information);
        self.site(site)?.bindings.iter().find(same).ok_or_else(|| no_binding(site, protocol, information))
    }

    /// Changes a binding of the configuration alone; [`Windows`](super::Windows) has what changes http.sys as well.
    ///
    /// # Errors
    /// As [`Iis::binding`] and [`Iis::site_mut`].
    pub fn edit_binding(
        &mut self,
        site: &str,
        protocol: &str,
        information: &str,
        change: impl FnOnce(&mut Binding),
    ) -> WindowsResult<()> {
        let binding = self.site_mut(site)?.bindings.iter_mut().find(|binding| is(binding, protocol, information));
        binding.map(change).ok_or_else(|| no_binding(site, protocol, information))
    }

    /// An application pool.
    ///
    /// # Errors
    /// `0x80070490` when there is none of that name.
    pub fn pool(&self, name: &str) -> WindowsResult<&AppPool> {
        self.pools.get(&name.to_lowercase()).ok_or_else(|| no_pool(name))
    }

    /// Recycles an application pool, which must run.
    ///
    /// # Errors
    /// `0x80070490` when there is none of that name, `0x80070426` when it is stopped.
    pub fn recycle_pool(&mut self, name: &str) -> WindowsResult<()> {
        let pool = self.pools.get_mut(&name.to_lowercase()).ok_or_else(|| no_pool(name))?;
        if !pool.started {
            let message = "The service has not been started.";
            return Err(WindowsError::new(0x8007_0426, "System.InvalidOperationException", message));
        }
        pool.recycles += 1;
        Ok(())
    }

    /// Starts or stops an application pool.
    ///
    /// # Errors
    /// `0x80070490` when there is none of that name.
    pub fn set_pool_started(&mut self, name: &str, started: bool) -> WindowsResult<()> {
        self.pools.get_mut(&name.to_lowercase()).ok_or_else(|| no_pool(name))?.started = started;
        Ok(())
    }

    pub(super) fn change(&mut self, site: &str) -> WindowsResult<()> {
        if self.locked {
            return Err(WindowsError::sharing_violation(
                "C:\\Windows\\System32\\inetsrv\\config\\applicationHost.config",
            ));
        }
        self.trips.check(site)?;
        self.version += 1;
        Ok(())
    }
}

pub(super) fn is(binding: &Binding, protocol: &str, information: &str) -> bool {
    binding.protocol.eq_ignore_ascii_case(protocol) && binding.information.eq_ignore_ascii_case(information)
}

fn no_site(name: &str) -> WindowsError {
    WindowsError::not_found(format_args!("the site '{name}'"))
}

fn no_binding(site: &str, protocol: &str, information: &str) -> WindowsError {
    WindowsError::not_found(format_args!("the binding {protocol}/{information} of the site '{site}'"))
}

fn no_pool(name: &str) -> WindowsError {
    WindowsError::not_found(format_args!("the application pool '{name}'"))
}
