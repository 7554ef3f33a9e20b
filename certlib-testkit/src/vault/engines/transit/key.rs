//! A named key with its versions.

use std::collections::BTreeMap;

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType as OutputLength, Salt},
    hmac,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::super::super::{answer::Refusal, random};

/// The length of a nonce, which stands before the ciphertext.
const NONCE_LEN: usize = 12;

/// The ciphers, by the name of the key type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyType {
    Aes128Gcm96,
    Aes256Gcm96,
    ChaCha20Poly1305,
}

impl KeyType {
    pub(super) fn parse(name: &str) -> Result<Self, Refusal> {
        Ok(match name {
            "" | "aes256-gcm96" => Self::Aes256Gcm96,
            "aes128-gcm96" => Self::Aes128Gcm96,
            "chacha20-poly1305" => Self::ChaCha20Poly1305,
            _ => return Err(Refusal::invalid(format!("unknown key type {name} (the simulator has ciphers only)"))),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm96 => "aes128-gcm96",
            Self::Aes256Gcm96 => "aes256-gcm96",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes128Gcm96 => &AES_128_GCM,
            Self::Aes256Gcm96 => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }
}

/// A named key. It has no `Debug`: its versions hold key material.
pub(super) struct Key {
    pub(super) kind: KeyType,
    pub(super) derived: bool,
    pub(super) exportable: bool,
    pub(super) allow_plaintext_backup: bool,
    pub(super) deletion_allowed: bool,
    pub(super) min_decryption: u32,
    /// 0: any.
    pub(super) min_encryption: u32,
    pub(super) min_available: u32,
    pub(super) auto_rotate_seconds: u64,
    latest: u32,
    versions: BTreeMap<u32, Version>,
}

/// One version: a key to encrypt with and, made with it, one for HMACs.
struct Version {
    key: [u8; 32],
    hmac_key: [u8; 32],
    created: OffsetDateTime,
}

struct Length(usize);

impl OutputLength for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Key {
    pub(super) fn new(kind: KeyType, derived: bool, now: OffsetDateTime) -> Result<Self, Refusal> {
        let mut key = Self {
            kind,
            derived,
            exportable: false,
            allow_plaintext_backup: false,
            deletion_allowed: false,
            min_decryption: 1,
            min_encryption: 0,
            min_available: 0,
            auto_rotate_seconds: 0,
            latest: 0,
            versions: BTreeMap::new(),
        };
        key.rotate(now)?;
        Ok(key)
    }

    /// Adds a version.
    pub(super) fn rotate(&mut self, now: OffsetDateTime) -> Result<(), Refusal> {
        let secret = || random::bytes().map_err(|_| Refusal::new(500, "no randomness"));
        let version = Version { key: secret()?, hmac_key: secret()?, created: now };
        self.latest += 1;
        self.versions.insert(self.latest, version);
        Ok(())
    }

    pub(super) fn latest(&self) -> u32 {
        self.latest
    }

    /// Forgets what is before the first version that is to stay.
    pub(super) fn trim(&mut self, first: u32) {
        self.min_available = first;
        self.versions.retain(|version, _| *version >= first);
    }

    /// The version to encrypt or to sign with: the latest one for 0.
    pub(super) fn version_for_use(&self, asked: i64, what: &str) -> Result<u32, Refusal> {
        let say = |why: &str| Refusal::invalid(format!("requested version for {what} is {why}"));
        match u32::try_from(asked) {
            Err(_) => Err(say("negative")),
            Ok(0) => Ok(self.latest),
            Ok(version) if version > self.latest => Err(say("higher than the latest key version")),
            Ok(version) if version < self.min_encryption => Err(say("less than the minimum encryption key version")),
            Ok(version) => Ok(version),
        }
    }

    /// Encrypts under a version: `vault:v1:` and the base64 of nonce, ciphertext and tag.
    pub(super) fn encrypt(&self, version: u32, plain: &[u8], aad: &[u8], context: &[u8]) -> Result<String, Refusal> {
        let nonce = random::bytes::<NONCE_LEN>().map_err(|_| Refusal::new(500, "no randomness"))?;
        let mut bytes = plain.to_vec();
        let cipher = self.cipher(version, context)?;
        cipher
            .seal_in_place_append_tag(Nonce::from(&nonce), Aad::from(aad), &mut bytes)
            .map_err(|_| Refusal::new(500, "cipher: cannot encrypt"))?;
        let text = STANDARD.encode([nonce.as_slice(), &bytes].concat());
        Ok(format!("vault:v{version}:{text}"))
    }

    /// Decrypts what [`Key::encrypt`] made, and tells under which version it was.
    pub(super) fn decrypt(&self, text: &str, aad: &[u8], context: &[u8]) -> Result<Vec<u8>, Refusal> {
        let invalid = |why: &str| Refusal::invalid(format!("invalid ciphertext: {why}"));
        let rest = text.strip_prefix("vault:v").ok_or_else(|| invalid("no prefix"))?;
        let (version, text) = rest.split_once(':').ok_or_else(|| invalid("wrong number of fields"))?;
        let version: u32 = version.parse().map_err(|_| invalid("version number could not be decoded"))?;
        if version > self.latest {
            return Err(invalid("version is too new"));
        }
        if version < self.min_decryption {
            return Err(Refusal::invalid("ciphertext or signature version is disallowed by policy (too old)"));
        }
        let mut bytes = STANDARD.decode(text).map_err(|_| invalid("could not decode base64"))?;
        if bytes.len() < NONCE_LEN {
            return Err(Refusal::invalid("invalid ciphertext length"));
        }
        let mut body = bytes.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&bytes).map_err(|_| invalid("no nonce"))?;
        let plain = self
            .cipher(version, context)?
            .open_in_place(nonce, Aad::from(aad), &mut body)
            .map_err(|_| Refusal::invalid("cipher: message authentication failed"))?;
        Ok(plain.to_vec())
    }

    /// The HMAC of `input` under a version.
    pub(super) fn hmac(&self, version: u32, algorithm: hmac::Algorithm, input: &[u8]) -> Result<Vec<u8>, Refusal> {
        let version = self.version(version)?;
        let key = hmac::Key::new(algorithm, &version.hmac_key);
        Ok(hmac::sign(&key, input).as_ref().to_vec())
    }

    fn version(&self, number: u32) -> Result<&Version, Refusal> {
        // Versions that may not decrypt any more are archived, as if they were gone.
        let version = self.versions.get(&number).filter(|_| number >= self.min_decryption);
        version.ok_or_else(|| Refusal::invalid("no such key version"))
    }

    fn cipher(&self, version: u32, context: &[u8]) -> Result<LessSafeKey, Refusal> {
        let algorithm = self.kind.algorithm();
        let version = self.version(version)?;
        let mut key = version.key;
        if self.derived {
            if context.is_empty() {
                return Err(Refusal::invalid("missing 'context' for key derivation"));
            }
            Salt::new(HKDF_SHA256, &[])
                .extract(&version.key)
                .expand(&[context], Length(key.len()))
                .and_then(|okm| okm.fill(&mut key))
                .map_err(|_| Refusal::new(500, "error deriving the key"))?;
        }
        let unbound = UnboundKey::new(algorithm, &key[..algorithm.key_len()]);
        unbound.map(LessSafeKey::new).map_err(|_| Refusal::new(500, "could not make the cipher"))
    }

    /// What reading the key shows.
    pub(super) fn describe(&self, name: &str) -> Value {
        let shown = self.versions.range(self.min_decryption..);
        let versions = shown.map(|(number, version)| (number.to_string(), json!(version.created.unix_timestamp())));
        let mut fields = json!({
            "name": name,
            "type": self.kind.name(),
            "derived": self.derived,
            "deletion_allowed": self.deletion_allowed,
            "min_available_version": self.min_available,
            "min_decryption_version": self.min_decryption,
            "min_encryption_version": self.min_encryption,
            "latest_version": self.latest,
            "exportable": self.exportable,
            "allow_plaintext_backup": self.allow_plaintext_backup,
            "supports_encryption": true,
            "supports_decryption": true,
            "supports_signing": false,
            "supports_derivation": true,
            "auto_rotate_period": self.auto_rotate_seconds,
            "imported_key": false,
            "keys": versions.collect::<Map<_, _>>(),
        });
        if self.derived
            && let Value::Object(fields) = &mut fields
        {
            fields.insert("kdf".to_owned(), json!("hkdf_sha256"));
            fields.insert("convergent_encryption".to_owned(), json!(false));
        }
        fields
    }
}
