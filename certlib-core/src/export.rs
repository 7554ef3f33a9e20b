//! A version of a certificate as a file: PEM, DER or PKCS#12.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::bundle::{CertificateBundle, Pkcs12Profile, pkcs12};
use crate::error::{Error, Result};
use crate::secret::{Secret, SecretBytes, SecretString};

const OPERATION: &str = "export";

/// What a file holds, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ExportFormat {
    /// Leaf and issuers, PEM, leaf first: the default. The key can follow.
    #[default]
    Fullchain,
    /// The issuers, PEM; empty when the leaf stands alone.
    Chain,
    /// The leaf, PEM. The key can follow.
    Leaf,
    /// The private key, PKCS#8 PEM, unencrypted.
    Key,
    /// The leaf, DER.
    Der,
    /// Key, leaf and issuers, PKCS#12 with [modern](Pkcs12Profile::Modern) algorithms.
    Pkcs12,
    /// Key, leaf and issuers, PKCS#12 with [old](Pkcs12Profile::Legacy) algorithms.
    Pkcs12Legacy,
}

impl ExportFormat {
    /// All there are.
    pub const ALL: [Self; 7] =
        [Self::Fullchain, Self::Chain, Self::Leaf, Self::Key, Self::Der, Self::Pkcs12, Self::Pkcs12Legacy];

    /// Its name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fullchain => "fullchain",
            Self::Chain => "chain",
            Self::Leaf => "leaf",
            Self::Key => "key",
            Self::Der => "der",
            Self::Pkcs12 => "pkcs12",
            Self::Pkcs12Legacy => "pkcs12-legacy",
        }
    }

    /// The media type of such a file.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Fullchain | Self::Chain | Self::Leaf | Self::Key => "application/x-pem-file",
            Self::Der => "application/pkix-cert",
            Self::Pkcs12 | Self::Pkcs12Legacy => "application/x-pkcs12",
        }
    }

    /// Whether such a file is protected by a password, which has to be given.
    pub fn needs_password(self) -> bool {
        self.pkcs12().is_some()
    }

    fn pkcs12(self) -> Option<Pkcs12Profile> {
        match self {
            Self::Pkcs12 => Some(Pkcs12Profile::Modern),
            Self::Pkcs12Legacy => Some(Pkcs12Profile::Legacy),
            _ => None,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Fullchain => ".pem",
            Self::Chain => ".chain.pem",
            Self::Leaf => ".crt.pem",
            Self::Key => ".key.pem",
            Self::Der => ".der",
            Self::Pkcs12 | Self::Pkcs12Legacy => ".p12",
        }
    }
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ExportFormat {
    type Err = Error;

    /// Reads its name; `Validation` `format_unknown` lists the names there are.
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Error::validation(OPERATION, "format_unknown", format!("the formats are {known}"))
        })
    }
}

/// What to export of a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExportOptions {
    /// Which version; the live one, or else the newest, when `None`.
    pub version: Option<u32>,
    /// As what.
    pub format: ExportFormat,
    /// With the private key. It has to be said, also for formats that cannot be without.
    pub with_key: bool,
    /// The name of the entry in a PKCS#12 file, which Java calls alias; the leaf's first name when `None`.
    pub alias: Option<String>,
}

impl ExportOptions {
    /// Fails unless `with_key` and `alias` go with the format.
    ///
    /// # Errors
    /// `Validation`: `key_not_asked_for`, `key_not_in_format`, `alias_not_in_format`, `alias_invalid`.
    pub fn check(&self) -> Result<()> {
        let refused = |code, why| Err(Error::validation(OPERATION, code, why).with("format", self.format));
        match self.format {
            ExportFormat::Key | ExportFormat::Pkcs12 | ExportFormat::Pkcs12Legacy if !self.with_key => {
                return refused("key_not_asked_for", "this format holds the private key: say that it is wanted");
            }
            ExportFormat::Chain | ExportFormat::Der if self.with_key => {
                return refused("key_not_in_format", "this format cannot hold a private key");
            }
            _ => {}
        }
        match &self.alias {
            Some(_) if self.format.pkcs12().is_none() => {
                refused("alias_not_in_format", "only a PKCS#12 file has an alias")
            }
            Some(alias) => pkcs12::check_alias(alias),
            None => Ok(()),
        }
    }

    /// The bytes of the file. `password` protects a PKCS#12 file, and is not looked at for others.
    ///
    /// # Errors
    /// As [`ExportOptions::check`]; `Validation`: `key_missing`, `password_missing`, `pfx_failed`.
    pub fn render(&self, bundle: &CertificateBundle, password: Option<&SecretString>) -> Result<SecretBytes> {
        self.check()?;
        if let Some(profile) = self.format.pkcs12() {
            let password = check_password(password)?;
            return pkcs12::encode(bundle, profile, self.alias.as_deref(), password);
        }
        let certificates = match self.format {
            ExportFormat::Fullchain => bundle.fullchain_pem().into_bytes(),
            ExportFormat::Chain => bundle.chain_pem().into_bytes(),
            ExportFormat::Leaf => bundle.leaf_pem().into_bytes(),
            ExportFormat::Der => bundle.leaf_der().to_vec(),
            ExportFormat::Key | ExportFormat::Pkcs12 | ExportFormat::Pkcs12Legacy => Vec::new(),
        };
        if !self.with_key {
            return Ok(Secret::new(certificates));
        }
        let key = bundle.key_pem()?;
        // Exactly as large as needed, so that growing leaves no copy of the key behind.
        let mut bytes = Vec::with_capacity(certificates.len() + key.expose().len());
        bytes.extend_from_slice(&certificates);
        bytes.extend_from_slice(key.expose().as_bytes());
        Ok(Secret::new(bytes))
    }

    /// A name for the file: the leaf's first name, made fit for any file system, and what the format is known by.
    pub fn file_name(&self, bundle: &CertificateBundle) -> String {
        let name = bundle.leaf().names.first().map_or("certificate", String::as_str);
        let fit = |character: char| {
            if character.is_ascii_alphanumeric() || ".-".contains(character) { character } else { '_' }
        };
        let name: String = name.chars().map(fit).take(200).collect();
        name + self.format.suffix()
    }
}

/// Fails unless there is a password.
fn check_password(password: Option<&SecretString>) -> Result<&SecretString> {
    password.filter(|password| !password.expose().is_empty()).ok_or_else(|| {
        Error::validation(OPERATION, "password_missing", "a PKCS#12 file needs a password to protect it")
    })
}

/// An exported file.
#[derive(Debug)]
#[non_exhaustive]
pub struct Export {
    /// Its bytes.
    pub bytes: SecretBytes,
    /// A name for it.
    pub file_name: String,
    /// What it is.
    pub format: ExportFormat,
    /// The version it holds.
    pub version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::testing;

    fn options(format: ExportFormat, with_key: bool) -> ExportOptions {
        ExportOptions { format, with_key, ..ExportOptions::default() }
    }

    #[test]
    fn names_are_read_back_and_are_those_in_json() {
        for format in ExportFormat::ALL {
            assert_eq!(format.as_str().parse::<ExportFormat>().unwrap(), format);
            assert_eq!(serde_json::to_value(format).unwrap(), format.as_str());
        }
        assert_eq!("jks".parse::<ExportFormat>().unwrap_err().code(), "format_unknown");
    }

    #[test]
    fn pem_and_der_hold_what_they_say() {
        let bundle = testing::bundle("*.a.test");
        let render = |format, with_key| options(format, with_key).render(&bundle, None);
        let text = |format, with_key| String::from_utf8(render(format, with_key).unwrap().expose().clone()).unwrap();
        let key = bundle.key_pem().unwrap();
        assert_eq!(text(ExportFormat::Fullchain, false), bundle.fullchain_pem());
        assert_eq!(text(ExportFormat::Fullchain, true), bundle.fullchain_pem() + key.expose());
        assert_eq!(text(ExportFormat::Leaf, true), bundle.leaf_pem() + key.expose());
        assert_eq!(text(ExportFormat::Chain, false), bundle.chain_pem());
        assert_eq!(text(ExportFormat::Key, true), *key.expose());
        assert_eq!(render(ExportFormat::Der, false).unwrap().expose(), bundle.leaf_der());
        assert_eq!(options(ExportFormat::Leaf, false).file_name(&bundle), "_.a.test.crt.pem");
    }

    #[test]
    fn a_key_is_neither_given_unasked_nor_forgotten() {
        let bundle = testing::bundle("a.test");
        let password = Secret::new("pässwörd".to_owned());
        for format in ExportFormat::ALL {
            let code = |with_key| {
                options(format, with_key).render(&bundle, Some(&password)).err().map(|e| e.code().to_owned())
            };
            let (without, with) = match format {
                ExportFormat::Fullchain | ExportFormat::Leaf => (None, None),
                ExportFormat::Chain | ExportFormat::Der => (None, Some("key_not_in_format")),
                _ => (Some("key_not_asked_for"), None),
            };
            assert_eq!((code(false).as_deref(), code(true).as_deref()), (without, with), "{format}");
        }
        let without_key = CertificateBundle::new(bundle.certificates().to_vec(), None).unwrap();
        for format in [ExportFormat::Fullchain, ExportFormat::Key, ExportFormat::Pkcs12] {
            let error = options(format, true).render(&without_key, Some(&password)).unwrap_err();
            assert_eq!(error.code(), "key_missing", "{format}");
        }
    }

    #[test]
    fn a_container_needs_a_password_and_only_it_has_an_alias() {
        let bundle = testing::bundle("a.test");
        let pkcs12 = options(ExportFormat::Pkcs12, true);
        for password in [None, Some(Secret::new(String::new()))] {
            assert_eq!(pkcs12.render(&bundle, password.as_ref()).unwrap_err().code(), "password_missing");
        }
        let named = ExportOptions { alias: Some("x".into()), ..options(ExportFormat::Leaf, false) };
        assert_eq!(named.check().unwrap_err().code(), "alias_not_in_format");
        let named = ExportOptions { alias: Some(String::new()), ..pkcs12 };
        assert_eq!(named.check().unwrap_err().code(), "alias_invalid");
    }
}
