//! Private keys: generating, reading the usual encodings, and what is public about them.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
};
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm,
};
use serde::{Deserialize, Serialize};

use super::{key_mismatch, to_pem};
use crate::error::{Error, Result};
use crate::secret::{Secret, SecretBytes, SecretString};

const OPERATION: &str = "key";

/// Algorithm and size of a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KeyType {
    /// ECDSA on NIST P-256: the default.
    #[default]
    #[serde(rename = "ecdsa-p256")]
    EcdsaP256,
    /// ECDSA on NIST P-384.
    #[serde(rename = "ecdsa-p384")]
    EcdsaP384,
    /// ECDSA on NIST P-521.
    #[serde(rename = "ecdsa-p521")]
    EcdsaP521,
    /// Ed25519. Public CAs do not issue for it.
    #[serde(rename = "ed25519")]
    Ed25519,
    /// RSA, 2048 bits.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// RSA, 3072 bits.
    #[serde(rename = "rsa-3072")]
    Rsa3072,
    /// RSA, 4096 bits.
    #[serde(rename = "rsa-4096")]
    Rsa4096,
    /// RSA of another size between 2048 and 8192 bits; imported, never generated.
    #[serde(rename = "rsa")]
    RsaOther,
}

impl std::fmt::Display for KeyType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
            Self::EcdsaP521 => "ecdsa-p521",
            Self::Ed25519 => "ed25519",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
            Self::RsaOther => "rsa",
        })
    }
}

impl KeyType {
    fn ecdsa(self) -> Option<&'static EcdsaSigningAlgorithm> {
        match self {
            Self::EcdsaP256 => Some(&ECDSA_P256_SHA256_ASN1_SIGNING),
            Self::EcdsaP384 => Some(&ECDSA_P384_SHA384_ASN1_SIGNING),
            Self::EcdsaP521 => Some(&ECDSA_P521_SHA512_ASN1_SIGNING),
            _ => None,
        }
    }

    fn signature_algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::EcdsaP256 => &PKCS_ECDSA_P256_SHA256,
            Self::EcdsaP384 => &PKCS_ECDSA_P384_SHA384,
            Self::EcdsaP521 => &PKCS_ECDSA_P521_SHA512,
            Self::Ed25519 => &PKCS_ED25519,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 | Self::RsaOther => &PKCS_RSA_SHA256,
        }
    }
}

/// A private key, kept as PKCS#8 DER.
pub struct PrivateKey {
    pkcs8: SecretBytes,
    kind: KeyType,
    public: Vec<u8>,
}

impl PrivateKey {
    /// Generates a key. RSA takes up to seconds of one core: call it where blocking is allowed.
    ///
    /// # Errors
    /// `IoPermanent` `key_generation_failed`; `Validation` `key_type_unsupported` for [`KeyType::RsaOther`].
    pub fn generate(kind: KeyType) -> Result<Self> {
        let failed = |_| Error::permanent(OPERATION, "key_generation_failed", "the cryptographic library refused");
        let size = match kind {
            KeyType::Rsa2048 => rsa::KeySize::Rsa2048,
            KeyType::Rsa3072 => rsa::KeySize::Rsa3072,
            KeyType::Rsa4096 => rsa::KeySize::Rsa4096,
            KeyType::RsaOther => {
                return Err(Error::validation(OPERATION, "key_type_unsupported", "name the size: 2048, 3072 or 4096"));
            }
            KeyType::Ed25519 => {
                let document = Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1()).map_err(failed)?;
                return Self::from_pkcs8(document.as_ref());
            }
            KeyType::EcdsaP256 | KeyType::EcdsaP384 | KeyType::EcdsaP521 => {
                let algorithm = kind.ecdsa().unwrap_or(&ECDSA_P256_SHA256_ASN1_SIGNING);
                let document = EcdsaKeyPair::generate(algorithm).and_then(|pair| pair.to_pkcs8v1()).map_err(failed)?;
                return Self::from_pkcs8(document.as_ref());
            }
        };
        let pair = RsaKeyPair::generate(size).map_err(failed)?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
        Self::from_pkcs8(der.as_ref())
    }

    /// Reads PKCS#8 DER.
    ///
    /// # Errors
    /// `Validation` `key_invalid`.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self> {
        for kind in [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::EcdsaP521] {
            if let Some(pair) = kind.ecdsa().and_then(|algorithm| EcdsaKeyPair::from_pkcs8(algorithm, der).ok()) {
                return Ok(Self::from_parts(der, kind, pair.public_key().as_ref()));
            }
        }
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Ok(Self::from_parts(der, KeyType::Ed25519, pair.public_key().as_ref()));
        }
        let pair = RsaKeyPair::from_pkcs8(der).map_err(|_| invalid())?;
        Ok(Self::from_parts(der, rsa_kind(&pair), pair.public_key().as_ref()))
    }

    /// Reads DER in PKCS#8, PKCS#1 (RSA) or SEC1 (EC) encoding.
    ///
    /// # Errors
    /// `Validation` `key_invalid`.
    pub fn from_der(der: &[u8]) -> Result<Self> {
        Self::from_pkcs8(der).or_else(|_| Self::from_pkcs1(der)).or_else(|_| Self::from_sec1(der))
    }

    /// Reads PKCS#1 DER, the encoding of `RSA PRIVATE KEY`.
    ///
    /// # Errors
    /// `Validation` `key_invalid`.
    pub fn from_pkcs1(der: &[u8]) -> Result<Self> {
        let pair = RsaKeyPair::from_der(der).map_err(|_| invalid())?;
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| invalid())?;
        Ok(Self::from_parts(pkcs8.as_ref(), rsa_kind(&pair), pair.public_key().as_ref()))
    }

    /// Reads SEC1 DER, the encoding of `EC PRIVATE KEY` (RFC 5915).
    ///
    /// # Errors
    /// `Validation` `key_invalid`.
    pub fn from_sec1(der: &[u8]) -> Result<Self> {
        for kind in [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::EcdsaP521] {
            let pair = kind.ecdsa().and_then(|algorithm| EcdsaKeyPair::from_private_key_der(algorithm, der).ok());
            if let Some(pair) = pair {
                let pkcs8 = pair.to_pkcs8v1().map_err(|_| invalid())?;
                return Ok(Self::from_parts(pkcs8.as_ref(), kind, pair.public_key().as_ref()));
            }
        }
        Err(invalid())
    }

    fn from_parts(pkcs8: &[u8], kind: KeyType, public: &[u8]) -> Self {
        Self { pkcs8: Secret::new(pkcs8.to_vec()), kind, public: public.to_vec() }
    }

    /// Algorithm and size.
    pub fn kind(&self) -> KeyType {
        self.kind
    }

    /// The public key, as the contents of the BIT STRING in a SubjectPublicKeyInfo (RFC 5280 section 4.1).
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }

    /// The key as PKCS#8 DER.
    pub fn pkcs8(&self) -> &SecretBytes {
        &self.pkcs8
    }

    /// The key as PKCS#8 PEM, ending in one newline.
    pub fn to_pem(&self) -> SecretString {
        Secret::new(to_pem("PRIVATE KEY", self.pkcs8.expose()))
    }

    /// A signed PKCS#10 request (RFC 2986), DER, for `names`: DNS names, wildcards, IP addresses. The subject is empty.
    ///
    /// # Errors
    /// `Validation` `name_invalid`; `IoPermanent` `csr_failed`.
    pub fn certificate_request(&self, names: &[String]) -> Result<Vec<u8>> {
        let mut params = CertificateParams::new(names.to_vec()).map_err(|error| {
            Error::validation(
                OPERATION,
                "name_invalid",
                "a name of the certificate is neither a DNS name nor an address",
            )
            .with("names", names.join(" "))
            .with_source(error)
        })?;
        params.distinguished_name = DistinguishedName::new();
        let failed =
            |error| Error::permanent(OPERATION, "csr_failed", "the request could not be signed").with_source(error);
        let request = params.serialize_request(&self.to_rcgen()?).map_err(failed)?;
        Ok(request.der().to_vec())
    }

    /// The key as rcgen wants it, to sign requests or, for a local CA, certificates.
    ///
    /// # Errors
    /// `Validation` `key_invalid`.
    pub fn to_rcgen(&self) -> Result<KeyPair> {
        let pkcs8 = self.pkcs8.expose().as_slice().into();
        KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, self.kind.signature_algorithm()).map_err(|_| invalid())
    }

    /// Fails with `key_mismatch` unless `public` is this key's public key.
    pub(super) fn check_public(&self, public: &[u8]) -> Result<()> {
        if self.public == public { Ok(()) } else { Err(key_mismatch()) }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("kind", &self.kind).finish_non_exhaustive()
    }
}

fn rsa_kind(pair: &RsaKeyPair) -> KeyType {
    match pair.public_modulus_len() * 8 {
        2048 => KeyType::Rsa2048,
        3072 => KeyType::Rsa3072,
        4096 => KeyType::Rsa4096,
        _ => KeyType::RsaOther,
    }
}

fn invalid() -> Error {
    Error::validation(
        OPERATION,
        "key_invalid",
        "not a private key certlib can use: RSA of 2048 to 8192 bits, ECDSA P-256, P-384, P-521, or Ed25519, unencrypted",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_keys_survive_a_round_trip_and_sign_requests() {
        for kind in [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::EcdsaP521, KeyType::Ed25519, KeyType::Rsa2048] {
            let key = PrivateKey::generate(kind).unwrap();
            assert_eq!(key.kind(), kind);
            let again = PrivateKey::from_der(key.pkcs8().expose()).unwrap();
            assert_eq!(again.public_key(), key.public_key());
            assert!(!key.certificate_request(&["a.example".into(), "192.0.2.1".into()]).unwrap().is_empty());
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey { kind: EcdsaP256, .. }");
    }
}
