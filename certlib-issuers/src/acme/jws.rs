//! The signature under the request for an account (RFC 8555 section 6.2). For a key of ours, which is kept before the
//! CA hears of it, instant-acme signs no such request with contacts or an external account.

use std::convert::Infallible;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use certlib_core::Result;
use serde_json::{Value, json};

use super::error;

/// An account's key: ECDSA P-256, the one that every CA takes.
pub(super) struct AccountKey {
    pair: EcdsaKeyPair,
    x: String,
    y: String,
}

impl AccountKey {
    /// Reads PKCS#8 DER.
    ///
    /// # Errors
    /// `IoPermanent` `account_key_invalid`.
    pub(super) fn from_pkcs8(der: &[u8]) -> Result<Self> {
        let invalid = || error::from_acme("acme.account", instant_acme::Error::KeyRejected);
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map_err(|_| invalid())?;
        // An uncompressed point: 04, x, y.
        let point = pair.public_key().as_ref();
        let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else { return Err(invalid()) };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        Ok(Self { pair, x, y })
    }

    fn jwk(&self) -> Value {
        json!({ "crv": "P-256", "kty": "EC", "x": self.x, "y": self.y })
    }

    /// A request body for `url` that names the key itself, for there is no account yet.
    pub(super) fn sign(&self, nonce: &str, url: &str, payload: &Value) -> Result<Vec<u8>, instant_acme::Error> {
        let header = json!({ "alg": "ES256", "nonce": nonce, "url": url, "jwk": self.jwk() });
        let body = flattened(&header, payload, |message| self.pair.sign(&SystemRandom::new(), message))
            .map_err(|_| instant_acme::Error::Crypto)?;
        Ok(body.to_string().into_bytes())
    }

    /// Binds this key to an account that exists elsewhere (RFC 8555 section 7.3.4).
    pub(super) fn bind(&self, external_id: &str, mac_key: &[u8], url: &str) -> Value {
        let header = json!({ "alg": "HS256", "kid": external_id, "url": url });
        let key = hmac::Key::new(hmac::HMAC_SHA256, mac_key);
        let Ok(binding) = flattened(&header, &self.jwk(), |message| Ok::<_, Infallible>(hmac::sign(&key, message)));
        binding
    }
}

fn flattened<S: AsRef<[u8]>, E>(
    header: &Value,
    payload: &Value,
    sign: impl FnOnce(&[u8]) -> Result<S, E>,
) -> Result<Value, E> {
    let protected = URL_SAFE_NO_PAD.encode(header.to_string());
    let payload = URL_SAFE_NO_PAD.encode(payload.to_string());
    let signature = URL_SAFE_NO_PAD.encode(sign(format!("{protected}.{payload}").as_bytes())?);
    Ok(json!({ "protected": protected, "payload": payload, "signature": signature }))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use certlib_core::bundle::{KeyType, PrivateKey};

    use super::*;

    fn key() -> AccountKey {
        let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
        AccountKey::from_pkcs8(key.pkcs8().expose()).unwrap()
    }

    fn decoded(part: &Value) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(part.as_str().unwrap()).unwrap()
    }

    #[test]
    fn a_request_verifies_under_the_key_in_its_header() {
        let key = key();
        let body = key.sign("n1", "https://ca.example/new", &json!({ "a": 1 })).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let header: Value = serde_json::from_slice(&decoded(&body["protected"])).unwrap();
        assert_eq!(header["alg"], "ES256");
        assert_eq!((header["nonce"].as_str(), header["url"].as_str()), (Some("n1"), Some("https://ca.example/new")));
        assert!(header.get("kid").is_none());
        let point = [vec![4], decoded(&header["jwk"]["x"]), decoded(&header["jwk"]["y"])].concat();
        let message = format!("{}.{}", body["protected"].as_str().unwrap(), body["payload"].as_str().unwrap());
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        public.verify(message.as_bytes(), &decoded(&body["signature"])).unwrap();
        assert_eq!(decoded(&body["payload"]), br#"{"a":1}"#);
    }

    #[test]
    fn a_binding_is_of_this_key_to_that_account() {
        let key = key();
        let binding = key.bind("kid-1", b"secret", "https://ca.example/new");
        let header: Value = serde_json::from_slice(&decoded(&binding["protected"])).unwrap();
        assert_eq!(header, json!({ "alg": "HS256", "kid": "kid-1", "url": "https://ca.example/new" }));
        assert_eq!(serde_json::from_slice::<Value>(&decoded(&binding["payload"])).unwrap(), key.jwk());
        let message = format!("{}.{}", binding["protected"].as_str().unwrap(), binding["payload"].as_str().unwrap());
        let mac_key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        hmac::verify(&mac_key, message.as_bytes(), &decoded(&binding["signature"])).unwrap();
    }

    #[test]
    fn other_keys_are_refused() {
        let other = PrivateKey::generate(KeyType::EcdsaP384).unwrap();
        let refused = AccountKey::from_pkcs8(other.pkcs8().expose()).err().unwrap();
        assert_eq!(refused.code(), "account_key_invalid");
    }
}
