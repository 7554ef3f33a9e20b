//! The certificates that a mount keeps, and which of them are revoked.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    super::super::answer::{Answer, Outcome, Refusal},
    issuers::{serial, to_pem},
    sign::Der,
};

/// Certificates by serial number.
#[derive(Default)]
pub(super) struct Kept(BTreeMap<String, Entry>);

struct Entry {
    certificate: Der,
    revoked: Option<OffsetDateTime>,
}

impl Kept {
    /// Keeps a certificate, unless it is kept already, and gives its number.
    pub(super) fn insert(&mut self, certificate: &[u8]) -> String {
        let number = serial(certificate).unwrap_or_default();
        let entry = || Entry { certificate: certificate.to_vec(), revoked: None };
        self.0.entry(number.clone()).or_insert_with(entry);
        number
    }

    pub(super) fn list(&self) -> Outcome {
        if self.0.is_empty() {
            return Err(Refusal::absent());
        }
        Ok(Answer::data(json!({ "keys": self.0.keys().collect::<Vec<_>>() })))
    }

    pub(super) fn describe(&self, number: &str) -> Outcome {
        let entry = self.0.get(&normal(number)).ok_or_else(Refusal::absent)?;
        Ok(Answer::data(json!({
            "certificate": to_pem(&entry.certificate),
            "revocation_time": entry.revoked.map_or(0, OffsetDateTime::unix_timestamp),
            "revocation_time_rfc3339": entry.revoked.map_or_else(|| json!(""), rfc3339),
        })))
    }

    /// Revokes; what is revoked already stays revoked since then.
    pub(super) fn revoke(&mut self, number: &str, now: OffsetDateTime) -> Outcome {
        let unknown = || Refusal::invalid(format!("certificate with serial {number} not found."));
        let entry = self.0.get_mut(&normal(number)).ok_or_else(unknown)?;
        let since = *entry.revoked.get_or_insert(now);
        Ok(Answer::data(json!({
            "revocation_time": since.unix_timestamp(),
            "revocation_time_rfc3339": rfc3339(since),
            "state": "revoked",
        })))
    }
}

/// Serial numbers may be written with hyphens, and in capitals.
fn normal(number: &str) -> String {
    number.replace('-', ":").to_ascii_lowercase()
}

fn rfc3339(time: OffsetDateTime) -> Value {
    time.format(&Rfc3339).map(Value::String).unwrap_or_default()
}
