//! Jobs as rows: reading, finding, listing, counting.

use async_trait::async_trait;
use certlib_core::error::Result;
use certlib_core::queue::{AttemptRecord, Claim, Job, JobFilter, JobState, Lane, NewJob, QueueDepth, QueueStats};
use serde_json::Value;
use sqlx::mysql::{MySqlArguments, MySqlRow};
use sqlx::{Arguments, AssertSqlSafe, Row};

use super::database::{Operation, Transaction};
use super::error::{store_error, unreadable};
use certlib_core::store::timestamp::from_millis;

/// The columns of a job, in the order that [`decode`] reads them, with `payload` as the expression for the payload.
macro_rules! job_columns {
    () => {
        job_columns!("j.payload")
    };
    ($payload:literal) => {
        concat!(
            "j.id, j.kind, j.lane, j.natural_key, j.project, ",
            $payload,
            ", j.urgency, j.state, j.attempt, j.claim_epoch, j.crash_count, j.run_at, j.lease_until, j.worker, \
             j.cancel_requested, j.rerun_requested, j.attempts, j.created_at, j.finished_at, j.parent"
        )
    };
}
pub(super) use job_columns;

/// The column after those of a job.
pub(super) const AFTER_JOB: usize = 20;

pub(super) fn decode(row: &MySqlRow) -> Result<Job> {
    decode_new(row, |row| text(row, 5).and_then(|text| parse(text, "payload")))
}

/// A job whose payload stays in the database: enough to change its state.
pub(super) fn decode_without_payload(row: &MySqlRow) -> Result<Job> {
    decode_new(row, |_| Ok(Value::Null))
}

fn decode_new(row: &MySqlRow, payload: impl FnOnce(&MySqlRow) -> Result<Value>) -> Result<Job> {
    let lane = Lane::parse(text(row, 2)?).ok_or_else(|| unreadable("lane"))?;
    let mut new = NewJob::new(text(row, 1)?, lane, payload(row)?);
    text(row, 0)?.clone_into(&mut new.id);
    new.key = maybe_text(row, 3)?.map(str::to_owned);
    text(row, 4)?.clone_into(&mut new.project);
    new.parent = Some(text(row, 19)?.to_owned());
    new.priority = i16::try_from(-number(row, 6)?).map_err(|_| unreadable("urgency"))?;
    let mut job = Job::from_new(new, from_millis(number(row, 17)?)?);
    job.state = JobState::parse(text(row, 7)?).ok_or_else(|| unreadable("state"))?;
    job.attempt = u32::try_from(number(row, 8)?).map_err(|_| unreadable("attempt"))?;
    job.claim_epoch = number(row, 9)?.cast_unsigned();
    job.crash_count = u32::try_from(number(row, 10)?).map_err(|_| unreadable("crash_count"))?;
    job.run_at = from_millis(number(row, 11)?)?;
    job.lease_until = maybe_number(row, 12)?.map(from_millis).transpose()?;
    job.worker = maybe_text(row, 13)?.map(str::to_owned);
    job.cancel_requested = number(row, 14)? != 0;
    job.rerun_requested = number(row, 15)? != 0;
    job.attempts = parse::<Vec<AttemptRecord>>(text(row, 16)?, "attempts")?;
    job.finished_at = maybe_number(row, 18)?.map(from_millis).transpose()?;
    Ok(job)
}

/// A column that holds text as bytes.
pub(super) fn text(row: &MySqlRow, column: usize) -> Result<&str> {
    let bytes: &[u8] = row.try_get(column).map_err(failed)?;
    str::from_utf8(bytes).map_err(|error| unreadable("text").with_source(error))
}

fn maybe_text(row: &MySqlRow, column: usize) -> Result<Option<&str>> {
    let bytes: Option<&[u8]> = row.try_get(column).map_err(failed)?;
    bytes.map(str::from_utf8).transpose().map_err(|error| unreadable("text").with_source(error))
}

pub(super) fn number(row: &MySqlRow, column: usize) -> Result<i64> {
    row.try_get(column).map_err(failed)
}

fn maybe_number(row: &MySqlRow, column: usize) -> Result<Option<i64>> {
    row.try_get(column).map_err(failed)
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, what: &'static str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| unreadable(what).with_source(error))
}

fn failed(error: sqlx::Error) -> certlib_core::Error {
    store_error("queue.read", error)
}

/// Whether a claim holds; it does until the transaction ends.
pub(super) const REQUIRE: &str =
    "SELECT 1 FROM certlib_jobs WHERE id = ? AND claim_epoch = ? AND state = 'in_progress' FOR UPDATE";

/// `lease_lost` unless `claim` holds.
pub(super) async fn require(tx: &mut Transaction<'_>, claim: &Claim) -> Result<()> {
    let held = sqlx::query(REQUIRE)
        .bind(claim.job.as_bytes())
        .bind(claim.epoch.cast_signed())
        .fetch_optional(&mut *tx.connection)
        .await
        .map_err(failed)?;
    held.map(drop).ok_or_else(|| claim.lost())
}

/// One job.
pub(super) const FIND: &str = concat!("SELECT ", job_columns!(), " FROM certlib_jobs AS j WHERE j.id = ?");

/// The job with an id.
pub(super) struct Find<'a> {
    pub(super) id: &'a str,
}

#[async_trait]
impl Operation for Find<'_> {
    type Output = Option<Job>;

    const NAME: &'static str = "queue.job";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Option<Job>> {
        let row =
            sqlx::query(FIND).bind(self.id.as_bytes()).fetch_optional(&mut *tx.connection).await.map_err(failed)?;
        row.as_ref().map(decode).transpose()
    }
}

/// Jobs that match a filter.
pub(super) struct List<'a> {
    pub(super) filter: &'a JobFilter,
}

#[async_trait]
impl Operation for List<'_> {
    type Output = Vec<Job>;

    const NAME: &'static str = "queue.jobs";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Vec<Job>> {
        let (sql, arguments) = listing(self.filter).map_err(failed)?;
        // Put together from the constants of `listing` and placeholders.
        let rows =
            sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(&mut *tx.connection).await.map_err(failed)?;
        rows.iter().map(decode).collect()
    }
}

pub(super) fn listing(filter: &JobFilter) -> sqlx::Result<(String, MySqlArguments)> {
    let index = match filter {
        JobFilter { key: Some(_), .. } => "certlib_jobs_key",
        JobFilter { state: Some(_), kind: Some(_), .. } => "certlib_jobs_state",
        JobFilter { project: Some(_), .. } => "certlib_jobs_project",
        _ => "certlib_jobs_age",
    };
    let mut sql = concat!("SELECT ", job_columns!(), " FROM certlib_jobs AS j FORCE INDEX (").to_owned();
    sql.push_str(index);
    sql.push_str(") WHERE true");
    let mut arguments = MySqlArguments::default();
    let state = filter.state.map(JobState::as_str);
    let texts = [
        ("project", filter.project.as_deref()),
        ("kind", filter.kind.as_deref()),
        ("natural_key", filter.key.as_deref()),
        ("state", state),
    ];
    for (column, text) in texts.into_iter().filter_map(|(column, text)| Some((column, text?))) {
        sql.push_str(" AND j.");
        sql.push_str(column);
        sql.push_str(" = ?");
        arguments.add(text.as_bytes()).map_err(sqlx::Error::Encode)?;
    }
    if let Some(before) = &filter.before {
        const CREATED: &str = "(SELECT b.created_at FROM certlib_jobs AS b WHERE b.id = ?)";
        // A comparison of rows would not be looked up in an index.
        for part in [" AND j.created_at <= ", CREATED, " AND (j.created_at < ", CREATED, " OR j.id < ?)"] {
            sql.push_str(part);
        }
        for _ in 0..3 {
            arguments.add(before.as_bytes()).map_err(sqlx::Error::Encode)?;
        }
    }
    sql.push_str(" ORDER BY j.created_at DESC, j.id DESC LIMIT ?");
    let limit = i64::try_from(filter.effective_limit()).unwrap_or(i64::MAX);
    arguments.add(limit).map_err(sqlx::Error::Encode)?;
    Ok((sql, arguments))
}

/// Depths by kind.
pub(super) const STATS: &str = "SELECT kind, state, COUNT(*) FROM certlib_jobs FORCE INDEX (certlib_jobs_state)
     WHERE state IN ('pending', 'in_progress', 'dead_letter') GROUP BY state, kind";

/// How much is waiting and running.
pub(super) struct Stats;

#[async_trait]
impl Operation for Stats {
    type Output = QueueStats;

    const NAME: &'static str = "queue.stats";

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<QueueStats> {
        let rows = sqlx::query(STATS).fetch_all(&mut *tx.connection).await.map_err(failed)?;
        let mut stats = QueueStats::default();
        for row in &rows {
            let depth: &mut QueueDepth = stats.by_kind.entry(text(row, 0)?.to_owned()).or_default();
            let count = number(row, 2)?.cast_unsigned();
            match JobState::parse(text(row, 1)?) {
                Some(JobState::Pending) => depth.pending = count,
                Some(JobState::InProgress) => depth.in_progress = count,
                Some(JobState::DeadLetter) => depth.dead_letter = count,
                _ => {}
            }
        }
        Ok(stats)
    }
}
