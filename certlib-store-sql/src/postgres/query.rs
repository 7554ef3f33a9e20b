//! Reading records. Each shape of query is one statement, driven by the index that gives its order.

use async_trait::async_trait;
use certlib_core::error::{Error, Result};
use certlib_core::store::{Cursor, Filter, Page, Query, RawRecord};
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::{Arguments, AssertSqlSafe, Row};

use super::commit::pack;
use super::error::store_error;
use super::session::{Mode, Operation, Tx};
use crate::ordered;

/// One record.
pub(super) struct Get<'a> {
    pub(super) kind: &'a str,
    pub(super) id: &'a str,
}

#[async_trait]
impl Operation for Get<'_> {
    type Output = Option<RawRecord>;
    const MODE: Mode = Mode::Read;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Option<RawRecord>> {
        // No text of the database holds one, and none can be asked for.
        if self.kind.contains('\0') || self.id.contains('\0') {
            return Ok(None);
        }
        sqlx::query("SELECT id, revision, body FROM certlib_records WHERE kind = $1 AND id = $2")
            .bind(self.kind)
            .bind(self.id)
            .fetch_optional(&mut *tx.connection)
            .await
            .and_then(|row| row.as_ref().map(record).transpose())
            .map_err(|error| store_error("store.get", error))
    }
}

/// One page of records.
pub(super) struct Select<'a> {
    pub(super) query: &'a Query,
}

#[async_trait]
impl Operation for Select<'_> {
    type Output = Page;
    const MODE: Mode = Mode::Read;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Page> {
        let statement = Statement::of(self.query).map_err(failed)?;
        // Every text is put together from the constants below and placeholders.
        let rows = sqlx::query_with(AssertSqlSafe(statement.sql), statement.arguments);
        let mut rows = rows.fetch_all(&mut *tx.connection).await.map_err(failed)?;
        let more = rows.len() > self.query.limit;
        rows.truncate(self.query.limit);
        let next = match rows.last() {
            Some(last) if more => Some(cursor(self.query, last)?),
            _ => None,
        };
        let records = rows.iter().map(record).collect::<sqlx::Result<_>>().map_err(failed)?;
        Ok(Page::new(records, next))
    }
}

fn record(row: &PgRow) -> sqlx::Result<RawRecord> {
    let body: &str = row.try_get(2)?;
    Ok(RawRecord { id: row.try_get(0)?, revision: row.try_get::<i64, _>(1)?.cast_unsigned(), body: body.into() })
}

fn cursor(query: &Query, last: &PgRow) -> Result<Cursor> {
    let value = match query.order_by {
        None => None,
        Some(_) => Some(ordered::decode(last.try_get(3).map_err(failed)?)?),
    };
    Ok(Cursor { value, id: last.try_get(0).map_err(failed)? })
}

fn failed(error: sqlx::Error) -> Error {
    store_error("store.query", error)
}

/// A query as SQL.
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) arguments: PgArguments,
}

impl Statement {
    pub(super) fn of(query: &Query) -> sqlx::Result<Self> {
        let equality = query.filters.iter().position(|filter| matches!(filter, Filter::Equal(..)));
        let mut statement = Self { sql: String::new(), arguments: PgArguments::default() };
        match (query.order_by, equality) {
            (Some(field), _) => statement.ordered_by(field, query)?,
            (None, Some(driving)) => statement.driven_by(driving, query)?,
            (None, None) => statement.by_id(query)?,
        }
        let limit = i64::try_from(query.limit).unwrap_or(i64::MAX).saturating_add(1);
        // As a literal: the planner must know that it is small.
        statement.push(&format!(" LIMIT {limit}"));
        Ok(statement)
    }

    /// Along the index of `field`, which its own filters narrow.
    fn ordered_by(&mut self, field: &str, query: &Query) -> sqlx::Result<()> {
        self.along_index(query, field)?;
        for filter in query.filters.iter().filter(|filter| filter.field() == field) {
            self.push(" AND ").compare("i.value", "", filter)?;
        }
        if let Some(Cursor { value: Some(value), id }) = &query.after {
            let beyond = if query.descending { "<" } else { ">" };
            self.push(" AND (i.value, i.id) ").push(beyond).push(" (").argument(ordered::encode(value))?;
            self.push(", ").argument(id.as_str())?.push(")");
        }
        for filter in query.filters.iter().filter(|filter| filter.field() != field) {
            self.filter(filter)?;
        }
        self.push(if query.descending { " ORDER BY i.value DESC, i.id DESC" } else { " ORDER BY i.value, i.id" });
        Ok(())
    }

    /// Along the index entries that equal the filter at `driving`, which are in the order of their ids.
    fn driven_by(&mut self, driving: usize, query: &Query) -> sqlx::Result<()> {
        let filter = &query.filters[driving];
        self.along_index(query, filter.field())?;
        self.push(" AND ").compare("i.value", "", filter)?;
        self.after_id("i.id", query)?;
        for (_, filter) in query.filters.iter().enumerate().filter(|(at, _)| *at != driving) {
            self.filter(filter)?;
        }
        self.push(if query.descending { " ORDER BY i.id DESC" } else { " ORDER BY i.id" });
        Ok(())
    }

    fn by_id(&mut self, query: &Query) -> sqlx::Result<()> {
        self.push("SELECT r.id, r.revision, r.body FROM certlib_records AS r WHERE r.kind = ").argument(query.kind)?;
        self.after_id("r.id", query)?;
        for filter in &query.filters {
            self.filter(filter)?;
        }
        self.push(if query.descending { " ORDER BY r.id DESC" } else { " ORDER BY r.id" });
        Ok(())
    }

    fn along_index(&mut self, query: &Query, field: &str) -> sqlx::Result<()> {
        self.push(
            "SELECT r.id, r.revision, r.body, i.value FROM certlib_record_index AS i
             JOIN certlib_records AS r ON r.kind = i.kind AND r.id = i.id WHERE i.kind = ",
        );
        self.argument(query.kind)?.push(" AND i.field = ").argument(field)?;
        Ok(())
    }

    fn after_id(&mut self, column: &str, query: &Query) -> sqlx::Result<()> {
        if let Some(cursor) = &query.after {
            self.push(" AND ").push(column).push(if query.descending { " < " } else { " > " });
            self.argument(cursor.id.as_str())?;
        }
        Ok(())
    }

    /// A filter on a field other than the one that drives the query: looked up in the fields beside the record.
    fn filter(&mut self, filter: &Filter) -> sqlx::Result<()> {
        self.push(" AND EXISTS (SELECT 1 FROM unnest(r.fields) AS f(field) WHERE ");
        self.compare("f.field", filter.field(), filter)?.push(")");
        Ok(())
    }

    /// `column` against the value of `filter`, within its type, both after the name `field` unless that is empty.
    fn compare(&mut self, column: &str, field: &str, filter: &Filter) -> sqlx::Result<&mut Self> {
        let bytes = |bytes: Vec<u8>| if field.is_empty() { bytes } else { pack(field, &bytes) };
        let (least, most, beyond) = match filter {
            Filter::Equal(_, value) => {
                return self.push(column).push(" = ").argument(bytes(ordered::encode(value)));
            }
            Filter::AtLeast(_, value) => (ordered::encode(value), ordered::end_of_type(value), " < "),
            Filter::AtMost(_, value) => (ordered::start_of_type(value), ordered::encode(value), " <= "),
            other => return Err(sqlx::Error::Protocol(format!("unknown filter {other:?}"))),
        };
        self.push(column).push(" >= ").argument(bytes(least))?;
        self.push(" AND ").push(column).push(beyond).argument(bytes(most))
    }

    fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    fn argument<'v>(
        &mut self,
        value: impl sqlx::Encode<'v, Postgres> + sqlx::Type<Postgres>,
    ) -> sqlx::Result<&mut Self> {
        self.arguments.add(value).map_err(sqlx::Error::Encode)?;
        self.sql.push_str(&format!("${}", self.arguments.len()));
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use certlib_core::store::IndexValue;

    use super::*;

    #[test]
    fn ranges_keep_to_their_type_and_field() {
        let least = pack("due", &ordered::start_of_type(&IndexValue::Int(0)));
        let end = pack("due", &ordered::end_of_type(&IndexValue::Int(0)));
        for (field, value, inside) in [
            ("due", IndexValue::Int(i64::MIN), true),
            ("due", IndexValue::Int(i64::MAX), true),
            ("due", IndexValue::from(""), false),
            ("du", IndexValue::Int(0), false),
            ("duf", IndexValue::Int(0), false),
            ("due2", IndexValue::Int(0), false),
        ] {
            let packed = pack(field, &ordered::encode(&value));
            assert_eq!(least <= packed && packed < end, inside, "{field} {value:?}");
        }
    }
}
