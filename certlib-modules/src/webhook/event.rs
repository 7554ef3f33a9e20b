//! What is sent: the event, and what the journal remembers of it.

use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::Context;
use certlib_core::bundle::CertificateBundle;
use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::OPERATION;
use crate::certificate::Certificate;

/// What stands in a plan for values that exist only when the event is sent.
const WHEN_SENT: &str = "(set when sent)";
/// What stands in a plan for the private key.
const MASKED_KEY: &str = "(private key)";

/// What is recorded around a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Undo {
    /// About to be sent; from here on the receiver may know.
    Announcing(Box<Announcement>),
    /// The receiver certainly did not take it.
    NotTaken {
        /// The delivery's id.
        id: String,
    },
}

/// A certificate that a receiver was told to deploy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Announcement {
    /// The delivery's id.
    pub id: String,
    /// When it was first sent.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// The certificate.
    pub certificate: Certificate,
}

/// The id of the delivery to `target` in this operation: the same for every retry, another for every other target,
/// and without the dot that separates it in what is signed.
pub(super) fn delivery_id(cx: &Context, target: &str) -> String {
    let input = serde_json::json!([cx.operation_id, target]).to_string();
    let hex: String =
        digest(&SHA256, input.as_bytes()).as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("evt_{hex}")
}

/// The id of the event that takes back delivery `id`.
pub(super) fn rollback_id(id: &str) -> String {
    format!("{id}_rollback")
}

/// What the receiver may know of, oldest first: announced and not certainly refused.
pub(super) fn pending(entries: &[Undo]) -> Vec<&Announcement> {
    let mut pending: Vec<&Announcement> = Vec::new();
    for entry in entries {
        match entry {
            Undo::Announcing(announcement) => {
                pending.retain(|known| known.id != announcement.id);
                pending.push(announcement);
            }
            Undo::NotTaken { id } => pending.retain(|known| known.id != *id),
        }
    }
    pending
}

/// An event, on its way to JSON.
#[derive(Serialize)]
struct Event<'a> {
    id: &'a str,
    r#type: &'static str,
    created_at: &'a str,
    certificate: &'a Certificate,
    #[serde(skip_serializing_if = "Option::is_none")]
    material: Option<Material<'a>>,
    target: Target<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reverts: Option<&'a str>,
}

#[derive(Serialize)]
struct Material<'a> {
    certificate_pem: String,
    chain_pem: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key_pem: Option<&'a str>,
}

#[derive(Serialize)]
struct Target<'a> {
    id: &'a str,
    name: &'a str,
    operation: &'static str,
}

/// The body of `certificate.deploy`.
pub(super) fn deploy_body(
    announcement: &Announcement,
    target: (&str, &str),
    bundle: &CertificateBundle,
    key: Option<&SecretString>,
) -> Result<Zeroizing<Vec<u8>>> {
    let created_at = rfc3339(announcement.created_at)?;
    let key = key.map(|key| key.expose().as_str());
    let event = deploy(&announcement.id, &created_at, &announcement.certificate, target, bundle, key);
    // Growing would leave pieces of the key behind in memory.
    let room = 16 * 1024 + 2 * (bundle.fullchain_pem().len() + key.map_or(0, str::len));
    let mut body = Zeroizing::new(Vec::with_capacity(room));
    serde_json::to_writer(&mut *body, &event).map_err(unencodable)?;
    Ok(body)
}

/// The body of `certificate.deploy` as a plan shows it: without the key, and without what changes with every attempt.
pub(super) fn planned_body(
    certificate: &Certificate,
    target: (&str, &str),
    bundle: &CertificateBundle,
    with_key: bool,
) -> Result<String> {
    let key = with_key.then_some(MASKED_KEY);
    serde_json::to_string(&deploy(WHEN_SENT, WHEN_SENT, certificate, target, bundle, key)).map_err(unencodable)
}

fn deploy<'a>(
    id: &'a str,
    created_at: &'a str,
    certificate: &'a Certificate,
    (target, name): (&'a str, &'a str),
    bundle: &CertificateBundle,
    key: Option<&'a str>,
) -> Event<'a> {
    let material = Material { certificate_pem: bundle.leaf_pem(), chain_pem: bundle.chain_pem(), private_key_pem: key };
    Event {
        id,
        r#type: "certificate.deploy",
        created_at,
        certificate,
        material: Some(material),
        target: Target { id: target, name, operation: "execute" },
        reverts: None,
    }
}

/// The body of `certificate.rollback`: what to take back, without material.
pub(super) fn rollback_body(
    announcement: &Announcement,
    (target, name): (&str, &str),
    now: OffsetDateTime,
) -> Result<Zeroizing<Vec<u8>>> {
    let event = Event {
        id: &rollback_id(&announcement.id),
        r#type: "certificate.rollback",
        created_at: &rfc3339(now)?,
        certificate: &announcement.certificate,
        material: None,
        target: Target { id: target, name, operation: "rollback" },
        reverts: Some(&announcement.id),
    };
    serde_json::to_vec(&event).map(Zeroizing::new).map_err(unencodable)
}

fn rfc3339(at: OffsetDateTime) -> Result<String> {
    // Whole seconds: finer ones would differ after a journey through the journal of a store that rounds.
    let at = at.replace_nanosecond(0).unwrap_or(at);
    at.format(&Rfc3339).map_err(|error| {
        Error::validation(OPERATION, "time_invalid", "the clock shows a time that RFC 3339 cannot write")
            .with_source(error)
    })
}

fn unencodable(_: serde_json::Error) -> Error {
    // The source is dropped: it could quote the key.
    Error::permanent(OPERATION, "body_invalid", "the event cannot be written as JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(id: &str) -> Announcement {
        let certificate = Certificate {
            project: "p".into(),
            id: "c".into(),
            version: 2,
            names: vec!["a.example".into()],
            subject: String::new(),
            issuer: "CN=ca".into(),
            serial: "01".into(),
            fingerprint_sha256: certlib_core::Fingerprint::of(b"leaf"),
            not_before: OffsetDateTime::UNIX_EPOCH,
            not_after: OffsetDateTime::UNIX_EPOCH,
        };
        Announcement { id: id.into(), created_at: OffsetDateTime::UNIX_EPOCH, certificate }
    }

    #[test]
    fn ids_are_stable_distinct_and_without_a_dot() {
        let id = |operation: &str, target: &str| delivery_id(&Context::new(operation), target);
        assert_eq!(id("op.1", "t.1"), id("op.1", "t.1"));
        assert_ne!(id("op.1", "t.1"), id("op.1", "t.2"));
        assert_ne!(id("op", "1t"), id("op1", "t"));
        let odd = id("op\r\n.\u{2028}", "t.1");
        assert!(odd.len() == 36 && odd.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{odd}");
    }

    #[test]
    fn pending_is_what_was_announced_and_not_refused() {
        let announcing = |id: &str| Undo::Announcing(Box::new(announcement(id)));
        let not_taken = |id: &str| Undo::NotTaken { id: id.into() };
        let ids = |entries: &[Undo]| pending(entries).iter().map(|known| known.id.clone()).collect::<Vec<_>>();
        assert!(ids(&[]).is_empty());
        assert!(ids(&[announcing("a"), not_taken("a")]).is_empty());
        assert_eq!(ids(&[announcing("a"), not_taken("a"), announcing("a")]), ["a"]);
        assert_eq!(ids(&[announcing("a"), announcing("b"), announcing("a")]), ["b", "a"]);
    }

    #[test]
    fn journal_entries_survive_a_round_trip() {
        for undo in [Undo::Announcing(Box::new(announcement("a"))), Undo::NotTaken { id: "a".into() }] {
            let text = serde_json::to_string(&undo).unwrap();
            assert_eq!(serde_json::from_str::<Undo>(&text).unwrap(), undo);
        }
    }

    #[test]
    fn names_from_outside_stay_inside_their_strings() {
        let mut odd = announcement("a");
        odd.certificate.names = vec!["\",\"type\":\"x\"\u{2028}\n<!channel>".into()];
        let body = rollback_body(&odd, ("t", "\"}"), OffsetDateTime::UNIX_EPOCH).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["type"], "certificate.rollback");
        assert_eq!(value["certificate"]["names"][0], odd.certificate.names[0].as_str());
        assert_eq!(value["target"]["name"], "\"}");
    }
}
