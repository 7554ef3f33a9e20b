//! Writes a backup into an empty store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncSeek, AsyncSeekExt as _, SeekFrom};

use super::check::{Checked, all, check};
use super::format::{RecordLine, reading};
use super::read::{Next, Reader};
use super::report::{KeyReport, unfinished};
use super::{OnProgress, Progress, Stage};
use crate::classify;
use crate::error::{Effect, Error, Result};
use crate::model::{Certificate, CertificateState, KekFence, KeyringState, Node, RotationPhase};
use crate::queue::JobFilter;
use crate::runtime::Engine;
use crate::scheduler::LEASE;
use crate::secret::KekId;
use crate::store::{
    Index, PAGE_MAX, RawRecord, Record, RecordKinds, SharedStore, StoreExt as _, TypedQuery, Versioned, Write,
    WriteBatch,
};

/// How many records one commit writes.
const COMMIT: usize = 200;

/// How many bytes one commit writes, about.
const COMMIT_BYTES: usize = 2 * 1024 * 1024;

/// How to restore.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// Restores although some secrets do not open with the keys at hand. No traffic can be served then before the keys
    /// are found.
    pub without_keys: bool,
}

impl RestoreOptions {
    /// Restores although some secrets do not open.
    #[must_use]
    pub fn without_keys(mut self) -> Self {
        self.without_keys = true;
        self
    }
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RestoreReport {
    /// What the check before it found.
    pub checked: KeyReport,
    /// How many records were written.
    pub records: u64,
    /// Whether an earlier restore of the same backup was brought to its end.
    pub resumed: bool,
    /// The epoch that the leader's lease had when the backup was taken: the next leader has a larger one. Nodes that
    /// have seen an even larger one must be told so with
    /// [`Client::raise_leader_epoch`](crate::Client::raise_leader_epoch).
    pub leader_epoch: u64,
    /// Certificates whose first version was being issued: jobs are not in a backup, and no sweep begins this one anew.
    /// Ask for them again with [`Client::issue`](crate::Client::issue).
    pub to_issue: Vec<Waiting>,
}

/// A certificate that waits for somebody to ask for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Waiting {
    /// Its project.
    pub project: String,
    /// Its id.
    pub certificate: String,
}

/// Stands in a store from the beginning of a restore to its end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RestoreMark {
    id: String,
    /// The id of the backup.
    pub(super) backup: String,
    sha256: String,
    #[serde(with = "time::serde::rfc3339")]
    began_at: OffsetDateTime,
}

impl RestoreMark {
    const ID: &'static str = "restore";

    pub(super) async fn find(store: &SharedStore) -> Result<Option<Versioned<Self>>> {
        store.find(Self::ID).await
    }
}

impl Record for RestoreMark {
    const KIND: &'static str = "restore_mark";
    const FIELDS: &'static [&'static str] = &[];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
    }
}

/// Fails if a restore into `store` was begun and not finished.
pub(crate) async fn check_finished(store: &SharedStore) -> Result<()> {
    match RestoreMark::find(store).await? {
        Some(mark) => Err(unfinished(&mark.backup)),
        None => Ok(()),
    }
}

/// Checks all of `input`, and then writes it into the store, which must be empty.
pub(crate) async fn restore<R: AsyncRead + AsyncSeek + Unpin + Send>(
    engine: &Engine,
    input: &mut R,
    options: &RestoreOptions,
    progress: OnProgress<'_>,
) -> Result<RestoreReport> {
    rewind(input).await?;
    let checked = check(&mut *input, &engine.kinds, &**engine.sealer.envelope(), progress).await?;
    check_fit(&checked.report, options)?;
    let resumed = begin(engine, &checked).await?;
    rewind(input).await?;
    let mut writer =
        Writer { engine, batch: WriteBatch::new(), bytes: 0, records: 0, keyring: None, to_issue: Vec::new() };
    let written = writer.finish(&checked, input, progress).await;
    let half = |error: Error, records: u64| {
        let why = "the store holds a part of the backup; restore the same one again to go on, or empty the store";
        Error::new(error.class(), "backup.restore", "restore_interrupted", why)
            .with_effect(Effect::Possible)
            .with("records", records)
            .with_source(error)
    };
    written.map_err(|error| half(error, writer.records))?;
    let leader_epoch = checked.header.leader_epoch;
    let (records, to_issue) = (writer.records, writer.to_issue);
    tracing::warn!(backup = %checked.header.id, records, leader_epoch, "a backup was restored");
    Ok(RestoreReport { checked: checked.report, records, resumed, leader_epoch, to_issue })
}

/// Fails if the backup must not be restored by this process.
fn check_fit(report: &KeyReport, options: &RestoreOptions) -> Result<()> {
    match report.verdict() {
        Err(error) if error.code() == "kek_orphaned" && options.without_keys => {
            // What stands behind the missing key in the order of things still counts.
            let mut rest = report.clone();
            rest.keks.clear();
            check_fit(&rest, options)
        }
        Err(error) if error.code() == "record_failed" && options.without_keys => {
            let readable = report.failures.iter().all(|failure| !failure.code.starts_with("record_"));
            if readable && report.unknown_kinds.is_empty() { Ok(()) } else { Err(error) }
        }
        verdict => verdict,
    }
}

/// Sees that the store is empty and marks it; `true` if this backup was begun to be restored before.
async fn begin(engine: &Engine, checked: &Checked) -> Result<bool> {
    let store = &engine.store;
    let now = engine.clock.now();
    let nodes = store.list_all(TypedQuery::<Node>::new()).await?;
    if let Some(node) = nodes.iter().find(|node| !node.is_stale(now)) {
        let why = "a node is at work on this store; stop it first";
        return Err(Error::validation("backup.restore", "store_in_use", why).with("node", node.id.escape_debug()));
    }
    if let Some(mark) = RestoreMark::find(store).await? {
        if mark.backup == checked.header.id && mark.sha256 == checked.end.sha256 {
            store.commit(forget_first_start(store, WriteBatch::new()).await?).await?;
            return Ok(true);
        }
        return Err(unfinished(&mark.backup));
    }
    check_empty(store, &engine.kinds).await?;
    let mark = RestoreMark {
        id: RestoreMark::ID.to_owned(),
        backup: checked.header.id.clone(),
        sha256: checked.end.sha256.clone(),
        began_at: now,
    };
    store.commit(forget_first_start(store, WriteBatch::new().insert(&mark)?).await?).await?;
    Ok(false)
}

/// Fails if there is anything but the state of a keyring that was never rotated: every process makes one that asks which
/// key seals.
async fn check_empty(store: &SharedStore, kinds: &RecordKinds) -> Result<()> {
    let mut found = Vec::new();
    for kind in kinds.iter().filter(|kind| kind.name() != KekFence::KIND) {
        let page = store.query(&crate::store::Query { limit: 1, ..all(kind.name()) }).await?;
        let Some(raw) = page.records.first() else { continue };
        if kind.name() == KeyringState::KIND {
            let state = Versioned::<KeyringState>::decode(raw)?;
            if state.epoch <= 1 && state.rotation.is_none() && state.retired.is_empty() {
                continue;
            }
        }
        found.push(format!("{} {}", kind.name(), raw.id.escape_debug()));
    }
    if let Some(job) = store.jobs(&JobFilter { limit: 1, ..JobFilter::default() }).await?.first() {
        found.push(format!("job {}", job.id));
    }
    if found.is_empty() {
        return Ok(());
    }
    let why = "a backup is restored into an empty store only";
    Err(Error::validation("backup.restore", "store_not_empty", why).with("found", found.join(", ")))
}

/// Adds to `batch` that the state of the keyring goes which a first start made.
async fn forget_first_start(store: &SharedStore, batch: WriteBatch) -> Result<WriteBatch> {
    let Some(state) = store.find::<KeyringState>(KeyringState::ID).await? else { return Ok(batch) };
    let fences = KekFence::of(&state.primary.id);
    Ok(fences.fold(batch, |batch, fence| batch.delete::<KekFence>(&fence.id)).delete::<KeyringState>(KeyringState::ID))
}

struct Writer<'a> {
    engine: &'a Engine,
    batch: WriteBatch,
    bytes: usize,
    records: u64,
    /// Written last of all: nothing can be sealed before.
    keyring: Option<KeyringState>,
    to_issue: Vec<Waiting>,
}

impl Writer<'_> {
    async fn finish<R: AsyncRead + Unpin + Send>(
        &mut self,
        checked: &Checked,
        input: R,
        progress: OnProgress<'_>,
    ) -> Result<()> {
        let mut reader = Reader::open(input).await?;
        let end = loop {
            match reader.next().await? {
                Next::End(end) => break end,
                Next::Record(line) => {
                    self.take(line)?;
                    if self.batch.writes.len() >= COMMIT || self.bytes >= COMMIT_BYTES {
                        self.commit().await?;
                        progress(Progress { stage: Stage::Restore, records: self.records, bytes: reader.bytes() });
                    }
                }
            }
        };
        self.commit().await?;
        progress(Progress { stage: Stage::Restore, records: self.records, bytes: reader.bytes() });
        if *reader.header() != checked.header || end != checked.end {
            return Err(reading("backup_changed", "the backup was changed between its check and its restore"));
        }
        let mut wanted = end.kinds.clone();
        wanted.remove(KeyringState::KIND);
        self.count(&wanted, progress).await?;
        if checked.header.leader_epoch > 0 {
            self.engine.store.raise(LEASE, checked.header.leader_epoch).await?;
        }
        self.seal_off(checked).await
    }

    fn take(&mut self, line: RecordLine) -> Result<()> {
        let RecordLine { kind, id, revision, body } = line;
        let known = self.engine.kinds.find(&kind).ok_or_else(|| {
            Error::validation("backup.restore", "kind_unknown", "this process does not know this kind of record")
                .with("kind", kind.escape_debug())
        })?;
        let raw = RawRecord { id, revision, body: body.into() };
        match known.name() {
            KekFence::KIND => return Ok(()),
            KeyringState::KIND => {
                self.keyring = Some(Versioned::<KeyringState>::decode(&raw)?.record);
                return Ok(());
            }
            Certificate::KIND => {
                let certificate = Versioned::<Certificate>::decode(&raw)?.record;
                if certificate.state == CertificateState::Issuing && certificate.renew_at.is_none() {
                    self.to_issue.push(Waiting { project: certificate.project, certificate: certificate.id });
                }
            }
            _ => {}
        }
        // The index is made anew; the body stays as it was, whatever else a newer version has put there.
        if let Write::Put { kind, id, index, .. } = known.decode(&raw)?.write()? {
            self.bytes += raw.body.len();
            self.batch.writes.push(Write::Put { kind, id, body: raw.body, index });
        }
        Ok(())
    }

    /// Writes what was taken. No fence is asked for: there are none before the end.
    async fn commit(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let count = batch.writes.len() as u64;
        if count > 0 {
            self.engine.store.commit(batch).await?;
        }
        self.records += count;
        self.bytes = 0;
        Ok(())
    }

    /// Fails unless the store holds as many records of each kind as the backup.
    async fn count(&self, wanted: &BTreeMap<String, u64>, progress: OnProgress<'_>) -> Result<()> {
        let mut counted = 0;
        let kinds = self.engine.kinds.iter().map(|kind| kind.name());
        for kind in kinds.filter(|kind| ![KekFence::KIND, KeyringState::KIND].contains(kind)) {
            let mut query = crate::store::Query { limit: PAGE_MAX, ..all(kind) };
            let mut found = 0;
            loop {
                let page = self.engine.store.query(&query).await?;
                found += page.records.len() as u64;
                progress(Progress { stage: Stage::Count, records: counted + found, bytes: 0 });
                match page.next {
                    Some(next) => query.after = Some(next),
                    None => break,
                }
            }
            counted += found;
            let wanted = wanted.get(kind).copied().unwrap_or_default();
            if found != wanted {
                let why = "the store does not hold as many records as were written; somebody else is at work there";
                return Err(Error::permanent("backup.restore", "restore_counts", why)
                    .with("kind", kind)
                    .with("wanted", wanted)
                    .with("found", found));
            }
        }
        Ok(())
    }

    /// Writes the state of the keyring, which lets secrets be stored, and takes the mark away.
    async fn seal_off(&mut self, checked: &Checked) -> Result<()> {
        let mut batch = WriteBatch::new().delete::<RestoreMark>(RestoreMark::ID);
        batch = batch.insert(&checked.end.to_record(&checked.header))?;
        if let Some(state) = &self.keyring {
            batch = batch.insert(state)?;
            for kek in accepted(state) {
                for fence in KekFence::of(&kek) {
                    batch = batch.insert(&fence)?;
                }
            }
        }
        self.engine.store.commit(batch).await?;
        self.records += u64::from(self.keyring.is_some());
        Ok(())
    }
}

/// The keys under which secrets may be stored.
fn accepted(state: &KeyringState) -> Vec<KekId> {
    let mut keks = vec![state.primary.id];
    if let Some(rotation) = &state.rotation {
        keks.push(rotation.to.id);
        if rotation.phase < RotationPhase::Verify {
            keks.push(rotation.from.id);
        }
    }
    keks.sort();
    keks.dedup();
    keks
}

async fn rewind(input: &mut (impl AsyncSeek + Unpin)) -> Result<()> {
    let result = input.seek(SeekFrom::Start(0)).await;
    result.map(drop).map_err(|error| {
        let why = "the backup cannot be read from its beginning";
        Error::new(classify::io(error.kind()), "backup.read", "io_failed", why).with_source(error)
    })
}
