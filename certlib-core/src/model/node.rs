//! Nodes: the processes that run certlib on one store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::secret::Kek;
use crate::store::{Index, Record};

/// A running process. It writes this record at its start and at every heartbeat, whatever its roles, and deletes it
/// when it stops. All times are of the node's own wall clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name and a random part: no two processes, and no two starts of one, have the same. The holder of its leases.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// What it does: `worker`, `scheduler`.
    pub roles: Vec<String>,
    /// The version of certlib.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The host it runs on.
    pub hostname: String,
    /// When it started.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// When it wrote this.
    #[serde(with = "time::serde::rfc3339")]
    pub heartbeat_at: OffsetDateTime,
    /// When it is stale: three heartbeats later.
    #[serde(with = "time::serde::rfc3339")]
    pub stale_at: OffsetDateTime,
    /// The key-encryption keys that it has, by version; empty if certlib does not manage them.
    pub keks: Vec<Kek>,
    /// The epoch of the keyring that it last saw.
    pub keyring_epoch: u64,
    /// The lanes it works in.
    pub lanes: BTreeMap<String, LaneLoad>,
    /// The newest epoch it has seen of each lease.
    pub epochs: BTreeMap<String, u64>,
}

/// How busy a lane of a node is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneLoad {
    /// How many jobs may run at the same time.
    pub slots: usize,
    /// How many run.
    pub running: usize,
}

impl Node {
    /// Whether the node missed so many heartbeats that it is probably gone.
    pub fn is_stale(&self, now: OffsetDateTime) -> bool {
        now > self.stale_at
    }
}

impl Record for Node {
    const KIND: &'static str = "node";
    const FIELDS: &'static [&'static str] = &["heartbeat_at"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("heartbeat_at", self.heartbeat_at)
    }
}
