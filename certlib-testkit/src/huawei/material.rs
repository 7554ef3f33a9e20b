//! Certificates with their keys, as services read them.

use std::{fmt, sync::Arc};

use aws_lc_rs::digest;
use rustls::{
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use time::OffsetDateTime;
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

use crate::tls::fingerprint;

/// A certificate with its chain and key, that belong together.
#[derive(Clone)]
pub(super) struct Material {
    /// Leaf and chain, PEM.
    pub(super) certificate: String,
    /// The key, PEM.
    pub(super) key: String,
    pub(super) served: Arc<CertifiedKey>,
    pub(super) common_name: String,
    /// DNS names, lower case.
    pub(super) names: Vec<String>,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
    /// SHA-1 of the leaf, upper-case hex with colons.
    pub(super) sha1: String,
    /// SHA-256 of the leaf, lower-case hex.
    pub(super) sha256: String,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("sha256", &self.sha256).finish_non_exhaustive()
    }
}

impl Material {
    /// Reads leaf, chain and key.
    pub(super) fn read(certificate: &str, chain: &str, key: &str) -> Result<Self, &'static str> {
        let text = if chain.is_empty() { certificate.to_owned() } else { join(certificate, chain) };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| "the certificate is not PEM")?;
        let leaf = chain.first().ok_or("there is no certificate")?.clone();
        let private = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| "the private key is not PEM")?;
        let served = CertifiedKey::from_der(chain, private, &provider::default_provider())
            .map_err(|_| "certificate and private key do not belong together")?;
        let (_, parsed) =
            x509_parser::certificate::X509Certificate::from_der(&leaf).map_err(|_| "the certificate cannot be read")?;
        let names = parsed.subject_alternative_name().ok().flatten().map(|extension| &extension.value.general_names);
        let dns = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        };
        let names: Vec<String> = names.into_iter().flatten().filter_map(dns).collect();
        let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let time = |seconds| OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| "the validity cannot be read");
        let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &leaf);
        Ok(Self {
            certificate: text,
            key: key.to_owned(),
            served: Arc::new(served),
            common_name: common_name.unwrap_or_default().to_owned(),
            names,
            not_before: time(parsed.validity().not_before.timestamp())?,
            not_after: time(parsed.validity().not_after.timestamp())?,
            sha1: sha1.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"),
            sha256: fingerprint(&leaf),
        })
    }

    /// The leaf alone, and what follows it, PEM.
    pub(super) fn split(&self) -> (&str, &str) {
        let end = "-----END CERTIFICATE-----";
        let at = self.certificate.find(end).map_or(self.certificate.len(), |at| at + end.len());
        let (leaf, rest) = self.certificate.split_at(at);
        (leaf, rest.trim_start())
    }
}

fn join(certificate: &str, chain: &str) -> String {
    // If a chain comes along, the certificate is taken alone, whatever follows it.
    let end = "-----END CERTIFICATE-----";
    let leaf = certificate.find(end).map_or(certificate, |at| &certificate[..at + end.len()]);
    format!("{}\n{chain}", leaf.trim_end())
}

/// Whether a certificate for `pattern` serves `name`: the wildcard stands for one label.
pub(super) fn serves(pattern: &str, name: &str) -> bool {
    let wildcard = pattern.strip_prefix("*.").zip(name.split_once('.'));
    pattern.eq_ignore_ascii_case(name) || wildcard.is_some_and(|(parent, (_, rest))| parent.eq_ignore_ascii_case(rest))
}
