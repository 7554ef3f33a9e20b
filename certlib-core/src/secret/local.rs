//! A key-encryption key in the memory of this process.

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::Secret;
use super::provider::{DEK_LEN, Dek, Kek, KekId, KeyProvider, WRAP_NONCE_LEN, WRAP_SALT_LEN, WrappedDek};
use super::suite::{KEY_LEN, Suite, derive, fill};
use crate::error::{Error, Result};

/// The length of a key-encryption key, in bytes.
pub const KEK_LEN: usize = KEY_LEN;

/// One key in memory. Each wrap uses a key of its own, derived with the salt (HKDF-SHA-256), so nonces never run out.
#[derive(Debug)]
pub struct LocalKey {
    key: Secret<[u8; KEK_LEN]>,
    kek: Kek,
}

impl LocalKey {
    /// The kind of this provider.
    pub const KIND: &'static str = "local";

    /// `key` as `version`.
    ///
    /// # Errors
    /// `Validation` `kek_weak` when all bytes of the key are the same.
    pub fn new(version: u32, key: Secret<[u8; KEK_LEN]>) -> Result<Self> {
        let bytes = key.expose();
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            let why = "all bytes of the key are the same; make one with a random generator";
            return Err(Error::validation("keyring.add", "kek_weak", why).with("version", version));
        }
        let id = derive(bytes, &[], b"certlib kek id v1")?;
        Ok(Self { kek: Kek::new(KekId::new(*id), version, Self::KIND), key })
    }

    /// The key, without the key.
    pub fn kek(&self) -> &Kek {
        &self.kek
    }

    fn wrapping_key(&self, salt: &[u8; WRAP_SALT_LEN]) -> Result<Zeroizing<[u8; KEY_LEN]>> {
        derive(self.key.expose(), salt, b"certlib wrap v1")
    }
}

#[async_trait]
impl KeyProvider for LocalKey {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    async fn keys(&self) -> Result<Vec<Kek>> {
        Ok(vec![self.kek.clone()])
    }

    async fn wrap(&self, _kek: &Kek, dek: &Dek, aad: &[u8]) -> Result<WrappedDek> {
        // Asked for together: each call of the generator costs as much as a cipher.
        let mut random = [0; WRAP_SALT_LEN + WRAP_NONCE_LEN];
        fill(&mut random)?;
        let mut wrapped = WrappedDek { salt: [0; _], nonce: [0; _], ciphertext: [0; _] };
        wrapped.salt.copy_from_slice(&random[..WRAP_SALT_LEN]);
        wrapped.nonce.copy_from_slice(&random[WRAP_SALT_LEN..]);
        let mut bytes = Zeroizing::new(*dek.expose());
        let key = self.wrapping_key(&wrapped.salt)?;
        let tag = Suite::Aes256Gcm.seal(&key, wrapped.nonce, aad, &mut *bytes)?;
        wrapped.ciphertext[..DEK_LEN].copy_from_slice(&*bytes);
        wrapped.ciphertext[DEK_LEN..].copy_from_slice(&tag);
        Ok(wrapped)
    }

    async fn unwrap(&self, _kek: &Kek, wrapped: &WrappedDek, aad: &[u8]) -> Result<Dek> {
        let mut bytes = Zeroizing::new(wrapped.ciphertext);
        let key = self.wrapping_key(&wrapped.salt)?;
        let plain = Suite::Aes256Gcm.open(&key, wrapped.nonce, aad, &mut *bytes)?;
        let dek = plain.and_then(|length| <&[u8; _]>::try_from(&bytes[..length]).ok());
        dek.map(|dek| Secret::new(*dek)).ok_or_else(super::rejected)
    }
}
