//! Reading records. Each shape of query is one statement, driven by the index that gives its order.

use certlib_core::error::Result;
use certlib_core::store::{Cursor, Filter, IndexValue, Page, Query, RawRecord};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Row, SqlitePool, TypeInfo, ValueRef};

use super::error::store_error;

pub(super) async fn get(readers: &SqlitePool, kind: &str, id: &str) -> Result<Option<RawRecord>> {
    sqlx::query("SELECT id, revision, body FROM certlib_records WHERE kind = ?1 AND id = ?2")
        .bind(kind)
        .bind(id)
        .fetch_optional(readers)
        .await
        .and_then(|row| row.as_ref().map(record).transpose())
        .map_err(|error| store_error("store.get", error))
}

pub(super) async fn query(readers: &SqlitePool, query: &Query) -> Result<Page> {
    let statement = Statement::of(query).map_err(failed)?;
    // Every text is put together from the constants below and placeholders.
    let mut rows =
        sqlx::query_with(AssertSqlSafe(statement.sql), statement.arguments).fetch_all(readers).await.map_err(failed)?;
    let more = rows.len() > query.limit;
    rows.truncate(query.limit);
    let next = match rows.last() {
        Some(last) if more => Some(cursor(query, last).map_err(failed)?),
        _ => None,
    };
    let records = rows.iter().map(record).collect::<sqlx::Result<_>>().map_err(failed)?;
    Ok(Page::new(records, next))
}

fn record(row: &SqliteRow) -> sqlx::Result<RawRecord> {
    let body: &str = row.try_get(2)?;
    Ok(RawRecord { id: row.try_get(0)?, revision: row.try_get::<i64, _>(1)?.cast_unsigned(), body: body.into() })
}

fn cursor(query: &Query, last: &SqliteRow) -> sqlx::Result<Cursor> {
    let value = match query.order_by {
        None => None,
        Some(_) if last.try_get_raw(3)?.type_info().name() == "INTEGER" => Some(IndexValue::Int(last.try_get(3)?)),
        Some(_) => Some(IndexValue::Text(last.try_get(3)?)),
    };
    Ok(Cursor { value, id: last.try_get(0)? })
}

fn failed(error: sqlx::Error) -> certlib_core::Error {
    store_error("store.query", error)
}

/// A query as SQL.
pub(super) struct Statement {
    pub(super) sql: String,
    arguments: SqliteArguments,
}

impl Statement {
    pub(super) fn of(query: &Query) -> sqlx::Result<Self> {
        let equality = query.filters.iter().position(|filter| matches!(filter, Filter::Equal(..)));
        let mut statement = Self { sql: String::new(), arguments: SqliteArguments::default() };
        match (query.order_by, equality) {
            (Some(field), _) => statement.ordered_by(field, query)?,
            (None, Some(driving)) => statement.driven_by(driving, query)?,
            (None, None) => statement.by_id(query)?,
        }
        let limit = i64::try_from(query.limit).unwrap_or(i64::MAX).saturating_add(1);
        statement.push(" LIMIT ").argument(limit)?;
        Ok(statement)
    }

    /// Along the index of `field`, which its own filters narrow.
    fn ordered_by(&mut self, field: &str, query: &Query) -> sqlx::Result<()> {
        self.along_index(query, field)?;
        for filter in query.filters.iter().filter(|filter| filter.field() == field) {
            self.push(" AND ").compare("i.value", filter)?;
        }
        if let Some(Cursor { value: Some(value), id }) = &query.after {
            let beyond = if query.descending { "<" } else { ">" };
            self.push(" AND (i.value, i.id) ").push(beyond).push(" (").value(value)?;
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
        self.push(" AND ").compare("i.value", filter)?;
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
        // A cross join keeps SQLite from turning the loops round.
        self.push(
            "SELECT r.id, r.revision, r.body, i.value FROM certlib_record_index AS i
             CROSS JOIN certlib_records AS r ON r.kind = i.kind AND r.id = i.id WHERE i.kind = ",
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

    /// A filter on a field other than the one that drives the query: an equality is looked up in its index, a range
    /// in the fields beside the record. The unary plus keeps SQLite from making it drive.
    fn filter(&mut self, filter: &Filter) -> sqlx::Result<()> {
        match filter {
            Filter::Equal(field, value) => {
                self.push(" AND EXISTS (SELECT 1 FROM certlib_record_index AS f WHERE f.kind = +r.kind AND f.field = ");
                self.argument(*field)?.push(" AND f.value = ").value(value)?.push(" AND f.id = +r.id)");
            }
            range => {
                self.push(" AND EXISTS (SELECT 1 FROM json_each(r.fields) AS f WHERE f.value ->> 0 = ");
                self.argument(range.field())?.push(" AND ").compare("(f.value ->> 1)", range)?.push(")");
            }
        }
        Ok(())
    }

    /// `column` against the value of `filter`, within its type: every number is smaller than the empty text.
    fn compare(&mut self, column: &str, filter: &Filter) -> sqlx::Result<&mut Self> {
        match filter {
            Filter::Equal(_, value) => self.push(column).push(" = ").value(value),
            Filter::AtLeast(_, value) => {
                self.push(column).push(" >= ").value(value)?;
                match value {
                    IndexValue::Int(_) => Ok(self.push(" AND ").push(column).push(" < ''")),
                    IndexValue::Text(_) => Ok(self),
                }
            }
            Filter::AtMost(_, value) => {
                self.push(column).push(" <= ").value(value)?;
                match value {
                    IndexValue::Int(_) => Ok(self),
                    IndexValue::Text(_) => Ok(self.push(" AND ").push(column).push(" >= ''")),
                }
            }
            other => Err(sqlx::Error::Protocol(format!("unknown filter {other:?}"))),
        }
    }

    fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    fn value(&mut self, value: &IndexValue) -> sqlx::Result<&mut Self> {
        match value {
            IndexValue::Int(number) => self.argument(*number),
            IndexValue::Text(text) => self.argument(text.as_str()),
        }
    }

    fn argument<'v>(
        &mut self,
        value: impl sqlx::Encode<'v, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    ) -> sqlx::Result<&mut Self> {
        self.arguments.add(value).map_err(sqlx::Error::Encode)?;
        self.sql.push('?');
        Ok(self)
    }
}
