//! How a SQLite store is opened.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::{Clock, SystemClock};

/// How to open a [`SqliteStore`](super::SqliteStore).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SqliteOptions {
    /// What measures `run_at`, claims and leases. All processes that share the file must agree on it.
    pub clock: Arc<dyn Clock>,
    /// Whether to create the file when it is not there. Its directory must exist in any case.
    pub create: bool,
    /// How many reads may run at the same time, at least 1.
    pub readers: u32,
    /// How long to wait for another process that is writing.
    pub busy_timeout: Duration,
    /// The largest size of the database file, in bytes; a write that needs more is refused with `disk_full`.
    pub max_bytes: Option<u64>,
}

impl SqliteOptions {
    /// The system's clock, the file created when missing, 4 readers, 5 s for other writers, no limit to the size.
    pub fn new() -> Self {
        Self {
            clock: SystemClock::shared(),
            create: true,
            readers: 4,
            busy_timeout: Duration::from_secs(5),
            max_bytes: None,
        }
    }

    /// Sets the clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets whether a missing file is created.
    #[must_use]
    pub fn with_create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Sets how many reads may run at the same time.
    #[must_use]
    pub fn with_readers(mut self, readers: u32) -> Self {
        self.readers = readers.max(1);
        self
    }

    /// Sets how long to wait for another process that is writing, at most a day.
    #[must_use]
    pub fn with_busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout.min(Duration::from_secs(86_400));
        self
    }

    /// Sets the largest size of the database file, in bytes.
    #[must_use]
    pub fn with_max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self::new()
    }
}
