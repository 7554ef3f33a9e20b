//! ACME challenges that any node must be able to answer.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::store::{Index, Record};

/// A pending HTTP-01 challenge (RFC 8555 section 8.3). Not a secret: the CA fetches it over plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeChallenge {
    /// The token.
    pub id: String,
    /// What to answer.
    pub key_authorization: String,
    /// The name being proven.
    pub name: String,
    /// When it may be forgotten.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

impl Record for AcmeChallenge {
    const KIND: &'static str = "acme_challenge";
    const FIELDS: &'static [&'static str] = &["expires_at"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("expires_at", self.expires_at)
    }
}
