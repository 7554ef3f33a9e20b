//! The leader's lease: who may lead, under which epoch.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::error::{Error, Result, codes};

/// Grants leases with an epoch that never goes back.
///
/// # Contract
/// - `acquire` grants when the lease is free, released, or expired by the store's own clock, or when the store knows that
///   its holder is gone; each grant has an epoch larger than every one before it, also across releases and restarts: the
///   row is never deleted.
/// - A request that is repeated finds its own grant, as long as nobody took it since: nothing is lost with an answer.
/// - A lease is *permission to try*: what makes two leaders harmless is that every leader's write is a commit with
///   [`Condition::Lease`](crate::store::Condition::Lease).
/// - Cancel-safe in the sense that an abandoned `acquire` may have been granted; it then expires by itself.
///
/// # Errors
/// `Network` and `IoTransient` while the store is away: the caller must act as if the lease were lost once its own
/// deadline passes.
#[async_trait]
pub trait LeaderLock: Debug + Send + Sync + 'static {
    /// Takes the lease until `ttl` from now, or `None` if somebody holds it.
    ///
    /// The same holder and nonce again, while that grant was neither released nor taken: the same epoch, extended.
    async fn acquire(&self, request: &LeaseRequest) -> Result<Option<Lease>>;

    /// Extends the lease to `ttl` from now; `false` if it is no longer ours. Also revives our own expired lease,
    /// as long as nobody else took it.
    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool>;

    /// Gives the lease back; `false` if it was no longer ours.
    async fn release(&self, lease: &Lease) -> Result<bool>;

    /// Who holds the lease `name`; `None` if it was never granted.
    async fn inspect(&self, name: &str) -> Result<Option<LeaseInfo>>;

    /// Lets the next grant of `name` have an epoch larger than `floor`, and ends the present one unless its epoch is
    /// larger already. For an operator whose database was restored to an earlier state. Returns the epoch of the last
    /// grant as it is now counted.
    async fn raise(&self, name: &str, floor: u64) -> Result<u64>;

    /// A counter that changes when a lease may have become free. Missing a change is harmless: candidates also poll.
    fn vacancies(&self) -> watch::Receiver<u64>;
}

/// Who wants a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseRequest {
    /// What to lease, such as `"scheduler"`.
    pub name: String,
    /// Who asks: unique to the process.
    pub holder: String,
    /// Unique to the request, and kept when it is repeated.
    pub nonce: String,
    /// How long it is to last.
    pub ttl: Duration,
}

impl LeaseRequest {
    /// A request by `holder` for the lease `name`, for `ttl`.
    pub fn new(name: impl Into<String>, holder: impl Into<String>, nonce: impl Into<String>, ttl: Duration) -> Self {
        Self { name: name.into(), holder: holder.into(), nonce: nonce.into(), ttl }
    }

    /// For stores: the lease as granted under `epoch`.
    pub fn granted(&self, epoch: u64) -> Lease {
        Lease { name: self.name.clone(), holder: self.holder.clone(), epoch }
    }
}

/// A granted lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What is leased, such as `"scheduler"`.
    pub name: String,
    /// Who holds it.
    pub holder: String,
    /// The fencing token.
    pub epoch: u64,
}

impl Lease {
    /// For stores: what to answer when this lease no longer holds.
    pub fn lost(&self) -> Error {
        Error::validation("store.commit", codes::LEASE_LOST, "the lease belongs to somebody else now")
            .with("lease", &self.name)
            .with("epoch", self.epoch)
    }
}

/// The state of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseInfo {
    /// What is leased.
    pub name: String,
    /// Who was granted it last.
    pub holder: String,
    /// The epoch of the last grant.
    pub epoch: u64,
    /// What remains of it; zero when it expired or was released.
    pub remaining: Duration,
    /// Whether the holder gave it back.
    pub released: bool,
}
