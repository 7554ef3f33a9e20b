//! Certificates, chains and keys: parsing with limits, and the checks that come before anything is used.

mod check;
mod key;
mod parse;
pub mod pkcs12;
#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;

pub use self::check::{Expected, MAX_CLOCK_SKEW, check_issued};
pub use self::key::{KeyType, PrivateKey};
pub use self::parse::{ImportReport, Limits};
pub use self::pkcs12::Pkcs12Profile;
use crate::error::{Error, Result, codes};
use crate::secret::SecretString;

/// Leaf, chain and, where it is ours to know, the private key of one version of a certificate.
///
/// A value of this type has been parsed: the leaf comes first, each certificate is issued by the next one, and the
/// key belongs to the leaf.
pub struct CertificateBundle {
    /// DER, leaf first. Never empty.
    chain: Vec<Vec<u8>>,
    leaf: LeafInfo,
    key: Option<PrivateKey>,
}

/// What a leaf certificate says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LeafInfo {
    /// DNS names and IP addresses of the subject alternative name extension, lower case, in order.
    pub names: Vec<String>,
    /// Subject, as RFC 4514 text.
    pub subject: String,
    /// Issuer, as RFC 4514 text.
    pub issuer: String,
    /// Serial number, lower-case hex.
    pub serial: String,
    /// Start of validity.
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    /// End of validity.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// SHA-256 of the DER.
    pub fingerprint: Fingerprint,
}

impl CertificateBundle {
    /// A bundle from DER certificates, leaf first, and its key.
    ///
    /// # Errors
    /// `Validation`: `chain_empty`, `cert_invalid`, `chain_invalid` with the index of the certificate that does not
    /// fit, `key_mismatch`, `limit_exceeded`.
    pub fn new(chain: Vec<Vec<u8>>, key: Option<PrivateKey>) -> Result<Self> {
        parse::bundle(chain, key, &Limits::default())
    }

    /// A bundle from PEM text as a CA or a file gives it: leaf first, then its issuers in order, then or before
    /// them at most one private key. Text around the blocks is not accepted as data but is skipped.
    ///
    /// # Errors
    /// As [`CertificateBundle::new`], and `pem_invalid`, `key_invalid`, `key_encrypted`, `key_ambiguous`.
    pub fn from_pem(pem: &[u8]) -> Result<Self> {
        Self::from_pem_with(pem, &Limits::default())
    }

    /// [`CertificateBundle::from_pem`] with other limits.
    ///
    /// # Errors
    /// As [`CertificateBundle::from_pem`].
    pub fn from_pem_with(pem: &[u8], limits: &Limits) -> Result<Self> {
        parse::pem_bundle(pem, limits)
    }

    /// Like [`CertificateBundle::from_pem`], for what people upload: puts the chain in order, drops doubles and
    /// certificates that belong to no chain, and reports what it did.
    ///
    /// # Errors
    /// As [`CertificateBundle::from_pem`].
    pub fn import(pem: &[u8], limits: &Limits) -> Result<(Self, ImportReport)> {
        parse::import(pem, limits)
    }

    /// The leaf, DER.
    pub fn leaf_der(&self) -> &[u8] {
        &self.chain[0]
    }

    /// Leaf and chain, DER, leaf first.
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// What the leaf says.
    pub fn leaf(&self) -> &LeafInfo {
        &self.leaf
    }

    /// Whether the first certificate is that of an authority, by its basic constraints: one that may issue others.
    pub fn is_authority(&self) -> bool {
        parse::is_authority(&self.chain[0])
    }

    /// SHA-256 of the leaf.
    pub fn fingerprint(&self) -> Fingerprint {
        self.leaf.fingerprint
    }

    /// The private key, if the bundle has one.
    pub fn key(&self) -> Option<&PrivateKey> {
        self.key.as_ref()
    }

    /// The same certificates with `key`.
    ///
    /// # Errors
    /// `key_mismatch` when the key does not belong to the leaf.
    pub fn with_key(mut self, key: PrivateKey) -> Result<Self> {
        parse::check_key(&self.chain[0], &key)?;
        self.key = Some(key);
        Ok(self)
    }

    /// The leaf as PEM, ending in one newline.
    pub fn leaf_pem(&self) -> String {
        certificates_pem(&self.chain[..1])
    }

    /// The issuers without the leaf as PEM; empty when the leaf stands alone.
    pub fn chain_pem(&self) -> String {
        certificates_pem(&self.chain[1..])
    }

    /// Leaf and issuers as PEM, leaf first.
    pub fn fullchain_pem(&self) -> String {
        certificates_pem(&self.chain)
    }

    /// The private key as PKCS#8 PEM.
    ///
    /// # Errors
    /// `key_missing` when the bundle has none.
    pub fn key_pem(&self) -> Result<SecretString> {
        let key = self.key.as_ref().ok_or_else(|| {
            Error::validation("bundle.key", "key_missing", "the private key of this certificate is not at hand")
        })?;
        Ok(key.to_pem())
    }
}

impl fmt::Debug for CertificateBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateBundle")
            .field("names", &self.leaf.names)
            .field("fingerprint", &self.leaf.fingerprint)
            .field("not_after", &self.leaf.not_after)
            .field("certificates", &self.chain.len())
            .field("has_key", &self.key.is_some())
            .finish()
    }
}

fn certificates_pem(certificates: &[Vec<u8>]) -> String {
    certificates.iter().map(|der| to_pem("CERTIFICATE", der)).collect()
}

fn to_pem(tag: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), config)
}

/// SHA-256 of a certificate's DER; lower-case hex as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(der: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, der).as_ref());
        Self(bytes)
    }

    /// A fingerprint from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    /// Reads 64 hex digits; upper case and colons, as other tools print them, are accepted.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::validation("fingerprint", "fingerprint_invalid", "not 64 hex digits");
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        if digits.len() != 64 || text.len() > 95 {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16).ok_or_else(invalid);
            *byte = u8::try_from(nibble(pair[0])? * 16 + nibble(pair[1])?).map_err(|_| invalid())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// `key_mismatch`, from wherever it is noticed.
fn key_mismatch() -> Error {
    Error::validation(
        "bundle.parse",
        codes::KEY_MISMATCH,
        "the private key does not belong to the certificate; give the key that was used for its request",
    )
}
