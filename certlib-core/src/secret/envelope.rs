//! The envelope: what it means to seal a secret for one place and open it only there.

use std::fmt;

use async_trait::async_trait;

use super::provider::{Kek, KekId};
use super::{Aad, Sealed, SecretBytes};
use crate::error::{Error, Result};

/// Seals secrets for storage and opens them again.
///
/// # Contract
/// - `open(seal(p, aad), aad) == p`; with any other `aad`, or any changed bit, `open` fails.
/// - A sealed value is bound to its place by [`Aad`]; moving it to another record or field makes it useless.
/// - All methods may be called concurrently and are cancel-safe: they change nothing but their result.
///
/// # Errors
/// [`ErrorClass::Validation`](crate::ErrorClass::Validation) with `envelope_invalid` (not an envelope),
/// `envelope_rejected` (wrong place, wrong key or tampered), `commitment_mismatch` (made to open under two keys) or
/// `kek_unknown` (the keyring lacks the key); a remote key provider adds `Network`, `IoTransient` and `Auth`.
#[async_trait]
pub trait SecretEnvelope: fmt::Debug + Send + Sync + 'static {
    /// Seals `plain` under the primary key-encryption key, bound to `aad`.
    async fn seal(&self, plain: &[u8], aad: &Aad<'_>) -> Result<Sealed>;

    /// Opens what was sealed with the same `aad`.
    async fn open(&self, sealed: &Sealed, aad: &Aad<'_>) -> Result<SecretBytes>;

    /// Wraps the data key under the primary key-encryption key; the sealed payload stays byte for byte the same, and
    /// is not decrypted.
    async fn rewrap(&self, sealed: &Sealed, aad: &Aad<'_>) -> Result<Sealed>;

    /// Whether the keys for `sealed` are at hand: unwraps its data key and compares the commitment. Decrypts nothing, so
    /// whether the payload itself was changed is left to [`SecretEnvelope::open`].
    async fn verify(&self, sealed: &Sealed, aad: &Aad<'_>) -> Result<()> {
        self.open(sealed, aad).await.map(drop)
    }

    /// The key-encryption keys at hand, by version. Empty, the default, for an envelope whose keys certlib does not
    /// rotate: then nothing below is asked for.
    fn keks(&self) -> Vec<Kek> {
        Vec::new()
    }

    /// The key that seals.
    fn primary(&self) -> Option<KekId> {
        None
    }

    /// Seals with `kek` from now on.
    ///
    /// # Errors
    /// `Validation` `kek_unknown` when it is not at hand.
    fn promote(&self, kek: &KekId) -> Result<()> {
        Err(Error::validation("envelope.promote", "kek_unknown", "this envelope has no keys to choose from")
            .with("kek", kek))
    }
}
