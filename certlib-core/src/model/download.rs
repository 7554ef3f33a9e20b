//! Downloads that were promised to whoever has the token.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::export::ExportOptions;
use crate::store::{Index, Record};

/// A download that a token opens once. It is deleted when it is used, in the commit that decides who may.
///
/// It is no part of a backup: restored, a used one could be used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    /// SHA-256 of the token, hex: the token itself is not kept.
    pub id: String,
    /// The project that owns the certificate.
    pub project: String,
    /// The certificate.
    pub certificate_id: String,
    /// What is given; the version is settled.
    pub export: ExportOptions,
    /// Until when, excluded.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Download {
    /// The part of the id that events show.
    pub fn short_id(&self) -> &str {
        self.id.get(..16).unwrap_or(&self.id)
    }
}

impl Record for Download {
    const KIND: &'static str = "download";
    const FIELDS: &'static [&'static str] = &["certificate", "expires_at"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("certificate", &*self.certificate_id).field("expires_at", self.expires_at)
    }
}
