//! Jobs: look, retry, cancel.

use std::time::Duration;

use super::Client;
use crate::error::{Error, Result};
use crate::queue::{Job, JobFilter, QueueStats};

impl Client {
    /// Jobs of a project, newest first.
    ///
    /// # Errors
    /// As [`JobQueue`](crate::queue::JobQueue).
    pub async fn jobs(&self, project: &str, filter: JobFilter) -> Result<Vec<Job>> {
        self.engine.store.jobs(&JobFilter { project: Some(project.to_owned()), ..filter }).await
    }

    /// The job with `id`.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn job(&self, project: &str, id: &str) -> Result<Job> {
        match self.engine.store.job(id).await? {
            Some(job) if job.project == project => Ok(job),
            _ => Err(Error::not_found("client.job", format_args!("job {}", id.escape_debug()))),
        }
    }

    /// Runs a failed, dead-lettered, cancelled or partial job again, with a fresh ladder and the same payload.
    ///
    /// # Errors
    /// `not_found`; `job_active` when it, or another of the same key, is under way.
    pub async fn retry_job(&self, project: &str, id: &str) -> Result<Job> {
        self.job(project, id).await?;
        self.engine.store.retry(id, Duration::ZERO).await
    }

    /// Cancels a job: at once if it waits, at its next safe point if it runs.
    ///
    /// # Errors
    /// `not_found`; `job_finished`.
    pub async fn cancel_job(&self, project: &str, id: &str) -> Result<Job> {
        self.job(project, id).await?;
        self.engine.store.cancel(id).await
    }

    /// The depth of the queue, over all projects.
    ///
    /// # Errors
    /// As [`JobQueue`](crate::queue::JobQueue).
    pub async fn queue_stats(&self) -> Result<QueueStats> {
        self.engine.store.stats().await
    }
}
