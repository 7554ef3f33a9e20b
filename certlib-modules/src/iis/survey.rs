//! Looking at the machine: what is shown, what should be shown, and whether that can work.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use certlib_core::{CertificateBundle, Error, Result};

use super::Job;
use super::config::SiteBinding;
use super::server::{Seen, look};
use super::undo::{Shown, Unit};
use crate::files::{PfxProfile, sha256};
use crate::winrm::host::Host;

/// Windows Server 2012: the first with SNI.
const BUILD_2012: u32 = 9_200;

/// Windows Server 2016: the first with wildcards in host headers.
const BUILD_2016: u32 = 14_393;

/// Windows Server 2019: the first that reads AES in PKCS#12.
const BUILD_2019: u32 = 17_763;

/// `sslFlags`: the name decides.
const SNI: u32 = 1;

/// `sslFlags`: the certificate comes from the central store.
const CENTRAL: u32 = 2;

const OPERATION: &str = "iis.survey";

/// One thing that should show the certificate, and what it shows.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) unit: Unit,
    /// `None` when it is not there.
    pub(super) found: Option<Shown>,
    pub(super) wanted: Shown,
    /// It is right already.
    pub(super) keep: bool,
    /// What else shows the same entry of http.sys, and changes with it.
    pub(super) others: Vec<String>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) seen: Seen,
    pub(super) items: Vec<Item>,
    /// SHA-1 of the certificate, upper-case hex.
    pub(super) thumbprint: String,
    /// The certificate is in the store, with its key.
    pub(super) imported: bool,
}

impl Job<'_> {
    /// Looks at the machine. Nothing is looked at, and nothing found, when only files are delivered.
    pub(super) async fn survey(&self, host: &mut Host<'_>, bundle: &CertificateBundle) -> Result<Option<Survey>> {
        if self.location.bindings.is_empty() && self.location.http_sys.is_empty() && self.config.app_pools.is_empty() {
            return Ok(None);
        }
        let seen = look(host, self.location.store).await?;
        self.check_machine(&seen)?;
        let thumbprint = thumbprint(bundle);
        let imported = seen
            .certificate(&thumbprint)
            .is_some_and(|found| found.has_key && found.sha256 == bundle.fingerprint().to_string());
        let mut items = Vec::new();
        for binding in &self.location.bindings {
            check_names(bundle, &binding.host)?;
            items.push(self.binding(&seen, binding, &thumbprint, imported)?);
        }
        for entry in &self.location.http_sys {
            check_names(bundle, entry.host().unwrap_or_default())?;
            let unit = Unit::Endpoint { key: entry.endpoint.clone(), by: entry.by().to_owned() };
            let found = seen.shown(&unit);
            if found.is_none() && entry.appid.is_none() {
                let why = "http.sys has no such entry; to make it, `appid` says for which application";
                return Err(Error::validation(OPERATION, "endpoint_missing", why).with("endpoint", &entry.endpoint));
            }
            let appid = found.as_ref().map(|found| found.appid.clone()).or_else(|| entry.appid.clone());
            let appid = appid.unwrap_or_default();
            items.push(self.item(unit, found, Shown { appid, ..self.shown(&thumbprint, 0) }, imported, Vec::new()));
        }
        Ok(Some(Survey { seen, items, thumbprint, imported }))
    }

    fn check_machine(&self, seen: &Seen) -> Result<()> {
        let needs_iis = !self.location.bindings.is_empty() || !self.config.app_pools.is_empty();
        let problem = if !seen.elevated {
            return Err(Error::auth(
                OPERATION,
                "not_elevated",
                "the login is no administrator here; a local one other than the built-in needs \
                 LocalAccountTokenFilterPolicy = 1",
            ));
        } else if needs_iis && !seen.web_administration {
            ("iis_missing", "IIS with its PowerShell module WebAdministration is not installed")
        } else if seen.build < BUILD_2019 && self.config.pfx.profile == PfxProfile::Modern {
            ("pfx_profile_unsupported", "this Windows cannot read modern PKCS#12; set `pfx.profile` to `legacy`")
        } else if let Some(missing) = self.config.app_pools.iter().find(|pool| !holds(&seen.pools, pool)) {
            let why = "IIS has no application pool of this name";
            return Err(Error::validation(OPERATION, "pool_missing", why).with("pool", missing.escape_debug()));
        } else {
            return Ok(());
        };
        Err(Error::validation(OPERATION, problem.0, problem.1).with("build", seen.build))
    }

    fn binding(&self, seen: &Seen, binding: &SiteBinding, thumbprint: &str, imported: bool) -> Result<Item> {
        let info = binding.info();
        let refused = |code: &'static str, why: &str| {
            let error = Error::validation(OPERATION, code, why);
            Err(error.with("site", binding.site.escape_debug()).with("binding", info.escape_debug()))
        };
        if !holds(&seen.sites, &binding.site) {
            return refused("site_missing", "IIS has no site of this name");
        }
        let unit = Unit::Binding { site: binding.site.clone(), info: info.clone() };
        let found = seen.shown(&unit);
        let flags = match &found {
            Some(found) if found.flags & CENTRAL != 0 => {
                let why = "the binding takes its certificate from the central store; deliver there instead";
                return refused("binding_uses_central_store", why);
            }
            // What the administrator has set stays.
            Some(found) => found.flags,
            None if !binding.create => {
                return refused("binding_missing", "the site has no such binding; `create` makes it");
            }
            None if !binding.host.is_empty() && seen.build < BUILD_2012 => {
                return refused("sni_unsupported", "this Windows cannot tell host names apart");
            }
            None if binding.host.starts_with('*') && seen.build < BUILD_2016 => {
                return refused("wildcard_unsupported", "this Windows knows no wildcards in host headers");
            }
            None => {
                if binding.host.is_empty() {
                    0
                } else {
                    SNI
                }
            }
        };
        let others = if flags & SNI == 0 { sharing(seen, &binding.site, &info) } else { Vec::new() };
        Ok(self.item(unit, found, self.shown(thumbprint, flags), imported, others))
    }

    fn shown(&self, thumbprint: &str, flags: u32) -> Shown {
        let store = self.location.store.as_str().to_owned();
        Shown { hash: thumbprint.to_owned(), store, flags, appid: String::new() }
    }

    fn item(&self, unit: Unit, found: Option<Shown>, wanted: Shown, imported: bool, others: Vec<String>) -> Item {
        let keep = imported
            && found
                .as_ref()
                .is_some_and(|found| found.hash == wanted.hash && found.store.eq_ignore_ascii_case(&wanted.store));
        Item { unit, found, wanted, keep, others }
    }
}

impl Survey {
    /// A digest of what the units show: it stays as it is when the certificate is imported.
    pub(super) fn units_digest(&self) -> String {
        let state: Vec<_> = self.items.iter().map(|item| (&item.unit, &item.found)).collect();
        // Strings and numbers always encode.
        sha256(&serde_json::to_vec(&state).unwrap_or_default())
    }
}

/// SHA-1 of the leaf, upper-case hex: what Windows names certificates by.
pub(super) fn thumbprint(bundle: &CertificateBundle) -> String {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, bundle.leaf_der());
    digest.as_ref().iter().fold(String::with_capacity(40), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// Bindings of other names that share address and port without SNI: http.sys has one entry for all of them.
fn sharing(seen: &Seen, site: &str, info: &str) -> Vec<String> {
    let address = |info: &str| info.rsplit_once(':').map(|(address, _)| address.to_ascii_lowercase());
    let shares = seen.bindings.iter().filter(|other| {
        other.flags & (SNI | CENTRAL) == 0
            && address(&other.info) == address(info)
            && !(other.site.eq_ignore_ascii_case(site) && other.info.eq_ignore_ascii_case(info))
    });
    shares.map(|other| format!("{} {}", other.site, other.info)).collect()
}

fn holds(names: &[String], name: &str) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// A certificate for other names than the binding's would be served, but not believed.
pub(super) fn check_names(bundle: &CertificateBundle, host: &str) -> Result<()> {
    let names = &bundle.leaf().names;
    if host.is_empty() || names.iter().any(|name| covers(name, host)) {
        return Ok(());
    }
    let why = "the certificate is not for the host name of the binding";
    Err(Error::validation(OPERATION, "name_not_covered", why).with("host", host).with("names", names.join(" ")))
}

fn covers(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    let parent = |name: &str| name.split_once('.').map(|(_, parent)| parent.to_ascii_lowercase());
    name.starts_with("*.") && !host.starts_with('*') && parent(name) == parent(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cover_hosts() {
        assert!(covers("a.test", "A.test") && covers("*.a.test", "x.A.test") && covers("*.a.test", "*.a.test"));
        assert!(!covers("a.test", "*.a.test") && !covers("*.a.test", "a.test") && !covers("*.a.test", "x.y.a.test"));
        assert!(!covers("a.test", "b.test"));
    }
}
