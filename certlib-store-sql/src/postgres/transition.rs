//! What ends, interrupts or revives a job: load, apply the core's rule, write back.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::backoff::Jitter;
use certlib_core::error::{Error, Result};
use certlib_core::queue::{Claim, Job, JobState, Outcome, RetryPolicy, Settlement, later};
use sqlx::Row;

use super::commit;
use super::error::{is_duplicate, store_error};
use super::job::{decode, decode_without_payload, job_columns, value};
use super::queue::{columns, wait};
use super::session::{Mode, Operation, Tx, now};
use certlib_core::store::timestamp::{from_millis, to_millis};

/// Settles successes of which nothing else has to be known. The rest goes the long way.
///
/// Jobs are found by their ids. The detour around `state` keeps the planner away from the index of leased jobs, which it
/// would take for almost empty, and which holds an entry for every claim since the last vacuum.
pub(super) const SUCCEED: &str = concat!(
    "UPDATE certlib_jobs AS j SET state = 'succeeded', crash_count = 0, lease_until = NULL, finished_at = t.now
     FROM (SELECT ",
    now!("$1"),
    " AS now) AS t, unnest($2::text[], $3::bigint[]) AS n(id, epoch)
     WHERE j.id = n.id AND j.claim_epoch = n.epoch AND j.state || '' = 'in_progress' AND NOT j.rerun_requested
     RETURNING j.id, j.claim_epoch"
);

/// Jobs in progress, without their payloads, found by their ids as in [`SUCCEED`].
pub(super) const LOAD_CLAIMED: &str = concat!(
    "SELECT ",
    job_columns!("NULL::text"),
    " FROM certlib_jobs WHERE id = ANY ($1::text[]) AND state || '' = 'in_progress' ORDER BY id FOR UPDATE"
);

/// Jobs whose lease has passed, the longest first. One that is being settled is not lost.
pub(super) const LOAD_LOST: &str = concat!(
    "SELECT ",
    job_columns!(),
    " FROM certlib_jobs WHERE state = 'in_progress' AND lease_until <= $1
      ORDER BY lease_until, id LIMIT $2 FOR UPDATE SKIP LOCKED"
);

const LOAD: &str = concat!("SELECT ", job_columns!(), " FROM certlib_jobs WHERE id = $1 FOR UPDATE");

/// Another active job of a key.
pub(super) const FIND_TWIN: &str = "SELECT 1 FROM certlib_jobs
             WHERE kind = $1 AND natural_key = $2 AND state IN ('pending', 'in_progress') AND id <> $3";

/// Writes what the rules of the core may have changed.
pub(super) const WRITE_BACK: &str = "UPDATE certlib_jobs AS j SET
             state = n.state, attempt = n.attempt, crash_count = n.crash_count, run_at = n.run_at,
             lease_until = n.lease_until, cancel_requested = n.cancel_requested, rerun_requested = n.rerun_requested,
             attempts = n.attempts, finished_at = n.finished_at
         FROM unnest($1::text[], $2::text[], $3::integer[], $4::integer[], $5::bigint[], $6::bigint[], $7::boolean[],
                 $8::boolean[], $9::text[], $10::bigint[])
             AS n(id, state, attempt, crash_count, run_at, lease_until, cancel_requested, rerun_requested, attempts,
                 finished_at)
         WHERE j.id = n.id";

/// Deletes the jobs of a state that ended first.
pub(super) const PURGE: &str = concat!(
    "WITH old AS MATERIALIZED (
         SELECT id AS job FROM certlib_jobs
         WHERE state = $2 AND finished_at IS NOT NULL AND finished_at < ",
    now!("$1"),
    " - $3::bigint
         ORDER BY finished_at, id LIMIT $4 FOR UPDATE SKIP LOCKED),
     gone AS (
         DELETE FROM certlib_jobs USING old WHERE id = old.job RETURNING id, created_at, finished_at),
     unlisted AS (
         DELETE FROM certlib_job_list AS l USING gone WHERE l.created_at = gone.created_at AND l.id = gone.id)
     SELECT id FROM gone ORDER BY finished_at, id"
);

/// Settles jobs that succeeded, in one statement, and names them; the others need the long way.
pub(super) struct Succeed<'a> {
    pub(super) settlements: &'a [Settlement],
}

impl Succeed<'_> {
    /// Whether this is the way for `settlements`.
    pub(super) fn fits(settlements: &[Settlement]) -> bool {
        settlements.iter().all(|settlement| settlement.outcome == Outcome::Succeeded)
    }
}

#[async_trait]
impl Operation for Succeed<'_> {
    type Output = HashSet<Claim>;
    const MODE: Mode = Mode::Statement;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<HashSet<Claim>> {
        let (ids, epochs) = columns(self.settlements.iter().map(|settlement| &settlement.claim));
        let rows = sqlx::query(SUCCEED)
            .bind(tx.now)
            .bind(ids)
            .bind(epochs)
            .fetch_all(&mut *tx.connection)
            .await
            .map_err(failed)?;
        let claim = |row: &sqlx::postgres::PgRow| {
            Ok(Claim { job: row.try_get(0)?, epoch: row.try_get::<i64, _>(1)?.cast_unsigned() })
        };
        rows.iter().map(claim).collect::<sqlx::Result<_>>().map_err(failed)
    }
}

/// Settles claimed jobs.
pub(super) struct Settle<'a> {
    pub(super) settlements: &'a [Settlement],
}

#[async_trait]
impl Operation for Settle<'_> {
    type Output = Vec<bool>;
    const MODE: Mode = Mode::Transaction;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<bool>> {
        settle(tx, self.settlements).await
    }
}

/// Whether each settlement was accepted.
pub(super) async fn settle(tx: &mut Tx<'_>, settlements: &[Settlement]) -> Result<Vec<bool>> {
    let (ids, _) = columns(settlements.iter().map(|settlement| &settlement.claim));
    let rows = sqlx::query(LOAD_CLAIMED).bind(ids).fetch_all(&mut *tx.connection).await.map_err(failed)?;
    let mut jobs = HashMap::with_capacity(rows.len());
    for row in &rows {
        let job = decode_without_payload(row)?;
        jobs.insert(job.id.clone(), job);
    }
    if jobs.is_empty() {
        return Ok(vec![false; settlements.len()]);
    }
    let present = tx.present().await?;
    let now = from_millis(present)?;
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
    let accepted = settlements.iter().map(&mut accept).collect();
    write_back(tx, &settled, present).await?;
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
    const MODE: Mode = Mode::Transaction;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Job>> {
        let present = tx.present().await?;
        let rows = sqlx::query(LOAD_LOST)
            .bind(present)
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *tx.connection)
            .await
            .map_err(failed)?;
        let mut jobs: Vec<Job> = rows.iter().map(decode).collect::<Result<_>>()?;
        let mut events = Vec::new();
        for job in &mut jobs {
            events.extend(job.crash(self.policy, Jitter::random(), from_millis(present)?));
        }
        write_back(tx, &jobs, present).await?;
        commit::write(tx, &events).await?;
        as_stored(jobs)
    }
}

/// Cancels a pending job, asks a running one to stop.
pub(super) struct Cancel<'a> {
    pub(super) id: &'a str,
}

#[async_trait]
impl Operation for Cancel<'_> {
    type Output = Job;
    const MODE: Mode = Mode::Transaction;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Job> {
        let mut job = load(tx, self.id, "queue.cancel").await?;
        let present = tx.present().await?;
        job.stop(from_millis(present)?)?;
        write_back(tx, std::slice::from_ref(&job), present).await?;
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
    const MODE: Mode = Mode::Transaction;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Job> {
        let mut job = load(tx, self.id, "queue.retry").await?;
        let twin = sqlx::query(FIND_TWIN)
            .bind(&*job.kind)
            .bind(job.key.as_deref())
            .bind(&*job.id)
            .fetch_optional(&mut *tx.connection)
            .await
            .map_err(failed)?;
        if twin.is_some() {
            return Err(job.active_already());
        }
        let present = tx.present().await?;
        job.restart(later(from_millis(present)?, self.delay))?;
        match save(tx, std::slice::from_ref(&job), present).await {
            // Somebody was quicker to make another job of the same key.
            Err(error) if is_duplicate(&error) => return Err(job.active_already()),
            saved => saved.map_err(failed)?,
        }
        as_stored(vec![job])?.pop().ok_or_else(|| Error::not_found("queue.retry", "job"))
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
    const MODE: Mode = Mode::Statement;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<String>> {
        let rows = sqlx::query(PURGE)
            .bind(tx.now)
            .bind(self.state.as_str())
            .bind(wait(self.older_than))
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *tx.connection)
            .await
            .map_err(failed)?;
        rows.iter().map(|row| value(row, 0)).collect()
    }
}

async fn load(tx: &mut Tx<'_>, id: &str, operation: &'static str) -> Result<Job> {
    let missing = || Error::not_found(operation, format_args!("job {id}"));
    if id.contains('\0') {
        return Err(missing());
    }
    let row = sqlx::query(LOAD).bind(id).fetch_optional(&mut *tx.connection).await.map_err(failed)?;
    row.as_ref().map(decode).transpose()?.ok_or_else(missing)
}

async fn write_back(tx: &mut Tx<'_>, jobs: &[Job], present: i64) -> Result<()> {
    save(tx, jobs, present).await.map_err(failed)
}

/// Writes what the rules of the core may have changed.
async fn save(tx: &mut Tx<'_>, jobs: &[Job], present: i64) -> sqlx::Result<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    let (mut ids, mut states, mut attempts, mut crashes) = (vec![], vec![], vec![], vec![]);
    let (mut runs, mut leases, mut cancels, mut reruns) = (vec![], vec![], vec![], vec![]);
    let (mut records, mut ends) = (vec![], vec![]);
    let small = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    for job in jobs {
        let run_at = to_millis(job.run_at);
        ids.push(&*job.id);
        states.push(job.state.as_str());
        attempts.push(small(job.attempt));
        crashes.push(small(job.crash_count));
        runs.push(run_at);
        leases.push(job.lease_until.map(to_millis));
        cancels.push(job.cancel_requested);
        reruns.push(job.rerun_requested);
        records.push(serde_json::to_string(&job.attempts).map_err(|error| sqlx::Error::Encode(Box::new(error)))?);
        ends.push(job.finished_at.map(to_millis));
        tx.became_due |= job.state == JobState::Pending && run_at <= present;
    }
    sqlx::query(WRITE_BACK)
        .bind(ids)
        .bind(states)
        .bind(attempts)
        .bind(crashes)
        .bind(runs)
        .bind(leases)
        .bind(cancels)
        .bind(reruns)
        .bind(records)
        .bind(ends)
        .execute(&mut *tx.connection)
        .await
        .map(drop)
}

/// `jobs` with their times as the database rounds them.
fn as_stored(mut jobs: Vec<Job>) -> Result<Vec<Job>> {
    for job in &mut jobs {
        job.run_at = from_millis(to_millis(job.run_at))?;
    }
    Ok(jobs)
}

fn failed(error: sqlx::Error) -> Error {
    store_error("queue.write", error)
}
