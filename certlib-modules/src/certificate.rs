//! What receivers are told about a certificate, in an event or a message.

use certlib_core::bundle::LeafInfo;
use certlib_core::{Context, Fingerprint};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// What is said about a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Certificate {
    /// The project it belongs to.
    pub project: String,
    /// The certificate's id.
    pub id: String,
    /// The version of the certificate.
    pub version: u32,
    /// DNS names and addresses.
    pub names: Vec<String>,
    /// Subject, RFC 4514.
    pub subject: String,
    /// Issuer, RFC 4514.
    pub issuer: String,
    /// Serial number, lower-case hex.
    pub serial: String,
    /// SHA-256 of the leaf's DER, lower-case hex.
    pub fingerprint_sha256: Fingerprint,
    /// Start of validity.
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    /// End of validity.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
}

impl Certificate {
    pub(crate) fn new(cx: &Context, leaf: &LeafInfo) -> Self {
        Self {
            project: cx.subject.project.clone(),
            id: cx.subject.certificate_id.clone(),
            version: cx.subject.version,
            names: leaf.names.clone(),
            subject: leaf.subject.clone(),
            issuer: leaf.issuer.clone(),
            serial: leaf.serial.clone(),
            fingerprint_sha256: leaf.fingerprint,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        }
    }

    /// The name that people know it by.
    #[cfg(feature = "smtp")]
    pub(crate) fn name(&self) -> &str {
        self.names.first().map_or(&self.subject, |name| name)
    }
}
