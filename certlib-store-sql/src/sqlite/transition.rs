//! What ends, interrupts or revives a job: load, apply the core's rule, write back.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::backoff::Jitter;
use certlib_core::error::{Error, Result};
use certlib_core::queue::{Job, JobState, RetryPolicy, Settlement, later};
use serde_json::{Value, json};
use sqlx::Row as _;

use super::commit;
use super::error::store_error;
use super::job::{decode, decode_without_payload, job_columns};
use super::timestamp::to_millis;
use super::writer::{Operation, Transaction};

/// Jobs in progress, without their payloads.
pub(super) const LOAD_CLAIMED: &str = concat!(
    "SELECT ",
    job_columns!("NULL"),
    " FROM certlib_jobs WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'in_progress'"
);

/// Jobs whose lease has passed, the longest first.
pub(super) const LOAD_LOST: &str = concat!(
    "SELECT ",
    job_columns!(),
    " FROM certlib_jobs WHERE state = 'in_progress' AND lease_until <= ?1 ORDER BY lease_until, id LIMIT ?2"
);

/// Another active job of a key.
pub(super) const FIND_TWIN: &str = "SELECT 1 FROM certlib_jobs
             WHERE kind = ?1 AND natural_key = ?2 AND state IN ('pending', 'in_progress') AND id <> ?3";

/// Writes what the rules of the core may have changed.
pub(super) const WRITE_BACK: &str = "UPDATE certlib_jobs SET
             state = n.value ->> 1, attempt = n.value ->> 2, crash_count = n.value ->> 3, run_at = n.value ->> 4,
             lease_until = n.value ->> 5, cancel_requested = n.value ->> 6, rerun_requested = n.value ->> 7,
             attempts = n.value ->> 8, finished_at = n.value ->> 9
         FROM json_each(?1) AS n WHERE certlib_jobs.id = n.value ->> 0";

/// Deletes the jobs of a state that ended first.
pub(super) const PURGE: &str = "DELETE FROM certlib_jobs WHERE id IN (
             SELECT id FROM certlib_jobs WHERE state = ?1 AND finished_at IS NOT NULL AND finished_at < ?2
             ORDER BY finished_at, id LIMIT ?3)
         RETURNING finished_at, id";

/// Settles claimed jobs.
pub(super) struct Settle {
    pub(super) settlements: Vec<Settlement>,
}

#[async_trait]
impl Operation for Settle {
    type Output = Vec<bool>;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<bool>> {
        settle(tx, &self.settlements).await
    }
}

/// Whether each settlement was accepted.
pub(super) async fn settle(tx: &mut Transaction<'_>, settlements: &[Settlement]) -> Result<Vec<bool>> {
    let ids: Vec<_> = settlements.iter().map(|settlement| &settlement.claim.job).collect();
    let rows =
        sqlx::query(LOAD_CLAIMED).bind(json!(ids).to_string()).fetch_all(&mut *tx.connection).await.map_err(failed)?;
    let mut jobs = HashMap::with_capacity(rows.len());
    for row in &rows {
        let job = decode_without_payload(row)?;
        jobs.insert(job.id.clone(), job);
    }
    let mut settled = Vec::with_capacity(settlements.len());
    let mut events = Vec::new();
    let mut accept = |settlement: &Settlement| {
        // A job that was settled is taken out: its claim does not hold any more.
        let held = jobs.get(&settlement.claim.job).is_some_and(|job| job.is_held_by(&settlement.claim));
        let Some(mut job) = held.then(|| jobs.remove(&settlement.claim.job)).flatten() else { return false };
        events.extend(job.settle(&settlement.outcome, settlement.duration, tx.now));
        settled.push(job);
        true
    };
    let accepted = settlements.iter().map(&mut accept).collect();
    write_back(tx, &settled).await?;
    commit::write(tx.connection, &events).await?;
    Ok(accepted)
}

/// Takes back the jobs whose lease has passed.
pub(super) struct Reap {
    pub(super) policy: RetryPolicy,
    pub(super) limit: usize,
}

#[async_trait]
impl Operation for Reap {
    type Output = Vec<Job>;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<Job>> {
        let rows = sqlx::query(LOAD_LOST)
            .bind(to_millis(tx.now))
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *tx.connection)
            .await
            .map_err(failed)?;
        let mut jobs: Vec<Job> = rows.iter().map(decode).collect::<Result<_>>()?;
        let mut events = Vec::new();
        for job in &mut jobs {
            events.extend(job.crash(&self.policy, Jitter::random(), tx.now));
        }
        write_back(tx, &jobs).await?;
        commit::write(tx.connection, &events).await?;
        as_stored(jobs)
    }
}

/// Cancels a pending job, asks a running one to stop.
pub(super) struct Cancel {
    pub(super) id: String,
}

#[async_trait]
impl Operation for Cancel {
    type Output = Job;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Job> {
        let mut job = load(tx, &self.id, "queue.cancel").await?;
        job.stop(tx.now)?;
        write_back(tx, std::slice::from_ref(&job)).await?;
        Ok(job)
    }
}

/// Makes a job pending again that ended without success.
pub(super) struct Retry {
    pub(super) id: String,
    pub(super) delay: Duration,
}

#[async_trait]
impl Operation for Retry {
    type Output = Job;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Job> {
        let mut job = load(tx, &self.id, "queue.retry").await?;
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
        job.restart(later(tx.now, self.delay))?;
        write_back(tx, std::slice::from_ref(&job)).await?;
        Ok(job)
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

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<String>> {
        let age = i64::try_from(self.older_than.as_millis()).unwrap_or(i64::MAX);
        let rows = sqlx::query(PURGE)
            .bind(self.state.as_str())
            .bind(to_millis(tx.now).saturating_sub(age))
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *tx.connection)
            .await
            .map_err(failed)?;
        let mut ended: Vec<(i64, String)> = rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<sqlx::Result<_>>()
            .map_err(failed)?;
        // What a deletion returns is in no order.
        ended.sort();
        Ok(ended.into_iter().map(|(_, id)| id).collect())
    }
}

async fn load(tx: &mut Transaction<'_>, id: &str, operation: &'static str) -> Result<Job> {
    let row = sqlx::query(concat!("SELECT ", job_columns!(), " FROM certlib_jobs WHERE id = ?1"))
        .bind(id)
        .fetch_optional(&mut *tx.connection)
        .await
        .map_err(failed)?;
    row.as_ref().map(decode).transpose()?.ok_or_else(|| Error::not_found(operation, format_args!("job {id}")))
}

/// Writes what the rules of the core may have changed.
async fn write_back(tx: &mut Transaction<'_>, jobs: &[Job]) -> Result<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    let mut rows = Vec::with_capacity(jobs.len());
    for job in jobs {
        let attempts =
            serde_json::to_string(&job.attempts).map_err(|error| failed(sqlx::Error::Encode(Box::new(error))))?;
        let (lease_until, finished_at) = (job.lease_until.map(to_millis), job.finished_at.map(to_millis));
        rows.push(json!([
            job.id,
            job.state.as_str(),
            job.attempt,
            job.crash_count,
            to_millis(job.run_at),
            lease_until,
            i64::from(job.cancel_requested),
            i64::from(job.rerun_requested),
            attempts,
            finished_at
        ]));
        tx.became_due |= job.state == JobState::Pending && job.run_at <= tx.now;
    }
    sqlx::query(WRITE_BACK)
        .bind(Value::Array(rows).to_string())
        .execute(&mut *tx.connection)
        .await
        .map(drop)
        .map_err(failed)
}

/// `jobs` with their times as the database rounds them.
fn as_stored(mut jobs: Vec<Job>) -> Result<Vec<Job>> {
    for job in &mut jobs {
        job.run_at = super::timestamp::from_millis(to_millis(job.run_at))?;
    }
    Ok(jobs)
}

fn failed(error: sqlx::Error) -> certlib_core::Error {
    store_error("queue.write", error)
}
