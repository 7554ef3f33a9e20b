//! From PEM and DER to a [`CertificateBundle`], with limits on everything.

use std::collections::HashSet;

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

use super::{CertificateBundle, Fingerprint, LeafInfo, PrivateKey};
use crate::error::{Error, Result};

const OPERATION: &str = "bundle.parse";

/// How much input a parser accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The whole input, in bytes.
    pub input: usize,
    /// One certificate or key, DER bytes.
    pub certificate: usize,
    /// Certificates in one bundle.
    pub certificates: usize,
}

impl Default for Limits {
    /// 10 MiB of input, 64 KiB a certificate, 100 certificates.
    fn default() -> Self {
        Self { input: 10 * 1024 * 1024, certificate: 64 * 1024, certificates: 100 }
    }
}

/// What an import put right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportReport {
    /// The chain was not in order.
    pub reordered: bool,
    /// Certificates that stood in the input more than once or fit nowhere, by fingerprint.
    pub dropped: Vec<Fingerprint>,
    /// PEM blocks that are neither certificate nor key, by label.
    pub skipped: Vec<String>,
}

/// PEM blocks sorted by what they are.
struct Blocks {
    certificates: Vec<Vec<u8>>,
    key: Option<PrivateKey>,
    skipped: Vec<String>,
}

pub(super) fn pem_bundle(input: &[u8], limits: &Limits) -> Result<CertificateBundle> {
    let blocks = blocks(input, limits)?;
    bundle(blocks.certificates, blocks.key, limits)
}

pub(super) fn import(input: &[u8], limits: &Limits) -> Result<(CertificateBundle, ImportReport)> {
    let blocks = blocks(input, limits)?;
    let before = blocks.certificates.clone();
    let (chain, dropped) = order(blocks.certificates, blocks.key.as_ref())?;
    let reordered = !before.starts_with(&chain);
    let report = ImportReport { reordered, dropped, skipped: blocks.skipped };
    Ok((bundle(chain, blocks.key, limits)?, report))
}

pub(super) fn bundle(chain: Vec<Vec<u8>>, key: Option<PrivateKey>, limits: &Limits) -> Result<CertificateBundle> {
    if chain.is_empty() {
        return Err(Error::validation(OPERATION, "chain_empty", "the input holds no certificate"));
    }
    if chain.len() > limits.certificates {
        return Err(limit("certificates", limits.certificates, chain.len()));
    }
    let parsed =
        chain.iter().enumerate().map(|(index, der)| certificate(der, index, limits)).collect::<Result<Vec<_>>>()?;
    check_order(&chain, &parsed)?;
    if let Some(key) = &key {
        key.check_public(&parsed[0].public_key().subject_public_key.data)?;
    }
    let leaf = leaf_info(&parsed[0], &chain[0])?;
    drop(parsed);
    Ok(CertificateBundle { chain, leaf, key })
}

pub(super) fn check_key(leaf: &[u8], key: &PrivateKey) -> Result<()> {
    let parsed = certificate(leaf, 0, &Limits::default())?;
    key.check_public(&parsed.public_key().subject_public_key.data)
}

fn blocks(input: &[u8], limits: &Limits) -> Result<Blocks> {
    if input.len() > limits.input {
        return Err(limit("input", limits.input, input.len()));
    }
    let pems = pem::parse_many(input).map_err(|error| {
        Error::validation(OPERATION, "pem_invalid", "the PEM text is damaged or cut off").with_source(error)
    })?;
    let mut found = Blocks { certificates: Vec::new(), key: None, skipped: Vec::new() };
    for (index, block) in pems.into_iter().enumerate() {
        if block.contents().len() > limits.certificate {
            return Err(limit("certificate", limits.certificate, block.contents().len()).with("block", index));
        }
        let encrypted = block.tag() == "ENCRYPTED PRIVATE KEY"
            || block.headers().iter().any(|(name, value)| name == "Proc-Type" && value.contains("ENCRYPTED"));
        if encrypted {
            return Err(Error::validation(
                OPERATION,
                "key_encrypted",
                "the private key is protected by a pass phrase; decrypt it first, for example with `openssl pkey`",
            )
            .with("block", index));
        }
        let key = match block.tag() {
            "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => {
                if found.certificates.len() == limits.certificates {
                    return Err(limit("certificates", limits.certificates, limits.certificates + 1));
                }
                found.certificates.push(block.into_contents());
                continue;
            }
            "PRIVATE KEY" => PrivateKey::from_pkcs8(block.contents())?,
            "RSA PRIVATE KEY" => PrivateKey::from_pkcs1(block.contents())?,
            "EC PRIVATE KEY" => PrivateKey::from_sec1(block.contents())?,
            other => {
                found.skipped.push(other.chars().take(64).collect());
                continue;
            }
        };
        if found.key.replace(key).is_some() {
            return Err(Error::validation(OPERATION, "key_ambiguous", "the input holds more than one private key")
                .with("block", index));
        }
    }
    if found.certificates.is_empty() && found.key.is_none() && found.skipped.is_empty() && !input.is_empty() {
        return Err(Error::validation(OPERATION, "pem_invalid", "the input is not PEM text"));
    }
    Ok(found)
}

/// Parses one certificate and refuses trailing bytes.
fn certificate<'a>(der: &'a [u8], index: usize, limits: &Limits) -> Result<X509Certificate<'a>> {
    if der.len() > limits.certificate {
        return Err(limit("certificate", limits.certificate, der.len()).with("index", index));
    }
    let invalid = |reason: &'static str| {
        Error::validation(OPERATION, "cert_invalid", format!("the certificate cannot be read: {reason}"))
            .with("index", index)
    };
    let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| invalid("truncated or malformed DER"))?;
    if !rest.is_empty() {
        return Err(invalid("bytes follow it"));
    }
    if parsed.validity().not_after < parsed.validity().not_before {
        return Err(invalid("it ends before it starts"));
    }
    Ok(parsed)
}

/// Each certificate must be issued by the next, and none may stand twice.
fn check_order(chain: &[Vec<u8>], parsed: &[X509Certificate<'_>]) -> Result<()> {
    let mut seen = HashSet::new();
    for (index, der) in chain.iter().enumerate() {
        let problem = if !seen.insert(der) {
            "stands in the chain twice"
        } else if index > 0 && parsed[index - 1].issuer() != parsed[index].subject() {
            "did not issue the one before it"
        } else {
            continue;
        };
        return Err(Error::validation(OPERATION, "chain_invalid", format!("certificate {index} {problem}"))
            .with("index", index));
    }
    Ok(())
}

/// Puts certificates in order from the leaf up; what fits nowhere is named.
fn order(certificates: Vec<Vec<u8>>, key: Option<&PrivateKey>) -> Result<(Vec<Vec<u8>>, Vec<Fingerprint>)> {
    let limits = Limits::default();
    let parsed = certificates
        .iter()
        .enumerate()
        .map(|(index, der)| certificate(der, index, &limits))
        .collect::<Result<Vec<_>>>()?;
    if parsed.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let with_key = key.and_then(|key| {
        parsed.iter().position(|one| one.public_key().subject_public_key.data.as_ref() == key.public_key())
    });
    let first_leaf = parsed.iter().position(|one| !one.is_ca());
    let mut order = vec![with_key.or(first_leaf).unwrap_or(0)];
    loop {
        let last = &parsed[order[order.len() - 1]];
        let next = (0..parsed.len()).find(|index| {
            !order.iter().any(|taken| certificates[*taken] == certificates[*index])
                && parsed[*index].subject() == last.issuer()
                && last.subject() != last.issuer()
        });
        match next {
            Some(index) => order.push(index),
            None => break,
        }
    }
    let dropped = (0..parsed.len())
        .filter(|index| !order.contains(index))
        .map(|index| Fingerprint::of(&certificates[index]))
        .collect();
    Ok((order.into_iter().map(|index| certificates[index].clone()).collect(), dropped))
}

/// Whether the certificate says that it may issue others.
pub(super) fn is_authority(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, parsed)| parsed.is_ca())
}

fn leaf_info(parsed: &X509Certificate<'_>, der: &[u8]) -> Result<LeafInfo> {
    let names = names(parsed)?;
    Ok(LeafInfo {
        names,
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: instant(parsed.validity().not_before)?,
        not_after: instant(parsed.validity().not_after)?,
        fingerprint: Fingerprint::of(der),
    })
}

fn instant(at: ASN1Time) -> Result<OffsetDateTime> {
    Ok(at.to_datetime())
}

/// DNS names and addresses of the subject alternative name extension, lower case.
pub(super) fn names(parsed: &X509Certificate<'_>) -> Result<Vec<String>> {
    let extension = parsed.subject_alternative_name().map_err(|_| {
        Error::validation(OPERATION, "cert_invalid", "the subject alternative name extension is malformed or doubled")
    })?;
    let Some(extension) = extension else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => match *bytes {
                [a, b, c, d] => names.push(std::net::Ipv4Addr::new(*a, *b, *c, *d).to_string()),
                bytes => match <[u8; 16]>::try_from(bytes) {
                    Ok(bytes) => names.push(std::net::Ipv6Addr::from(bytes).to_string()),
                    Err(_) => {
                        return Err(Error::validation(
                            OPERATION,
                            "cert_invalid",
                            "an address has an impossible length",
                        ));
                    }
                },
            },
            _ => {}
        }
    }
    Ok(names)
}

fn limit(what: &'static str, limit: usize, actual: usize) -> Error {
    Error::validation(OPERATION, "limit_exceeded", format!("too large: {what} may have {limit}, has {actual}"))
        .with("limit", limit)
        .with("actual", actual)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    struct Pki {
        leaf: String,
        key: String,
        intermediate: String,
        root: String,
    }

    fn pki() -> Pki {
        let ca = |name: &str| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let (root_key, root) = (KeyPair::generate().unwrap(), ca("root"));
        let root_cert = root.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(root, root_key);
        let (int_key, int) = (KeyPair::generate().unwrap(), ca("intermediate"));
        let int_cert = int.signed_by(&int_key, &root_issuer).unwrap();
        let int_issuer = Issuer::new(int, int_key);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["A.example".into(), "192.0.2.7".into()]).unwrap();
        let leaf = leaf.signed_by(&key, &int_issuer).unwrap();
        Pki { leaf: leaf.pem(), key: key.serialize_pem(), intermediate: int_cert.pem(), root: root_cert.pem() }
    }

    fn code(result: Result<CertificateBundle>) -> String {
        result.unwrap_err().code().to_owned()
    }

    #[test]
    fn reads_a_chain_with_key() {
        let pki = pki();
        let text = format!("{}{}{}{}", pki.key, pki.leaf, pki.intermediate, pki.root);
        let bundle = CertificateBundle::from_pem(text.as_bytes()).unwrap();
        assert_eq!(bundle.leaf().names, ["a.example", "192.0.2.7"]);
        assert_eq!(bundle.certificates().len(), 3);
        assert!(bundle.key().is_some() && !bundle.is_authority());
        let authority = CertificateBundle::from_pem(pki.intermediate.as_bytes()).unwrap();
        assert!(authority.is_authority());
        let again = CertificateBundle::from_pem(bundle.fullchain_pem().as_bytes()).unwrap();
        assert_eq!(again.fingerprint(), bundle.fingerprint());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (one, two) = (pki(), pki());
        assert_eq!(code(CertificateBundle::from_pem((one.leaf + &two.key).as_bytes())), "key_mismatch");
    }

    #[test]
    fn order_loops_and_doubles_are_refused() {
        let pki = pki();
        for text in [
            format!("{}{}{}", pki.leaf, pki.root, pki.intermediate),
            format!("{}{}{}", pki.leaf, pki.intermediate, pki.intermediate),
            format!("{}{}", pki.leaf, pki.leaf),
            format!("{}{}{}{}{}", pki.leaf, pki.intermediate, pki.root, pki.intermediate, pki.root),
        ] {
            assert_eq!(code(CertificateBundle::from_pem(text.as_bytes())), "chain_invalid");
        }
    }

    #[test]
    fn import_orders_and_reports() {
        let (pki, other) = (pki(), self::pki());
        let text = format!("{}{}{}{}{}", pki.root, other.root, pki.intermediate, pki.leaf, pki.key);
        let (bundle, report) = CertificateBundle::import(text.as_bytes(), &Limits::default()).unwrap();
        assert_eq!(bundle.certificates().len(), 3);
        assert!(report.reordered);
        assert_eq!(report.dropped.len(), 1);
    }

    #[test]
    fn damaged_input_is_named() {
        let pki = pki();
        let cut = &pki.leaf[..pki.leaf.len() / 2];
        assert_eq!(code(CertificateBundle::from_pem(cut.as_bytes())), "pem_invalid");
        assert_eq!(code(CertificateBundle::from_pem(b"")), "chain_empty");
        assert_eq!(code(CertificateBundle::from_pem(b"hello")), "pem_invalid");
        assert_eq!(code(CertificateBundle::from_pem(pki.key.as_bytes())), "chain_empty");
        let two_keys = format!("{}{}{}", pki.leaf, pki.key, self::pki().key);
        assert_eq!(code(CertificateBundle::from_pem(two_keys.as_bytes())), "key_ambiguous");
        let encrypted =
            format!("{}-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", pki.leaf);
        assert_eq!(code(CertificateBundle::from_pem(encrypted.as_bytes())), "key_encrypted");
        let huge = pki.leaf.repeat(10 * 1024 * 1024 / pki.leaf.len() + 1);
        assert_eq!(code(CertificateBundle::from_pem(huge.as_bytes())), "limit_exceeded");
        let many = pki.leaf.repeat(101);
        assert_eq!(code(CertificateBundle::from_pem(many.as_bytes())), "limit_exceeded");
        let der = pem::parse(&pki.leaf).unwrap().into_contents();
        for length in 0..der.len() {
            assert_eq!(code(CertificateBundle::new(vec![der[..length].to_vec()], None)), "cert_invalid");
        }
        let mut trailing = der;
        trailing.push(0);
        assert_eq!(code(CertificateBundle::new(vec![trailing], None)), "cert_invalid");
    }

    proptest! {
        #[test]
        fn no_input_panics(input in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = CertificateBundle::from_pem(&input);
            let _ = CertificateBundle::new(vec![input.clone()], None);
            let _ = PrivateKey::from_der(&input);
        }
    }
}
