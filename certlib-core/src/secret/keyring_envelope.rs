//! The envelope on top of a keyring.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

use super::envelope::SecretEnvelope;
use super::keyring::{Entry, Keyring};
use super::provider::{DEK_LEN, Dek, Kek, KekId, WrappedDek};
use super::sealed::{COMMITMENT_LEN, PAYLOAD_AT, Parts, domain, head};
use super::suite::{KEY_LEN, NONCE_LEN, Suite, TAG_LEN, derive, fill};
use super::{Aad, Sealed, Secret, SecretBytes, rejected};
use crate::error::{Error, Result};

/// How many wraps under one key a process makes before it warns; see [`KeyProvider`](super::KeyProvider).
const WRAPS_ALARM: u64 = 1 << 31;

/// [`SecretEnvelope`] over a [`Keyring`], which can be [replaced](KeyringEnvelope::replace) while it is in use.
///
/// Each secret has a random data key of its own. From it are derived (HKDF-SHA-256) the key that encrypts the secret
/// and a commitment: AES-GCM and ChaCha20-Poly1305 alone do not bind a ciphertext to one key.
#[derive(Debug)]
pub struct KeyringEnvelope {
    suite: Suite,
    state: RwLock<Arc<State>>,
    wraps: Mutex<HashMap<KekId, u64>>,
}

#[derive(Debug)]
struct State {
    keyring: Keyring,
    primary: Option<KekId>,
}

impl KeyringEnvelope {
    /// Seals and opens with the keys of `keyring`; its newest one seals until told otherwise.
    pub fn new(keyring: Keyring) -> Self {
        let primary = keyring.newest().map(|entry| entry.kek.id);
        let state = RwLock::new(Arc::new(State { keyring, primary }));
        Self { suite: Suite::default(), state, wraps: Mutex::default() }
    }

    /// Seals with `suite` from now on. What another suite sealed still opens.
    #[must_use]
    pub fn suite(mut self, suite: Suite) -> Self {
        self.suite = suite;
        self
    }

    /// Uses the keys of `keyring` from now on: how a running node gets a new key, or loses an old one.
    ///
    /// # Errors
    /// `Validation` `kek_unknown` when the key that seals is not among them: nothing changes then.
    pub fn replace(&self, keyring: Keyring) -> Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(primary) = state.primary
            && keyring.find(&primary).is_none()
        {
            return Err(unknown(&primary, "the new keyring lacks the key that seals; rotate to another key first"));
        }
        let primary = state.primary.or_else(|| keyring.newest().map(|entry| entry.kek.id));
        *state = Arc::new(State { keyring, primary });
        Ok(())
    }

    /// The keys that it uses now.
    pub fn keyring(&self) -> Keyring {
        self.state().keyring.clone()
    }

    fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Wraps `dek` with the key that seals; says which one that is.
    async fn wrap(&self, dek: &Dek, place: &mut Place) -> Result<(KekId, u32, WrappedDek)> {
        let state = self.state();
        let primary = state.primary.and_then(|id| state.keyring.find(&id));
        let Entry { kek, provider } =
            primary.ok_or_else(|| Error::validation("envelope.seal", "kek_unknown", "the keyring is empty"))?;
        self.count(kek);
        let wrapped = provider.wrap(kek, dek, place.under(&kek.id, kek.version)).await?;
        Ok((kek.id, kek.version, wrapped))
    }

    async fn unwrap(&self, parts: &Parts<'_>, place: &mut Place) -> Result<Dek> {
        let state = self.state();
        let Entry { kek, provider } = state.keyring.find(&parts.kek).ok_or_else(|| {
            unknown(&parts.kek, "the keyring lacks the key that this secret was sealed with")
                .with("version", parts.kek_version)
        })?;
        let dek = provider.unwrap(kek, &parts.wrapped, place.under(&parts.kek, parts.kek_version)).await?;
        let commitment = commitment(&dek)?;
        if verify_slices_are_equal(parts.commitment, &*commitment).is_err() {
            let why = "the data key is not the one that this envelope commits to: somebody made or changed it";
            return Err(Error::validation("envelope.open", "commitment_mismatch", why));
        }
        Ok(dek)
    }

    /// Where no key is derived for each wrap, nonces may repeat some day.
    fn count(&self, kek: &Kek) {
        let mut wraps = self.wraps.lock().unwrap_or_else(PoisonError::into_inner);
        let count = wraps.entry(kek.id).or_default();
        *count += 1;
        if *count == WRAPS_ALARM {
            tracing::error!(%kek, "this process has used this key 2^31 times; rotate to another one");
        }
    }
}

#[async_trait]
impl SecretEnvelope for KeyringEnvelope {
    async fn seal(&self, plain: &[u8], aad: &Aad<'_>) -> Result<Sealed> {
        let suite = self.suite;
        let mut random = Zeroizing::new([0; DEK_LEN + NONCE_LEN]);
        fill(&mut *random)?;
        let mut dek = Zeroizing::new([0; DEK_LEN]);
        dek.copy_from_slice(&random[..DEK_LEN]);
        let dek = Secret::new(*dek);
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&random[DEK_LEN..]);
        let mut place = Place::new(suite, aad);
        let (kek, version, wrapped) = self.wrap(&dek, &mut place).await?;
        let key = payload_key(&dek)?;
        // Sized at once: a buffer that grows leaves plaintext behind.
        let rest = COMMITMENT_LEN + NONCE_LEN + plain.len() + TAG_LEN;
        let mut bytes = head(suite, &kek, version, &wrapped, rest);
        bytes.extend_from_slice(&*commitment(&dek)?);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(plain);
        let tag = suite.seal(&key, nonce, place.alone(), &mut bytes[PAYLOAD_AT..])?;
        bytes.extend_from_slice(&tag);
        Ok(Sealed::from_bytes(bytes))
    }

    async fn open(&self, sealed: &Sealed, aad: &Aad<'_>) -> Result<SecretBytes> {
        let parts = Parts::of(sealed)?;
        let mut place = Place::new(parts.suite, aad);
        let dek = self.unwrap(&parts, &mut place).await?;
        let mut plain = parts.payload.to_vec();
        let key = payload_key(&dek)?;
        let length = parts.suite.open(&key, parts.nonce, place.alone(), &mut plain)?;
        plain.truncate(length.ok_or_else(rejected)?);
        Ok(Secret::new(plain))
    }

    async fn rewrap(&self, sealed: &Sealed, aad: &Aad<'_>) -> Result<Sealed> {
        let parts = Parts::of(sealed)?;
        let mut place = Place::new(parts.suite, aad);
        let dek = self.unwrap(&parts, &mut place).await?;
        let (kek, version, wrapped) = self.wrap(&dek, &mut place).await?;
        let mut bytes = head(parts.suite, &kek, version, &wrapped, parts.body.len());
        bytes.extend_from_slice(parts.body);
        Ok(Sealed::from_bytes(bytes))
    }

    async fn verify(&self, sealed: &Sealed, aad: &Aad<'_>) -> Result<()> {
        let parts = Parts::of(sealed)?;
        self.unwrap(&parts, &mut Place::new(parts.suite, aad)).await.map(drop)
    }

    fn keks(&self) -> Vec<Kek> {
        self.state().keyring.keks()
    }

    fn primary(&self) -> Option<KekId> {
        self.state().primary
    }

    fn promote(&self, kek: &KekId) -> Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.keyring.find(kek).is_none() {
            return Err(unknown(kek, "the keyring lacks the key that is to seal"));
        }
        if state.primary != Some(*kek) {
            *state = Arc::new(State { keyring: state.keyring.clone(), primary: Some(*kek) });
        }
        Ok(())
    }
}

fn commitment(dek: &Dek) -> Result<Zeroizing<[u8; COMMITMENT_LEN]>> {
    derive(dek.expose(), &[], b"certlib commit v1")
}

fn payload_key(dek: &Dek) -> Result<Zeroizing<[u8; KEY_LEN]>> {
    derive(dek.expose(), &[], b"certlib payload v1")
}

/// What the layers authenticate, in one buffer: the place, and behind it the key-encryption key of the wrap.
struct Place {
    bytes: Vec<u8>,
    alone: usize,
}

impl Place {
    fn new(suite: Suite, aad: &Aad<'_>) -> Self {
        let domain = domain(suite);
        let alone = domain.len() + aad.encoded_len();
        let mut bytes = Vec::with_capacity(alone + KekId::LEN + 4);
        bytes.extend_from_slice(&domain);
        aad.encode_to(&mut bytes);
        Self { bytes, alone }
    }

    /// The place alone, for the payload: the key-encryption key may change under it.
    fn alone(&self) -> &[u8] {
        &self.bytes[..self.alone]
    }

    /// The place and a key-encryption key, for a wrap.
    fn under(&mut self, kek: &KekId, version: u32) -> &[u8] {
        self.bytes.truncate(self.alone);
        self.bytes.extend_from_slice(kek.as_bytes());
        self.bytes.extend_from_slice(&version.to_be_bytes());
        &self.bytes
    }
}

fn unknown(kek: &KekId, why: &'static str) -> Error {
    Error::validation("envelope", "kek_unknown", why).with("kek", kek.short())
}

#[cfg(test)]
mod tests {
    use super::super::local::KEK_LEN;
    use super::*;

    fn aad() -> Aad<'static> {
        Aad::new("shop", "credential", "c1", "secret")
    }

    fn key(seed: u8) -> Secret<[u8; KEK_LEN]> {
        Secret::new(std::array::from_fn(|n| u8::try_from(n).unwrap() ^ seed))
    }

    #[tokio::test]
    async fn seals_and_opens_in_place_only() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let envelope = KeyringEnvelope::new(Keyring::generate().unwrap()).suite(suite);
            let sealed = envelope.seal(b"canary", &aad()).await.unwrap();
            assert_eq!(sealed.as_bytes().len(), 6 + Sealed::OVERHEAD);
            assert_eq!(envelope.open(&sealed, &aad()).await.unwrap().expose(), b"canary");
            for moved in [
                Aad::new("shop2", "credential", "c1", "secret"),
                Aad::new("shop", "credential", "c1s", "ecret"),
                Aad { version: 2, ..aad() },
            ] {
                assert_eq!(envelope.open(&sealed, &moved).await.unwrap_err().code(), "envelope_rejected");
            }
        }
    }

    #[tokio::test]
    async fn rewrap_moves_to_the_primary_key_and_keeps_the_payload() {
        let before = KeyringEnvelope::new(Keyring::new(key(1)).unwrap());
        let sealed = before.seal(b"canary", &aad()).await.unwrap();
        let mut ring = Keyring::new(key(1)).unwrap();
        ring.add(2, key(2)).unwrap();
        let both = KeyringEnvelope::new(ring);
        let rewrapped = both.rewrap(&sealed, &aad()).await.unwrap();
        assert_eq!(rewrapped.kek(), both.primary());
        assert_eq!(Parts::of(&rewrapped).unwrap().body, Parts::of(&sealed).unwrap().body);
        assert_eq!(both.open(&rewrapped, &aad()).await.unwrap().expose(), b"canary");
        both.verify(&rewrapped, &aad()).await.unwrap();
        assert_eq!(before.open(&rewrapped, &aad()).await.unwrap_err().code(), "kek_unknown");
        assert_eq!(before.verify(&rewrapped, &aad()).await.unwrap_err().code(), "kek_unknown");
    }

    #[tokio::test]
    async fn a_new_keyring_must_have_the_key_that_seals() {
        let envelope = KeyringEnvelope::new(Keyring::new(key(1)).unwrap());
        let first = envelope.primary().unwrap();
        assert_eq!(envelope.replace(Keyring::new(key(2)).unwrap()).unwrap_err().code(), "kek_unknown");
        let mut ring = Keyring::new(key(1)).unwrap();
        ring.add(2, key(2)).unwrap();
        envelope.replace(ring).unwrap();
        assert_eq!(envelope.primary(), Some(first), "a key that is there does not seal yet");
        let second = envelope.keks()[1].id;
        envelope.promote(&second).unwrap();
        assert_eq!(envelope.seal(b"", &aad()).await.unwrap().kek(), Some(second));
    }
}
