//! Enqueueing, claiming, extending.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::error::{Error, Result};
use certlib_core::queue::{Claim, ClaimRequest, Enqueued, Extension, Job, NewJob};
use sqlx::Row;

use super::error::{CONTENDED, is_duplicate, store_error};
use super::job::{decode, job_columns};
use super::notify::JOBS;
use super::session::{Mode, Operation, Tx, now};
use certlib_core::store::timestamp::LAST;

/// How often a key is looked for whose job ends each time that we look.
const KEY_TRIES: usize = 16;

/// Adds jobs, and tells the others if one is due.
macro_rules! enqueue {
    ($conflict:literal) => {
        concat!(
            "WITH added AS (
         INSERT INTO certlib_jobs
             (id, kind, lane, natural_key, project, parent, payload, priority, run_at, created_at)
         SELECT n.id, n.kind, n.lane, n.natural_key, n.project, n.parent, n.payload, n.priority,
             least(t.now + n.delay, $11), t.now
         FROM (SELECT ",
            now!("$1"),
            " AS now) AS t, unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
             $9::smallint[], $10::bigint[])
             AS n(id, kind, lane, natural_key, project, parent, payload, priority, delay)
         ",
            $conflict,
            " RETURNING created_at, id, project, natural_key),
     listed AS (
         INSERT INTO certlib_job_list (created_at, id, project, natural_key) SELECT * FROM added),
     told AS (
         SELECT pg_notify($12, $13) WHERE $13 IS NOT NULL AND EXISTS (SELECT 1 FROM added))
     SELECT id, (SELECT count(*) FROM told) FROM added"
        )
    };
}

/// Adds jobs that are all expected to be new: not looking for others first saves a third of the time.
pub(super) const ENQUEUE_NEW: &str = enqueue!("");

/// Adds those jobs of which neither id nor key is taken.
pub(super) const ENQUEUE: &str = enqueue!("ON CONFLICT DO NOTHING");

/// Which of these ids are taken.
pub(super) const TAKEN: &str = "SELECT id FROM certlib_jobs WHERE id = ANY ($1::text[])";

/// Finds the active job of each key: one that runs will run again, one that waits goes as soon as the more urgent of the
/// two.
pub(super) const MEET_TWINS: &str = concat!(
    "UPDATE certlib_jobs AS j SET rerun_requested = (j.state = 'in_progress'),
         run_at = CASE WHEN j.state = 'pending' THEN least(j.run_at, n.delay + t.now) ELSE j.run_at END,
         priority = CASE WHEN j.state = 'pending' THEN greatest(j.priority, n.priority) ELSE j.priority END
     FROM (SELECT ",
    now!("$1"),
    " AS now) AS t, unnest($2::text[], $3::text[], $4::bigint[], $5::smallint[])
         WITH ORDINALITY AS n(kind, natural_key, delay, priority, position)
     WHERE j.kind = n.kind AND j.natural_key = n.natural_key AND j.state IN ('pending', 'in_progress')
     RETURNING n.position, j.id, j.state = 'pending'"
);

/// Leases due jobs, one priority after the other: within each, the index is in due order, so nothing that waits is
/// looked at.
pub(super) const CLAIM: &str = concat!(
    "WITH RECURSIVE t AS MATERIALIZED (SELECT ",
    now!("$1"),
    " AS now),
     levels(level) AS (
         (SELECT priority FROM certlib_jobs WHERE state = 'pending' AND lane = $2 ORDER BY priority DESC LIMIT 1)
         UNION ALL
         SELECT (SELECT priority FROM certlib_jobs WHERE state = 'pending' AND lane = $2 AND priority < level
                 ORDER BY priority DESC LIMIT 1)
         FROM levels WHERE level IS NOT NULL),
     due AS MATERIALIZED (
         SELECT d.id AS job FROM levels CROSS JOIN LATERAL (
             SELECT id FROM certlib_jobs
             WHERE state = 'pending' AND lane = $2 AND priority = level AND run_at <= (SELECT now FROM t)
                 AND parent <> ALL ($3::text[])
             ORDER BY run_at, id LIMIT $4 FOR UPDATE SKIP LOCKED) AS d
         LIMIT $4)
     UPDATE certlib_jobs SET state = 'in_progress', attempt = attempt + 1, claim_epoch = claim_epoch + 1,
         worker = $5, lease_until = least(t.now + $6, $7)
     FROM due, t WHERE id = due.job
     RETURNING ",
    job_columns!()
);

/// Moves the end of the leases that hold. Jobs are found by their ids, as in [`SUCCEED`](super::transition::SUCCEED).
pub(super) const EXTEND: &str = concat!(
    "UPDATE certlib_jobs AS j SET lease_until = least(t.now + $4, $5)
     FROM (SELECT ",
    now!("$1"),
    " AS now) AS t, unnest($2::text[], $3::bigint[]) AS n(id, epoch)
     WHERE j.id = n.id AND j.claim_epoch = n.epoch AND j.state || '' = 'in_progress'
     RETURNING j.id, j.claim_epoch, j.cancel_requested"
);

/// Adds jobs that have no natural key, in one statement; `false` if an id is taken, and nothing was added.
pub(super) struct EnqueueNew<'a> {
    pub(super) jobs: &'a [NewJob],
}

#[async_trait]
impl Operation for EnqueueNew<'_> {
    type Output = bool;
    const MODE: Mode = Mode::Statement;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<bool> {
        match insert(tx, ENQUEUE_NEW, &mut self.jobs.iter()).await {
            Ok(_) => Ok(true),
            Err(error) if is_duplicate(&error) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Adds one job, in one statement; `None` if its id or its key is taken.
pub(super) struct EnqueueOne<'a> {
    pub(super) job: &'a NewJob,
}

#[async_trait]
impl Operation for EnqueueOne<'_> {
    type Output = Option<Enqueued>;
    const MODE: Mode = Mode::Statement;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Option<Enqueued>> {
        let added = insert(tx, ENQUEUE, &mut std::iter::once(self.job)).await.map_err(failed)?;
        Ok((!added.is_empty()).then(|| Enqueued { id: self.job.id.clone(), deduplicated: false }))
    }
}

/// Adds jobs.
pub(super) struct Enqueue<'a> {
    pub(super) jobs: &'a [NewJob],
}

#[async_trait]
impl Operation for Enqueue<'_> {
    type Output = Vec<Enqueued>;
    const MODE: Mode = Mode::Transaction;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Enqueued>> {
        enqueue(tx, self.jobs).await
    }
}

/// Inserts what can be inserted, and finds the twins of the rest.
pub(super) async fn enqueue(tx: &mut Tx<'_>, jobs: &[NewJob]) -> Result<Vec<Enqueued>> {
    // Everybody takes keys in the same order, so that no two wait for each other.
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by(|&a, &b| (&jobs[a].kind, &jobs[a].key, a).cmp(&(&jobs[b].kind, &jobs[b].key, b)));
    let mut answers: Vec<Option<Enqueued>> = vec![None; jobs.len()];
    for _ in 0..KEY_TRIES {
        let open: Vec<usize> = order.iter().copied().filter(|&at| answers[at].is_none()).collect();
        let mut added = insert(tx, ENQUEUE, &mut open.iter().map(|&at| &jobs[at])).await.map_err(failed)?;
        // Taken out, so that a second job with the same id in the same call is told that it is the second.
        let mut rest = Vec::new();
        for at in open {
            match added.remove(&jobs[at].id) {
                true => answers[at] = Some(Enqueued { id: jobs[at].id.clone(), deduplicated: false }),
                false => rest.push(at),
            }
        }
        if rest.is_empty() {
            return Ok(answers.into_iter().flatten().collect());
        }
        let taken = taken(tx, &rest.iter().map(|&at| &*jobs[at].id).collect::<Vec<_>>()).await?;
        rest.retain(|&at| {
            let itself = taken.contains(&jobs[at].id);
            if itself {
                answers[at] = Some(Enqueued { id: jobs[at].id.clone(), deduplicated: true });
            }
            !itself
        });
        let twins = meet_twins(tx, &mut rest.iter().map(|&at| &jobs[at])).await?;
        for at in rest {
            // Gone meanwhile, if it is not there: then the job can be inserted after all.
            let twin = jobs[at].key.as_deref().and_then(|key| twins.get(&(&*jobs[at].kind, key)));
            answers[at] = twin.map(|id| Enqueued { id: id.clone(), deduplicated: true });
        }
        if answers.iter().all(Option::is_some) {
            return Ok(answers.into_iter().flatten().collect());
        }
    }
    Err(Error::transient("queue.enqueue", CONTENDED, "jobs with the same key come and go"))
}

/// Inserts `jobs` by one of the statements above; returns the ids of those that were inserted.
async fn insert(
    tx: &mut Tx<'_>,
    sql: &'static str,
    jobs: &mut (dyn Iterator<Item = &NewJob> + Send),
) -> sqlx::Result<HashSet<String>> {
    let (mut ids, mut kinds, mut lanes, mut keys, mut projects) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut parents, mut payloads, mut priorities, mut delays) = (vec![], vec![], vec![], vec![]);
    let mut due = false;
    for job in jobs {
        ids.push(&*job.id);
        kinds.push(&*job.kind);
        lanes.push(job.lane.as_str());
        keys.push(job.key.as_deref());
        projects.push(&*job.project);
        parents.push(job.effective_parent());
        payloads.push(job.payload.to_string());
        priorities.push(job.priority);
        delays.push(wait(job.delay));
        due |= job.delay.is_zero();
    }
    let rows = sqlx::query(sql)
        .bind(tx.now)
        .bind(ids)
        .bind(kinds)
        .bind(lanes)
        .bind(keys)
        .bind(projects)
        .bind(parents)
        .bind(payloads)
        .bind(priorities)
        .bind(delays)
        .bind(LAST)
        .bind(JOBS)
        .bind(due.then_some(&*tx.wakeups.message))
        .fetch_all(&mut *tx.connection)
        .await?;
    tx.became_due |= due && !rows.is_empty();
    rows.iter().map(|row| row.try_get(0)).collect()
}

async fn taken(tx: &mut Tx<'_>, ids: &[&str]) -> Result<HashSet<String>> {
    let rows = sqlx::query(TAKEN).bind(ids).fetch_all(&mut *tx.connection).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0)).collect::<sqlx::Result<_>>().map_err(failed)
}

/// The ids of the active jobs that have the kinds and keys of `jobs`, which they now stand for.
async fn meet_twins<'a>(
    tx: &mut Tx<'_>,
    jobs: &mut (dyn Iterator<Item = &'a NewJob> + Send),
) -> Result<HashMap<(&'a str, &'a str), String>> {
    let mut wanted = BTreeMap::<(&str, &str), (i64, i16)>::new();
    for job in jobs {
        if let Some(key) = &job.key {
            let urgency = wanted.entry((&*job.kind, &**key)).or_insert((i64::MAX, i16::MIN));
            *urgency = (urgency.0.min(wait(job.delay)), urgency.1.max(job.priority));
        }
    }
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let (mut kinds, mut keys, mut delays, mut priorities) = (vec![], vec![], vec![], vec![]);
    for (&(kind, key), &(delay, priority)) in &wanted {
        kinds.push(kind);
        keys.push(key);
        delays.push(delay);
        priorities.push(priority);
    }
    let rows = sqlx::query(MEET_TWINS)
        .bind(tx.now)
        .bind(kinds)
        .bind(keys)
        .bind(delays)
        .bind(priorities)
        .fetch_all(&mut *tx.connection)
        .await
        .map_err(failed)?;
    let wanted: Vec<_> = wanted.into_iter().collect();
    let mut twins = HashMap::with_capacity(rows.len());
    for row in &rows {
        let position: i64 = row.try_get(0).map_err(failed)?;
        let found = usize::try_from(position - 1).ok().and_then(|position| wanted.get(position));
        let Some(&(name, (delay, _))) = found else { continue };
        let waits: bool = row.try_get(2).map_err(failed)?;
        tx.became_due |= waits && delay == 0;
        twins.insert(name, row.try_get(1).map_err(failed)?);
    }
    Ok(twins)
}

/// Leases due jobs to a worker.
pub(super) struct ClaimDue<'a> {
    pub(super) request: &'a ClaimRequest,
}

#[async_trait]
impl Operation for ClaimDue<'_> {
    type Output = Vec<Job>;
    const MODE: Mode = Mode::Statement;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Job>> {
        let request = self.request;
        let rows = sqlx::query(CLAIM)
            .bind(tx.now)
            .bind(request.lane.as_str())
            .bind(&*request.avoid)
            .bind(i64::try_from(request.limit).unwrap_or(i64::MAX))
            .bind(&*request.worker)
            .bind(wait(request.lease))
            .bind(LAST)
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
pub(super) struct Extend<'a> {
    pub(super) claims: &'a [Claim],
    pub(super) lease: Duration,
}

#[async_trait]
impl Operation for Extend<'_> {
    type Output = Vec<Extension>;
    const MODE: Mode = Mode::Statement;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Extension>> {
        let (ids, epochs) = columns(self.claims.iter());
        let rows = sqlx::query(EXTEND)
            .bind(tx.now)
            .bind(ids)
            .bind(epochs)
            .bind(wait(self.lease))
            .bind(LAST)
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

/// Claims as columns, ordered by job, so that everybody who locks several does so in the same order.
pub(super) fn columns<'a>(claims: impl Iterator<Item = &'a Claim>) -> (Vec<&'a str>, Vec<i64>) {
    let mut claims: Vec<_> = claims
        // No job has such an id.
        .filter(|claim| !claim.job.contains('\0'))
        .map(|claim| (&*claim.job, claim.epoch.cast_signed()))
        .collect();
    claims.sort_unstable();
    claims.into_iter().unzip()
}

/// A wait in milliseconds, rounded up: nothing is due before its time.
pub(super) fn wait(wait: Duration) -> i64 {
    i64::try_from(wait.as_nanos().div_ceil(1_000_000)).map_or(LAST, |millis| millis.min(LAST))
}

fn failed(error: sqlx::Error) -> Error {
    store_error("queue.write", error)
}
