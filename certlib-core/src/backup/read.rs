//! Reads a backup line by line and believes nothing.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

use super::format::{BackupEnd, BackupHeader, DEPTH_MAX, LINE_MAX, RecordLine, depth, hex, invalid, reading};
use crate::classify;
use crate::error::{Error, Result};

/// How much is read at once, in bytes.
const CHUNK: usize = 256 * 1024;

/// How many kinds of record there may be in one file: their names are kept.
const KINDS_MAX: usize = 1_000;

/// A backup being read: structure, order and, at the end, counts and checksum.
pub(super) struct Reader<R> {
    input: BufReader<R>,
    header: BackupHeader,
    state: State,
    digest: Context,
    last: Option<(String, String)>,
    kinds: BTreeMap<String, u64>,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    line: u64,
    bytes: u64,
    records: u64,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads the first line.
    pub(super) async fn open(input: R) -> Result<Self> {
        let mut input = BufReader::with_capacity(CHUNK, input);
        let (mut state, mut digest) = (State::default(), Context::new(&SHA256));
        if !state.read_line(&mut input).await? {
            return Err(truncated().with("line", 1));
        }
        let header = state.text().and_then(BackupHeader::parse).map_err(|error| error.with("line", 1))?;
        digest.update(&state.buffer);
        Ok(Self { input, header, state, digest, last: None, kinds: BTreeMap::new() })
    }

    pub(super) fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// The number of the line that was read last.
    pub(super) fn line(&self) -> u64 {
        self.state.line
    }

    /// How many bytes were read.
    pub(super) fn bytes(&self) -> u64 {
        self.state.bytes
    }

    /// How many records were read.
    pub(super) fn records(&self) -> u64 {
        self.state.records
    }

    /// The next record; at the end, what the last line says, after it was found to be true.
    pub(super) async fn next(&mut self) -> Result<Next> {
        let more = self.state.read_line(&mut self.input).await;
        let line = self.line();
        if !more.map_err(|error| error.with("line", line))? {
            return Err(truncated().with("line", line + 1));
        }
        let next = self.take().map_err(|error| error.with("line", line))?;
        if matches!(next, Next::End(_)) && !self.input.fill_buf().await.map_err(unreadable)?.is_empty() {
            let why = "something follows the last line of the backup";
            return Err(reading("backup_trailing", why).with("line", line + 1));
        }
        Ok(next)
    }

    fn take(&mut self) -> Result<Next> {
        let text = self.state.text()?;
        if !BackupEnd::is(text) {
            let record = RecordLine::parse(text)?;
            self.digest.update(&self.state.buffer);
            self.follow(&record)?;
            self.state.records += 1;
            return Ok(Next::Record(record));
        }
        let (end, covered) = BackupEnd::parse(text)?;
        self.digest.update(&text.as_bytes()[..covered]);
        if hex(self.digest.clone().finish().as_ref()) != end.sha256 {
            return Err(reading("backup_checksum", "the backup was changed or damaged: its checksum is another one"));
        }
        if end.records != self.state.records || end.kinds != self.kinds {
            return Err(reading("backup_counts", "the backup does not have the records that its last line counts")
                .with("counted", end.records)
                .with("found", self.state.records));
        }
        Ok(Next::End(end))
    }

    /// Fails unless `record` may stand after the one before it.
    fn follow(&mut self, record: &RecordLine) -> Result<()> {
        let place = |error: Error| error.with("kind", record.kind.escape_debug()).with("id", record.id.escape_debug());
        if record.kind.len() > 32 || record.id.len() > 4096 || self.kinds.len() > KINDS_MAX {
            return Err(reading(
                "backup_invalid",
                "the name of a kind, or an id, is too long, or there are too many kinds",
            ));
        }
        match &mut self.last {
            Some((kind, id)) if *kind == record.kind => {
                if *id == record.id {
                    return Err(place(reading("backup_duplicate", "a record is in the backup twice")));
                }
                if *id > record.id {
                    return Err(place(reading("backup_order", "the records of the backup are not in order")));
                }
                id.clone_from(&record.id);
            }
            last => {
                if self.kinds.contains_key(&record.kind) {
                    return Err(place(reading("backup_order", "the records of a kind do not stand together")));
                }
                *last = Some((record.kind.clone(), record.id.clone()));
            }
        }
        *self.kinds.entry(record.kind.clone()).or_default() += 1;
        Ok(())
    }
}

/// What a line was.
pub(super) enum Next {
    Record(RecordLine),
    End(BackupEnd),
}

impl State {
    /// Reads a line with its newline; `false`: there is none.
    async fn read_line<R: AsyncRead + Unpin>(&mut self, input: &mut BufReader<R>) -> Result<bool> {
        self.buffer.clear();
        self.line += 1;
        loop {
            let chunk = input.fill_buf().await.map_err(unreadable)?;
            if chunk.is_empty() {
                if self.buffer.is_empty() {
                    self.line -= 1;
                    return Ok(false);
                }
                return Err(truncated());
            }
            let end = chunk.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let length = end.unwrap_or(chunk.len());
            if self.buffer.len() + length > LINE_MAX {
                let why = "a line of the backup is longer than any that certlib writes";
                return Err(reading("backup_line_too_long", why).with("limit", LINE_MAX));
            }
            self.buffer.extend_from_slice(&chunk[..length]);
            self.bytes += length as u64;
            input.consume(length);
            if end.is_some() {
                return Ok(true);
            }
        }
    }

    /// The line without its newline.
    fn text(&self) -> Result<&str> {
        let line = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        let text = std::str::from_utf8(line)
            .map_err(|error| reading("backup_not_utf8", "the backup is not UTF-8").with("at", error.valid_up_to()))?;
        if depth(text) > DEPTH_MAX {
            return Err(
                reading("backup_too_deep", "a line of the backup is nested too deeply").with("limit", DEPTH_MAX)
            );
        }
        if text.trim_end().is_empty() {
            return Err(invalid("an empty line is no part of a backup"));
        }
        Ok(text)
    }
}

fn truncated() -> Error {
    reading("backup_truncated", "the backup ends before its last line: it was cut, or never finished")
}

fn unreadable(error: std::io::Error) -> Error {
    Error::new(classify::io(error.kind()), "backup.read", "io_failed", "the backup cannot be read").with_source(error)
}
