//! Writes a backup.

use std::collections::{BTreeMap, HashMap, HashSet};

use aws_lc_rs::digest::{Context, SHA256};
use tokio::io::{AsyncWrite, AsyncWriteExt as _, BufWriter};

use super::check::all;
use super::format::{BackupEnd, BackupHeader, KekUse, RecordLine, hex};
use super::{OnProgress, Progress, Stage};
use crate::classify;
use crate::error::{Error, Result};
use crate::model::{
    AcmeChallenge, ApprovalRequest, Backup, Certificate, CertificateVersion, Credential, Distribution, Event,
    IssuanceWindow, Issuer, IssuerSecret, JournalEntry, KekFence, KeyringState, Order, Project, Run, Target, TargetRun,
    TargetState, new_id,
};
use crate::runtime::Engine;
use crate::scheduler::LEASE;
use crate::secret::{Kek, KekId};
use crate::store::{RawRecord, Record, RecordKind, StoreExt as _, Versioned, WriteBatch};

/// Other kinds before these, and these in this order: what refers before what it refers to, so that what is referred to
/// is there, if perhaps a moment newer. The state of the keyring is first of all: a rotation that goes on from an earlier
/// point does again what was done already, and one that believes to be further would leave secrets behind.
const LAST: &[&str] = &[
    Event::KIND,
    ApprovalRequest::KIND,
    Run::KIND,
    TargetRun::KIND,
    JournalEntry::KIND,
    TargetState::KIND,
    Order::KIND,
    Certificate::KIND,
    CertificateVersion::KIND,
    Distribution::KIND,
    Target::KIND,
    Issuer::KIND,
    IssuerSecret::KIND,
    Credential::KIND,
    IssuanceWindow::KIND,
    AcmeChallenge::KIND,
    Project::KIND,
];

/// How many bytes are written at once.
const CHUNK: usize = 256 * 1024;

/// Writes a backup of everything to `out`. Returns its header and its end.
pub(crate) async fn write(
    engine: &Engine,
    out: &mut (dyn AsyncWrite + Unpin + Send),
    progress: OnProgress<'_>,
) -> Result<(BackupHeader, BackupEnd)> {
    let store = &engine.store;
    if store.find::<KeyringState>(KeyringState::ID).await?.is_none() {
        engine.sealer.look().await?;
    }
    let state = store.find::<KeyringState>(KeyringState::ID).await?.map(|state| state.record);
    if let Some(kinds) = state.as_ref().and_then(|state| state.unknown_kinds(&engine.kinds)) {
        let why = "other programs keep records here of kinds that this one does not know: take the backup from there";
        return Err(Error::validation("backup.write", "kinds_unknown", why).with("kinds", kinds));
    }
    let leader_epoch = store.inspect(LEASE).await?.map_or(0, |lease| lease.epoch);
    let header = BackupHeader::new(new_id(), engine.clock.now(), leader_epoch);
    // All that may be needed, before anything is read: none of it must be thrown away meanwhile.
    let (id, taken_at) = (header.id.clone(), header.taken_at);
    let record = Backup { id, keks: all_of(state.as_ref(), engine), records: 0, taken_at };
    let kept = store.insert(record).await?;
    let mut writer = Writer {
        engine,
        out: BufWriter::with_capacity(CHUNK, out),
        digest: Context::new(&SHA256),
        bytes: 0,
        kept,
        known: all_of(state.as_ref(), engine).into_iter().map(|kek| (kek.id, kek)).collect(),
        envelopes: BTreeMap::new(),
        foreign: 0,
        kinds: BTreeMap::new(),
        closure: Closure::default(),
    };
    match writer.write_all(&header, state.as_ref(), progress).await {
        Ok(end) => Ok((header, end)),
        Err((error, begun_to_end)) => {
            // A file without its last line is none. Where that may have been written, a record too many is kept.
            if !begun_to_end {
                writer.forget().await;
            }
            Err(error)
        }
    }
}

/// Every key that may seal, or have sealed, something.
fn all_of(state: Option<&KeyringState>, engine: &Engine) -> Vec<Kek> {
    let Some(state) = state else { return engine.sealer.envelope().keks() };
    let rotation = state.rotation.iter().flat_map(|rotation| [&rotation.from, &rotation.to]);
    let mut keks: Vec<_> = [&state.primary].into_iter().chain(&state.retired).chain(rotation).cloned().collect();
    keks.sort_by_key(|kek| (kek.version, kek.id));
    keks.dedup();
    keks
}

struct Writer<'a> {
    engine: &'a Engine,
    out: BufWriter<&'a mut (dyn AsyncWrite + Unpin + Send)>,
    digest: Context,
    bytes: u64,
    kept: Versioned<Backup>,
    known: BTreeMap<KekId, Kek>,
    envelopes: BTreeMap<KekId, u64>,
    foreign: u64,
    kinds: BTreeMap<String, u64>,
    closure: Closure,
}

impl Writer<'_> {
    /// Writes all of it; an error says whether the last line was begun.
    async fn write_all(
        &mut self,
        header: &BackupHeader,
        state: Option<&KeyringState>,
        progress: OnProgress<'_>,
    ) -> Result<BackupEnd, (Error, bool)> {
        let mut end = self.write_records(header, state, progress).await.map_err(|error| (error, false))?;
        self.write_end(&mut end).await.map_err(|error| (error, true))?;
        Ok(end)
    }

    async fn write_records(
        &mut self,
        header: &BackupHeader,
        state: Option<&KeyringState>,
        progress: OnProgress<'_>,
    ) -> Result<BackupEnd> {
        self.line(&header.encode()?).await?;
        for kind in in_order(self.engine) {
            self.write_kind(kind, progress).await?;
        }
        self.check_keyring(state).await?;
        // The one that seals is needed, whether it has sealed anything or not.
        if let Some(state) = state {
            self.envelopes.entry(state.primary.id).or_default();
            // And a rotation that goes on after a restore goes on with both.
            for kek in state.rotation.iter().flat_map(|rotation| [&rotation.from, &rotation.to]) {
                self.note(kek.id).await?;
                self.envelopes.entry(kek.id).or_default();
            }
        }
        let unknown = |id: &KekId| Kek::new(*id, 0, "");
        let kek = |id| self.known.get(id).cloned().unwrap_or_else(|| unknown(id));
        let mut keks: Vec<_> = self.envelopes.iter().map(|(id, count)| KekUse::new(&kek(id), *count)).collect();
        keks.sort_by_key(|key| (key.version, key.id));
        let (records, kinds) = (self.kinds.values().sum(), self.kinds.clone());
        let end = BackupEnd { records, kinds, keks, foreign: self.foreign, sha256: String::new() };
        // Before the file is whole, not after: a crash in between leaves a record too many, never one too few.
        self.kept.record = end.to_record(header);
        self.engine.store.update(&mut self.kept).await?;
        Ok(end)
    }

    async fn write_end(&mut self, end: &mut BackupEnd) -> Result<()> {
        self.line(&end.encode_open()?).await?;
        end.sha256 = hex(self.digest.clone().finish().as_ref());
        self.line(&BackupEnd::encode_rest(&end.sha256)).await?;
        self.out.flush().await.map_err(unwritable)
    }

    async fn write_kind(&mut self, kind: &dyn RecordKind, progress: OnProgress<'_>) -> Result<()> {
        let mut query = all(kind.name());
        loop {
            let page = self.engine.store.query(&query).await?;
            for raw in &page.records {
                self.record(kind, raw).await.map_err(|error| at(error, kind.name(), &raw.id))?;
            }
            let records = self.kinds.values().sum();
            progress(Progress { stage: Stage::Backup, records, bytes: self.bytes });
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn record(&mut self, kind: &dyn RecordKind, raw: &RawRecord) -> Result<()> {
        // This very backup is told of by its first and its last line.
        let is_self = kind.name() == Backup::KIND && raw.id == self.kept.id;
        if is_self || !self.closure.keeps(kind.name(), raw)? {
            return Ok(());
        }
        // A record that nobody can read may hold a secret under any key: better no backup than one that is no good.
        let record = kind.decode(raw)?;
        match record.sealed().map(|field| field.sealed.kek()) {
            Some(Some(kek)) => {
                self.note(kek).await?;
                *self.envelopes.entry(kek).or_default() += 1;
            }
            Some(None) => self.foreign += 1,
            None => {}
        }
        self.line(&RecordLine::encode(kind.name(), &raw.id, raw.revision, &raw.body)?).await?;
        *self.kinds.entry(kind.name().to_owned()).or_default() += 1;
        Ok(())
    }

    /// Sees that a key that was met is kept as long as the backup is.
    async fn note(&mut self, kek: KekId) -> Result<()> {
        if self.known.contains_key(&kek) && self.kept.keks.iter().any(|kept| kept.id == kek) {
            return Ok(());
        }
        let state = self.engine.store.find::<KeyringState>(KeyringState::ID).await?;
        let at_hand = self.engine.sealer.envelope().keks();
        for one in all_of(state.as_deref(), self.engine).into_iter().chain(at_hand) {
            self.known.entry(one.id).or_insert(one);
        }
        let met = self.known.entry(kek).or_insert_with(|| Kek::new(kek, 0, "")).clone();
        self.kept.keks.push(met);
        self.engine.store.update(&mut self.kept).await
    }

    /// Fails if another key began to seal than the state of the keyring that was written knows of.
    async fn check_keyring(&self, before: Option<&KeyringState>) -> Result<()> {
        let now = self.engine.store.find::<KeyringState>(KeyringState::ID).await?;
        let fits = match (before, &now) {
            (None, None) => true,
            (Some(before), Some(now)) => now.epoch == before.epoch,
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let why = "another key began to seal while the backup was taken; take it again";
        Err(Error::transient("backup.write", "keyring_changed", why))
    }

    async fn line(&mut self, text: &str) -> Result<()> {
        self.digest.update(text.as_bytes());
        self.bytes += text.len() as u64;
        self.out.write_all(text.as_bytes()).await.map_err(unwritable)
    }

    /// Takes back that there is a backup.
    async fn forget(&self) {
        let batch = WriteBatch::new().delete::<Backup>(&self.kept.id);
        if let Err(error) = self.engine.store.commit(batch).await {
            tracing::warn!(%error, backup = %self.kept.id, "there is a record of a backup that was not finished");
        }
    }
}

/// The kinds in the order in which they are read.
fn in_order(engine: &Engine) -> Vec<&dyn RecordKind> {
    let rank = |kind: &&dyn RecordKind| match kind.name() {
        KeyringState::KIND => 0,
        name => LAST.iter().position(|last| *last == name).map_or(1, |place| place + 2),
    };
    let mut kinds: Vec<_> = engine.kinds.iter().filter(|kind| kind.name() != KekFence::KIND).collect();
    kinds.sort_by_key(rank);
    kinds
}

/// What must not be newer than what counts it: issued versions and undo records carry numbers, and to the restored store
/// the next one must be free.
#[derive(Default)]
struct Closure {
    /// The newest version of each certificate.
    newest: HashMap<String, u32>,
    /// The target runs that may have undo records.
    tried: HashSet<String>,
}

impl Closure {
    fn keeps(&mut self, kind: &str, raw: &RawRecord) -> Result<bool> {
        match kind {
            TargetRun::KIND => {
                let is_tried = Versioned::<TargetRun>::decode(raw)?.attempt > 0;
                self.tried.extend(is_tried.then(|| raw.id.clone()));
            }
            JournalEntry::KIND => {
                return Ok(self.tried.contains(&Versioned::<JournalEntry>::decode(raw)?.target_run_id));
            }
            Certificate::KIND => {
                let newest = Versioned::<Certificate>::decode(raw)?.latest_version;
                self.newest.insert(raw.id.clone(), newest);
            }
            CertificateVersion::KIND => {
                let version = Versioned::<CertificateVersion>::decode(raw)?;
                return Ok(self.newest.get(&version.certificate_id).is_some_and(|newest| version.version <= *newest));
            }
            _ => {}
        }
        Ok(true)
    }
}

fn at(error: Error, kind: &str, id: &str) -> Error {
    error.with("record", format_args!("{kind} {}", id.escape_debug()))
}

fn unwritable(error: std::io::Error) -> Error {
    Error::new(classify::io(error.kind()), "backup.write", "io_failed", "the backup cannot be written")
        .with_source(error)
}
