//! Kinds of records, for what must go through all of them: rotating keys, backup and restore.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::batch::{Write, WriteBatch};
use super::record::{RawRecord, Record, SealedField, Versioned};
use crate::error::{Error, Result};
use crate::secret::Sealed;

/// The kinds of records there are: certlib's own, and those that the host adds.
///
/// A kind that is missing here would not be in a backup, and secrets in its records would stay under the key that sealed
/// them. The [state of the keyring](crate::model::KeyringState) remembers all that any process has known: who does not know
/// them all backs nothing up, rotates nothing and removes no key.
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

    /// As [`Record::replace_sealed`]; everything else in the stored JSON stays as it is, also what this version does not
    /// know.
    ///
    /// # Errors
    /// `IoPermanent` `secret_missing` when the secret is not in the JSON exactly once.
    fn replace_sealed(&mut self, sealed: Sealed) -> Result<()>;

    /// What inserts or replaces it, as this version writes it.
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
        Ok(Box::new(Decoded { record: Versioned::<R>::decode(raw)?, body: raw.body.clone() }))
    }
}

/// A record, and its JSON as it is stored: with whatever a newer version has put there.
struct Decoded<R> {
    record: Versioned<R>,
    body: Arc<str>,
}

impl<R: Record> AnyRecord for Decoded<R> {
    fn id(&self) -> &str {
        self.record.id()
    }

    fn sealed(&self) -> Option<SealedField<'_>> {
        self.record.sealed()
    }

    fn replace_sealed(&mut self, sealed: Sealed) -> Result<()> {
        let text =
            |sealed: &Sealed| serde_json::to_string(sealed).map_err(|error| unplaced(R::KIND).with_source(error));
        let former = self.sealed().map(|field| text(field.sealed)).transpose()?.ok_or_else(|| unplaced(R::KIND))?;
        if self.body.matches(&*former).count() != 1 {
            return Err(unplaced(R::KIND).with("id", self.id()));
        }
        self.body = self.body.replacen(&*former, &text(&sealed)?, 1).into();
        self.record.replace_sealed(sealed);
        Ok(())
    }

    fn write(&self) -> Result<Write> {
        Write::of(&self.record.record)
    }

    fn update_in(&self, batch: WriteBatch) -> Result<WriteBatch> {
        let mut batch = batch.update(&self.record)?;
        if let Some(Write::Put { body, .. }) = batch.writes.last_mut() {
            *body = self.body.clone();
        }
        Ok(batch)
    }
}

fn unplaced(kind: &'static str) -> Error {
    let why = "the secret is not in the record's JSON, once and as it is";
    Error::permanent("store.reseal", "secret_missing", why).with("kind", kind)
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::secret::Aad;
    use crate::store::Index;

    #[derive(Serialize, Deserialize)]
    struct Note {
        id: String,
        sealed: Sealed,
    }

    impl Record for Note {
        const KIND: &'static str = "note";
        const FIELDS: &'static [&'static str] = &[];

        fn id(&self) -> &str {
            &self.id
        }

        fn index(&self) -> Index {
            Index::new()
        }

        fn sealed(&self) -> Option<SealedField<'_>> {
            Some(SealedField { sealed: &self.sealed, aad: Aad::new("", Self::KIND, &self.id, "sealed") })
        }

        fn replace_sealed(&mut self, sealed: Sealed) {
            self.sealed = sealed;
        }
    }

    #[test]
    fn what_a_newer_version_wrote_stays_when_the_secret_is_wrapped_anew() {
        let kinds = RecordKinds::none().with::<Note>();
        let body = |sealed: &str| format!(r#"{{"newer":[1.50,"é"],"id":"n","sealed":"{sealed}"}}"#);
        let raw = RawRecord { id: "n".to_owned(), revision: 3, body: body("b2xk").into() };
        let mut record = kinds.find("note").unwrap().decode(&raw).unwrap();
        record.replace_sealed(Sealed::from_bytes(b"new".to_vec())).unwrap();
        assert_eq!(record.sealed().unwrap().sealed.as_bytes(), b"new");
        let batch = record.update_in(WriteBatch::new()).unwrap();
        let [Write::Put { body: written, .. }] = &batch.writes[..] else { panic!("{batch:?}") };
        assert_eq!(**written, body("bmV3"));

        let twice = r#"{"copy":"b2xk","id":"n","sealed":"b2xk"}"#;
        let raw = RawRecord { body: twice.into(), ..raw };
        let mut record = kinds.find("note").unwrap().decode(&raw).unwrap();
        let error = record.replace_sealed(Sealed::from_bytes(b"new".to_vec())).unwrap_err();
        assert_eq!(error.code(), "secret_missing");
    }
}
