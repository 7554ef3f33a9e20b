//! What meets: two certificates on one target, a revocation during a run, requests while work is under way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use certlib_core::Client;
use certlib_core::client::{NewCertificate, Revocation};
use certlib_core::conformance::dying::{Death, DyingStore};
use certlib_core::model::{CertificateState, RunState, TargetStatus};
use certlib_core::queue::{JobFilter, JobState};
use certlib_core::runtime::{Role, Settings};

use crate::common::{Fault, World};

const MS: Duration = Duration::from_millis(50);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

async fn state(client: &Client, id: &str) -> CertificateState {
    client.certificate("shop", id).await.unwrap().state
}

fn workers(settings: &mut Settings) {
    settings.roles = vec![Role::Worker];
}

#[tokio::test]
async fn two_certificates_that_share_targets_take_turns() {
    let world = World::new();
    *world.fleet.pace.lock().unwrap() = Some((world.clock.clone(), SECOND));
    let node = world.builder().build().unwrap().start();
    let client = node.client();
    let one = world.certificate(&client, &["a", "b", "c"]).await;
    let targets: Vec<String> = client.targets("shop").await.unwrap().into_iter().map(|target| target.id).collect();
    let issuer = client.certificate("shop", &one).await.unwrap().issuer_id;
    let two = NewCertificate::new(["api.shop.example"], issuer).deliver_to(targets);
    let two = client.create_certificate("shop", two).await.unwrap().id;
    client.issue("shop", &one).await.unwrap();
    client.issue("shop", &two).await.unwrap();
    let both = || async {
        let (one, two) = (state(&client, &one).await, state(&client, &two).await);
        (one, two) == (CertificateState::Active, CertificateState::Active)
    };
    world.until(SECOND, both).await;
    node.shutdown().await;
}

#[tokio::test]
async fn asking_again_while_an_order_is_under_way_places_no_second_one() {
    let world = World::new();
    let node = world.builder().build().unwrap().start();
    let client = node.client();
    let id = world.certificate(&client, &[]).await;
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::Active }).await;
    world.ca.pending.store(3, Ordering::SeqCst);
    client.renew("shop", &id).await.unwrap();
    world.until(MS, || async { world.ca.polls.load(Ordering::SeqCst) >= 3 }).await;
    for _ in 0..5 {
        client.renew("shop", &id).await.unwrap();
    }
    let idle = || async {
        let stats = world.store.stats().await.unwrap();
        stats.by_kind.values().all(|depth| depth.pending + depth.in_progress == 0)
    };
    world.until(SECOND, idle).await;
    assert_eq!(client.certificate("shop", &id).await.unwrap().latest_version, 2);
    assert_eq!(world.ca.submits.load(Ordering::SeqCst), 2);
    node.shutdown().await;
}

#[tokio::test]
async fn what_was_mended_meanwhile_is_delivered_without_being_asked() {
    let world = World::new();
    let node = world.builder().build().unwrap().start();
    let client = node.client();
    let id = world.certificate(&client, &["a"]).await;
    world.fleet.fault("a", Some(Fault::Refuses));
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::DistributionFailed }).await;
    // A refused login is not retried by the ladder; somebody mends it and tells nobody.
    world.fleet.fault("a", None);
    world.until(HOUR / 4, || async { state(&client, &id).await == CertificateState::Active }).await;
    assert!(world.elapsed() <= 26 * HOUR);
    assert_eq!(world.ca.submits.load(Ordering::SeqCst), 1);
    node.shutdown().await;
}

#[tokio::test]
async fn a_revoked_certificate_never_comes_back() {
    let world = World::new();
    let node = world.builder().build().unwrap().start();
    let client = node.client();
    let id = world.certificate(&client, &["a", "b"]).await;
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::Active }).await;
    let revoked = world.fleet.served("b").unwrap();
    // "b" cannot be reached in the first pass, and serves something else than it should in the second.
    world.fleet.fault("b", Some(Fault::Unreachable));
    client.revoke("shop", &id, Revocation::default()).await.unwrap();
    world.until(MS, || async { client.certificate("shop", &id).await.unwrap().active_version == Some(2) }).await;
    world.until(MS, || async { state(&client, &id).await == CertificateState::PartialFailure }).await;
    world.fleet.fault("b", Some(Fault::BreaksHalfway));
    let tried = || async {
        let status = client.distribution_status("shop", &id).await.unwrap().unwrap();
        status.targets.iter().any(|target| {
            target.target_name == "b"
                && target.error.as_ref().is_some_and(|error| error.code == "rollback_refused:backup_revoked")
        })
    };
    world.until(SECOND, tried).await;
    world.fleet.with("b", |target| assert_ne!(target.file, Some(revoked), "the revoked one is back"));
    // And when the trouble is over, the next pass starts afresh.
    world.fleet.fault("b", None);
    world.until(SECOND, || async { state(&client, &id).await == CertificateState::Active }).await;
    node.shutdown().await;
}

#[tokio::test]
async fn a_run_whose_version_is_revoked_in_the_middle_is_taken_back_and_the_next_one_delivers() {
    let world = World::new();
    let node = world.builder().settings(workers).build().unwrap().start();
    let client = node.client();
    let id = world.certificate(&client, &["a"]).await;
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::Active }).await;
    node.shutdown().await;

    // The node dies right after the swap of version 2: plan, order, handle, issued, run, target, hold, journal.
    let dying = DyingStore::new(world.store.clone(), 7, Death::Before);
    let node = world.builder_on(dying.clone()).settings(workers).build().unwrap().start();
    client.renew("shop", &id).await.unwrap();
    world.until(MS, || async { dying.is_dead() }).await;
    let stopped = tokio::spawn(node.shutdown());
    world.until(MS, || async { stopped.is_finished() }).await;
    assert_eq!(client.certificate("shop", &id).await.unwrap().latest_version, 2);
    world.clock.advance(Duration::from_secs(61));

    let node = world.builder().build().unwrap().start();
    client.revoke("shop", &id, Revocation { version: Some(2), ..Revocation::default() }).await.unwrap();
    let live = || async {
        let certificate = client.certificate("shop", &id).await.unwrap();
        (certificate.active_version, certificate.state) == (Some(3), CertificateState::Active)
    };
    world.until(SECOND, live).await;
    let new = client.material("shop", &id, Some(3), false).await.unwrap().bundle.fingerprint();
    assert_eq!(world.fleet.served("a"), Some(new));
    node.shutdown().await;
}

#[tokio::test]
async fn a_waiting_run_that_is_cancelled_ends_and_frees_its_targets() {
    let world = World::new();
    let node = world.patient_builder().build().unwrap().start();
    let client = node.client();
    let id = world.certificate(&client, &["a", "b"]).await;
    world.fleet.fault("b", Some(Fault::Unreachable));
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::PartialFailure }).await;
    let filter = JobFilter { kind: Some("distribution_execute".into()), ..JobFilter::default() };
    let job = client.jobs("shop", filter).await.unwrap().remove(0);
    assert_eq!(client.cancel_job("shop", &job.id).await.unwrap().state, JobState::Cancelled);
    let run = client.distribution_status("shop", &id).await.unwrap().unwrap().run.id;
    let over = || async { client.run_status("shop", &run).await.unwrap().run.state == RunState::Cancelled };
    world.until(Duration::from_secs(20), over).await;
    world.fleet.fault("b", None);
    client.distribute("shop", &id).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::Active }).await;
    let status = client.distribution_status("shop", &id).await.unwrap().unwrap();
    assert!(status.targets.iter().all(|target| target.status == TargetStatus::Validated));
    node.shutdown().await;
}

impl World {
    fn elapsed(&self) -> Duration {
        use certlib_core::clock::Clock as _;
        self.clock.monotonic()
    }
}
