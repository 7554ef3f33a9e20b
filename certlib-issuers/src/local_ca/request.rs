use std::collections::BTreeSet;
use std::net::IpAddr;

use aws_lc_rs::signature::{ECDSA_P521_SHA512_ASN1, UnparsedPublicKey};
use certlib_core::{Error, Result};
use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

const OPERATION: &str = "local_ca.request";

/// ecdsa-with-SHA512, RFC 5758 section 3.2.
const ECDSA_WITH_SHA512: &str = "1.2.840.10045.4.3.4";
/// secp521r1, RFC 5480 section 2.1.1.1.
const SECP521R1: &str = "1.3.132.0.35";
/// rsaEncryption, RFC 8017 appendix C.
const RSA: &str = "1.2.840.113549.1.1.1";

/// What a checked PKCS#10 request gives the CA.
pub(super) struct CheckedRequest {
    pub(super) public_key: SubjectPublicKeyInfo,
    pub(super) is_rsa: bool,
}

/// Checks that a PKCS#10 request is signed by its own key and asks for exactly `names`.
///
/// # Errors
/// `Validation`: `csr_invalid`, `csr_signature`, `csr_names_differ`, `key_type_unsupported`.
pub(super) fn check(der: &[u8], names: &[String]) -> Result<CheckedRequest> {
    let invalid = || Error::validation(OPERATION, "csr_invalid", "the certificate request cannot be read");
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| invalid())?;
    if !rest.is_empty() {
        return Err(invalid());
    }
    check_signature(&request)?;

    let asked = requested_names(&request).ok_or_else(invalid)?;
    let wanted: BTreeSet<String> = names.iter().map(|name| canonical(name)).collect();
    if wanted.is_empty() || asked != wanted {
        let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(" ");
        return Err(Error::validation(OPERATION, "csr_names_differ", "the certificate request is for other names")
            .with("ordered", list(&wanted))
            .with("requested", list(&asked)));
    }

    let key = &request.certification_request_info.subject_pki;
    let public_key = SubjectPublicKeyInfo::from_der(key.raw).map_err(|error| {
        Error::validation(OPERATION, "key_type_unsupported", "this kind of key cannot be certified").with_source(error)
    })?;
    Ok(CheckedRequest { public_key, is_rsa: key.algorithm.algorithm.to_id_string() == RSA })
}

fn check_signature(request: &X509CertificationRequest<'_>) -> Result<()> {
    let refused =
        || Error::validation(OPERATION, "csr_signature", "the certificate request is not signed by the key it holds");
    let info = &request.certification_request_info;
    let curve = info.subject_pki.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    if curve.is_some_and(|oid| oid.to_id_string() == SECP521R1) {
        // x509-parser cannot verify this curve.
        if request.signature_algorithm.algorithm.to_id_string() != ECDSA_WITH_SHA512 {
            return Err(refused());
        }
        let key = UnparsedPublicKey::new(&ECDSA_P521_SHA512_ASN1, info.subject_pki.subject_public_key.data.as_ref());
        return key.verify(info.raw, &request.signature_value.data).map_err(|_| refused());
    }
    request.verify_signature().map_err(|_| refused())
}

/// The subject alternative names, or `None` when there is one that is neither a DNS name nor an address.
fn requested_names(request: &X509CertificationRequest<'_>) -> Option<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(alternative) = extension else { continue };
        for name in &alternative.general_names {
            names.insert(match name {
                GeneralName::DNSName(name) => canonical(name),
                GeneralName::IPAddress(bytes) => address(bytes)?.to_string(),
                _ => return None,
            });
        }
    }
    Some(names)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn canonical(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use certlib_core::bundle::{KeyType, PrivateKey};

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn refusal(der: &[u8], wanted: &[&str]) -> Option<String> {
        check(der, &names(wanted)).err().map(|error| error.code().to_owned())
    }

    #[test]
    fn every_key_type_and_kind_of_name_is_accepted() {
        let asked = names(&["A.example", "*.b.example", "192.0.2.1", "2001:db8::1"]);
        for kind in [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::EcdsaP521, KeyType::Ed25519, KeyType::Rsa2048] {
            let csr = PrivateKey::generate(kind).unwrap().certificate_request(&asked).unwrap();
            let checked = check(&csr, &names(&["a.example", "*.B.example", "192.0.2.1", "2001:DB8:0::1"])).unwrap();
            assert_eq!(checked.is_rsa, kind == KeyType::Rsa2048);
        }
    }

    #[test]
    fn other_names_other_keys_and_other_bytes_are_refused() {
        for kind in [KeyType::EcdsaP256, KeyType::EcdsaP521] {
            let csr = PrivateKey::generate(kind).unwrap().certificate_request(&names(&["a.example"])).unwrap();
            assert_eq!(refusal(&csr, &["a.example"]), None);
            assert_eq!(refusal(&csr, &["b.example"]).as_deref(), Some("csr_names_differ"));
            assert_eq!(refusal(&csr, &["a.example", "b.example"]).as_deref(), Some("csr_names_differ"));
            assert_eq!(refusal(&csr, &[]).as_deref(), Some("csr_names_differ"));

            let mut changed = csr.clone();
            let at = changed.windows(9).position(|window| window == b"a.example").unwrap();
            changed[at] = b'z';
            assert_eq!(refusal(&changed, &["z.example"]).as_deref(), Some("csr_signature"));

            let mut longer = csr.clone();
            longer.push(0);
            assert_eq!(refusal(&longer, &["a.example"]).as_deref(), Some("csr_invalid"));
            assert_eq!(refusal(&csr[..40], &["a.example"]).as_deref(), Some("csr_invalid"));
        }
    }
}
