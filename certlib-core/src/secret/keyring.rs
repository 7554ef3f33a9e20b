//! Keys at hand: a keyring of key-encryption keys in memory, and the envelope on top of it.
//!
//! Layout of an envelope, in order and without optional parts: magic `CLE1`, suite (1 byte), KEK id (32), KEK version
//! (4, big endian), wrap salt (32), wrap nonce (12), wrapped data key (32 + 16), commitment (32), payload nonce (12),
//! ciphertext with tag (16 or more).

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use aws_lc_rs::aead::{self, AES_256_GCM, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand as crypto_rand;
use zeroize::Zeroizing;

use super::envelope::{Aad, Sealed, SecretEnvelope};
use super::{Secret, SecretBytes};
use crate::error::{Error, Result};

/// The length of a key-encryption key, in bytes.
pub const KEK_LEN: usize = 32;

const MAGIC: &[u8; 4] = b"CLE1";
const SUITE_AES_256_GCM: u8 = 1;
const ID: usize = 32;
const SALT: usize = 32;
const NONCE: usize = 12;
const WRAPPED: usize = 48;
const COMMIT: usize = 32;
const TAG: usize = 16;
const HEADER: usize = MAGIC.len() + 1;
const WRAP_BLOCK: usize = ID + 4 + SALT + NONCE + WRAPPED;
const OVERHEAD: usize = HEADER + WRAP_BLOCK + COMMIT + NONCE + TAG;

/// All versions of the key-encryption key that a node has. The highest one seals; every one opens.
pub struct Keyring {
    keys: BTreeMap<u32, Kek>,
}

struct Kek {
    key: Secret<[u8; KEK_LEN]>,
    id: [u8; ID],
}

impl Keyring {
    /// A keyring with one key as version 1.
    ///
    /// # Errors
    /// `kek_weak` when the key is all zero.
    pub fn new(key: Secret<[u8; KEK_LEN]>) -> Result<Self> {
        let mut ring = Self { keys: BTreeMap::new() };
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

    /// Adds a key under `version`.
    ///
    /// # Errors
    /// `kek_weak` when the key is all zero, `kek_duplicate` when version or key are there already.
    pub fn add(&mut self, version: u32, key: Secret<[u8; KEK_LEN]>) -> Result<()> {
        const OPERATION: &str = "keyring.add";
        if key.expose().iter().all(|byte| *byte == 0) {
            return Err(Error::validation(OPERATION, "kek_weak", "the key is all zero").with("version", version));
        }
        let id: [u8; ID] = derive(key.expose(), &[], b"certlib kek id v1")?;
        if self.keys.contains_key(&version) || self.keys.values().any(|kek| kek.id == id) {
            return Err(Error::validation(OPERATION, "kek_duplicate", "version or key are in the keyring already")
                .with("version", version));
        }
        self.keys.insert(version, Kek { key, id });
        Ok(())
    }

    /// The versions at hand, ascending.
    pub fn versions(&self) -> Vec<u32> {
        self.keys.keys().copied().collect()
    }

    fn current(&self) -> Result<(u32, &Kek)> {
        self.keys
            .last_key_value()
            .map(|(version, kek)| (*version, kek))
            .ok_or_else(|| Error::validation("keyring", "kek_unknown", "the keyring is empty"))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("versions", &self.versions()).finish()
    }
}

/// [`SecretEnvelope`] over a [`Keyring`] in this process.
#[derive(Debug)]
pub struct LocalEnvelope {
    keyring: Keyring,
}

impl LocalEnvelope {
    /// Seals and opens with the keys of `keyring`.
    pub fn new(keyring: Keyring) -> Self {
        Self { keyring }
    }

    fn wrap(&self, dek: &[u8; 32]) -> Result<Vec<u8>> {
        let (version, kek) = self.keyring.current()?;
        let mut block = Vec::with_capacity(WRAP_BLOCK);
        block.extend_from_slice(&kek.id);
        block.extend_from_slice(&version.to_be_bytes());
        let mut salt = [0; SALT];
        fill(&mut salt)?;
        block.extend_from_slice(&salt);
        let aad = wrap_aad(&block[..ID + 4]);
        let key: [u8; 32] = derive(kek.key.expose(), &salt, b"certlib wrap v1")?;
        let mut nonce = [0; NONCE];
        fill(&mut nonce)?;
        block.extend_from_slice(&nonce);
        let mut wrapped = dek.to_vec();
        cipher(&key)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aead::Aad::from(aad), &mut wrapped)
            .map_err(|_| sealing_failed())?;
        block.extend_from_slice(&wrapped);
        Ok(block)
    }

    fn unwrap(&self, block: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
        const OPERATION: &str = "envelope.open";
        let (id, rest) = block.split_at(ID);
        let kek = self.keyring.keys.values().find(|kek| kek.id == id).ok_or_else(|| {
            let version = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]);
            Error::validation(OPERATION, "kek_unknown", "the keyring lacks the key this secret was sealed with")
                .with("version", version)
        })?;
        let (salt, rest) = rest[4..].split_at(SALT);
        let (nonce, wrapped) = rest.split_at(NONCE);
        let key: [u8; 32] = derive(kek.key.expose(), salt, b"certlib wrap v1")?;
        let mut wrapped = Zeroizing::new(wrapped.to_vec());
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| rejected())?;
        let dek = cipher(&key)?
            .open_in_place(nonce, aead::Aad::from(wrap_aad(&block[..ID + 4])), &mut wrapped)
            .map_err(|_| rejected())?;
        let mut out = Zeroizing::new([0; 32]);
        out.copy_from_slice(dek);
        Ok(out)
    }
}

#[async_trait]
impl SecretEnvelope for LocalEnvelope {
    async fn seal(&self, plain: &[u8], aad: &Aad<'_>) -> Result<Sealed> {
        let mut dek = Zeroizing::new([0; 32]);
        fill(&mut *dek)?;
        let mut bytes = Vec::with_capacity(OVERHEAD + plain.len());
        bytes.extend_from_slice(MAGIC);
        bytes.push(SUITE_AES_256_GCM);
        bytes.extend_from_slice(&self.wrap(&dek)?);
        bytes.extend_from_slice(&derive::<COMMIT>(&*dek, &[], b"certlib commit v1")?);
        let mut nonce = [0; NONCE];
        fill(&mut nonce)?;
        bytes.extend_from_slice(&nonce);
        let key: [u8; 32] = derive(&*dek, &[], b"certlib payload v1")?;
        let mut payload = plain.to_vec();
        cipher(&key)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                aead::Aad::from(payload_aad(aad)),
                &mut payload,
            )
            .map_err(|_| sealing_failed())?;
        bytes.extend_from_slice(&payload);
        Ok(Sealed::from_bytes(bytes))
    }

    async fn open(&self, sealed: &Sealed, aad: &Aad<'_>) -> Result<SecretBytes> {
        let (block, rest) = split(sealed)?;
        let dek = self.unwrap(block)?;
        let (commit, rest) = rest.split_at(COMMIT);
        let expected: [u8; COMMIT] = derive(&*dek, &[], b"certlib commit v1")?;
        verify_slices_are_equal(commit, &expected).map_err(|_| rejected())?;
        let (nonce, payload) = rest.split_at(NONCE);
        let key: [u8; 32] = derive(&*dek, &[], b"certlib payload v1")?;
        let mut payload = payload.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| rejected())?;
        let length = cipher(&key)?
            .open_in_place(nonce, aead::Aad::from(payload_aad(aad)), &mut payload)
            .map_err(|_| rejected())?
            .len();
        payload.truncate(length);
        Ok(Secret::new(payload))
    }

    async fn rewrap(&self, sealed: &Sealed, _aad: &Aad<'_>) -> Result<Sealed> {
        let (block, rest) = split(sealed)?;
        let dek = self.unwrap(block)?;
        let mut bytes = Vec::with_capacity(sealed.as_bytes().len());
        bytes.extend_from_slice(&sealed.as_bytes()[..HEADER]);
        bytes.extend_from_slice(&self.wrap(&dek)?);
        bytes.extend_from_slice(rest);
        Ok(Sealed::from_bytes(bytes))
    }

    fn key_versions(&self) -> Vec<u32> {
        self.keyring.versions()
    }
}

/// The wrap block, and what follows it; the lengths are checked here once for all.
fn split(sealed: &Sealed) -> Result<(&[u8], &[u8])> {
    let bytes = sealed.as_bytes();
    if bytes.len() < OVERHEAD || !bytes.starts_with(MAGIC) || bytes[MAGIC.len()] != SUITE_AES_256_GCM {
        return Err(Error::validation(
            "envelope.open",
            "envelope_invalid",
            "these bytes are no envelope that this version can read",
        ));
    }
    Ok(bytes[HEADER..].split_at(WRAP_BLOCK))
}

fn payload_aad(aad: &Aad<'_>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.push(SUITE_AES_256_GCM);
    bytes.extend_from_slice(&aad.encode());
    bytes
}

fn wrap_aad(id_and_version: &[u8]) -> Vec<u8> {
    let mut bytes = b"certlib wrap ".to_vec();
    bytes.push(SUITE_AES_256_GCM);
    bytes.extend_from_slice(id_and_version);
    bytes
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| sealing_failed())
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive<const N: usize>(secret: &[u8], salt: &[u8], label: &[u8]) -> Result<[u8; N]> {
    let mut out = [0; N];
    Salt::new(HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[label], Length(N))
        .and_then(|okm| okm.fill(&mut out))
        .map_err(|_| sealing_failed())?;
    Ok(out)
}

fn fill(bytes: &mut [u8]) -> Result<()> {
    crypto_rand::fill(bytes)
        .map_err(|_| Error::permanent("envelope.seal", "random_failed", "the system gives no randomness"))
}

fn rejected() -> Error {
    Error::validation(
        "envelope.open",
        "envelope_rejected",
        "this secret was sealed for another place or with another key, or was changed",
    )
}

fn sealing_failed() -> Error {
    Error::permanent("envelope.seal", "envelope_failed", "the cryptographic library refused")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aad() -> Aad<'static> {
        Aad::new("shop", "credential", "c1", "secret")
    }

    #[tokio::test]
    async fn seals_and_opens_in_place_only() {
        let envelope = LocalEnvelope::new(Keyring::generate().unwrap());
        let sealed = envelope.seal(b"canary", &aad()).await.unwrap();
        assert_eq!(envelope.open(&sealed, &aad()).await.unwrap().expose(), b"canary");
        for moved in [
            Aad::new("shop2", "credential", "c1", "secret"),
            Aad::new("shop", "credential", "c1s", "ecret"),
            Aad { version: 2, ..aad() },
        ] {
            assert_eq!(envelope.open(&sealed, &moved).await.unwrap_err().code(), "envelope_rejected");
        }
    }

    #[tokio::test]
    async fn every_flipped_bit_and_every_cut_is_noticed() {
        let envelope = LocalEnvelope::new(Keyring::generate().unwrap());
        let sealed = envelope.seal(b"k", &aad()).await.unwrap();
        let bytes = sealed.as_bytes().to_vec();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(envelope.open(&Sealed::from_bytes(changed), &aad()).await.is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            let cut = Sealed::from_bytes(bytes[..length].to_vec());
            assert!(envelope.open(&cut, &aad()).await.is_err(), "length {length}");
        }
    }

    #[tokio::test]
    async fn rewrap_moves_to_the_current_key_and_keeps_the_payload() {
        let old = Secret::new([7; KEK_LEN]);
        let before = LocalEnvelope::new(Keyring::new(old.duplicate()).unwrap());
        let sealed = before.seal(b"canary", &aad()).await.unwrap();
        let mut ring = Keyring::new(old).unwrap();
        ring.add(2, Secret::new([8; KEK_LEN])).unwrap();
        let both = LocalEnvelope::new(ring);
        let rewrapped = both.rewrap(&sealed, &aad()).await.unwrap();
        assert_eq!(
            rewrapped.as_bytes()[HEADER + WRAP_BLOCK..],
            sealed.as_bytes()[HEADER + WRAP_BLOCK..],
            "payload bytes must not change"
        );
        assert_eq!(both.open(&rewrapped, &aad()).await.unwrap().expose(), b"canary");
        assert_eq!(before.open(&rewrapped, &aad()).await.unwrap_err().code(), "kek_unknown");
    }

    #[test]
    fn weak_and_duplicate_keys_are_refused() {
        assert_eq!(Keyring::new(Secret::new([0; KEK_LEN])).unwrap_err().code(), "kek_weak");
        let mut ring = Keyring::new(Secret::new([1; KEK_LEN])).unwrap();
        assert_eq!(ring.add(2, Secret::new([1; KEK_LEN])).unwrap_err().code(), "kek_duplicate");
    }
}
