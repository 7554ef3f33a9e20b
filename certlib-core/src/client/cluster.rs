//! The cluster: which nodes there are, and which of them lead.

use std::time::Duration;

use super::Client;
use crate::error::{Error, Result};
use crate::lock::LeaseInfo;
use crate::metrics;
use crate::model::Node;
use crate::scheduler::{LEASE, LEASES};
use crate::store::{StoreExt as _, TypedQuery};

/// Who runs on the store, and who leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterInstances {
    /// The nodes, by id.
    pub instances: Vec<ClusterInstance>,
    /// Leases that are held, but by none of the nodes that live: their holder crashed a moment ago and its lease has
    /// yet to expire, or it does not get through to the store with its heartbeats.
    pub orphan_leaders: Vec<LeaseInfo>,
    /// The newest epoch of the scheduler's lease that any of the nodes has seen: what to give
    /// [`Client::raise_leader_epoch`] after the database was restored.
    pub newest_epoch: u64,
}

/// One node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterInstance {
    /// What it said of itself.
    pub node: Node,
    /// Whether it missed three heartbeats.
    pub stale: bool,
    /// What it leads, such as `scheduler_leader`.
    pub leads: Vec<String>,
}

impl Client {
    /// The nodes on this store, joined with the leases they hold. Whether a node is stale is told by comparing the wall
    /// clock of this node with that of the other.
    ///
    /// # Errors
    /// As [`Store`](crate::store::Store). Cancel-safe.
    pub async fn cluster_instances(&self) -> Result<ClusterInstances> {
        let store = &self.engine.store;
        let nodes = store.list_all(TypedQuery::<Node>::new()).await?;
        let now = self.engine.clock.now();
        let mut cluster = ClusterInstances::default();
        for node in nodes {
            let epoch = node.epochs.get(LEASE).copied().unwrap_or_default();
            cluster.newest_epoch = cluster.newest_epoch.max(epoch);
            let stale = node.is_stale(now);
            cluster.instances.push(ClusterInstance { node: node.record, stale, leads: Vec::new() });
        }
        for name in LEASES {
            let Some(lease) = store.inspect(name).await? else { continue };
            if *name == LEASE {
                cluster.newest_epoch = cluster.newest_epoch.max(lease.epoch);
            }
            if lease.released || lease.remaining.is_zero() {
                continue;
            }
            let holder = cluster.instances.iter_mut().find(|instance| instance.node.id == lease.holder);
            match holder {
                Some(instance) if !instance.stale => instance.leads.push(format!("{name}_leader")),
                _ => cluster.orphan_leaders.push(lease),
            }
        }
        Ok(cluster)
    }

    /// For an operator, after the database was restored to an earlier state: makes the next leader's epoch larger than
    /// `floor`, and ends the term of the present leader unless its epoch is larger already. Nodes that refuse to lead
    /// because the store went back do so again once `floor` is at least what they have seen:
    /// [`ClusterInstances::newest_epoch`], or what they logged. Returns the epoch of the last grant as it is now counted.
    ///
    /// # Errors
    /// As [`LeaderLock`](crate::lock::LeaderLock).
    pub async fn raise_leader_epoch(&self, floor: u64) -> Result<u64> {
        let epoch = self.engine.store.raise(LEASE, floor).await?;
        tracing::warn!(floor, epoch, "the epoch of the leader's lease was raised");
        Ok(epoch)
    }

    /// Sets the gauges of [`metrics`]: see
    /// [`RunningRuntime::record_metrics`](crate::runtime::RunningRuntime::record_metrics).
    ///
    /// # Errors
    /// As [`JobQueue`](crate::queue::JobQueue); `Network` `timeout` when the store does not answer within 2 s.
    pub async fn record_metrics(&self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(2);
        let engine = &self.engine;
        metrics::local(engine);
        let stats = tokio::select! {
            biased;
            stats = engine.store.stats() => stats?,
            () = engine.clock.sleep(PATIENCE) => {
                return Err(Error::network("metrics.record", "timeout", "the store did not answer in time"));
            }
        };
        // Once more: asking took time.
        metrics::local(engine);
        metrics::queue_depth(&stats, &engine.vitals.kinds(stats.by_kind.keys().map(String::as_str)));
        Ok(())
    }
}
