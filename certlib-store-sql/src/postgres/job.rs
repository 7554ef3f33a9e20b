//! Jobs as rows: reading, finding, listing, counting.

use async_trait::async_trait;
use certlib_core::error::Result;
use certlib_core::queue::{AttemptRecord, Claim, Job, JobFilter, JobState, Lane, NewJob, QueueDepth, QueueStats};
use serde_json::Value;
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::{Arguments, AssertSqlSafe, Row};

use super::error::{store_error, unreadable};
use super::session::{Mode, Operation, Tx};
use certlib_core::store::timestamp::from_millis;

/// The columns of a job, in the order that [`decode`] reads them, with `payload` as the expression for the payload.
macro_rules! job_columns {
    () => {
        job_columns!("payload")
    };
    ($payload:literal) => {
        job_columns!($payload, "")
    };
    ($payload:literal, $table:literal) => {
        concat!(
            $table,
            "id, ",
            $table,
            "kind, ",
            $table,
            "lane, ",
            $table,
            "natural_key, ",
            $table,
            "project, ",
            $payload,
            ", ",
            $table,
            "priority, ",
            $table,
            "state, ",
            $table,
            "attempt, ",
            $table,
            "claim_epoch, ",
            $table,
            "crash_count, ",
            $table,
            "run_at, ",
            $table,
            "lease_until, ",
            $table,
            "worker, ",
            $table,
            "cancel_requested, ",
            $table,
            "rerun_requested, ",
            $table,
            "attempts, ",
            $table,
            "created_at, ",
            $table,
            "finished_at, ",
            $table,
            "parent"
        )
    };
}
pub(super) use job_columns;

pub(super) fn decode(row: &PgRow) -> Result<Job> {
    decode_new(row, |row| value(row, 5).and_then(|text: &str| parse(text, "payload")))
}

/// A job whose payload stays in the database: enough to change its state.
pub(super) fn decode_without_payload(row: &PgRow) -> Result<Job> {
    decode_new(row, |_| Ok(Value::Null))
}

fn decode_new(row: &PgRow, payload: impl FnOnce(&PgRow) -> Result<Value>) -> Result<Job> {
    let lane = Lane::parse(value(row, 2)?).ok_or_else(|| unreadable("lane"))?;
    let mut new = NewJob::new(value::<String>(row, 1)?, lane, payload(row)?);
    new.id = value(row, 0)?;
    new.key = value(row, 3)?;
    new.project = value(row, 4)?;
    new.parent = Some(value(row, 19)?);
    new.priority = value(row, 6)?;
    let mut job = Job::from_new(new, from_millis(value(row, 17)?)?);
    job.state = JobState::parse(value(row, 7)?).ok_or_else(|| unreadable("state"))?;
    job.attempt = value::<i32>(row, 8)?.cast_unsigned();
    job.claim_epoch = value::<i64>(row, 9)?.cast_unsigned();
    job.crash_count = value::<i32>(row, 10)?.cast_unsigned();
    job.run_at = from_millis(value(row, 11)?)?;
    job.lease_until = value::<Option<i64>>(row, 12)?.map(from_millis).transpose()?;
    job.worker = value(row, 13)?;
    job.cancel_requested = value(row, 14)?;
    job.rerun_requested = value(row, 15)?;
    job.attempts = match value(row, 16)? {
        "[]" => Vec::new(),
        text => parse::<Vec<AttemptRecord>>(text, "attempts")?,
    };
    job.finished_at = value::<Option<i64>>(row, 18)?.map(from_millis).transpose()?;
    Ok(job)
}

pub(super) fn value<'r, T>(row: &'r PgRow, column: usize) -> Result<T>
where
    T: sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
{
    row.try_get(column).map_err(failed)
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, what: &'static str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| unreadable(what).with_source(error))
}

fn failed(error: sqlx::Error) -> certlib_core::Error {
    store_error("queue.read", error)
}

/// Keeps a claim from being lost until the transaction ends.
pub(super) const HOLD: &str =
    "SELECT 1 FROM certlib_jobs WHERE id = $1 AND claim_epoch = $2 AND state = 'in_progress' FOR UPDATE";

/// Depths by kind.
pub(super) const STATS: &str = "SELECT kind, sum(pending)::bigint, sum(in_progress)::bigint, sum(dead)::bigint FROM (
             SELECT kind, count(*) AS pending, 0 AS in_progress, 0 AS dead
                 FROM certlib_jobs WHERE state = 'pending' GROUP BY kind
             UNION ALL SELECT kind, 0, count(*), 0 FROM certlib_jobs WHERE state = 'in_progress' GROUP BY kind
             UNION ALL SELECT kind, 0, 0, count(*) FROM certlib_jobs WHERE state = 'dead_letter' GROUP BY kind
         ) AS depths GROUP BY kind";

/// `lease_lost` unless `claim` holds, and goes on to hold until the transaction ends.
pub(super) async fn require(tx: &mut Tx<'_>, claim: &Claim) -> Result<()> {
    if claim.job.contains('\0') {
        return Err(claim.lost());
    }
    let held = sqlx::query(HOLD)
        .bind(&*claim.job)
        .bind(claim.epoch.cast_signed())
        .fetch_optional(&mut *tx.connection)
        .await
        .map_err(failed)?;
    held.map(drop).ok_or_else(|| claim.lost())
}

/// One job.
pub(super) struct Find<'a> {
    pub(super) id: &'a str,
}

#[async_trait]
impl Operation for Find<'_> {
    type Output = Option<Job>;
    const MODE: Mode = Mode::Read;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Option<Job>> {
        // No text of the database holds one, and none can be asked for.
        if self.id.contains('\0') {
            return Ok(None);
        }
        let row = sqlx::query(concat!("SELECT ", job_columns!(), " FROM certlib_jobs WHERE id = $1"))
            .bind(self.id)
            .fetch_optional(&mut *tx.connection)
            .await
            .map_err(failed)?;
        row.as_ref().map(decode).transpose()
    }
}

/// Jobs, newest first.
pub(super) struct List<'a> {
    pub(super) filter: &'a JobFilter,
}

#[async_trait]
impl Operation for List<'_> {
    type Output = Vec<Job>;
    const MODE: Mode = Mode::Read;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Job>> {
        let (sql, arguments) = listing(self.filter).map_err(failed)?;
        // Put together from the constants of `listing` and placeholders.
        let query = sqlx::query_with(AssertSqlSafe(sql), arguments);
        let rows = query.fetch_all(&mut *tx.connection).await.map_err(failed)?;
        rows.iter().map(decode).collect()
    }
}

/// Along the list of jobs, or along the index of dead ones, which has an order of its own.
pub(super) fn listing(filter: &JobFilter) -> sqlx::Result<(String, PgArguments)> {
    let dead = filter.state == Some(JobState::DeadLetter);
    let mut sql = match dead {
        true => concat!("SELECT ", job_columns!("j.payload", "j."), " FROM certlib_jobs AS j WHERE true"),
        false => concat!(
            "SELECT ",
            job_columns!("j.payload", "j."),
            " FROM certlib_job_list AS l JOIN certlib_jobs AS j ON j.id = l.id WHERE true"
        ),
    }
    .to_owned();
    let listed = if dead { "j" } else { "l" };
    let mut arguments = PgArguments::default();
    let mut place = |text: &str| {
        arguments.add(text).map_err(sqlx::Error::Encode)?;
        Ok::<_, sqlx::Error>(format!("${}", arguments.len()))
    };
    let texts =
        [(listed, "project", &filter.project), ("j", "kind", &filter.kind), (listed, "natural_key", &filter.key)];
    for (table, column, text) in texts {
        if let Some(text) = text {
            sql.push_str(&format!(" AND {table}.{column} = {}", place(text)?));
        }
    }
    if let Some(state) = filter.state {
        // As a literal, so that the index of dead jobs is recognised.
        sql.push_str(&format!(" AND j.state = '{}'", state.as_str()));
    }
    if let Some(before) = &filter.before {
        let before = place(before)?;
        sql.push_str(&format!(
            " AND ({listed}.created_at, {listed}.id) <
                 ((SELECT b.created_at FROM certlib_jobs AS b WHERE b.id = {before}), {before})"
        ));
    }
    let limit = filter.effective_limit();
    sql.push_str(&format!(" ORDER BY {listed}.created_at DESC, {listed}.id DESC LIMIT {limit}"));
    Ok((sql, arguments))
}

/// How much is waiting and running.
pub(super) struct Stats;

#[async_trait]
impl Operation for Stats {
    type Output = QueueStats;
    const MODE: Mode = Mode::Read;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<QueueStats> {
        let rows = sqlx::query(STATS).fetch_all(&mut *tx.connection).await.map_err(failed)?;
        let mut stats = QueueStats::default();
        for row in &rows {
            let count = |column| value::<i64>(row, column).map(i64::cast_unsigned);
            let mut depth = QueueDepth::default();
            (depth.pending, depth.in_progress, depth.dead_letter) = (count(1)?, count(2)?, count(3)?);
            stats.by_kind.insert(value(row, 0)?, depth);
        }
        Ok(stats)
    }
}
