//! Events: what happened, for people and for notifications.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Builder;

use super::new_id;
use crate::store::{Index, Record};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its id; sorts by time.
    pub id: String,
    /// The project it happened in.
    pub project: String,
    /// What happened, such as `"certificate.issued"`.
    pub kind: String,
    /// To what: the id of a certificate, a target, a job.
    pub subject: String,
    /// Details; no secrets.
    pub data: Value,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

impl Event {
    /// Something that happened to `subject` at `at`.
    pub fn new(project: &str, kind: &str, subject: &str, data: Value, at: OffsetDateTime) -> Self {
        Self { id: new_id(), project: project.to_owned(), kind: kind.to_owned(), subject: subject.to_owned(), data, at }
    }

    /// The same event with an id that follows from its kind, its subject, `key`, and `since`, when what it tells came to
    /// be: whoever tells it again, tells the same event. Insert it with
    /// [`WriteBatch::insert`](crate::store::WriteBatch::insert), and it exists once.
    #[must_use]
    pub fn once(mut self, key: &str, since: OffsetDateTime) -> Self {
        let text = [&*self.kind, &*self.subject, key].map(|part| format!("{}:{part}", part.len())).concat();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest(&SHA256, text.as_bytes()).as_ref()[..16]);
        let millis = u64::try_from(since.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        self.id = Builder::from_custom_bytes(bytes).into_uuid().to_string();
        self
    }
}

impl Record for Event {
    const KIND: &'static str = "event";
    const FIELDS: &'static [&'static str] = &["project", "kind", "subject", "at"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
            .field("project", &*self.project)
            .field("kind", &*self.kind)
            .field("subject", &*self.subject)
            .field("at", self.at)
    }
}

/// How urgent an event is; the member `severity` of the data of those that can be urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// To be known.
    Info,
    /// To be looked at some day soon.
    Warning,
    /// To be looked at today.
    Error,
    /// To be looked at now.
    Critical,
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn what_is_told_once_has_one_id() {
        let at = datetime!(2027-01-01 00:00 UTC);
        let told = |subject: &str, key: &str| Event::new("p", "k", subject, json!({}), at).once(key, at).id;
        assert_eq!(told("ab", "c"), told("ab", "c"));
        assert_ne!(told("ab", "c"), told("a", "bc"));
        let later = Event::new("p", "k", "ab", json!({}), at).once("c", at + time::Duration::SECOND).id;
        assert!(told("ab", "c") < later, "ids sort by when it came to be");
    }
}
