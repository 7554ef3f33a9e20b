//! Reading requests: PKCS#10, with what Windows adds to it.

use std::net::IpAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer as _,
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

use super::{
    cms,
    hresult::Hresult,
    signature::{self, Hash},
    template::KeyAlgorithm,
};
use crate::der::{self, Reader};

/// `szOID_ENROLL_CERTTYPE`: the name of a template, as a `BMPString`.
const BY_NAME: &str = "1.3.6.1.4.1.311.20.2";
/// `szOID_CERTIFICATE_TEMPLATE`: the identifier and version of a template.
const BY_OID: &str = "1.3.6.1.4.1.311.21.7";
/// `szOID_RENEWAL_CERTIFICATE`: the certificate that is to be renewed.
const RENEWAL: &str = "1.3.6.1.4.1.311.13.1";

/// How a request names its template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Name(String),
    Oid(String),
}

/// What a request says.
#[derive(Debug)]
pub(super) struct Csr {
    pub(super) der: Vec<u8>,
    pub(super) template: Option<Named>,
    pub(super) common_name: String,
    /// DNS names and IP addresses.
    pub(super) names: Vec<String>,
    pub(super) key: Option<KeyAlgorithm>,
    pub(super) bits: usize,
    /// The certificate that it says it renews, DER.
    pub(super) renews: Option<Vec<u8>>,
}

impl Csr {
    /// Reads a request and checks that it is signed with its own key.
    pub(super) fn read(der: &[u8]) -> Result<Self, Hresult> {
        let (_, request) = X509CertificationRequest::from_der(der)
            .ok()
            .filter(|(rest, _)| rest.is_empty())
            .ok_or(Hresult::ASN1_BAD_TAG)?;
        let info = &request.certification_request_info;
        Hash::of(&request.signature_algorithm.algorithm.to_id_string())
            .and_then(|hash| signature::verify(&info.subject_pki, hash, info.raw, &request.signature_value.data))
            .ok_or(Hresult::BAD_SIGNATURE)?;
        let (key, bits) = kind(&info.subject_pki);
        let mut csr = Self {
            der: der.to_vec(),
            template: None,
            common_name: info.subject.iter_common_name().filter_map(|name| name.as_str().ok()).collect(),
            names: Vec::new(),
            key,
            bits,
            renews: renewed(info.raw).map(<[u8]>::to_vec),
        };
        for attribute in info.iter_attributes() {
            let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else { continue };
            for extension in &asked.extensions {
                match (extension.oid.to_id_string().as_str(), extension.parsed_extension()) {
                    (BY_NAME, _) => csr.template = bmp(extension.value).map(Named::Name),
                    (BY_OID, _) => csr.template = identifier(extension.value).map(Named::Oid),
                    (_, ParsedExtension::SubjectAlternativeName(found)) => {
                        csr.names.extend(found.general_names.iter().filter_map(name));
                    }
                    _ => {}
                }
            }
        }
        Ok(csr)
    }
}

/// What is in a form or a token: base64, with lines and perhaps the armour of PEM around it.
pub(super) fn unarmoured(text: &str) -> Option<Vec<u8>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
    let digits: String = lines.flat_map(str::chars).filter(|digit| !digit.is_whitespace()).collect();
    STANDARD.decode(digits).ok().filter(|bytes| !bytes.is_empty())
}

/// The kind and length of a key.
fn kind(key: &SubjectPublicKeyInfo<'_>) -> (Option<KeyAlgorithm>, usize) {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => (Some(KeyAlgorithm::Rsa), rsa.key_size()),
        Ok(PublicKey::EC(point)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            let all = [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384];
            let known = curve.map(|curve| curve.to_id_string());
            (all.into_iter().find(|kind| known.as_deref() == Some(kind.oid().0)), point.key_size())
        }
        _ => (None, 0),
    }
}

/// The certificate that a request says it renews.
fn renewed(info: &[u8]) -> Option<&[u8]> {
    let mut parts = Reader(Reader(info).next(0x30)?);
    parts.next(0x02)?;
    parts.next(0x30)?;
    parts.next(0x30)?;
    cms::attribute(parts.next(0xa0)?, RENEWAL)
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets).ok().map(|octets| IpAddr::from(octets).to_string()),
            _ => <[u8; 16]>::try_from(*octets).ok().map(|octets| IpAddr::from(octets).to_string()),
        },
        _ => None,
    }
}

fn bmp(value: &[u8]) -> Option<String> {
    let (tag, content, _) = der::element(value)?;
    if tag != 0x1e {
        return std::str::from_utf8(content).ok().map(str::to_owned);
    }
    let units: Vec<u16> = content.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    String::from_utf16(&units).ok()
}

fn identifier(value: &[u8]) -> Option<String> {
    let sequence = Reader(value).next(0x30)?;
    Reader(sequence).next(0x06).map(der::dotted)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P384_SHA384};

    use super::*;

    fn with(extension: Option<(&str, Vec<u8>)>, key: &KeyPair) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        let extension = extension.map(|(oid, value)| CustomExtension::from_oid_content(&der::arcs(oid), value));
        params.custom_extensions.extend(extension);
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn templates_are_named_in_either_way() {
        let key = KeyPair::generate().unwrap();
        let named = with(Some((BY_NAME, vec![0x1e, 4, 0, b'W', 0, b'S'])), &key);
        assert_eq!(Csr::read(&named).unwrap().template, Some(Named::Name("WS".to_owned())));
        let value = der::sequence(&[&der::oid("1.3.6.1.4.1.311.21.8.1"), &der::integer(100)]);
        let named = with(Some((BY_OID, value)), &key);
        assert_eq!(Csr::read(&named).unwrap().template, Some(Named::Oid("1.3.6.1.4.1.311.21.8.1".to_owned())));
        let csr = Csr::read(&with(None, &key)).unwrap();
        assert_eq!((csr.template, csr.names), (None, vec!["a.example".to_owned(), "10.0.0.1".to_owned()]));
        assert_eq!((csr.key, csr.bits), (Some(KeyAlgorithm::EcdsaP256), 256));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        assert_eq!(Csr::read(&with(None, &key)).unwrap().key, Some(KeyAlgorithm::EcdsaP384));
    }

    #[test]
    fn what_is_no_request_is_refused_with_the_reason() {
        let mut request = with(None, &KeyPair::generate().unwrap());
        assert_eq!(Csr::read(b"hello").unwrap_err(), Hresult::ASN1_BAD_TAG);
        let last = request.len() - 1;
        request[last] ^= 1;
        assert_eq!(Csr::read(&request).unwrap_err(), Hresult::BAD_SIGNATURE);
        request.push(0);
        assert_eq!(Csr::read(&request).unwrap_err(), Hresult::ASN1_BAD_TAG);
    }

    #[test]
    fn armour_and_line_ends_do_not_matter() {
        for text in ["aGVs\r\nbG8=", "-----BEGIN X-----\naGVsbG8=\n-----END X-----\n", " aGVsbG8= "] {
            assert_eq!(unarmoured(text).as_deref(), Some(&b"hello"[..]), "{text}");
        }
        assert_eq!(unarmoured("no base64!"), None);
        assert_eq!(unarmoured(""), None);
    }
}
