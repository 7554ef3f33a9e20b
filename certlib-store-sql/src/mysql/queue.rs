//! Enqueueing, claiming, extending.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::error::Result;
use certlib_core::queue::{Claim, ClaimRequest, Enqueued, Extension, Job, Lane, NewJob};
use serde_json::{Value, json};
use sqlx::{Arguments as _, AssertSqlSafe};

use super::database::{Operation, Transaction, now};
use super::error::{code, is_duplicate, store_error};
use super::job::{AFTER_JOB, decode, job_columns, number, text};
use super::rows::chunks;
use certlib_core::store::timestamp::{LAST, from_millis};

/// Adds jobs; fails as a whole when one of them, or an active one of its key, is there.
pub(super) const INSERT: &str = concat!(
    "INSERT INTO certlib_jobs (id, kind, lane, natural_key, active_key, project, parent, payload, urgency, state,
         attempt, claim_epoch, crash_count, run_at, cancel_requested, rerun_requested, attempts, created_at)
     SELECT n.id, n.kind, n.lane, n.natural_key, n.natural_key, n.project, n.parent, n.payload, n.urgency, 'pending',
         0, 0, 0, LEAST(t.now + n.delay, 253402300799999), 0, 0, '[]', t.now
     FROM (SELECT ",
    now!(),
    " AS now) AS t CROSS JOIN JSON_TABLE(?, '$[*]' COLUMNS (
         id VARBINARY(255) PATH '$[0]', kind VARBINARY(255) PATH '$[1]', lane VARBINARY(32) PATH '$[2]',
         natural_key VARBINARY(512) PATH '$[3]', project VARBINARY(255) PATH '$[4]', parent VARBINARY(255) PATH '$[5]',
         payload LONGTEXT CHARACTER SET utf8mb4 PATH '$[6]', urgency INT PATH '$[7]', delay BIGINT PATH '$[8]')) AS n"
);

/// Which of some ids are there.
pub(super) const PRESENT: &str = "SELECT j.id FROM JSON_TABLE(?, '$[*]' COLUMNS (id VARBINARY(255) PATH '$')) AS n
     STRAIGHT_JOIN certlib_jobs AS j ON j.id = n.id";

/// The active jobs of some keys, by their positions in the list; they stay what they are until the transaction ends.
pub(super) const TWINS: &str = "SELECT n.position, j.id, j.state = 'pending' FROM JSON_TABLE(?, '$[*]' COLUMNS (
         position BIGINT PATH '$[0]', kind VARBINARY(255) PATH '$[1]', natural_key VARBINARY(512) PATH '$[2]')) AS n
     STRAIGHT_JOIN certlib_jobs AS j ON j.kind = n.kind AND j.active_key = n.natural_key FOR UPDATE";

/// Lets active jobs know that they are asked for again: one that runs will run again, one that waits goes as soon as
/// the more urgent of the two.
pub(super) const MEET: &str = concat!(
    "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (
         id VARBINARY(255) PATH '$[0]', urgency INT PATH '$[1]', delay BIGINT PATH '$[2]')) AS n
     STRAIGHT_JOIN certlib_jobs AS j ON j.id = n.id
     SET j.rerun_requested = (j.state = 'in_progress'),
         j.run_at = IF(j.state = 'pending', LEAST(j.run_at, ",
    now!(),
    " + n.delay), j.run_at),
         j.urgency = IF(j.state = 'pending', LEAST(j.urgency, n.urgency), j.urgency)"
);

/// The next lower urgency at which a job waits, and whether one is due there. Locks nothing.
pub(super) const NEXT_URGENCY: &str = concat!(
    "SELECT urgency, CAST(run_at <= ",
    now!(),
    " AS SIGNED) FROM certlib_jobs FORCE INDEX (certlib_jobs_waiting)
     WHERE state = 'pending' AND lane = ? AND urgency > ? ORDER BY urgency, run_at LIMIT 1"
);

/// Locks the due jobs of one urgency that nobody else has locked. What follows `?` here depends on the request.
const LOCK_DUE: [&str; 2] = [
    concat!(
        "SELECT ",
        job_columns!(),
        ", t.now FROM (SELECT ",
        now!(),
        " AS now) AS t STRAIGHT_JOIN certlib_jobs AS j FORCE INDEX (certlib_jobs_waiting)
         WHERE j.state = 'pending' AND j.lane = ? AND j.urgency = ? AND j.run_at <= ",
        now!()
    ),
    " ORDER BY j.run_at, j.id LIMIT ? FOR UPDATE SKIP LOCKED",
];

/// Leases jobs that this transaction has locked.
pub(super) const LEASE: &str = "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (id VARBINARY(255) PATH '$')) AS n
     STRAIGHT_JOIN certlib_jobs AS j ON j.id = n.id
     SET j.state = 'in_progress', j.attempt = j.attempt + 1, j.claim_epoch = j.claim_epoch + 1, j.worker = ?,
         j.lease_until = ?";

/// Moves the end of the leases that hold.
pub(super) const EXTEND: &str = concat!(
    "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (id VARBINARY(255) PATH '$[0]', epoch BIGINT PATH '$[1]')) AS n
     STRAIGHT_JOIN certlib_jobs AS j ON j.id = n.id AND j.claim_epoch = n.epoch AND j.state = 'in_progress'
     SET j.lease_until = LEAST(",
    now!(),
    " + ?, 253402300799999)"
);

/// Which leases hold.
pub(super) const HELD: &str = "SELECT j.id, j.claim_epoch, j.cancel_requested FROM JSON_TABLE(?, '$[*]' COLUMNS (
         id VARBINARY(255) PATH '$[0]', epoch BIGINT PATH '$[1]')) AS n
     STRAIGHT_JOIN certlib_jobs AS j ON j.id = n.id AND j.claim_epoch = n.epoch AND j.state = 'in_progress'";

/// `wait` in whole milliseconds, rounded up: nothing is due before its time.
pub(super) fn millis(wait: Duration) -> i64 {
    let whole = wait.as_millis() + u128::from(!wait.subsec_nanos().is_multiple_of(1_000_000));
    i64::try_from(whole).map_or(LAST, |millis| millis.min(LAST))
}

fn insert_row(job: &NewJob) -> Value {
    let (lane, payload) = (job.lane.as_str(), job.payload.to_string());
    let urgency = -i32::from(job.priority);
    let parent = job.effective_parent();
    json!([job.id, job.kind, lane, job.key, job.project, parent, payload, urgency, millis(job.delay)])
}

/// Adds jobs that are probably new: one statement, which fails when they are not.
pub(super) struct Insert<'a> {
    pub(super) jobs: &'a [NewJob],
}

#[async_trait]
impl Operation for Insert<'_> {
    /// `None` when nothing was inserted, because something was there already.
    type Output = Option<Vec<Enqueued>>;

    const NAME: &'static str = "queue.enqueue";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Self::Output> {
        let rows: Vec<_> = self.jobs.iter().map(insert_row).collect();
        let chunks = chunks(Self::NAME, &rows, tx.packet)?;
        let [chunk] = &chunks[..] else { return Ok(None) };
        if !insert(tx, chunk).await? {
            return Ok(None);
        }
        tx.became_due |= self.jobs.iter().any(|job| job.delay.is_zero());
        Ok(Some(self.jobs.iter().map(|job| Enqueued { id: job.id.clone(), deduplicated: false }).collect()))
    }
}

/// Inserts the jobs of `chunk`; `false`, and none, when one of them was there already.
async fn insert(tx: &mut Transaction<'_>, chunk: &str) -> Result<bool> {
    match sqlx::query(INSERT).bind(tx.clock).bind(chunk).execute(&mut *tx.connection).await {
        Ok(_) => Ok(true),
        Err(error) if is_duplicate(&error) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// Adds jobs, of which some may be there.
pub(super) struct Enqueue<'a> {
    pub(super) jobs: &'a [NewJob],
}

#[async_trait]
impl Operation for Enqueue<'_> {
    type Output = Vec<Enqueued>;

    const NAME: &'static str = "queue.enqueue";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<Enqueued>> {
        enqueue(tx, self.jobs).await
    }
}

/// A job that stands for others.
#[derive(Debug, Clone)]
struct Standing {
    id: String,
    waits: bool,
}

/// Inserts the jobs that are not there, and lets the active ones of their keys stand for the others.
pub(super) async fn enqueue(tx: &mut Transaction<'_>, jobs: &[NewJob]) -> Result<Vec<Enqueued>> {
    let mut present = present(tx, jobs).await?;
    let mut standing = twins(tx, jobs).await?;
    let mut enqueued = Vec::with_capacity(jobs.len());
    let mut fresh = Vec::new();
    let mut met: HashMap<String, (i32, i64)> = HashMap::new();
    for job in jobs {
        if present.contains(&job.id) {
            enqueued.push(Enqueued { id: job.id.clone(), deduplicated: true });
            continue;
        }
        let key = job.key.as_deref().map(|key| (job.kind.clone(), key.to_owned()));
        if let Some(twin) = key.as_ref().and_then(|key| standing.get(key)) {
            let (urgency, delay) = (-i32::from(job.priority), millis(job.delay));
            let wanted = met.entry(twin.id.clone()).or_insert((urgency, delay));
            *wanted = (wanted.0.min(urgency), wanted.1.min(delay));
            tx.became_due |= twin.waits && job.delay.is_zero();
            enqueued.push(Enqueued { id: twin.id.clone(), deduplicated: true });
            continue;
        }
        if let Some(key) = key {
            standing.insert(key, Standing { id: job.id.clone(), waits: true });
        }
        present.insert(job.id.clone());
        tx.became_due |= job.delay.is_zero();
        fresh.push(insert_row(job));
        enqueued.push(Enqueued { id: job.id.clone(), deduplicated: false });
    }
    for chunk in chunks("queue.enqueue", &fresh, tx.packet)? {
        if !insert(tx, &chunk).await? {
            let message = "another transaction enqueued the same at the same time";
            return Err(certlib_core::Error::transient("queue.enqueue", code::DUPLICATE, message));
        }
    }
    let mut met: Vec<_> = met.into_iter().map(|(id, (urgency, delay))| (id, urgency, delay)).collect();
    // Locked in one order by everybody.
    met.sort();
    let met: Vec<_> = met.into_iter().map(|met| json!(met)).collect();
    for chunk in chunks("queue.enqueue", &met, tx.packet)? {
        let query = sqlx::query(MEET).bind(chunk).bind(tx.clock);
        query.execute(&mut *tx.connection).await.map_err(failed)?;
    }
    Ok(enqueued)
}

/// Which of the ids of `jobs` are there.
async fn present(tx: &mut Transaction<'_>, jobs: &[NewJob]) -> Result<HashSet<String>> {
    let ids: Vec<_> = jobs.iter().map(|job| json!(job.id)).collect();
    let mut present = HashSet::new();
    for chunk in chunks("queue.enqueue", &ids, tx.packet)? {
        let rows = sqlx::query(PRESENT).bind(chunk).fetch_all(&mut *tx.connection).await.map_err(failed)?;
        for row in &rows {
            present.insert(text(row, 0)?.to_owned());
        }
    }
    Ok(present)
}

/// The active jobs of the keys of `jobs`, locked.
async fn twins(tx: &mut Transaction<'_>, jobs: &[NewJob]) -> Result<HashMap<(String, String), Standing>> {
    let mut keys: Vec<(&str, &str)> =
        jobs.iter().filter_map(|job| Some((job.kind.as_str(), job.key.as_deref()?))).collect();
    // Locked in one order by everybody.
    keys.sort_unstable();
    keys.dedup();
    let positions: Vec<_> = keys.iter().enumerate().map(|(at, (kind, key))| json!([at, kind, key])).collect();
    let mut twins = HashMap::new();
    for chunk in chunks("queue.enqueue", &positions, tx.packet)? {
        let rows = sqlx::query(TWINS).bind(chunk).fetch_all(&mut *tx.connection).await.map_err(failed)?;
        for row in &rows {
            let at = usize::try_from(number(row, 0)?).unwrap_or(usize::MAX);
            if let Some((kind, key)) = keys.get(at) {
                let twin = Standing { id: text(row, 1)?.to_owned(), waits: number(row, 2)? != 0 };
                twins.insert(((*kind).to_owned(), (*key).to_owned()), twin);
            }
        }
    }
    Ok(twins)
}

/// The most urgent urgency after `above` at which something is due.
async fn due_after(tx: &mut Transaction<'_>, lane: Lane, mut above: i64) -> Result<Option<i64>> {
    loop {
        let row = sqlx::query(NEXT_URGENCY)
            .bind(tx.clock)
            .bind(lane.as_str().as_bytes())
            .bind(above)
            .fetch_optional(&mut *tx.connection)
            .await
            .map_err(failed)?;
        let Some(row) = row else { return Ok(None) };
        above = number(&row, 0)?;
        if number(&row, 1)? != 0 {
            return Ok(Some(above));
        }
    }
}

/// The most urgent urgency at which something is due in a lane.
pub(super) struct MostUrgent {
    pub(super) lane: Lane,
}

#[async_trait]
impl Operation for MostUrgent {
    type Output = Option<i64>;

    const NAME: &'static str = "queue.claim";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Option<i64>> {
        due_after(tx, self.lane, i64::MIN).await
    }
}

/// Leases due jobs to a worker. Within an urgency the index is in due order, so nothing that waits is looked at.
pub(super) struct ClaimDue<'a> {
    pub(super) request: &'a ClaimRequest,
    /// Where to begin.
    pub(super) urgency: i64,
}

#[async_trait]
impl Operation for ClaimDue<'_> {
    type Output = Vec<Job>;

    const NAME: &'static str = "queue.claim";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<Job>> {
        let mut claimed = Vec::new();
        let mut next = Some(self.urgency);
        while let Some(urgency) = next {
            claimed.extend(self.claim_at(tx, urgency, self.request.limit - claimed.len()).await?);
            if claimed.len() >= self.request.limit {
                break;
            }
            next = due_after(tx, self.request.lane, urgency).await?;
        }
        Ok(claimed)
    }
}

impl ClaimDue<'_> {
    async fn claim_at(&self, tx: &mut Transaction<'_>, urgency: i64, room: usize) -> Result<Vec<Job>> {
        let request = self.request;
        let sql = lock_due(request.avoid.len());
        let mut arguments = sqlx::mysql::MySqlArguments::default();
        let mut fill = || -> std::result::Result<(), sqlx::error::BoxDynError> {
            arguments.add(tx.clock)?;
            arguments.add(request.lane.as_str().as_bytes())?;
            arguments.add(urgency)?;
            arguments.add(tx.clock)?;
            for parent in &request.avoid {
                arguments.add(parent.as_bytes())?;
            }
            arguments.add(i64::try_from(room).unwrap_or(i64::MAX))
        };
        fill().map_err(sqlx::Error::Encode).map_err(failed)?;
        // Put together from constants and placeholders.
        let rows =
            sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(&mut *tx.connection).await.map_err(failed)?;
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let until = number(first, AFTER_JOB)?.saturating_add(millis(request.lease)).min(LAST);
        let lease_until = from_millis(until)?;
        let mut jobs = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut job = decode(row)?;
            job.start(&request.worker, lease_until);
            jobs.push(job);
        }
        let ids: Vec<_> = jobs.iter().map(|job| json!(job.id)).collect();
        for chunk in chunks(Self::NAME, &ids, tx.packet)? {
            let query = sqlx::query(LEASE).bind(chunk).bind(request.worker.as_bytes()).bind(until);
            query.execute(&mut *tx.connection).await.map_err(failed)?;
        }
        Ok(jobs)
    }
}

/// The statement that locks due jobs and passes over those of `avoided` parents.
pub(super) fn lock_due(avoided: usize) -> String {
    let [head, tail] = LOCK_DUE;
    let mut sql = head.to_owned();
    if avoided > 0 {
        sql.push_str(" AND j.parent NOT IN (?");
        sql.push_str(&", ?".repeat(avoided - 1));
        sql.push(')');
    }
    sql.push_str(tail);
    sql
}

/// Moves the end of leases.
///
/// Two statements, each by itself: a claim that holds when it is looked at held when it was extended, because an epoch
/// that was left never comes back.
pub(super) struct Extend<'a> {
    pub(super) claims: &'a [Claim],
    pub(super) lease: Duration,
}

#[async_trait]
impl Operation for Extend<'_> {
    type Output = Vec<Extension>;

    const NAME: &'static str = "queue.extend";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<Extension>> {
        let mut claims: Vec<_> = self.claims.iter().map(|claim| (&claim.job, claim.epoch.cast_signed())).collect();
        claims.sort();
        let claims: Vec<_> = claims.into_iter().map(|claim| json!(claim)).collect();
        let mut held = HashMap::with_capacity(self.claims.len());
        for chunk in chunks(Self::NAME, &claims, tx.packet)? {
            let query = sqlx::query(EXTEND).bind(&*chunk).bind(tx.clock).bind(millis(self.lease));
            if query.execute(&mut *tx.connection).await.map_err(failed)?.rows_affected() == 0 {
                continue;
            }
            let rows = sqlx::query(HELD).bind(chunk).fetch_all(&mut *tx.connection).await.map_err(failed)?;
            for row in &rows {
                let claim = Claim { job: text(row, 0)?.to_owned(), epoch: number(row, 1)?.cast_unsigned() };
                held.insert(claim, number(row, 2)? != 0);
            }
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
