//! What a Vault target is told: where, how, and with which login.

use std::collections::BTreeSet;

use certlib_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

use super::OPERATION;
use crate::net::Connection;
use crate::probe::Endpoint;

/// The longest mount path, path of a secret, or name of a field, in bytes.
const LONGEST: usize = 512;

/// Where to deliver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct VaultLocation {
    /// The server's URL without `/v1`, such as `https://vault.example.com:8200`.
    pub url: String,
    /// The namespace of the mount, such as `team/a`.
    #[serde(default)]
    pub namespace: Option<String>,
    /// What is mounted there.
    #[serde(default)]
    pub kind: MountKind,
    /// The path of the mount, such as `secret` or `teams/web/kv`.
    pub mount: String,
    /// The path of the secret below the mount, such as `tls/shop`: without `data/`. None for `pki`.
    #[serde(default)]
    pub path: String,
}

/// What is mounted where a certificate goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MountKind {
    /// A key-value engine; Vault is asked for its version.
    #[default]
    Kv,
    /// A key-value engine of the first version.
    Kv1,
    /// A key-value engine of the second version.
    Kv2,
    /// A PKI engine, whose default issuer the certificate becomes.
    Pki,
}

/// How to deliver. Everything has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct VaultConfig {
    /// How to reach the server.
    pub connection: Connection,
    /// The namespace to log in to, where it is another one than the mount's; an empty text is the root.
    pub login_namespace: Option<String>,
    /// Which fields of the secret are written. All others stay as they are.
    pub fields: Fields,
    /// Says in the secret's custom metadata whose certificate it holds (second version only): `certlib_target`,
    /// `certlib_fingerprint`, `certlib_not_after`. Default true.
    pub custom_metadata: bool,
    /// Where the certificate must be served in the end. None: reading it back is the proof.
    pub endpoints: Vec<Endpoint>,
    /// Whether the default issuer of a PKI mount is ever set back.
    pub pki_rollback: PkiRollback,
}

impl Default for VaultConfig {
    fn default() -> Self {
        Self {
            connection: Connection::default(),
            login_namespace: None,
            fields: Fields::default(),
            custom_metadata: true,
            endpoints: Vec::new(),
            pki_rollback: PkiRollback::default(),
        }
    }
}

/// When the former default issuer of a PKI mount may become the default again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PkiRollback {
    /// Never: rollback is refused with `ratcheted` once the default has moved.
    #[default]
    Refuse,
    /// As long as nothing was issued since, and every role keeps what it issues, so that this can be told.
    IfUnused,
}

/// The names of the fields of a secret; `null` leaves one out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Fields {
    /// The certificate, PEM. Default `certificate`.
    pub certificate: Option<String>,
    /// Its private key, PKCS#8 PEM. Default `private_key`.
    pub private_key: Option<String>,
    /// Its issuers, PEM; an empty text when there are none. Default `chain`.
    pub chain: Option<String>,
    /// The certificate and its issuers, PEM. Default `fullchain`.
    pub fullchain: Option<String>,
    /// The certificate, its issuers and the key in one, PEM. Left out by default.
    pub combined: Option<String>,
    /// The serial number, lower-case hex. Left out by default.
    pub serial: Option<String>,
    /// SHA-256 of the certificate, lower-case hex. Left out by default.
    pub fingerprint: Option<String>,
    /// The end of its validity, RFC 3339. Left out by default.
    pub not_after: Option<String>,
}

impl Default for Fields {
    fn default() -> Self {
        let named = |name: &str| Some(name.to_owned());
        Self {
            certificate: named("certificate"),
            private_key: named("private_key"),
            chain: named("chain"),
            fullchain: named("fullchain"),
            combined: None,
            serial: None,
            fingerprint: None,
            not_after: None,
        }
    }
}

impl Fields {
    /// Whether the private key is delivered.
    pub(super) fn need_key(&self) -> bool {
        self.private_key.is_some() || self.combined.is_some()
    }

    /// The fields that begin with the certificate.
    pub(super) fn with_leaf(&self) -> impl Iterator<Item = &str> {
        [&self.certificate, &self.fullchain, &self.combined].into_iter().flatten().map(String::as_str)
    }

    fn check(&self) -> Result<()> {
        let invalid = |why| Error::validation(OPERATION, "config_invalid", why).with("field", "fields");
        let all = [
            &self.certificate,
            &self.private_key,
            &self.chain,
            &self.fullchain,
            &self.combined,
            &self.serial,
            &self.fingerprint,
            &self.not_after,
        ];
        let names: Vec<&String> = all.into_iter().flatten().collect();
        if names.iter().collect::<BTreeSet<_>>().len() < names.len() {
            return Err(invalid("two parts of the certificate cannot go to one field"));
        }
        if !names.iter().all(|name| is_plain(name)) {
            return Err(invalid("the name of a field is 1 to 512 bytes without control characters"));
        }
        if self.with_leaf().next().is_none() {
            return Err(invalid("one of `certificate`, `fullchain` and `combined` must have a name"));
        }
        Ok(())
    }
}

/// Checks what can be checked without Vault.
///
/// # Errors
/// `Validation`: `location_invalid` and `config_invalid` with the field, and as [`Connection::check`] and
/// [`Endpoint::check`].
pub(super) fn check(location: &VaultLocation, config: &VaultConfig) -> Result<()> {
    config.connection.check(&location.url)?;
    let invalid = |field: &'static str, why: &str| {
        Err(Error::validation(OPERATION, "location_invalid", why).with("field", field))
    };
    if !is_path(&location.mount) {
        return invalid("mount", "the path of a mount has parts with slashes between them, none of them `.` or `..`");
    }
    match location.kind {
        MountKind::Pki if !location.path.is_empty() => {
            return invalid("path", "a PKI mount is delivered to as a whole: leave `path` out");
        }
        MountKind::Pki => {}
        _ if !is_path(&location.path) => {
            let why = "the path of a secret has parts with slashes between them, none of them `.` or `..`, and no \
                       period at its end";
            return invalid("path", why);
        }
        _ => {}
    }
    let namespaces = [("namespace", &location.namespace), ("login_namespace", &config.login_namespace)];
    for (field, namespace) in namespaces {
        if namespace.as_ref().is_some_and(|name| !(name.is_empty() || name.is_ascii() && is_path(name))) {
            return invalid(field, "a namespace is a path in ASCII");
        }
    }
    config.fields.check()?;
    config.endpoints.iter().try_for_each(Endpoint::check)
}

/// Slashes at both ends do not count.
fn is_path(path: &str) -> bool {
    let path = path.trim_matches('/');
    let part = |part: &str| is_plain(part) && part != "." && part != ".." && part.trim() == part;
    path.len() <= LONGEST && !path.ends_with('.') && path.split('/').all(part)
}

fn is_plain(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn checked(location: Value, config: Value) -> Result<()> {
        let mut whole = json!({"url": "https://vault.example:8200", "mount": "secret", "path": "tls/shop"});
        whole.as_object_mut().unwrap().extend(location.as_object().unwrap().clone());
        check(&serde_json::from_value(whole).unwrap(), &serde_json::from_value(config).unwrap())
    }

    #[test]
    fn paths_stay_in_their_place() {
        for path in ["", "/", "a//b", ".", "..", "a/../b", "a/.", "a\nb", "a.", " a", "a/b ", &"x".repeat(513)] {
            let error = checked(json!({"path": path}), json!({})).unwrap_err();
            assert_eq!(error.code(), "location_invalid", "{path:?}");
            assert!(error.context().any(|(key, value)| (key, value) == ("field", "path")));
        }
        for mount in ["", "a/../b", "sys\0"] {
            assert_eq!(checked(json!({"mount": mount}), json!({})).unwrap_err().code(), "location_invalid");
        }
        for path in ["tls/shop.example.com/2027", "/a b/ä/", "..a", "a%2Fb"] {
            checked(json!({"path": path}), json!({})).unwrap();
        }
        assert_eq!(checked(json!({"namespace": "a\r\nX: y"}), json!({})).unwrap_err().code(), "location_invalid");
        checked(json!({"namespace": "team/a/"}), json!({"login_namespace": ""})).unwrap();
        assert_eq!(checked(json!({"kind": "pki"}), json!({})).unwrap_err().code(), "location_invalid");
        checked(json!({"kind": "pki", "path": ""}), json!({})).unwrap();
    }

    #[test]
    fn fields_have_names_of_their_own() {
        for fields in [
            json!({"certificate": "x", "chain": "x"}),
            json!({"certificate": ""}),
            json!({"certificate": "a\nb"}),
            json!({"certificate": null, "fullchain": null}),
        ] {
            let error = checked(json!({}), json!({"fields": fields})).unwrap_err();
            assert_eq!(error.code(), "config_invalid", "{fields}");
        }
        checked(json!({}), json!({"fields": {"certificate": "tls.crt", "private_key": "tls.key", "chain": null}}))
            .unwrap();
        checked(json!({}), json!({"fields": {"certificate": null, "fullchain": null, "combined": "pem"}})).unwrap();
    }

    #[test]
    fn the_rest_is_checked_too() {
        assert_eq!(checked(json!({"url": "http://vault.example"}), json!({})).unwrap_err().code(), "url_invalid");
        let endpoints = json!({"endpoints": [{"host": "a", "tries": 0}]});
        assert_eq!(checked(json!({}), endpoints).unwrap_err().code(), "endpoint_invalid");
        assert!(serde_json::from_value::<VaultConfig>(json!({"feilds": {}})).is_err());
    }
}
