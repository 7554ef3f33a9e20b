//! The layout and the keys of an envelope, written a second time, from the documentation: only the cryptographic library
//! is shared with the code under test.

use aws_lc_rs::aead::{self, AES_256_GCM, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use certlib_core::secret::Aad;

/// The parts of an envelope, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub suite: u8,
    pub kek_id: [u8; 32],
    pub kek_version: u32,
    pub salt: [u8; 32],
    pub wrap_nonce: [u8; 12],
    pub wrapped: [u8; 48],
    pub commitment: [u8; 32],
    pub nonce: [u8; 12],
    pub payload: Vec<u8>,
}

/// The parts of fixed length: their name and length.
pub const PARTS: [(&str, usize); 10] = [
    ("magic", 4),
    ("layout", 1),
    ("suite", 1),
    ("key id", 32),
    ("key version", 4),
    ("salt", 32),
    ("wrap nonce", 12),
    ("wrapped data key", 48),
    ("commitment", 32),
    ("payload nonce", 12),
];

impl Layout {
    pub fn read(mut bytes: &[u8]) -> Layout {
        assert_eq!(take(&mut bytes), *b"CLEV\x01");
        let [suite] = take(&mut bytes);
        Layout {
            suite,
            kek_id: take(&mut bytes),
            kek_version: u32::from_be_bytes(take(&mut bytes)),
            salt: take(&mut bytes),
            wrap_nonce: take(&mut bytes),
            wrapped: take(&mut bytes),
            commitment: take(&mut bytes),
            nonce: take(&mut bytes),
            payload: bytes.to_vec(),
        }
    }

    pub fn write(&self) -> Vec<u8> {
        let mut bytes = b"CLEV\x01".to_vec();
        bytes.push(self.suite);
        bytes.extend(self.kek_id);
        bytes.extend(self.kek_version.to_be_bytes());
        bytes.extend(self.salt);
        bytes.extend(self.wrap_nonce);
        bytes.extend(self.wrapped);
        bytes.extend(self.commitment);
        bytes.extend(self.nonce);
        bytes.extend(&self.payload);
        bytes
    }

    /// What the payload authenticates: the format, the suite and the place.
    pub fn payload_aad(&self, aad: &Aad<'_>) -> Vec<u8> {
        let mut bytes = b"CLEV\x01".to_vec();
        bytes.push(self.suite);
        for part in [aad.tenant, aad.collection, aad.record, aad.field] {
            bytes.extend(u64::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend(part.as_bytes());
        }
        bytes.extend(aad.version.to_be_bytes());
        bytes
    }

    /// What the wrap authenticates: the same, and the key-encryption key.
    pub fn wrap_aad(&self, aad: &Aad<'_>) -> Vec<u8> {
        let mut bytes = self.payload_aad(aad);
        bytes.extend(self.kek_id);
        bytes.extend(self.kek_version.to_be_bytes());
        bytes
    }

    /// The data key.
    pub fn data_key(&self, kek: &[u8; 32], aad: &Aad<'_>) -> Option<[u8; 32]> {
        let plain = decrypt(1, &wrap_key(kek, &self.salt), self.wrap_nonce, &self.wrap_aad(aad), &self.wrapped)?;
        Some(plain.try_into().unwrap())
    }

    /// Wraps another data key in its place.
    pub fn with_data_key(mut self, kek: &[u8; 32], dek: &[u8; 32], aad: &Aad<'_>) -> Self {
        let sealed = encrypt(1, &wrap_key(kek, &self.salt), self.wrap_nonce, &self.wrap_aad(aad), dek);
        self.wrapped = sealed.try_into().unwrap();
        self
    }

    /// The secret, as `dek` decrypts it; the commitment plays no part.
    pub fn decrypt(&self, dek: &[u8; 32], aad: &Aad<'_>) -> Option<Vec<u8>> {
        decrypt(self.suite, &payload_key(dek), self.nonce, &self.payload_aad(aad), &self.payload)
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (part, rest) = bytes.split_first_chunk().expect("the envelope is long enough");
    *bytes = rest;
    *part
}

pub fn kek_id(kek: &[u8; 32]) -> [u8; 32] {
    hkdf(kek, b"", b"certlib kek id v1")
}

pub fn wrap_key(kek: &[u8; 32], salt: &[u8; 32]) -> [u8; 32] {
    hkdf(kek, salt, b"certlib wrap v1")
}

pub fn commitment(dek: &[u8; 32]) -> [u8; 32] {
    hkdf(dek, b"", b"certlib commit v1")
}

pub fn payload_key(dek: &[u8; 32]) -> [u8; 32] {
    hkdf(dek, b"", b"certlib payload v1")
}

fn hkdf(secret: &[u8], salt: &[u8], label: &[u8]) -> [u8; 32] {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            32
        }
    }
    let mut out = [0; 32];
    Salt::new(HKDF_SHA256, salt).extract(secret).expand(&[label], Length).unwrap().fill(&mut out).unwrap();
    out
}

pub fn encrypt(suite: u8, key: &[u8; 32], nonce: [u8; 12], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut bytes = plain.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    cipher(suite, key).seal_in_place_append_tag(nonce, aead::Aad::from(aad), &mut bytes).unwrap();
    bytes
}

pub fn decrypt(suite: u8, key: &[u8; 32], nonce: [u8; 12], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    cipher(suite, key).open_in_place(nonce, aead::Aad::from(aad), &mut bytes).ok().map(|plain| plain.to_vec())
}

fn cipher(suite: u8, key: &[u8; 32]) -> LessSafeKey {
    let algorithm: &'static Algorithm = match suite {
        1 => &AES_256_GCM,
        2 => &CHACHA20_POLY1305,
        other => panic!("suite {other}"),
    };
    LessSafeKey::new(UnboundKey::new(algorithm, key).unwrap())
}
