//! What changes IIS and http.sys together, as the APIs of IIS do.

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{
    CENTRAL_STORE, SNI, Windows, certificates,
    error::{WindowsError, WindowsResult},
    http_sys::{IIS_APP_ID, SslEntry, SslKey},
    iis::{Binding, is},
};

impl Windows {
    /// Adds a binding to a site, as `New-WebBinding` does: no certificate yet.
    ///
    /// # Errors
    /// `0x800700B7` when the site has it, `0x80070057` for information that is not `IP:port:host` and for `sslFlags`
    /// that this build does not know, and as [`Iis::site_mut`](super::Iis::site_mut).
    pub fn add_binding(&mut self, site: &str, protocol: &str, information: &str, ssl_flags: u32) -> WindowsResult<()> {
        let binding = Binding::new(protocol, information, ssl_flags);
        let Some((_, _, host)) = binding.parts() else {
            return Err(WindowsError::invalid_parameter(format_args!("bindingInformation '{information}'")));
        };
        if host.starts_with('*') && self.build() < 14_393 {
            return Err(WindowsError::invalid_parameter(format_args!("host '{host}'")));
        }
        self.check_flags(ssl_flags)?;
        let central = ssl_flags & CENTRAL_STORE != 0 && protocol.eq_ignore_ascii_case("https");
        let key = ssl_key(&binding);
        let site = self.iis.site_mut(site)?;
        if site.bindings.iter().any(|present| is(present, protocol, information)) {
            return Err(WindowsError::already_exists(information));
        }
        site.bindings.push(binding);
        if let Some(key) = key.filter(|key| central && self.http_sys.get(key).is_none()) {
            self.http_sys.add(key, SslEntry::new("", "", IIS_APP_ID))?;
        }
        Ok(())
    }

    /// Removes a binding, and its entry of http.sys if no other binding shares it.
    ///
    /// # Errors
    /// `0x80070490` when there is no such site or binding, `0x80070020` while the configuration is locked.
    pub fn remove_binding(&mut self, site: &str, protocol: &str, information: &str) -> WindowsResult<Binding> {
        let removed = self.iis.binding(site, protocol, information)?.clone();
        self.iis.site_mut(site)?.bindings.retain(|binding| !is(binding, protocol, information));
        if let Some(key) = ssl_key(&removed).filter(|key| !self.is_shared(key) && self.http_sys.get(key).is_some()) {
            self.http_sys.remove(&key)?;
        }
        Ok(removed)
    }

    /// Binds a certificate, as `AddSslCertificate` of a binding does: http.sys first (added or updated), then the
    /// configuration. Every binding that shares the entry of http.sys (same address and port, no SNI) shows it.
    ///
    /// # Errors
    /// `0x80070490` for an unknown site, binding or certificate; `0x80070520` when the private key is missing or was
    /// not persisted; `0x80070057` for a binding of the central store; `0x80070020` while the configuration is locked.
    pub fn add_ssl_certificate(
        &mut self,
        site: &str,
        information: &str,
        certificate_hash: &str,
        store: &str,
    ) -> WindowsResult<()> {
        let binding = self.iis.binding(site, "https", information)?.clone();
        let certificate = self.certificates.get(store, certificate_hash)?;
        if !certificate.has_private_key() || !certificate.persisted {
            return Err(WindowsError::no_logon_session());
        }
        let hash = certificate.thumbprint.clone();
        let key = ssl_key(&binding).filter(|_| binding.ssl_flags & CENTRAL_STORE == 0);
        let key = key.ok_or_else(|| WindowsError::invalid_parameter("The binding uses the central store."))?;
        self.iis.change(site)?;
        match self.http_sys.get(&key) {
            Some(present) => {
                // Whoever owns the entry keeps it.
                let entry = SslEntry::new(&hash, store, &present.app_id);
                self.http_sys.update(&key, entry)?;
            }
            None => self.http_sys.add(key.clone(), SslEntry::new(&hash, store, IIS_APP_ID))?,
        }
        self.show_in_bindings(&key, Some((hash, store.to_owned())));
        Ok(())
    }

    /// Takes the certificate from a binding, as `RemoveSslCertificate` does.
    ///
    /// # Errors
    /// `0x80070490` for an unknown site or binding, `0x80070020` while the configuration is locked.
    pub fn remove_ssl_certificate(&mut self, site: &str, information: &str) -> WindowsResult<()> {
        let key = ssl_key(self.iis.binding(site, "https", information)?);
        self.iis.change(site)?;
        if let Some(key) = key {
            if self.http_sys.get(&key).is_some() {
                self.http_sys.remove(&key)?;
            }
            self.show_in_bindings(&key, None);
        }
        Ok(())
    }

    /// Changes `sslFlags` of a binding, as `appcmd` does. A change of the SNI bit moves the certificate to the other
    /// kind of entry of http.sys.
    ///
    /// # Errors
    /// As [`Windows::add_binding`].
    pub fn set_ssl_flags(&mut self, site: &str, information: &str, ssl_flags: u32) -> WindowsResult<()> {
        self.check_flags(ssl_flags)?;
        let former = self.iis.binding(site, "https", information)?.clone();
        self.iis.edit_binding(site, "https", information, |binding| binding.ssl_flags = ssl_flags)?;
        let (Some(from), Some(to)) = (ssl_key(&former), ssl_key(&Binding { ssl_flags, ..former })) else {
            return Ok(());
        };
        if from != to
            && let Some(entry) = self.http_sys.get(&from).cloned()
        {
            if !self.is_shared(&from) {
                self.http_sys.remove(&from)?;
            }
            if self.http_sys.get(&to).is_none() {
                self.http_sys.add(to, entry)?;
            }
        }
        Ok(())
    }

    /// Whether anything answers on a port: when sites have https bindings there, one of them must run.
    pub(in super::super) fn listens(&self, port: u16) -> bool {
        let here = |binding: &Binding| ssl_key(binding).is_some_and(|key| key.port() == port);
        let mut sites = self.iis.sites().iter().filter(|site| site.bindings.iter().any(here)).peekable();
        sites.peek().is_none() || sites.any(|site| site.started)
    }

    /// What the central store has for a name: `NAME.pfx`, or `_.REST.pfx` for a wildcard.
    pub(in super::super) fn in_central_store(
        &self,
        name: &str,
    ) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let store = &self.iis.central_store;
        let folder = store.path.trim_end_matches('\\');
        let wildcard = name.split_once('.').map(|(_, rest)| format!("_.{rest}"));
        let names = [Some(name.to_owned()), wildcard].into_iter().flatten().filter(|_| store.enabled);
        let pfx = names.into_iter().find_map(|name| self.files.read(&format!("{folder}\\{name}.pfx")).ok())?;
        certificates::servable_pfx(&pfx, &store.password)
    }

    fn show_in_bindings(&mut self, key: &SslKey, shown: Option<(String, String)>) {
        let names: Vec<(String, String)> = self
            .iis
            .sites()
            .iter()
            .flat_map(|site| site.bindings.iter().map(move |binding| (site, binding)))
            .filter(|(_, binding)| ssl_key(binding).as_ref() == Some(key))
            .map(|(site, binding)| (site.name.clone(), binding.information.clone()))
            .collect();
        for (site, information) in names {
            let site = self.iis.add_site(&site);
            for binding in site.bindings.iter_mut().filter(|binding| is(binding, "https", &information)) {
                binding.certificate_hash = shown.as_ref().map(|(hash, _)| hash.clone());
                binding.certificate_store = shown.as_ref().map(|(_, store)| store.clone());
            }
        }
    }

    fn is_shared(&self, key: &SslKey) -> bool {
        let mut bindings = self.iis.sites().iter().flat_map(|site| &site.bindings);
        bindings.any(|binding| ssl_key(binding).as_ref() == Some(key))
    }

    fn check_flags(&self, flags: u32) -> WindowsResult<()> {
        let known = match self.build() {
            0..14_393 => 3,
            14_393..17_763 => 7,
            17_763..20_348 => 31,
            _ => 127,
        };
        if flags & !known == 0 {
            Ok(())
        } else {
            Err(WindowsError::invalid_parameter(format_args!("sslFlags {flags} on build {}", self.build())))
        }
    }
}

/// The entry of http.sys that an https binding uses.
pub(super) fn ssl_key(binding: &Binding) -> Option<SslKey> {
    if binding.protocol != "https" {
        return None;
    }
    let (address, port, host) = binding.parts()?;
    let address = if address == "*" { "0.0.0.0" } else { address };
    Some(match binding.ssl_flags {
        flags if flags & CENTRAL_STORE != 0 => SslKey::Ccs(port),
        flags if flags & SNI != 0 => SslKey::HostPort(host.to_lowercase(), port),
        _ => SslKey::IpPort(address.to_owned(), port),
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{ImportOptions, pfx_of},
        *,
    };
    use crate::pki::TestCa;

    fn host() -> (Windows, String, String) {
        let mut windows = Windows::new(20_348);
        windows.iis.add_site("Web");
        windows.iis.add_site("Other");
        let ca = TestCa::new("root").unwrap();
        let mut import = |name: &str| {
            let pfx = pfx_of(&ca.issue(&[name]).unwrap(), "pw").unwrap();
            windows.certificates.import_pfx("My", &pfx, "pw", &ImportOptions::default()).unwrap()
        };
        let (one, two) = (import("one.test"), import("two.test"));
        (windows, one, two)
    }

    #[test]
    fn bindings_without_sni_share_what_http_sys_serves() {
        let (mut windows, one, two) = host();
        windows.add_binding("Web", "https", "*:443:", 0).unwrap();
        windows.add_binding("Other", "https", "*:443:other.test", 0).unwrap();
        windows.add_binding("Web", "https", "*:443:sni.test", 1).unwrap();
        windows.add_ssl_certificate("web", "*:443:", &one, "My").unwrap();
        windows.add_ssl_certificate("Web", "*:443:sni.test", &one, "My").unwrap();
        windows.add_ssl_certificate("Other", "*:443:other.test", &two, "My").unwrap();
        let hash =
            |site, information| windows.iis.binding(site, "https", information).unwrap().certificate_hash.clone();
        assert_eq!(hash("Web", "*:443:"), Some(two.clone()), "the same entry of http.sys");
        assert_eq!(hash("Web", "*:443:sni.test"), Some(one));
        assert_eq!(windows.http_sys.entries().count(), 2);
        windows.remove_binding("Web", "https", "*:443:").unwrap();
        assert_eq!(windows.http_sys.entries().count(), 2, "the other site still uses it");
        windows.remove_ssl_certificate("Other", "*:443:other.test").unwrap();
        assert_eq!(windows.http_sys.entries().count(), 1);
    }

    #[test]
    fn what_cannot_be_bound_is_not() {
        let (mut windows, one, _) = host();
        windows.add_binding("Web", "https", "*:443:", 0).unwrap();
        let mut bind = |hash: &str| windows.add_ssl_certificate("Web", "*:443:", hash, "My").unwrap_err().code;
        assert_eq!(bind("00"), 0x8007_0490);
        windows.certificates.drop_key("My", &one).unwrap();
        let mut bind = |hash: &str| windows.add_ssl_certificate("Web", "*:443:", hash, "My").unwrap_err().code;
        assert_eq!(bind(&one), 0x8007_0520);
        assert_eq!(windows.add_binding("Web", "https", "*:443:", 0).unwrap_err().code, 0x8007_00B7);
        assert_eq!(windows.add_binding("Web", "https", "443", 0).unwrap_err().code, 0x8007_0057);
        windows.iis.locked = true;
        assert_eq!(windows.add_binding("Web", "https", "*:444:", 0).unwrap_err().code, 0x8007_0020);
    }

    #[test]
    fn flags_depend_on_the_build_and_move_the_certificate() {
        let (mut windows, one, _) = host();
        windows.add_binding("Web", "https", "*:443:a.test", 0).unwrap();
        windows.add_ssl_certificate("Web", "*:443:a.test", &one, "My").unwrap();
        windows.set_ssl_flags("Web", "*:443:a.test", 5).unwrap();
        assert!(windows.http_sys.get(&SslKey::HostPort("a.test".into(), 443)).is_some());
        assert!(windows.http_sys.get(&SslKey::IpPort("0.0.0.0".into(), 443)).is_none());
        windows.set_build(14_393);
        assert_eq!(windows.set_ssl_flags("Web", "*:443:a.test", 9).unwrap_err().code, 0x8007_0057);
    }
}
