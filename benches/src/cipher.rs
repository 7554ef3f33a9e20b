//! What an envelope cannot do without: the same calls of the cryptographic library on the same number of bytes, with
//! everything prepared that can be, on arrays that are there already.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::rand;
use certlib_core::secret::Suite;

type Done<T> = std::result::Result<T, Unspecified>;

/// A key-encryption key, the place of the secrets, and room for one.
#[derive(Debug)]
pub struct Raw {
    cipher: &'static Algorithm,
    kek: [u8; 32],
    wrap_aad: Vec<u8>,
    payload_aad: Vec<u8>,
    buffer: Vec<u8>,
    wrapped: Wrapped,
    commitment: [u8; 32],
    nonce: [u8; 12],
}

/// A wrapped data key.
#[derive(Debug, Clone, Copy)]
struct Wrapped {
    salt: [u8; 32],
    nonce: [u8; 12],
    sealed: [u8; 48],
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

impl Raw {
    /// Works on secrets of `size` bytes, in a place that authenticates as many bytes as `place` has in an envelope.
    ///
    /// # Errors
    /// None, in practice.
    pub fn new(suite: Suite, size: usize, place: usize) -> Done<Self> {
        let mut raw = Self {
            cipher: if suite == Suite::ChaCha20Poly1305 { &CHACHA20_POLY1305 } else { &AES_256_GCM },
            kek: std::array::from_fn(|n| n as u8),
            payload_aad: vec![b'a'; 6 + 4 * 8 + place + 4],
            wrap_aad: vec![b'a'; 6 + 4 * 8 + place + 4 + 32 + 4],
            buffer: vec![b's'; size + 16],
            wrapped: Wrapped { salt: [0; 32], nonce: [0; 12], sealed: [0; 48] },
            commitment: [0; 32],
            nonce: [0; 12],
        };
        raw.seal()?;
        Ok(raw)
    }

    /// A data key, its wrap, its commitment, and the secret encrypted with it.
    ///
    /// # Errors
    /// None, in practice.
    pub fn seal(&mut self) -> Done<()> {
        let mut random = [0; 32 + 12];
        rand::fill(&mut random)?;
        let (dek, nonce) = random.split_at(32);
        self.nonce.copy_from_slice(nonce);
        self.wrapped = self.wrap(dek)?;
        let prk = Salt::new(HKDF_SHA256, &[]).extract(dek);
        self.commitment = expand(&prk, b"certlib commit v1")?;
        let key = cipher(self.cipher, &expand(&prk, b"certlib payload v1")?)?;
        let tag_at = self.buffer.len() - 16;
        let (plain, tag_at) = self.buffer.split_at_mut(tag_at);
        let tag = key.seal_in_place_separate_tag(Nonce::from(&self.nonce), Aad::from(&self.payload_aad), plain)?;
        tag_at.copy_from_slice(tag.as_ref());
        Ok(())
    }

    /// What [`Raw::seal`] did, undone; the sealed bytes stay.
    ///
    /// # Errors
    /// None, in practice.
    pub fn open(&mut self, plain: &mut Vec<u8>) -> Done<()> {
        let (dek, prk) = self.unwrap()?;
        std::hint::black_box(dek);
        let key = cipher(self.cipher, &expand(&prk, b"certlib payload v1")?)?;
        plain.clear();
        plain.extend_from_slice(&self.buffer);
        key.open_in_place(Nonce::from(&self.nonce), Aad::from(&self.payload_aad), plain)?;
        Ok(())
    }

    /// The data key unwrapped, compared with its commitment, and wrapped again.
    ///
    /// # Errors
    /// None, in practice.
    pub fn rewrap(&mut self) -> Done<()> {
        let (dek, _) = self.unwrap()?;
        self.wrapped = self.wrap(&dek)?;
        Ok(())
    }

    /// As [`Raw::rewrap`], without a look at the commitment.
    ///
    /// # Errors
    /// None, in practice.
    pub fn unwrap_and_wrap(&mut self) -> Done<()> {
        let dek = self.data_key()?;
        self.wrapped = self.wrap(&dek)?;
        Ok(())
    }

    /// The data key unwrapped and compared with its commitment.
    ///
    /// # Errors
    /// None, in practice.
    pub fn verify(&mut self) -> Done<()> {
        self.unwrap().map(drop)
    }

    fn unwrap(&self) -> Done<([u8; 32], Prk)> {
        let dek = self.data_key()?;
        let prk = Salt::new(HKDF_SHA256, &[]).extract(&dek);
        verify_slices_are_equal(&self.commitment, &expand(&prk, b"certlib commit v1")?)?;
        Ok((dek, prk))
    }

    fn data_key(&self) -> Done<[u8; 32]> {
        let Wrapped { salt, nonce, mut sealed } = self.wrapped;
        let key = self.wrapping_key(&salt)?;
        key.open_in_place(Nonce::from(&nonce), Aad::from(&self.wrap_aad), &mut sealed)?;
        sealed.first_chunk().copied().ok_or(Unspecified)
    }

    fn wrap(&self, dek: &[u8]) -> Done<Wrapped> {
        let mut random = [0; 32 + 12];
        rand::fill(&mut random)?;
        let mut wrapped = Wrapped { salt: [0; 32], nonce: [0; 12], sealed: [0; 48] };
        wrapped.salt.copy_from_slice(&random[..32]);
        wrapped.nonce.copy_from_slice(&random[32..]);
        let (plain, tag_at) = wrapped.sealed.split_at_mut(32);
        plain.copy_from_slice(dek);
        let key = self.wrapping_key(&wrapped.salt)?;
        let tag = key.seal_in_place_separate_tag(Nonce::from(&wrapped.nonce), Aad::from(&self.wrap_aad), plain)?;
        tag_at.copy_from_slice(tag.as_ref());
        Ok(wrapped)
    }

    fn wrapping_key(&self, salt: &[u8]) -> Done<LessSafeKey> {
        cipher(&AES_256_GCM, &expand(&Salt::new(HKDF_SHA256, salt).extract(&self.kek), b"certlib wrap v1")?)
    }
}

fn cipher(algorithm: &'static Algorithm, key: &[u8; 32]) -> Done<LessSafeKey> {
    Ok(LessSafeKey::new(UnboundKey::new(algorithm, key)?))
}

fn expand(prk: &Prk, label: &[u8]) -> Done<[u8; 32]> {
    let mut key = [0; 32];
    prk.expand(&[label], Length)?.fill(&mut key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_by_hand_opens_by_hand() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let mut raw = Raw::new(suite, 250, 40).unwrap();
            raw.buffer[..5].copy_from_slice(b"plain");
            raw.seal().unwrap();
            let mut plain = Vec::new();
            for _ in 0..3 {
                raw.rewrap().unwrap();
                raw.unwrap_and_wrap().unwrap();
                raw.verify().unwrap();
                raw.open(&mut plain).unwrap();
                assert!(plain.starts_with(b"plain"));
            }
            raw.commitment[0] ^= 1;
            assert!(raw.verify().is_err() && raw.rewrap().is_err() && raw.open(&mut plain).is_err());
            raw.unwrap_and_wrap().unwrap();
        }
    }
}
