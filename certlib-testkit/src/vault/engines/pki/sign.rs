//! Making certificates.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use time::OffsetDateTime;

use super::super::super::{answer::Refusal, call::Body, random};

/// How long a certificate is valid when nobody says.
const DEFAULT_TTL: time::Duration = time::Duration::days(32);

/// A certificate, DER.
pub(super) type Der = Vec<u8>;

/// An authority that signs itself.
pub(super) fn root(key: &KeyPair, body: &Body, now: OffsetDateTime) -> Result<Der, Refusal> {
    let params = authority(body, now)?;
    params.self_signed(key).map(|made| made.der().to_vec()).map_err(failed)
}

/// A request for the certificate of an authority, PEM.
pub(super) fn request(key: &KeyPair, body: &Body, now: OffsetDateTime) -> Result<String, Refusal> {
    let mut params = authority(body, now)?;
    params.serial_number = None;
    params.serialize_request(key).and_then(|made| made.pem()).map_err(failed)
}

/// A certificate for the names of the request's body and, if `csr` is given, for its key; otherwise for a new key.
pub(super) fn leaf(
    issuer: (&[u8], &str),
    csr: Option<&str>,
    body: &Body,
    now: OffsetDateTime,
) -> Result<(Der, Option<KeyPair>), Refusal> {
    let (certificate, key) = issuer;
    let key = KeyPair::from_pem(key).map_err(failed)?;
    let issuer = rcgen::Issuer::from_ca_cert_der(&certificate.into(), key).map_err(failed)?;
    let mut names = vec![body.text("common_name")?.to_owned()];
    names.extend(body.texts("alt_names")?.unwrap_or_default());
    names.extend(body.texts("ip_sans")?.unwrap_or_default());
    names.retain(|name| !name.is_empty());
    if names.is_empty() {
        return Err(Refusal::invalid("the common_name field is required"));
    }
    names.dedup();
    let mut params = CertificateParams::new(names.clone()).map_err(failed)?;
    params.distinguished_name = named(&names[0]);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, body, now)?;
    match csr {
        None => {
            let key = KeyPair::generate().map_err(failed)?;
            let made = params.signed_by(&key, &issuer).map_err(failed)?;
            Ok((made.der().to_vec(), Some(key)))
        }
        Some(csr) => {
            let asked = CertificateSigningRequestParams::from_pem(csr);
            let asked = asked.map_err(|_| Refusal::invalid("\"csr\" contains no or invalid data"))?;
            let made = params.signed_by(&asked.public_key, &issuer).map_err(failed)?;
            Ok((made.der().to_vec(), None))
        }
    }
}

fn authority(body: &Body, now: OffsetDateTime) -> Result<CertificateParams, Refusal> {
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.distinguished_name = named(body.text("common_name")?);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, body, now)?;
    Ok(params)
}

fn valid(params: &mut CertificateParams, body: &Body, now: OffsetDateTime) -> Result<(), Refusal> {
    let ttl = body.period("ttl")?.and_then(|ttl| time::Duration::try_from(ttl).ok()).unwrap_or(DEFAULT_TTL);
    params.not_before = now - time::Duration::seconds(30);
    params.not_after = now + ttl;
    let mut serial = random::bytes::<20>().map_err(failed)?;
    // Positive, and with no digits to leave out.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::invalid(format!("cannot make a certificate: {error}"))
}
