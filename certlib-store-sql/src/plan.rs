//! What a batch does to records: from what is stored and what is asked for to the rows that change. No I/O.
//!
//! A store loads (and locks) the records that [`Plan::names`] lists, in that order, tells the plan what it
//! [found](Plan::found), checks its conditions with [`Plan::require`], and then writes [`Plan::rows`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use certlib_core::error::{Error, Result};
use certlib_core::store::{Condition, Index, IndexValue, Write};

/// Kind and id of a record.
pub(crate) type Name<'a> = (&'a str, &'a str);

/// A record as it is stored.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) revision: u64,
    pub(crate) fields: Vec<(String, IndexValue)>,
}

/// The records that a batch looks at or writes, before and after.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    records: BTreeMap<Name<'a>, Change<'a>>,
    revisions: Vec<u64>,
}

#[derive(Debug, Default)]
struct Change<'a> {
    before: Option<Stored>,
    after: Option<After<'a>>,
    touched: bool,
}

#[derive(Debug)]
struct After<'a> {
    revision: u64,
    body: &'a str,
    index: &'a Index,
}

/// What to write. Every list is ordered by kind and id; no row is in a list twice.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Rows<'p> {
    /// The revision of each put, in the batch's order.
    pub(crate) revisions: Vec<u64>,
    /// Index entries to remove.
    pub(crate) unindexed: Vec<Entry<'p>>,
    /// Records to remove: they are there.
    pub(crate) deleted: Vec<Name<'p>>,
    /// Records to replace: they are there.
    pub(crate) updated: Vec<Put<'p>>,
    /// Records to add: they were not there.
    pub(crate) inserted: Vec<Put<'p>>,
    /// Index entries to add.
    pub(crate) indexed: Vec<Entry<'p>>,
    /// Records that were looked at, were not there, and are not written.
    pub(crate) absent: Vec<Name<'p>>,
}

/// A record to write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Put<'p> {
    pub(crate) kind: &'p str,
    pub(crate) id: &'p str,
    pub(crate) revision: u64,
    /// Sorted, without doubles.
    pub(crate) fields: Vec<(&'p str, &'p IndexValue)>,
    pub(crate) body: &'p str,
}

/// An index entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry<'p> {
    pub(crate) kind: &'p str,
    pub(crate) id: &'p str,
    pub(crate) field: &'p str,
    pub(crate) value: &'p IndexValue,
}

impl<'a> Plan<'a> {
    /// A plan that knows nothing of what is stored yet.
    ///
    /// # Errors
    /// `IoPermanent` `unsupported` when a newer core asks for an effect that this crate does not know.
    pub(crate) fn new(conditions: &'a [Condition], writes: &'a [Write]) -> Result<Self> {
        let mut records = BTreeMap::<_, Change<'a>>::new();
        for condition in conditions {
            if let Condition::Record { kind, id, .. } = condition {
                records.entry((*kind, id.as_str())).or_default();
            }
        }
        for write in writes {
            match write {
                Write::Put { kind, id, .. } | Write::Delete { kind, id } => {
                    records.entry((*kind, id.as_str())).or_default();
                }
                other => return Err(unknown(other)),
            }
        }
        Ok(Self { records, revisions: Vec::new() })
    }

    /// The records to load, ordered by kind and id, so that everybody who locks them does so in the same order.
    pub(crate) fn names(&self) -> Vec<Name<'a>> {
        self.records.keys().copied().collect()
    }

    /// Whether there is nothing to load.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes in that `name` is stored as `stored`.
    pub(crate) fn found(&mut self, name: Name<'a>, stored: Stored) {
        if let Some(record) = self.records.get_mut(&name) {
            record.before = Some(stored);
        }
    }

    /// Fails unless the record is stored at `wanted`.
    ///
    /// # Errors
    /// `Validation` `conflict`.
    pub(crate) fn require(&self, kind: &'static str, id: &str, wanted: Option<u64>) -> Result<()> {
        let before = self.records.get(&(kind, id)).and_then(|record| record.before.as_ref());
        let actual = before.map(|before| before.revision);
        if actual == wanted { Ok(()) } else { Err(Condition::record_conflict(kind, id, wanted, actual)) }
    }

    /// Applies `writes`, in order, to what is stored.
    pub(crate) fn apply(&mut self, writes: &'a [Write]) {
        for write in writes {
            let (name, after) = match write {
                Write::Put { kind, id, body, index } => ((*kind, id.as_str()), Some((&**body, index))),
                Write::Delete { kind, id } => ((*kind, id.as_str()), None),
                _ => continue,
            };
            let Some(record) = self.records.get_mut(&name) else { continue };
            record.after = after.map(|(body, index)| {
                let revision = record.revision().unwrap_or(0) + 1;
                self.revisions.push(revision);
                After { revision, body, index }
            });
            record.touched = true;
        }
    }

    /// What [`Plan::apply`] came to.
    pub(crate) fn rows(&self) -> Rows<'_> {
        let mut rows = Rows { revisions: self.revisions.clone(), ..Rows::default() };
        for (&(kind, id), record) in &self.records {
            if !record.touched {
                if record.before.is_none() {
                    rows.absent.push((kind, id));
                }
                continue;
            }
            let former: BTreeSet<(&str, &IndexValue)> = match &record.before {
                Some(before) => before.fields.iter().map(|(field, value)| (field.as_str(), value)).collect(),
                None => BTreeSet::new(),
            };
            let fields: BTreeSet<(&str, &IndexValue)> = match &record.after {
                Some(after) => after.index.iter().collect(),
                None => BTreeSet::new(),
            };
            let entry = |&(field, value): &(_, _)| Entry { kind, id, field, value };
            rows.unindexed.extend(former.difference(&fields).map(entry));
            rows.indexed.extend(fields.difference(&former).map(entry));
            match (&record.before, &record.after) {
                (before, Some(after)) => {
                    let fields = fields.into_iter().collect();
                    let put = Put { kind, id, revision: after.revision, fields, body: after.body };
                    if before.is_some() { rows.updated.push(put) } else { rows.inserted.push(put) }
                }
                (Some(_), None) => rows.deleted.push((kind, id)),
                (None, None) => rows.absent.push((kind, id)),
            }
        }
        rows
    }
}

impl Change<'_> {
    fn revision(&self) -> Option<u64> {
        match self.touched {
            true => self.after.as_ref().map(|after| after.revision),
            false => self.before.as_ref().map(|before| before.revision),
        }
    }
}

/// A newer core has conditions or effects that this crate does not know: refusing is the only safe answer.
pub(crate) fn unknown(what: &dyn Debug) -> Error {
    Error::permanent("store.commit", "unsupported", "this store does not know this condition or effect")
        .with("what", format_args!("{what:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(id: &str, body: &'static str, index: Index) -> Write {
        Write::Put { kind: "item", id: id.to_owned(), body: body.into(), index }
    }

    fn delete(id: &str) -> Write {
        Write::Delete { kind: "item", id: id.to_owned() }
    }

    fn stored(revision: u64, fields: &[(&str, i64)]) -> Stored {
        let fields = fields.iter().map(|(field, value)| ((*field).to_owned(), IndexValue::Int(*value))).collect();
        Stored { revision, fields }
    }

    #[test]
    fn only_index_entries_that_change_are_written() {
        let index = Index::new().field("same", 1_i64).field("moved", 3_i64).field("moved", 3_i64).field("new", 4_i64);
        let writes = [put("b", "{}", index), delete("a"), put("c", "{}", Index::new()), delete("d")];
        let mut plan = Plan::new(&[], &writes).unwrap();
        assert_eq!(plan.names(), [("item", "a"), ("item", "b"), ("item", "c"), ("item", "d")]);
        plan.found(("item", "a"), stored(7, &[("same", 9)]));
        plan.found(("item", "b"), stored(2, &[("same", 1), ("moved", 2)]));
        plan.apply(&writes);
        let rows = plan.rows();
        let entries = |entries: &[Entry<'_>]| -> Vec<(String, String, IndexValue)> {
            entries.iter().map(|entry| (entry.id.into(), entry.field.into(), entry.value.clone())).collect()
        };
        let entry = |id: &str, field: &str, value: i64| (id.to_owned(), field.to_owned(), IndexValue::Int(value));
        assert_eq!(entries(&rows.unindexed), [entry("a", "same", 9), entry("b", "moved", 2)]);
        assert_eq!(entries(&rows.indexed), [entry("b", "moved", 3), entry("b", "new", 4)]);
        assert_eq!(rows.deleted, [("item", "a")]);
        assert_eq!(rows.revisions, [3, 1]);
        assert_eq!((rows.updated.len(), rows.updated[0].revision, rows.updated[0].fields.len()), (1, 3, 3));
        assert_eq!((rows.inserted.len(), rows.inserted[0].id, rows.inserted[0].revision), (1, "c", 1));
        assert_eq!(rows.absent, [("item", "d")], "deleting what is not there writes nothing");
    }

    #[test]
    fn writes_to_one_record_add_up() {
        let index = || Index::new().field("n", 1_i64);
        let writes = [put("a", "1", index()), put("a", "2", index()), delete("b"), put("b", "3", index()), delete("a")];
        let mut plan = Plan::new(&[], &writes).unwrap();
        plan.found(("item", "a"), stored(5, &[("n", 1)]));
        plan.found(("item", "b"), stored(5, &[("n", 1)]));
        plan.apply(&writes);
        let rows = plan.rows();
        assert_eq!(rows.revisions, [6, 7, 1]);
        assert_eq!(rows.deleted, [("item", "a")]);
        assert_eq!((rows.updated.len(), rows.updated[0].revision, rows.updated[0].body), (1, 1, "3"));
        assert_eq!((rows.unindexed.len(), rows.indexed.len()), (1, 0), "b keeps its entry");
    }

    #[test]
    fn conditions_look_at_what_is_stored() {
        let condition = |id: &str, revision| Condition::Record { kind: "item", id: id.to_owned(), revision };
        let conditions = [condition("a", Some(5)), condition("b", None)];
        let mut plan = Plan::new(&conditions, &[]).unwrap();
        plan.found(("item", "a"), stored(5, &[]));
        plan.require("item", "a", Some(5)).unwrap();
        plan.require("item", "b", None).unwrap();
        for (id, wanted) in [("a", None), ("a", Some(4)), ("b", Some(1))] {
            assert!(plan.require("item", id, wanted).unwrap_err().is_conflict());
        }
        assert_eq!(plan.rows(), Rows { absent: vec![("item", "b")], ..Rows::default() });
    }
}
