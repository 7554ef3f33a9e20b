//! The envelope: what it means to seal a secret for one place and open it only there.

use std::fmt;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::SecretBytes;
use crate::error::Result;

/// Seals secrets for storage and opens them again.
///
/// # Contract
/// - `open(seal(p, aad), aad) == p`; with any other `aad`, or any changed bit, `open` fails.
/// - A sealed value is bound to its place by [`Aad`]; moving it to another record or field makes it useless.
/// - All methods may be called concurrently and are cancel-safe: they change nothing but their result.
///
/// # Errors
/// [`ErrorClass::Validation`](crate::ErrorClass::Validation) with `envelope_invalid` (not an envelope),
/// `envelope_rejected` (wrong place, wrong key or tampered) or `kek_unknown` (the keyring lacks the key);
/// a remote key provider adds `Network` and `IoTransient`.
#[async_trait]
pub trait SecretEnvelope: fmt::Debug + Send + Sync + 'static {
    /// Seals `plain` under the current key-encryption key, bound to `aad`.
    async fn seal(&self, plain: &[u8], aad: &Aad<'_>) -> Result<Sealed>;

    /// Opens what was sealed with the same `aad`.
    async fn open(&self, sealed: &Sealed, aad: &Aad<'_>) -> Result<SecretBytes>;

    /// Wraps the data key under the current key-encryption key; the sealed payload stays byte for byte the same.
    async fn rewrap(&self, sealed: &Sealed, aad: &Aad<'_>) -> Result<Sealed>;

    /// The versions of the key-encryption key at hand, ascending, for the cluster view. Empty, the default, if it
    /// cannot tell.
    fn key_versions(&self) -> Vec<u32> {
        Vec::new()
    }
}

/// Where a secret lives: the additional authenticated data of its envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aad<'a> {
    /// The tenant, that is the project, or `""` for what belongs to the installation.
    pub tenant: &'a str,
    /// The kind of record.
    pub collection: &'a str,
    /// The record's id.
    pub record: &'a str,
    /// The field within the record.
    pub field: &'a str,
    /// The version of the field's encoding.
    pub version: u32,
}

impl<'a> Aad<'a> {
    /// The place of `field` in the record `record` of kind `collection` owned by `tenant`.
    pub fn new(tenant: &'a str, collection: &'a str, record: &'a str, field: &'a str) -> Self {
        Self { tenant, collection, record, field, version: 1 }
    }

    /// Length-prefixed bytes: no two places encode alike.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        for part in [self.tenant, self.collection, self.record, self.field] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes
    }
}

/// A sealed secret: the only form in which a store ever sees one. Base64 in JSON.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// Takes bytes that an envelope made.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(|_| de::Error::custom("a sealed secret is not base64"))
    }
}
