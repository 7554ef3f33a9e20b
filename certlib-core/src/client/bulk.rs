//! Many jobs at once: after an outage, or when what they belong to is given up.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use rand::RngExt as _;

use super::Client;
use crate::error::{Error, Result};
use crate::queue::{Job, JobFilter, JobState};
use crate::random;

/// How many jobs are looked at at once.
const PAGE: usize = 500;

/// How [`Client::retry_jobs`] goes about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkRetry {
    /// At most so many jobs, the newest; never more than [`BulkRetry::LIMIT_MAX`]. 500.
    pub limit: usize,
    /// Each job waits a random share of this before it runs, so that what broke is not broken again. 10 min.
    pub spread: Duration,
    /// Only jobs of this parent.
    pub parent: Option<String>,
    /// Only says what would be done.
    pub dry_run: bool,
}

impl BulkRetry {
    /// The most jobs that one call retries.
    pub const LIMIT_MAX: usize = 10_000;
}

impl Default for BulkRetry {
    fn default() -> Self {
        Self { limit: 500, spread: Duration::from_secs(600), parent: None, dry_run: false }
    }
}

/// What became of many jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct BulkReport {
    /// How many were retried or cancelled, or would have been.
    pub done: usize,
    /// How many were passed over, by reason: `superseded` (a newer job has the same key), `job_active` (it, or another
    /// of its key, is under way), `job_finished`, `not_found` (it was deleted meanwhile).
    pub skipped: BTreeMap<String, usize>,
    /// Whether the limit was reached: there may be more.
    pub limited: bool,
}

impl BulkReport {
    /// Counts what one call did; gives back what is no reason to pass a job over.
    fn count(&mut self, result: Result<Job>) -> Result<()> {
        match result {
            Ok(_) => self.done += 1,
            Err(error) if matches!(error.code(), "job_active" | "job_finished") || error.is_not_found() => {
                self.skip(error.code());
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn skip(&mut self, reason: &str) {
        *self.skipped.entry(reason.to_owned()).or_default() += 1;
    }
}

impl Client {
    /// Runs jobs again that failed, each with a fresh ladder and the same payload: those of `filter` and its state, or
    /// without one the failed, partial and dead-lettered. Of several with the same key only the newest counts, and
    /// only if nothing newer was done under that key.
    ///
    /// May be repeated: what runs again already is passed over. A dropped future leaves some jobs retried.
    ///
    /// # Errors
    /// `Validation` `state_not_retryable` when the filter names a state that cannot be retried; else as
    /// [`JobQueue`](crate::queue::JobQueue).
    pub async fn retry_jobs(&self, project: &str, filter: JobFilter, bulk: BulkRetry) -> Result<BulkReport> {
        let states = match filter.state {
            None => vec![JobState::DeadLetter, JobState::Failed, JobState::Partial],
            Some(JobState::Pending | JobState::InProgress | JobState::Succeeded) => {
                return Err(Error::validation(
                    "client.retry_jobs",
                    "state_not_retryable",
                    "only jobs that ended without success can be retried",
                ));
            }
            Some(state) => vec![state],
        };
        let limit = bulk.limit.min(BulkRetry::LIMIT_MAX);
        let mut report = BulkReport::default();
        let mut keys = HashSet::new();
        for state in states {
            let mut pages = Pages::new(project, JobFilter { state: Some(state), ..filter.clone() });
            while let Some(page) = pages.next(self).await? {
                for job in
                    page.into_iter().filter(|job| bulk.parent.as_ref().is_none_or(|wanted| *wanted == job.parent))
                {
                    if report.done >= limit {
                        report.limited = true;
                        return Ok(report);
                    }
                    self.retry_one(job, &bulk, &mut keys, &mut report).await?;
                }
            }
        }
        Ok(report)
    }

    async fn retry_one(
        &self,
        job: Job,
        bulk: &BulkRetry,
        keys: &mut HashSet<(String, String)>,
        report: &mut BulkReport,
    ) -> Result<()> {
        if let Some(key) = &job.key {
            let same = JobFilter { kind: Some(job.kind.clone()), key: Some(key.clone()), ..JobFilter::default() };
            let newest = self.engine.store.jobs(&JobFilter { limit: 1, ..same }).await?.pop();
            let first = keys.insert((job.kind.clone(), key.clone()));
            if !first || newest.is_some_and(|newest| newest.id != job.id) {
                report.skip("superseded");
                return Ok(());
            }
        }
        if bulk.dry_run {
            report.done += 1;
            return Ok(());
        }
        let share = random::with(|rng| rng.random_range(0.0..=1.0));
        report.count(self.engine.store.retry(&job.id, bulk.spread.mul_f64(share)).await)
    }

    /// Cancels all pending and running jobs that match `filter`, whatever state it names, and, if it is given, belong
    /// to `parent`: those that wait at once, those that run at their next safe point.
    ///
    /// What is enqueued meanwhile may escape. A dropped future leaves some jobs cancelled.
    ///
    /// # Errors
    /// As [`JobQueue`](crate::queue::JobQueue).
    pub async fn cancel_jobs(&self, project: &str, filter: JobFilter, parent: Option<&str>) -> Result<BulkReport> {
        let mut report = BulkReport::default();
        // A job may pass from one state to the other between two looks, but not for ever.
        loop {
            let before = report.done;
            for state in [JobState::Pending, JobState::InProgress] {
                let mut pages = Pages::new(project, JobFilter { state: Some(state), ..filter.clone() });
                while let Some(page) = pages.next(self).await? {
                    for job in page.iter().filter(|job| parent.is_none_or(|wanted| wanted == job.parent)) {
                        if !job.cancel_requested {
                            report.count(self.engine.store.cancel(&job.id).await)?;
                        }
                    }
                }
            }
            if report.done == before {
                return Ok(report);
            }
        }
    }
}

/// Walks the jobs that match a filter, newest first.
struct Pages {
    filter: JobFilter,
    over: bool,
}

impl Pages {
    fn new(project: &str, filter: JobFilter) -> Self {
        let filter = JobFilter { project: Some(project.to_owned()), limit: PAGE, ..filter };
        Self { filter, over: false }
    }

    async fn next(&mut self, client: &Client) -> Result<Option<Vec<Job>>> {
        if self.over {
            return Ok(None);
        }
        let page = client.engine.store.jobs(&self.filter).await?;
        self.over = page.len() < PAGE;
        self.filter.before = page.last().map(|job| job.id.clone());
        Ok(Some(page))
    }
}
