//! Jobs as documents: writing, reading, finding, listing, counting.

use bson::{Bson, Document, doc};
use certlib_core::error::Result;
use certlib_core::queue::{AttemptRecord, Job, JobFilter, JobState, Lane, NewJob, QueueStats, later};
use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::options::{Hint, ReadConcern};
use serde_json::Value;
use time::OffsetDateTime;

use crate::database::{Database, find_all};
use crate::error::{store_error, unreadable};
use crate::schema;
use certlib_core::store::timestamp::{from_millis, to_millis};

/// A pending job as a document.
pub(crate) fn encode_new(new: &NewJob, now: OffsetDateTime) -> Document {
    let mut job = doc! {
        "_id": &*new.id,
        "kind": &*new.kind,
        "lane": new.lane.as_str(),
        "project": &*new.project,
        "parent": new.effective_parent(),
        "payload": new.payload.to_string(),
        "priority": i32::from(new.priority),
        "state": JobState::Pending.as_str(),
        "attempt": 0_i64,
        "claim_epoch": 0_i64,
        "crash_count": 0_i64,
        "run_at": to_millis(later(now, new.delay)),
        "cancel_requested": false,
        "rerun_requested": false,
        "attempts": "[]",
        "created_at": to_millis(now),
    };
    if let Some(key) = &new.key {
        job.insert("key", &**key);
        // There while the job is active, and unique among those that have it.
        job.insert("active_key", &**key);
    }
    job
}

/// The statement that writes what the rules of the core may have changed in `job`, signed with `wake` if it is to wake
/// the workers of other processes.
pub(crate) fn write_back(job: &Job, wake: Option<String>) -> Result<Document> {
    let attempts = serde_json::to_string(&job.attempts).map_err(|error| unreadable("attempts").with_source(error))?;
    let mut set = doc! {
        "state": job.state.as_str(),
        "attempt": i64::from(job.attempt),
        "crash_count": i64::from(job.crash_count),
        "run_at": to_millis(job.run_at),
        "cancel_requested": job.cancel_requested,
        "rerun_requested": job.rerun_requested,
        "attempts": attempts,
    };
    let mut unset = Document::new();
    let active_key = job.key.as_deref().filter(|_| job.state.is_active()).map(Bson::from);
    for (field, value) in [
        ("lease_until", job.lease_until.map(|at| Bson::Int64(to_millis(at)))),
        ("finished_at", job.finished_at.map(|at| Bson::Int64(to_millis(at)))),
        ("active_key", active_key),
    ] {
        match value {
            Some(value) => set.insert(field, value),
            None => unset.insert(field, ""),
        };
    }
    set.extend(wake.map(|wake| ("wake".to_owned(), Bson::from(wake))));
    Ok(doc! { "q": { "_id": &*job.id }, "u": { "$set": set, "$unset": unset } })
}

pub(crate) fn decode(job: &Document) -> Result<Job> {
    let payload = parse(text(job, "payload")?, "payload")?;
    decode_with(job, payload)
}

/// A job whose payload stays in the database: enough to change its state.
pub(crate) fn decode_without_payload(job: &Document) -> Result<Job> {
    decode_with(job, Value::Null)
}

fn decode_with(document: &Document, payload: Value) -> Result<Job> {
    let lane = Lane::parse(text(document, "lane")?).ok_or_else(|| unreadable("lane"))?;
    let mut new = NewJob::new(text(document, "kind")?, lane, payload);
    text(document, "_id")?.clone_into(&mut new.id);
    new.key = document.get_str("key").ok().map(str::to_owned);
    text(document, "project")?.clone_into(&mut new.project);
    new.parent = Some(text(document, "parent")?.to_owned());
    new.priority = number(document, "priority")?;
    let mut job = Job::from_new(new, from_millis(number(document, "created_at")?)?);
    job.state = JobState::parse(text(document, "state")?).ok_or_else(|| unreadable("state"))?;
    job.attempt = number(document, "attempt")?;
    job.claim_epoch = number(document, "claim_epoch")?;
    job.crash_count = number(document, "crash_count")?;
    job.run_at = from_millis(number(document, "run_at")?)?;
    job.lease_until = maybe_time(document, "lease_until")?;
    job.worker = document.get_str("worker").ok().map(str::to_owned);
    job.cancel_requested = flag(document, "cancel_requested")?;
    job.rerun_requested = flag(document, "rerun_requested")?;
    job.attempts = parse::<Vec<AttemptRecord>>(text(document, "attempts")?, "attempts")?;
    job.finished_at = maybe_time(document, "finished_at")?;
    Ok(job)
}

pub(crate) fn text<'a>(document: &'a Document, field: &'static str) -> Result<&'a str> {
    document.get_str(field).map_err(|_| unreadable(field))
}

pub(crate) fn number<T: TryFrom<i64>>(document: &Document, field: &'static str) -> Result<T> {
    let number = match document.get(field) {
        Some(Bson::Int64(number)) => *number,
        Some(Bson::Int32(number)) => i64::from(*number),
        _ => return Err(unreadable(field)),
    };
    T::try_from(number).map_err(|_| unreadable(field))
}

pub(crate) fn flag(document: &Document, field: &'static str) -> Result<bool> {
    document.get_bool(field).map_err(|_| unreadable(field))
}

fn maybe_time(document: &Document, field: &'static str) -> Result<Option<OffsetDateTime>> {
    match document.get(field) {
        None | Some(Bson::Null) => Ok(None),
        Some(_) => from_millis(number(document, field)?).map(Some),
    }
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, what: &'static str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| unreadable(what).with_source(error))
}

fn failed(error: mongodb::error::Error) -> certlib_core::Error {
    store_error("queue.read", error)
}

pub(crate) async fn find(database: &Database, id: &str) -> Result<Option<Job>> {
    let job = database.jobs.find_one(doc! { "_id": id }).await.map_err(failed)?;
    job.as_ref().map(decode).transpose()
}

pub(crate) async fn list(database: &Database, filter: &JobFilter) -> Result<Vec<Job>> {
    let before = match &filter.before {
        None => None,
        Some(id) => {
            let job = database.jobs.find_one(doc! { "_id": id }).projection(doc! { "created_at": 1 });
            let Some(job) = job.await.map_err(failed)? else { return Ok(Vec::new()) };
            Some((number::<i64>(&job, "created_at")?, id.as_str()))
        }
    };
    let limit = i64::try_from(filter.effective_limit()).unwrap_or(i64::MAX);
    let find = database.jobs.find(listing(filter, before)).sort(schema::by_age()).limit(limit);
    let find = find.hint(Hint::Name(walked(filter).to_owned()));
    find_all(find, None).await.map_err(failed)?.iter().map(decode).collect()
}

pub(crate) fn listing(filter: &JobFilter, before: Option<(i64, &str)>) -> Document {
    let mut wanted = Document::new();
    let state = filter.state.map(JobState::as_str);
    let texts = [("project", filter.project.as_deref()), ("kind", filter.kind.as_deref())];
    for (field, text) in texts.into_iter().chain([("key", filter.key.as_deref()), ("state", state)]) {
        wanted.extend(text.map(|text| (field.to_owned(), Bson::from(text))));
    }
    if let Some((created_at, id)) = before {
        wanted.insert("created_at", doc! { "$lte": created_at });
        wanted.insert("$or", [doc! { "created_at": { "$lt": created_at } }, doc! { "_id": { "$lt": id } }].to_vec());
    }
    wanted
}

/// The index that has the jobs of a filter in order; left to itself the server may walk all jobs when few match.
pub(crate) fn walked(filter: &JobFilter) -> &'static str {
    match filter {
        JobFilter { key: Some(_), .. } => "certlib_jobs_key",
        JobFilter { kind: Some(_), state: Some(JobState::DeadLetter), .. } => "certlib_jobs_dead",
        JobFilter { project: Some(_), .. } => "certlib_jobs_project",
        _ => "certlib_jobs_age",
    }
}

/// How many jobs of each kind there are in the states of one partial index, which is all that is read.
pub(crate) fn counting(state: JobState) -> [Document; 2] {
    let mut wanted = doc! { "state": state.as_str() };
    if state == JobState::Pending {
        // Every lane, named so that the index applies.
        let lanes: Vec<&str> = Lane::ALL.into_iter().map(Lane::as_str).collect();
        wanted.insert("lane", doc! { "$in": lanes });
    }
    [doc! { "$match": wanted }, doc! { "$group": { "_id": "$kind", "count": { "$sum": 1_i64 } } }]
}

pub(crate) async fn stats(database: &Database) -> Result<QueueStats> {
    let mut stats = QueueStats::default();
    for state in [JobState::Pending, JobState::InProgress, JobState::DeadLetter] {
        for counted in counts(&database.jobs, state).await.map_err(failed)? {
            let depth = stats.by_kind.entry(text(&counted, "_id")?.to_owned()).or_default();
            let count = number(&counted, "count")?;
            match state {
                JobState::Pending => depth.pending = count,
                JobState::InProgress => depth.in_progress = count,
                _ => depth.dead_letter = count,
            }
        }
    }
    Ok(stats)
}

async fn counts(jobs: &Collection<Document>, state: JobState) -> mongodb::error::Result<Vec<Document>> {
    jobs.aggregate(counting(state)).read_concern(ReadConcern::majority()).await?.try_collect().await
}
