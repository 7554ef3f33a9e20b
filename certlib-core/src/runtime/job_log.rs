//! The logs of the jobs that run on this node: lines are gathered here, and written in the background.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{Notify, OwnedMutexGuard, watch};

use crate::clock::Clock;
use crate::error::Result;
use crate::model::{JobLog, JobLogLine, LogLevel, LogPosition};
use crate::queue::{Job, later};
use crate::store::{SharedStore, StoreExt as _, TypedQuery, Write};

/// How many lines of a job may wait for the background.
const WAITING_MAX: usize = 64;

/// What the logs of all jobs of a node share.
pub(crate) struct JobLogs {
    clock: Arc<dyn Clock>,
    node: String,
    keep: Duration,
    /// Something runs, or has something to say.
    stirred: Notify,
    /// Something should be written now.
    hurry: Notify,
    /// Jobs whose log somebody on this node reads as it grows.
    followed: Mutex<BTreeMap<String, usize>>,
    followers: AtomicUsize,
    written: watch::Sender<u64>,
}

impl JobLogs {
    /// Logs of jobs that run on `node`, kept for `keep`.
    pub(super) fn new(clock: Arc<dyn Clock>, node: &str, keep: Duration) -> Self {
        Self {
            clock,
            node: node.to_owned(),
            keep,
            stirred: Notify::new(),
            hurry: Notify::new(),
            followed: Mutex::default(),
            followers: AtomicUsize::new(0),
            written: watch::Sender::new(0),
        }
    }

    /// Returns when something runs or was said since this was asked last.
    pub(super) async fn stirred(&self) {
        self.stirred.notified().await;
    }

    /// Has the background look again.
    pub(super) fn stir(&self) {
        self.stirred.notify_one();
    }

    /// Returns when something should be written without further delay.
    pub(super) async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// Tells those who follow a log that there may be more.
    pub(super) fn tell(&self) {
        self.written.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Announces that somebody reads the log of `job` as it grows.
    pub(crate) fn follow(self: &Arc<Self>, job: &str) -> Followed {
        *self.lock().entry(job.to_owned()).or_default() += 1;
        self.followers.fetch_add(1, Ordering::Relaxed);
        // What was said already is wanted now.
        self.stir();
        self.hurry.notify_one();
        Followed { logs: self.clone(), job: job.to_owned(), written: self.written.subscribe() }
    }

    fn is_followed(&self, job: &str) -> bool {
        self.followers.load(Ordering::Relaxed) > 0 && self.lock().contains_key(job)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for JobLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobLogs").finish_non_exhaustive()
    }
}

/// Somebody's interest in a growing log.
pub(crate) struct Followed {
    logs: Arc<JobLogs>,
    job: String,
    /// Changes when this node wrote lines.
    pub(crate) written: watch::Receiver<u64>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        let mut followed = self.logs.lock();
        if let Some(count) = followed.get_mut(&self.job) {
            *count -= 1;
            if *count == 0 {
                followed.remove(&self.job);
            }
        }
        self.logs.followers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The log of one claim of one job.
///
/// Its lines are no results: they are written without regard to the claim, because what a worker did that has lost its
/// job is the very thing that somebody may want to know.
#[derive(Clone)]
pub(crate) struct JobLogger(Arc<Inner>);

struct Inner {
    logs: Arc<JobLogs>,
    job: String,
    project: String,
    epoch: u64,
    attempt: u32,
    started: Duration,
    started_at: OffsetDateTime,
    lines: Mutex<Lines>,
    /// Held while lines are on their way to the store.
    writing: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Lines {
    /// Whether the first line is there, which only appears if another does or the job takes its time.
    announced: bool,
    waiting: Vec<JobLogLine>,
    /// Pieces that were made, and perhaps not written yet.
    pieces: Vec<Write>,
    number: u32,
    bytes: u64,
    totals: Totals,
    /// Whether earlier claims were looked at.
    counted: bool,
    /// The attempt is over: what comes now comes too late.
    over: bool,
}

#[derive(Clone, Copy, Default)]
struct Totals {
    lines: u32,
    bytes: u64,
    full: bool,
}

impl JobLogger {
    /// The log of a job that starts now.
    pub(super) fn new(logs: Arc<JobLogs>, job: &Job) -> Self {
        Self(Arc::new(Inner {
            started: logs.clock.monotonic(),
            started_at: logs.clock.now(),
            job: job.id.clone(),
            project: job.project.clone(),
            epoch: job.claim_epoch,
            attempt: job.attempt,
            lines: Mutex::new(Lines { number: 1, ..Lines::default() }),
            writing: Arc::default(),
            logs,
        }))
    }

    /// Adds a line. Never waits.
    pub(super) fn log(&self, level: LogLevel, message: &str) {
        let waiting = {
            let mut lines = self.lock();
            // One line more than fits is kept, so that its place can say so.
            if lines.over || lines.number > JobLog::LINES_MAX || lines.bytes > JobLog::BYTES_MAX {
                return;
            }
            lines.number += 1;
            let position = LogPosition { epoch: self.0.epoch, number: lines.number };
            let line = JobLogLine::new(position, self.0.attempt, self.0.logs.clock.now(), level, message);
            lines.bytes += line.message.len() as u64;
            self.announce(&mut lines);
            lines.waiting.push(line);
            lines.waiting.len()
        };
        if waiting >= WAITING_MAX || self.0.logs.is_followed(&self.0.job) {
            self.0.logs.hurry.notify_one();
        }
        if waiting <= 2 {
            self.0.logs.stir();
        }
    }

    /// Whether anything beyond the greeting was said.
    pub(super) fn has_spoken(&self) -> bool {
        self.lock().number > 1
    }

    /// Has the greeting appear once the job has run for `patience`; says whether it still does not.
    pub(super) fn is_silent_after(&self, patience: Duration) -> bool {
        let mut lines = self.lock();
        let due = self.0.logs.clock.monotonic().saturating_sub(self.0.started) >= patience
            || self.0.logs.is_followed(&self.0.job);
        if due && !lines.over {
            self.announce(&mut lines);
        }
        !lines.announced && !lines.over
    }

    /// The right to write what waits; `None` while somebody else has it.
    pub(super) fn try_hold(&self) -> Option<OwnedMutexGuard<()>> {
        self.0.writing.clone().try_lock_owned().ok()
    }

    /// Everything that is left to be written, when nothing is on its way any more; further lines are dropped.
    pub(super) async fn finish(&self, store: &SharedStore) -> Vec<Write> {
        self.lock().over = true;
        if self.lock().is_empty() {
            return Vec::new();
        }
        let _writing = self.0.writing.lock().await;
        match self.unwritten(store).await {
            Ok(writes) => writes,
            Err(error) => {
                tracing::warn!(job = %self.0.job, %error, "cannot write the job's log");
                Vec::new()
            }
        }
    }

    /// What must be written so that nothing said up to now is missing. Writing it twice changes nothing.
    pub(super) async fn unwritten(&self, store: &SharedStore) -> Result<Vec<Write>> {
        if self.lock().is_empty() {
            return Ok(Vec::new());
        }
        if self.0.epoch > 1 && !self.lock().counted {
            let query = TypedQuery::<JobLog>::new().equal("job", &*self.0.job).descending().limit(1);
            let last = store.list(query).await?.records.pop();
            let mut lines = self.lock();
            lines.counted = true;
            if let Some(last) = last {
                lines.totals = Totals { lines: last.total_lines, bytes: last.total_bytes, full: last.full };
            }
        }
        let now = self.0.logs.clock.now();
        let mut lines = self.lock();
        let kept = lines.within_quota();
        if let Some(last) = kept.last() {
            let piece = JobLog {
                id: JobLog::id_of(&self.0.job, last.position),
                job: self.0.job.clone(),
                project: self.0.project.clone(),
                total_lines: lines.totals.lines,
                total_bytes: lines.totals.bytes,
                full: lines.totals.full,
                expires_at: later(now, self.0.logs.keep),
                lines: kept,
            };
            lines.pieces.push(Write::of(&piece)?);
        }
        Ok(lines.pieces.clone())
    }

    /// The first `count` pieces are stored.
    pub(super) fn written(&self, count: usize) {
        self.lock().pieces.drain(..count);
    }

    fn announce(&self, lines: &mut Lines) {
        if !std::mem::replace(&mut lines.announced, true) {
            let position = LogPosition { epoch: self.0.epoch, number: 1 };
            let message = format!("attempt {} starts on {}", self.0.attempt, self.0.logs.node);
            let line = JobLogLine::new(position, self.0.attempt, self.0.started_at, LogLevel::Info, &message);
            lines.waiting.push(line);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for JobLogger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobLogger").field("job", &self.0.job).finish_non_exhaustive()
    }
}

impl Lines {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.pieces.is_empty()
    }

    /// Takes the lines that wait, as far as the job's quota goes.
    fn within_quota(&mut self) -> Vec<JobLogLine> {
        let mut kept = Vec::with_capacity(self.waiting.len());
        for mut line in self.waiting.drain(..) {
            if self.totals.full {
                break;
            }
            let bytes = line.message.len() as u64;
            if self.totals.lines >= JobLog::LINES_MAX || self.totals.bytes + bytes > JobLog::BYTES_MAX {
                self.totals.full = true;
                line.level = LogLevel::Warn;
                line.message = "the log is full: further lines of this job are left out".to_owned();
            } else {
                self.totals.lines += 1;
                self.totals.bytes += bytes;
            }
            kept.push(line);
        }
        kept
    }
}
