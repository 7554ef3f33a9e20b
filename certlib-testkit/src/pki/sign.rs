//! Signing what others ask for: the work of an authority that gets requests instead of names.

use std::fmt;

use aws_lc_rs::rand;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    KeyUsagePurpose, PublicKeyData, SerialNumber, SubjectPublicKeyInfo,
};
use time::{Duration, OffsetDateTime};

use super::TestCa;
use crate::{Error, Result, tls::fingerprint};

/// What a certificate says besides the key of its request. Everything has a default.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Terms {
    /// The common name; the request's if none is given.
    pub common_name: Option<String>,
    /// DNS names and IP addresses; the request's if none are given.
    pub names: Option<Vec<String>>,
    /// From when it is valid; an hour ago.
    pub not_before: Option<OffsetDateTime>,
    /// Until when it is valid; 90 days after the beginning.
    pub not_after: Option<OffsetDateTime>,
    /// Its serial number, big-endian; a random one of 16 bytes.
    pub serial: Option<Vec<u8>>,
    /// Its extended key usages; server authentication if none are given.
    pub purposes: Vec<ExtendedKeyUsagePurpose>,
}

/// A certificate that was signed for somebody else's key.
#[derive(Clone)]
#[non_exhaustive]
pub struct Signed {
    /// The leaf, DER.
    pub certificate_der: Vec<u8>,
    /// The leaf, PEM.
    pub certificate_pem: String,
    /// The serial number, upper-case hexadecimal, two digits a byte.
    pub serial: String,
    /// The SHA-256 of the leaf in DER, lower-case hexadecimal.
    pub fingerprint: String,
}

impl TestCa {
    /// Signs a request: PKCS#10 in PEM, or in DER.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`] when the request cannot be read, its signature is wrong, or the certificate cannot be made.
    pub fn sign(&self, request: &[u8], terms: &Terms) -> Result<Signed> {
        let request = read(request)?;
        self.certify(&request.public_key, request.params, terms)
    }

    /// Signs a public key (DER, `SubjectPublicKeyInfo`) without a request: the terms say all else.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`] when the key cannot be read, or the certificate cannot be made.
    pub fn sign_key(&self, public_key: &[u8], terms: &Terms) -> Result<Signed> {
        let mut asked = CertificateParams::default();
        asked.distinguished_name = DistinguishedName::new();
        self.certify(&SubjectPublicKeyInfo::from_der(public_key)?, asked, terms)
    }

    fn certify(&self, public_key: &impl PublicKeyData, asked: CertificateParams, terms: &Terms) -> Result<Signed> {
        let mut params = CertificateParams::default();
        params.distinguished_name = match &terms.common_name {
            Some(common_name) => {
                let mut name = DistinguishedName::new();
                name.push(DnType::CommonName, common_name);
                name
            }
            None => asked.distinguished_name,
        };
        params.subject_alt_names = match &terms.names {
            Some(names) => CertificateParams::new(names.clone())?.subject_alt_names,
            None => asked.subject_alt_names,
        };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = match &*terms.purposes {
            [] => vec![ExtendedKeyUsagePurpose::ServerAuth],
            purposes => purposes.to_vec(),
        };
        params.use_authority_key_identifier_extension = true;
        params.not_before = terms.not_before.unwrap_or_else(|| OffsetDateTime::now_utc() - Duration::hours(1));
        params.not_after = terms.not_after.unwrap_or(params.not_before + Duration::days(90));
        let serial = terms.serial.clone().map_or_else(random_serial, Ok)?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let made = params.signed_by(public_key, &self.issuer)?;
        Ok(Signed {
            certificate_der: made.der().to_vec(),
            certificate_pem: made.pem(),
            serial: serial.iter().map(|byte| format!("{byte:02X}")).collect(),
            fingerprint: fingerprint(made.der()),
        })
    }
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Signed { serial, fingerprint, .. } = self;
        f.debug_struct("Signed").field("serial", serial).field("fingerprint", fingerprint).finish_non_exhaustive()
    }
}

fn read(request: &[u8]) -> Result<CertificateSigningRequestParams> {
    let read = match std::str::from_utf8(request) {
        Ok(text) if text.contains("-----BEGIN") => CertificateSigningRequestParams::from_pem(text),
        _ => CertificateSigningRequestParams::from_der(&request.into()),
    };
    Ok(read?)
}

/// Positive, and with no leading zeros to lose.
fn random_serial() -> Result<Vec<u8>> {
    let mut serial = vec![0; 16];
    rand::fill(&mut serial).map_err(|_| Error::Crypto(rcgen::Error::RingUnspecified.to_string()))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;

    fn request(names: &[&str]) -> String {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        CertificateParams::new(names).unwrap().serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn a_request_is_signed_as_asked_or_as_decided() {
        let ca = TestCa::new("root").unwrap();
        let request = request(&["a.example", "127.0.0.1"]);
        let signed = ca.sign(request.as_bytes(), &Terms::default()).unwrap();
        assert_eq!((signed.serial.len(), signed.fingerprint.len()), (32, 64));
        assert!(signed.certificate_der.windows(9).any(|part| part == b"a.example"));

        let names = Some(vec!["b.example".to_owned()]);
        let decided = Terms { names, serial: Some(vec![0x12, 0xab]), ..Terms::default() };
        let signed = ca.sign(request.as_bytes(), &decided).unwrap();
        assert_eq!(signed.serial, "12AB");
        assert!(!signed.certificate_der.windows(9).any(|part| part == b"a.example"));
        assert!(signed.certificate_der.windows(9).any(|part| part == b"b.example"));
    }

    #[test]
    fn a_key_is_signed_without_a_request() {
        let (ca, key) = (TestCa::new("root").unwrap(), KeyPair::generate().unwrap());
        let names = Some(vec!["a.example".to_owned()]);
        let signed = ca.sign_key(&key.subject_public_key_info(), &Terms { names, ..Terms::default() }).unwrap();
        let spki = key.subject_public_key_info();
        assert!(signed.certificate_der.windows(spki.len()).any(|part| part == spki));
        assert!(ca.sign_key(b"hello", &Terms::default()).is_err());
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let ca = TestCa::new("root").unwrap();
        for bad in [&b""[..], b"hello", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"]
        {
            assert!(ca.sign(bad, &Terms::default()).is_err());
        }
    }
}
