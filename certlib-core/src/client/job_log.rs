//! The logs of jobs: page by page, or as they grow.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{Stream, stream};

use super::Client;
use crate::error::Result;
use crate::model::{JobLog, JobLogLine, LogPosition};
use crate::runtime::Followed;
use crate::store::{StoreExt as _, TypedQuery};

/// How often the log of a job that runs on another node is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How many lines are read at once.
const PAGE: usize = 200;

impl Client {
    /// Lines of a job's log, oldest first: those after `after`, at most `limit` (1 to 1000; 0 means 100).
    ///
    /// # Errors
    /// `not_found`; else as [`Store`](crate::store::Store).
    pub async fn job_log(
        &self,
        project: &str,
        job: &str,
        after: Option<LogPosition>,
        limit: usize,
    ) -> Result<Vec<JobLogLine>> {
        self.job(project, job).await?;
        self.log_lines(job, after, if limit == 0 { 100 } else { limit.min(1000) }).await
    }

    /// The lines of a job's log after `after`, and those that come, until the job has ended. The log of a job that this
    /// node runs is there at once; that of another's within two seconds.
    ///
    /// Costs a look at the job and its log twice a second. Cancel-safe: go on with the position of the last line. After
    /// an error the stream ends.
    ///
    /// # Errors
    /// `not_found`; else as [`Store`](crate::store::Store).
    pub fn follow_job_log(
        &self,
        project: &str,
        job: &str,
        after: Option<LogPosition>,
    ) -> impl Stream<Item = Result<JobLogLine>> + Send + use<> {
        let follower = Follower {
            client: self.clone(),
            project: project.to_owned(),
            job: job.to_owned(),
            after,
            read: VecDeque::new(),
            followed: self.engine.job_logs.follow(job),
        };
        stream::try_unfold(follower, |mut follower| async {
            let line = follower.next().await?;
            Ok(line.map(|line| (line, follower)))
        })
    }

    async fn log_lines(&self, job: &str, after: Option<LogPosition>, limit: usize) -> Result<Vec<JobLogLine>> {
        let start = after.unwrap_or(LogPosition { epoch: 0, number: 0 });
        let mut cursor = Some(JobLog::cursor(job, start));
        let mut lines = Vec::new();
        while lines.len() < limit && cursor.is_some() {
            // A piece has one line at least, and often more.
            let query = TypedQuery::<JobLog>::new().equal("job", job).after(cursor).limit(limit.min(100));
            let page = self.engine.store.list(query).await?;
            cursor = page.next;
            lines.extend(page.records.into_iter().flat_map(|piece| piece.record.lines));
        }
        lines.retain(|line| line.position > start);
        lines.truncate(limit);
        Ok(lines)
    }
}

/// Somebody who reads a log as it grows.
struct Follower {
    client: Client,
    project: String,
    job: String,
    after: Option<LogPosition>,
    read: VecDeque<JobLogLine>,
    followed: Followed,
}

impl Follower {
    async fn next(&mut self) -> Result<Option<JobLogLine>> {
        loop {
            if let Some(line) = self.read.pop_front() {
                self.after = Some(line.position);
                return Ok(Some(line));
            }
            self.followed.written.borrow_and_update();
            // In this order: what an ended job said last is there when it has ended.
            let over = !self.client.job(&self.project, &self.job).await?.state.is_active();
            self.read = self.client.log_lines(&self.job, self.after, PAGE).await?.into();
            if !self.read.is_empty() {
                continue;
            }
            if over {
                return Ok(None);
            }
            tokio::select! {
                biased;
                // The other end lives as long as the engine.
                _ = self.followed.written.changed() => {}
                () = self.client.engine.clock.sleep(LOOK) => {}
            }
        }
    }
}
