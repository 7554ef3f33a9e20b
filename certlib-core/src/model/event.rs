//! Events: what happened, for people and for notifications.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

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
}

impl Record for Event {
    const KIND: &'static str = "event";
    const FIELDS: &'static [&'static str] = &["project", "kind", "subject"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("project", &*self.project).field("kind", &*self.kind).field("subject", &*self.subject)
    }
}
