//! What people decide beforehand: who must agree, when targets may be touched, how far a failure may spread, what may be
//! issued, and which version is wanted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod approvals;
#[path = "../common/mod.rs"]
mod common;
mod going_back;
mod gone;
mod policy;
mod rollout;
mod windows;

use std::time::Duration;

use certlib_core::client::{Client, DistributionStatus};
use certlib_core::model::{CertificateState, TargetRun, TargetStatus};

use crate::common::World;

pub(crate) const MS: Duration = Duration::from_millis(50);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// How the latest run stands.
pub(crate) async fn status(client: &Client, id: &str) -> DistributionStatus {
    client.distribution_status("shop", id).await.unwrap().unwrap()
}

/// The target called `name` in the latest run.
pub(crate) async fn target(client: &Client, id: &str, name: &str) -> TargetRun {
    status(client, id).await.targets.into_iter().find(|target| target.target_name == name).unwrap()
}

/// Whether the target called `name` is `wanted` in the latest run.
pub(crate) async fn is(client: &Client, id: &str, name: &str, wanted: impl Fn(&TargetRun) -> bool) -> bool {
    status(client, id).await.targets.iter().any(|target| target.target_name == name && wanted(target))
}

/// How many targets of the latest run have the status.
pub(crate) async fn count(client: &Client, id: &str, wanted: TargetStatus) -> usize {
    status(client, id).await.targets.iter().filter(|target| target.status == wanted).count()
}

/// Issues, and waits until the certificate is live everywhere.
pub(crate) async fn issued(world: &World, client: &Client, id: &str) {
    client.issue("shop", id).await.unwrap();
    let active = || async { client.certificate("shop", id).await.unwrap().state == CertificateState::Active };
    world.until(MS, active).await;
}

/// Waits until the latest run is of `version` and over.
pub(crate) async fn over(world: &World, client: &Client, id: &str, version: u32) {
    over_within(world, client, id, version, MS).await;
}

/// The same, with the clock in longer steps.
pub(crate) async fn over_within(world: &World, client: &Client, id: &str, version: u32, step: Duration) {
    let over = || async {
        let status = client.distribution_status("shop", id).await.unwrap();
        status.is_some_and(|status| status.run.version == version && status.run.finished_at.is_some())
    };
    world.until(step, over).await;
}

/// The kinds of the events of `project`.
pub(crate) async fn told(client: &Client) -> Vec<String> {
    client.events("shop", None, 1000).await.unwrap().into_iter().map(|event| event.kind).collect()
}
