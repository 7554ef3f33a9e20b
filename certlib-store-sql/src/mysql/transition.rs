//! What ends, interrupts or revives a job: load, apply the core's rule, write back.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::backoff::Jitter;
use certlib_core::error::{Error, Result};
use certlib_core::queue::{Job, JobState, Outcome, RetryPolicy, Settlement, later};
use serde_json::json;
use time::OffsetDateTime;

use super::commit;
use super::database::{Operation, Transaction, now};
use super::error::{is_duplicate, store_error};
use super::job::{AFTER_JOB, decode, decode_without_payload, job_columns, number, text};
use super::queue::millis;
use super::rows::chunks;
use certlib_core::store::timestamp::{from_millis, to_millis};

/// Settles what simply succeeded, marked with the number of this call.
pub(super) const SUCCEED: &str = concat!(
    "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (id VARBINARY(255) PATH '$[0]', epoch BIGINT PATH '$[1]')) AS n
     STRAIGHT_JOIN certlib_jobs AS j ON j.id = n.id AND j.claim_epoch = n.epoch
     SET j.state = 'succeeded', j.active_key = NULL, j.lease_until = NULL, j.crash_count = 0, j.settlement = ?,
         j.finished_at = ",
    now!(),
    " WHERE j.state = 'in_progress' AND j.rerun_requested = 0"
);

/// Which jobs this call settled.
pub(super) const SUCCEEDED: &str = "SELECT j.id FROM JSON_TABLE(?, '$[*]' COLUMNS (id VARBINARY(255) PATH '$[0]')) AS n
     STRAIGHT_JOIN certlib_jobs AS j ON j.id = n.id WHERE j.settlement = ?";

/// Jobs in progress, locked, without their payloads.
pub(super) const LOAD_CLAIMED: &str = concat!(
    "SELECT ",
    job_columns!("NULL"),
    ", t.now FROM (SELECT ",
    now!(),
    " AS now) AS t STRAIGHT_JOIN JSON_TABLE(?, '$[*]' COLUMNS (id VARBINARY(255) PATH '$')) AS n
     STRAIGHT_JOIN certlib_jobs AS j ON j.id = n.id AND j.state = 'in_progress' FOR UPDATE"
);

/// Jobs whose lease has passed, the longest first; those that somebody is settling are left to them.
pub(super) const LOAD_LOST: &str = concat!(
    "SELECT ",
    job_columns!(),
    ", t.now FROM (SELECT ",
    now!(),
    " AS now) AS t STRAIGHT_JOIN certlib_jobs AS j FORCE INDEX (certlib_jobs_leased)
     WHERE j.state = 'in_progress' AND j.lease_until <= ",
    now!(),
    " ORDER BY j.lease_until, j.id LIMIT ? FOR UPDATE SKIP LOCKED"
);

/// One job, locked.
pub(super) const LOAD: &str = concat!(
    "SELECT ",
    job_columns!(),
    ", t.now FROM (SELECT ",
    now!(),
    " AS now) AS t STRAIGHT_JOIN certlib_jobs AS j WHERE j.id = ? FOR UPDATE"
);

/// Another active job of a key.
pub(super) const FIND_TWIN: &str = "SELECT 1 FROM certlib_jobs WHERE kind = ? AND active_key = ? AND id <> ?";

/// Writes what the rules of the core may have changed.
pub(super) const WRITE_BACK: &str = "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (
         id VARBINARY(255) PATH '$[0]', state VARBINARY(16) PATH '$[1]', attempt INT PATH '$[2]',
         crash_count INT PATH '$[3]', run_at BIGINT PATH '$[4]', lease_until BIGINT PATH '$[5]',
         cancel_requested INT PATH '$[6]', rerun_requested INT PATH '$[7]', attempts LONGTEXT CHARACTER SET utf8mb4 PATH '$[8]',
         finished_at BIGINT PATH '$[9]', active INT PATH '$[10]')) AS n
     STRAIGHT_JOIN certlib_jobs AS j ON j.id = n.id
     SET j.state = n.state, j.attempt = n.attempt, j.crash_count = n.crash_count, j.run_at = n.run_at,
         j.lease_until = n.lease_until, j.cancel_requested = n.cancel_requested,
         j.rerun_requested = n.rerun_requested, j.attempts = n.attempts, j.finished_at = n.finished_at,
         j.active_key = IF(n.active, j.natural_key, NULL)";

/// The jobs of a state that ended first, locked.
pub(super) const LOAD_OLD: &str = concat!(
    "SELECT id FROM certlib_jobs FORCE INDEX (certlib_jobs_ended)
     WHERE state = ? AND finished_at < ",
    now!(),
    " - ? ORDER BY finished_at, id LIMIT ? FOR UPDATE SKIP LOCKED"
);

/// Deletes jobs.
pub(super) const DELETE: &str = "DELETE j FROM JSON_TABLE(?, '$[*]' COLUMNS (id VARBINARY(255) PATH '$')) AS n
     STRAIGHT_JOIN certlib_jobs AS j ON j.id = n.id";

/// Settles what simply succeeded, in one statement.
///
/// The answer is, for each settlement, whether it was accepted; `None` for each that needs [`Settle`].
pub(super) struct Succeed<'a> {
    pub(super) settlements: &'a [Settlement],
}

#[async_trait]
impl Operation for Succeed<'_> {
    type Output = Vec<Option<bool>>;

    const NAME: &'static str = "queue.settle";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<Option<bool>>> {
        succeed(tx, self.settlements).await
    }
}

async fn succeed(tx: &mut Transaction<'_>, settlements: &[Settlement]) -> Result<Vec<Option<bool>>> {
    let mut seen = HashSet::new();
    let mut plain: Vec<(&str, i64)> = Vec::with_capacity(settlements.len());
    for settlement in settlements {
        // Of several settlements of one job only the first can count, whatever its outcome.
        if seen.insert(&settlement.claim.job) && settlement.outcome == Outcome::Succeeded {
            plain.push((&settlement.claim.job, settlement.claim.epoch.cast_signed()));
        }
    }
    let mut answers = vec![None; settlements.len()];
    if plain.is_empty() {
        return Ok(answers);
    }
    // Locked in one order by everybody.
    plain.sort_unstable();
    let call: i64 = rand::random();
    let rows: Vec<_> = plain.iter().map(|claim| json!(claim)).collect();
    let mut done: HashSet<String> = HashSet::new();
    for chunk in chunks("queue.settle", &rows, tx.packet)? {
        let query = sqlx::query(SUCCEED).bind(&*chunk).bind(call).bind(tx.clock);
        let affected = query.execute(&mut *tx.connection).await.map_err(failed)?.rows_affected();
        if usize::try_from(affected).is_ok_and(|affected| affected == rows.len()) {
            done = plain.iter().map(|(id, _)| (*id).to_owned()).collect();
        } else if affected > 0 {
            let query = sqlx::query(SUCCEEDED).bind(chunk).bind(call);
            for row in &query.fetch_all(&mut *tx.connection).await.map_err(failed)? {
                done.insert(text(row, 0)?.to_owned());
            }
        }
    }
    for (answer, settlement) in answers.iter_mut().zip(settlements) {
        if settlement.outcome == Outcome::Succeeded && done.remove(&settlement.claim.job) {
            *answer = Some(true);
        }
    }
    Ok(answers)
}

/// Settles claimed jobs.
pub(super) struct Settle<'a> {
    pub(super) settlements: Vec<&'a Settlement>,
}

#[async_trait]
impl Operation for Settle<'_> {
    type Output = Vec<bool>;

    const NAME: &'static str = "queue.settle";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<bool>> {
        settle(tx, &self.settlements).await
    }
}

/// Settles one job; whether that was accepted.
pub(super) async fn settle_one(tx: &mut Transaction<'_>, settlement: &Settlement) -> Result<bool> {
    match succeed(tx, std::slice::from_ref(settlement)).await?.first() {
        Some(Some(accepted)) => Ok(*accepted),
        _ => Ok(settle(tx, &[settlement]).await? == [true]),
    }
}

async fn settle(tx: &mut Transaction<'_>, settlements: &[&Settlement]) -> Result<Vec<bool>> {
    let mut ids: Vec<_> = settlements.iter().map(|settlement| &settlement.claim.job).collect();
    ids.sort_unstable();
    ids.dedup();
    let ids: Vec<_> = ids.into_iter().map(|id| json!(id)).collect();
    let mut jobs = HashMap::with_capacity(ids.len());
    let mut now = OffsetDateTime::UNIX_EPOCH;
    for chunk in chunks("queue.settle", &ids, tx.packet)? {
        let query = sqlx::query(LOAD_CLAIMED).bind(tx.clock).bind(chunk);
        for row in &query.fetch_all(&mut *tx.connection).await.map_err(failed)? {
            let job = decode_without_payload(row)?;
            now = from_millis(number(row, AFTER_JOB)?)?;
            jobs.insert(job.id.clone(), job);
        }
    }
    let mut settled = Vec::with_capacity(settlements.len());
    let mut events = Vec::new();
    let mut accept = |settlement: &Settlement| {
        // A job that was settled is taken out: its claim does not hold any more.
        let held = jobs.get(&settlement.claim.job).is_some_and(|job| job.is_held_by(&settlement.claim));
        let Some(mut job) = held.then(|| jobs.remove(&settlement.claim.job)).flatten() else { return false };
        events.extend(job.settle(&settlement.outcome, settlement.duration, now));
        settled.push(job);
        true
    };
    let accepted = settlements.iter().map(|settlement| accept(settlement)).collect();
    write_back(tx, &settled, now).await?;
    commit::write(tx, &events).await?;
    Ok(accepted)
}

/// Takes back the jobs whose lease has passed.
pub(super) struct Reap<'a> {
    pub(super) policy: &'a RetryPolicy,
    pub(super) limit: usize,
}

#[async_trait]
impl Operation for Reap<'_> {
    type Output = Vec<Job>;

    const NAME: &'static str = "queue.reap";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<Job>> {
        let rows = sqlx::query(LOAD_LOST)
            .bind(tx.clock)
            .bind(tx.clock)
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *tx.connection)
            .await
            .map_err(failed)?;
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let now = from_millis(number(first, AFTER_JOB)?)?;
        let mut jobs: Vec<Job> = rows.iter().map(decode).collect::<Result<_>>()?;
        let mut events = Vec::new();
        for job in &mut jobs {
            events.extend(job.crash(self.policy, Jitter::random(), now));
        }
        write_back(tx, &jobs, now).await?;
        commit::write(tx, &events).await?;
        jobs.into_iter().map(as_stored).collect()
    }
}

/// Cancels a pending job, asks a running one to stop.
pub(super) struct Cancel<'a> {
    pub(super) id: &'a str,
}

#[async_trait]
impl Operation for Cancel<'_> {
    type Output = Job;

    const NAME: &'static str = "queue.cancel";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Job> {
        let (mut job, now) = load(tx, self.id, Self::NAME).await?;
        job.stop(now)?;
        write_back(tx, std::slice::from_ref(&job), now).await?;
        Ok(job)
    }
}

/// Makes a job pending again that ended without success.
pub(super) struct Retry<'a> {
    pub(super) id: &'a str,
    pub(super) delay: Duration,
}

#[async_trait]
impl Operation for Retry<'_> {
    type Output = Job;

    const NAME: &'static str = "queue.retry";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Job> {
        let (mut job, now) = load(tx, self.id, Self::NAME).await?;
        if let Some(key) = job.key.as_deref() {
            let query = sqlx::query(FIND_TWIN).bind(job.kind.as_bytes()).bind(key.as_bytes()).bind(job.id.as_bytes());
            if query.fetch_optional(&mut *tx.connection).await.map_err(failed)?.is_some() {
                return Err(job.active_already());
            }
        }
        job.restart(later(now, self.delay))?;
        write_back(tx, std::slice::from_ref(&job), now).await?;
        as_stored(job)
    }
}

/// Deletes jobs that ended long ago.
pub(super) struct Purge {
    pub(super) state: JobState,
    pub(super) older_than: Duration,
    pub(super) limit: usize,
}

#[async_trait]
impl Operation for Purge {
    type Output = Vec<String>;

    const NAME: &'static str = "queue.purge";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<String>> {
        let rows = sqlx::query(LOAD_OLD)
            .bind(self.state.as_str().as_bytes())
            .bind(tx.clock)
            .bind(millis(self.older_than))
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *tx.connection)
            .await
            .map_err(failed)?;
        let ids: Vec<String> = rows.iter().map(|row| text(row, 0).map(str::to_owned)).collect::<Result<_>>()?;
        let list: Vec<_> = ids.iter().map(|id| json!(id)).collect();
        for chunk in chunks(Self::NAME, &list, tx.packet)? {
            sqlx::query(DELETE).bind(chunk).execute(&mut *tx.connection).await.map_err(failed)?;
        }
        Ok(ids)
    }
}

/// The job with `id`, locked, and the time.
async fn load(tx: &mut Transaction<'_>, id: &str, operation: &'static str) -> Result<(Job, OffsetDateTime)> {
    let query = sqlx::query(LOAD).bind(tx.clock).bind(id.as_bytes());
    let row = query.fetch_optional(&mut *tx.connection).await.map_err(failed)?;
    let row = row.ok_or_else(|| Error::not_found(operation, format_args!("job {id}")))?;
    Ok((decode(&row)?, from_millis(number(&row, AFTER_JOB)?)?))
}

/// Writes what the rules of the core may have changed.
async fn write_back(tx: &mut Transaction<'_>, jobs: &[Job], now: OffsetDateTime) -> Result<()> {
    let mut rows = Vec::with_capacity(jobs.len());
    for job in jobs {
        let attempts =
            serde_json::to_string(&job.attempts).map_err(|error| failed(sqlx::Error::Encode(Box::new(error))))?;
        let (lease_until, finished_at) = (job.lease_until.map(to_millis), job.finished_at.map(to_millis));
        rows.push(json!([
            job.id,
            job.state.as_str(),
            i32::try_from(job.attempt).unwrap_or(i32::MAX),
            i32::try_from(job.crash_count).unwrap_or(i32::MAX),
            to_millis(job.run_at),
            lease_until,
            i64::from(job.cancel_requested),
            i64::from(job.rerun_requested),
            attempts,
            finished_at,
            i64::from(job.state.is_active()),
        ]));
        tx.became_due |= job.state == JobState::Pending && job.run_at <= now;
    }
    for chunk in chunks("queue.write", &rows, tx.packet)? {
        match sqlx::query(WRITE_BACK).bind(chunk).execute(&mut *tx.connection).await {
            Ok(_) => {}
            // A job that ended became active again while another took its key.
            Err(error) if is_duplicate(&error) && jobs.len() == 1 => return Err(jobs[0].active_already()),
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// `job` with its time as the database rounds it.
fn as_stored(mut job: Job) -> Result<Job> {
    job.run_at = from_millis(to_millis(job.run_at))?;
    Ok(job)
}

fn failed(error: sqlx::Error) -> Error {
    store_error("queue.write", error)
}
