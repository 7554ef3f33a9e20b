//! The cluster view: every node is there while it lives, and the leader wears its badge.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::time::Duration;

use async_trait::async_trait;
use certlib_core::lock::LeaseRequest;
use certlib_core::metrics;
use certlib_core::model::{LaneLoad, Node};
use certlib_core::queue::{Job, Lane, NewJob};
use certlib_core::runtime::{Handled, JobContext, JobHandler, Role};
use certlib_core::scheduler::LEASE;
use certlib_core::store::{StoreExt as _, TypedQuery, WriteBatch};
use certlib_core::{Error, Result};
use serde_json::json;

use crate::common::World;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Endless;

#[async_trait]
impl JobHandler for Endless {
    fn kind(&self) -> &'static str {
        "endless"
    }

    fn lane(&self) -> Lane {
        Lane::Notification
    }

    async fn run(&self, _: &Job, cx: &JobContext) -> Result<Handled> {
        cx.cx.cancel.cancelled().await;
        Err(Error::transient("endless", "cancelled", "told to stop"))
    }
}

async fn nodes(world: &World) -> Vec<Node> {
    let nodes = world.store.list_all(TypedQuery::<Node>::new()).await.unwrap();
    nodes.into_iter().map(|node| node.record).collect()
}

#[tokio::test]
async fn every_node_is_shown_while_it_lives_and_the_leader_has_its_badge() {
    let world = World::new();
    let named = |name: &'static str, roles: Vec<Role>| {
        let builder = world.builder().settings(|settings| {
            settings.node_name = name.to_owned();
            settings.roles = roles;
        });
        builder.handler(Endless).build().unwrap().start()
    };
    let a = named("alpha", vec![Role::Worker, Role::Scheduler]);
    world.until(SECOND, || async { a.is_leader() }).await;
    let b = named("beta", vec![Role::Worker]);
    let c = named("gamma", vec![]);
    world.until(SECOND, || async { nodes(&world).await.len() == 3 }).await;
    world.store.enqueue(vec![NewJob::new("endless", Lane::Notification, json!({}))]).await.unwrap();
    let running = |node: &Node| node.lanes.get("notification").map_or(0, |lane| lane.running);
    world.until(SECOND, || async { nodes(&world).await.iter().map(running).sum::<usize>() == 1 }).await;

    let cluster = c.client().cluster_instances().await.unwrap();
    let [alpha, beta, gamma] = &*cluster.instances else { panic!("{cluster:?}") };
    assert!(alpha.node.id.starts_with("alpha/") && alpha.node.id.len() == "alpha/".len() + 12, "{}", alpha.node.id);
    assert_eq!((&*alpha.node.name, &*beta.node.name, &*gamma.node.name), ("alpha", "beta", "gamma"));
    assert_eq!(alpha.node.roles, ["worker", "scheduler"]);
    assert_eq!((&*beta.node.roles, gamma.node.roles.len()), (&["worker".to_owned()][..], 0));
    assert_eq!(alpha.node.keks.len(), 1);
    assert_eq!(alpha.node.keyring_epoch, 1);
    assert_eq!((alpha.node.pid, &*alpha.node.version), (std::process::id(), env!("CARGO_PKG_VERSION")));
    assert!(!alpha.node.hostname.is_empty() && alpha.node.started_at >= common::START);
    assert_eq!(alpha.node.lanes["issuance"], LaneLoad { slots: 16, running: 0 });
    assert!(gamma.node.lanes.is_empty(), "it works on nothing");
    assert_eq!(alpha.leads, ["scheduler_leader"]);
    assert!(beta.leads.is_empty() && cluster.orphan_leaders.is_empty());
    assert!(cluster.instances.iter().all(|instance| !instance.stale));
    assert_eq!(cluster.newest_epoch, 1);

    // It follows the leader, and forgets who said goodbye.
    let d = named("delta", vec![Role::Scheduler]);
    let stopping = tokio::spawn(a.shutdown());
    world.until(Duration::from_millis(100), || async { d.is_leader() && nodes(&world).await.len() == 3 }).await;
    stopping.await.unwrap();
    let cluster = c.client().cluster_instances().await.unwrap();
    let names: Vec<_> = cluster.instances.iter().map(|instance| &*instance.node.name).collect();
    assert_eq!(names, ["beta", "delta", "gamma"]);
    assert_eq!(cluster.instances[1].leads, ["scheduler_leader"]);
    for node in [b, c, d] {
        world.stop(node).await;
    }
    assert!(nodes(&world).await.is_empty());
}

#[tokio::test]
async fn a_silent_node_is_stale_its_lease_an_orphan_and_it_is_forgotten_after_a_day() {
    let world = World::new();
    let dead = Node {
        id: "dead/0".into(),
        name: "dead".into(),
        roles: vec!["scheduler".into()],
        version: "0".into(),
        pid: 1,
        hostname: "gone".into(),
        started_at: common::START,
        heartbeat_at: common::START,
        stale_at: common::START + 90 * SECOND,
        keks: Vec::new(),
        keyring_epoch: 0,
        lanes: [].into(),
        epochs: [(LEASE.to_owned(), 41)].into(),
    };
    world.store.commit(WriteBatch::new().put(&dead).unwrap()).await.unwrap();
    let request = LeaseRequest::new(LEASE, "dead/0", "n", 200 * SECOND);
    world.store.acquire(&request).await.unwrap().unwrap();
    let client = world.builder().build().unwrap().client();
    let leads = client.cluster_instances().await.unwrap();
    assert_eq!(leads.instances[0].leads, ["scheduler_leader"]);
    assert_eq!(leads.newest_epoch, 41);

    world.clock.advance(91 * SECOND);
    let cluster = client.cluster_instances().await.unwrap();
    assert!(cluster.instances[0].stale && cluster.instances[0].leads.is_empty());
    assert_eq!(cluster.orphan_leaders[0].holder, "dead/0");
    world.clock.advance(110 * SECOND);
    assert!(client.cluster_instances().await.unwrap().orphan_leaders.is_empty(), "its lease has expired");

    let node = world.builder().build().unwrap().start();
    world.until(30 * SECOND, || async { node.is_leader() && nodes(&world).await.len() == 2 }).await;
    world.until(600 * SECOND, || async { !nodes(&world).await.iter().any(|node| node.name == "dead") }).await;
    let now = certlib_core::clock::Clock::now(&*world.clock);
    assert!(now - common::START >= 24 * 3600 * SECOND);
    assert_eq!(nodes(&world).await.len(), 1, "who lives is not forgotten");
    world.stop(node).await;
}

#[tokio::test]
async fn a_node_that_could_not_write_for_a_while_is_there_again() {
    let world = World::new();
    let node = world.builder().build().unwrap().start();
    world.until(SECOND, || async { nodes(&world).await.len() == 1 }).await;
    let id = nodes(&world).await.remove(0).id;
    world.store.commit(WriteBatch::new().delete::<Node>(&id)).await.unwrap();
    world.until(SECOND, || async { nodes(&world).await.len() == 1 }).await;
    assert_eq!(nodes(&world).await[0].id, id);
    world.stop(node).await;
}

#[test]
fn metrics_have_one_prefix_and_are_documented() {
    let table = include_str!("../src/metrics.rs");
    for name in [
        metrics::IS_LEADER,
        metrics::LEADER_ELECTIONS,
        metrics::STORE_REGRESSED,
        metrics::SWEEP_DURATION,
        metrics::SWEEP_DUE,
        metrics::HEARTBEAT_AGE,
        metrics::QUEUE_DEPTH,
        metrics::JOBS_TOTAL,
        metrics::DEAD_LETTER_TOTAL,
        metrics::JOB_DURATION,
        metrics::LANE_SLOTS,
        metrics::LANE_RUNNING,
        metrics::TARGETS_TOTAL,
    ] {
        assert!(name.starts_with("certlib_") && table.contains(&format!("[`{name}`]")), "{name}");
    }
}
