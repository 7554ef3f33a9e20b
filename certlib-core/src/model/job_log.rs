//! What jobs have to say while they run.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::error::{Error, truncate};
use crate::store::{Cursor, Index, Record};

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// A step that was taken.
    Info,
    /// Something went wrong, and will be tried again.
    Warn,
    /// Something went wrong for good.
    Error,
}

/// One line of a job's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobLogLine {
    /// Where it stands in the log.
    #[serde(flatten)]
    pub position: LogPosition,
    /// The attempt it is about, from 1.
    pub attempt: u32,
    /// When it was said.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// How much it matters.
    pub level: LogLevel,
    /// The text: one line, without control characters.
    pub message: String,
}

/// Where a line stands in its job's log. As text: the claim epoch and the number, such as `"3-17"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPosition {
    /// The claim it was said under: grows with every start of the job, also over retries by hand.
    pub epoch: u64,
    /// Its number under that claim, from 1.
    pub number: u32,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

impl FromStr for LogPosition {
    type Err = Error;

    /// # Errors
    /// `Validation` `position_invalid`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let parts = text.split_once('-').and_then(|(epoch, number)| Some((epoch.parse().ok()?, number.parse().ok()?)));
        let (epoch, number) = parts.ok_or_else(|| {
            Error::validation("job_log.position", "position_invalid", "a position is two numbers, such as 3-17")
        })?;
        Ok(Self { epoch, number })
    }
}

impl JobLogLine {
    /// A line that says `message` as far as its limits allow.
    pub(crate) fn new(position: LogPosition, attempt: u32, at: OffsetDateTime, level: LogLevel, message: &str) -> Self {
        Self { position, attempt, at, level, message: printable(message) }
    }
}

/// `text` on one line, without what could make a terminal or a reader see something else, at most
/// [`JobLog::LINE_MAX`] bytes.
fn printable(text: &str) -> String {
    let harmful = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut line = String::with_capacity(text.len().min(JobLog::LINE_MAX));
    for c in text.trim_end().chars() {
        if line.len() > JobLog::LINE_MAX {
            break;
        }
        if harmful(c) { line.extend(c.escape_default()) } else { line.push(c) }
    }
    if line.len() > JobLog::LINE_MAX {
        truncate(&mut line, JobLog::LINE_MAX - '…'.len_utf8());
        line.push('…');
    }
    line
}

/// Some successive lines of a job's log: what was written at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLog {
    /// Its id: sorts by [`LogPosition`] within a job.
    pub id: String,
    /// The job.
    pub job: String,
    /// The job's project.
    pub project: String,
    /// The lines, oldest first; never empty.
    pub lines: Vec<JobLogLine>,
    /// How many lines the job's log has, with these.
    pub total_lines: u32,
    /// How many bytes of text they are.
    pub total_bytes: u64,
    /// Nothing more is kept of this job's log.
    pub full: bool,
    /// When it may be forgotten, even if its job is still there.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

impl JobLog {
    /// The longest line, in bytes.
    pub const LINE_MAX: usize = 8 * 1024;
    /// How many lines are kept of one job.
    pub const LINES_MAX: u32 = 1000;
    /// How many bytes of text are kept of one job.
    pub const BYTES_MAX: u64 = 256 * 1024;

    /// The id of the piece that ends at `position`.
    pub(crate) fn id_of(job: &str, position: LogPosition) -> String {
        /// What is left of the 200 bytes of an id.
        const JOB_MAX: usize = 160;
        let LogPosition { epoch, number } = position;
        if job.len() <= JOB_MAX {
            return format!("{job}/{epoch:020}/{number:010}");
        }
        let hash = digest::digest(&digest::SHA256, job.as_bytes());
        let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{hash}/{epoch:020}/{number:010}")
    }

    /// The place in the order of a job's pieces after which come all lines after `position`.
    pub(crate) fn cursor(job: &str, position: LogPosition) -> Cursor {
        Cursor { value: None, id: Self::id_of(job, position) }
    }
}

impl Record for JobLog {
    const KIND: &'static str = "job_log";
    const FIELDS: &'static [&'static str] = &["job", "expires_at"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("job", &*self.job).field("expires_at", self.expires_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_short_and_harmless() {
        assert_eq!(printable("one\ntwo\u{1b}[31m\0 \u{202e}x\n"), "one\\ntwo\\u{1b}[31m\\u{0} \\u{202e}x");
        for long in ["é".repeat(JobLog::LINE_MAX), "\u{1b}".repeat(JobLog::LINE_MAX)] {
            let line = printable(&long);
            assert!(line.len() <= JobLog::LINE_MAX && line.len() > JobLog::LINE_MAX - 16, "{}", line.len());
        }
        assert_eq!(printable(&"x".repeat(JobLog::LINE_MAX)), "x".repeat(JobLog::LINE_MAX));
    }

    #[test]
    fn ids_sort_by_position_and_fit() {
        let at = |epoch, number| LogPosition { epoch, number };
        for job in ["j".to_owned(), "j".repeat(200)] {
            let ids = [at(1, 2), at(1, 10), at(2, 1), at(10, 1), at(u64::MAX, u32::MAX)]
                .map(|position| JobLog::id_of(&job, position));
            assert!(ids.is_sorted() && ids.iter().all(|id| id.len() <= 200));
        }
    }

    #[test]
    fn positions_are_text() {
        let position = LogPosition { epoch: 3, number: 17 };
        assert_eq!(position.to_string().parse::<LogPosition>().unwrap(), position);
        assert_eq!("x".parse::<LogPosition>().unwrap_err().code(), "position_invalid");
    }
}
