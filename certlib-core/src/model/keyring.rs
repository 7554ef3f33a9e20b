//! The keys of an installation, as all nodes see them: which one seals, which ones are going away.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::secret::{Kek, KekId};
use crate::store::{Condition, Index, Record, RecordKinds};

/// Which key-encryption key seals, and how far a rotation has come. There is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyringState {
    /// Always [`KeyringState::ID`].
    pub id: String,
    /// Grows with every promotion: a node with an older one may not know yet which key seals.
    pub epoch: u64,
    /// The key that seals.
    pub primary: Kek,
    /// Keys that seal nothing any more and are kept to read: newest last. Nothing is stored under them.
    pub retired: Vec<Kek>,
    /// The rotation that is under way.
    pub rotation: Option<Rotation>,
    /// Every kind of record that a process on this store has ever known: secrets in records of a kind that the leader
    /// does not know would stay behind, so it does not rotate then, and no key is removed.
    #[serde(default)]
    pub kinds: BTreeSet<String>,
    /// When it was written.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

impl KeyringState {
    /// The id of the one there is.
    pub const ID: &'static str = "keyring";

    /// The kinds of record that others know and `kinds` lacks, for people; `None`: there are none.
    pub(crate) fn unknown_kinds(&self, kinds: &RecordKinds) -> Option<String> {
        let unknown: Vec<&str> =
            self.kinds.iter().map(|kind| &**kind).filter(|kind| kinds.find(kind).is_none()).collect();
        (!unknown.is_empty()).then(|| unknown.join(", "))
    }
}

impl Record for KeyringState {
    const KIND: &'static str = "keyring";
    const FIELDS: &'static [&'static str] = &[];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
    }
}

/// A rotation from one key to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Tells two rotations apart.
    pub id: String,
    /// The key that sealed before.
    pub from: Kek,
    /// The key that seals afterwards.
    pub to: Kek,
    /// How far it has come.
    pub phase: RotationPhase,
    /// Where the present pass over the records is.
    pub cursor: Option<RotationCursor>,
    /// How many envelopes were under the old key when the pass began.
    pub total: u64,
    /// How many envelopes were wrapped anew.
    pub rewrapped: u64,
    /// How many envelopes were verified under the new key, in the present pass.
    pub verified: u64,
    /// How many envelopes the present pass, or the last one, could not unwrap. While there are any, the rotation does
    /// not end.
    #[serde(default)]
    pub unreadable: u64,
    /// What it waits for, or what it met last, for people.
    pub note: Option<String>,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// When the phase began.
    #[serde(with = "time::serde::rfc3339")]
    pub phase_since: OffsetDateTime,
}

impl Rotation {
    /// How much of what was under the old key is under the new one, from 0 to 1. What is deleted, or replaced, in the
    /// meantime is never wrapped anew; so it may jump to 1 from somewhat below.
    pub fn progress(&self) -> f64 {
        match self.phase {
            RotationPhase::Prepare => 0.0,
            RotationPhase::Rewrap if self.total == 0 => 0.0,
            RotationPhase::Rewrap => (count(self.rewrapped) / count(self.total)).min(1.0),
            RotationPhase::Settle | RotationPhase::Verify => 1.0,
        }
    }
}

/// Counts stay far below 2^52, up to which a float is exact.
#[allow(clippy::cast_precision_loss)]
fn count(number: u64) -> f64 {
    number as f64
}

/// How far a rotation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RotationPhase {
    /// Waits until every live node has the new key. Nothing has changed yet.
    Prepare,
    /// The new key seals; what the old one sealed is wrapped anew.
    Rewrap,
    /// Waits until every live node knows that the new key seals. Then nothing is stored under the old one any more.
    Settle,
    /// Every envelope is verified, and none may be under the old key.
    Verify,
}

impl RotationPhase {
    /// As in its JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Rewrap => "rewrap",
            Self::Settle => "settle",
            Self::Verify => "verify",
        }
    }
}

/// A position in a pass over all records with secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationCursor {
    /// The kind of record.
    pub kind: String,
    /// The id of the last record that was dealt with; `None`: the kind is to be begun.
    pub after: Option<String>,
}

/// Stands for the right to store what a key sealed. Every commit that stores a secret demands it, in the same
/// transaction; it is deleted before the last look for what the key still seals. So a writer that was paused between
/// sealing and storing cannot leave a secret behind under a key that is removed then, however long it was.
///
/// There are several for each key, so that not all writers lock the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KekFence {
    /// `<key id>/<number>`.
    pub id: String,
}

impl KekFence {
    /// How many there are of each key.
    pub const COUNT: usize = 16;

    /// All of a key.
    pub fn of(kek: &KekId) -> impl Iterator<Item = Self> + use<> {
        let kek = *kek;
        (0..Self::COUNT).map(move |number| Self { id: id(&kek, number) })
    }

    /// What a commit must demand that stores the record `record` with a secret under `kek`.
    pub(crate) fn condition(kek: &KekId, record: &str) -> Condition {
        let sum = record.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        Condition::Record { kind: Self::KIND, id: id(kek, sum % Self::COUNT), revision: Some(1) }
    }
}

fn id(kek: &KekId, number: usize) -> String {
    format!("{kek}/{number}")
}

impl Record for KekFence {
    const KIND: &'static str = "kek_fence";
    const FIELDS: &'static [&'static str] = &[];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
    }
}

/// A backup that is kept somewhere, and the keys without which it is worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Its id.
    pub id: String,
    /// The keys that its secrets are sealed with.
    pub keks: Vec<Kek>,
    /// How many records it has.
    pub records: u64,
    /// When it was begun.
    #[serde(with = "time::serde::rfc3339")]
    pub taken_at: OffsetDateTime,
}

impl Record for Backup {
    const KIND: &'static str = "backup";
    const FIELDS: &'static [&'static str] = &["taken_at"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("taken_at", self.taken_at)
    }
}
