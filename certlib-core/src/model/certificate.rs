//! Certificates: what should exist, and the material that does.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::bundle::{KeyType, LeafInfo};
use crate::error::ErrorRecord;
use crate::issuer::RevocationReason;
use crate::secret::{Aad, Sealed};
use crate::store::{Index, Record, SealedField};

/// What should exist: names, key type, issuer, renewal policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its id.
    pub id: String,
    /// The project that owns it.
    pub project: String,
    /// Its name, for people.
    pub name: String,
    /// DNS names, wildcards, IP addresses; lower case, no doubles.
    pub names: Vec<String>,
    /// The key to generate for each version.
    pub key_type: KeyType,
    /// The issuer that issues it.
    pub issuer_id: String,
    /// The CA's profile, if one is asked for.
    pub profile: Option<String>,
    /// How long each version should be valid, in seconds, if the CA lets us choose.
    pub validity_seconds: Option<u64>,
    /// When to renew.
    pub renewal: RenewalPolicy,
    /// Where it stands.
    pub state: CertificateState,
    /// The version that is live.
    pub active_version: Option<u32>,
    /// The newest version there is; 0: none.
    pub latest_version: u32,
    /// An older version that an operator went back to: it is what targets should hold, until the next one is issued or the
    /// newest is asked for again.
    #[serde(default)]
    pub held_version: Option<u32>,
    /// When the sweep has to renew it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub renew_at: Option<OffsetDateTime>,
    /// What the CA said about renewing the newest version.
    pub hint: Option<RenewalHint>,
    /// When to ask the CA again.
    #[serde(with = "time::serde::rfc3339::option")]
    pub hint_check_at: Option<OffsetDateTime>,
    /// The watch over the end of the live version, or, before there is one, of the newest.
    #[serde(default)]
    pub expiry: Option<ExpiryWatch>,
    /// When to see that every automatic distribution has a run of the newest version.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub distribution_check_at: Option<OffsetDateTime>,
    /// The last failure, until something succeeds.
    pub last_error: Option<ErrorRecord>,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it was changed last.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

impl Certificate {
    /// Whether an operator wants another version by now than the one that a run delivers: that they went back to another
    /// one, or, for a run that goes `back`, that they do not want an older one any more.
    pub fn is_overruled(&self, version: u32, back: bool) -> bool {
        self.held_version.map_or(back, |held| held != version)
    }

    /// The version that targets should hold; 0: none.
    pub fn wanted_version(&self) -> u32 {
        self.held_version.unwrap_or(self.latest_version)
    }
}

impl Record for Certificate {
    const KIND: &'static str = "certificate";
    const FIELDS: &'static [&'static str] = &[
        "project",
        "name",
        "state",
        "issuer",
        "renew_at",
        "hint_check_at",
        "expiry_check_at",
        "distribution_check_at",
    ];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
            .field("project", &*self.project)
            .field("name", &*self.name)
            .field("state", self.state.as_str())
            .field("issuer", &*self.issuer_id)
            .maybe("renew_at", self.renew_at)
            .maybe("hint_check_at", self.hint_check_at)
            .maybe("expiry_check_at", self.expiry.as_ref().and_then(|watch| watch.check_at))
            .maybe("distribution_check_at", self.distribution_check_at)
    }
}

/// When to renew, relative to the lifetime, so that 6-day and 398-day certificates both work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RenewalPolicy {
    /// Renew without being asked.
    pub automatic: bool,
    /// Renew when this share of the lifetime has passed: 0.1 to 0.95.
    pub at_fraction: f64,
    /// Follow the window that the CA suggests (RFC 9773), where it does.
    pub follow_hint: bool,
    /// Keep the key of the newest version, unless a version with that key was revoked or the certificate wants another
    /// kind of key. Not by default: each version has a key of its own.
    #[serde(skip_serializing_if = "is_false")]
    pub reuse_key: bool,
}

/// What is not set is not written: a node of an older version knows nothing of it.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

impl Default for RenewalPolicy {
    /// Automatic, at two thirds of the lifetime, following the CA, with a new key.
    fn default() -> Self {
        Self { automatic: true, at_fraction: 2.0 / 3.0, follow_hint: true, reuse_key: false }
    }
}

/// A watch over the end of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiryWatch {
    /// The version.
    pub version: u32,
    /// Start of its validity.
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    /// End of its validity.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// The nearest threshold, in days, that was spoken of; 0: that it has ended.
    pub told: Option<u32>,
    /// When to look again; `None`: never.
    #[serde(with = "time::serde::rfc3339::option")]
    pub check_at: Option<OffsetDateTime>,
}

/// What the CA said about renewing, and the instant chosen within its window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RenewalHint {
    /// Start of the suggested window.
    #[serde(with = "time::serde::rfc3339")]
    pub start: OffsetDateTime,
    /// End of the suggested window.
    #[serde(with = "time::serde::rfc3339")]
    pub end: OffsetDateTime,
    /// The random instant chosen once for this window.
    #[serde(with = "time::serde::rfc3339")]
    pub chosen: OffsetDateTime,
    /// A page that explains an unusual window.
    pub explanation_url: Option<String>,
}

/// Where a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CertificateState {
    /// Nothing was issued yet.
    Pending,
    /// An order is under way.
    Issuing,
    /// Issued; being put on its targets.
    Distributing,
    /// Live on every target, or issued and without targets.
    Active,
    /// Live on some targets, not on others.
    PartialFailure,
    /// Issued, but no target took it: the former version stays live.
    DistributionFailed,
    /// Delivered, but only to targets that cannot be verified.
    SucceededUnverified,
    /// The CA will not issue.
    IssueFailed,
    /// The live version was revoked.
    Revoked,
}

impl CertificateState {
    /// The state as it appears in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Issuing => "issuing",
            Self::Distributing => "distributing",
            Self::Active => "active",
            Self::PartialFailure => "partial-failure",
            Self::DistributionFailed => "distribution-failed",
            Self::SucceededUnverified => "succeeded-unverified",
            Self::IssueFailed => "issue-failed",
            Self::Revoked => "revoked",
        }
    }
}

/// Issued material.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CertificateVersion {
    /// `<certificate id>/<version>`, see [`CertificateVersion::id_of`].
    pub id: String,
    /// The certificate.
    pub certificate_id: String,
    /// The project that owns it.
    pub project: String,
    /// From 1.
    pub version: u32,
    /// Leaf and chain, PEM, leaf first.
    pub chain_pem: String,
    /// The private key, PKCS#8 DER.
    pub key: Sealed,
    /// What the leaf says.
    pub leaf: LeafInfo,
    /// Who issued it.
    pub issuer_id: String,
    /// The order it came from.
    pub order_id: String,
    /// Where it stands.
    pub state: VersionState,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl CertificateVersion {
    /// The record id of version `version` of a certificate.
    pub fn id_of(certificate_id: &str, version: u32) -> String {
        format!("{certificate_id}/{version:08}")
    }

    /// Where the key of version `id` is sealed.
    pub(crate) fn aad<'a>(project: &'a str, id: &'a str) -> Aad<'a> {
        Aad::new(project, Self::KIND, id, "key")
    }
}

impl Record for CertificateVersion {
    const KIND: &'static str = "certificate_version";
    const FIELDS: &'static [&'static str] = &["certificate", "fingerprint"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("certificate", &*self.certificate_id).field("fingerprint", self.leaf.fingerprint.to_string())
    }

    fn sealed(&self) -> Option<SealedField<'_>> {
        Some(SealedField { sealed: &self.key, aad: Self::aad(&self.project, &self.id) })
    }

    fn replace_sealed(&mut self, sealed: Sealed) {
        self.key = sealed;
    }
}

/// Where issued material stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum VersionState {
    /// Issued and checked.
    Issued,
    /// Revoked.
    Revoked {
        /// When.
        #[serde(with = "time::serde::rfc3339")]
        at: OffsetDateTime,
        /// Why.
        reason: RevocationReason,
    },
}
