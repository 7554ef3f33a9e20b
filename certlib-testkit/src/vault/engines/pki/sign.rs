//! Making certificates.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SerialNumber, SubjectPublicKeyInfo,
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    super::super::{answer::Refusal, call::Body, random},
    role::Subject,
};

/// How long an authority is valid when nobody says.
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

/// A certificate for a subject and, if it is given, a public key (DER); otherwise for a new key.
pub(super) fn leaf(
    issuer: (&[u8], &str),
    subject: &Subject,
    public_key: Option<&[u8]>,
    now: OffsetDateTime,
    until: OffsetDateTime,
) -> Result<(Der, Option<KeyPair>), Refusal> {
    let (certificate, key) = issuer;
    let end = not_after(certificate).ok_or_else(|| Refusal::new(500, "the issuer's certificate cannot be read"))?;
    if until > end {
        return Err(Refusal::invalid(format!(
            "cannot satisfy request, as TTL would result in notAfter of {until} that is beyond the expiration of the CA \
             certificate at {end}"
        )));
    }
    let key = KeyPair::from_pem(key).map_err(failed)?;
    let issuer = rcgen::Issuer::from_ca_cert_der(&certificate.into(), key).map_err(failed)?;
    let mut params = CertificateParams::new(subject.names.clone()).map_err(failed)?;
    params.distinguished_name = named(&subject.common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, now, until)?;
    match public_key {
        None => {
            let key = KeyPair::generate().map_err(failed)?;
            let made = params.signed_by(&key, &issuer).map_err(failed)?;
            Ok((made.der().to_vec(), Some(key)))
        }
        Some(public_key) => {
            let key = SubjectPublicKeyInfo::from_der(public_key).map_err(failed)?;
            let made = params.signed_by(&key, &issuer).map_err(failed)?;
            Ok((made.der().to_vec(), None))
        }
    }
}

fn authority(body: &Body, now: OffsetDateTime) -> Result<CertificateParams, Refusal> {
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.distinguished_name = named(body.text("common_name")?);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ttl = body.period("ttl")?.and_then(|ttl| time::Duration::try_from(ttl).ok()).unwrap_or(DEFAULT_TTL);
    valid(&mut params, now, now + ttl)?;
    Ok(params)
}

fn valid(params: &mut CertificateParams, now: OffsetDateTime, until: OffsetDateTime) -> Result<(), Refusal> {
    params.not_before = now - time::Duration::seconds(30);
    params.not_after = until;
    let mut serial = random::bytes::<20>().map_err(failed)?;
    // Positive, and with no digits to leave out.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

fn not_after(certificate: &[u8]) -> Option<OffsetDateTime> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.to_datetime())
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if !common_name.is_empty() {
        name.push(DnType::CommonName, common_name);
    }
    name
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::invalid(format!("cannot make a certificate: {error}"))
}
