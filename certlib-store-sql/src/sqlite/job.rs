//! Jobs as rows: reading, finding, listing, counting.

use certlib_core::error::Result;
use certlib_core::queue::{AttemptRecord, Claim, Job, JobFilter, JobState, Lane, NewJob, QueueDepth, QueueStats};
use serde_json::Value;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Row, SqliteConnection, SqlitePool};

use super::error::{store_error, unreadable};
use super::timestamp::from_millis;

/// The columns of a job, in the order that [`decode`] reads them, with `payload` as the expression for the payload.
macro_rules! job_columns {
    () => {
        job_columns!("payload")
    };
    ($payload:literal) => {
        concat!(
            "id, kind, lane, natural_key, project, ",
            $payload,
            ", priority, state, attempt, claim_epoch, crash_count, run_at, lease_until, worker, cancel_requested, \
             rerun_requested, attempts, created_at, finished_at, parent"
        )
    };
}
pub(super) use job_columns;

pub(super) fn decode(row: &SqliteRow) -> Result<Job> {
    decode_new(row, |row| row_value(row, 5).and_then(|text: &str| parse(text, "payload")))
}

/// A job whose payload stays in the database: enough to change its state.
pub(super) fn decode_without_payload(row: &SqliteRow) -> Result<Job> {
    decode_new(row, |_| Ok(Value::Null))
}

fn decode_new(row: &SqliteRow, payload: impl FnOnce(&SqliteRow) -> Result<Value>) -> Result<Job> {
    let lane = Lane::parse(row_value(row, 2)?).ok_or_else(|| unreadable("lane"))?;
    let mut new = NewJob::new(row_value::<String>(row, 1)?, lane, payload(row)?);
    new.id = row_value(row, 0)?;
    new.key = row_value(row, 3)?;
    new.project = row_value(row, 4)?;
    new.parent = Some(row_value(row, 19)?);
    new.priority = row_value(row, 6)?;
    let mut job = Job::from_new(new, from_millis(row_value(row, 17)?)?);
    job.state = JobState::parse(row_value(row, 7)?).ok_or_else(|| unreadable("state"))?;
    job.attempt = row_value(row, 8)?;
    job.claim_epoch = row_value::<i64>(row, 9)?.cast_unsigned();
    job.crash_count = row_value(row, 10)?;
    job.run_at = from_millis(row_value(row, 11)?)?;
    job.lease_until = row_value::<Option<i64>>(row, 12)?.map(from_millis).transpose()?;
    job.worker = row_value(row, 13)?;
    job.cancel_requested = row_value(row, 14)?;
    job.rerun_requested = row_value(row, 15)?;
    job.attempts = parse::<Vec<AttemptRecord>>(row_value(row, 16)?, "attempts")?;
    job.finished_at = row_value::<Option<i64>>(row, 18)?.map(from_millis).transpose()?;
    Ok(job)
}

fn row_value<'r, T>(row: &'r SqliteRow, column: usize) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(column).map_err(failed)
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, what: &'static str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| unreadable(what).with_source(error))
}

fn failed(error: sqlx::Error) -> certlib_core::Error {
    store_error("queue.read", error)
}

/// Depths by kind.
pub(super) const STATS: &str = "SELECT kind, sum(pending), sum(in_progress), sum(dead) FROM (
             SELECT kind, 1 AS pending, 0 AS in_progress, 0 AS dead FROM certlib_jobs WHERE state = 'pending'
             UNION ALL SELECT kind, 0, 1, 0 FROM certlib_jobs WHERE state = 'in_progress'
             UNION ALL SELECT kind, 0, 0, 1 FROM certlib_jobs WHERE state = 'dead_letter')
         GROUP BY kind";

/// `lease_lost` unless `claim` holds.
pub(super) async fn require(connection: &mut SqliteConnection, claim: &Claim) -> Result<()> {
    let held = sqlx::query("SELECT 1 FROM certlib_jobs WHERE id = ?1 AND claim_epoch = ?2 AND state = 'in_progress'")
        .bind(&*claim.job)
        .bind(claim.epoch.cast_signed())
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    held.map(drop).ok_or_else(|| claim.lost())
}

pub(super) async fn find(readers: &SqlitePool, id: &str) -> Result<Option<Job>> {
    let row = sqlx::query(concat!("SELECT ", job_columns!(), " FROM certlib_jobs WHERE id = ?1"))
        .bind(id)
        .fetch_optional(readers)
        .await
        .map_err(failed)?;
    row.as_ref().map(decode).transpose()
}

pub(super) async fn list(readers: &SqlitePool, filter: &JobFilter) -> Result<Vec<Job>> {
    let (sql, arguments) = listing(filter).map_err(failed)?;
    // Put together from the constants of `listing` and placeholders.
    let rows = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(readers).await.map_err(failed)?;
    rows.iter().map(decode).collect()
}

pub(super) fn listing(filter: &JobFilter) -> sqlx::Result<(String, SqliteArguments)> {
    let mut sql = concat!("SELECT ", job_columns!(), " FROM certlib_jobs WHERE true").to_owned();
    let mut arguments = SqliteArguments::default();
    let texts = [("project", &filter.project), ("kind", &filter.kind), ("natural_key", &filter.key)];
    for (column, text) in texts.into_iter().filter_map(|(column, text)| Some((column, text.as_deref()?))) {
        sql.push_str(" AND ");
        sql.push_str(column);
        sql.push_str(" = ?");
        arguments.add(text).map_err(sqlx::Error::Encode)?;
    }
    if let Some(state) = filter.state {
        // As a literal, so that the index of dead jobs is recognised.
        sql.push_str(" AND state = '");
        sql.push_str(state.as_str());
        sql.push('\'');
    }
    if let Some(before) = &filter.before {
        sql.push_str(" AND (created_at, id) < ((SELECT b.created_at FROM certlib_jobs AS b WHERE b.id = ?), ?)");
        arguments.add(before.as_str()).map_err(sqlx::Error::Encode)?;
        arguments.add(before.as_str()).map_err(sqlx::Error::Encode)?;
    }
    sql.push_str(" ORDER BY created_at DESC, id DESC LIMIT ?");
    let limit = i64::try_from(filter.effective_limit()).unwrap_or(i64::MAX);
    arguments.add(limit).map_err(sqlx::Error::Encode)?;
    Ok((sql, arguments))
}

pub(super) async fn stats(readers: &SqlitePool) -> Result<QueueStats> {
    let rows = sqlx::query(STATS).fetch_all(readers).await.map_err(failed)?;
    let mut stats = QueueStats::default();
    for row in &rows {
        let count = |column| row_value::<i64>(row, column).map(i64::cast_unsigned);
        let mut depth = QueueDepth::default();
        (depth.pending, depth.in_progress, depth.dead_letter) = (count(1)?, count(2)?, count(3)?);
        stats.by_kind.insert(row_value(row, 0)?, depth);
    }
    Ok(stats)
}
