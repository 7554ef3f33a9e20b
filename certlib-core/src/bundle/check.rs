//! Whether an issued certificate is what was asked for, checked before anything uses it.

use std::collections::BTreeSet;
use std::time::Duration;

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{CertificateBundle, key_mismatch};
use crate::error::{Error, Result};

const OPERATION: &str = "issued.check";

/// How far in the future a certificate's start may lie: CAs' clocks differ from ours.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// What a request asked for.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Expected<'a> {
    /// Every name requested, and no other, must be in the certificate.
    pub names: &'a [String],
    /// The public key of the request (see [`PrivateKey::public_key`](super::PrivateKey::public_key)).
    pub public_key: &'a [u8],
    /// The time of the check.
    pub now: OffsetDateTime,
}

impl<'a> Expected<'a> {
    /// What a request for `names` with `public_key` must have led to, seen at `now`.
    pub fn new(names: &'a [String], public_key: &'a [u8], now: OffsetDateTime) -> Self {
        Self { names, public_key, now }
    }
}

/// Checks an issued chain against its request: key, names, usage, validity, and the signatures along the chain.
///
/// # Errors
/// `Validation`: `key_mismatch`, `issued_names_differ`, `issued_usage`, `issued_validity`, `issued_not_leaf`,
/// `chain_signature`.
pub fn check_issued(bundle: &CertificateBundle, expected: &Expected<'_>) -> Result<()> {
    let parsed = bundle
        .certificates()
        .iter()
        .map(|der| X509Certificate::from_der(der).map(|(_, parsed)| parsed))
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|_| Error::validation(OPERATION, "cert_invalid", "the issued certificate cannot be read"))?;
    let leaf = &parsed[0];

    if leaf.public_key().subject_public_key.data.as_ref() != expected.public_key {
        return Err(key_mismatch());
    }
    let wanted: BTreeSet<String> = expected.names.iter().map(|name| name.to_ascii_lowercase()).collect();
    let issued: BTreeSet<String> = bundle.leaf().names.iter().cloned().collect();
    if wanted != issued {
        let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(" ");
        return Err(Error::validation(
            OPERATION,
            "issued_names_differ",
            "the CA issued for other names than requested",
        )
        .with("requested", list(&wanted))
        .with("issued", list(&issued)));
    }
    if leaf.is_ca() {
        return Err(Error::validation(OPERATION, "issued_not_leaf", "the CA issued a CA certificate"));
    }
    let usage = leaf
        .extended_key_usage()
        .map_err(|_| Error::validation(OPERATION, "issued_usage", "the extended key usage is malformed"))?;
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        return Err(Error::validation(OPERATION, "issued_usage", "the certificate may not be used by TLS servers"));
    }
    let (from, until) = (bundle.leaf().not_before, bundle.leaf().not_after);
    if from > expected.now + MAX_CLOCK_SKEW || until <= expected.now {
        return Err(Error::validation(
            OPERATION,
            "issued_validity",
            "the certificate is not valid now; check the clocks",
        )
        .with("not_before", from)
        .with("not_after", until)
        .with("now", expected.now));
    }
    check_signatures(&parsed, |_| false)
}

impl CertificateBundle {
    /// Checks that each certificate is signed by the next one. Algorithms that are not known here are passed over.
    ///
    /// # Errors
    /// `Validation` `chain_signature` with the index of the certificate that is not; `cert_invalid`.
    pub fn check_signatures(&self) -> Result<()> {
        let parsed = self.certificates().iter().map(|der| X509Certificate::from_der(der).map(|(_, parsed)| parsed));
        let parsed = parsed.collect::<std::result::Result<Vec<_>, _>>();
        let parsed = parsed.map_err(|error| {
            Error::validation(OPERATION, "cert_invalid", "a certificate cannot be read").with_source(error)
        })?;
        check_signatures(&parsed, |error| matches!(error, X509Error::SignatureUnsupportedAlgorithm))
    }
}

fn check_signatures(parsed: &[X509Certificate<'_>], passed_over: impl Fn(&X509Error) -> bool) -> Result<()> {
    for (index, pair) in parsed.windows(2).enumerate() {
        // x509-parser cannot verify P-521 signatures; such a link is left to TLS clients, which can.
        if is_p521(pair[1].public_key()) {
            continue;
        }
        match pair[0].verify_signature(Some(pair[1].public_key())) {
            Err(error) if !passed_over(&error) => {
                return Err(Error::validation(
                    OPERATION,
                    "chain_signature",
                    format!("certificate {index} is not signed by the next one"),
                )
                .with("index", index)
                .with_source(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_p521(key: &SubjectPublicKeyInfo<'_>) -> bool {
    // secp521r1, RFC 5480 section 2.1.1.1.
    const SECP521R1: &str = "1.3.132.0.35";
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    curve.is_some_and(|oid| oid.to_id_string() == SECP521R1)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    use time::macros::datetime;

    use super::super::{KeyType, PrivateKey};
    use super::*;

    const NOW: OffsetDateTime = datetime!(2027-06-01 00:00 UTC);

    fn issue(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (CertificateBundle, PrivateKey) {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "ca");
        let ca_key = KeyPair::generate().unwrap();
        let ca_cert = ca.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(ca, ca_key);
        let key = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = NOW;
        params.not_after = NOW + Duration::from_secs(86_400);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        let leaf = params.signed_by(&key.to_rcgen().unwrap(), &issuer).unwrap();
        (CertificateBundle::new(vec![leaf.der().to_vec(), ca_cert.der().to_vec()], None).unwrap(), key)
    }

    fn verdict(change: impl FnOnce(&mut CertificateParams), names: &[&str]) -> Option<String> {
        let (bundle, key) = issue(&["a.example", "b.example"], change);
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let expected = Expected::new(&names, key.public_key(), NOW);
        check_issued(&bundle, &expected).err().map(|error| error.code().to_owned())
    }

    #[test]
    fn accepts_what_was_asked_for() {
        assert_eq!(verdict(|_| {}, &["B.example", "a.example"]), None);
    }

    #[test]
    fn refuses_what_was_not() {
        let names = &["a.example", "b.example"];
        assert_eq!(verdict(|_| {}, &["a.example"]).as_deref(), Some("issued_names_differ"));
        assert_eq!(verdict(|_| {}, &["a.example", "b.example", "c.example"]).as_deref(), Some("issued_names_differ"));
        let client =
            |params: &mut CertificateParams| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        assert_eq!(verdict(client, names).as_deref(), Some("issued_usage"));
        let expired = |params: &mut CertificateParams| {
            params.not_before = NOW - Duration::from_secs(7200);
            params.not_after = NOW - Duration::from_secs(3600);
        };
        assert_eq!(verdict(expired, names).as_deref(), Some("issued_validity"));
        let early = |params: &mut CertificateParams| params.not_before = NOW + Duration::from_secs(3600);
        assert_eq!(verdict(early, names).as_deref(), Some("issued_validity"));
        let ca = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert_eq!(verdict(ca, names).as_deref(), Some("issued_not_leaf"));
    }

    #[test]
    fn refuses_another_key_and_a_forged_chain() {
        let (bundle, _) = issue(&["a.example"], |_| {});
        let other = PrivateKey::generate(KeyType::EcdsaP256).unwrap();
        let names = vec!["a.example".to_owned()];
        let error = check_issued(&bundle, &Expected::new(&names, other.public_key(), NOW)).unwrap_err();
        assert_eq!(error.code(), "key_mismatch");

        let (one, key) = issue(&["a.example"], |_| {});
        let (two, _) = issue(&["a.example"], |_| {});
        let forged = vec![one.certificates()[0].clone(), two.certificates()[1].clone()];
        let forged = CertificateBundle::new(forged, None).unwrap();
        let error = check_issued(&forged, &Expected::new(&names, key.public_key(), NOW)).unwrap_err();
        assert_eq!(error.code(), "chain_signature");
        assert_eq!(forged.check_signatures().unwrap_err().code(), "chain_signature");
    }
}
