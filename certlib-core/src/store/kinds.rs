//! Kinds of records, for what must go through all of them: rotating keys, backup and restore.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::batch::{Write, WriteBatch};
use super::record::{RawRecord, Record, SealedField, Versioned};
use crate::error::Result;
use crate::secret::Sealed;

/// The kinds of records there are: certlib's own, and those that the host adds.
///
/// A kind that is missing here is not in a backup, and secrets in its records stay under the key that sealed them: so
/// that key cannot be removed safely.
#[derive(Debug, Clone, Default)]
pub struct RecordKinds(BTreeMap<&'static str, Arc<dyn RecordKind>>);

impl RecordKinds {
    /// No kinds.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds a kind.
    #[must_use]
    pub fn with<R: Record>(mut self) -> Self {
        self.0.insert(R::KIND, Arc::new(Typed::<R>(PhantomData)));
        self
    }

    /// The kind named `name`.
    pub fn find(&self, name: &str) -> Option<&dyn RecordKind> {
        self.0.get(name).map(|kind| &**kind)
    }

    /// All kinds, by name.
    pub fn iter(&self) -> impl Iterator<Item = &dyn RecordKind> {
        self.0.values().map(|kind| &**kind)
    }
}

/// A kind of record whose type is not known.
pub trait RecordKind: fmt::Debug + Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Reads a record of this kind.
    ///
    /// # Errors
    /// `IoPermanent` `record_unreadable`.
    fn decode(&self, raw: &RawRecord) -> Result<Box<dyn AnyRecord>>;
}

/// A record whose type is not known.
pub trait AnyRecord: Send + Sync {
    /// Its id.
    fn id(&self) -> &str;

    /// As [`Record::sealed`].
    fn sealed(&self) -> Option<SealedField<'_>>;

    /// As [`Record::replace_sealed`].
    fn replace_sealed(&mut self, sealed: Sealed);

    /// What inserts or replaces it.
    ///
    /// # Errors
    /// As [`Write::of`].
    fn write(&self) -> Result<Write>;

    /// Adds to `batch` that it is written if it still has the revision it was read at.
    ///
    /// # Errors
    /// As [`WriteBatch::update`].
    fn update_in(&self, batch: WriteBatch) -> Result<WriteBatch>;
}

struct Typed<R>(PhantomData<fn() -> R>);

impl<R: Record> fmt::Debug for Typed<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(R::KIND)
    }
}

impl<R: Record> RecordKind for Typed<R> {
    fn name(&self) -> &'static str {
        R::KIND
    }

    fn decode(&self, raw: &RawRecord) -> Result<Box<dyn AnyRecord>> {
        Ok(Box::new(Versioned::<R>::decode(raw)?))
    }
}

impl<R: Record> AnyRecord for Versioned<R> {
    fn id(&self) -> &str {
        self.record.id()
    }

    fn sealed(&self) -> Option<SealedField<'_>> {
        self.record.sealed()
    }

    fn replace_sealed(&mut self, sealed: Sealed) {
        self.record.replace_sealed(sealed);
    }

    fn write(&self) -> Result<Write> {
        Write::of(&self.record)
    }

    fn update_in(&self, batch: WriteBatch) -> Result<WriteBatch> {
        batch.update(self)
    }
}
