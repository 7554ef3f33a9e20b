//! Enqueueing, claiming, extending.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::error::Result;
use certlib_core::queue::{Claim, ClaimRequest, Enqueued, Extension, Job, NewJob, later};
use serde_json::{Value, json};
use sqlx::Row;

use super::error::store_error;
use super::job::{decode, job_columns};
use super::timestamp::to_millis;
use super::writer::{Operation, Transaction};

/// Finds the active job of a key: one that runs will run again, one that waits goes as soon as the more urgent of the two.
pub(super) const MEET_TWIN: &str = "UPDATE certlib_jobs SET rerun_requested = (state = 'in_progress'),
             run_at = iif(state = 'pending', min(run_at, ?3), run_at),
             priority = iif(state = 'pending', max(priority, ?4), priority)
         WHERE kind = ?1 AND natural_key = ?2 AND state IN ('pending', 'in_progress')
         RETURNING id, state = 'pending'";

/// The next lower priority at which a job waits.
pub(super) const PRIORITY_BELOW: &str =
    "SELECT priority FROM certlib_jobs WHERE state = 'pending' AND lane = ?1 AND priority < ?2
             ORDER BY priority DESC LIMIT 1";

/// Leases the due jobs of one priority.
pub(super) const CLAIM: &str = concat!(
    "UPDATE certlib_jobs SET state = 'in_progress', attempt = attempt + 1, claim_epoch = claim_epoch + 1,
                 worker = ?1, lease_until = ?2
             WHERE id IN (
                 SELECT id FROM certlib_jobs
                 WHERE state = 'pending' AND lane = ?3 AND priority = ?4 AND run_at <= ?5
                     AND parent NOT IN (SELECT value FROM json_each(?7))
                 ORDER BY run_at, id LIMIT ?6)
             RETURNING ",
    job_columns!()
);

/// Moves the end of the leases that hold.
pub(super) const EXTEND: &str = "UPDATE certlib_jobs SET lease_until = ?2 FROM json_each(?1) AS n
             WHERE certlib_jobs.id = n.value ->> 0 AND claim_epoch = n.value ->> 1 AND state = 'in_progress'
             RETURNING id, claim_epoch, cancel_requested";

/// Adds jobs.
pub(super) struct Enqueue {
    pub(super) jobs: Vec<NewJob>,
}

#[async_trait]
impl Operation for Enqueue {
    type Output = Vec<Enqueued>;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<Enqueued>> {
        enqueue(tx, &self.jobs).await
    }
}

/// Inserts what can be inserted in one statement, and looks for the twins of the rest.
pub(super) async fn enqueue(tx: &mut Transaction<'_>, jobs: &[NewJob]) -> Result<Vec<Enqueued>> {
    let rows = jobs.iter().map(|job| {
        let run_at = to_millis(later(tx.now, job.delay));
        let (lane, payload) = (job.lane.as_str(), job.payload.to_string());
        json!([job.id, job.kind, lane, job.key, job.project, payload, job.priority, run_at, job.effective_parent()])
    });
    let inserted = sqlx::query(
        "INSERT INTO certlib_jobs (id, kind, lane, natural_key, project, payload, priority, run_at, parent,
             created_at, state, attempt, claim_epoch, crash_count, cancel_requested, rerun_requested, attempts)
         SELECT n.value ->> 0, n.value ->> 1, n.value ->> 2, n.value ->> 3, n.value ->> 4, n.value ->> 5,
             n.value ->> 6, n.value ->> 7, n.value ->> 8, ?2, 'pending', 0, 0, 0, 0, 0, '[]'
         FROM json_each(?1) AS n WHERE true
         ON CONFLICT DO NOTHING RETURNING id",
    )
    .bind(Value::Array(rows.collect()).to_string())
    .bind(to_millis(tx.now))
    .fetch_all(&mut *tx.connection)
    .await
    .map_err(failed)?;
    let mut inserted: HashSet<String> =
        inserted.iter().map(|row| row.try_get(0)).collect::<sqlx::Result<_>>().map_err(failed)?;
    let mut enqueued = Vec::with_capacity(jobs.len());
    for job in jobs {
        // Taken out, so that a second job with the same id in the same call is told that it is the second.
        if inserted.remove(&job.id) {
            tx.became_due |= job.delay.is_zero();
            enqueued.push(Enqueued { id: job.id.clone(), deduplicated: false });
        } else {
            enqueued.push(Enqueued { id: meet_twin(tx, job).await?, deduplicated: true });
        }
    }
    Ok(enqueued)
}

/// The id of the job that stands for `job`: itself, or the active one of its key, which then runs again if it runs.
async fn meet_twin(tx: &mut Transaction<'_>, job: &NewJob) -> Result<String> {
    let itself = sqlx::query("SELECT 1 FROM certlib_jobs WHERE id = ?1")
        .bind(&*job.id)
        .fetch_optional(&mut *tx.connection)
        .await
        .map_err(failed)?;
    if itself.is_some() {
        return Ok(job.id.clone());
    }
    let twin = sqlx::query(MEET_TWIN)
        .bind(&*job.kind)
        .bind(job.key.as_deref())
        .bind(to_millis(later(tx.now, job.delay)))
        .bind(i64::from(job.priority))
        .fetch_all(&mut *tx.connection)
        .await
        .map_err(failed)?;
    let twin = twin.first().ok_or(sqlx::Error::RowNotFound).map_err(failed)?;
    let waits: bool = twin.try_get(1).map_err(failed)?;
    tx.became_due |= waits && job.delay.is_zero();
    twin.try_get(0).map_err(failed)
}

/// Leases due jobs to a worker.
pub(super) struct ClaimDue {
    pub(super) request: ClaimRequest,
}

#[async_trait]
impl Operation for ClaimDue {
    type Output = Vec<Job>;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<Job>> {
        let mut claimed = Vec::new();
        let mut above = i64::from(i16::MAX) + 1;
        // One priority after the other: within each, the index is in due order, so nothing that waits is looked at.
        while claimed.len() < self.request.limit {
            let Some(priority) = self.priority_below(tx, above).await? else { break };
            claimed.extend(self.claim_at(tx, priority, self.request.limit - claimed.len()).await?);
            above = priority;
        }
        Ok(claimed)
    }
}

impl ClaimDue {
    async fn priority_below(&self, tx: &mut Transaction<'_>, above: i64) -> Result<Option<i64>> {
        sqlx::query(PRIORITY_BELOW)
            .bind(self.request.lane.as_str())
            .bind(above)
            .fetch_optional(&mut *tx.connection)
            .await
            .and_then(|row| row.map(|row| row.try_get(0)).transpose())
            .map_err(failed)
    }

    async fn claim_at(&self, tx: &mut Transaction<'_>, priority: i64, limit: usize) -> Result<Vec<Job>> {
        let request = &self.request;
        let rows = sqlx::query(CLAIM)
            .bind(&*request.worker)
            .bind(to_millis(later(tx.now, request.lease)))
            .bind(request.lane.as_str())
            .bind(priority)
            .bind(to_millis(tx.now))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(json!(request.avoid).to_string())
            .fetch_all(&mut *tx.connection)
            .await
            .map_err(failed)?;
        let mut jobs: Vec<Job> = rows.iter().map(decode).collect::<Result<_>>()?;
        // What an update returns is in no order.
        jobs.sort_by(|a, b| {
            let rank = |job: &Job| (Reverse(job.priority), job.run_at);
            rank(a).cmp(&rank(b)).then_with(|| a.id.cmp(&b.id))
        });
        Ok(jobs)
    }
}

/// Moves the end of leases.
pub(super) struct Extend {
    pub(super) claims: Vec<Claim>,
    pub(super) lease: Duration,
}

#[async_trait]
impl Operation for Extend {
    type Output = Vec<Extension>;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<Extension>> {
        let claims: Vec<_> = self.claims.iter().map(|claim| json!([claim.job, claim.epoch])).collect();
        let rows = sqlx::query(EXTEND)
            .bind(Value::Array(claims).to_string())
            .bind(to_millis(later(tx.now, self.lease)))
            .fetch_all(&mut *tx.connection)
            .await
            .map_err(failed)?;
        let mut held = HashMap::with_capacity(rows.len());
        for row in &rows {
            let epoch: i64 = row.try_get(1).map_err(failed)?;
            let claim = Claim { job: row.try_get(0).map_err(failed)?, epoch: epoch.cast_unsigned() };
            held.insert(claim, row.try_get::<bool, _>(2).map_err(failed)?);
        }
        let answer = |claim| match held.get(claim) {
            Some(&cancel_requested) => Extension::Held { cancel_requested },
            None => Extension::Lost,
        };
        Ok(self.claims.iter().map(answer).collect())
    }
}

fn failed(error: sqlx::Error) -> certlib_core::Error {
    store_error("queue.write", error)
}
