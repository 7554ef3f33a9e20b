//! The lines of a backup.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::error::{Error, Result};
use crate::model::Backup;
use crate::secret::{Kek, KekId};

/// What the first line calls the format.
pub const FORMAT: &str = "certlib-backup";

/// The version of the format.
pub const VERSION: u32 = 1;

/// The longest line, in bytes, with its newline.
pub const LINE_MAX: usize = 8 * 1024 * 1024;

/// The deepest nesting of a line.
pub const DEPTH_MAX: usize = 128;

/// The name of the checksum, which covers all that is before it.
const CHECKSUM: &str = "\"sha256\":\"";

/// The first line of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BackupHeader {
    /// [`FORMAT`].
    pub format: String,
    /// The version of the format.
    pub version: u32,
    /// The version of certlib that wrote it.
    pub certlib: String,
    /// The id of the backup, as in [`Backup`].
    pub id: String,
    /// When it was begun.
    #[serde(with = "time::serde::rfc3339")]
    pub taken_at: OffsetDateTime,
    /// The epoch of the leader's lease at that time; 0: nobody ever led.
    pub leader_epoch: u64,
}

/// The last line of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BackupEnd {
    /// How many records there are.
    pub records: u64,
    /// How many of each kind.
    pub kinds: BTreeMap<String, u64>,
    /// The keys that it needs, by version: those that its secrets are sealed with, and the one that seals.
    pub keks: Vec<KekUse>,
    /// How many secrets an envelope of another make sealed.
    pub foreign: u64,
    /// The SHA-256, in lower-case hexadecimal, of everything before the name of this member.
    pub sha256: String,
}

/// A key-encryption key, and how much depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KekUse {
    /// Its fingerprint.
    pub id: KekId,
    /// Its version; 0 if nobody knew it when the backup was taken.
    pub version: u32,
    /// The kind of its provider; empty if nobody knew it.
    pub provider: String,
    /// How many secrets are sealed with it.
    pub envelopes: u64,
}

impl KekUse {
    pub(super) fn new(kek: &Kek, envelopes: u64) -> Self {
        Self { id: kek.id, version: kek.version, provider: kek.provider.clone(), envelopes }
    }

    /// The key.
    pub fn kek(&self) -> Kek {
        Kek::new(self.id, self.version, &self.provider)
    }
}

impl BackupHeader {
    pub(super) fn new(id: String, taken_at: OffsetDateTime, leader_epoch: u64) -> Self {
        let certlib = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT.to_owned(), version: VERSION, certlib, id, taken_at, leader_epoch }
    }

    /// The line, with its newline.
    pub(super) fn encode(&self) -> Result<String> {
        let mut line = encode(self)?;
        line.push('\n');
        Ok(line)
    }

    pub(super) fn parse(line: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Kind {
            format: String,
            version: u32,
        }
        let foreign = || invalid("this is not a backup of certlib");
        let Kind { format, version } = parse(line).map_err(|error| foreign().with_source(error))?;
        if format != FORMAT {
            return Err(foreign());
        }
        if version != VERSION {
            return Err(reading("backup_version", "a newer version of certlib wrote this backup; use that one")
                .with("version", version)
                .with("known", VERSION));
        }
        parse(line).map_err(|error| invalid("the first line is not as it should be").with_source(error))
    }
}

impl BackupEnd {
    /// The record that tells of the backup.
    pub(super) fn to_record(&self, header: &BackupHeader) -> Backup {
        let keks = self.keks.iter().map(KekUse::kek).collect();
        Backup { id: header.id.clone(), keks, records: self.records, taken_at: header.taken_at }
    }

    /// The line up to where the checksum begins; the checksum is that of all before it and of this.
    pub(super) fn encode_open(&self) -> Result<String> {
        let line = encode(self)?;
        checksum_at(&line).map(|at| line[..at].to_owned()).ok_or_else(|| unencodable("the last line"))
    }

    /// The rest of the line.
    pub(super) fn encode_rest(sha256: &str) -> String {
        format!("{CHECKSUM}{sha256}\"}}\n")
    }

    /// Whether a line is the last one.
    pub(super) fn is(line: &str) -> bool {
        line.starts_with("{\"records\":")
    }

    /// The last line, and how many bytes of it the checksum covers.
    pub(super) fn parse(line: &str) -> Result<(Self, usize)> {
        let end: Self =
            parse(line).map_err(|error| invalid("the last line is not as it should be").with_source(error))?;
        let at = checksum_at(line).filter(|at| line[*at..] == *Self::encode_rest(&end.sha256).trim_end());
        Ok((end, at.ok_or_else(|| invalid("the last line does not end with its checksum"))?))
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordLine {
    pub(super) kind: String,
    pub(super) id: String,
    pub(super) revision: u64,
    /// JSON.
    pub(super) body: String,
}

impl RecordLine {
    /// The line, with its newline.
    pub(super) fn encode(kind: &str, id: &str, revision: u64, body: &str) -> Result<String> {
        let mut line = Self::head(kind, id, revision)?;
        // Between its tokens JSON may hold newlines, and within them it cannot.
        line.extend(body.trim().chars().map(|char| if matches!(char, '\n' | '\r') { ' ' } else { char }));
        line.push_str("}\n");
        if line.len() > LINE_MAX {
            let why = "a record is too large for a backup";
            return Err(Error::permanent("backup.write", "backup_line_too_long", why).with("bytes", line.len()));
        }
        if depth(&line) > DEPTH_MAX {
            return Err(Error::permanent(
                "backup.write",
                "backup_too_deep",
                "a record is nested too deeply for a backup",
            ));
        }
        Ok(line)
    }

    /// Reads the line, without its newline.
    pub(super) fn parse(line: &str) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Line<'a> {
            #[serde(borrow)]
            kind: Cow<'a, str>,
            #[serde(borrow)]
            id: Cow<'a, str>,
            revision: u64,
            #[serde(rename = "body")]
            _body: IgnoredAny,
        }
        let wrong = || invalid("the line is no record of a backup");
        let Line { kind, id, revision, _body } = parse(line).map_err(|error| wrong().with_source(error))?;
        // The body is kept as it is, so what is around it must be as it was written.
        let body = line.strip_prefix(&*Self::head(&kind, &id, revision)?).and_then(|rest| rest.strip_suffix('}'));
        let body = body.ok_or_else(wrong)?.to_owned();
        Ok(Self { kind: kind.into_owned(), id: id.into_owned(), revision, body })
    }

    fn head(kind: &str, id: &str, revision: u64) -> Result<String> {
        Ok(format!("{{\"kind\":{},\"id\":{},\"revision\":{revision},\"body\":", encode(&kind)?, encode(&id)?))
    }
}

/// How deeply brackets are nested.
pub(super) fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut text, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'{' | b'[' if !text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An error that a file is to blame for.
pub(super) fn reading(code: &'static str, why: &'static str) -> Error {
    Error::validation("backup.read", code, why)
}

pub(super) fn invalid(why: &'static str) -> Error {
    reading("backup_invalid", why)
}

fn checksum_at(line: &str) -> Option<usize> {
    line.rfind(CHECKSUM)
}

fn encode<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| unencodable("a line").with_source(error))
}

fn unencodable(what: &str) -> Error {
    Error::permanent("backup.write", "backup_unencodable", format!("{what} of the backup cannot be encoded"))
}

fn parse<'a, T: Deserialize<'a>>(line: &'a str) -> serde_json::Result<T> {
    serde_json::from_str(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_but_not_in_texts() {
        for (json, wanted) in
            [("1", 0), ("{}", 1), (r#"{"a":[{"b":"}]{"}]}"#, 3), (r#"["\"[[[","\\"]"#, 1), ("[]]]][", 1)]
        {
            assert_eq!(depth(json), wanted, "{json}");
        }
        assert_eq!(depth(&"[".repeat(500)), 500);
    }

    #[test]
    fn a_record_is_read_as_it_was_written_whatever_is_in_it() {
        for (id, body) in
            [("a", "{}"), ("ü\"\\/\u{2028}", r#"{"x": 1e400,"y":[1.10],"body":"}\n"}"#), ("b", "{\n\r \"a\":1\n}")]
        {
            let line = RecordLine::encode("kind", id, 7, body).unwrap();
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            let read = RecordLine::parse(line.trim_end()).unwrap();
            assert_eq!((&*read.kind, &*read.id, read.revision), ("kind", id, 7));
            assert_eq!(read.body, body.replace(['\n', '\r'], " "));
        }
    }

    #[test]
    fn other_lines_are_refused() {
        for line in [
            "",
            "null",
            r#"{"kind":"k","id":"a","revision":1}"#,
            r#"{"kind":"k","id":"a","revision":-1,"body":{}}"#,
            r#"{"kind":"k","id":"a","revision":1,"body":{}"#,
            r#"{"kind":"k","id":"a","revision":1,"body":{}}}"#,
            r#"{"kind":"k","id":"a","revision":1,"body":{},"more":1}"#,
            r#"{"kind":"k","id":"a","revision":1,"body":{},"body":{}}"#,
            r#"{"kind":"k", "id":"a","revision":1,"body":{}}"#,
            r#"{"id":"a","kind":"k","revision":1,"body":{}}"#,
            r#"{"kind":"k","id":"a","revision":1,"body":{} }"#.trim_end_matches(" }"),
        ] {
            assert_eq!(RecordLine::parse(line).unwrap_err().code(), "backup_invalid", "{line}");
        }
    }
}
