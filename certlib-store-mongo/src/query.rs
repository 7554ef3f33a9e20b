//! Reading records. Each query is one stretch of one index, in its order.

use bson::{Document, doc};
use certlib_core::error::Result;
use certlib_core::store::{Cursor, Filter, Page, Query, RawRecord};

use crate::database::{Database, find_all};
use crate::error::{store_error, unknown};
use crate::record::{self, Span};

pub(crate) async fn get(database: &Database, kind: &str, id: &str) -> Result<Option<RawRecord>> {
    let find = database.records.find_one(doc! { "_id": record::key(kind, id) });
    let found = find.projection(doc! { "f": 0 }).await.map_err(|error| store_error("store.get", error))?;
    found.as_ref().map(record::decode).transpose()
}

pub(crate) async fn query(database: &Database, query: &Query) -> Result<Page> {
    let plan = Plan::of(query)?;
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX).saturating_add(1);
    let find = database.records.find(plan.filter).sort(plan.sort).projection(plan.projection).limit(limit);
    let mut found = find_all(find, None).await.map_err(|error| store_error("store.query", error))?;
    let more = found.len() > query.limit;
    found.truncate(query.limit);
    let records: Vec<RawRecord> = found.iter().map(record::decode).collect::<Result<_>>()?;
    let next = match (found.last(), records.last()) {
        (Some(document), Some(last)) if more => {
            let value = query.order_by.map(|field| record::sorted_by(document, &record::path(query.kind, field)));
            Some(Cursor { value: value.transpose()?, id: last.id.clone() })
        }
        _ => None,
    };
    Ok(Page::new(records, next))
}

/// A query as MongoDB is asked it.
pub(crate) struct Plan {
    pub(crate) filter: Document,
    pub(crate) sort: Document,
    pub(crate) projection: Document,
}

impl Plan {
    pub(crate) fn of(query: &Query) -> Result<Self> {
        let first_equality = query.filters.iter().find(|filter| matches!(filter, Filter::Equal(..)));
        // The field whose index is walked: the one that gives the order, else one with an equality, where the order is
        // that of the ids.
        let driving = query.order_by.or(first_equality.map(Filter::field));
        let (path, mut filter) = match driving {
            Some(field) => Self::along_field(query, field)?,
            None => Self::along_ids(query),
        };
        let mut others = Vec::new();
        for other in query.filters.iter().filter(|filter| Some(filter.field()) != driving) {
            let Span { from, before } = span(other)?;
            let field = format!("${}", record::path(query.kind, other.field()));
            // As expressions, so that no other stretch of the index is considered.
            others.push(doc! { "$gte": [&field, { "$literal": from }] });
            others.push(doc! { "$lt": [&field, { "$literal": before }] });
        }
        if !others.is_empty() {
            filter.insert("$expr", doc! { "$and": others });
        }
        let mut projection = doc! { "id": 1, "revision": 1, "body": 1 };
        if query.order_by.is_some() {
            projection.insert(&path, 1);
        }
        let direction = if query.descending { -1 } else { 1 };
        Ok(Self { filter, sort: doc! { path: direction }, projection })
    }

    fn along_field(query: &Query, field: &str) -> Result<(String, Document)> {
        let mut stretch = Span::everything();
        for filter in query.filters.iter().filter(|filter| filter.field() == field) {
            stretch = stretch.and(span(filter)?);
        }
        let equality = query.filters.iter().find_map(|filter| match filter {
            Filter::Equal(name, value) if *name == field => Some(value),
            _ => None,
        });
        if let Some(Cursor { value, id }) = &query.after {
            let at = if query.order_by.is_some() { value.as_ref() } else { equality };
            if let Some(value) = at {
                stretch = stretch.and(Span::beyond(record::entry(value, id), query.descending));
            }
        }
        let path = record::path(query.kind, field);
        let filter = doc! { &path: { "$gte": stretch.from, "$lt": stretch.before } };
        Ok((path, filter))
    }

    fn along_ids(query: &Query) -> (String, Document) {
        let mut bounds = doc! { "$gte": record::key(query.kind, ""), "$lt": record::past_keys(query.kind) };
        if let Some(cursor) = &query.after {
            let last = record::key(query.kind, &cursor.id);
            match query.descending {
                true => bounds.insert("$lt", last),
                false => {
                    bounds.remove("$gte");
                    bounds.insert("$gt", last)
                }
            };
        }
        ("_id".to_owned(), doc! { "_id": bounds })
    }
}

/// The stretch of its field's index that `filter` lets pass.
fn span(filter: &Filter) -> Result<Span> {
    match filter {
        Filter::Equal(_, value) => Ok(Span::equal(value)),
        Filter::AtLeast(_, value) => Ok(Span::at_least(value)),
        Filter::AtMost(_, value) => Ok(Span::at_most(value)),
        other => Err(unknown("store.query", other)),
    }
}
