//! A journal under which the process dies.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use crate::error::{Effect, Error, Result};
use crate::module::{JournalSink, MemoryJournal};
use crate::secret::SecretBytes;

/// When the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// Before the record is durable.
    Before,
    /// After it is, before anybody heard of it.
    After,
}

/// A journal that lets the process die at a record, and then takes nothing more.
#[derive(Debug)]
pub(super) struct DyingJournal<'a> {
    inner: &'a MemoryJournal,
    left: AtomicUsize,
    death: Death,
}

impl<'a> DyingJournal<'a> {
    /// Dies at record number `at`, counted from 1.
    pub(super) fn new(inner: &'a MemoryJournal, at: usize, death: Death) -> Self {
        Self { inner, left: AtomicUsize::new(at), death }
    }

    /// Whether it came to that.
    pub(super) fn died(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }
}

#[async_trait]
impl JournalSink for DyingJournal<'_> {
    async fn append(&self, step: &str, undo: SecretBytes) -> Result<()> {
        let left = self.left.load(Ordering::SeqCst);
        if left > 1 {
            self.left.store(left - 1, Ordering::SeqCst);
            return self.inner.append(step, undo).await;
        }
        if left == 1 && self.death == Death::After {
            self.inner.append(step, undo).await?;
        }
        self.left.store(0, Ordering::SeqCst);
        Err(Error::transient("journal", "process_died", "the process died here").with_effect(Effect::Possible))
    }

    async fn entries(&self) -> Result<Vec<SecretBytes>> {
        self.inner.entries().await
    }
}
