//! The records of the store in memory, and their indexes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::error::Result;
use crate::store::{Condition, Cursor, Filter, Index, IndexValue, Page, Query, RawRecord, Write};

#[derive(Clone, Default)]
pub(super) struct Records {
    kinds: HashMap<&'static str, Kind>,
}

/// The records of one kind.
#[derive(Clone, Default)]
struct Kind {
    rows: BTreeMap<Arc<str>, Row>,
    fields: HashMap<&'static str, BTreeSet<Entry>>,
}

#[derive(Clone)]
struct Row {
    revision: u64,
    body: Arc<str>,
    index: Index,
}

/// A value and the id of the record that has it: the order of an index.
type Entry = (IndexValue, Arc<str>);

impl Records {
    pub(super) fn get(&self, kind: &str, id: &str) -> Option<RawRecord> {
        self.kinds.get(kind)?.rows.get_key_value(id).map(|(id, row)| row.to_raw(id))
    }

    /// `conflict` unless the record has this revision.
    pub(super) fn require(&self, kind: &'static str, id: &str, revision: Option<u64>) -> Result<()> {
        let actual = self.kinds.get(kind).and_then(|kind| kind.rows.get(id)).map(|row| row.revision);
        if actual == revision { Ok(()) } else { Err(Condition::record_conflict(kind, id, revision, actual)) }
    }

    /// Applies `writes` in order and returns the revision of each put.
    pub(super) fn apply(&mut self, writes: Vec<Write>) -> Vec<u64> {
        let mut revisions = Vec::with_capacity(writes.len());
        for write in writes {
            match write {
                Write::Put { kind, id, body, index } => {
                    revisions.push(self.kinds.entry(kind).or_default().put(&id, body, index));
                }
                Write::Delete { kind, id } => {
                    if let Some(kind) = self.kinds.get_mut(kind) {
                        kind.delete(&id);
                    }
                }
            }
        }
        revisions
    }

    pub(super) fn query(&self, query: &Query) -> Page {
        self.kinds.get(query.kind).map(|kind| kind.query(query)).unwrap_or_default()
    }
}

impl Kind {
    fn put(&mut self, id: &str, body: Arc<str>, index: Index) -> u64 {
        let Some(row) = self.rows.get_mut(id) else {
            let id: Arc<str> = id.into();
            for (field, value) in index.iter() {
                self.fields.entry(field).or_default().insert((value.clone(), id.clone()));
            }
            self.rows.insert(id, Row { revision: 1, body, index });
            return 1;
        };
        row.revision += 1;
        row.body = body;
        let revision = row.revision;
        if row.index != index {
            let former = std::mem::replace(&mut row.index, index.clone());
            let id: Arc<str> = id.into();
            self.unindex(former, &id);
            for (field, value) in index.iter() {
                self.fields.entry(field).or_default().insert((value.clone(), id.clone()));
            }
        }
        revision
    }

    fn delete(&mut self, id: &str) {
        if let Some((id, row)) = self.rows.remove_entry(id) {
            self.unindex(row.index, &id);
        }
    }

    fn unindex(&mut self, index: Index, id: &Arc<str>) {
        for (field, value) in index.iter() {
            if let Some(entries) = self.fields.get_mut(field) {
                entries.remove(&(value.clone(), id.clone()));
            }
        }
    }

    /// Walks the index of the sort field; without one that of the first equality, whose order is that of the ids; and
    /// else the records themselves.
    fn query(&self, query: &Query) -> Page {
        let after = query.after.as_ref();
        if let Some(field) = query.order_by {
            return match self.fields.get(field) {
                Some(entries) => self.walk(query, entries, Span::ordered(query, field, after), true),
                None => Page::default(),
            };
        }
        let equality = query.filters.iter().find_map(|filter| match filter {
            Filter::Equal(field, value) => Some((*field, value)),
            _ => None,
        });
        match equality {
            Some((field, value)) => match self.fields.get(field) {
                Some(entries) => self.walk(query, entries, Span::equal(value, query.descending, after), false),
                None => Page::default(),
            },
            None => {
                let bound = after.map_or(Bound::Unbounded, |cursor| Bound::Excluded(cursor.id.as_str()));
                let span = if query.descending { (Bound::Unbounded, bound) } else { (bound, Bound::Unbounded) };
                let rows = self.rows.range::<str, _>(span).map(|(id, row)| (None, id, row));
                self.page(query, directed(rows, query.descending))
            }
        }
    }

    fn walk(&self, query: &Query, entries: &BTreeSet<Entry>, span: Span, ordered: bool) -> Page {
        if span.is_empty() {
            return Page::default();
        }
        let rows = entries.range((span.from, span.to)).filter_map(|(value, id)| {
            let (id, row) = self.rows.get_key_value(id)?;
            Some((ordered.then_some(value), id, row))
        });
        self.page(query, directed(rows, query.descending))
    }

    fn page<'a>(
        &self,
        query: &Query,
        rows: impl Iterator<Item = (Option<&'a IndexValue>, &'a Arc<str>, &'a Row)>,
    ) -> Page {
        let mut records = Vec::new();
        let mut last = None;
        for (value, id, row) in rows.filter(|(_, _, row)| query.filters.iter().all(|filter| row.matches(filter))) {
            if records.len() == query.limit {
                let next = last.map(|(value, id): (Option<&IndexValue>, &Arc<str>)| Cursor {
                    value: value.cloned(),
                    id: id.to_string(),
                });
                return Page::new(records, next);
            }
            records.push(row.to_raw(id));
            last = Some((value, id));
        }
        Page::new(records, None)
    }
}

impl Row {
    fn to_raw(&self, id: &str) -> RawRecord {
        RawRecord { id: id.to_owned(), revision: self.revision, body: self.body.clone() }
    }

    fn matches(&self, filter: &Filter) -> bool {
        self.index.iter().filter(|(field, _)| *field == filter.field()).any(|(_, value)| match filter {
            Filter::Equal(_, wanted) => value == wanted,
            Filter::AtLeast(_, least) => same_type(value, least) && value >= least,
            Filter::AtMost(_, most) => same_type(value, most) && value <= most,
        })
    }
}

/// A piece of an index.
struct Span {
    from: Bound<Entry>,
    to: Bound<Entry>,
}

impl Span {
    /// The entries of `value`, beyond `after`.
    fn equal(value: &IndexValue, descending: bool, after: Option<&Cursor>) -> Self {
        let mut span = Self { from: start_of(value.clone()), to: end_of(value) };
        if let Some(cursor) = after {
            span.cut(descending, (value.clone(), cursor.id.as_str().into()));
        }
        span
    }

    /// The entries of the sort field that its own filters leave, beyond `after`.
    fn ordered(query: &Query, field: &str, after: Option<&Cursor>) -> Self {
        let mut span = Self { from: Bound::Unbounded, to: Bound::Unbounded };
        for filter in query.filters.iter().filter(|filter| filter.field() == field) {
            let (from, to) = match filter {
                Filter::Equal(_, value) => (start_of(value.clone()), end_of(value)),
                Filter::AtLeast(_, value) => (start_of(value.clone()), end_of_type(value)),
                Filter::AtMost(_, value) => (start_of_type(value), end_of(value)),
            };
            span.narrow_from(from);
            span.narrow_to(to);
        }
        if let Some(Cursor { value: Some(value), id }) = after {
            span.cut(query.descending, (value.clone(), id.as_str().into()));
        }
        span
    }

    fn cut(&mut self, descending: bool, at: Entry) {
        if descending {
            self.narrow_to(Bound::Excluded(at));
        } else {
            self.narrow_from(Bound::Excluded(at));
        }
    }

    fn narrow_from(&mut self, bound: Bound<Entry>) {
        if edge(&self.from).is_none_or(|current| edge(&bound).is_some_and(|new| new >= current)) {
            self.from = bound;
        }
    }

    fn narrow_to(&mut self, bound: Bound<Entry>) {
        if edge(&self.to).is_none_or(|current| edge(&bound).is_some_and(|new| new <= current)) {
            self.to = bound;
        }
    }

    fn is_empty(&self) -> bool {
        match (edge(&self.from), edge(&self.to)) {
            (Some(from), Some(to)) => from >= to,
            _ => false,
        }
    }
}

fn edge(bound: &Bound<Entry>) -> Option<&Entry> {
    match bound {
        Bound::Included(entry) | Bound::Excluded(entry) => Some(entry),
        Bound::Unbounded => None,
    }
}

fn start_of(value: IndexValue) -> Bound<Entry> {
    Bound::Included((value, Arc::default()))
}

/// Before the smallest entry of the next larger value: ids are not empty.
fn end_of(value: &IndexValue) -> Bound<Entry> {
    let next = match value {
        IndexValue::Int(i64::MAX) => IndexValue::Text(String::new()),
        IndexValue::Int(number) => IndexValue::Int(number + 1),
        IndexValue::Text(text) => IndexValue::Text(format!("{text}\0")),
    };
    Bound::Excluded((next, Arc::default()))
}

fn start_of_type(value: &IndexValue) -> Bound<Entry> {
    match value {
        IndexValue::Int(_) => Bound::Unbounded,
        IndexValue::Text(_) => start_of(IndexValue::Text(String::new())),
    }
}

fn end_of_type(value: &IndexValue) -> Bound<Entry> {
    match value {
        IndexValue::Int(_) => end_of(&IndexValue::Int(i64::MAX)),
        IndexValue::Text(_) => Bound::Unbounded,
    }
}

fn same_type(one: &IndexValue, other: &IndexValue) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

fn directed<'a, T: 'a>(
    items: impl DoubleEndedIterator<Item = T> + 'a,
    descending: bool,
) -> Box<dyn Iterator<Item = T> + 'a> {
    if descending { Box::new(items.rev()) } else { Box::new(items) }
}
