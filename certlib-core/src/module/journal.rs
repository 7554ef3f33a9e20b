//! The journal: the way back, durable before the first step forward.

use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::secret::{Secret, SecretBytes};

/// Where undo records go, in the module's own type.
///
/// Entries are in the order in which they were recorded, including those of an attempt that died.
#[derive(Debug)]
pub struct Journal<'a, U> {
    sink: &'a dyn JournalSink,
    of: PhantomData<fn() -> U>,
}

impl<'a, U: Serialize + DeserializeOwned> Journal<'a, U> {
    /// A journal over `sink`.
    pub fn new(sink: &'a dyn JournalSink) -> Self {
        Self { sink, of: PhantomData }
    }

    /// Records what undoes the change that is about to be made. Durable and sealed when it returns.
    ///
    /// Not cancel-safe: after a drop the entry may or may not be there, so do not make the change.
    ///
    /// # Errors
    /// As [`Store`](crate::store::Store); `lease_lost` when this worker must not go on. Make no change then.
    pub async fn record(&self, step: &str, undo: &U) -> Result<()> {
        let bytes = serde_json::to_vec(undo).map_err(|_| unreadable())?;
        self.sink.append(step, Secret::new(bytes)).await
    }

    /// What was recorded so far: empty on a first attempt.
    ///
    /// # Errors
    /// As [`Store`](crate::store::Store); `IoPermanent` `journal_unreadable`.
    pub async fn entries(&self) -> Result<Vec<U>> {
        decode(&self.sink.entries().await?)
    }
}

/// Decodes recorded entries.
pub(super) fn decode<U: DeserializeOwned>(entries: &[SecretBytes]) -> Result<Vec<U>> {
    entries.iter().map(|bytes| serde_json::from_slice(bytes.expose()).map_err(|_| unreadable())).collect()
}

fn unreadable() -> Error {
    // The source is dropped: serde quotes values, and undo records hold private keys.
    Error::permanent("journal", "journal_unreadable", "an undo record cannot be encoded or read by this version")
}

/// Keeps undo records; the engine's are sealed and stored.
#[async_trait]
pub trait JournalSink: std::fmt::Debug + Send + Sync {
    /// Appends an entry, durably.
    async fn append(&self, step: &str, undo: SecretBytes) -> Result<()>;

    /// All entries, oldest first.
    async fn entries(&self) -> Result<Vec<SecretBytes>>;
}

/// A journal in memory, for tests of modules.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    entries: Mutex<Vec<(String, SecretBytes)>>,
}

impl MemoryJournal {
    /// An empty journal.
    pub fn new() -> Self {
        Self::default()
    }

    /// The names of the recorded steps.
    pub fn steps(&self) -> Vec<String> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|(step, _)| step.clone()).collect()
    }
}

#[async_trait]
impl JournalSink for MemoryJournal {
    async fn append(&self, step: &str, undo: SecretBytes) -> Result<()> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push((step.to_owned(), undo));
        Ok(())
    }

    async fn entries(&self) -> Result<Vec<SecretBytes>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(entries.iter().map(|(_, undo)| undo.duplicate()).collect())
    }
}
