//! Signatures of requests and messages, with keys of every length that clients may come with.

use aws_lc_rs::signature::{self as known, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::{public_key::PublicKey, x509::SubjectPublicKeyInfo};

/// A hash, as signatures are over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    /// By its own object identifier, or the one of a signature with it.
    pub(super) fn of(oid: &str) -> Option<Self> {
        match oid {
            "2.16.840.1.101.3.4.2.1" | "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => Some(Self::Sha256),
            "2.16.840.1.101.3.4.2.2" | "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Self::Sha384),
            "2.16.840.1.101.3.4.2.3" | "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Self::Sha512),
            _ => None,
        }
    }
}

/// `Some` when the signature fits; PKCS#1 v1.5 for RSA. Keys below 1024 bits, PSS and Edwards curves fit nothing.
pub(super) fn verify(key: &SubjectPublicKeyInfo<'_>, hash: Hash, message: &[u8], signature: &[u8]) -> Option<()> {
    let algorithm: &dyn VerificationAlgorithm = match (key.parsed().ok()?, hash) {
        (PublicKey::RSA(_), Hash::Sha256) => &known::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
        (PublicKey::RSA(_), Hash::Sha384) => &known::RSA_PKCS1_2048_8192_SHA384,
        (PublicKey::RSA(_), Hash::Sha512) => &known::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
        (PublicKey::EC(point), hash) => match (point.key_size(), hash) {
            (256, Hash::Sha256) => &known::ECDSA_P256_SHA256_ASN1,
            (256, Hash::Sha384) => &known::ECDSA_P256_SHA384_ASN1,
            (384, Hash::Sha256) => &known::ECDSA_P384_SHA256_ASN1,
            (384, Hash::Sha384) => &known::ECDSA_P384_SHA384_ASN1,
            (528, Hash::Sha256) => &known::ECDSA_P521_SHA256_ASN1,
            (528, Hash::Sha384) => &known::ECDSA_P521_SHA384_ASN1,
            (528, Hash::Sha512) => &known::ECDSA_P521_SHA512_ASN1,
            _ => return None,
        },
        _ => return None,
    };
    UnparsedPublicKey::new(algorithm, &key.subject_public_key.data).verify(message, signature).ok()
}
