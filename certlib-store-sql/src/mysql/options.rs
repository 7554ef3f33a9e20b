//! How a MySQL or MariaDB store is opened.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::Clock;

/// How to open a [`MysqlStore`](super::MysqlStore).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MysqlOptions {
    /// What measures `run_at`, claims and leases; `None`, for production: the server's own clock.
    pub clock: Option<Arc<dyn Clock>>,
    /// How connections are protected; `None`: as the URL says with `ssl-mode`, or else
    /// [`VerifyIdentity`](MysqlTls::VerifyIdentity), except that connections that stay on this host may be plain.
    pub tls: Option<MysqlTls>,
    /// Certificates, PEM, of authorities that are trusted besides the public ones.
    pub tls_roots: Option<Vec<u8>>,
    /// How many connections the store itself opens, for leases, heartbeats and callers outside any lane; at least 1.
    pub connections: u32,
    /// How many connections each lane opens; at least 1.
    pub lane_connections: u32,
    /// How long to wait for a connection.
    pub acquire_timeout: Duration,
    /// How long a statement may take before the server gives it up: on MariaDB every statement, on MySQL reads.
    pub statement_timeout: Duration,
    /// How long to wait for a row that somebody else has locked, in whole seconds.
    pub lock_timeout: Duration,
    /// Whether a server is accepted that forgets acknowledged commits in a crash.
    pub unsafe_durability_allowed: bool,
}

/// How the connections to the server are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MysqlTls {
    /// Not at all.
    Disabled,
    /// Encrypted if the server can; whoever sits in between can prevent it.
    Preferred,
    /// Encrypted, with whoever answers.
    Required,
    /// Encrypted, with a server whose certificate comes from a trusted authority.
    VerifyCa,
    /// Encrypted, with the server whose name is in its certificate, from a trusted authority.
    VerifyIdentity,
}

impl MysqlOptions {
    /// The server's clock; TLS with verification off this host; 4 connections for the store and 4 for each lane; 10 s
    /// for a connection, 30 s for a statement, 5 s for a lock; no lost commits.
    pub fn new() -> Self {
        Self {
            clock: None,
            tls: None,
            tls_roots: None,
            connections: 4,
            lane_connections: 4,
            acquire_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(5),
            unsafe_durability_allowed: false,
        }
    }

    /// Measures by `clock` instead of the server's: all processes that share the database must agree on it.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Sets how connections are protected, whatever the URL says.
    #[must_use]
    pub fn with_tls(mut self, tls: MysqlTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Trusts the authorities in `pem` too.
    #[must_use]
    pub fn with_tls_roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls_roots = Some(pem.into());
        self
    }

    /// Sets how many connections the store itself opens.
    #[must_use]
    pub fn with_connections(mut self, connections: u32) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// Sets how many connections each lane opens.
    #[must_use]
    pub fn with_lane_connections(mut self, connections: u32) -> Self {
        self.lane_connections = connections.max(1);
        self
    }

    /// Sets how long to wait for a connection.
    #[must_use]
    pub fn with_acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = timeout;
        self
    }

    /// Sets how long a statement may take, from 1 s to a day.
    #[must_use]
    pub fn with_statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = bounded(timeout);
        self
    }

    /// Sets how long to wait for a locked row, from 1 s to a day.
    #[must_use]
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = bounded(timeout);
        self
    }

    /// Accepts a server that may forget acknowledged commits in a crash. **Only for tests**: such a server breaks every
    /// promise that certlib makes about what it has stored.
    #[must_use]
    pub fn allow_unsafe_durability_for_tests(mut self) -> Self {
        self.unsafe_durability_allowed = true;
        self
    }
}

impl Default for MysqlOptions {
    fn default() -> Self {
        Self::new()
    }
}

fn bounded(timeout: Duration) -> Duration {
    timeout.clamp(Duration::from_secs(1), Duration::from_secs(86_400))
}
