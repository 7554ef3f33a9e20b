//! The one write primitive: conditions, then effects, in a handful of commands however large the batch is.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bson::{Document, doc};
use certlib_core::error::Result;
use certlib_core::store::{Commit, Condition, Index, Write, WriteBatch};
use mongodb::options::ReturnDocument;

use crate::database::{Database, find_all};
use crate::enqueue::enqueue_within;
use crate::error::{contended, is_duplicate, unknown, write_error};
use crate::job::{number, text};
use crate::record;
use crate::transaction::{Failure, Operation, Transaction, pause, transact};
use crate::transition::settle_within;
use crate::{lease, transition};

const NAME: &str = "store.commit";
/// How often two who create the same record at the same time look again.
const RACES: u32 = 10;

/// Applies `batch`: what one command can do is done by it, everything else by a transaction.
pub(crate) async fn commit(database: &Database, batch: WriteBatch) -> Result<Commit> {
    if let Some(single) = Single::of(&batch) {
        return single.apply(database).await;
    }
    if batch.is_empty() && batch.conditions.is_empty() {
        return Ok(Commit::default());
    }
    let under_lease = batch.conditions.iter().any(|condition| matches!(condition, Condition::Lease(_)));
    let _turn = if under_lease { Some(database.leaders.lock().await) } else { None };
    transact(database, &Apply { batch }).await
}

/// A batch that concerns one record only.
struct Single<'a> {
    write: &'a Write,
    kind: &'static str,
    id: &'a str,
    /// The revision it must have; the inner `None`: it must not exist.
    wanted: Option<Option<u64>>,
}

impl<'a> Single<'a> {
    fn of(batch: &'a WriteBatch) -> Option<Self> {
        let [write] = &batch.writes[..] else { return None };
        if !batch.jobs.is_empty() || batch.settlement.is_some() {
            return None;
        }
        let (Write::Put { kind, id, .. } | Write::Delete { kind, id }) = write else { return None };
        let wanted = match &batch.conditions[..] {
            [] => None,
            [Condition::Record { kind: of, id: named, revision }] if of == kind && named == id => Some(*revision),
            _ => return None,
        };
        Some(Self { write, kind, id, wanted })
    }

    async fn apply(&self, database: &Database) -> Result<Commit> {
        let key = record::key(self.kind, self.id);
        match (self.write, self.wanted) {
            (Write::Put { body, index, .. }, Some(None)) => {
                let document = inserted(self.kind, self.id, 1, body, index);
                match database.records.insert_one(document).await {
                    Ok(_) => Ok(Commit::new(vec![1], Vec::new())),
                    Err(error) if is_duplicate(&error) => self.conflict(database).await,
                    Err(error) => Err(failed(error)),
                }
            }
            (Write::Put { body, index, .. }, Some(Some(revision))) => {
                let mut set = record::content(self.kind, self.id, body, index);
                set.insert("revision", revision.cast_signed() + 1);
                let found = doc! { "_id": key, "revision": revision.cast_signed() };
                let updated = database.records.update_one(found, doc! { "$set": set }).await.map_err(failed)?;
                match updated.matched_count {
                    0 => self.conflict(database).await,
                    _ => Ok(Commit::new(vec![revision + 1], Vec::new())),
                }
            }
            (Write::Put { body, index, .. }, None) => {
                let set = record::content(self.kind, self.id, body, index);
                let revision = put(database, &key, set).await?;
                Ok(Commit::new(vec![revision], Vec::new()))
            }
            (_, Some(Some(revision))) => {
                let found = doc! { "_id": key, "revision": revision.cast_signed() };
                match database.records.delete_one(found).await.map_err(failed)?.deleted_count {
                    0 => self.conflict(database).await,
                    _ => Ok(Commit::default()),
                }
            }
            (_, None) => {
                database.records.delete_one(doc! { "_id": key }).await.map(|_| Commit::default()).map_err(failed)
            }
            // Deleting what must not be there is only a question.
            (_, Some(None)) => match self.actual(database).await? {
                None => Ok(Commit::default()),
                actual => Err(Condition::record_conflict(self.kind, self.id, None, actual)),
            },
        }
    }

    async fn actual(&self, database: &Database) -> Result<Option<u64>> {
        let find = database.records.find_one(doc! { "_id": record::key(self.kind, self.id) });
        let found = find.projection(doc! { "revision": 1 }).await.map_err(failed)?;
        found.map(|found| number(&found, "revision")).transpose()
    }

    async fn conflict(&self, database: &Database) -> Result<Commit> {
        let actual = self.actual(database).await?;
        Err(Condition::record_conflict(self.kind, self.id, self.wanted.flatten(), actual))
    }
}

/// Inserts or replaces, and returns the new revision.
async fn put(database: &Database, key: &str, set: Document) -> Result<u64> {
    let update = doc! { "$set": set, "$inc": { "revision": 1_i64 } };
    for race in 0..RACES {
        if race > 0 {
            pause(race).await;
        }
        let put = database.records.find_one_and_update(doc! { "_id": key }, update.clone());
        let put = put.upsert(true).return_document(ReturnDocument::After).projection(doc! { "revision": 1 });
        match put.await {
            Ok(Some(record)) => return number(&record, "revision"),
            Ok(None) => {}
            Err(error) if is_duplicate(&error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(contended(NAME))
}

fn failed(error: mongodb::error::Error) -> certlib_core::Error {
    write_error(NAME, error)
}

/// Applies a batch of any shape.
struct Apply {
    batch: WriteBatch,
}

#[async_trait]
impl Operation for Apply {
    type Output = Commit;

    const NAME: &'static str = NAME;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Commit, Failure> {
        let batch = &self.batch;
        let mut records = load(tx, batch).await?;
        for condition in &batch.conditions {
            match condition {
                Condition::Record { kind, id, revision } => {
                    let actual = records.get(&(*kind, id)).and_then(Change::revision);
                    if actual != *revision {
                        return Err(Condition::record_conflict(kind, id, *revision, actual).into());
                    }
                }
                // The settlement of the same claim looks by itself, and writes the job.
                Condition::Claim(claim) if batch.settlement.as_ref().is_some_and(|end| end.claim == *claim) => {}
                Condition::Claim(claim) => transition::require(tx, claim).await?,
                Condition::Lease(held) => lease::require(tx, held).await?,
                other => return Err(unknown(NAME, other).into()),
            }
        }
        if let Some(settlement) = &batch.settlement
            && settle_within(tx, std::slice::from_ref(settlement)).await? != [true]
        {
            return Err(settlement.claim.lost().into());
        }
        let revisions = change(&mut records, &batch.writes)?;
        save(tx, &records).await?;
        let jobs = if batch.jobs.is_empty() { Vec::new() } else { enqueue_within(tx, &batch.jobs).await? };
        Ok(Commit::new(revisions, jobs))
    }
}

/// A record before and after the batch.
#[derive(Default)]
struct Change<'a> {
    before: Option<u64>,
    after: Option<After<'a>>,
    written: bool,
}

struct After<'a> {
    revision: u64,
    body: &'a str,
    index: &'a Index,
}

impl Change<'_> {
    fn revision(&self) -> Option<u64> {
        if self.written { self.after.as_ref().map(|after| after.revision) } else { self.before }
    }
}

type Changes<'a> = BTreeMap<(&'static str, &'a str), Change<'a>>;

/// Every record that the batch looks at or writes, as it is.
async fn load<'a>(tx: &mut Transaction<'_>, batch: &'a WriteBatch) -> Result<Changes<'a>, Failure> {
    let conditions = batch.conditions.iter().filter_map(|condition| match condition {
        Condition::Record { kind, id, .. } => Some((*kind, id.as_str())),
        _ => None,
    });
    let writes = batch.writes.iter().filter_map(|write| match write {
        Write::Put { kind, id, .. } | Write::Delete { kind, id } => Some((*kind, id.as_str())),
        _ => None,
    });
    let mut records: Changes<'a> = conditions.chain(writes).map(|name| (name, Change::default())).collect();
    if records.is_empty() {
        return Ok(records);
    }
    let keys: Vec<String> = records.keys().map(|(kind, id)| record::key(kind, id)).collect();
    let find = tx.database.records.find(doc! { "_id": { "$in": keys } }).projection(doc! { "revision": 1 });
    let mut found = BTreeMap::new();
    for document in find_all(find, Some(&mut tx.session)).await? {
        found.insert(text(&document, "_id")?.to_owned(), number(&document, "revision")?);
    }
    for ((kind, id), record) in &mut records {
        record.before = found.get(&record::key(kind, id)).copied();
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
            other => return Err(unknown(NAME, other)),
        };
        let Some(record) = records.get_mut(&name) else { continue };
        record.after = after.map(|(body, index)| {
            let revision = record.revision().unwrap_or(0) + 1;
            revisions.push(revision);
            After { revision, body, index }
        });
        record.written = true;
    }
    Ok(revisions)
}

/// Writes what changed, and touches what was only looked at, so that whoever writes it at the same time gets in the
/// way.
async fn save(tx: &mut Transaction<'_>, records: &Changes<'_>) -> Result<(), Failure> {
    let (mut inserts, mut updates, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
    for ((kind, id), record) in records {
        let key = record::key(kind, id);
        match (&record.before, &record.after) {
            (None, Some(after)) => inserts.push(inserted(kind, id, after.revision, after.body, after.index)),
            (Some(_), Some(after)) => {
                let mut set = record::content(kind, id, after.body, after.index);
                set.insert("revision", after.revision.cast_signed());
                updates.push(doc! { "q": { "_id": key }, "u": { "$set": set } });
            }
            (Some(_), None) if record.written => deletes.push(key),
            (Some(_), None) => updates.push(doc! { "q": { "_id": key }, "u": { "$inc": { "touched": 1_i64 } } }),
            (None, None) if record.written => {}
            (None, None) => {
                inserts.push(doc! { "_id": &*key });
                deletes.push(key);
            }
        }
    }
    if !inserts.is_empty() {
        tx.database.records.insert_many(&inserts).session(&mut tx.session).await?;
    }
    if !updates.is_empty() {
        tx.database.update_each(&tx.database.records, updates, Some(&mut tx.session)).await?;
    }
    if !deletes.is_empty() {
        tx.database.records.delete_many(doc! { "_id": { "$in": deletes } }).session(&mut tx.session).await?;
    }
    Ok(())
}

/// Inserts new records.
pub(crate) async fn insert_records(tx: &mut Transaction<'_>, writes: &[Write]) -> Result<(), Failure> {
    let documents = writes.iter().filter_map(|write| match write {
        Write::Put { kind, id, body, index } => Some(inserted(kind, id, 1, body, index)),
        _ => None,
    });
    let documents: Vec<Document> = documents.collect();
    if !documents.is_empty() {
        tx.database.records.insert_many(&documents).session(&mut tx.session).await?;
    }
    Ok(())
}

fn inserted(kind: &str, id: &str, revision: u64, body: &str, index: &Index) -> Document {
    let mut document = doc! { "_id": record::key(kind, id), "revision": revision.cast_signed() };
    document.extend(record::content(kind, id, body, index));
    document
}
