//! Projects, and the issuers and credentials they own.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::IssuanceLimit;
use crate::error::{Error, Result};
use crate::secret::{Aad, Sealed};
use crate::store::{Index, Record, SealedField};

/// The namespace that owns everything below.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Project {
    /// Its id, chosen by people: lower-case letters, digits and `-`, at most 63 characters.
    pub id: String,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Project {
    /// A project.
    ///
    /// # Errors
    /// `Validation` `project_invalid`.
    pub fn new(id: &str, now: OffsetDateTime) -> Result<Self> {
        let fine = !id.is_empty()
            && id.len() <= 63
            && !id.starts_with('-')
            && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !fine {
            return Err(Error::validation(
                "project.new",
                "project_invalid",
                "a project's id has 1 to 63 lower-case letters, digits and '-'",
            )
            .with("id", id.escape_debug()));
        }
        Ok(Self { id: id.to_owned(), created_at: now })
    }
}

impl Record for Project {
    const KIND: &'static str = "project";
    const FIELDS: &'static [&'static str] = &[];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
    }
}

/// A configured CA account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Issuer {
    /// Its id.
    pub id: String,
    /// The project that owns it.
    pub project: String,
    /// Its name, for people.
    pub name: String,
    /// Which factory makes it, such as `"acme"`.
    pub kind: String,
    /// What the factory needs to know.
    pub config: Value,
    /// The credential it uses.
    pub credential_id: Option<String>,
    /// How many orders it may be given; `None`: any number.
    #[serde(default)]
    pub limit: Option<IssuanceLimit>,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Record for Issuer {
    const KIND: &'static str = "issuer";
    const FIELDS: &'static [&'static str] = &["project", "name"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("project", &*self.project).field("name", &*self.name)
    }
}

/// What an issuer keeps for itself, sealed: account keys, CA keys. Same id as the issuer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IssuerSecret {
    /// The issuer's id.
    pub id: String,
    /// The project that owns it.
    pub project: String,
    /// The secret.
    pub sealed: Sealed,
}

impl IssuerSecret {
    /// Where the secret of issuer `id` is sealed.
    pub(crate) fn aad<'a>(project: &'a str, id: &'a str) -> Aad<'a> {
        Aad::new(project, Self::KIND, id, "state")
    }
}

impl Record for IssuerSecret {
    const KIND: &'static str = "issuer_secret";
    const FIELDS: &'static [&'static str] = &[];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
    }

    fn sealed(&self) -> Option<SealedField<'_>> {
        Some(SealedField { sealed: &self.sealed, aad: Self::aad(&self.project, &self.id) })
    }

    fn replace_sealed(&mut self, sealed: Sealed) {
        self.sealed = sealed;
    }
}

/// A secret that modules and issuers log in with: JSON text, sealed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Credential {
    /// Its id.
    pub id: String,
    /// The project that owns it.
    pub project: String,
    /// Its name, for people.
    pub name: String,
    /// The secret.
    pub sealed: Sealed,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Credential {
    /// Where the secret of credential `id` is sealed.
    pub(crate) fn aad<'a>(project: &'a str, id: &'a str) -> Aad<'a> {
        Aad::new(project, Self::KIND, id, "secret")
    }
}

impl Record for Credential {
    const KIND: &'static str = "credential";
    const FIELDS: &'static [&'static str] = &["project", "name"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("project", &*self.project).field("name", &*self.name)
    }

    fn sealed(&self) -> Option<SealedField<'_>> {
        Some(SealedField { sealed: &self.sealed, aad: Self::aad(&self.project, &self.id) })
    }

    fn replace_sealed(&mut self, sealed: Sealed) {
        self.sealed = sealed;
    }
}
