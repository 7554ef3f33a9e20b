//! What a certificate signing request asks for.

use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer as _,
    public_key::PublicKey,
};

/// The facts of a PKCS#10 request whose signature is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The common name of its subject.
    pub(crate) common_name: Option<String>,
    /// The DNS names and IP addresses of its alternative names.
    pub(crate) names: Vec<String>,
    /// `RSA` or `EC`.
    pub(crate) algorithm: &'static str,
    /// The key's size in bits.
    pub(crate) bits: usize,
    /// The public key with its algorithm, DER.
    pub(crate) public_key: Vec<u8>,
    /// The request itself, DER.
    pub(crate) der: Vec<u8>,
}

impl Asked {
    /// Reads a request, PEM or DER; `None` when it is none, its signature is wrong, or its key is neither RSA nor EC.
    pub(crate) fn read(request: &[u8]) -> Option<Self> {
        let der = match std::str::from_utf8(request) {
            Ok(text) if text.contains("-----BEGIN") => pem::parse(text).ok()?.into_contents(),
            _ => request.to_vec(),
        };
        let (rest, read) = X509CertificationRequest::from_der(&der).ok()?;
        if !rest.is_empty() || read.verify_signature().is_err() {
            return None;
        }
        let info = &read.certification_request_info;
        let common_name = info.subject.iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned);
        let extensions = read.requested_extensions().into_iter().flatten();
        let alternative = extensions.filter_map(|extension| match extension {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        });
        let names = alternative.flatten().filter_map(name).collect();
        let (algorithm, bits) = match info.subject_pki.parsed().ok()? {
            PublicKey::RSA(key) => ("RSA", key.key_size()),
            PublicKey::EC(point) => ("EC", point.key_size()),
            _ => return None,
        };
        let public_key = info.subject_pki.raw.to_vec();
        Some(Self { common_name, names, algorithm, bits, public_key, der: der.clone() })
    }
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn a_request_is_read_in_both_forms() {
        let mut params = CertificateParams::new(vec!["a.example".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "b.example");
        let made = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
        let asked = Asked::read(made.pem().unwrap().as_bytes()).unwrap();
        assert_eq!(asked.common_name.as_deref(), Some("b.example"));
        assert_eq!(asked.names, ["a.example", "127.0.0.1"]);
        assert_eq!((asked.algorithm, asked.bits), ("EC", 256));
        assert_eq!(Asked::read(made.der()), Some(asked.clone()));

        let mut changed = asked.der;
        let last = changed.len() - 1;
        changed[last] ^= 1;
        assert_eq!(Asked::read(&changed), None, "the signature is wrong");
        assert_eq!(Asked::read(b"hello"), None);
    }
}
