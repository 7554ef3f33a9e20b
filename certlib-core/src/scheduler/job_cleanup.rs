//! Deletes jobs that ended long ago, and their logs.

use std::time::Duration;

use async_trait::async_trait;

use super::{Sweep, SweepContext};
use crate::error::Result;
use crate::model::JobLog;
use crate::queue::JobState;
use crate::runtime::Settings;
use crate::store::{StoreExt as _, TypedQuery};

/// How many are deleted at once.
const PAGE: usize = 500;

/// Deletes jobs that ended long ago, with their logs, and logs that have outlived their time.
#[derive(Debug, Clone, Copy)]
pub struct JobCleanupSweep {
    succeeded: Duration,
    failed: Duration,
}

impl JobCleanupSweep {
    /// Keeps jobs for as long as the settings say.
    pub fn new(settings: &Settings) -> Self {
        Self { succeeded: settings.job_retention, failed: settings.failed_job_retention }
    }

    fn retention(self, state: JobState) -> Option<Duration> {
        match state {
            JobState::Succeeded | JobState::Cancelled => Some(self.succeeded),
            JobState::Failed | JobState::Partial | JobState::DeadLetter => Some(self.failed),
            JobState::Pending | JobState::InProgress => None,
        }
    }
}

#[async_trait]
impl Sweep for JobCleanupSweep {
    fn name(&self) -> &'static str {
        "job_cleanup"
    }

    /// Deletes what is due; says how many jobs that were.
    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        let mut deleted = 0;
        for state in JobState::ALL {
            let Some(age) = self.retention(state) else { continue };
            while !cx.is_over() {
                let jobs = cx.store.purge(state, age, PAGE).await?;
                for job in &jobs {
                    // Should this end in the middle, the rest of the logs expires by itself.
                    delete(cx, || TypedQuery::new().equal("job", &**job)).await?;
                }
                deleted += jobs.len();
                if jobs.len() < PAGE {
                    break;
                }
            }
        }
        let now = cx.clock.now();
        delete(cx, || TypedQuery::new().at_most("expires_at", now).order_by("expires_at")).await?;
        Ok(deleted)
    }
}

/// Deletes the logs that match.
async fn delete(cx: &SweepContext, query: impl Fn() -> TypedQuery<JobLog>) -> Result<()> {
    while !cx.is_over() {
        let page = cx.store.list(query().limit(PAGE)).await?.records;
        if page.is_empty() {
            break;
        }
        let batch = page.iter().fold(cx.batch(), |batch, log| batch.delete::<JobLog>(&log.id));
        cx.commit(batch).await?;
        if page.len() < PAGE {
            break;
        }
    }
    Ok(())
}
