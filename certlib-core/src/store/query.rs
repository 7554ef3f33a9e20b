//! Queries: equality, one range, an order, a cursor; over declared fields only.

use std::marker::PhantomData;

use super::record::{IndexValue, RawRecord, Record, Versioned};
use crate::error::{Error, Result};

/// The largest page.
pub const PAGE_MAX: usize = 1000;

/// A query as stores execute it.
///
/// Order: by the value of [`Query::order_by`] and then by id, or by id alone. Records without that field are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Query {
    /// Kind of the records.
    pub kind: &'static str,
    /// All must match.
    pub filters: Vec<Filter>,
    /// The field to sort by; `None`: by id.
    pub order_by: Option<&'static str>,
    /// Largest first.
    pub descending: bool,
    /// At most this many, 1 to 1000.
    pub limit: usize,
    /// Only what comes after this position in the order.
    pub after: Option<Cursor>,
}

/// One condition of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Filter {
    /// The field has this value.
    Equal(&'static str, IndexValue),
    /// The field has this value or a larger one of the same type.
    AtLeast(&'static str, IndexValue),
    /// The field has this value or a smaller one of the same type.
    AtMost(&'static str, IndexValue),
}

impl Filter {
    /// The field it looks at.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Equal(field, _) | Self::AtLeast(field, _) | Self::AtMost(field, _) => field,
        }
    }
}

/// A position in the order of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The value of the sort field, when there is one.
    pub value: Option<IndexValue>,
    /// The id.
    pub id: String,
}

/// One page of raw records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The records, in order.
    pub records: Vec<RawRecord>,
    /// Where the next page starts; `None` when this was the last.
    pub next: Option<Cursor>,
}

impl Page {
    /// For stores: a page.
    pub fn new(records: Vec<RawRecord>, next: Option<Cursor>) -> Self {
        Self { records, next }
    }
}

/// A query for records of type `R`.
///
/// ```
/// use certlib_core::model::Certificate;
/// use certlib_core::store::TypedQuery;
///
/// let due = TypedQuery::<Certificate>::new()
///     .equal("project", "shop")
///     .at_most("renew_at", time::macros::datetime!(2027-01-01 00:00 UTC))
///     .order_by("renew_at")
///     .limit(500);
/// # let _ = due;
/// ```
#[derive(Debug, Clone)]
pub struct TypedQuery<R> {
    query: Query,
    of: PhantomData<fn() -> R>,
}

impl<R: Record> TypedQuery<R> {
    /// All records of this kind, by id, 100 a page.
    pub fn new() -> Self {
        let query =
            Query { kind: R::KIND, filters: Vec::new(), order_by: None, descending: false, limit: 100, after: None };
        Self { query, of: PhantomData }
    }

    /// Only records whose `field` equals `value`.
    #[must_use]
    pub fn equal(self, field: &'static str, value: impl Into<IndexValue>) -> Self {
        self.filter(Filter::Equal(field, value.into()))
    }

    /// Only records whose `field` is `value` or larger.
    #[must_use]
    pub fn at_least(self, field: &'static str, value: impl Into<IndexValue>) -> Self {
        self.filter(Filter::AtLeast(field, value.into()))
    }

    /// Only records whose `field` is `value` or smaller.
    #[must_use]
    pub fn at_most(self, field: &'static str, value: impl Into<IndexValue>) -> Self {
        self.filter(Filter::AtMost(field, value.into()))
    }

    /// Sorts by `field`, then by id.
    #[must_use]
    pub fn order_by(mut self, field: &'static str) -> Self {
        self.query.order_by = Some(field);
        self
    }

    /// Largest first.
    #[must_use]
    pub fn descending(mut self) -> Self {
        self.query.descending = true;
        self
    }

    /// At most `limit` records, 1 to 1000.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.query.limit = limit.clamp(1, PAGE_MAX);
        self
    }

    /// Continues after `cursor`.
    #[must_use]
    pub fn after(mut self, cursor: Option<Cursor>) -> Self {
        self.query.after = cursor;
        self
    }

    /// The query for the store.
    ///
    /// # Errors
    /// `Validation` `field_not_indexed` when a field is not declared by the record.
    pub fn into_raw(self) -> Result<Query> {
        let used = self.query.filters.iter().map(Filter::field).chain(self.query.order_by);
        for field in used {
            if !R::FIELDS.contains(&field) {
                return Err(Error::validation("store.query", "field_not_indexed", "this field is not indexed")
                    .with("kind", R::KIND)
                    .with("field", field)
                    .with("indexed", R::FIELDS.join(" ")));
            }
        }
        Ok(self.query)
    }

    fn filter(mut self, filter: Filter) -> Self {
        self.query.filters.push(filter);
        self
    }
}

impl<R: Record> Default for TypedQuery<R> {
    fn default() -> Self {
        Self::new()
    }
}

/// One page of typed records.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TypedPage<R> {
    /// The records, in order.
    pub records: Vec<Versioned<R>>,
    /// Where the next page starts; `None` when this was the last.
    pub next: Option<Cursor>,
}

impl<R: Record> TypedPage<R> {
    pub(super) fn decode(page: Page) -> Result<Self> {
        let records = page.records.iter().map(Versioned::decode).collect::<Result<_>>()?;
        Ok(Self { records, next: page.next })
    }
}
