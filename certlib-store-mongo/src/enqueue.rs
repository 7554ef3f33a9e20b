//! Enqueueing, by itself and within a commit.

use std::collections::{BTreeMap, HashMap, HashSet};

use bson::{Document, doc};
use certlib_core::error::{Error, Result};
use certlib_core::queue::{Enqueued, JobState, NewJob, later};
use mongodb::ClientSession;
use mongodb::error::{Error as MongoError, ErrorKind};
use time::OffsetDateTime;

use crate::database::{Database, find_all};
use crate::error::{code, contended, write_error};
use crate::job::{encode_new, text};
use crate::queue::update_guarded;
use crate::transaction::{Failure, Transaction, pause};
use certlib_core::store::timestamp::to_millis;

/// How often the jobs that met another one on its way out are inserted again.
const ROUNDS: u32 = 20;

/// Inserts what can be inserted in one command, and looks for the twins of the rest.
pub(crate) async fn enqueue(database: &Database, jobs: &[NewJob]) -> Result<Vec<Enqueued>> {
    let now = database.now().await?;
    let mut answers: Vec<Option<Enqueued>> = vec![None; jobs.len()];
    let mut left: Vec<usize> = (0..jobs.len()).collect();
    let mut became_due = false;
    for round in 0..ROUNDS {
        if round > 0 {
            pause(round).await;
        }
        let refused = insert(database, jobs, &left, now).await?;
        for &at in left.iter().filter(|at| !refused.contains(at)) {
            became_due |= jobs[at].delay.is_zero();
            answers[at] = Some(Enqueued { id: jobs[at].id.clone(), deduplicated: false });
        }
        left.retain(|at| refused.contains(at));
        if !left.is_empty() {
            meet(database, jobs, &mut left, &mut answers, &mut became_due, now).await?;
        }
        if left.is_empty() {
            if became_due {
                database.wake();
            }
            return Ok(answers.into_iter().flatten().collect());
        }
    }
    Err(contended("queue.enqueue"))
}

/// Inserts the jobs at `left`; returns which of them a unique index refused.
async fn insert(database: &Database, jobs: &[NewJob], left: &[usize], now: OffsetDateTime) -> Result<HashSet<usize>> {
    let mut wake = Some(database.token());
    let mut seen = HashSet::new();
    let mut refused = HashSet::new();
    let mut places = Vec::with_capacity(left.len());
    let mut documents = Vec::with_capacity(left.len());
    for &at in left {
        // An id twice in one call would be told apart from an insert that is repeated by nobody but us.
        if seen.insert(&jobs[at].id) {
            places.push(at);
            documents.push(signed(&jobs[at], now, &mut wake));
        } else {
            refused.insert(at);
        }
    }
    let Err(error) = database.jobs.insert_many(&documents).ordered(false).await else { return Ok(refused) };
    let duplicates = match &*error.kind {
        ErrorKind::InsertMany(many) if many.write_concern_error.is_none() => many.write_errors.as_deref(),
        _ => None,
    };
    let Some(errors) = duplicates.filter(|errors| errors.iter().all(|error| error.code == code::DUPLICATE_KEY)) else {
        return Err(failed(error));
    };
    refused.extend(errors.iter().filter_map(|error| places.get(error.index)));
    Ok(refused)
}

/// `job` as a document; the first that is due carries the signal for other processes.
fn signed(job: &NewJob, now: OffsetDateTime, wake: &mut Option<String>) -> Document {
    let mut document = encode_new(job, now);
    if job.delay.is_zero()
        && let Some(wake) = wake.take()
    {
        document.insert("wake", wake);
    }
    document
}

/// Answers the jobs at `left` that are there already, or whose key has an active job; the others stay in `left`.
async fn meet(
    database: &Database,
    jobs: &[NewJob],
    left: &mut Vec<usize>,
    answers: &mut [Option<Enqueued>],
    became_due: &mut bool,
    now: OffsetDateTime,
) -> Result<()> {
    let found = Found::of(database, left.iter().map(|at| &jobs[*at]), None).await.map_err(failed)?;
    let token = database.token();
    let mut statements = Vec::new();
    let mut met: Vec<(usize, &Twin)> = Vec::new();
    left.retain(|&at| {
        let job = &jobs[at];
        if found.ids.contains(&job.id) {
            answers[at] = Some(Enqueued { id: job.id.clone(), deduplicated: true });
            return false;
        }
        let Some(twin) = found.twin(job) else { return true };
        statements.push(meeting(database, twin, job, now, &token));
        met.push((at, twin));
        true
    });
    if statements.is_empty() {
        return Ok(());
    }
    let wanted = statements.len() as u64;
    let complete = update_guarded(database, statements).await.map_err(failed)? == wanted;
    let reached: HashSet<String> = if complete {
        met.iter().map(|(_, twin)| twin.id.clone()).collect()
    } else {
        // Some ended meanwhile: only those that carry the mark were met.
        let ids: Vec<&str> = met.iter().map(|(_, twin)| &*twin.id).collect();
        let marked =
            database.jobs.find(doc! { "_id": { "$in": ids }, "meet_token": token }).projection(doc! { "_id": 1 });
        let marked = find_all(marked, None).await.map_err(failed)?;
        marked.iter().map(|job| text(job, "_id").map(str::to_owned)).collect::<Result<_>>()?
    };
    for (at, twin) in met {
        if reached.contains(&twin.id) {
            *became_due |= twin.waits && jobs[at].delay.is_zero();
            answers[at] = Some(Enqueued { id: twin.id.clone(), deduplicated: true });
        }
    }
    left.retain(|at| answers[*at].is_none());
    Ok(())
}

/// One that runs will run again, one that waits goes as soon, and with as much priority, as the more urgent of the two.
fn meeting(database: &Database, twin: &Twin, job: &NewJob, now: OffsetDateTime, token: &str) -> Document {
    let waits = doc! { "$eq": ["$state", JobState::Pending.as_str()] };
    let run_at = to_millis(later(now, job.delay));
    let mut set = doc! {
        "rerun_requested": { "$not": [&waits] },
        "run_at": { "$cond": [&waits, { "$min": ["$run_at", run_at] }, "$run_at"] },
        "priority": { "$cond": [&waits, { "$max": ["$priority", i32::from(job.priority)] }, "$priority"] },
        "meet_token": { "$literal": token },
    };
    if job.delay.is_zero() {
        set.insert("wake", doc! { "$cond": [&waits, { "$literal": database.token() }, "$wake"] });
    }
    // Only an active job has the field.
    doc! { "q": { "_id": &*twin.id, "active_key": { "$exists": true } }, "u": [{ "$set": set }] }
}

/// Enqueues within a transaction: what is there is looked up first, as a refused insert would end the transaction.
pub(crate) async fn enqueue_within(
    tx: &mut Transaction<'_>,
    jobs: &[NewJob],
) -> std::result::Result<Vec<Enqueued>, Failure> {
    let found = Found::of(tx.database, jobs.iter(), Some(&mut tx.session)).await?;
    let token = tx.database.token();
    let mut wake = Some(tx.database.token());
    let mut fresh = Fresh::default();
    let mut statements = Vec::new();
    let mut enqueued = Vec::with_capacity(jobs.len());
    for job in jobs {
        let due = job.delay.is_zero();
        let answer = if found.ids.contains(&job.id) || fresh.ids.contains(&*job.id) {
            Enqueued { id: job.id.clone(), deduplicated: true }
        } else if let Some(twin) = found.twin(job) {
            statements.push(meeting(tx.database, twin, job, tx.now, &token));
            tx.became_due |= due && twin.waits;
            Enqueued { id: twin.id.clone(), deduplicated: true }
        } else if let Some(twin) = fresh.twin(job) {
            tx.became_due |= due;
            let id = hurry(&mut fresh.documents[twin], job, tx.now, &mut wake)?;
            Enqueued { id, deduplicated: true }
        } else {
            tx.became_due |= due;
            fresh.add(job, signed(job, tx.now, &mut wake));
            Enqueued { id: job.id.clone(), deduplicated: false }
        };
        enqueued.push(answer);
    }
    if !fresh.documents.is_empty() {
        tx.database.jobs.insert_many(&fresh.documents).session(&mut tx.session).await?;
    }
    if !statements.is_empty() {
        tx.database.update_each(&tx.database.jobs, statements, Some(&mut tx.session)).await?;
    }
    Ok(enqueued)
}

/// Jobs of one call that are to be inserted.
#[derive(Default)]
struct Fresh<'a> {
    documents: Vec<Document>,
    ids: HashSet<&'a str>,
    by_key: HashMap<(&'a str, &'a str), usize>,
}

impl<'a> Fresh<'a> {
    fn add(&mut self, job: &'a NewJob, document: Document) {
        self.ids.insert(&job.id);
        if let Some(key) = &job.key {
            self.by_key.insert((&job.kind, key), self.documents.len());
        }
        self.documents.push(document);
    }

    fn twin(&self, job: &NewJob) -> Option<usize> {
        self.by_key.get(&(&*job.kind, job.key.as_deref()?)).copied()
    }
}

/// A job that is about to be inserted meets `job`.
fn hurry(waiting: &mut Document, job: &NewJob, now: OffsetDateTime, wake: &mut Option<String>) -> Result<String> {
    let run_at = to_millis(later(now, job.delay)).min(crate::job::number(waiting, "run_at")?);
    let priority = i32::from(job.priority).max(crate::job::number(waiting, "priority")?);
    waiting.insert("run_at", run_at);
    waiting.insert("priority", priority);
    if job.delay.is_zero()
        && let Some(wake) = wake.take()
    {
        waiting.insert("wake", wake);
    }
    text(waiting, "_id").map(str::to_owned)
}

/// What is there already of some jobs.
struct Found {
    ids: HashSet<String>,
    by_key: HashMap<(String, String), Twin>,
}

/// The active job of a key.
struct Twin {
    id: String,
    waits: bool,
}

impl Found {
    async fn of<'a>(
        database: &Database,
        jobs: impl Iterator<Item = &'a NewJob>,
        session: Option<&mut ClientSession>,
    ) -> std::result::Result<Self, MongoError> {
        let mut ids = Vec::new();
        let mut keys: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for job in jobs {
            ids.push(&*job.id);
            if let Some(key) = &job.key {
                keys.entry(&job.kind).or_default().push(key);
            }
        }
        let mut any = vec![doc! { "_id": { "$in": &ids } }];
        any.extend(keys.into_iter().map(|(kind, keys)| doc! { "kind": kind, "active_key": { "$in": keys } }));
        let find = database.jobs.find(doc! { "$or": any });
        let find = find.projection(doc! { "kind": 1, "active_key": 1, "state": 1 });
        let wanted: HashSet<&str> = ids.into_iter().collect();
        let mut found = Self { ids: HashSet::new(), by_key: HashMap::new() };
        for job in find_all(find, session).await? {
            let Ok(id) = job.get_str("_id") else { continue };
            if wanted.contains(id) {
                found.ids.insert(id.to_owned());
            }
            if let (Ok(kind), Ok(key)) = (job.get_str("kind"), job.get_str("active_key")) {
                let waits = job.get_str("state").is_ok_and(|state| state == JobState::Pending.as_str());
                found.by_key.insert((kind.to_owned(), key.to_owned()), Twin { id: id.to_owned(), waits });
            }
        }
        Ok(found)
    }

    fn twin(&self, job: &NewJob) -> Option<&Twin> {
        self.by_key.get(&(job.kind.clone(), job.key.clone()?))
    }
}

fn failed(error: MongoError) -> Error {
    write_error("queue.enqueue", error)
}
