//! The one write primitive: conditions, then effects, in a handful of statements however large the batch is.

use async_trait::async_trait;
use certlib_core::error::Result;
use certlib_core::model::Event;
use certlib_core::store::{Commit, Condition, IndexValue, Write, WriteBatch};
use serde_json::{Value, json};
use sqlx::{Row, SqliteConnection};

use super::error::{store_error, unreadable};
use super::queue::enqueue;
use super::transition::settle;
use super::writer::{Operation, Transaction};
use super::{job, lease};
use crate::plan::{Entry, Name, Plan, Put, Stored, unknown};

/// Revisions and fields of records by their position in a list of kind and id.
pub(super) const LOAD: &str = "SELECT n.key, r.revision, r.fields FROM json_each(?1) AS n
         CROSS JOIN certlib_records AS r ON r.kind = n.value ->> 0 AND r.id = n.value ->> 1";

/// Removes index entries.
pub(super) const UNINDEX: &str = "DELETE FROM certlib_record_index WHERE (kind, field, value, id) IN (
            SELECT n.value ->> 0, n.value ->> 1, n.value ->> 2, n.value ->> 3 FROM json_each(?1) AS n)";

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
pub(super) const INDEX: &str = "INSERT INTO certlib_record_index (kind, field, value, id)
            SELECT n.value ->> 0, n.value ->> 1, n.value ->> 2, n.value ->> 3 FROM json_each(?1) AS n";

/// Applies a batch.
pub(super) struct Apply {
    pub(super) batch: WriteBatch,
}

#[async_trait]
impl Operation for Apply {
    type Output = Commit;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Commit> {
        let batch = &self.batch;
        let mut plan = Plan::new(&batch.conditions, &batch.writes)?;
        load(tx.connection, &mut plan).await?;
        for condition in &batch.conditions {
            match condition {
                Condition::Record { kind, id, revision } => plan.require(kind, id, *revision)?,
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
        plan.apply(&batch.writes);
        let revisions = save(tx.connection, &plan).await?;
        let jobs = if batch.jobs.is_empty() { Vec::new() } else { enqueue(tx, &batch.jobs).await? };
        Ok(Commit::new(revisions, jobs))
    }
}

/// Writes events beside what caused them.
pub(super) async fn write(connection: &mut SqliteConnection, events: &[Event]) -> Result<()> {
    let writes = events.iter().map(Write::of).collect::<Result<Vec<_>>>()?;
    let mut plan = Plan::new(&[], &writes)?;
    load(connection, &mut plan).await?;
    plan.apply(&writes);
    save(connection, &plan).await.map(drop)
}

/// Tells `plan` what is stored.
async fn load(connection: &mut SqliteConnection, plan: &mut Plan<'_>) -> Result<()> {
    if plan.is_empty() {
        return Ok(());
    }
    let names = plan.names();
    let rows = sqlx::query(LOAD).bind(json!(&names).to_string()).fetch_all(connection).await.map_err(failed)?;
    for row in rows {
        let position: u32 = row.try_get(0).map_err(failed)?;
        let revision: i64 = row.try_get(1).map_err(failed)?;
        let stored = Stored { revision: revision.cast_unsigned(), fields: fields(row.try_get(2).map_err(failed)?)? };
        if let Some(name) = names.get(position as usize) {
            plan.found(*name, stored);
        }
    }
    Ok(())
}

/// Writes what changes, and returns the revision of each put.
async fn save(connection: &mut SqliteConnection, plan: &Plan<'_>) -> Result<Vec<u64>> {
    let rows = plan.rows();
    let entry = |entry: &Entry<'_>| json!([entry.kind, entry.field, plain(entry.value), entry.id]);
    let name = |name: &Name<'_>| json!(name);
    let put = |put: &Put<'_>| {
        let fields: Vec<_> = put.fields.iter().map(|(field, value)| json!([field, plain(value)])).collect();
        json!([put.kind, put.id, put.revision, Value::Array(fields).to_string(), put.body])
    };
    let lists: [(&'static str, Vec<Value>); 4] = [
        (UNINDEX, rows.unindexed.iter().map(entry).collect()),
        (DELETE, rows.deleted.iter().map(name).collect()),
        (PUT, rows.updated.iter().chain(&rows.inserted).map(put).collect()),
        (INDEX, rows.indexed.iter().map(entry).collect()),
    ];
    for (sql, list) in lists {
        if !list.is_empty() {
            let list = Value::Array(list).to_string();
            sqlx::query(sql).bind(list).execute(&mut *connection).await.map_err(failed)?;
        }
    }
    Ok(rows.revisions)
}

/// The fields that are kept beside a record.
fn fields(text: &str) -> Result<Vec<(String, IndexValue)>> {
    let pairs: Vec<(String, Value)> =
        serde_json::from_str(text).map_err(|error| unreadable("fields").with_source(error))?;
    let typed = |(field, value): (String, Value)| match value {
        Value::String(text) => Ok((field, IndexValue::Text(text))),
        other => other.as_i64().map(|number| (field, IndexValue::Int(number))).ok_or_else(|| unreadable("fields")),
    };
    pairs.into_iter().map(typed).collect()
}

fn plain(value: &IndexValue) -> Value {
    match value {
        IndexValue::Int(number) => json!(number),
        IndexValue::Text(text) => json!(text),
    }
}

fn failed(error: sqlx::Error) -> certlib_core::Error {
    store_error("store.commit", error)
}
