//! Which Vault, which keys, and how to log in.

use std::net::IpAddr;
use std::path::PathBuf;

use certlib_core::secret::{KekId, SecretString};
use certlib_core::{Error, Result};
use reqwest::header::HeaderValue;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use url::{Host, Url};

const OPERATION: &str = "vault_transit.config";

/// Where the keys are, and how to get at them.
///
/// ```
/// let config: certlib_keys::vault_transit::VaultTransitConfig = serde_json::from_str(r#"{
///     "address": "https://vault.example.com:8200",
///     "auth": { "method": "approle", "role_id": "b6ce...", "secret_id": "e5fa..." },
///     "keys": [{ "name": "certlib", "first_version": 2 }]
/// }"#).unwrap();
/// assert_eq!(config.mount, "transit");
/// ```
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct VaultTransitConfig {
    /// The server's URL, without `/v1`. `https`; `http` only to this machine itself (a Vault Agent, a test).
    pub address: String,
    /// How to log in.
    pub auth: VaultAuth,
    /// The keys; at least one.
    pub keys: Vec<TransitKey>,
    /// Where the transit engine is mounted. Default `transit`.
    #[serde(default = "transit")]
    pub mount: String,
    /// The namespace of engine and login, such as `team/a`. Default: none.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Root certificates, PEM, that are trusted *instead of* the operating system's.
    #[serde(default)]
    pub ca_pem: Option<String>,
    /// How long to wait.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// How to log in to Vault.
#[derive(Debug, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum VaultAuth {
    /// With a token as it is. If it can be renewed, it is, whenever a third of its time is left at a request; nothing
    /// renews it while nothing is sealed or opened.
    Token {
        /// The token.
        token: SecretString,
    },
    /// With the token in a file that something else, such as a Vault Agent, keeps fresh. It is read again when Vault
    /// does not take it any more.
    TokenFile {
        /// The file: the token, and perhaps a line break.
        path: PathBuf,
    },
    /// With an AppRole. Logs in again when the token has expired, which needs a secret id that can be used more than
    /// once; the token is renewed until then.
    #[serde(rename = "approle")]
    AppRole {
        /// Where the method is mounted, below `auth/`. Default `approle`.
        #[serde(default = "approle")]
        mount: String,
        /// The role's id.
        role_id: String,
        /// One of its secret ids, if it needs any.
        #[serde(default)]
        secret_id: Option<SecretString>,
    },
}

/// A key of the transit engine: all its versions.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TransitKey {
    /// Its name there.
    pub name: String,
    /// The version in the keyring that Vault's version 1 of it has; 2 has the next one, and so on. Choose it above
    /// every version that other keys of the keyring have now: versions must be unique.
    pub first_version: u32,
    /// Fingerprints of versions that may not encrypt any more (`min_encryption_version`). Vault makes no fingerprint of
    /// those, but verifies one: without it, they are not at hand.
    #[serde(default)]
    pub known: Vec<KekId>,
}

/// How long to wait, in milliseconds; each from 1 to 300 000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Timeouts {
    /// For name resolution, TCP and TLS together. Default 5 000.
    pub connect_ms: u64,
    /// For a request with everything. Default 15 000.
    pub total_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect_ms: 5_000, total_ms: 15_000 }
    }
}

impl TransitKey {
    /// The key `name`, whose version 1 is `first_version` in the keyring.
    pub fn new(name: &str, first_version: u32) -> Self {
        Self { name: name.to_owned(), first_version, known: Vec::new() }
    }

    /// The version in the keyring of Vault's `version`.
    pub(super) fn keyring_version(&self, version: u32) -> Result<u32> {
        let sum = version.checked_sub(1).and_then(|more| self.first_version.checked_add(more));
        sum.ok_or_else(|| invalid("keys.first_version", "so small that all versions of the key fit into 32 bits"))
    }
}

impl VaultTransitConfig {
    /// The keys at `address`, with defaults for everything else.
    pub fn new(address: &str, auth: VaultAuth, keys: Vec<TransitKey>) -> Self {
        Self {
            address: address.to_owned(),
            auth,
            keys,
            mount: transit(),
            namespace: None,
            ca_pem: None,
            timeouts: Timeouts::default(),
        }
    }

    /// Checks everything that can be checked without Vault, and reads the address.
    ///
    /// # Errors
    /// `Validation` `config_invalid`, naming the field.
    pub(super) fn check(&self) -> Result<Url> {
        if self.keys.is_empty() {
            return Err(invalid("keys", "at least one key"));
        }
        for (at, key) in self.keys.iter().enumerate() {
            if !is_name(&key.name) || key.first_version == 0 {
                return Err(invalid("keys", "the name of a key in Vault, and a version from 1"));
            }
            if self.keys[..at].iter().any(|other| other.name == key.name) {
                return Err(invalid("keys", "each key once"));
            }
        }
        check_path("mount", &self.mount)?;
        if let Some(namespace) = &self.namespace {
            check_path("namespace", namespace)?;
        }
        match &self.auth {
            VaultAuth::Token { token } if !is_token(token.expose()) => {
                return Err(invalid("auth.token", "a token: visible characters, no spaces"));
            }
            VaultAuth::AppRole { mount, role_id, .. } => {
                check_path("auth.mount", mount)?;
                if role_id.trim().is_empty() {
                    return Err(invalid("auth.role_id", "the id of a role"));
                }
            }
            VaultAuth::Token { .. } | VaultAuth::TokenFile { .. } => {}
        }
        for (field, value) in
            [("timeouts.connect_ms", self.timeouts.connect_ms), ("timeouts.total_ms", self.timeouts.total_ms)]
        {
            if !(1..=300_000).contains(&value) {
                return Err(invalid(field, "from 1 to 300000 milliseconds"));
            }
        }
        address(&self.address)
    }

    /// The header that names the namespace.
    pub(super) fn namespace_header(&self) -> Result<Option<HeaderValue>> {
        let namespace = self.namespace.as_deref().map(|name| HeaderValue::from_str(name.trim_matches('/')));
        namespace.transpose().map_err(|_| invalid("namespace", "the path of a namespace"))
    }

    /// The roots to trust instead of the operating system's, if any.
    pub(super) fn roots(&self) -> Result<Option<RootCertStore>> {
        let Some(pem) = &self.ca_pem else { return Ok(None) };
        let bad = || invalid("ca_pem", "one or more certificates in PEM");
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|_| bad())?;
            roots.add(certificate).map_err(|_| bad())?;
        }
        if roots.is_empty() { Err(bad()) } else { Ok(Some(roots)) }
    }
}

/// Whether `text` can be sent as a token.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn address(text: &str) -> Result<Url> {
    let bad = |why| invalid("address", why);
    let url = Url::parse(text).map_err(|_| bad("a URL"))?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(bad("a URL without user name, query and fragment"));
    }
    let here = match url.host() {
        Some(Host::Ipv4(addr)) => IpAddr::from(addr).is_loopback(),
        Some(Host::Ipv6(addr)) => IpAddr::from(addr).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => return Err(bad("a URL with a host")),
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if here => Ok(url),
        _ => Err(bad("an https URL; http only to this machine itself")),
    }
}

fn check_path(field: &'static str, path: &str) -> Result<()> {
    if path.trim_matches('/').split('/').all(is_name) { Ok(()) } else { Err(invalid(field, "a path in Vault")) }
}

/// What a part of a path may be: nothing that means something else in a URL, and no dot at the end.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !name.starts_with('.')
        && !name.ends_with('.')
}

fn invalid(field: &'static str, wanted: &'static str) -> Error {
    Error::validation(OPERATION, "config_invalid", format!("{field}: {wanted}")).with("field", field)
}

fn transit() -> String {
    "transit".to_owned()
}

fn approle() -> String {
    "approle".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(address: &str) -> VaultTransitConfig {
        let auth = VaultAuth::Token { token: "hvs.x".to_owned().into() };
        VaultTransitConfig::new(address, auth, vec![TransitKey::new("certlib", 1)])
    }

    fn field(config: &VaultTransitConfig) -> String {
        let error = config.check().unwrap_err();
        assert_eq!(error.code(), "config_invalid");
        error.context().find(|(key, _)| *key == "field").unwrap().1.to_owned()
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_the_clear() {
        for address in ["https://vault.example:8200", "http://127.0.0.1:8200/", "http://[::1]:1", "http://localhost"] {
            config(address).check().unwrap();
        }
        for address in [
            "http://vault.example",
            "http://10.0.0.1",
            "ftp://localhost",
            "https://a:b@vault.example",
            "https://v?x",
            "x",
        ] {
            assert_eq!(field(&config(address)), "address", "{address}");
        }
    }

    #[test]
    fn names_cannot_leave_their_place() {
        for name in ["", "a/b", "..", "a b", "ä", ".a", "a.", "a%2f"] {
            let mut bad = config("https://v");
            bad.keys[0].name = name.to_owned();
            assert_eq!(field(&bad), "keys", "{name}");
        }
        let mut bad = config("https://v");
        bad.mount = "a/../b".to_owned();
        assert_eq!(field(&bad), "mount");
        bad.mount = "team/transit/".to_owned();
        bad.namespace = Some("a\r\nX: y".to_owned());
        assert_eq!(field(&bad), "namespace");
        bad.namespace = Some("team/a/".to_owned());
        bad.check().unwrap();
        bad.keys.push(TransitKey::new("certlib", 7));
        assert_eq!(field(&bad), "keys");
    }

    #[test]
    fn versions_are_counted_from_the_first() {
        let key = TransitKey::new("certlib", 3);
        assert_eq!((key.keyring_version(1).unwrap(), key.keyring_version(4).unwrap()), (3, 6));
        assert!(TransitKey::new("certlib", u32::MAX).keyring_version(2).is_err());
        assert!(key.keyring_version(0).is_err());
    }

    #[test]
    fn secrets_are_not_shown_and_not_quoted() {
        let text = r#"{"address": "https://v", "keys": [], "auth": {"method": "token", "token": 424242}}"#;
        let error = serde_json::from_str::<VaultTransitConfig>(text).unwrap_err();
        assert!(!error.to_string().contains("424242"), "{error}");
        let text = r#"{"address": "https://v", "keys": [{"name": "k", "first_version": 1}],
            "auth": {"method": "approle", "role_id": "r", "secret_id": "canary"}}"#;
        let config: VaultTransitConfig = serde_json::from_str(text).unwrap();
        assert!(!format!("{config:?}").contains("canary"));
        config.check().unwrap();
    }
}
