//! The process dies at every single commit, before or after it takes effect; another one goes on where it stood.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use certlib_core::conformance::dying::{Death, DyingStore};
use certlib_core::model::{CertificateState, Order, TargetStatus};
use certlib_core::runtime::Role;
use certlib_core::store::{StoreExt as _, TypedQuery};

use crate::common::{Fault, World};

const TARGETS: [&str; 3] = ["a", "b", "c"];

/// Renews a live certificate while the process dies at commit `nth`; returns whether it lived to the end.
async fn dies_at(nth: usize, death: Death, fault: Option<Fault>) -> bool {
    let world = World::new();
    let first = world.builder().build().unwrap().start();
    let client = first.client();
    let id = world.certificate(&client, &TARGETS).await;
    client.issue("shop", &id).await.unwrap();
    let live = |version| {
        let (client, id) = (&client, &id);
        async move { client.certificate("shop", id).await.unwrap().active_version == Some(version) }
    };
    let idle = || async {
        let stats = world.store.stats().await.unwrap();
        stats.by_kind.values().all(|depth| depth.in_progress + depth.pending == 0)
    };
    world.until(Duration::from_millis(100), || live(1)).await;
    world.until(Duration::from_millis(100), &idle).await;
    first.shutdown().await;
    let old = world.fleet.served("a");
    world.fleet.fault("b", fault);

    let dying = DyingStore::new(world.store.clone(), nth, death);
    let workers = |settings: &mut certlib_core::runtime::Settings| settings.roles = vec![Role::Worker];
    let second = world.builder_on(dying.clone()).settings(workers).build().unwrap().start();
    client.renew("shop", &id).await.unwrap();
    let over = || async {
        let fate = client.certificate("shop", &id).await.unwrap().state;
        dying.is_dead()
            || !matches!(fate, CertificateState::Active | CertificateState::Issuing | CertificateState::Distributing)
            || (idle().await && live(2).await)
    };
    world.until(Duration::from_millis(100), over).await;
    let survived = !dying.is_dead();
    world.stop(second).await;
    for name in TARGETS {
        let served = world.fleet.served(name);
        assert!(served.is_some(), "commit {nth}: {name} serves nothing");
    }
    // Whether the order's handle was kept before the death.
    let orders = TypedQuery::<Order>::new().equal("certificate", &*id);
    let placed = world.store.list_all(orders).await.unwrap().iter().filter(|order| order.handle.is_some()).count();

    // Nothing runs now: the dead process's leases pass in one step.
    world.clock.advance(Duration::from_secs(61));
    world.fleet.fault("b", None);
    let third = world.builder().settings(workers).build().unwrap().start();
    let done =
        || async { idle().await && client.certificate("shop", &id).await.unwrap().state == CertificateState::Active };
    world.until(Duration::from_secs(2), done).await;
    let certificate = client.certificate("shop", &id).await.unwrap();
    assert_eq!((certificate.active_version, certificate.latest_version), (Some(2), 2), "commit {nth} {death:?}");
    let new = client.material("shop", &id, Some(2), false).await.unwrap().bundle.fingerprint();
    assert_ne!(Some(new), old);
    for name in TARGETS {
        assert_eq!(world.fleet.served(name), Some(new), "commit {nth} {death:?}: {name}");
    }
    let status = client.distribution_status("shop", &id).await.unwrap().unwrap();
    assert!(status.targets.iter().all(|target| target.status == TargetStatus::Validated));
    // Only a death between placing an order and keeping its handle can cost a second one.
    let submits = world.ca.submits.load(Ordering::SeqCst);
    assert!(submits <= 3, "commit {nth} {death:?}: {submits} orders");
    if placed == 2 {
        assert_eq!(submits, 2, "commit {nth} {death:?}: a second order");
    }
    third.shutdown().await;
    survived
}

async fn every_commit(fault: Option<Fault>) -> usize {
    for nth in 1.. {
        let survived = [dies_at(nth, Death::Before, fault).await, dies_at(nth, Death::After, fault).await];
        if survived == [true, true] {
            return nth - 1;
        }
        assert!(nth < 200, "it never survives");
    }
    unreachable!()
}

#[tokio::test]
async fn renewal_survives_a_death_at_every_commit() {
    let commits = every_commit(None).await;
    assert!(commits >= 15, "only {commits} commits were tried");
}

#[tokio::test]
async fn rollback_survives_a_death_at_every_commit() {
    let commits = every_commit(Some(Fault::KeepsServingOld)).await;
    assert!(commits >= 15, "only {commits} commits were tried");
}

#[tokio::test]
async fn a_failure_halfway_survives_a_death_at_every_commit() {
    let commits = every_commit(Some(Fault::BreaksHalfway)).await;
    assert!(commits >= 15, "only {commits} commits were tried");
}
