//! Looking into certificate signing requests.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer as _,
    public_key::PublicKey,
};

use crate::{Error, Result};

/// A request that an authority has looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateRequest {
    pub(crate) der: Vec<u8>,
    pub(crate) common_name: Option<String>,
    /// The DNS names and IP addresses of its alternative names.
    pub(crate) names: Vec<String>,
    pub(crate) key: KeyInfo,
    /// The public key with its algorithm, DER.
    pub(crate) public_key: Vec<u8>,
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
        Self::from_der(der)
    }

    /// Reads DER. Checks as [`CertificateRequest::read`] does.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`] when it is no request, or its signature is wrong.
    pub(crate) fn from_der(der: Vec<u8>) -> Result<Self> {
        let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|error| bad(&error))?;
        if !rest.is_empty() {
            return Err(bad(&"something follows it"));
        }
        request.verify_signature().map_err(|error| bad(&error))?;
        let info = &request.certification_request_info;
        let common_name = info.subject.iter_common_name().next().and_then(|name| name.as_str().ok());
        let common_name = common_name.map(str::to_owned);
        let extensions = request.requested_extensions().into_iter().flatten();
        let alternative = extensions.filter_map(|extension| match extension {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        });
        let names = alternative.flatten().filter_map(name).collect();
        let key = KeyInfo::of(&info.subject_pki);
        let public_key = info.subject_pki.raw.to_vec();
        Ok(Self { common_name, names, key, public_key, der: der.clone() })
    }
}

fn bad(error: &dyn std::fmt::Display) -> Error {
    Error::Crypto(format!("certificate request: {error}"))
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    }
}

impl KeyInfo {
    /// Whether it is RSA or ECDSA.
    pub(crate) fn is_usual(self) -> bool {
        self.algorithm != "OTHER"
    }

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
        let mut params = CertificateParams::new(vec!["a.example".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "b.example");
        let key = KeyPair::generate().unwrap();
        let request = params.serialize_request(&key).unwrap();
        let spellings =
            [request.pem().unwrap(), STANDARD.encode(request.der()), URL_SAFE.encode(request.der()).replace('=', "")];
        for text in spellings {
            let read = CertificateRequest::read(&text).unwrap();
            assert_eq!(read.common_name.as_deref(), Some("b.example"));
            assert_eq!(read.names, ["a.example", "127.0.0.1"]);
            assert_eq!(read.public_key, rcgen::PublicKeyData::subject_public_key_info(&key));
            assert_eq!(CertificateRequest::from_der(request.der().to_vec()).unwrap(), read);
            assert_eq!(read.key, KeyInfo { algorithm: "ECDSA", bits: 256 });
        }
        let mut wrong = request.der().to_vec();
        *wrong.last_mut().unwrap() ^= 1;
        assert!(CertificateRequest::read(&STANDARD.encode(wrong)).is_err(), "its signature");
        assert!(CertificateRequest::read("hello").is_err());
        let longer = [request.der().as_ref(), b"\0"].concat();
        assert!(CertificateRequest::from_der(longer).is_err(), "something follows");
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
