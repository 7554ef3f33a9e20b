//! How a PostgreSQL store is opened.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::{Clock, SystemClock};

/// The longest wait that PostgreSQL's settings take, in milliseconds.
const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);

/// How to open a [`PostgresStore`](super::PostgresStore).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PostgresOptions {
    /// What measures `run_at`, claims and leases. `None`: the database's own clock, as production should.
    pub clock: Option<Arc<dyn Clock>>,
    /// What the database's clock is compared with when the store is opened: more than 10 s apart is refused.
    pub local_clock: Arc<dyn Clock>,
    /// How many connections each lane may have of its own.
    pub lane_connections: u32,
    /// How many connections everything else may have: heartbeats, the client, the scheduler.
    pub control_connections: u32,
    /// How long to wait for a connection to become free, or to come up.
    pub connect_timeout: Duration,
    /// How long one statement may run.
    pub statement_timeout: Duration,
    /// How long one statement may wait for a lock.
    pub lock_timeout: Duration,
    /// How long the database lets a transaction of ours sit idle. A stopped leader blocks its successor as long.
    pub idle_in_transaction_timeout: Duration,
    /// How long the database waits for us to acknowledge what it sent, before it takes the connection for dead. It also
    /// probes connections that are idle, and finds dead ones within about this time.
    pub tcp_user_timeout: Duration,
    /// Whether a database is accepted that can lose what it acknowledged. See
    /// [`PostgresOptions::allow_unsafe_durability_for_tests`].
    pub unsafe_durability: bool,
}

impl PostgresOptions {
    /// The database's clock, 4 connections for each lane and 4 for the rest, 10 s for a connection, 30 s for a
    /// statement, 10 s for a lock, 30 s of idleness in a transaction, 30 s for a dead connection.
    pub fn new() -> Self {
        Self {
            clock: None,
            local_clock: SystemClock::shared(),
            lane_connections: 4,
            control_connections: 4,
            connect_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(10),
            idle_in_transaction_timeout: Duration::from_secs(30),
            tcp_user_timeout: Duration::from_secs(30),
            unsafe_durability: false,
        }
    }

    /// Has `clock` measure `run_at`, claims and leases instead of the database. All stores on it must agree.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Sets what the database's clock is compared with.
    #[must_use]
    pub fn with_local_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.local_clock = clock;
        self
    }

    /// Sets how many connections each lane may have, at least 1.
    #[must_use]
    pub fn with_lane_connections(mut self, connections: u32) -> Self {
        self.lane_connections = connections.max(1);
        self
    }

    /// Sets how many connections everything else may have, at least 1.
    #[must_use]
    pub fn with_control_connections(mut self, connections: u32) -> Self {
        self.control_connections = connections.max(1);
        self
    }

    /// Sets how long to wait for a connection.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long one statement may run, from 1 ms to 24 days.
    #[must_use]
    pub fn with_statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = within(timeout);
        self
    }

    /// Sets how long one statement may wait for a lock, from 1 ms to 24 days.
    #[must_use]
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = within(timeout);
        self
    }

    /// Sets how long a transaction may sit idle, from 1 ms to 24 days. At most the TTL of the leader's lease.
    #[must_use]
    pub fn with_idle_in_transaction_timeout(mut self, timeout: Duration) -> Self {
        self.idle_in_transaction_timeout = within(timeout);
        self
    }

    /// Sets after how long a dead connection is given up, from 1 ms to 24 days. At most the TTL of the leader's lease.
    #[must_use]
    pub fn with_tcp_user_timeout(mut self, timeout: Duration) -> Self {
        self.tcp_user_timeout = within(timeout);
        self
    }

    /// **For tests of throw-away databases only.** Accepts a server with `fsync = off` or `full_page_writes = off`,
    /// which after a power cut may have lost or damaged what it acknowledged, down to every certificate and key.
    #[must_use]
    pub fn allow_unsafe_durability_for_tests(mut self) -> Self {
        self.unsafe_durability = true;
        self
    }
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Zero would mean "for ever" to the database.
fn within(timeout: Duration) -> Duration {
    timeout.clamp(Duration::from_millis(1), LONGEST)
}
