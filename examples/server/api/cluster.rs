//! The cluster: which processes run on this store, and which of them lead.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Extension, State};
use certlib_core::client::{ClusterInstance, ClusterInstances};
use certlib_core::lock::LeaseInfo;
use certlib_core::model::{LaneLoad, Node};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::AppState;
use crate::auth::{ApiToken, TokenRole};
use crate::problem::{Problems, Result};

/// The cluster.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClusterView {
    /// The processes, by id.
    instances: Vec<InstanceView>,
    /// Leases that none of the living processes holds: they expire by themselves.
    orphan_leaders: Vec<LeaseView>,
    /// The newest epoch of the scheduler that any of them has seen.
    newest_epoch: u64,
}

/// One process.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InstanceView {
    id: String,
    name: String,
    /// What it leads, such as `scheduler_leader`.
    roles: Vec<String>,
    /// What it does: `worker`, `scheduler`, both, or neither.
    mode: Vec<String>,
    /// Whether it missed three heartbeats.
    stale: bool,
    version: String,
    pid: u32,
    hostname: String,
    #[serde(with = "time::serde::rfc3339")]
    started_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    heartbeat_at: OffsetDateTime,
    /// The versions of the key-encryption key that it has.
    keyring_versions: Vec<u32>,
    /// The epoch of the keyring that it last saw.
    keyring_epoch: u64,
    lanes: BTreeMap<String, LaneView>,
}

/// How busy a lane is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LaneView {
    slots: usize,
    running: usize,
}

/// A lease.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LeaseView {
    name: String,
    holder: String,
    epoch: u64,
    /// When it expires, from now.
    remaining_ms: u64,
}

impl From<ClusterInstances> for ClusterView {
    fn from(cluster: ClusterInstances) -> Self {
        Self {
            instances: cluster.instances.into_iter().map(InstanceView::from).collect(),
            orphan_leaders: cluster.orphan_leaders.into_iter().map(LeaseView::from).collect(),
            newest_epoch: cluster.newest_epoch,
        }
    }
}

impl From<ClusterInstance> for InstanceView {
    fn from(instance: ClusterInstance) -> Self {
        let ClusterInstance { node, stale, leads, .. } = instance;
        let Node { id, name, roles: mode, version, pid, hostname, started_at, heartbeat_at, .. } = node;
        let lanes =
            node.lanes.into_iter().map(|(lane, LaneLoad { slots, running })| (lane, LaneView { slots, running }));
        Self {
            id,
            name,
            roles: leads,
            mode,
            stale,
            version,
            pid,
            hostname,
            started_at,
            heartbeat_at,
            keyring_versions: node.keks.iter().map(|kek| kek.version).collect(),
            keyring_epoch: node.keyring_epoch,
            lanes: lanes.collect(),
        }
    }
}

impl From<LeaseInfo> for LeaseView {
    fn from(lease: LeaseInfo) -> Self {
        let LeaseInfo { name, holder, epoch, remaining, .. } = lease;
        Self { name, holder, epoch, remaining_ms: u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// The processes on this store, with what they lead. Needs an admin token for all projects.
#[utoipa::path(get, path = "/api/v1/settings/cluster-instances", tag = "settings", security(("token" = [])),
    responses((status = 200, body = ClusterView), Problems))]
pub(super) async fn instances(
    State(state): State<AppState>,
    Extension(token): Extension<ApiToken>,
) -> Result<Json<ClusterView>> {
    token.require_all_projects()?;
    token.require(TokenRole::Admin)?;
    Ok(Json(state.client.cluster_instances().await?.into()))
}
