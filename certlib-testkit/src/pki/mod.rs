//! A throw-away certificate authority, to make the certificates that tests deliver.

mod flaw;
mod request;
mod sign;

use std::fmt;

use aws_lc_rs::digest;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PublicKeyData as _,
};
use time::{Duration, OffsetDateTime};

pub use self::{
    flaw::Flaw,
    sign::{Signed, Terms},
};
pub(crate) use self::{
    flaw::Subject,
    request::{CertificateRequest, KeyInfo},
};
use crate::{Result, tls::fingerprint};

/// How long the certificates of [`TestCa`] are valid, in days.
const VALIDITY_DAYS: i64 = 30;

/// A certificate authority in memory, that issues server certificates.
#[derive(Debug)]
pub struct TestCa {
    common_name: String,
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

/// A certificate with its private key. `Debug` does not show the key.
#[derive(Clone)]
#[non_exhaustive]
pub struct Issued {
    /// The leaf, PEM.
    pub certificate_pem: String,
    /// The issuer's certificate, PEM.
    pub issuer_pem: String,
    /// The private key, PKCS#8 PEM.
    pub key_pem: String,
    /// The SHA-256 of the leaf in DER, lower-case hexadecimal.
    pub fingerprint: String,
}

impl TestCa {
    /// Makes a new root with a P-256 key.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`](crate::Error::Crypto) when the key or the certificate cannot be made.
    pub fn new(common_name: &str) -> Result<TestCa> {
        let key = KeyPair::generate()?;
        let params = authority(common_name, &key)?;
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(TestCa { common_name: common_name.to_owned(), issuer: Issuer::new(params, key), certificate_pem })
    }

    /// Makes an authority below this one.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`](crate::Error::Crypto) when the key or the certificate cannot be made.
    pub fn intermediate(&self, common_name: &str) -> Result<TestCa> {
        let key = KeyPair::generate()?;
        let mut params = authority(common_name, &key)?;
        params.use_authority_key_identifier_extension = true;
        let certificate_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(TestCa { common_name: common_name.to_owned(), issuer: Issuer::new(params, key), certificate_pem })
    }

    /// The authority's common name.
    pub(crate) fn common_name(&self) -> &str {
        &self.common_name
    }

    /// The authority's own certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's private key, PKCS#8 PEM, for programs that issue with it themselves.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Issues a server certificate with a new P-256 key for DNS names or IP addresses.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`](crate::Error::Crypto) when a name cannot be put into a certificate.
    pub fn issue(&self, names: &[&str]) -> Result<Issued> {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name = named(names.first().unwrap_or(&"test"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate_pem: certificate.pem(),
            issuer_pem: self.certificate_pem.clone(),
            key_pem: key.serialize_pem(),
            fingerprint: fingerprint(certificate.der()),
        })
    }
}

impl TestCa {
    /// Issues a client certificate with a new P-256 key for a common name.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`](crate::Error::Crypto) when the key or the certificate cannot be made.
    pub fn issue_client(&self, common_name: &str) -> Result<Issued> {
        let key = KeyPair::generate()?;
        let terms = Terms {
            common_name: Some(common_name.to_owned()),
            purposes: vec![ExtendedKeyUsagePurpose::ClientAuth],
            ..Terms::default()
        };
        let signed = self.sign_key(&key.subject_public_key_info(), &terms)?;
        Ok(Issued {
            certificate_pem: signed.certificate_pem,
            issuer_pem: self.certificate_pem.clone(),
            key_pem: key.serialize_pem(),
            fingerprint: signed.fingerprint,
        })
    }
}

impl Issued {
    /// Leaf and issuer, in the order that servers want.
    pub fn full_chain(&self) -> String {
        format!("{}{}", self.certificate_pem, self.issuer_pem)
    }

    /// Leaf, issuer and key in one text, as HAProxy wants it.
    pub fn combined(&self) -> String {
        format!("{}{}", self.full_chain(), self.key_pem)
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

fn authority(common_name: &str, key: &KeyPair) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = named(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    // The customary SHA-1 of the key: programs that issue with this authority compute it themselves.
    let identifier = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, key.public_key_raw());
    params.key_identifier_method = KeyIdMethod::PreSpecified(identifier.as_ref().to_vec());
    set_validity(&mut params);
    Ok(params)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn set_validity(params: &mut CertificateParams) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::hours(1);
    params.not_after = now + Duration::days(VALIDITY_DAYS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_key() {
        let issued = TestCa::new("root").unwrap().issue(&["localhost", "127.0.0.1"]).unwrap();
        let shown = format!("{issued:?}");
        assert!(shown.contains(&issued.fingerprint) && !shown.contains("PRIVATE"), "{shown}");
        assert!(issued.combined().contains("PRIVATE KEY"));
    }
}
