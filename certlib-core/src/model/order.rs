//! Orders: one request at one CA, resumable after any crash.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::error::ErrorRecord;
use crate::issuer::{IssueRequest, OrderHandle};
use crate::secret::{Aad, Sealed};
use crate::store::{Index, Record, SealedField};

/// One request at one CA.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// Its id.
    pub id: String,
    /// The project that owns it.
    pub project: String,
    /// The certificate it is for.
    pub certificate_id: String,
    /// Where it is placed.
    pub issuer_id: String,
    /// What is asked for.
    pub request: IssueRequest,
    /// The private key of the request, sealed before the order is placed.
    pub key: Sealed,
    /// Where to find it at the CA, once it is placed.
    pub handle: Option<OrderHandle>,
    /// Where it stands.
    pub stage: OrderStage,
    /// When it was last sent to the CA.
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub submitted_at: Option<OffsetDateTime>,
    /// How often somebody decided about it: see [`Client::resolve_order`](crate::Client::resolve_order).
    #[serde(default)]
    pub decisions: u32,
    /// Polls made in this round.
    pub polls: u32,
    /// When this round of polling began.
    #[serde(with = "time::serde::rfc3339")]
    pub round_started_at: OffsetDateTime,
    /// Why it ended without a certificate.
    pub error: Option<ErrorRecord>,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Order {
    /// Where the key of order `id` is sealed.
    pub(crate) fn aad<'a>(project: &'a str, id: &'a str) -> Aad<'a> {
        Aad::new(project, Self::KIND, id, "key")
    }
}

impl Record for Order {
    const KIND: &'static str = "order";
    const FIELDS: &'static [&'static str] = &["certificate", "open"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        let open = self.stage.is_open().then_some(&*self.certificate_id);
        Index::new().field("certificate", &*self.certificate_id).maybe("open", open)
    }

    fn sealed(&self) -> Option<SealedField<'_>> {
        Some(SealedField { sealed: &self.key, aad: Self::aad(&self.project, &self.id) })
    }

    fn replace_sealed(&mut self, sealed: Sealed) {
        self.key = sealed;
    }
}

/// Where an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OrderStage {
    /// Key and request are kept; the CA has not heard of it.
    Intended,
    /// It was sent to the CA, whose answer is not known: see [`Recovery`](crate::issuer::Recovery).
    Submitting,
    /// It was sent to the CA, whose answer was lost, and nobody but its users can tell whether the CA has it. It waits
    /// for [`Client::resolve_order`](crate::Client::resolve_order).
    Parked,
    /// The CA has it.
    Placed,
    /// Issued, checked and kept.
    Issued,
    /// The CA refused.
    Rejected,
    /// The CA issued something other than what was asked for; it is not used.
    Quarantined,
}

impl OrderStage {
    /// Whether there is still something to do.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Intended | Self::Submitting | Self::Parked | Self::Placed)
    }
}
