//! The one write primitive: conditions, then effects, in a handful of statements however large the batch is.

use async_trait::async_trait;
use certlib_core::error::{Error, Result};
use certlib_core::model::Event;
use certlib_core::store::{Commit, Condition, IndexValue, Write, WriteBatch};
use sqlx::Row;

use super::error::{CONTENDED, store_error, unreadable};
use super::queue::enqueue;
use super::session::{Mode, Operation, Tx};
use super::transition::settle;
use super::{job, lease};
use crate::ordered;
use crate::plan::{Entry, Name, Plan, Put, Stored, unknown};

/// Revisions and fields of records by their position in a list of kind and id, locked in its order.
pub(super) const LOAD: &str = "SELECT n.position, r.revision, r.fields
         FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS n(kind, id, position)
         CROSS JOIN LATERAL (
             SELECT revision, fields FROM certlib_records WHERE kind = n.kind AND id = n.id FOR UPDATE) AS r";

/// Writes what changes: each row is touched by one part only, so the parts may run in any order. Returns how many
/// records were inserted.
pub(super) const SAVE: &str = "WITH unindexed AS (
             DELETE FROM certlib_record_index AS i
             USING unnest($1::text[], $2::text[], $3::bytea[], $4::text[]) AS n(kind, field, value, id)
             WHERE i.kind = n.kind AND i.field = n.field AND i.value = n.value AND i.id = n.id),
         deleted AS (
             DELETE FROM certlib_records AS r USING unnest($5::text[], $6::text[]) AS n(kind, id)
             WHERE r.kind = n.kind AND r.id = n.id),
         updated AS (
             UPDATE certlib_records AS r SET revision = n.revision, fields = n.fields::bytea[], body = n.body
             FROM unnest($7::text[], $8::text[], $9::bigint[], $10::text[], $11::text[])
                 AS n(kind, id, revision, fields, body)
             WHERE r.kind = n.kind AND r.id = n.id),
         indexed AS (
             INSERT INTO certlib_record_index (kind, field, value, id)
             SELECT * FROM unnest($12::text[], $13::text[], $14::bytea[], $15::text[])
             ON CONFLICT DO NOTHING),
         inserted AS (
             INSERT INTO certlib_records (kind, id, revision, fields, body)
             SELECT n.kind, n.id, n.revision, n.fields::bytea[], n.body
             FROM unnest($16::text[], $17::text[], $18::bigint[], $19::text[], $20::text[])
                 AS n(kind, id, revision, fields, body)
             ON CONFLICT DO NOTHING RETURNING 1)
         SELECT count(*) FROM inserted";

/// Takes the places of records that must stay absent until the transaction ends.
const RESERVE: &str = "INSERT INTO certlib_records (kind, id, revision, fields, body)
         SELECT n.kind, n.id, 0, '{}', '' FROM unnest($1::text[], $2::text[]) AS n(kind, id)
         ON CONFLICT DO NOTHING";

/// Leaves them empty again.
const UNRESERVE: &str = "DELETE FROM certlib_records AS r USING unnest($1::text[], $2::text[]) AS n(kind, id)
         WHERE r.kind = n.kind AND r.id = n.id AND r.revision = 0";

/// Applies a batch.
pub(super) struct Apply<'a> {
    pub(super) batch: &'a WriteBatch,
}

#[async_trait]
impl Operation for Apply<'_> {
    type Output = Commit;
    const MODE: Mode = Mode::Transaction;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Commit> {
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
            && settle(tx, std::slice::from_ref(settlement)).await? != [true]
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
pub(super) async fn write(tx: &mut Tx<'_>, events: &[Event]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let writes = events.iter().map(Write::of).collect::<Result<Vec<_>>>()?;
    let mut plan = Plan::new(&[], &writes)?;
    load(tx, &mut plan).await?;
    plan.apply(&writes);
    save(tx, &plan).await.map(drop)
}

/// Tells `plan` what is stored, and keeps it so until the transaction ends.
async fn load(tx: &mut Tx<'_>, plan: &mut Plan<'_>) -> Result<()> {
    if plan.is_empty() {
        return Ok(());
    }
    let names = plan.names();
    let (kinds, ids) = split(&names);
    let rows = sqlx::query(LOAD).bind(kinds).bind(ids).fetch_all(&mut *tx.connection).await.map_err(failed)?;
    for row in rows {
        let position: i64 = row.try_get(0).map_err(failed)?;
        let revision: i64 = row.try_get(1).map_err(failed)?;
        let packed: Vec<Vec<u8>> = row.try_get(2).map_err(failed)?;
        let fields = packed.iter().map(|field| unpack(field)).collect::<Result<_>>()?;
        let name = usize::try_from(position - 1).ok().and_then(|position| names.get(position));
        if let Some(name) = name {
            plan.found(*name, Stored { revision: revision.cast_unsigned(), fields });
        }
    }
    Ok(())
}

/// Writes what changes, and returns the revision of each put.
async fn save(tx: &mut Tx<'_>, plan: &Plan<'_>) -> Result<Vec<u64>> {
    let rows = plan.rows();
    if !rows.absent.is_empty() {
        reserve(tx, &rows.absent).await?;
    }
    if rows.deleted.is_empty() && rows.updated.is_empty() && rows.inserted.is_empty() {
        return Ok(rows.revisions);
    }
    let unindexed = Entries::of(&rows.unindexed);
    let (deleted_kinds, deleted_ids) = split(&rows.deleted);
    let (updated, inserted) = (Puts::of(&rows.updated), Puts::of(&rows.inserted));
    let indexed = Entries::of(&rows.indexed);
    let row = sqlx::query(SAVE)
        .bind(unindexed.kinds)
        .bind(unindexed.fields)
        .bind(unindexed.values)
        .bind(unindexed.ids)
        .bind(deleted_kinds)
        .bind(deleted_ids)
        .bind(updated.kinds)
        .bind(updated.ids)
        .bind(updated.revisions)
        .bind(updated.fields)
        .bind(updated.bodies)
        .bind(indexed.kinds)
        .bind(indexed.fields)
        .bind(indexed.values)
        .bind(indexed.ids)
        .bind(inserted.kinds)
        .bind(inserted.ids)
        .bind(inserted.revisions)
        .bind(inserted.fields)
        .bind(inserted.bodies)
        .fetch_one(&mut *tx.connection)
        .await
        .map_err(failed)?;
    all_there(row.try_get(0).map_err(failed)?, rows.inserted.len())?;
    Ok(rows.revisions)
}

/// Makes sure that records stay absent until the transaction ends: who inserts one meanwhile has to wait for that.
async fn reserve(tx: &mut Tx<'_>, names: &[Name<'_>]) -> Result<()> {
    let (kinds, ids) = split(names);
    let reserved = sqlx::query(RESERVE).bind(&kinds).bind(&ids).execute(&mut *tx.connection).await.map_err(failed)?;
    all_there(i64::try_from(reserved.rows_affected()).unwrap_or(0), names.len())?;
    sqlx::query(UNRESERVE).bind(&kinds).bind(&ids).execute(&mut *tx.connection).await.map(drop).map_err(failed)
}

/// Fails unless every record could be inserted: otherwise somebody else was quicker, and all must be looked at anew.
fn all_there(count: i64, wanted: usize) -> Result<()> {
    if usize::try_from(count) == Ok(wanted) {
        return Ok(());
    }
    Err(Error::transient("store.commit", CONTENDED, "somebody else inserted one of the records at the same time"))
}

/// Index entries as columns.
#[derive(Default)]
struct Entries<'p> {
    kinds: Vec<&'p str>,
    fields: Vec<&'p str>,
    values: Vec<Vec<u8>>,
    ids: Vec<&'p str>,
}

impl<'p> Entries<'p> {
    fn of(entries: &[Entry<'p>]) -> Self {
        let mut columns = Self::default();
        for entry in entries {
            columns.kinds.push(entry.kind);
            columns.fields.push(entry.field);
            columns.values.push(ordered::encode(entry.value));
            columns.ids.push(entry.id);
        }
        columns
    }
}

/// Records as columns.
#[derive(Default)]
struct Puts<'p> {
    kinds: Vec<&'p str>,
    ids: Vec<&'p str>,
    revisions: Vec<i64>,
    fields: Vec<String>,
    bodies: Vec<&'p str>,
}

impl<'p> Puts<'p> {
    fn of(puts: &[Put<'p>]) -> Self {
        let mut columns = Self::default();
        for put in puts {
            columns.kinds.push(put.kind);
            columns.ids.push(put.id);
            columns.revisions.push(put.revision.cast_signed());
            columns.fields.push(literal(&put.fields));
            columns.bodies.push(put.body);
        }
        columns
    }
}

fn split<'p>(names: &[Name<'p>]) -> (Vec<&'p str>, Vec<&'p str>) {
    names.iter().copied().unzip()
}

/// Fields as the text of an array of bytes: a list of lists cannot be passed otherwise.
fn literal(fields: &[(&str, &IndexValue)]) -> String {
    use std::fmt::Write as _;
    let mut text = "{".to_owned();
    for (at, (field, value)) in fields.iter().enumerate() {
        text.push_str(if at == 0 { r"\\x" } else { r",\\x" });
        for byte in pack(field, &ordered::encode(value)) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
    }
    text.push('}');
    text
}

/// A field as it is kept beside its record: a name holds no zero byte.
pub(super) fn pack(field: &str, value: &[u8]) -> Vec<u8> {
    [field.as_bytes(), &[0], value].concat()
}

fn unpack(packed: &[u8]) -> Result<(String, IndexValue)> {
    let mut parts = packed.splitn(2, |byte| *byte == 0);
    let (name, value) = (parts.next().unwrap_or_default(), parts.next().ok_or_else(|| unreadable("fields"))?);
    let name = str::from_utf8(name).map_err(|_| unreadable("fields"))?;
    Ok((name.to_owned(), ordered::decode(value)?))
}

fn failed(error: sqlx::Error) -> Error {
    store_error("store.commit", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_survive_packing() {
        for value in [IndexValue::Int(-1), IndexValue::Int(0), IndexValue::from("a\0b"), IndexValue::from("")] {
            let packed = pack("due", &ordered::encode(&value));
            assert_eq!(unpack(&packed).unwrap(), ("due".to_owned(), value));
        }
        assert_eq!(unpack(b"due").unwrap_err().code(), "row_unreadable");
    }

    #[test]
    fn arrays_are_written_in_hexadecimal() {
        assert_eq!(literal(&[]), "{}");
        let (one, text) = (IndexValue::Int(1), IndexValue::from("é"));
        assert_eq!(literal(&[("a", &one), ("b", &text)]), r"{\\x6100008000000000000001,\\x620001c3a9}");
    }
}
