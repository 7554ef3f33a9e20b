//! The heartbeat: this node's record in the cluster view.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::engine::Engine;
use super::node_name::hostname;
use crate::error::{Error, Result};
use crate::model::{LaneLoad, Node};
use crate::scheduler::LEASES;
use crate::store::WriteBatch;

/// How many heartbeats may be missing.
const MISSED: u32 = 3;

/// How long to try to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// Writes the node's record until `stop` fired and `tasks` have ended, and then deletes it.
pub(super) async fn beat(engine: Arc<Engine>, stop: CancellationToken, tasks: TaskTracker) {
    let started_at = engine.clock.now();
    let every = engine.settings.node_heartbeat;
    let ended = async {
        stop.cancelled().await;
        tasks.wait().await;
    };
    tokio::pin!(ended);
    loop {
        let sent = engine.clock.monotonic();
        let written = async {
            if let Err(error) = engine.sealer.look().await {
                tracing::error!(%error, "cannot look which key seals");
            }
            engine.store.commit(WriteBatch::new().put(&node(&engine, started_at))?).await
        };
        let written = tokio::select! {
            biased;
            () = &mut ended => break,
            written = within(&engine, every, written) => written,
        };
        match written {
            Ok(_) => engine.vitals.beat(sent),
            Err(error) => tracing::warn!(%error, "cannot write that this node lives"),
        }
        tokio::select! {
            biased;
            () = &mut ended => break,
            () = engine.clock.sleep(every) => {}
        }
    }
    let gone = engine.store.commit(WriteBatch::new().delete::<Node>(&engine.node_id));
    if let Err(error) = within(&engine, GOODBYE, gone).await {
        tracing::warn!(%error, "cannot take this node out of the cluster view; it will be shown as stale");
    }
}

/// What is to be said of this node now.
fn node(engine: &Engine, started_at: OffsetDateTime) -> Node {
    let (settings, vitals) = (&engine.settings, &engine.vitals);
    let now = engine.clock.now();
    let works = settings.roles.contains(&super::Role::Worker);
    let lanes = settings.lanes.iter().filter(|_| works);
    Node {
        id: engine.node_id.clone(),
        name: settings.node_name.clone(),
        roles: settings.roles.iter().map(|role| role.as_str().to_owned()).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        hostname: hostname().unwrap_or_else(|| "unknown".to_owned()),
        started_at,
        heartbeat_at: now,
        stale_at: now + settings.node_heartbeat * MISSED,
        keks: engine.sealer.envelope().keks(),
        keyring_epoch: engine.sealer.epoch(),
        lanes: lanes
            .map(|(lane, slots)| (lane.as_str().to_owned(), LaneLoad { slots: *slots, running: vitals.running(*lane) }))
            .collect(),
        epochs: LEASES.iter().map(|lease| ((*lease).to_owned(), vitals.epochs.newest(lease))).collect(),
    }
}

async fn within<T>(engine: &Engine, patience: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        answer = call => answer,
        () = engine.clock.sleep(patience) => Err(Error::network("node.beat", "timeout", "the store did not answer")),
    }
}
