//! Checks whether the keys at hand open every secret, without opening one.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use futures::stream;
use tokio::io::AsyncRead;

use super::format::{BackupEnd, BackupHeader, KekUse, RecordLine, reading};
use super::read::{Next, Reader};
use super::report::{Failure, KekReport, KeyReport};
use super::restore::RestoreMark;
use super::{OnProgress, PAGE, Progress, Stage};
use crate::error::{Error, ErrorClass, Result};
use crate::model::{KekFence, KeyringState};
use crate::secret::{Kek, KekId, SecretEnvelope};
use crate::store::{AnyRecord, Query, RawRecord, Record as _, RecordKinds, SharedStore, Store, StoreExt as _};

/// How many secrets are verified at the same time: a key provider may be far away.
const CONCURRENCY: usize = 16;

/// How many bytes of records wait to be verified.
const PENDING_BYTES: usize = 4 * 1024 * 1024;

/// Checks a backup, without a store: structure, order, counts, checksum; that each record can be read and stored; and
/// that each secret would open with the keys at hand. What is wrong with keys and secrets is in the report; nothing is
/// decrypted but data keys. `kinds` are those of [`record_kinds`](crate::model::record_kinds) and your own.
///
/// Cancel-safe.
///
/// # Errors
/// `Validation`, with `line`: `backup_invalid`, `backup_version`, `backup_truncated`, `backup_checksum`,
/// `backup_counts`, `backup_trailing`, `backup_duplicate`, `backup_order`, `backup_line_too_long`, `backup_too_deep`,
/// `backup_not_utf8`. `io_failed`, by its class. `Network`, `IoTransient` or `Auth` when a key provider is away: nothing
/// is known then.
pub async fn check_backup(
    input: impl AsyncRead + Unpin + Send,
    kinds: &RecordKinds,
    envelope: &dyn SecretEnvelope,
    progress: OnProgress<'_>,
) -> Result<KeyReport> {
    Ok(check(input, kinds, envelope, progress).await?.report)
}

/// A backup that was checked.
pub(super) struct Checked {
    pub(super) header: BackupHeader,
    pub(super) end: BackupEnd,
    pub(super) report: KeyReport,
}

pub(super) async fn check(
    input: impl AsyncRead + Unpin + Send,
    kinds: &RecordKinds,
    envelope: &dyn SecretEnvelope,
    progress: OnProgress<'_>,
) -> Result<Checked> {
    let mut reader = Reader::open(input).await?;
    let mut verifier = Verifier::new(envelope);
    let end = loop {
        match reader.next().await? {
            Next::End(end) => break end,
            Next::Record(record) => {
                verifier.take_line(kinds, record, reader.line()).await?;
                if reader.records() % PAGE as u64 == 0 {
                    progress(Progress { stage: Stage::Check, records: reader.records(), bytes: reader.bytes() });
                }
            }
        }
    };
    verifier.flush().await?;
    progress(Progress { stage: Stage::Check, records: reader.records(), bytes: reader.bytes() });
    let counted: BTreeMap<KekId, u64> = end.keks.iter().map(|key| (key.id, key.envelopes)).collect();
    let found = |(kek, tally): (&KekId, &Tally)| counted.get(kek) == Some(&tally.envelopes);
    let known = verifier.report.unknown_kinds.is_empty() && verifier.report.failed == 0;
    let sum: u64 = counted.values().sum();
    if known
        && !(verifier.tallies.iter().all(found)
            && sum == verifier.envelopes()
            && end.foreign == verifier.report.foreign)
    {
        let why = "the backup does not need the keys that its last line names";
        return Err(reading("backup_counts", why).with("line", reader.line()));
    }
    let mut report = verifier.report(end.keks.iter().map(KekUse::kek).collect());
    let header = reader.header().clone();
    report.kinds.clone_from(&end.kinds);
    (report.backup, report.sha256) = (Some(header.clone()), Some(end.sha256.clone()));
    Ok(Checked { header, end, report })
}

/// Checks what a store holds, as [`check_backup`] does.
pub(crate) async fn check_store(
    store: &SharedStore,
    kinds: &RecordKinds,
    envelope: &dyn SecretEnvelope,
    progress: OnProgress<'_>,
) -> Result<KeyReport> {
    let mut verifier = Verifier::new(envelope);
    let mut counts = BTreeMap::new();
    for kind in kinds.iter() {
        let mut query = all(kind.name());
        loop {
            let page = store.query(&query).await?;
            for raw in page.records {
                *counts.entry(kind.name().to_owned()).or_default() += 1;
                verifier.take(kind.name(), raw, None, |raw| kind.decode(raw)).await?;
            }
            progress(Progress { stage: Stage::Check, records: verifier.report.records, bytes: 0 });
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
    }
    verifier.flush().await?;
    let state = store.find::<KeyringState>(KeyringState::ID).await?;
    let primary = state.map(|state| state.record.primary);
    let mut named: Vec<_> = primary.iter().cloned().collect();
    named.extend(verifier.envelope.keks().into_iter().filter(|kek| verifier.tallies.contains_key(&kek.id)));
    let mut report = verifier.report(named);
    report.kinds = counts;
    report.unfinished = RestoreMark::find(store).await?.map(|mark| mark.backup.clone());
    if let Some(primary) = primary
        && !is_fenced(&**store, &primary).await?
    {
        report.unfenced = Some(primary);
    }
    Ok(report)
}

/// All records of a kind, by id.
pub(super) fn all(kind: &'static str) -> Query {
    Query { kind, filters: Vec::new(), order_by: None, descending: false, limit: PAGE, after: None }
}

async fn is_fenced(store: &dyn Store, kek: &Kek) -> Result<bool> {
    for fence in KekFence::of(&kek.id) {
        if store.get(KekFence::KIND, fence.id()).await?.is_none_or(|raw| raw.revision != 1) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Verifies secrets, several at the same time.
struct Verifier<'a> {
    envelope: &'a dyn SecretEnvelope,
    /// Empty if certlib does not manage them.
    at_hand: Vec<Kek>,
    pending: Vec<Pending>,
    pending_bytes: usize,
    tallies: BTreeMap<KekId, Tally>,
    report: KeyReport,
}

struct Pending {
    kind: String,
    line: Option<u64>,
    record: Box<dyn AnyRecord>,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    envelopes: u64,
    opened: u64,
    failed: u64,
    orphaned: u64,
}

impl<'a> Verifier<'a> {
    fn new(envelope: &'a dyn SecretEnvelope) -> Self {
        let (at_hand, pending, tallies) = (envelope.keks(), Vec::new(), BTreeMap::new());
        Self { envelope, at_hand, pending, pending_bytes: 0, tallies, report: KeyReport::default() }
    }

    async fn take_line(&mut self, kinds: &RecordKinds, line: RecordLine, number: u64) -> Result<()> {
        let RecordLine { kind, id, revision, body } = line;
        let Some(known) = kinds.find(&kind) else {
            self.report.records += 1;
            *self.report.unknown_kinds.entry(kind).or_default() += 1;
            return Ok(());
        };
        let raw = RawRecord { id, revision, body: body.into() };
        // What cannot be stored is better found before anything is.
        let decode = |raw: &RawRecord| known.decode(raw).and_then(|record| record.write().map(|_| record));
        self.take(&kind, raw, Some(number), decode).await
    }

    async fn take(
        &mut self,
        kind: &str,
        raw: RawRecord,
        line: Option<u64>,
        decode: impl FnOnce(&RawRecord) -> Result<Box<dyn AnyRecord>>,
    ) -> Result<()> {
        self.report.records += 1;
        let record = match decode(&raw) {
            Ok(record) if record.id() == raw.id => record,
            Ok(_) => {
                let why = "the record's own id is another one than it is kept under";
                self.fail(kind, &raw.id, line, &Error::permanent("backup.check", "record_misplaced", why));
                return Ok(());
            }
            Err(error) => {
                self.fail(kind, &raw.id, line, &error);
                return Ok(());
            }
        };
        let Some(kek) = record.sealed().map(|field| field.sealed.kek()) else { return Ok(()) };
        match kek {
            None => self.report.foreign += 1,
            Some(kek) => {
                let tally = self.tallies.entry(kek).or_default();
                tally.envelopes += 1;
                if !self.at_hand.is_empty() && !self.at_hand.iter().any(|known| known.id == kek) {
                    tally.orphaned += 1;
                    return Ok(());
                }
            }
        }
        self.pending_bytes += raw.body.len();
        self.pending.push(Pending { kind: kind.to_owned(), line, record });
        if self.pending.len() >= PAGE || self.pending_bytes >= PENDING_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Verifies what waits.
    async fn flush(&mut self) -> Result<()> {
        self.pending_bytes = 0;
        let mut checks = Vec::with_capacity(self.pending.len());
        for pending in std::mem::take(&mut self.pending) {
            let envelope = self.envelope;
            checks.push(async move {
                let checked = match pending.record.sealed() {
                    Some(field) => envelope.verify(field.sealed, &field.aad).await,
                    None => Ok(()),
                };
                (pending, checked)
            });
        }
        let mut checks = stream::iter(checks).buffer_unordered(CONCURRENCY);
        while let Some((pending, checked)) = checks.next().await {
            let kek = pending.record.sealed().and_then(|field| field.sealed.kek());
            let mut unmanaged = Tally::default();
            let tally = match kek {
                Some(kek) => self.tallies.entry(kek).or_default(),
                None => &mut unmanaged,
            };
            match checked {
                Ok(()) => tally.opened += 1,
                Err(error) if error.code() == "kek_unknown" && kek.is_some() => tally.orphaned += 1,
                // Nobody could say.
                Err(error) if error.class().is_retryable() || error.class() == ErrorClass::Auth => return Err(error),
                Err(error) => {
                    tally.failed += 1;
                    let failure = failure(&pending.kind, pending.record.id(), pending.line, &error);
                    self.report.fail(failure);
                }
            }
        }
        Ok(())
    }

    fn envelopes(&self) -> u64 {
        self.tallies.values().map(|tally| tally.envelopes).sum()
    }

    fn fail(&mut self, kind: &str, id: &str, line: Option<u64>, error: &Error) {
        self.report.fail(failure(kind, id, line, error));
    }

    /// What was found, of the keys `named` and of those that were met.
    fn report(mut self, named: Vec<Kek>) -> KeyReport {
        let mut keks: BTreeMap<KekId, Kek> = named.into_iter().map(|kek| (kek.id, kek)).collect();
        for id in self.tallies.keys() {
            keks.entry(*id).or_insert_with(|| Kek::new(*id, 0, ""));
        }
        let managed = !self.at_hand.is_empty();
        let mut keks: Vec<_> = keks.into_values().collect();
        keks.sort_by_key(|kek| (kek.version, kek.id));
        for kek in keks {
            let Tally { envelopes, opened, failed, orphaned } = self.tallies.get(&kek.id).copied().unwrap_or_default();
            // An envelope that names no keys shows what it has by what it opens.
            let at_hand = if managed { self.at_hand.iter().any(|known| known.id == kek.id) } else { opened > 0 };
            let other = |known: &&Kek| known.version == kek.version && known.id != kek.id;
            let instead = self.at_hand.iter().find(other).cloned();
            self.report.keks.push(KekReport { kek, at_hand, instead, envelopes, opened, failed, orphaned });
        }
        self.report
    }
}

fn failure(kind: &str, id: &str, line: Option<u64>, error: &Error) -> Failure {
    Failure {
        kind: kind.to_owned(),
        id: id.to_owned(),
        line,
        code: error.code().to_owned(),
        message: error.message().to_owned(),
    }
}
