//! The journal of one target run: sealed entries in the store, written under the job's claim.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;

use crate::error::Result;
use crate::model::JournalEntry;
use crate::module::JournalSink;
use crate::runtime::{Engine, JobContext};
use crate::secret::SecretBytes;
use crate::store::{StoreExt as _, TypedQuery, WriteBatch};

/// [`JournalSink`] over the store.
pub(super) struct StoredJournal<'a> {
    engine: &'a Engine,
    context: &'a JobContext,
    project: &'a str,
    target_run_id: &'a str,
    written: AtomicU32,
    broken: AtomicBool,
}

impl std::fmt::Debug for StoredJournal<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredJournal").field("target_run", &self.target_run_id).finish_non_exhaustive()
    }
}

impl<'a> StoredJournal<'a> {
    /// The journal of a target run that was not begun before: empty, and known to be.
    pub(super) fn fresh(engine: &'a Engine, context: &'a JobContext, project: &'a str, target_run_id: &'a str) -> Self {
        Self { engine, context, project, target_run_id, written: AtomicU32::new(0), broken: AtomicBool::new(false) }
    }

    /// The journal of a target run that may have been begun before a crash.
    pub(super) async fn resume(
        engine: &'a Engine,
        context: &'a JobContext,
        project: &'a str,
        target_run_id: &'a str,
    ) -> Result<Self> {
        let journal = Self::fresh(engine, context, project, target_run_id);
        let last = journal.stored().await?.last().map_or(0, |entry| entry.sequence);
        journal.written.store(last, Ordering::Relaxed);
        Ok(journal)
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> u32 {
        self.written.load(Ordering::Relaxed)
    }

    /// The entries were forgotten.
    pub(super) fn reset(&self) {
        self.written.store(0, Ordering::Relaxed);
    }

    /// Whether an entry could not be kept or read: then nothing more may be done to the target under this claim.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Adds to `batch` that all entries are forgotten: the target is as it was before them.
    pub(super) fn forget(&self, batch: WriteBatch) -> WriteBatch {
        (1..=self.len()).fold(batch, |batch, sequence| {
            batch.delete::<JournalEntry>(&JournalEntry::id_of(self.target_run_id, sequence))
        })
    }

    async fn stored(&self) -> Result<Vec<JournalEntry>> {
        let query = TypedQuery::<JournalEntry>::new().equal("target_run", self.target_run_id);
        Ok(self.engine.store.list_all(query).await?.into_iter().map(|entry| entry.record).collect())
    }
}

#[async_trait]
impl JournalSink for StoredJournal<'_> {
    async fn append(&self, step: &str, undo: SecretBytes) -> Result<()> {
        self.keep(step, &undo).await.inspect_err(|_| self.broken.store(true, Ordering::Relaxed))
    }

    async fn entries(&self) -> Result<Vec<SecretBytes>> {
        self.open().await.inspect_err(|_| self.broken.store(true, Ordering::Relaxed))
    }
}

impl StoredJournal<'_> {
    async fn keep(&self, step: &str, undo: &SecretBytes) -> Result<()> {
        let sequence = self.len() + 1;
        let id = JournalEntry::id_of(self.target_run_id, sequence);
        let sealed = self.engine.sealer.seal(undo.expose(), &JournalEntry::aad(self.project, &id)).await?;
        let entry = JournalEntry {
            id,
            project: self.project.to_owned(),
            target_run_id: self.target_run_id.to_owned(),
            sequence,
            step: step.to_owned(),
            sealed,
            at: self.engine.clock.now(),
        };
        self.engine.store.commit(self.context.batch().insert(&entry)?).await?;
        self.written.store(sequence, Ordering::Relaxed);
        Ok(())
    }

    async fn open(&self) -> Result<Vec<SecretBytes>> {
        if self.len() == 0 {
            return Ok(Vec::new());
        }
        let mut entries = Vec::new();
        for entry in self.stored().await? {
            entries.push(self.engine.open(&entry).await?);
        }
        Ok(entries)
    }
}
