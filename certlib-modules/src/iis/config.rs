//! The settings of an `iis` target.

use std::net::SocketAddr;

use certlib_core::secret::SecretString;
use certlib_core::{Error, Result};
use serde::Deserialize;

use crate::files::PfxOptions;
use crate::net::Connection;
use crate::probe::Endpoint;
use crate::winrm::{Login, WsmanSettings};

/// How many bindings, endpoints, hosts and pools a target may name, each.
const MOST: usize = 64;

/// Where to deliver: at least one of `bindings`, `http_sys` and `central_store`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IisLocation {
    /// The URL of WinRM, such as `https://web-01.example.com:5986/wsman`.
    pub url: String,
    /// Which store of the machine the certificate goes into: `My` or `WebHosting`.
    #[serde(default)]
    pub store: CertificateStore,
    /// Bindings of sites.
    #[serde(default)]
    pub bindings: Vec<SiteBinding>,
    /// Entries of http.sys that belong to no site.
    #[serde(default)]
    pub http_sys: Vec<HttpSysEntry>,
    /// Files of the central certificate store.
    #[serde(default)]
    pub central_store: Option<CentralStore>,
}

/// A store of certificates of the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum CertificateStore {
    /// What Windows shows as *Personal*.
    #[default]
    My,
    /// For many certificates, from Windows Server 2012 on.
    WebHosting,
}

impl CertificateStore {
    /// Its name, as Windows has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::My => "My",
            Self::WebHosting => "WebHosting",
        }
    }
}

/// An https binding of a site.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SiteBinding {
    /// The name of the site.
    pub site: String,
    /// The address it listens on, `*` by default: all of them.
    #[serde(default = "all_addresses")]
    pub ip: String,
    /// The TCP port, 443 by default.
    #[serde(default = "https")]
    pub port: u16,
    /// The host header; empty by default: any.
    #[serde(default)]
    pub host: String,
    /// Makes the binding if there is none. One with a host header then uses SNI.
    #[serde(default)]
    pub create: bool,
}

/// An entry of http.sys: what a service without IIS shows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HttpSysEntry {
    /// `0.0.0.0:8443`, `[::]:8443`, or `host:8443` for one name (SNI).
    pub endpoint: String,
    /// The application that the entry is made for, `{guid}`, if there is none yet. An existing one keeps its own.
    #[serde(default)]
    pub appid: Option<String>,
}

/// The central certificate store: a directory with one PKCS#12 file for each host name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CentralStore {
    /// The directory, as the machine that WinRM runs on reaches it.
    pub directory: String,
    /// Host names; `*.example.com` becomes `_.example.com.pfx`.
    pub hosts: Vec<String>,
}

fn all_addresses() -> String {
    "*".to_owned()
}

fn https() -> u16 {
    443
}

/// How to deliver. Everything has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct IisConfig {
    /// How to reach WinRM.
    pub connection: Connection,
    /// How to speak with it.
    pub wsman: WsmanSettings,
    /// Where the certificate must be served afterwards. Without any, validation reads the bindings back.
    pub endpoints: Vec<Endpoint>,
    /// How PKCS#12 containers are made; Windows before build 17763 needs the profile `legacy`.
    pub pfx: PfxOptions,
    /// Lets the private key be exported from the store again.
    pub exportable: bool,
    /// Application pools to recycle afterwards. http.sys needs none of it; an application that has opened the
    /// certificate itself may.
    pub app_pools: Vec<String>,
    /// How many of the certificates that this target brought stay in the store, the new one included; from 2 on, so
    /// that the former one is there to go back to. Older ones that nothing shows are removed.
    pub keep: usize,
}

impl Default for IisConfig {
    fn default() -> Self {
        Self {
            connection: Connection::default(),
            wsman: WsmanSettings::default(),
            endpoints: Vec::new(),
            pfx: PfxOptions::default(),
            exportable: false,
            app_pools: Vec::new(),
            keep: 2,
        }
    }
}

/// How to log in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IisCredentials {
    /// The way to log in, and its secrets.
    pub login: Login,
    /// The password of the central certificate store's files.
    #[serde(default)]
    pub pfx_password: Option<SecretString>,
}

impl IisLocation {
    /// Checks what can be checked without the machine.
    ///
    /// # Errors
    /// `Validation`: `nothing_to_bind`, `site_invalid`, `binding_invalid`, `endpoint_invalid`, `appid_invalid`,
    /// `host_invalid`, `binding_duplicate`.
    pub(super) fn check(&self) -> Result<()> {
        let hosts = self.central_store.as_ref().map_or(0, |central| central.hosts.len());
        let count = self.bindings.len() + self.http_sys.len() + hosts;
        if count == 0 || count > MOST {
            return invalid("nothing_to_bind", "name from 1 to 64 bindings, endpoints and hosts", "bindings");
        }
        for (index, binding) in self.bindings.iter().enumerate() {
            binding.check()?;
            let same = |other: &SiteBinding| {
                other.site.eq_ignore_ascii_case(&binding.site) && other.info().eq_ignore_ascii_case(&binding.info())
            };
            if self.bindings[..index].iter().any(same) {
                return invalid("binding_duplicate", "a binding is named twice", "bindings");
            }
        }
        for (index, entry) in self.http_sys.iter().enumerate() {
            entry.check()?;
            if self.http_sys[..index].iter().any(|other| other.endpoint.eq_ignore_ascii_case(&entry.endpoint)) {
                return invalid("binding_duplicate", "an endpoint is named twice", "http_sys");
            }
        }
        let hosts = self.central_store.iter().flat_map(|central| &central.hosts);
        for host in hosts {
            if !is_host(host) {
                return invalid("host_invalid", "a host is a DNS name, or `*.` and one", "central_store.hosts");
            }
        }
        Ok(())
    }
}

impl SiteBinding {
    /// What IIS calls the binding: `ip:port:host`.
    pub(super) fn info(&self) -> String {
        let Self { ip, port, host, .. } = self;
        if ip.contains(':') && !ip.starts_with('[') {
            format!("[{ip}]:{port}:{host}")
        } else {
            format!("{ip}:{port}:{host}")
        }
    }

    fn check(&self) -> Result<()> {
        if !is_name(&self.site) {
            return invalid("site_invalid", "that is not the name of a site", "bindings.site");
        }
        let bare = self.ip.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&self.ip);
        if self.ip != "*" && bare.parse::<std::net::IpAddr>().is_err() {
            return invalid("binding_invalid", "an address is an IP address or `*`", "bindings.ip");
        }
        if self.port == 0 || !(self.host.is_empty() || is_host(&self.host)) {
            return invalid(
                "binding_invalid",
                "a binding has a port, and a DNS name or nothing as host",
                "bindings.host",
            );
        }
        Ok(())
    }
}

impl HttpSysEntry {
    /// The kind of entry, as `netsh` names it.
    pub(super) fn by(&self) -> &'static str {
        if self.endpoint.parse::<SocketAddr>().is_ok() { "ipport" } else { "hostnameport" }
    }

    /// The name, if the entry is for one.
    pub(super) fn host(&self) -> Option<&str> {
        if self.by() == "ipport" { None } else { self.endpoint.rsplit_once(':').map(|(host, _)| host) }
    }

    fn check(&self) -> Result<()> {
        let named = self.endpoint.rsplit_once(':').is_some_and(|(host, port)| {
            is_host(host) && port.parse::<u16>().is_ok_and(|port| port != 0) && !port.starts_with('+')
        });
        let addressed = self.endpoint.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0);
        if !named && !addressed {
            return invalid("endpoint_invalid", "an endpoint is `address:port` or `host:port`", "http_sys.endpoint");
        }
        let guid = |text: &str| {
            let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            inner.is_some_and(|inner| inner.len() == 36 && uuid::Uuid::try_parse(inner).is_ok())
        };
        if self.appid.as_ref().is_some_and(|appid| !guid(appid)) {
            return invalid("appid_invalid", "an application is `{guid}`", "http_sys.appid");
        }
        Ok(())
    }
}

impl CentralStore {
    /// The file of a host.
    pub(super) fn file(&self, host: &str) -> String {
        let name = host.to_lowercase().replacen('*', "_", 1);
        format!("{}\\{name}.pfx", self.directory.trim_end_matches('\\'))
    }
}

impl IisConfig {
    /// Checks what can be checked without the machine.
    ///
    /// # Errors
    /// `Validation`: `pool_invalid`, `keep_invalid`, `endpoint_invalid`, as [`WsmanSettings::check`].
    pub(super) fn check(&self) -> Result<()> {
        self.wsman.check()?;
        if self.app_pools.len() > MOST || !self.app_pools.iter().all(|pool| is_name(pool)) {
            return invalid("pool_invalid", "that is not the name of an application pool", "app_pools");
        }
        if !(2..=100).contains(&self.keep) {
            return invalid("keep_invalid", "from 2 to 100 certificates are kept", "keep");
        }
        self.endpoints.iter().try_for_each(Endpoint::check)
    }
}

/// Names that no part of PowerShell takes for a pattern or a path.
fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.trim() == name
        && !name.chars().any(|c| c.is_control() || r#"*?[]'"`$/\<>|"#.contains(c))
}

fn is_host(host: &str) -> bool {
    let bare = host.strip_prefix("*.").unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    bare.len() <= 253 && bare.split('.').all(label) && bare.parse::<std::net::IpAddr>().is_err()
}

fn invalid(code: &'static str, why: &str, field: &str) -> Result<()> {
    Err(Error::validation("iis.check", code, why).with("field", field))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn code(mut location: Value) -> String {
        location["url"] = json!("https://h/");
        let location: IisLocation = serde_json::from_value(location).unwrap();
        location.check().map_or_else(|error| error.code().to_owned(), |()| "fine".to_owned())
    }

    #[test]
    fn locations() {
        let binding = |rest: Value| {
            let mut binding = json!({"site": "Default Web Site"});
            binding.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            code(json!({"bindings": [binding]}))
        };
        assert_eq!(binding(json!({})), "fine");
        assert_eq!(binding(json!({"host": "*.example.com", "ip": "10.0.0.1", "port": 8443})), "fine");
        assert_eq!(binding(json!({"ip": "::1"})), "fine");
        assert_eq!(binding(json!({"site": "a*"})), "site_invalid");
        assert_eq!(binding(json!({"site": "it's"})), "site_invalid");
        assert_eq!(binding(json!({"ip": "any"})), "binding_invalid");
        assert_eq!(binding(json!({"port": 0})), "binding_invalid");
        assert_eq!(binding(json!({"host": "a b"})), "binding_invalid");
        assert_eq!(binding(json!({"host": "10.0.0.1"})), "binding_invalid");
        assert_eq!(code(json!({})), "nothing_to_bind");
        let twice = json!([{"site": "a", "host": "x.test"}, {"site": "A", "host": "X.test"}]);
        assert_eq!(code(json!({"bindings": twice})), "binding_duplicate");
        let entry = |endpoint: &str| code(json!({"http_sys": [{"endpoint": endpoint}]}));
        assert_eq!([entry("0.0.0.0:8443"), entry("[::]:8443"), entry("a.test:443")], ["fine", "fine", "fine"]);
        for bad in ["", "0.0.0.0", "0.0.0.0:0", "a b:443", "a:b:443", "*:443", "a.test:99999"] {
            assert_eq!(entry(bad), "endpoint_invalid", "{bad}");
        }
        let appid = |appid: &str| code(json!({"http_sys": [{"endpoint": "a:1", "appid": appid}]}));
        assert_eq!(appid("{4dc3e181-e14b-4a21-b022-59fc669b0914}"), "fine");
        assert_eq!(appid("4dc3e181-e14b-4a21-b022-59fc669b0914"), "appid_invalid");
        assert_eq!(code(json!({"central_store": {"directory": "D:\\ccs", "hosts": ["a/b"]}})), "host_invalid");
    }

    #[test]
    fn names_of_bindings_and_files() {
        let binding: SiteBinding = serde_json::from_value(json!({"site": "s", "ip": "::1", "host": "h"})).unwrap();
        assert_eq!(binding.info(), "[::1]:443:h");
        let central = CentralStore { directory: r"D:\ccs\".into(), hosts: Vec::new() };
        assert_eq!(central.file("*.Example.com"), r"D:\ccs\_.example.com.pfx");
        let entry = HttpSysEntry { endpoint: "A.test:443".into(), appid: None };
        assert_eq!((entry.by(), entry.host()), ("hostnameport", Some("A.test")));
    }

    #[test]
    fn configurations() {
        IisConfig::default().check().unwrap();
        for (json, code) in [
            (r#"{"app_pools": ["a[b]"]}"#, "pool_invalid"),
            (r#"{"keep": 1}"#, "keep_invalid"),
            (r#"{"endpoints": [{"host": ""}]}"#, "endpoint_invalid"),
        ] {
            let config: IisConfig = serde_json::from_str(json).unwrap();
            assert_eq!(config.check().unwrap_err().code(), code);
        }
        assert!(serde_json::from_str::<IisConfig>(r#"{"iisreset": true}"#).is_err());
    }
}
