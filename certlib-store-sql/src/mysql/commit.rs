//! The one write primitive: conditions, then effects, in a handful of statements however large the batch is.

use async_trait::async_trait;
use certlib_core::error::Result;
use certlib_core::model::Event;
use certlib_core::store::{Commit, Condition, IndexValue, Write, WriteBatch};
use serde_json::{Value, json};

use super::database::{Operation, Transaction};
use super::error::{store_error, unreadable};
use super::job::{number, text};
use super::queue::enqueue;
use super::rows::chunks;
use super::transition::settle_one;
use super::{job, lease};
use crate::ordered;
use crate::plan::{Entry, Name, Plan, Put, Stored, unknown};

/// Revisions and fields of records by their position in a list of kind and id, locked.
pub(super) const LOAD: &str = "SELECT n.position, r.revision, r.fields FROM JSON_TABLE(?, '$[*]' COLUMNS (
         position BIGINT PATH '$[0]', kind VARBINARY(64) PATH '$[1]', id VARBINARY(255) PATH '$[2]')) AS n
     STRAIGHT_JOIN certlib_records AS r ON r.kind = n.kind AND r.id = n.id FOR UPDATE";

/// Removes index entries.
pub(super) const UNINDEX: &str = "DELETE i FROM JSON_TABLE(?, '$[*]' COLUMNS (
         kind VARBINARY(64) PATH '$[0]', field VARBINARY(64) PATH '$[1]', value VARBINARY(640) PATH '$[2]',
         id VARBINARY(255) PATH '$[3]')) AS n
     STRAIGHT_JOIN certlib_record_index AS i
         ON i.kind = n.kind AND i.field = n.field AND i.value = UNHEX(n.value) AND i.id = n.id";

/// Removes records.
pub(super) const DELETE: &str = "DELETE r FROM JSON_TABLE(?, '$[*]' COLUMNS (
         kind VARBINARY(64) PATH '$[0]', id VARBINARY(255) PATH '$[1]')) AS n
     STRAIGHT_JOIN certlib_records AS r ON r.kind = n.kind AND r.id = n.id";

/// Replaces records.
pub(super) const UPDATE: &str = "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (
         kind VARBINARY(64) PATH '$[0]', id VARBINARY(255) PATH '$[1]', revision BIGINT PATH '$[2]',
         fields LONGTEXT CHARACTER SET utf8mb4 PATH '$[3]', body LONGTEXT CHARACTER SET utf8mb4 PATH '$[4]')) AS n
     STRAIGHT_JOIN certlib_records AS r ON r.kind = n.kind AND r.id = n.id
     SET r.revision = n.revision, r.fields = n.fields, r.body = n.body";

/// Adds records.
pub(super) const INSERT: &str = "INSERT INTO certlib_records (kind, id, revision, fields, body)
     SELECT n.kind, n.id, n.revision, n.fields, n.body FROM JSON_TABLE(?, '$[*]' COLUMNS (
         kind VARBINARY(64) PATH '$[0]', id VARBINARY(255) PATH '$[1]', revision BIGINT PATH '$[2]',
         fields LONGTEXT CHARACTER SET utf8mb4 PATH '$[3]', body LONGTEXT CHARACTER SET utf8mb4 PATH '$[4]')) AS n";

/// Adds index entries.
pub(super) const INDEX: &str = "INSERT INTO certlib_record_index (kind, field, value, id)
     SELECT n.kind, n.field, UNHEX(n.value), n.id FROM JSON_TABLE(?, '$[*]' COLUMNS (
         kind VARBINARY(64) PATH '$[0]', field VARBINARY(64) PATH '$[1]', value VARBINARY(640) PATH '$[2]',
         id VARBINARY(255) PATH '$[3]')) AS n";

/// Applies a batch.
pub(super) struct Apply<'a> {
    pub(super) batch: &'a WriteBatch,
}

#[async_trait]
impl Operation for Apply<'_> {
    type Output = Commit;

    const NAME: &'static str = "store.commit";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Commit> {
        let batch = self.batch;
        let mut plan = Plan::new(&batch.conditions, &batch.writes)?;
        load(tx, &mut plan).await?;
        for condition in &batch.conditions {
            match condition {
                Condition::Record { kind, id, revision } => plan.require(kind, id, *revision)?,
                Condition::Claim(claim) => job::require(tx, claim).await?,
                Condition::Lease(held) => lease::require(tx, held).await?,
                other => return Err(unknown(other)),
            }
        }
        if let Some(settlement) = &batch.settlement
            && !settle_one(tx, settlement).await?
        {
            return Err(settlement.claim.lost());
        }
        plan.apply(&batch.writes);
        let revisions = save(tx, &plan).await?;
        let jobs = if batch.jobs.is_empty() { Vec::new() } else { enqueue(tx, &batch.jobs).await? };
        Ok(Commit::new(revisions, jobs))
    }
}

/// Writes events beside what caused them.
pub(super) async fn write(tx: &mut Transaction<'_>, events: &[Event]) -> Result<()> {
    let writes = events.iter().map(Write::of).collect::<Result<Vec<_>>>()?;
    let mut plan = Plan::new(&[], &writes)?;
    load(tx, &mut plan).await?;
    plan.apply(&writes);
    save(tx, &plan).await.map(drop)
}

/// Tells `plan` what is stored.
async fn load(tx: &mut Transaction<'_>, plan: &mut Plan<'_>) -> Result<()> {
    if plan.is_empty() {
        return Ok(());
    }
    let names = plan.names();
    let list: Vec<_> = names.iter().enumerate().map(|(at, (kind, id))| json!([at, kind, id])).collect();
    for chunk in chunks("store.commit", &list, tx.packet)? {
        for row in sqlx::query(LOAD).bind(chunk).fetch_all(&mut *tx.connection).await.map_err(failed)? {
            let position = usize::try_from(number(&row, 0)?).unwrap_or(usize::MAX);
            let stored = Stored { revision: number(&row, 1)?.cast_unsigned(), fields: fields(text(&row, 2)?)? };
            if let Some(name) = names.get(position) {
                plan.found(*name, stored);
            }
        }
    }
    Ok(())
}

/// Writes what changes, and returns the revision of each put.
async fn save(tx: &mut Transaction<'_>, plan: &Plan<'_>) -> Result<Vec<u64>> {
    let rows = plan.rows();
    let entry = |entry: &Entry<'_>| json!([entry.kind, entry.field, hex(entry.value), entry.id]);
    let name = |name: &Name<'_>| json!(name);
    let put = |put: &Put<'_>| {
        let fields: Vec<_> = put.fields.iter().map(|(field, value)| json!([field, hex(value)])).collect();
        json!([put.kind, put.id, put.revision, Value::Array(fields).to_string(), put.body])
    };
    // A row that is not there cannot be locked: it is put there, which waits for whoever else does, and taken away.
    let absent = rows.absent.iter().map(|(kind, id)| json!([kind, id, 0, "[]", ""]));
    let lists: [(&'static str, Vec<Value>); 7] = [
        (INSERT, absent.collect()),
        (DELETE, rows.absent.iter().map(name).collect()),
        (UNINDEX, rows.unindexed.iter().map(entry).collect()),
        (DELETE, rows.deleted.iter().map(name).collect()),
        (UPDATE, rows.updated.iter().map(put).collect()),
        (INSERT, rows.inserted.iter().map(put).collect()),
        (INDEX, rows.indexed.iter().map(entry).collect()),
    ];
    for (sql, list) in lists {
        for chunk in chunks("store.commit", &list, tx.packet)? {
            sqlx::query(sql).bind(chunk).execute(&mut *tx.connection).await.map_err(failed)?;
        }
    }
    Ok(rows.revisions)
}

/// The fields that are kept beside a record.
fn fields(text: &str) -> Result<Vec<(String, IndexValue)>> {
    let pairs: Vec<(String, String)> =
        serde_json::from_str(text).map_err(|error| unreadable("fields").with_source(error))?;
    pairs.into_iter().map(|(field, value)| Ok((field, ordered::decode(&unhex(&value)?)?))).collect()
}

fn hex(value: &IndexValue) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let bytes = ordered::encode(value);
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2)).ok_or_else(|| unreadable("fields"))?;
    Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn failed(error: sqlx::Error) -> certlib_core::Error {
    store_error("store.commit", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_as_they_were() {
        let values = [IndexValue::Int(i64::MIN), IndexValue::Int(-1), IndexValue::from(""), IndexValue::from("é\"\\")];
        let pairs: Vec<_> = values.iter().map(|value| json!(["name", hex(value)])).collect();
        let back = fields(&Value::Array(pairs).to_string()).unwrap();
        assert_eq!(back.into_iter().map(|(_, value)| value).collect::<Vec<_>>(), values);
        for damaged in ["", "[[\"a\",\"0\"]]", "[[\"a\",\"zz\"]]", "[[\"a\",1]]"] {
            assert_eq!(fields(damaged).unwrap_err().code(), "row_unreadable", "{damaged}");
        }
    }
}
