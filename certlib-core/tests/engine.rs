//! The main path on the real engine: issue, distribute, validate, roll back, retry, renew, revoke.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use certlib_core::Error;
use certlib_core::client::{Client, Revocation};
use certlib_core::issuer::{RenewalWindow, RevocationReason};
use certlib_core::model::{CertificateState, RunState, TargetStatus};
use certlib_core::queue::{JobFilter, JobState};

use crate::common::{Fault, START, World};

const MS: Duration = Duration::from_millis(50);
const MINUTE: Duration = Duration::from_secs(60);

async fn state(client: &Client, id: &str) -> CertificateState {
    client.certificate("shop", id).await.unwrap().state
}

async fn statuses(client: &Client, id: &str) -> Vec<(String, TargetStatus)> {
    let status = client.distribution_status("shop", id).await.unwrap().unwrap();
    let mut all: Vec<_> = status.targets.into_iter().map(|target| (target.target_name, target.status)).collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}

#[tokio::test]
async fn issues_distributes_and_goes_live() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a", "b", "c"]).await;
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::Active }).await;

    let certificate = client.certificate("shop", &id).await.unwrap();
    assert_eq!(certificate.active_version, Some(1));
    let renew_at = certificate.renew_at.unwrap();
    assert!(renew_at > START + 59 * 24 * 60 * MINUTE && renew_at < START + 63 * 24 * 60 * MINUTE);
    let material = client.material("shop", &id, None, true).await.unwrap();
    assert!(material.bundle.key().is_some());
    for name in ["a", "b", "c"] {
        assert_eq!(world.fleet.served(name), Some(material.bundle.fingerprint()), "{name}");
    }
    let status = client.distribution_status("shop", &id).await.unwrap().unwrap();
    assert_eq!((status.run.state, status.run.summary.validated), (RunState::Succeeded, 3));
    let events = client.events("shop", None, 100).await.unwrap();
    for kind in ["certificate.issued", "certificate.live", "target.validated", "distribution.succeeded"] {
        assert!(events.iter().any(|event| event.kind == kind), "{kind}");
    }
    running.shutdown().await;
}

#[tokio::test]
async fn failed_targets_are_rolled_back_and_kept_in_retry() {
    let world = World::new();
    let running = world.patient_builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a", "b", "c", "d"]).await;
    world.fleet.fault("b", Some(Fault::KeepsServingOld));
    world.fleet.fault("c", Some(Fault::Refuses));
    world.fleet.fault("d", Some(Fault::Unreachable));
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::PartialFailure }).await;
    assert_eq!(
        statuses(&client, &id).await.into_iter().map(|(_, status)| status).collect::<Vec<_>>(),
        [TargetStatus::Validated, TargetStatus::RolledBack, TargetStatus::Failed, TargetStatus::Failed]
    );
    assert_eq!(world.fleet.served("b"), None, "it never had another certificate");
    assert_eq!(client.certificate("shop", &id).await.unwrap().active_version, Some(1));

    // What passes by itself is tried again; a refused login is not.
    world.fleet.fault("b", None);
    world.fleet.fault("c", None);
    world.fleet.fault("d", None);
    let swaps = world.fleet.swaps.load(Ordering::SeqCst);
    world
        .until(Duration::from_secs(5), || async {
            client.distribution_status("shop", &id).await.unwrap().unwrap().run.finished_at.is_some()
        })
        .await;
    assert_eq!(
        statuses(&client, &id).await.into_iter().map(|(_, status)| status).collect::<Vec<_>>(),
        [TargetStatus::Validated, TargetStatus::Validated, TargetStatus::Failed, TargetStatus::Validated]
    );
    assert_eq!(world.fleet.swaps.load(Ordering::SeqCst), swaps + 2, "what is validated is left alone");
    assert_eq!(world.ca.submits.load(Ordering::SeqCst), 1, "no second order");
    running.shutdown().await;
}

#[tokio::test]
async fn when_all_targets_fail_the_old_version_stays_live_and_nothing_is_ordered_again() {
    let world = World::new();
    let running = world.patient_builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a", "b"]).await;
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::Active }).await;
    let first = world.fleet.served("a").unwrap();

    world.fleet.fault("a", Some(Fault::KeepsServingOld));
    world.fleet.fault("b", Some(Fault::BreaksHalfway));
    client.renew("shop", &id).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::DistributionFailed }).await;
    let certificate = client.certificate("shop", &id).await.unwrap();
    assert_eq!((certificate.active_version, certificate.latest_version), (Some(1), 2));
    assert_eq!((world.fleet.served("a"), world.fleet.served("b")), (Some(first), Some(first)));

    world.fleet.fault("a", None);
    world.fleet.fault("b", None);
    world.until(Duration::from_secs(5), || async { state(&client, &id).await == CertificateState::Active }).await;
    assert_eq!(client.certificate("shop", &id).await.unwrap().active_version, Some(2));
    assert_eq!(world.ca.submits.load(Ordering::SeqCst), 2, "the retry used what was issued");
    running.shutdown().await;
}

#[tokio::test]
async fn the_ladder_ends_in_the_dead_letter_after_seven_passes() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a"]).await;
    world.fleet.fault("a", Some(Fault::KeepsServingOld));
    client.issue("shop", &id).await.unwrap();
    world
        .until(5 * MINUTE, || async {
            let dead = JobFilter { state: Some(JobState::DeadLetter), ..JobFilter::default() };
            !client.jobs("shop", dead).await.unwrap().is_empty()
        })
        .await;
    let status = client.distribution_status("shop", &id).await.unwrap().unwrap();
    assert_eq!((status.run.passes, status.run.state), (7, RunState::Failed));
    assert_eq!(world.fleet.swaps.load(Ordering::SeqCst), 7);
    running.shutdown().await;
}

#[tokio::test]
async fn the_batch_size_bounds_how_many_targets_are_worked_on() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let names: Vec<String> = (0..60).map(|index| format!("t{index:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let id = world.certificate(&client, &names).await;
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::Active }).await;
    assert!(world.fleet.peak.load(Ordering::SeqCst) <= 10);
    running.shutdown().await;
}

#[tokio::test]
async fn a_pending_order_is_polled_on_schedule_and_never_placed_twice() {
    let world = World::new();
    world.ca.pending.store(4, Ordering::SeqCst);
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &[]).await;
    client.issue("shop", &id).await.unwrap();
    world.until(Duration::from_millis(500), || async { state(&client, &id).await == CertificateState::Active }).await;
    assert_eq!(world.ca.polls.load(Ordering::SeqCst), 5);
    assert_eq!(world.ca.submits.load(Ordering::SeqCst), 1);
    running.shutdown().await;
}

#[tokio::test]
async fn an_order_that_outlives_its_round_rests_and_goes_on() {
    let world = World::new();
    world.ca.pending.store(20, Ordering::SeqCst);
    let running = world.patient_builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &[]).await;
    let job = client.issue("shop", &id).await.unwrap();
    world.until(Duration::from_secs(2), || async { state(&client, &id).await == CertificateState::Active }).await;
    assert_eq!(world.ca.submits.load(Ordering::SeqCst), 1);
    assert_eq!(client.job("shop", &job).await.unwrap().attempt, 1, "waiting for a CA is no attempt");
    running.shutdown().await;
}

#[tokio::test]
async fn a_ca_that_is_away_is_asked_again_and_one_that_refuses_is_not() {
    let world = World::new();
    *world.ca.fail.lock().unwrap() = Some(|| Error::network("fake", "connect_refused", "away"));
    let running = world.patient_builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &[]).await;
    let job = client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { client.job("shop", &job).await.unwrap().attempts.len() == 1 }).await;
    assert_eq!(client.job("shop", &job).await.unwrap().state, JobState::Pending);
    assert!(client.certificate("shop", &id).await.unwrap().last_error.is_some());

    *world.ca.fail.lock().unwrap() = Some(|| Error::auth("fake", "account_revoked", "no"));
    world
        .until(Duration::from_secs(2), || async { client.job("shop", &job).await.unwrap().state == JobState::Failed })
        .await;
    assert_eq!(state(&client, &id).await, CertificateState::IssueFailed);

    *world.ca.fail.lock().unwrap() = None;
    client.retry_job("shop", &job).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::Active }).await;
    running.shutdown().await;
}

#[tokio::test]
async fn a_certificate_for_other_names_is_quarantined() {
    let world = World::new();
    *world.ca.wrong_names.lock().unwrap() = true;
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a"]).await;
    let job = client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { client.job("shop", &job).await.unwrap().state == JobState::Failed }).await;
    let certificate = client.certificate("shop", &id).await.unwrap();
    assert_eq!(certificate.last_error.unwrap().code, "issued_names_differ");
    assert_eq!(certificate.latest_version, 0);
    let events = client.events("shop", Some(&id), 10).await.unwrap();
    assert!(events.iter().any(|event| event.kind == "certificate.quarantined"));
    assert_eq!(world.fleet.swaps.load(Ordering::SeqCst), 0);
    running.shutdown().await;
}

#[tokio::test]
async fn the_sweep_renews_when_two_thirds_have_passed() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a"]).await;
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::Active }).await;
    let due = client.certificate("shop", &id).await.unwrap().renew_at.unwrap();
    world
        .until(60 * MINUTE, || async { client.certificate("shop", &id).await.unwrap().active_version == Some(2) })
        .await;
    let versions = client.versions("shop", &id).await.unwrap();
    assert!(versions[1].created_at >= due, "not before its time");
    assert_eq!(world.ca.submits.load(Ordering::SeqCst), 2);
    running.shutdown().await;
}

#[tokio::test]
async fn the_cas_window_moves_the_renewal() {
    let world = World::new();
    let window = RenewalWindow::new(START + 600 * MINUTE, START + 660 * MINUTE).unwrap();
    *world.ca.window.lock().unwrap() = Some(window.clone());
    let running = world.patient_builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &[]).await;
    client.issue("shop", &id).await.unwrap();
    world
        .until(Duration::from_secs(5), || async { client.certificate("shop", &id).await.unwrap().hint.is_some() })
        .await;
    let certificate = client.certificate("shop", &id).await.unwrap();
    let renew_at = certificate.renew_at.unwrap();
    assert!(renew_at >= window.start && renew_at <= window.end);
    world.until(MINUTE, || async { client.certificate("shop", &id).await.unwrap().latest_version == 2 }).await;
    running.shutdown().await;
}

#[tokio::test]
async fn a_revoked_certificate_is_replaced_at_once() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a"]).await;
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::Active }).await;
    let revocation = Revocation { reason: RevocationReason::KeyCompromise, ..Revocation::default() };
    client.revoke("shop", &id, revocation).await.unwrap();
    world.until(MS, || async { client.certificate("shop", &id).await.unwrap().active_version == Some(2) }).await;
    assert_eq!(*world.ca.revoked.lock().unwrap(), [RevocationReason::KeyCompromise]);
    assert!(client.is_revoked("shop", &id, 1).await.unwrap());
    assert!(!client.is_revoked("shop", &id, 2).await.unwrap());
    assert!(world.clock_since_start() < 10 * MINUTE, "at once");
    running.shutdown().await;
}

#[tokio::test]
async fn a_dry_run_shows_the_plan_and_changes_nothing() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a", "b"]).await;
    assert_eq!(client.dry_run("shop", &id, |_| {}).await.unwrap_err().code(), "nothing_issued");
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { state(&client, &id).await == CertificateState::Active }).await;
    world.fleet.fault("b", Some(Fault::Unreachable));
    let swaps = world.fleet.swaps.load(Ordering::SeqCst);
    // On a task of its own, as a service would await it.
    let plans = tokio::spawn({
        let (client, id) = (client.clone(), id.clone());
        async move { client.dry_run("shop", &id, |_| {}).await.unwrap() }
    });
    let plans = plans.await.unwrap();
    assert!(!plans[0].plan.as_ref().unwrap().changes_anything());
    assert_eq!(plans[1].plan.as_ref().unwrap_err().code, "connect_refused");
    assert_eq!(world.fleet.swaps.load(Ordering::SeqCst), swaps);
    running.shutdown().await;
}

#[tokio::test]
async fn what_belongs_to_another_project_does_not_exist() {
    let world = World::new();
    let client = world.builder().build().unwrap().client();
    let id = world.certificate(&client, &["a"]).await;
    client.create_project("other").await.unwrap();
    for error in [
        client.certificate("other", &id).await.unwrap_err(),
        client.issue("other", &id).await.unwrap_err(),
        client.distribute("other", &id).await.unwrap_err(),
        client.material("other", &id, None, true).await.unwrap_err(),
        client.distribution_status("other", &id).await.unwrap_err(),
    ] {
        assert!(error.is_not_found(), "{error}");
    }
}

impl World {
    fn clock_since_start(&self) -> Duration {
        use certlib_core::clock::Clock as _;
        self.clock.monotonic()
    }
}
