//! The schema and its versions.

use bson::{Document, doc};
use certlib_core::error::{Error, Result};
use mongodb::IndexModel;
use mongodb::options::IndexOptions;

use crate::database::Database;
use crate::error::{code, code_of, is_duplicate, store_error};
use crate::job::number;

/// Jobs newest first.
pub(crate) fn by_age() -> Document {
    doc! { "created_at": -1, "_id": -1 }
}

/// Jobs in the order in which they are claimed.
pub(crate) fn by_urgency() -> Document {
    doc! { "priority": -1, "run_at": 1, "_id": 1 }
}

/// One change of the schema. Doing it again changes nothing.
pub(crate) enum Step {
    /// A collection that transactions may write to at once.
    Collection(&'static str),
    /// Indexes of a collection.
    Indexes(&'static str, Vec<IndexModel>),
}

/// Every version of the schema as the steps from the one before. Versions are only ever added.
pub(crate) fn versions() -> Vec<Vec<Step>> {
    vec![vec![
        Step::Collection("certlib_records"),
        Step::Collection("certlib_jobs"),
        Step::Collection("certlib_leases"),
        Step::Indexes("certlib_records", vec![index("certlib_records_fields", doc! { "f.$**": 1 }, None)]),
        Step::Indexes("certlib_jobs", job_indexes()),
    ]]
}

fn job_indexes() -> Vec<IndexModel> {
    let mut active = index(
        "certlib_jobs_active",
        doc! { "kind": 1, "active_key": 1 },
        Some(doc! { "active_key": { "$exists": true } }),
    );
    if let Some(options) = &mut active.options {
        options.unique = Some(true);
    }
    vec![
        active,
        index(
            "certlib_jobs_waiting",
            doc! { "state": 1, "lane": 1, "priority": -1, "run_at": 1, "_id": 1, "parent": 1, "kind": 1 },
            Some(doc! { "state": "pending" }),
        ),
        index(
            "certlib_jobs_leased",
            doc! { "state": 1, "lease_until": 1, "_id": 1, "kind": 1 },
            Some(doc! { "state": "in_progress" }),
        ),
        index(
            "certlib_jobs_dead",
            doc! { "state": 1, "kind": 1, "created_at": -1, "_id": -1 },
            Some(doc! { "state": "dead_letter" }),
        ),
        index(
            "certlib_jobs_ended",
            doc! { "state": 1, "finished_at": 1, "_id": 1 },
            Some(doc! { "finished_at": { "$exists": true } }),
        ),
        index("certlib_jobs_age", by_age(), None),
        index("certlib_jobs_project", doc! { "project": 1, "created_at": -1, "_id": -1 }, None),
        index(
            "certlib_jobs_key",
            doc! { "key": 1, "created_at": -1, "_id": -1 },
            Some(doc! { "key": { "$exists": true } }),
        ),
    ]
}

/// An index over the documents that match `only`.
fn index(name: &'static str, keys: Document, only: Option<Document>) -> IndexModel {
    let options = IndexOptions::builder().name(name.to_owned()).partial_filter_expression(only).build();
    IndexModel::builder().keys(keys).options(options).build()
}

/// Brings the schema to this version. Every step may be interrupted and done again, and any number of processes may do
/// them at the same time.
///
/// # Errors
/// `IoPermanent` `schema_version` when a newer version of certlib wrote the database, `schema_conflict` when somebody
/// else made an index of the same name; and as for any write.
pub(crate) async fn migrate(database: &Database) -> Result<()> {
    let versions = versions();
    let have = version(database).await?;
    let newer = || {
        Error::permanent("store.migrate", "schema_version", "a newer version of certlib wrote this database")
            .with("have", have)
            .with("need", versions.len())
    };
    let done = usize::try_from(have).map_err(|_| newer())?;
    let missing = versions.get(done..).ok_or_else(newer)?;
    for (version, steps) in (have + 1..).zip(missing) {
        for step in steps {
            apply(database, step).await.map_err(|error| error.with("version", version))?;
        }
        reach(database, version).await?;
    }
    Ok(())
}

/// The version of the schema; 0 when there is none.
async fn version(database: &Database) -> Result<i64> {
    let found = database.schema.find_one(doc! { "_id": "schema" }).await.map_err(failed)?;
    found.map_or(Ok(0), |found| number(&found, "version"))
}

pub(crate) async fn apply(database: &Database, step: &Step) -> Result<()> {
    match step {
        Step::Collection(name) => match database.handle.create_collection(*name).await {
            Err(error) if code_of(&error) == Some(code::NAMESPACE_EXISTS) => Ok(()),
            result => result.map_err(failed),
        },
        Step::Indexes(collection, indexes) => {
            let collection = database.handle.collection::<Document>(collection);
            collection.create_indexes(indexes.iter().cloned()).await.map(drop).map_err(|error| match code_of(&error) {
                Some(code::INDEX_OPTIONS_CONFLICT | code::INDEX_KEYS_CONFLICT) => {
                    let message = "an index of the same name or keys, but of another kind, is there already";
                    Error::permanent("store.migrate", "schema_conflict", message)
                        .with("collection", collection.name())
                        .with_source(error)
                }
                _ => failed(error),
            })
        }
    }
}

/// Notes that `version` is complete, unless a later one is.
async fn reach(database: &Database, version: i64) -> Result<()> {
    let below = doc! { "_id": "schema", "version": { "$lt": version } };
    match database.schema.update_one(below, doc! { "$set": { "version": version } }).upsert(true).await {
        // The document is there with this version, or a later one: another process was faster.
        Err(error) if is_duplicate(&error) => Ok(()),
        result => result.map(drop).map_err(failed),
    }
}

fn failed(error: mongodb::error::Error) -> Error {
    store_error("store.migrate", error)
}
