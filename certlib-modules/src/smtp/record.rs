//! What the journal remembers of a message.

use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::Context;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::certificate::Certificate;

/// What is recorded around a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Undo {
    /// About to be handed to the relay; from here on the recipients may have it.
    Sending(Box<Delivery>),
    /// The relay took it.
    Sent {
        /// The message's id.
        message_id: String,
    },
    /// The relay certainly did not take it.
    NotTaken {
        /// The message's id.
        message_id: String,
    },
}

/// A message with a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Delivery {
    /// Its `Message-ID`: the same for every attempt.
    pub message_id: String,
    /// When it was first sent; its `Date`.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Who gets it.
    pub recipients: Vec<String>,
    /// The certificate.
    pub certificate: Certificate,
}

/// The `Message-ID` of the delivery to `target` in this operation: the same for every attempt, another for every other
/// target.
pub(super) fn message_id(cx: &Context, target: &str, domain: &str) -> String {
    format!("<{}@{domain}>", short_digest(&serde_json::json!([cx.operation_id, target]).to_string()))
}

/// The `Message-ID` of the message that takes the delivery `message_id` back.
pub(super) fn rollback_id(message_id: &str) -> String {
    let inner = message_id.trim_matches(['<', '>']);
    let (local, domain) = inner.split_once('@').unwrap_or((inner, "localhost"));
    format!("<{local}.rollback@{domain}>")
}

/// 32 hex digits that stand for `text`.
pub(super) fn short_digest(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// What the recipients may have, oldest first: sent and not certainly refused.
pub(super) fn pending(entries: &[Undo]) -> Vec<&Delivery> {
    let mut pending: Vec<&Delivery> = Vec::new();
    for entry in entries {
        match entry {
            Undo::Sending(delivery) => {
                pending.retain(|known| known.message_id != delivery.message_id);
                pending.push(delivery);
            }
            Undo::Sent { .. } => {}
            Undo::NotTaken { message_id } => pending.retain(|known| known.message_id != *message_id),
        }
    }
    pending
}

/// Whether the relay is known to have taken `message_id`.
pub(super) fn is_sent(entries: &[Undo], message_id: &str) -> bool {
    entries.iter().any(|entry| matches!(entry, Undo::Sent { message_id: sent } if sent == message_id))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::smtp) fn certificate() -> Certificate {
        Certificate {
            project: "p".into(),
            id: "c".into(),
            version: 2,
            names: vec!["a.example".into(), "b.example".into()],
            subject: "CN=a.example".into(),
            issuer: "CN=ca".into(),
            serial: "01ab".into(),
            fingerprint_sha256: certlib_core::Fingerprint::of(b"leaf"),
            not_before: OffsetDateTime::UNIX_EPOCH,
            not_after: OffsetDateTime::UNIX_EPOCH + time::Duration::DAY,
        }
    }

    fn delivery(message_id: &str) -> Undo {
        let certificate = certificate();
        let (created_at, recipients) = (OffsetDateTime::UNIX_EPOCH, vec!["a@example.com".into()]);
        Undo::Sending(Box::new(Delivery { message_id: message_id.into(), created_at, recipients, certificate }))
    }

    #[test]
    fn ids_are_stable_distinct_and_plain() {
        let id = |operation: &str, target: &str| message_id(&Context::new(operation), target, "example.com");
        assert_eq!(id("op.1", "t.1"), id("op.1", "t.1"));
        assert_ne!(id("op.1", "t.1"), id("op.1", "t.2"));
        assert_ne!(id("op", "1t"), id("op1", "t"));
        let odd = id("op\r\n>\u{2028}", "t.1");
        assert!(odd.len() == 46 && odd.starts_with('<') && odd.ends_with("@example.com>"), "{odd}");
        assert_eq!(rollback_id("<ab@example.com>"), "<ab.rollback@example.com>");
    }

    #[test]
    fn pending_is_what_was_sent_and_not_refused() {
        let not_taken = |id: &str| Undo::NotTaken { message_id: id.into() };
        let sent = |id: &str| Undo::Sent { message_id: id.into() };
        let ids = |entries: &[Undo]| pending(entries).iter().map(|known| known.message_id.clone()).collect::<Vec<_>>();
        assert!(ids(&[]).is_empty());
        assert!(ids(&[delivery("a"), not_taken("a")]).is_empty());
        assert_eq!(ids(&[delivery("a"), not_taken("a"), delivery("a"), sent("a")]), ["a"]);
        assert_eq!(ids(&[delivery("a"), delivery("b"), delivery("a")]), ["b", "a"]);
        assert!(is_sent(&[delivery("a"), sent("a")], "a") && !is_sent(&[delivery("a"), sent("b")], "a"));
    }

    #[test]
    fn journal_entries_survive_a_round_trip() {
        for undo in [delivery("a"), Undo::Sent { message_id: "a".into() }, Undo::NotTaken { message_id: "a".into() }] {
            let text = serde_json::to_string(&undo).unwrap();
            assert_eq!(serde_json::from_str::<Undo>(&text).unwrap(), undo);
        }
    }
}
