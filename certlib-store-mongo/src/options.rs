//! How a MongoDB store is opened.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::Clock;

/// The smallest pool: what each share needs, and one connection for the change stream.
const POOL_MIN: u32 = 8;

/// How to open a [`MongoStore`](crate::MongoStore).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MongoOptions {
    /// What measures `run_at`, claims and leases. `None`: the clock of the database, which all processes share.
    pub clock: Option<Arc<dyn Clock>>,
    /// The database. `None`: the one that the connection string names, or else `certlib`.
    pub database: Option<String>,
    /// How many connections to the primary there may be, at least 8; one carries the change stream, a quarter of the
    /// others is shared by everything that is not done for a lane, and the rest is divided among the lanes.
    pub max_pool_size: u32,
    /// How long one call may take, retries and waiting for a connection included.
    pub operation_timeout: Duration,
    /// How long to look for a primary before a call fails. Longer than an election takes, so that most calls outlast
    /// one.
    pub server_selection_timeout: Duration,
}

impl MongoOptions {
    /// The database's clock, the database of the connection string, 24 connections, 30 s for a call, 10 s to find a
    /// primary.
    pub fn new() -> Self {
        Self {
            clock: None,
            database: None,
            max_pool_size: 24,
            operation_timeout: Duration::from_secs(30),
            server_selection_timeout: Duration::from_secs(10),
        }
    }

    /// Sets the clock. For tests: all processes that share the database must agree on it.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Sets the database.
    #[must_use]
    pub fn with_database(mut self, name: impl Into<String>) -> Self {
        self.database = Some(name.into());
        self
    }

    /// Sets how many connections there may be.
    #[must_use]
    pub fn with_max_pool_size(mut self, connections: u32) -> Self {
        self.max_pool_size = connections.max(POOL_MIN);
        self
    }

    /// Sets how long one call may take, at least 100 ms and at most an hour.
    #[must_use]
    pub fn with_operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout.clamp(Duration::from_millis(100), Duration::from_secs(3600));
        self
    }

    /// Sets how long to look for a primary, at least 100 ms and at most an hour.
    #[must_use]
    pub fn with_server_selection_timeout(mut self, timeout: Duration) -> Self {
        self.server_selection_timeout = timeout.clamp(Duration::from_millis(100), Duration::from_secs(3600));
        self
    }
}

impl Default for MongoOptions {
    fn default() -> Self {
        Self::new()
    }
}
