//! Claiming and extending.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use bson::{Document, doc};
use certlib_core::error::Result;
use certlib_core::queue::{Claim, ClaimRequest, Extension, Job, JobState};
use mongodb::error::Error as MongoError;
use mongodb::options::{ReadConcern, ReturnDocument};

use crate::database::{Database, find_all};
use crate::error::{is_away, write_error};
use crate::job::{decode, flag, number, text};
use crate::schema;
use crate::transaction::pause;

/// How often a batch is looked for again when other workers took all of it first.
const RACES: u32 = 3;
/// How often a guarded update is sent again when the primary went away.
pub(crate) const TRIES: u32 = 4;

/// Leases due jobs to a worker.
///
/// A batch takes three steps: candidates are looked up in order, one update takes those that are still free and marks
/// them, and the marked ones are read. Workers that race for the same candidates share them out.
pub(crate) async fn claim(database: &Database, request: &ClaimRequest) -> Result<Vec<Job>> {
    if request.limit > 1 {
        for race in 0..RACES {
            if race > 0 {
                pause(race).await;
            }
            let candidates = candidates(database, request).await.map_err(failed)?;
            if candidates.is_empty() {
                return Ok(Vec::new());
            }
            let taken = take(database, request, candidates).await?;
            if !taken.is_empty() {
                return Ok(taken);
            }
        }
    }
    // This one looks again by itself until it has a job or there is none.
    if request.limit == 0 { Ok(Vec::new()) } else { take_one(database, request).await }
}

/// What `request` may have, as far as it is due.
pub(crate) fn due(database: &Database, request: &ClaimRequest) -> Document {
    let mut wanted = doc! { "state": JobState::Pending.as_str(), "lane": request.lane.as_str() };
    wanted.extend(database.passed("run_at"));
    if !request.avoid.is_empty() {
        wanted.insert("parent", doc! { "$nin": &request.avoid });
    }
    wanted
}

async fn candidates(database: &Database, request: &ClaimRequest) -> std::result::Result<Vec<String>, MongoError> {
    let find = database.jobs.find(due(database, request)).sort(schema::by_urgency()).projection(doc! { "_id": 1 });
    let limit = i64::try_from(request.limit).unwrap_or(i64::MAX);
    // The newest there is: what is rolled back later cannot be taken durably.
    let find = find.limit(limit).read_concern(ReadConcern::local());
    let found = find_all(find, None).await?;
    Ok(found.iter().filter_map(|job| job.get_str("_id").ok()).map(str::to_owned).collect())
}

async fn take(database: &Database, request: &ClaimRequest, ids: Vec<String>) -> Result<Vec<Job>> {
    let token = database.token();
    let mut free = doc! { "_id": { "$in": &ids }, "state": JobState::Pending.as_str() };
    free.extend(database.passed("run_at"));
    let mut attempt = 0;
    while let Err(error) = database.jobs.update_many(free.clone(), start(database, request, &token)).await {
        attempt += 1;
        // What it took before the primary went away carries the mark as well.
        if attempt >= TRIES || !is_away(&error) {
            return Err(failed(error));
        }
        pause(attempt).await;
    }
    let marked = database.jobs.find(doc! { "_id": { "$in": ids }, "claim_token": token });
    let mut jobs: Vec<Job> = find_all(marked, None).await.map_err(failed)?.iter().map(decode).collect::<Result<_>>()?;
    jobs.sort_by(|a, b| {
        let rank = |job: &Job| (Reverse(job.priority), job.run_at);
        rank(a).cmp(&rank(b)).then_with(|| a.id.cmp(&b.id))
    });
    Ok(jobs)
}

async fn take_one(database: &Database, request: &ClaimRequest) -> Result<Vec<Job>> {
    let token = database.token();
    let taken = database
        .jobs
        .find_one_and_update(due(database, request), start(database, request, &token))
        .sort(schema::by_urgency())
        .return_document(ReturnDocument::After)
        .await
        .map_err(failed)?;
    taken.iter().map(decode).collect()
}

/// A new epoch, a counted attempt.
fn start(database: &Database, request: &ClaimRequest, token: &str) -> Vec<Document> {
    vec![doc! { "$set": {
        "state": JobState::InProgress.as_str(),
        "attempt": { "$add": ["$attempt", 1_i64] },
        "claim_epoch": { "$add": ["$claim_epoch", 1_i64] },
        "lease_until": database.later_expression(request.lease),
        "worker": { "$literal": &*request.worker },
        "claim_token": { "$literal": token },
    } }]
}

/// Moves the end of leases that hold.
pub(crate) async fn extend(
    database: &Database,
    claims: &[Claim],
    lease: std::time::Duration,
) -> Result<Vec<Extension>> {
    let update = vec![doc! { "$set": { "lease_until": database.later_expression(lease) } }];
    let statements = held(claims.iter()).into_iter().map(|held| doc! { "q": held, "u": &update, "multi": true });
    update_guarded(database, statements.collect()).await.map_err(failed)?;
    // A claim that held before the update and holds after it was extended by it.
    let ids: Vec<&str> = claims.iter().map(|claim| &*claim.job).collect();
    let found = database
        .jobs
        .find(doc! { "_id": { "$in": ids }, "state": JobState::InProgress.as_str() })
        .projection(doc! { "claim_epoch": 1, "cancel_requested": 1 });
    let mut holding = HashMap::new();
    for job in find_all(found, None).await.map_err(failed)? {
        let claim = Claim { job: text(&job, "_id")?.to_owned(), epoch: number(&job, "claim_epoch")? };
        holding.insert(claim, flag(&job, "cancel_requested")?);
    }
    let answer = |claim| match holding.get(claim) {
        Some(&cancel_requested) => Extension::Held { cancel_requested },
        None => Extension::Lost,
    };
    Ok(claims.iter().map(answer).collect())
}

/// The jobs that are held under `claims`, as one filter for each epoch that occurs.
pub(crate) fn held<'a>(claims: impl Iterator<Item = &'a Claim>) -> Vec<Document> {
    let mut by_epoch: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for claim in claims {
        by_epoch.entry(claim.epoch).or_default().push(&claim.job);
    }
    let filter = |(epoch, ids): (u64, Vec<&str>)| {
        doc! {
            "_id": { "$in": ids },
            "claim_epoch": epoch.cast_signed(),
            "state": JobState::InProgress.as_str(),
        }
    };
    by_epoch.into_iter().map(filter).collect()
}

/// Updates jobs by statements that may be sent again: a second time they find nothing, or change nothing.
pub(crate) async fn update_guarded(
    database: &Database,
    statements: Vec<Document>,
) -> std::result::Result<u64, MongoError> {
    let mut attempt = 0;
    loop {
        match database.update_each(&database.jobs, statements.clone(), None).await {
            Err(error) if is_away(&error) && attempt + 1 < TRIES => {
                attempt += 1;
                pause(attempt).await;
            }
            result => return result,
        }
    }
}

pub(crate) fn failed(error: MongoError) -> certlib_core::Error {
    write_error("queue.write", error)
}
