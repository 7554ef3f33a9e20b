//! Looking into certificate signing requests.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer as _, public_key::PublicKey};

use crate::{Error, Result};

/// A request that an authority has looked into.
#[derive(Debug, Clone)]
pub(crate) struct CertificateRequest {
    pub(crate) der: Vec<u8>,
    pub(crate) common_name: Option<String>,
    pub(crate) key: KeyInfo,
}

/// What kind of key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyInfo {
    /// `RSA`, `ECDSA` or something else.
    pub(crate) algorithm: &'static str,
    pub(crate) bits: usize,
}

impl CertificateRequest {
    /// Reads PEM, or base64 without the lines around it, in either alphabet. Checks the signature, which must be one of
    /// RSA, P-256, P-384 or Ed25519.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`] when it is no request, or its signature is wrong.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let bad = |error: &dyn std::fmt::Display| Error::Crypto(format!("certificate request: {error}"));
        let der = if text.contains("-----BEGIN") {
            pem::parse(text).map_err(|error| bad(&error))?.into_contents()
        } else {
            let digits = text.chars().filter(|c| !c.is_whitespace() && *c != '=');
            let digits: String = digits
                .map(|c| {
                    if c == '-' {
                        '+'
                    } else if c == '_' {
                        '/'
                    } else {
                        c
                    }
                })
                .collect();
            STANDARD_NO_PAD.decode(digits).map_err(|error| bad(&error))?
        };
        let (_, request) = X509CertificationRequest::from_der(&der).map_err(|error| bad(&error))?;
        request.verify_signature().map_err(|error| bad(&error))?;
        let info = &request.certification_request_info;
        let common_name = info.subject.iter_common_name().next().and_then(|name| name.as_str().ok());
        let key = KeyInfo::of(&info.subject_pki);
        Ok(Self { common_name: common_name.map(str::to_owned), key, der: der.clone() })
    }
}

impl KeyInfo {
    pub(crate) fn of(key: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Self {
        match key.parsed() {
            Ok(PublicKey::RSA(key)) => KeyInfo { algorithm: "RSA", bits: key.key_size() },
            // A point is a byte and two coordinates. Signatures with P-521 cannot be checked here.
            Ok(PublicKey::EC(point)) => KeyInfo { algorithm: "ECDSA", bits: point.data().len().saturating_sub(1) * 4 },
            _ => KeyInfo { algorithm: "OTHER", bits: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn all_spellings_of_a_request_are_read() {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "a.example");
        let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
        let spellings =
            [request.pem().unwrap(), STANDARD.encode(request.der()), URL_SAFE.encode(request.der()).replace('=', "")];
        for text in spellings {
            let read = CertificateRequest::read(&text).unwrap();
            assert_eq!(read.common_name.as_deref(), Some("a.example"));
            assert_eq!(read.key, KeyInfo { algorithm: "ECDSA", bits: 256 });
        }
        let mut wrong = request.der().to_vec();
        *wrong.last_mut().unwrap() ^= 1;
        assert!(CertificateRequest::read(&STANDARD.encode(wrong)).is_err(), "its signature");
        assert!(CertificateRequest::read("hello").is_err());
    }

    #[test]
    fn keys_are_measured_and_signed() {
        let ca = crate::pki::TestCa::new("root").unwrap();
        for (algorithm, name, bits) in [
            (&rcgen::PKCS_RSA_SHA256, "RSA", 2048),
            (&rcgen::PKCS_ECDSA_P384_SHA384, "ECDSA", 384),
            (&rcgen::PKCS_ED25519, "OTHER", 0),
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let request = CertificateParams::default().serialize_request(&key).unwrap();
            let read = CertificateRequest::read(&request.pem().unwrap()).unwrap();
            assert_eq!(read.key, KeyInfo { algorithm: name, bits });
            ca.sign(&read.der, &crate::pki::Terms::default()).unwrap();
            ca.sign_key(&rcgen::PublicKeyData::subject_public_key_info(&key), &crate::pki::Terms::default()).unwrap();
        }
    }
}
