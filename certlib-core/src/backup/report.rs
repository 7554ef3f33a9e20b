//! What a check found.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::format::BackupHeader;
use crate::error::{Error, Result};
use crate::secret::Kek;

/// Whether the keys at hand fit the secrets in a backup or a store.
///
/// [`KeyReport::verdict`] says whether traffic may be served; `Display` says all of it to people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KeyReport {
    /// The first line of the backup; `None` for a store.
    pub backup: Option<BackupHeader>,
    /// The checksum of the backup.
    pub sha256: Option<String>,
    /// How many records there are.
    pub records: u64,
    /// How many of each kind.
    pub kinds: BTreeMap<String, u64>,
    /// The keys that are needed, by version.
    pub keks: Vec<KekReport>,
    /// How many secrets an envelope of another make sealed.
    pub foreign: u64,
    /// How many secrets do not open although their key is at hand, and records cannot be read.
    pub failed: u64,
    /// The first of them: at most 20.
    pub failures: Vec<Failure>,
    /// Kinds of records that this process does not know, and how many there are: it cannot look for secrets in them.
    pub unknown_kinds: BTreeMap<String, u64>,
    /// The key that should seal, if the store would refuse what it seals.
    pub unfenced: Option<Kek>,
    /// The backup whose restore into this store was begun and not finished.
    pub unfinished: Option<String>,
}

/// A key-encryption key, and what depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KekReport {
    /// The key; version 0 if nobody knows it.
    pub kek: Kek,
    /// Whether it is at hand.
    pub at_hand: bool,
    /// Another key that is at hand under the same version: the wrong one.
    pub instead: Option<Kek>,
    /// How many secrets are sealed with it.
    pub envelopes: u64,
    /// How many of them open.
    pub opened: u64,
    /// How many do not open although the key is at hand.
    pub failed: u64,
    /// How many do not open because the key is missing.
    pub orphaned: u64,
}

/// A record that failed its check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// Its kind.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// The line of the backup that it is in.
    pub line: Option<u64>,
    /// The code of the error.
    pub code: String,
    /// What went wrong.
    pub message: String,
}

/// How many failures are told one by one.
const FAILURES: usize = 20;

impl KeyReport {
    /// Whether traffic may be served: every secret opens and nothing else stands against it.
    pub fn may_serve(&self) -> bool {
        self.verdict().is_ok()
    }

    /// Fails with what stands most against serving traffic.
    ///
    /// # Errors
    /// `Validation` `restore_unfinished`; `kek_orphaned`, with `kek`, `version` and `count`, when a key is missing, and
    /// with `instead` when there is another one under its version; `record_failed` with the first record; `kind_unknown`
    /// with the kinds; `keyring_unfenced`.
    pub fn verdict(&self) -> Result<()> {
        let refused = |code: &'static str, why: &'static str| Error::validation("backup.check", code, why);
        if let Some(backup) = &self.unfinished {
            return Err(unfinished(backup));
        }
        if let Some(orphan) = self.keks.iter().find(|key| !key.at_hand || key.orphaned > 0) {
            let why = "a key is missing that secrets are sealed with, or that is to seal";
            let error = refused("kek_orphaned", why)
                .with("kek", orphan.kek.id)
                .with("version", orphan.kek.version)
                .with("count", orphan.orphaned);
            return Err(match &orphan.instead {
                Some(instead) => error.with("instead", instead.id),
                None => error,
            });
        }
        if self.failed > 0 {
            let error = refused("record_failed", "secrets do not open with their keys, or records cannot be read");
            let error = error.with("count", self.failed);
            return Err(match self.failures.first() {
                Some(Failure { kind, id, code, .. }) => {
                    error.with("kind", kind.escape_debug()).with("id", id.escape_debug()).with("first", code)
                }
                None => error,
            });
        }
        if !self.unknown_kinds.is_empty() {
            let why = "there are records of kinds that this process does not know: it must register them";
            let kinds: Vec<_> = self.unknown_kinds.keys().map(|kind| kind.escape_debug().to_string()).collect();
            return Err(refused("kind_unknown", why).with("kinds", kinds.join(" ")));
        }
        if let Some(kek) = &self.unfenced {
            let why = "the store would refuse what the key seals that should: parts of the keyring are missing";
            return Err(refused("keyring_unfenced", why).with("kek", kek.id));
        }
        Ok(())
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        self.failed += 1;
        if self.failures.len() < FAILURES {
            self.failures.push(failure);
        }
    }
}

/// A store that is not to be used.
pub(super) fn unfinished(backup: &str) -> Error {
    let why = "a restore into this store was begun and not finished; run it again with the same backup";
    Error::validation("backup.check", "restore_unfinished", why).with("backup", backup.escape_debug())
}

impl fmt::Display for KeyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(header) = &self.backup {
            let (date, time) = (header.taken_at.date(), header.taken_at.time());
            writeln!(f, "backup {} of {date} {:02}:{:02} UTC", header.id.escape_debug(), time.hour(), time.minute())?;
        }
        writeln!(f, "{} records of {} kinds", self.records, self.kinds.len())?;
        for key in &self.keks {
            let KekReport { kek, envelopes, opened, failed, orphaned, .. } = key;
            write!(f, "key {kek}: {envelopes} secrets, {opened} open")?;
            if *failed > 0 {
                write!(f, ", {failed} do NOT")?;
            }
            if *orphaned > 0 {
                write!(f, ", {orphaned} do NOT")?;
            }
            match &key.instead {
                _ if key.at_hand && *orphaned == 0 => {}
                Some(instead) => write!(f, ": the key at hand under this version is {instead}")?,
                None => write!(f, ": the key is missing")?,
            }
            writeln!(f)?;
        }
        if self.foreign > 0 {
            writeln!(f, "{} secrets were sealed by an envelope of another make", self.foreign)?;
        }
        for failure in &self.failures {
            let Failure { kind, id, code, message, line } = failure;
            write!(f, "{} {}: {code}: {}", kind.escape_debug(), id.escape_debug(), message.escape_debug())?;
            line.map_or(Ok(()), |line| write!(f, " (line {line})"))?;
            writeln!(f)?;
        }
        if self.failed > self.failures.len() as u64 {
            writeln!(f, "and {} more", self.failed - self.failures.len() as u64)?;
        }
        for (kind, count) in &self.unknown_kinds {
            writeln!(f, "{count} records of the unknown kind {}", kind.escape_debug())?;
        }
        match self.verdict() {
            Ok(()) => write!(f, "every secret opens: traffic may be served"),
            Err(error) => write!(f, "traffic must NOT be served: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::KekId;

    #[test]
    fn it_says_what_stands_against_serving() {
        let kek = |byte: u8| Kek::new(KekId::new([byte; 32]), 1, "local");
        let mut report = KeyReport::default();
        assert!(report.may_serve() && report.to_string().ends_with("traffic may be served"));
        report.unknown_kinds.insert("a\nb".to_owned(), 2);
        assert_eq!(report.verdict().unwrap_err().code(), "kind_unknown");
        report.fail(Failure {
            kind: "credential".to_owned(),
            id: "c1".to_owned(),
            line: Some(3),
            code: "envelope_rejected".to_owned(),
            message: "no".to_owned(),
        });
        assert_eq!(report.verdict().unwrap_err().code(), "record_failed");
        let (at_hand, opened, failed) = (false, 0, 0);
        let instead = Some(kek(2));
        report.keks.push(KekReport { kek: kek(1), at_hand, instead, envelopes: 5, opened, failed, orphaned: 5 });
        let error = report.verdict().unwrap_err();
        assert_eq!(error.code(), "kek_orphaned");
        assert!(error.context().any(|(key, value)| key == "count" && value == "5"), "{error:?}");
        let text = report.to_string();
        for part in ["5 do NOT: the key at hand under this version is v1 (local, 0202", "(line 3)", "must NOT", r"a\nb"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        report.unfinished = Some("b1".to_owned());
        assert_eq!(report.verdict().unwrap_err().code(), "restore_unfinished");
    }
}
