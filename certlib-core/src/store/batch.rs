//! The one write primitive: conditions and effects that happen together or not at all.

use std::sync::Arc;

use super::record::{Index, KEK_FIELD, Record, Versioned};
use crate::error::{Error, Result, codes};
use crate::lock::Lease;
use crate::model::KekFence;
use crate::queue::{Claim, Enqueued, NewJob, Settlement};

/// Conditions and effects, applied all or nothing by [`Store::commit`](super::Store::commit).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct WriteBatch {
    /// What must hold.
    pub conditions: Vec<Condition>,
    /// Records to write or delete, in order.
    pub writes: Vec<Write>,
    /// Jobs to enqueue.
    pub jobs: Vec<NewJob>,
    /// The claimed job that this batch finishes; implies the condition that the claim still holds. It is settled
    /// before the jobs are enqueued, so one of them may have its natural key.
    pub settlement: Option<Settlement>,
}

/// What must hold for a batch to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// The record has this revision; `None`: it does not exist. Otherwise `conflict`.
    Record {
        /// Kind of the record.
        kind: &'static str,
        /// Id of the record.
        id: String,
        /// The revision it must have.
        revision: Option<u64>,
    },
    /// The job is still claimed under this epoch. Otherwise `lease_lost`.
    Claim(Claim),
    /// The lease still has this epoch and holder, and was not released. Otherwise `lease_lost`. Its expiry is not
    /// looked at: the epoch alone decides, so no clock can let two leaders write.
    Lease(Lease),
}

impl Condition {
    /// For stores: what to answer when a record has another revision than it must have.
    pub fn record_conflict(kind: &'static str, id: &str, wanted: Option<u64>, actual: Option<u64>) -> Error {
        let name = |revision: Option<u64>| revision.map_or_else(|| "none".to_owned(), |number| number.to_string());
        Error::validation("store.commit", codes::CONFLICT, "somebody else wrote this record")
            .with("kind", kind)
            .with("id", id)
            .with("wanted_revision", name(wanted))
            .with("actual_revision", name(actual))
    }
}

/// One effect on a record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Write {
    /// Inserts or replaces.
    Put {
        /// Kind of the record.
        kind: &'static str,
        /// Id of the record.
        id: String,
        /// JSON.
        body: Arc<str>,
        /// All indexed fields; fields indexed before and not named now are removed.
        index: Index,
    },
    /// Deletes, if it is there.
    Delete {
        /// Kind of the record.
        kind: &'static str,
        /// Id of the record.
        id: String,
    },
}

impl Write {
    /// The effect that inserts or replaces `record`.
    ///
    /// # Errors
    /// `record_invalid`; see [`WriteBatch::put`].
    pub fn of<R: Record>(record: &R) -> Result<Self> {
        let invalid =
            |why: &str| Error::validation("store.put", "record_invalid", why.to_owned()).with("kind", R::KIND);
        let id = record.id();
        if id.is_empty() || id.len() > 200 || id.chars().any(char::is_control) {
            return Err(invalid("the id is empty, longer than 200 bytes, or holds control characters"));
        }
        let mut index = record.index();
        if let Some((field, _)) = index.iter().find(|(field, _)| !R::FIELDS.contains(field)) {
            return Err(invalid("an index field is not declared").with("field", field));
        }
        if let Some(kek) = record.sealed().and_then(|field| field.sealed.kek()) {
            index = index.field(KEK_FIELD, kek.to_string());
        }
        if let Some((field, _)) = index.iter().find(|(_, value)| !value.fits()) {
            return Err(invalid("an index text is longer than 300 bytes or holds a NUL").with("field", field));
        }
        let body = serde_json::to_string(record).map_err(|error| invalid("cannot be encoded").with_source(error))?;
        Ok(Self::Put { kind: R::KIND, id: id.to_owned(), body: body.into(), index })
    }
}

/// What a batch did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Commit {
    /// The revision of each put, in the batch's order.
    pub revisions: Vec<u64>,
    /// What became of each job, in the batch's order.
    pub jobs: Vec<Enqueued>,
}

impl Commit {
    /// For stores: what a batch did.
    pub fn new(revisions: Vec<u64>, jobs: Vec<Enqueued>) -> Self {
        Self { revisions, jobs }
    }
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the batch would do nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.jobs.is_empty() && self.settlement.is_none()
    }

    /// Demands `condition`.
    #[must_use]
    pub fn require(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// Inserts a record that must not exist.
    ///
    /// # Errors
    /// `record_invalid`; see [`WriteBatch::put`].
    pub fn insert<R: Record>(self, record: &R) -> Result<Self> {
        let id = record.id().to_owned();
        self.require(Condition::Record { kind: R::KIND, id, revision: None }).put(record)
    }

    /// Replaces a record that must still have the revision it was read at.
    ///
    /// # Errors
    /// `record_invalid`; see [`WriteBatch::put`].
    pub fn update<R: Record>(self, record: &Versioned<R>) -> Result<Self> {
        let id = record.id().to_owned();
        self.require(Condition::Record { kind: R::KIND, id, revision: Some(record.revision) }).put(&record.record)
    }

    /// Inserts or replaces, whatever is there. A record with a [secret](Record::sealed) is refused, with `conflict`,
    /// when nothing may be stored under the secret's key any more: see [`KekFence`].
    ///
    /// # Errors
    /// `Validation` `record_invalid` when the id is empty, too long or holds control characters, when an index field
    /// is not declared or its text too long or with a NUL, or when the record cannot be encoded.
    pub fn put<R: Record>(mut self, record: &R) -> Result<Self> {
        self.writes.push(Write::of(record)?);
        if let Some(kek) = record.sealed().and_then(|field| field.sealed.kek()) {
            let fence = KekFence::condition(&kek, record.id());
            if !self.conditions.contains(&fence) {
                self.conditions.push(fence);
            }
        }
        Ok(self)
    }

    /// Deletes a record, if it is there.
    #[must_use]
    pub fn delete<R: Record>(mut self, id: &str) -> Self {
        self.writes.push(Write::Delete { kind: R::KIND, id: id.to_owned() });
        self
    }

    /// Enqueues a job.
    #[must_use]
    pub fn enqueue(mut self, job: NewJob) -> Self {
        self.jobs.push(job);
        self
    }

    /// Finishes a claimed job.
    #[must_use]
    pub fn settle(mut self, settlement: Settlement) -> Self {
        self.settlement = Some(settlement);
        self
    }
}
