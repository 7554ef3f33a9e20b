//! Records: typed documents with declared, indexed fields.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use crate::error::{Error, Result};
use crate::secret::{Aad, Sealed};

/// A kind of document that a [`Store`](super::Store) keeps.
///
/// The body is JSON; secrets in it are [`Sealed`](crate::secret::Sealed). A new kind needs no code in any store.
pub trait Record: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The kind's stable name, such as `"certificate"`: lower case, digits, `_`, at most 32 characters.
    const KIND: &'static str;

    /// The fields that [`Record::index`] may set, and queries may use.
    const FIELDS: &'static [&'static str];

    /// The record's id, unique within its kind: at most 200 bytes, no control characters.
    fn id(&self) -> &str;

    /// The values of the indexed fields.
    fn index(&self) -> Index;

    /// The secret in it, and the place it is sealed for; `None`, the default, for a record without one. A record has
    /// one secret at most: what belongs together is sealed together.
    ///
    /// It is what lets certlib [rotate](crate::secret) the key under it, refuse to store it under a key that is going
    /// away, and tell which keys a backup needs. [`KEK_FIELD`] is indexed with it, without being declared.
    fn sealed(&self) -> Option<SealedField<'_>> {
        None
    }

    /// Puts the same secret, wrapped anew, in the place of the old one. To be written where [`Record::sealed`] is.
    fn replace_sealed(&mut self, sealed: Sealed) {
        let _ = sealed;
    }
}

/// The indexed field that says under which key-encryption key a record's secret is sealed: the key's id.
pub const KEK_FIELD: &str = "kek";

/// A sealed secret within a record.
#[derive(Debug, Clone, Copy)]
pub struct SealedField<'a> {
    /// The secret.
    pub sealed: &'a Sealed,
    /// The place it is bound to.
    pub aad: Aad<'a>,
}

/// The indexed fields of one record. A field without value is simply not there, and no query on it finds the record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index(Vec<(&'static str, IndexValue)>);

impl Index {
    /// No fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: impl Into<IndexValue>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// Adds a field if it has a value.
    #[must_use]
    pub fn maybe(self, name: &'static str, value: Option<impl Into<IndexValue>>) -> Self {
        match value {
            Some(value) => self.field(name, value),
            None => self,
        }
    }

    /// The fields.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &IndexValue)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }
}

/// A value in an index. Text sorts by bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IndexValue {
    /// A number, or a time in Unix milliseconds.
    Int(i64),
    /// A text of at most 300 bytes, without NUL.
    Text(String),
}

impl IndexValue {
    pub(super) fn fits(&self) -> bool {
        !matches!(self, Self::Text(text) if text.len() > 300 || text.contains('\0'))
    }
}

impl From<&str> for IndexValue {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for IndexValue {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<i64> for IndexValue {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u32> for IndexValue {
    fn from(value: u32) -> Self {
        Self::Int(i64::from(value))
    }
}

impl From<OffsetDateTime> for IndexValue {
    /// Unix milliseconds, rounded down.
    fn from(value: OffsetDateTime) -> Self {
        let millis = value.unix_timestamp_nanos().div_euclid(1_000_000);
        Self::Int(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}

/// A record as a store holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// The record's id.
    pub id: String,
    /// How often it was written.
    pub revision: u64,
    /// JSON.
    pub body: Arc<str>,
}

/// A record together with the revision it was read at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<R> {
    /// The record.
    pub record: R,
    /// The revision that an update will insist on.
    pub revision: u64,
}

impl<R: Record> Versioned<R> {
    /// Reads the JSON of a raw record.
    ///
    /// # Errors
    /// `IoPermanent` `record_unreadable`: another version wrote it, or it was damaged.
    pub fn decode(raw: &RawRecord) -> Result<Self> {
        let record = serde_json::from_str(&raw.body).map_err(|error| {
            Error::permanent("store.decode", "record_unreadable", "a stored record cannot be read by this version")
                .with("kind", R::KIND)
                .with("id", &raw.id)
                .with_source(error)
        })?;
        Ok(Self { record, revision: raw.revision })
    }
}

impl<R> Deref for Versioned<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.record
    }
}

impl<R> DerefMut for Versioned<R> {
    fn deref_mut(&mut self) -> &mut R {
        &mut self.record
    }
}
