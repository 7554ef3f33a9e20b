//! All keys that a node has.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::Secret;
use super::local::{KEK_LEN, LocalKey};
use super::provider::{Kek, KekId, KeyProvider};
use super::suite::fill;
use crate::error::{Error, Result};

/// All versions of the key-encryption key that a node has, of any provider. The primary one seals: the highest
/// version, until the store says which. Every one opens.
#[derive(Clone, Default)]
pub struct Keyring {
    keys: BTreeMap<u32, Entry>,
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) kek: Kek,
    pub(super) provider: Arc<dyn KeyProvider>,
}

impl Keyring {
    /// A keyring with one key in memory, as version 1.
    ///
    /// # Errors
    /// `kek_weak`; see [`LocalKey::new`].
    pub fn new(key: Secret<[u8; KEK_LEN]>) -> Result<Self> {
        let mut ring = Self::default();
        ring.add(1, key)?;
        Ok(ring)
    }

    /// A keyring with a fresh random key, for tests and first starts.
    ///
    /// # Errors
    /// `random_failed` when the operating system gives no randomness.
    pub fn generate() -> Result<Self> {
        let mut key = Zeroizing::new([0; KEK_LEN]);
        fill(&mut *key)?;
        Self::new(Secret::new(*key))
    }

    /// Adds a key in memory under `version`.
    ///
    /// # Errors
    /// `kek_weak`; `kek_duplicate` when version or key are there already.
    pub fn add(&mut self, version: u32, key: Secret<[u8; KEK_LEN]>) -> Result<()> {
        let key = LocalKey::new(version, key)?;
        let kek = key.kek().clone();
        self.insert(kek, Arc::new(key))
    }

    /// Adds every key that `provider` has now.
    ///
    /// # Errors
    /// As [`KeyProvider::keys`]; `kek_duplicate` when a version or a key is there already: nothing is added then.
    pub async fn add_provider(&mut self, provider: Arc<dyn KeyProvider>) -> Result<()> {
        let mut ring = self.clone();
        for kek in provider.keys().await? {
            ring.insert(kek, provider.clone())?;
        }
        *self = ring;
        Ok(())
    }

    /// The keys, by version.
    pub fn keks(&self) -> Vec<Kek> {
        self.keys.values().map(|entry| entry.kek.clone()).collect()
    }

    pub(super) fn find(&self, id: &KekId) -> Option<&Entry> {
        self.keys.values().find(|entry| entry.kek.id == *id)
    }

    pub(super) fn newest(&self) -> Option<&Entry> {
        self.keys.last_key_value().map(|(_, entry)| entry)
    }

    fn insert(&mut self, kek: Kek, provider: Arc<dyn KeyProvider>) -> Result<()> {
        if self.keys.contains_key(&kek.version) || self.find(&kek.id).is_some() {
            let why = "version or key are in the keyring already";
            return Err(Error::validation("keyring.add", "kek_duplicate", why).with("version", kek.version));
        }
        self.keys.insert(kek.version, Entry { kek, provider });
        Ok(())
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.values().map(|entry| &entry.kek)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn weak_and_duplicate_keys_are_refused() {
        for byte in [0, 0xff] {
            assert_eq!(Keyring::new(Secret::new([byte; KEK_LEN])).unwrap_err().code(), "kek_weak");
        }
        let key = || Secret::new(std::array::from_fn(|n| u8::try_from(n).unwrap()));
        let mut ring = Keyring::new(key()).unwrap();
        assert_eq!(ring.add(2, key()).unwrap_err().code(), "kek_duplicate");
        let other = LocalKey::new(1, Secret::new(std::array::from_fn(|n| u8::try_from(n).unwrap() + 1))).unwrap();
        assert_eq!(ring.add_provider(Arc::new(other)).await.unwrap_err().code(), "kek_duplicate");
        assert_eq!(ring.keks().len(), 1);
    }
}
