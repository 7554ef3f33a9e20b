//! Certificates and keys as the appliance reads them from its files.

use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use serde_json::{Map, Value, json};
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer as _, X509Certificate},
    time::ASN1Time,
    x509::X509Name,
};

/// A certificate, and what is shown of it.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) der: Vec<u8>,
    /// Upper-case hex, as the appliance prints it.
    pub(super) serial: String,
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) common_name: String,
    pub(super) names: Vec<String>,
    pub(super) is_ca: bool,
    /// Which kind of key it has: a server may have one certificate of each.
    pub(super) key_kind: String,
    not_before: String,
    not_after: String,
    signature: String,
}

impl Certificate {
    /// The first certificate of a PEM file, or the DER file's.
    pub(super) fn read(file: &[u8]) -> Option<Self> {
        let der = match CertificateDer::pem_slice_iter(file).next() {
            Some(Ok(der)) => der.to_vec(),
            _ => file.to_vec(),
        };
        let (_, parsed) = X509Certificate::from_der(&der).ok()?;
        let mut names = Vec::new();
        for extension in parsed.extensions() {
            if let ParsedExtension::SubjectAlternativeName(alternative) = extension.parsed_extension() {
                names.extend(alternative.general_names.iter().filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                    _ => None,
                }));
            }
        }
        let serial = parsed.raw_serial().iter().map(|byte| format!("{byte:02X}")).collect();
        let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        Some(Self {
            serial,
            subject: distinguished(parsed.subject()),
            issuer: distinguished(parsed.issuer()),
            common_name: common_name.unwrap_or_default().to_owned(),
            names,
            is_ca: parsed.is_ca(),
            key_kind: parsed.public_key().algorithm.algorithm.to_string(),
            not_before: moment(parsed.validity().not_before),
            not_after: moment(parsed.validity().not_after),
            signature: parsed.signature_algorithm.algorithm.to_string(),
            der,
        })
    }

    /// Whether it may stand where `former` stood without `nodomaincheck`: for the same name.
    pub(super) fn is_for_the_domain_of(&self, former: &Self) -> bool {
        self.common_name.eq_ignore_ascii_case(&former.common_name)
    }

    /// Whether a client that asks for `name` gets it.
    pub(super) fn is_for(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        let matches = |own: &String| match own.strip_prefix("*.") {
            Some(domain) => name.split_once('.').is_some_and(|(_, rest)| rest == domain),
            None => *own == name,
        };
        self.names.iter().any(matches)
    }

    /// Whether both are for a common name.
    pub(super) fn shares_a_domain(&self, other: &Self) -> bool {
        self.names.iter().any(|name| other.names.contains(name))
    }

    /// The fields that `GET sslcertkey` shows of it.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let kind = if self.is_ca { json!(["ROOT_CERT", "INTM_CERT"]) } else { json!(["SRVR_CERT"]) };
        let fields = json!({
            "signaturealg": self.signature,
            "certificatetype": kind,
            "serial": self.serial,
            "issuer": self.issuer,
            "clientcertnotbefore": self.not_before,
            "clientcertnotafter": self.not_after,
            "subject": self.subject,
            "publickey": self.key_kind,
            "version": 3,
            "status": "Valid",
            "sandns": self.names.join(","),
        });
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }
}

/// What a listener needs to prove that it has the key; `None` when key and certificate do not belong together.
pub(super) fn pair(certificate: &Certificate, key: &[u8]) -> Option<CertifiedKey> {
    let key = PrivateKeyDer::from_pem_slice(key).ok()?;
    let chain = vec![CertificateDer::from(certificate.der.clone())];
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).ok()
}

/// As OpenSSL's one-line form: ` C=US,O=Example,CN=name`.
fn distinguished(name: &X509Name<'_>) -> String {
    let parts = name.iter_attributes().map(|attribute| {
        let kind = x509_parser::objects::oid2abbrev(attribute.attr_type(), x509_parser::objects::oid_registry());
        format!("{}={}", kind.unwrap_or("OID"), attribute.as_str().unwrap_or_default())
    });
    parts.collect::<Vec<_>>().join(",")
}

/// As the appliance prints times: `Jan  1 00:00:00 2026 GMT`.
fn moment(at: ASN1Time) -> String {
    let at = at.to_datetime();
    let month: String = at.month().to_string().chars().take(3).collect();
    let (hour, minute, second) = at.to_hms();
    format!("{month} {:2} {hour:02}:{minute:02}:{second:02} {} GMT", at.day(), at.year())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::TestCa;

    #[test]
    fn a_certificate_is_shown_as_the_appliance_shows_it() {
        let issued = TestCa::new("root").unwrap().issue(&["a.example", "*.b.example"]).unwrap();
        let read = Certificate::read(issued.full_chain().as_bytes()).unwrap();
        assert_eq!((read.subject.as_str(), read.issuer.as_str(), read.is_ca), ("CN=a.example", "CN=root", false));
        let fields = read.fields();
        assert_eq!(fields["sandns"], "a.example,*.b.example");
        assert!(fields["clientcertnotafter"].as_str().unwrap().ends_with(" GMT"));
        assert!(read.is_for("A.example") && read.is_for("x.b.example") && !read.is_for("x.y.b.example"));
        assert!(pair(&read, issued.key_pem.as_bytes()).is_some());
        let other = TestCa::new("root").unwrap().issue(&["a.example"]).unwrap();
        assert!(pair(&read, other.key_pem.as_bytes()).is_none());
        assert!(Certificate::read(b"nonsense").is_none());
    }

    #[test]
    fn a_day_of_one_digit_is_padded() {
        let at = ASN1Time::from_timestamp(1_767_225_600).unwrap();
        assert_eq!(moment(at), "Jan  1 00:00:00 2026 GMT");
    }
}
