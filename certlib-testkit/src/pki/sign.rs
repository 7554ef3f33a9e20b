//! Signing what others ask for: the work of an authority that gets requests instead of names.

use std::{
    fmt,
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use aws_lc_rs::rand;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType,
    SerialNumber, SubjectPublicKeyInfo,
};
use time::{Duration, OffsetDateTime};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer as _,
    x509::X509Name,
};

use super::TestCa;
use crate::{Error, Result, tls::fingerprint};

/// Whether the next random serial number has its first bit set.
static HIGH: AtomicBool = AtomicBool::new(false);

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
    /// Further extensions, as they are.
    pub extensions: Vec<CustomExtension>,
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
    /// Signs a request: PKCS#10 in PEM, or in DER. Of its extensions only the names count, whatever else it asks for.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`] when the request cannot be read, its signature is wrong, or the certificate cannot be made.
    pub fn sign(&self, request: &[u8], terms: &Terms) -> Result<Signed> {
        let Asked { subject, names, key } = read(request)?;
        self.certify(&key, subject, names, terms)
    }

    /// Signs a public key (DER, `SubjectPublicKeyInfo`) without a request: the terms say all else.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`] when the key cannot be read, or the certificate cannot be made.
    pub fn sign_key(&self, public_key: &[u8], terms: &Terms) -> Result<Signed> {
        self.certify(&SubjectPublicKeyInfo::from_der(public_key)?, DistinguishedName::new(), Vec::new(), terms)
    }

    fn certify(
        &self,
        key: &SubjectPublicKeyInfo,
        subject: DistinguishedName,
        names: Vec<SanType>,
        terms: &Terms,
    ) -> Result<Signed> {
        let mut params = CertificateParams::default();
        params.distinguished_name = match &terms.common_name {
            Some(common_name) => {
                let mut name = DistinguishedName::new();
                name.push(DnType::CommonName, common_name);
                name
            }
            None => subject,
        };
        params.subject_alt_names = match &terms.names {
            Some(names) => CertificateParams::new(names.clone())?.subject_alt_names,
            None => names,
        };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = match &*terms.purposes {
            [] => vec![ExtendedKeyUsagePurpose::ServerAuth],
            purposes => purposes.to_vec(),
        };
        params.custom_extensions.clone_from(&terms.extensions);
        params.use_authority_key_identifier_extension = true;
        params.not_before = terms.not_before.unwrap_or_else(|| OffsetDateTime::now_utc() - Duration::hours(1));
        params.not_after = terms.not_after.unwrap_or(params.not_before + Duration::days(90));
        let serial = terms.serial.clone().map_or_else(random_serial, Ok)?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let made = params.signed_by(key, &self.issuer)?;
        Ok(Signed {
            certificate_der: made.der().to_vec(),
            certificate_pem: made.pem(),
            serial: serial.iter().map(|byte| format!("{byte:02X}")).collect(),
            fingerprint: fingerprint(made.der()),
        })
    }
}

impl Signed {
    /// The serial number as DER has it, in hexadecimal: with a zero byte in front where the first bit is set, which would
    /// make it negative otherwise.
    #[must_use]
    pub fn padded_serial(&self) -> String {
        let is_high = self.serial.starts_with(|digit: char| digit.to_digit(16).is_some_and(|digit| digit >= 8));
        format!("{}{}", if is_high { "00" } else { "" }, self.serial)
    }
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Signed { serial, fingerprint, .. } = self;
        f.debug_struct("Signed").field("serial", serial).field("fingerprint", fingerprint).finish_non_exhaustive()
    }
}

/// What a request asks for.
struct Asked {
    subject: DistinguishedName,
    names: Vec<SanType>,
    key: SubjectPublicKeyInfo,
}

fn read(request: &[u8]) -> Result<Asked> {
    let unreadable = |error: &dyn fmt::Display| Error::Crypto(format!("a request to sign: {error}"));
    let der = match std::str::from_utf8(request) {
        Ok(text) if text.contains("-----BEGIN") => {
            pem::parse(text).map_err(|error| unreadable(&error))?.into_contents()
        }
        _ => request.to_vec(),
    };
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|error| unreadable(&error))?;
    request.verify_signature().map_err(|error| unreadable(&error))?;
    let mut names = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(extension) = extension {
            for name in &extension.general_names {
                names.push(alternative(name).ok_or_else(|| unreadable(&format!("cannot use the name {name}")))?);
            }
        }
    }
    let info = &request.certification_request_info;
    Ok(Asked { subject: subject(&info.subject), names, key: SubjectPublicKeyInfo::from_der(info.subject_pki.raw)? })
}

fn subject(name: &X509Name<'_>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    for attribute in name.iter_attributes() {
        let kind = attribute.attr_type().iter().map(Iterator::collect::<Vec<u64>>).unwrap_or_default();
        if let Ok(value) = attribute.as_str() {
            subject.push(DnType::from_oid(&kind), value);
        }
    }
    subject
}

fn alternative(name: &GeneralName<'_>) -> Option<SanType> {
    match name {
        GeneralName::DNSName(name) => Some(SanType::DnsName((*name).try_into().ok()?)),
        GeneralName::RFC822Name(name) => Some(SanType::Rfc822Name((*name).try_into().ok()?)),
        GeneralName::URI(name) => Some(SanType::URI((*name).try_into().ok()?)),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets).ok().map(|octets| SanType::IpAddress(IpAddr::from(octets))),
            _ => <[u8; 16]>::try_from(*octets).ok().map(|octets| SanType::IpAddress(IpAddr::from(octets))),
        },
        _ => None,
    }
}

/// With no leading zeros to lose; every second one has its first bit set, so that DER puts a zero in front.
fn random_serial() -> Result<Vec<u8>> {
    let mut serial = vec![0; 16];
    rand::fill(&mut serial).map_err(|_| Error::Crypto(rcgen::Error::RingUnspecified.to_string()))?;
    let is_high = HIGH.fetch_xor(true, Ordering::Relaxed);
    serial[0] = serial[0] & 0x7f | 0x40 | if is_high { 0x80 } else { 0 };
    Ok(serial)
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PublicKeyData as _};

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

        // Every second one has a zero in front.
        let padded = [ca.sign(request.as_bytes(), &Terms::default()).unwrap(), signed].map(|one| {
            let (_, read) = x509_parser::prelude::X509Certificate::from_der(&one.certificate_der).unwrap();
            let der: String = read.raw_serial().iter().map(|byte| format!("{byte:02X}")).collect();
            assert_eq!(one.padded_serial(), der);
            der.len()
        });
        assert!(padded.iter().all(|length| [32, 34].contains(length)), "{padded:?}");

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
    fn what_else_a_request_asks_for_is_left_out() {
        let ca = TestCa::new("root").unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let asked = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 311, 20, 2], b"\x1e\x02\0W".to_vec());
        params.custom_extensions.push(asked);
        params.distinguished_name.push(DnType::OrganizationName, "Example Ltd");
        let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
        let added = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 311, 21, 7], b"\x04\x03new".to_vec());
        let terms = Terms { extensions: vec![added], ..Terms::default() };
        let signed = ca.sign(request.der(), &terms).unwrap().certificate_der;
        let has = |part: &[u8]| signed.windows(part.len()).any(|window| window == part);
        assert!(has(b"a.example") && has(b"Example Ltd") && has(b"\x04\x03new") && !has(b"\x1e\x02\0W"));
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
