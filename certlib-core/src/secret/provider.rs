//! Key providers: what wraps data keys, in this process, in an HSM or in a service.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Secret;
use crate::error::{Error, Result};

/// The length of a data key, in bytes.
pub const DEK_LEN: usize = 32;
/// The length of the salt of a wrap, in bytes.
pub const WRAP_SALT_LEN: usize = 32;
/// The length of the nonce of a wrap, in bytes.
pub const WRAP_NONCE_LEN: usize = 12;
/// The length of a wrapped data key with its tag, in bytes.
pub const WRAPPED_LEN: usize = DEK_LEN + 16;

/// A data key: seals one secret.
pub type Dek = Secret<[u8; DEK_LEN]>;

/// Wraps and unwraps data keys with key-encryption keys that it keeps to itself.
///
/// All providers use AES-256-GCM with a random nonce, so a wrapped key has one form everywhere. Where the provider can
/// derive a key of its own for each wrap, it does so from the salt; where the key cannot leave an HSM or a service, it
/// wraps directly, the salt is authenticated only, and at most 2^32 wraps are safe (NIST SP 800-38D, 8.3): the
/// [envelope](super::KeyringEnvelope) of each process warns at 2^31 of its own; on a fleet, rotate sooner.
///
/// # Contract
/// - A [`KekId`] is a fingerprint of the key itself, computed from it, not a name: the same name with another key has
///   another id.
/// - `unwrap(wrap(d, aad), aad) == d`; with any other `aad`, key or changed bit, `unwrap` fails.
/// - May be called concurrently. Cancel-safe: nothing changes but the result.
///
/// # Errors
/// `unwrap`: [`ErrorClass::Validation`](crate::ErrorClass::Validation) `envelope_rejected` when the wrap is not
/// authentic. All: `Network` and `IoTransient` when the provider is away or busy; `Auth` when it refuses the log-in;
/// `Validation` `kek_unknown` when it does not have the key.
#[async_trait]
pub trait KeyProvider: fmt::Debug + Send + Sync + 'static {
    /// What it is, for people: `local`, `pkcs11`, `vault-transit`.
    fn kind(&self) -> &'static str;

    /// The keys that can be used right now.
    async fn keys(&self) -> Result<Vec<Kek>>;

    /// Wraps `dek` under `kek`, bound to `aad`.
    async fn wrap(&self, kek: &Kek, dek: &Dek, aad: &[u8]) -> Result<WrappedDek>;

    /// Unwraps what was wrapped under `kek` with the same `aad`.
    async fn unwrap(&self, kek: &Kek, wrapped: &WrappedDek, aad: &[u8]) -> Result<Dek>;
}

/// A key-encryption key, without the key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Kek {
    /// Its fingerprint.
    pub id: KekId,
    /// Its version: unique within a keyring, and higher for what came later.
    pub version: u32,
    /// The kind of its provider.
    pub provider: String,
}

impl Kek {
    /// A key with `id` and `version` of a provider of kind `provider`.
    pub fn new(id: KekId, version: u32, provider: &str) -> Self {
        Self { id, version, provider: provider.to_owned() }
    }
}

impl fmt::Display for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{} ({}, {})", self.version, self.provider, self.id.short())
    }
}

/// The fingerprint of a key-encryption key: tells two keys apart and gives nothing away. Hexadecimal in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KekId([u8; Self::LEN]);

impl KekId {
    /// Its length, in bytes.
    pub const LEN: usize = 32;

    /// Takes the bytes of a fingerprint.
    pub fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The first 16 of its 64 digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..16].to_owned()
    }
}

impl fmt::Display for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KekId({})", self.short())
    }
}

impl FromStr for KekId {
    type Err = Error;

    /// Reads 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::validation("kek.parse", "kek_id_invalid", "the id of a key is 64 hexadecimal digits");
        if text.len() != 2 * Self::LEN || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(invalid().with("characters", text.chars().count()));
        }
        let mut id = [0; Self::LEN];
        for (byte, at) in id.iter_mut().zip((0..text.len()).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| invalid())?;
        }
        Ok(Self(id))
    }
}

impl Serialize for KekId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KekId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|_| de::Error::custom("not the id of a key"))
    }
}

/// A wrapped data key, as every provider makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedDek {
    /// What the wrapping key was derived with, or what only makes the wrap unique.
    pub salt: [u8; WRAP_SALT_LEN],
    /// The nonce.
    pub nonce: [u8; WRAP_NONCE_LEN],
    /// The encrypted data key and its tag.
    pub ciphertext: [u8; WRAPPED_LEN],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_written_and_nothing_else_is() {
        let id = KekId::new(std::array::from_fn(|n| u8::try_from(n).unwrap() * 7));
        assert_eq!(id.to_string().parse::<KekId>().unwrap(), id);
        assert_eq!(serde_json::from_str::<KekId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        for text in ["", "ab", &"g".repeat(64), &"ä".repeat(32), &"a".repeat(65), &format!("+{}", "a".repeat(63))] {
            assert_eq!(text.parse::<KekId>().unwrap_err().code(), "kek_id_invalid", "{text}");
        }
    }
}
