//! Reading records. Each shape of query is one statement, driven by the index that gives its order.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::error::Result;
use certlib_core::store::{Cursor, Filter, IndexValue, Page, Query, RawRecord};
use sqlx::mysql::{MySqlArguments, MySqlRow};
use sqlx::{Arguments, AssertSqlSafe, Row};

use super::database::{Operation, Transaction};
use super::error::store_error;
use super::job::{number, text};
use crate::ordered;

/// One record.
pub(super) const GET: &str = "SELECT id, revision, body FROM certlib_records WHERE kind = ? AND id = ?";

/// The record of a kind with an id.
pub(super) struct Get<'a> {
    pub(super) kind: &'a str,
    pub(super) id: &'a str,
}

#[async_trait]
impl Operation for Get<'_> {
    type Output = Option<RawRecord>;

    const NAME: &'static str = "store.get";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Option<RawRecord>> {
        let query = sqlx::query(GET).bind(self.kind.as_bytes()).bind(self.id.as_bytes());
        let row = query.fetch_optional(&mut *tx.connection).await.map_err(|error| store_error(Self::NAME, error))?;
        row.as_ref().map(record).transpose()
    }
}

/// Records that match a query.
pub(super) struct Find<'a> {
    pub(super) query: &'a Query,
}

#[async_trait]
impl Operation for Find<'_> {
    type Output = Page;

    const NAME: &'static str = "store.query";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Page> {
        let statement = Statement::of(self.query).map_err(failed)?;
        // Every text is put together from the constants below and placeholders.
        let mut rows = sqlx::query_with(AssertSqlSafe(statement.sql), statement.arguments)
            .fetch_all(&mut *tx.connection)
            .await
            .map_err(failed)?;
        let more = rows.len() > self.query.limit;
        rows.truncate(self.query.limit);
        let next = match rows.last() {
            Some(last) if more => Some(cursor(self.query, last)?),
            _ => None,
        };
        let records = rows.iter().map(record).collect::<Result<_>>()?;
        Ok(Page::new(records, next))
    }
}

fn record(row: &MySqlRow) -> Result<RawRecord> {
    let body: Arc<str> = text(row, 2)?.into();
    Ok(RawRecord { id: text(row, 0)?.to_owned(), revision: number(row, 1)?.cast_unsigned(), body })
}

fn cursor(query: &Query, last: &MySqlRow) -> Result<Cursor> {
    let value = match query.order_by {
        None => None,
        Some(_) => Some(ordered::decode(last.try_get(3).map_err(failed)?)?),
    };
    Ok(Cursor { value, id: text(last, 0)?.to_owned() })
}

fn failed(error: sqlx::Error) -> certlib_core::Error {
    store_error("store.query", error)
}

/// A query as SQL. The order of its tables and their indexes are prescribed: the optimizer knows nothing that the
/// shape of the query does not say already.
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) arguments: MySqlArguments,
}

impl Statement {
    pub(super) fn of(query: &Query) -> sqlx::Result<Self> {
        let equality = query.filters.iter().position(|filter| matches!(filter, Filter::Equal(..)));
        let mut statement = Self { sql: String::new(), arguments: MySqlArguments::default() };
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
            // A comparison of rows would not be looked up in the index.
            let beyond = if query.descending { " < " } else { " > " };
            self.push(" AND (i.value").push(beyond).argument(ordered::encode(value))?;
            self.push(" OR (i.value = ").argument(ordered::encode(value))?;
            self.push(" AND i.id").push(beyond).argument(id.as_bytes())?.push("))");
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
        for (position, other) in query.filters.iter().enumerate() {
            if position != driving {
                self.filter(other)?;
            }
        }
        self.push(if query.descending { " ORDER BY i.id DESC" } else { " ORDER BY i.id" });
        Ok(())
    }

    fn by_id(&mut self, query: &Query) -> sqlx::Result<()> {
        self.push("SELECT r.id, r.revision, r.body FROM certlib_records AS r FORCE INDEX (PRIMARY) WHERE r.kind = ")
            .argument(query.kind.as_bytes())?;
        self.after_id("r.id", query)?;
        for filter in &query.filters {
            self.filter(filter)?;
        }
        self.push(if query.descending { " ORDER BY r.id DESC" } else { " ORDER BY r.id" });
        Ok(())
    }

    fn along_index(&mut self, query: &Query, field: &str) -> sqlx::Result<()> {
        self.push(
            "SELECT r.id, r.revision, r.body, i.value FROM certlib_record_index AS i FORCE INDEX (PRIMARY)
             STRAIGHT_JOIN certlib_records AS r ON r.kind = i.kind AND r.id = i.id WHERE i.kind = ",
        );
        self.argument(query.kind.as_bytes())?.push(" AND i.field = ").argument(field.as_bytes())?;
        Ok(())
    }

    fn after_id(&mut self, column: &str, query: &Query) -> sqlx::Result<()> {
        if let Some(cursor) = &query.after {
            self.push(" AND ").push(column).push(if query.descending { " < " } else { " > " });
            self.argument(cursor.id.as_bytes())?;
        }
        Ok(())
    }

    /// A filter on a field other than the one that drives the query: a look at the entries of that one record. As a
    /// scalar with a limit it stays where it is; an `EXISTS` could be turned into a join that begins at its end.
    fn filter(&mut self, filter: &Filter) -> sqlx::Result<()> {
        let index = match filter {
            Filter::Equal(..) => "PRIMARY",
            _ => "certlib_record_index_record",
        };
        self.push(" AND (SELECT 1 FROM certlib_record_index AS f FORCE INDEX (").push(index);
        self.push(") WHERE f.kind = r.kind AND f.id = r.id AND f.field = ").argument(filter.field().as_bytes())?;
        self.push(" AND ").compare("f.value", filter)?.push(" LIMIT 1) IS NOT NULL");
        Ok(())
    }

    /// `column` against the value of `filter`, within its type.
    fn compare(&mut self, column: &str, filter: &Filter) -> sqlx::Result<&mut Self> {
        let (operator, value): (_, &IndexValue) = match filter {
            Filter::Equal(_, value) => (" = ", value),
            Filter::AtLeast(_, value) => (" >= ", value),
            Filter::AtMost(_, value) => (" <= ", value),
            other => return Err(sqlx::Error::Protocol(format!("unknown filter {other:?}"))),
        };
        self.push(column).push(operator).argument(ordered::encode(value))?;
        match filter {
            Filter::AtLeast(..) => {
                self.push(" AND ").push(column).push(" < ").argument(ordered::end_of_type(value))?;
            }
            Filter::AtMost(..) => {
                self.push(" AND ").push(column).push(" >= ").argument(ordered::start_of_type(value))?;
            }
            _ => {}
        }
        Ok(self)
    }

    fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    fn argument<'v>(
        &mut self,
        value: impl sqlx::Encode<'v, sqlx::MySql> + sqlx::Type<sqlx::MySql>,
    ) -> sqlx::Result<&mut Self> {
        self.arguments.add(value).map_err(sqlx::Error::Encode)?;
        self.sql.push('?');
        Ok(self)
    }
}
