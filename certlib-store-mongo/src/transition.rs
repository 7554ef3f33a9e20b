//! What ends, interrupts or revives a job: load, apply the core's rule, write back.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use bson::{Document, doc};
use certlib_core::backoff::Jitter;
use certlib_core::error::{Error, Result};
use certlib_core::model::Event;
use certlib_core::queue::{Claim, Job, JobState, Outcome, RetryPolicy, Settlement, later};
use certlib_core::store::Write;

use crate::commit::insert_records;
use crate::database::{Database, find_all};
use crate::job::{decode, decode_without_payload, text, write_back};
use crate::queue::{failed, held, update_guarded};
use crate::transaction::{Failure, Operation, Transaction, transact, transact_within};
use certlib_core::store::timestamp::{from_millis, to_millis};

/// Settles claimed jobs: the plain successes in one command, whatever needs a rule in a transaction.
pub(crate) async fn settle(database: &Database, settlements: Vec<Settlement>) -> Result<Vec<bool>> {
    let mut first = HashSet::new();
    // Whoever settles a claim twice in one call is heard once.
    let heard: Vec<bool> = settlements.iter().map(|settlement| first.insert(&settlement.claim)).collect();
    let plain: Vec<&Claim> = settlements
        .iter()
        .zip(&heard)
        .filter(|(settlement, heard)| **heard && settlement.outcome == Outcome::Succeeded)
        .map(|(settlement, _)| &settlement.claim)
        .collect();
    let mut accepted = succeed(database, &plain).await?;
    let rest: Vec<Settlement> = settlements
        .iter()
        .zip(&heard)
        .filter(|(settlement, heard)| **heard && !accepted.contains(&settlement.claim))
        .map(|(settlement, _)| settlement.clone())
        .collect();
    if !rest.is_empty() {
        let operation = Settle { settlements: rest };
        let answers = transact(database, &operation).await?;
        let claims = operation.settlements.iter().zip(answers).filter(|(_, accepted)| *accepted);
        accepted.extend(claims.map(|(settlement, _)| settlement.claim.clone()));
    }
    let answer = |(settlement, heard): (&Settlement, &bool)| *heard && accepted.contains(&settlement.claim);
    Ok(settlements.iter().zip(&heard).map(answer).collect())
}

/// Ends those of `claims` that hold and were not enqueued again meanwhile.
async fn succeed(database: &Database, claims: &[&Claim]) -> Result<HashSet<Claim>> {
    if claims.is_empty() {
        return Ok(HashSet::new());
    }
    let token = database.token();
    let success = vec![
        doc! { "$set": {
            "state": JobState::Succeeded.as_str(),
            "crash_count": 0_i64,
            "finished_at": database.now_expression(),
            "settle_token": { "$literal": &*token },
        } },
        doc! { "$unset": ["lease_until", "active_key"] },
    ];
    let statement = |mut held: Document| {
        held.insert("rerun_requested", false);
        doc! { "q": held, "u": &success, "multi": true }
    };
    let statements: Vec<_> = held(claims.iter().copied()).into_iter().map(statement).collect();
    let matched = update_guarded(database, statements).await.map_err(failed)?;
    if matched == claims.len() as u64 {
        return Ok(claims.iter().map(|claim| (*claim).clone()).collect());
    }
    // Also after a command that was sent twice: what the first one settled carries the mark.
    let ids: Vec<&str> = claims.iter().map(|claim| &*claim.job).collect();
    let settled =
        database.jobs.find(doc! { "_id": { "$in": ids }, "settle_token": token }).projection(doc! { "_id": 1 });
    let settled = find_all(settled, None).await.map_err(failed)?;
    let settled: HashSet<&str> = settled.iter().map(|job| text(job, "_id")).collect::<Result<_>>()?;
    Ok(claims.iter().filter(|claim| settled.contains(&*claim.job)).map(|claim| (*claim).clone()).collect())
}

/// Settles by the rules of the core.
struct Settle {
    settlements: Vec<Settlement>,
}

#[async_trait]
impl Operation for Settle {
    type Output = Vec<bool>;

    const NAME: &'static str = "queue.settle";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<bool>, Failure> {
        settle_within(tx, &self.settlements).await
    }
}

/// Whether each settlement was accepted.
pub(crate) async fn settle_within(tx: &mut Transaction<'_>, settlements: &[Settlement]) -> Result<Vec<bool>, Failure> {
    let ids: Vec<&str> = settlements.iter().map(|settlement| &*settlement.claim.job).collect();
    let wanted = doc! { "_id": { "$in": ids }, "state": JobState::InProgress.as_str() };
    let find = tx.database.jobs.find(wanted).projection(doc! { "payload": 0 });
    let mut jobs = HashMap::new();
    for job in find_all(find, Some(&mut tx.session)).await? {
        let job = decode_without_payload(&job)?;
        jobs.insert(job.id.clone(), job);
    }
    let (mut settled, mut events) = (Vec::new(), Vec::new());
    let mut accept = |settlement: &Settlement| {
        // A job that was settled is taken out: its claim does not hold any more.
        let held = jobs.get(&settlement.claim.job).is_some_and(|job| job.is_held_by(&settlement.claim));
        let Some(mut job) = held.then(|| jobs.remove(&settlement.claim.job)).flatten() else { return false };
        events.extend(job.settle(&settlement.outcome, settlement.duration, tx.now));
        settled.push(job);
        true
    };
    let accepted = settlements.iter().map(&mut accept).collect();
    save(tx, &settled, &events).await?;
    Ok(accepted)
}

/// Takes back the jobs whose lease has passed.
///
/// A worker that was killed within a transaction leaves its job locked until the server ends that transaction, which
/// takes up to a minute. Such a job must not keep the others of its page from being taken back: then they are one by
/// one, and those that are locked next time.
pub(crate) async fn reap(database: &Database, policy: &RetryPolicy, limit: usize) -> Result<Vec<Job>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let page = Reap { policy, limit, only: None };
    if let Some(jobs) = transact_within(database, &page, 2).await? {
        return Ok(jobs);
    }
    let find = database.jobs.find(lost(to_millis(database.now().await?))).sort(doc! { "lease_until": 1, "_id": 1 });
    let find = find.limit(i64::try_from(limit).unwrap_or(i64::MAX)).projection(doc! { "_id": 1 });
    let mut reaped = Vec::new();
    for job in find_all(find, None).await.map_err(failed)? {
        let one = Reap { policy, limit: 1, only: Some(text(&job, "_id")?) };
        reaped.extend(transact_within(database, &one, 1).await?.into_iter().flatten());
    }
    Ok(reaped)
}

/// Jobs whose lease has passed at `now`.
fn lost(now: i64) -> Document {
    doc! { "state": JobState::InProgress.as_str(), "lease_until": { "$lte": now } }
}

/// Takes back a page of jobs, or one of them.
struct Reap<'a> {
    policy: &'a RetryPolicy,
    limit: usize,
    only: Option<&'a str>,
}

#[async_trait]
impl Operation for Reap<'_> {
    type Output = Vec<Job>;

    const NAME: &'static str = "queue.reap";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<Job>, Failure> {
        let mut lost = lost(to_millis(tx.now));
        if let Some(id) = self.only {
            lost.insert("_id", id);
        }
        let find = tx.database.jobs.find(lost).sort(doc! { "lease_until": 1, "_id": 1 });
        let find = find.limit(i64::try_from(self.limit).unwrap_or(i64::MAX));
        let mut jobs: Vec<Job> =
            find_all(find, Some(&mut tx.session)).await?.iter().map(decode).collect::<Result<_>>()?;
        let events: Vec<Event> =
            jobs.iter_mut().filter_map(|job| job.crash(self.policy, Jitter::random(), tx.now)).collect();
        save(tx, &jobs, &events).await?;
        as_stored(jobs)
    }
}

/// Cancels a pending job, asks a running one to stop.
pub(crate) struct Cancel {
    pub(crate) id: String,
}

#[async_trait]
impl Operation for Cancel {
    type Output = Job;

    const NAME: &'static str = "queue.cancel";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Job, Failure> {
        let mut job = load(tx, &self.id, Self::NAME).await?;
        job.stop(tx.now)?;
        save(tx, std::slice::from_ref(&job), &[]).await?;
        Ok(job)
    }
}

/// Makes a job pending again that ended without success.
pub(crate) struct Retry {
    pub(crate) id: String,
    pub(crate) delay: Duration,
}

#[async_trait]
impl Operation for Retry {
    type Output = Job;

    const NAME: &'static str = "queue.retry";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Job, Failure> {
        let mut job = load(tx, &self.id, Self::NAME).await?;
        if let Some(key) = &job.key {
            let twin = doc! { "kind": &*job.kind, "active_key": &**key, "_id": { "$ne": &*job.id } };
            let twin = tx.database.jobs.find_one(twin).projection(doc! { "_id": 1 });
            if twin.session(&mut tx.session).await?.is_some() {
                return Err(job.active_already().into());
            }
        }
        job.restart(later(tx.now, self.delay))?;
        save(tx, std::slice::from_ref(&job), &[]).await?;
        Ok(as_stored(vec![job])?.remove(0))
    }
}

/// Deletes jobs that ended long ago.
pub(crate) struct Purge {
    pub(crate) state: JobState,
    pub(crate) older_than: Duration,
    pub(crate) limit: usize,
}

#[async_trait]
impl Operation for Purge {
    type Output = Vec<String>;

    const NAME: &'static str = "queue.purge";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<String>, Failure> {
        if self.limit == 0 || self.state.is_active() {
            return Ok(Vec::new());
        }
        let age = i64::try_from(self.older_than.as_millis()).unwrap_or(i64::MAX);
        let before = to_millis(tx.now).saturating_sub(age);
        let old = doc! { "state": self.state.as_str(), "finished_at": { "$lt": before } };
        let find = tx.database.jobs.find(old).sort(doc! { "finished_at": 1, "_id": 1 }).projection(doc! { "_id": 1 });
        let find = find.limit(i64::try_from(self.limit).unwrap_or(i64::MAX));
        let old = find_all(find, Some(&mut tx.session)).await?;
        let ids: Vec<String> = old.iter().map(|job| text(job, "_id").map(str::to_owned)).collect::<Result<_>>()?;
        if !ids.is_empty() {
            tx.database.jobs.delete_many(doc! { "_id": { "$in": &ids } }).session(&mut tx.session).await?;
        }
        Ok(ids)
    }
}

/// `lease_lost` unless `claim` holds; it then holds until the transaction ends, as the job is written.
pub(crate) async fn require(tx: &mut Transaction<'_>, claim: &Claim) -> Result<(), Failure> {
    for held in held(std::iter::once(claim)) {
        let touch = tx.database.jobs.update_one(held, doc! { "$inc": { "touched": 1_i64 } });
        if touch.session(&mut tx.session).await?.matched_count == 0 {
            return Err(claim.lost().into());
        }
    }
    Ok(())
}

async fn load(tx: &mut Transaction<'_>, id: &str, operation: &'static str) -> Result<Job, Failure> {
    let job = tx.database.jobs.find_one(doc! { "_id": id }).session(&mut tx.session).await?;
    let job = job.as_ref().map(decode).transpose()?;
    job.ok_or_else(|| Error::not_found(operation, format_args!("job {id}")).into())
}

/// Writes what the rules of the core may have changed, and the events that belong to it.
///
/// Nobody can have written the jobs since they were read: the transaction would fail and be run again.
async fn save(tx: &mut Transaction<'_>, jobs: &[Job], events: &[Event]) -> Result<(), Failure> {
    if jobs.is_empty() {
        return Ok(());
    }
    let mut statements = Vec::with_capacity(jobs.len());
    let mut wake = Some(tx.database.token());
    for job in jobs {
        let due = job.state == JobState::Pending && job.run_at <= tx.now;
        tx.became_due |= due;
        statements.push(write_back(job, if due { wake.take() } else { None })?);
    }
    tx.database.update_each(&tx.database.jobs, statements, Some(&mut tx.session)).await?;
    let events: Vec<Write> = events.iter().map(Write::of).collect::<Result<_>>()?;
    insert_records(tx, &events).await
}

/// `jobs` with their times as the database rounds them.
fn as_stored(mut jobs: Vec<Job>) -> Result<Vec<Job>, Failure> {
    for job in &mut jobs {
        job.run_at = from_millis(to_millis(job.run_at))?;
    }
    Ok(jobs)
}
