//! Looking at the unit: profiles, files, virtual servers, devices.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest;
use certlib_core::CertificateBundle;
use certlib_core::bundle::Fingerprint;
use certlib_core::error::{Error, ErrorClass, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::OPERATION;
use super::config::ProfileKind;
use super::names;
use super::profile::{Described, Selection};
use super::session::Session;

/// How many items are asked for at once.
const PAGE: usize = 100;
/// How many pages are asked for at most.
const PAGES: usize = 1_000;

/// A certificate file as the unit describes it, as far as it matters here.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CertInfo {
    full_path: String,
    /// `SHA1:SIZE:HEX` of the file.
    #[serde(default)]
    checksum: Option<String>,
    /// `SHA256/AA:BB...` of the certificate; older versions have none.
    #[serde(default)]
    fingerprint: Option<String>,
    /// Seconds since 1970.
    #[serde(default)]
    expiration_date: Option<i64>,
    /// `rsa-public` or `ec-public`.
    #[serde(default)]
    key_type: Option<String>,
    #[serde(default)]
    is_bundle: Option<String>,
}

impl CertInfo {
    const FIELDS: &'static str = "fullPath,checksum,fingerprint,expirationDate,keyType,isBundle";

    /// The leaf that is in there.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint.as_deref()?.strip_prefix("SHA256/")?.parse().ok()
    }

    /// Whether the first certificate in there is the one at `index` of the bundle.
    pub(super) fn holds(&self, bundle: &CertificateBundle, index: usize) -> bool {
        let Some(der) = bundle.certificates().get(index) else { return false };
        match self.fingerprint() {
            Some(found) => found == Fingerprint::of(der),
            None => {
                let pem = if index == 0 { bundle.leaf_pem() } else { bundle.chain_pem() };
                self.checksum.as_deref().is_some_and(|sum| sum == checksum(pem.as_bytes()))
            }
        }
    }

    /// Whether it was the same file, as far as the unit tells.
    pub(super) fn same(&self, recorded: &str) -> bool {
        self.checksum.as_deref().is_none_or(|sum| sum == recorded)
    }

    pub(super) fn has_issuers(&self) -> bool {
        self.is_bundle.as_deref() == Some("true")
    }

    pub(super) fn expires(&self) -> Option<i64> {
        self.expiration_date
    }

    /// Whether its key is of the kind that `prefix` stands for.
    pub(super) fn has_key_type(&self, prefix: &str) -> bool {
        self.key_type.as_deref().is_some_and(|kind| kind.to_ascii_lowercase().starts_with(prefix))
    }

    /// What changes whenever its content does.
    pub(super) fn digest(&self) -> &str {
        self.checksum.as_deref().or(self.fingerprint.as_deref()).unwrap_or("unknown")
    }

    /// As a line of a plan shows it.
    pub(super) fn show(&self) -> String {
        self.fingerprint().map_or_else(|| self.digest().to_owned(), |found| found.to_string())
    }
}

/// The checksum that a file with this content gets.
pub(super) fn checksum(content: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, content);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("SHA1:{}:{hex}", content.len())
}

/// All certificate and key files.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) certs: BTreeMap<String, CertInfo>,
    pub(super) keys: BTreeSet<String>,
}

/// Who uses what, over all profiles.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// Files that a profile names.
    pub(super) files: BTreeSet<String>,
    /// Profiles that take their certificate from another: by that other one.
    pub(super) children: BTreeMap<(ProfileKind, String), Vec<String>>,
    /// Virtual servers by the profiles that they use.
    pub(super) virtual_servers: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Page<T> {
    // An empty collection has no items at all.
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    full_path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VirtualServer {
    full_path: String,
    #[serde(default)]
    profiles_reference: Option<Page<Named>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    #[serde(default)]
    failover_state: Option<String>,
    #[serde(default)]
    self_device: Option<String>,
}

impl Session<'_> {
    /// Refuses to go on unless this is the active unit.
    ///
    /// # Errors
    /// `IoTransient` `unit_not_active`: a failover may change that.
    pub(super) async fn check_active(&self) -> Result<()> {
        if !self.config.require_active {
            return Ok(());
        }
        let query = [("$select", "name,failoverState,selfDevice")];
        let devices: Option<Page<Device>> = self.read(&["tm", "cm", "device"], &query).await?;
        let devices = devices.map(|page| page.items).unwrap_or_default();
        let own = devices.into_iter().find(|device| device.self_device.as_deref() == Some("true"));
        match own.and_then(|own| own.failover_state) {
            Some(state) if state != "active" => {
                let why = "this is not the active unit; use an address that follows the active one";
                Err(Error::new(ErrorClass::IoTransient, OPERATION, "unit_not_active", why)
                    .with("failover_state", state.escape_debug()))
            }
            _ => Ok(()),
        }
    }

    /// What a profile selects; `None` when it does not exist.
    pub(super) async fn selection(&self, kind: ProfileKind, name: &str) -> Result<Option<Selection>> {
        let path = ["tm", "ltm", "profile", kind.as_str(), &names::segment(name)];
        let found: Option<Described> = self.read(&path, &[]).await?;
        Ok(found.map(Described::selection))
    }

    /// A certificate file; `None` when it does not exist.
    pub(super) async fn cert(&self, name: &str) -> Result<Option<CertInfo>> {
        let path = ["tm", "sys", "file", "ssl-cert", &names::segment(name)];
        self.read(&path, &[]).await
    }

    /// Whether a key file exists.
    pub(super) async fn has_key(&self, name: &str) -> Result<bool> {
        let path = ["tm", "sys", "file", "ssl-key", &names::segment(name)];
        let found: Option<Named> = self.read(&path, &[]).await?;
        Ok(found.is_some())
    }

    /// All files.
    pub(super) async fn files(&self) -> Result<Files> {
        let certs = ["tm", "sys", "file", "ssl-cert"];
        let certs = self.collection(&certs, CertInfo::FIELDS, |cert: &CertInfo| &cert.full_path).await?;
        let keys = ["tm", "sys", "file", "ssl-key"];
        let keys = self.collection(&keys, "fullPath", |key: &Named| &key.full_path).await?;
        Ok(Files {
            certs: certs.into_iter().map(|cert| (cert.full_path.clone(), cert)).collect(),
            keys: keys.into_iter().map(|key| key.full_path).collect(),
        })
    }

    /// Who uses what.
    pub(super) async fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for kind in [ProfileKind::ClientSsl, ProfileKind::ServerSsl] {
            let path = ["tm", "ltm", "profile", kind.as_str()];
            let profiles = self.collection(&path, Described::FIELDS, |own: &Described| &own.full_path).await?;
            for profile in profiles {
                let name = profile.full_path.clone();
                match profile.selection() {
                    Selection::Inherited { parent } => usage.children.entry((kind, parent)).or_default().push(name),
                    own => usage.files.extend(own.files().map(str::to_owned)),
                }
            }
        }
        if self.config.list_virtual_servers {
            let path = ["tm", "ltm", "virtual"];
            let query = [("expandSubcollections", "true")];
            let found = self.pages(&path, &query, |own: &VirtualServer| &own.full_path).await?;
            for VirtualServer { full_path, profiles_reference } in found {
                for profile in profiles_reference.map(|page| page.items).unwrap_or_default() {
                    usage.virtual_servers.entry(profile.full_path).or_default().push(full_path.clone());
                }
            }
        }
        Ok(usage)
    }

    async fn collection<T: DeserializeOwned>(
        &self,
        path: &[&str],
        fields: &str,
        name: impl Fn(&T) -> &String,
    ) -> Result<Vec<T>> {
        self.pages(path, &[("$select", fields)], name).await
    }

    /// All pages of a collection. A unit that does not cut pages gives all at once, which does no harm.
    async fn pages<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        name: impl Fn(&T) -> &String,
    ) -> Result<Vec<T>> {
        let mut found: Vec<T> = Vec::new();
        let mut known = BTreeSet::new();
        for page in 0..PAGES {
            let (top, skip) = (PAGE.to_string(), (page * PAGE).to_string());
            let mut query = query.to_vec();
            query.extend([("$top", top.as_str()), ("$skip", skip.as_str())]);
            let items = self.read::<Page<T>>(path, &query).await?.map(|page| page.items).unwrap_or_default();
            let full = items.len() == PAGE;
            let before = found.len();
            found.extend(items.into_iter().filter(|item| known.insert(name(item).clone())));
            if !full || found.len() == before {
                return Ok(found);
            }
        }
        Err(Error::permanent(
            OPERATION,
            "too_many_objects",
            "the unit has more objects of a kind than can be looked at",
        )
        .with("limit", PAGE * PAGES))
    }
}

impl Usage {
    /// The profiles that get what `name` gets, in their own right or by inheritance from it, without itself.
    pub(super) fn heirs(&self, kind: ProfileKind, name: &str) -> Vec<String> {
        let mut heirs: Vec<String> = Vec::new();
        let mut next = vec![name.to_owned()];
        while let Some(parent) = next.pop() {
            for child in self.children.get(&(kind, parent)).into_iter().flatten() {
                if child != name && !heirs.contains(child) {
                    heirs.push(child.clone());
                    next.push(child.clone());
                }
            }
        }
        heirs.sort();
        heirs
    }

    /// The virtual servers that use one of these profiles.
    pub(super) fn users<'a>(&self, profiles: impl Iterator<Item = &'a str>) -> Vec<String> {
        let users: BTreeSet<&String> = profiles.filter_map(|name| self.virtual_servers.get(name)).flatten().collect();
        users.into_iter().cloned().collect()
    }
}
