//! The one write primitive: conditions, then effects, in a handful of statements however large the batch is.

use std::collections::BTreeMap;

use async_trait::async_trait;
use certlib_core::error::Result;
use certlib_core::store::{Commit, Condition, Index, IndexValue, Write, WriteBatch};
use serde_json::{Value, json};
use sqlx::{Row, SqliteConnection};

use super::error::store_error;
use super::queue::enqueue;
use super::transition::settle;
use super::writer::{Operation, Transaction};
use super::{job, lease};

/// Revisions and fields of records by their position in a list of kind and id.
pub(super) const LOAD: &str = "SELECT n.key, r.revision, r.fields FROM json_each(?1) AS n
         CROSS JOIN certlib_records AS r ON r.kind = n.value ->> 0 AND r.id = n.value ->> 1";

/// Removes index entries.
pub(super) const UNINDEX: &str = "DELETE FROM certlib_record_index WHERE (kind, field, value, id) IN (
            SELECT n.value ->> 0, f.value ->> 0, f.value ->> 1, n.value ->> 1
            FROM json_each(?1) AS n, json_each(n.value ->> 2) AS f)";

/// Removes records.
pub(super) const DELETE: &str = "DELETE FROM certlib_records WHERE (kind, id) IN (
            SELECT n.value ->> 0, n.value ->> 1 FROM json_each(?1) AS n)";

/// Inserts or replaces records.
pub(super) const PUT: &str = "INSERT INTO certlib_records (kind, id, revision, fields, body)
            SELECT n.value ->> 0, n.value ->> 1, n.value ->> 2, n.value ->> 3, n.value ->> 4
            FROM json_each(?1) AS n WHERE true
            ON CONFLICT (kind, id) DO UPDATE
            SET revision = excluded.revision, fields = excluded.fields, body = excluded.body";

/// Adds index entries.
pub(super) const INDEX: &str = "INSERT OR IGNORE INTO certlib_record_index (kind, field, value, id)
            SELECT n.value ->> 0, f.value ->> 0, f.value ->> 1, n.value ->> 1
            FROM json_each(?1) AS n, json_each(n.value ->> 2) AS f";

/// Applies a batch.
pub(super) struct Apply {
    pub(super) batch: WriteBatch,
}

#[async_trait]
impl Operation for Apply {
    type Output = Commit;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Commit> {
        let batch = &self.batch;
        let mut records = load(tx.connection, batch).await?;
        for condition in &batch.conditions {
            match condition {
                Condition::Record { kind, id, revision } => {
                    let actual = records.get(&(*kind, id)).and_then(|record| record.revision());
                    if actual != *revision {
                        return Err(Condition::record_conflict(kind, id, *revision, actual));
                    }
                }
                Condition::Claim(claim) => job::require(tx.connection, claim).await?,
                Condition::Lease(held) => lease::require(tx.connection, held).await?,
                other => return Err(unknown(other)),
            }
        }
        if let Some(settlement) = &batch.settlement
            && settle(tx, std::slice::from_ref(settlement)).await? != [true]
        {
            return Err(settlement.claim.lost());
        }
        let revisions = change(&mut records, &batch.writes)?;
        save(tx.connection, &records).await?;
        let jobs = if batch.jobs.is_empty() { Vec::new() } else { enqueue(tx, &batch.jobs).await? };
        Ok(Commit::new(revisions, jobs))
    }
}

/// A record before and after the batch.
struct Change<'a> {
    before: Option<Before>,
    after: Option<After<'a>>,
    touched: bool,
}

struct Before {
    revision: u64,
    fields: String,
}

struct After<'a> {
    revision: u64,
    body: &'a str,
    index: &'a Index,
}

impl Change<'_> {
    fn revision(&self) -> Option<u64> {
        match self.touched {
            true => self.after.as_ref().map(|after| after.revision),
            false => self.before.as_ref().map(|before| before.revision),
        }
    }
}

type Changes<'a> = BTreeMap<(&'a str, &'a str), Change<'a>>;

/// Every record that the batch looks at or writes, as it is.
async fn load<'a>(connection: &mut SqliteConnection, batch: &'a WriteBatch) -> Result<Changes<'a>> {
    let conditions = batch.conditions.iter().filter_map(|condition| match condition {
        Condition::Record { kind, id, .. } => Some((*kind, id.as_str())),
        _ => None,
    });
    let writes = batch.writes.iter().filter_map(|write| match write {
        Write::Put { kind, id, .. } | Write::Delete { kind, id } => Some((*kind, id.as_str())),
        _ => None,
    });
    let mut records: Changes<'a> =
        conditions.chain(writes).map(|name| (name, Change { before: None, after: None, touched: false })).collect();
    if records.is_empty() {
        return Ok(records);
    }
    let names: Vec<_> = records.keys().copied().collect();
    let rows = sqlx::query(LOAD).bind(json!(&names).to_string()).fetch_all(connection).await.map_err(failed)?;
    for row in rows {
        let position: u32 = row.try_get(0).map_err(failed)?;
        let (revision, fields): (i64, _) = (row.try_get(1).map_err(failed)?, row.try_get(2).map_err(failed)?);
        if let Some(record) = names.get(position as usize).and_then(|name| records.get_mut(name)) {
            record.before = Some(Before { revision: revision.cast_unsigned(), fields });
        }
    }
    Ok(records)
}

/// Applies `writes` in order to what was loaded and returns the revision of each put.
fn change<'a>(records: &mut Changes<'a>, writes: &'a [Write]) -> Result<Vec<u64>> {
    let mut revisions = Vec::new();
    for write in writes {
        let (name, after) = match write {
            Write::Put { kind, id, body, index } => ((*kind, id.as_str()), Some((&**body, index))),
            Write::Delete { kind, id } => ((*kind, id.as_str()), None),
            other => return Err(unknown(other)),
        };
        let Some(record) = records.get_mut(&name) else { continue };
        record.after = after.map(|(body, index)| {
            let revision = record.revision().unwrap_or(0) + 1;
            revisions.push(revision);
            After { revision, body, index }
        });
        record.touched = true;
    }
    Ok(revisions)
}

/// Writes what changed.
async fn save(connection: &mut SqliteConnection, records: &Changes<'_>) -> Result<()> {
    let (mut puts, mut deleted) = (Vec::new(), Vec::new());
    let (mut indexed, mut unindexed) = (Vec::new(), Vec::new());
    for ((kind, id), record) in records.iter().filter(|(_, record)| record.touched) {
        let former = record.before.as_ref().map(|before| before.fields.as_str());
        let fields = record.after.as_ref().map(|after| fields_of(after.index));
        if former != fields.as_deref() {
            unindexed.extend(former.map(|fields| json!([kind, id, fields])));
            indexed.extend(fields.as_ref().map(|fields| json!([kind, id, fields])));
        }
        match (&record.after, fields) {
            (Some(after), Some(fields)) => puts.push(json!([kind, id, after.revision, fields, after.body])),
            _ if record.before.is_some() => deleted.push(json!([kind, id])),
            _ => {}
        }
    }
    for (sql, rows) in [(UNINDEX, unindexed), (DELETE, deleted), (PUT, puts), (INDEX, indexed)] {
        if !rows.is_empty() {
            let rows = Value::Array(rows).to_string();
            sqlx::query(sql).bind(rows).execute(&mut *connection).await.map_err(failed)?;
        }
    }
    Ok(())
}

/// An index as it is kept beside its record.
fn fields_of(index: &Index) -> String {
    let fields = index.iter().map(|(field, value)| match value {
        IndexValue::Int(number) => json!([field, number]),
        IndexValue::Text(text) => json!([field, text]),
    });
    Value::Array(fields.collect()).to_string()
}

fn failed(error: sqlx::Error) -> certlib_core::Error {
    store_error("store.commit", error)
}

/// A newer core has conditions or effects that this store does not know: refusing is the only safe answer.
fn unknown(what: &dyn std::fmt::Debug) -> certlib_core::Error {
    let error = certlib_core::Error::permanent(
        "store.commit",
        "unsupported",
        "this store does not know this condition or effect",
    );
    error.with("what", format_args!("{what:?}"))
}
