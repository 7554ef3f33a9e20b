//! Bodies of requests and answers.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use certlib_core::secret::{
    DEK_LEN, Dek, KekId, Secret, SecretString, WRAP_NONCE_LEN, WRAP_SALT_LEN, WRAPPED_LEN, WrappedDek,
};
use certlib_core::{Error, Result};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What every version of a key makes an HMAC of, as its fingerprint.
const FINGERPRINT_INPUT: &[u8] = b"certlib kek id v1";

/// The envelope of every answer.
#[derive(Deserialize)]
pub(super) struct Reply<T> {
    pub(super) data: T,
}

/// What `auth/…/login` and `renew-self` answer.
#[derive(Deserialize)]
pub(super) struct Granted {
    pub(super) auth: Auth,
}

#[derive(Deserialize)]
pub(super) struct Auth {
    pub(super) client_token: SecretString,
    /// Seconds; 0: for ever.
    #[serde(default)]
    pub(super) lease_duration: u64,
    #[serde(default)]
    pub(super) renewable: bool,
}

/// What `lookup-self` answers.
#[derive(Deserialize)]
pub(super) struct TokenInfo {
    #[serde(default)]
    pub(super) ttl: u64,
    #[serde(default)]
    pub(super) renewable: bool,
}

/// What reading a key answers.
#[derive(Deserialize)]
pub(super) struct KeyInfo {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) derived: bool,
    #[serde(default)]
    pub(super) exportable: bool,
    #[serde(default)]
    pub(super) allow_plaintext_backup: bool,
    pub(super) latest_version: u32,
    pub(super) min_decryption_version: u32,
    #[serde(default)]
    pub(super) min_encryption_version: u32,
    #[serde(default)]
    keys: BTreeMap<String, IgnoredAny>,
}

impl KeyInfo {
    /// The versions that decrypt, oldest first.
    pub(super) fn versions(&self) -> Vec<u32> {
        let mut versions: Vec<u32> = self.keys.keys().filter_map(|version| version.parse().ok()).collect();
        versions.retain(|version| (self.min_decryption_version..=self.latest_version).contains(version));
        versions.sort_unstable();
        versions
    }

    /// Whether this version encrypts.
    pub(super) fn encrypts(&self, version: u32) -> bool {
        version >= self.min_encryption_version
    }
}

#[derive(Deserialize)]
pub(super) struct Ciphertext {
    pub(super) ciphertext: String,
}

#[derive(Deserialize)]
pub(super) struct Plaintext {
    pub(super) plaintext: SecretString,
}

#[derive(Deserialize)]
pub(super) struct Hmac {
    pub(super) hmac: String,
}

#[derive(Deserialize)]
pub(super) struct Valid {
    pub(super) valid: bool,
}

/// What `sys/capabilities-self` answers, by path. There are other fields beside the paths.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Capabilities(pub(super) BTreeMap<String, Vec<String>>);

/// The rights to `path`, to be told.
pub(super) fn capabilities(path: &str) -> Result<Bytes> {
    #[derive(Serialize)]
    struct Body<'a> {
        paths: [&'a str; 1],
    }
    body(&Body { paths: [path] }, 64 + path.len())
}

/// Log-in by AppRole.
pub(super) fn login(role_id: &str, secret_id: Option<&SecretString>) -> Result<Bytes> {
    #[derive(Serialize)]
    struct Body<'a> {
        role_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        secret_id: Option<&'a str>,
    }
    let secret_id = secret_id.map(|secret| secret.expose().trim());
    body(&Body { role_id, secret_id }, 64 + role_id.len() + 2 * secret_id.map_or(0, str::len))
}

/// A body without fields.
pub(super) fn empty() -> Bytes {
    Bytes::from_static(b"{}")
}

/// `dek` to be encrypted.
pub(super) fn encrypt(dek: &Dek, associated_data: &[u8], version: u32) -> Result<Bytes> {
    #[derive(Serialize)]
    struct Body<'a> {
        plaintext: &'a str,
        associated_data: &'a str,
        key_version: u32,
    }
    let plaintext = Zeroizing::new(STANDARD.encode(dek.expose()));
    let associated_data = STANDARD.encode(associated_data);
    let length = 128 + plaintext.len() + associated_data.len();
    body(&Body { plaintext: &plaintext, associated_data: &associated_data, key_version: version }, length)
}

/// What [`encrypt`] led to, to be decrypted.
pub(super) fn decrypt(wrapped: &WrappedDek, associated_data: &[u8], version: u32) -> Result<Bytes> {
    #[derive(Serialize)]
    struct Body<'a> {
        ciphertext: &'a str,
        associated_data: &'a str,
    }
    let bytes = [wrapped.nonce.as_slice(), wrapped.ciphertext.as_slice()].concat();
    let ciphertext = format!("vault:v{version}:{}", STANDARD.encode(bytes));
    let associated_data = STANDARD.encode(associated_data);
    let length = 128 + ciphertext.len() + associated_data.len();
    body(&Body { ciphertext: &ciphertext, associated_data: &associated_data }, length)
}

/// The fingerprint of a version, to be made.
pub(super) fn fingerprint(version: u32) -> Result<Bytes> {
    #[derive(Serialize)]
    struct Body {
        input: String,
        key_version: u32,
    }
    body(&Body { input: STANDARD.encode(FINGERPRINT_INPUT), key_version: version }, 128)
}

/// The fingerprint of a version, to be verified.
pub(super) fn verify(version: u32, known: &KekId) -> Result<Bytes> {
    #[derive(Serialize)]
    struct Body {
        input: String,
        hmac: String,
    }
    let hmac = format!("vault:v{version}:{}", STANDARD.encode(known.as_bytes()));
    body(&Body { input: STANDARD.encode(FINGERPRINT_INPUT), hmac }, 256)
}

/// What is authenticated along with a data key: the caller's data, and the salt, which has no other use here.
pub(super) fn associated_data(aad: &[u8], salt: &[u8; WRAP_SALT_LEN]) -> Vec<u8> {
    [aad, salt].concat()
}

/// Nonce and wrapped data key out of `vault:v1:…`. `None` unless version and length are what they must be.
pub(super) fn wrapped(text: &str, version: u32, salt: [u8; WRAP_SALT_LEN]) -> Option<WrappedDek> {
    let bytes = versioned(text, version)?;
    let (nonce, ciphertext) = bytes.split_first_chunk::<WRAP_NONCE_LEN>()?;
    let ciphertext: [u8; WRAPPED_LEN] = ciphertext.try_into().ok()?;
    Some(WrappedDek { salt, nonce: *nonce, ciphertext })
}

/// The fingerprint out of `vault:v1:…`. `None` unless version and length are what they must be.
pub(super) fn kek_id(text: &str, version: u32) -> Option<KekId> {
    versioned(text, version)?.try_into().ok().map(KekId::new)
}

/// The data key out of its base64. `None` unless the length is what it must be.
pub(super) fn dek(text: &SecretString) -> Option<Dek> {
    // One byte more than wanted is decoded to, so that what is too long is seen.
    let mut bytes = Zeroizing::new([0; DEK_LEN + 4]);
    let length = STANDARD.decode_slice(text.expose(), &mut *bytes).ok()?;
    let dek: &[u8; DEK_LEN] = bytes[..length].try_into().ok()?;
    Some(Secret::new(*dek))
}

fn versioned(text: &str, version: u32) -> Option<Vec<u8>> {
    let rest = text.strip_prefix("vault:v")?.strip_prefix(version.to_string().as_str())?.strip_prefix(':')?;
    STANDARD.decode(rest).ok()
}

/// `value` as JSON in a buffer that is zeroed when the last of it is gone. Sized at once: a buffer that grows leaves
/// plaintext behind.
fn body(value: &impl Serialize, length: usize) -> Result<Bytes> {
    let mut buffer = Zeroizing::new(Vec::with_capacity(length));
    serde_json::to_writer(&mut *buffer, value)
        .map_err(|_| Error::permanent("vault_transit", "body_failed", "the request cannot be written as JSON"))?;
    Ok(Bytes::from_owner(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: [u8; WRAP_SALT_LEN] = [7; WRAP_SALT_LEN];

    fn text(version: &str, length: usize) -> String {
        format!("vault:v{version}:{}", STANDARD.encode(vec![5; length]))
    }

    #[test]
    fn a_ciphertext_has_one_length_and_one_version() {
        let good = wrapped(&text("2", 60), 2, SALT).unwrap();
        assert_eq!((good.nonce, good.ciphertext, good.salt), ([5; 12], [5; 48], SALT));
        for bad in [
            text("2", 59),
            text("2", 61),
            text("2", 0),
            text("1", 60),
            text("22", 60),
            text("02", 60),
            "vault:v2:!".to_owned(),
            "vault:v2".to_owned(),
            String::new(),
        ] {
            assert!(wrapped(&bad, 2, SALT).is_none(), "{bad}");
        }
        assert!(kek_id(&text("1", 32), 1).is_some() && kek_id(&text("1", 33), 1).is_none());
    }

    #[test]
    fn a_data_key_has_one_length() {
        let secret = |length: usize| SecretString::new(STANDARD.encode(vec![5; length]));
        assert_eq!(dek(&secret(DEK_LEN)).unwrap().expose(), &[5; DEK_LEN]);
        for length in [0, 16, 31, 33, 34, 64, 1000] {
            assert!(dek(&secret(length)).is_none(), "{length}");
        }
        assert!(dek(&SecretString::new("!".to_owned())).is_none());
    }

    #[test]
    fn bodies_fit_their_buffers_and_are_json() {
        let dek = Secret::new([9; DEK_LEN]);
        let body: serde_json::Value = serde_json::from_slice(&encrypt(&dek, &[1; 500], 3).unwrap()).unwrap();
        assert_eq!(body["plaintext"], STANDARD.encode([9; DEK_LEN]));
        assert_eq!(body["associated_data"], STANDARD.encode([1; 500]));
        assert_eq!(body["key_version"], 3);
        let made = wrapped(&text("3", 60), 3, SALT).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&decrypt(&made, &[], 3).unwrap()).unwrap();
        assert_eq!(body["ciphertext"], text("3", 60));
        let secret = SecretString::new(" s\n".to_owned());
        let body: serde_json::Value = serde_json::from_slice(&login("r", Some(&secret)).unwrap()).unwrap();
        assert_eq!(body, serde_json::json!({"role_id": "r", "secret_id": "s"}));
    }

    #[test]
    fn versions_are_those_that_decrypt() {
        let info: KeyInfo = serde_json::from_str(
            r#"{"type": "aes256-gcm96", "latest_version": 11, "min_decryption_version": 2, "min_encryption_version": 10,
                "keys": {"1": 1, "10": 1, "2": 1, "11": 1, "x": 1, "12": 1}}"#,
        )
        .unwrap();
        assert_eq!(info.versions(), [2, 10, 11]);
        assert!(info.encrypts(10) && !info.encrypts(2));
    }
}
