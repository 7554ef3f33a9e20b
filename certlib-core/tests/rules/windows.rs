use std::sync::atomic::Ordering;
use std::time::Duration;

use certlib_core::client::{Client, Request, Revocation, TargetRules};
use certlib_core::clock::Clock as _;
use certlib_core::model::{CertificateState, MaintenanceWindow, RunState, TargetStatus, Waiting};

use crate::common::{Fault, START, World};
use crate::{MINUTE, MS, is, issued, status, target};

/// START is a Friday, midnight.
fn at_two() -> MaintenanceWindow {
    MaintenanceWindow { days: vec![5, 6], from_minute: 120, minutes: 60, utc_offset_minutes: 0 }
}

async fn set(client: &Client, name: &str, rules: TargetRules) {
    let target = client.targets("shop").await.unwrap().into_iter().find(|target| target.name == name).unwrap();
    client.set_target_rules("shop", &target.id, "root", rules).await.unwrap();
}

#[tokio::test]
async fn a_target_is_touched_in_its_window_and_the_others_do_not_wait() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["any", "night"]).await;
    set(&client, "night", TargetRules { window: Some(at_two()), ..TargetRules::default() }).await;
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { client.certificate("shop", &id).await.unwrap().active_version == Some(1) }).await;
    world.until(MS, || async { status(&client, &id).await.run.passes == 1 }).await;
    let waiting = target(&client, &id, "night").await;
    assert_eq!((waiting.status, waiting.attempt), (TargetStatus::Queued, 0), "waiting is no attempt");
    assert_eq!(waiting.waiting, Some(Waiting::Window { opens: START + 2 * 60 * MINUTE }));
    assert_eq!(status(&client, &id).await.run.state, RunState::Running, "nothing failed");
    let certificate = client.certificate("shop", &id).await.unwrap();
    assert_eq!((certificate.state, certificate.last_error), (CertificateState::Distributing, None));

    world.until(MINUTE, || async { status(&client, &id).await.run.state == RunState::Succeeded }).await;
    let late = world.clock.now() - START;
    assert!(late >= 2 * 60 * MINUTE && late < 130 * MINUTE, "{late}");
    assert_eq!(client.certificate("shop", &id).await.unwrap().state, CertificateState::Active);
    running.shutdown().await;
}

#[tokio::test]
async fn what_is_urgent_does_not_wait_for_a_window_but_for_a_pause() {
    let world = World::new();
    let running = world.patient_builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["night", "paused"]).await;
    issued(&world, &client, &id).await;
    set(&client, "night", TargetRules { window: Some(at_two()), ..TargetRules::default() }).await;
    set(&client, "paused", TargetRules { paused: true, ..TargetRules::default() }).await;
    // Something to deliver, for which nobody waits.
    world.fleet.with("night", |target| target.served = None);
    world.fleet.with("paused", |target| target.served = None);
    client.distribute_as("shop", &id, &Request::of("ada").urgent()).await.unwrap();
    world
        .until(MS, || async { is(&client, &id, "night", |target| target.status == TargetStatus::Validated).await })
        .await;
    world
        .until(MS, || async { is(&client, &id, "paused", |target| target.waiting == Some(Waiting::Paused)).await })
        .await;
    assert_eq!(world.fleet.served("paused"), None);

    set(&client, "paused", TargetRules::default()).await;
    let lifted = world.clock.now();
    world.until(Duration::from_secs(5), || async { status(&client, &id).await.run.state == RunState::Succeeded }).await;
    assert!(world.clock.now() - lifted < 6 * MINUTE);
    running.shutdown().await;
}

#[tokio::test]
async fn what_failed_keeps_to_its_ladder_while_another_waits() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["broken", "paused"]).await;
    world.fleet.fault("broken", Some(Fault::KeepsServingOld));
    set(&client, "paused", TargetRules { paused: true, ..TargetRules::default() }).await;
    client.issue("shop", &id).await.unwrap();
    world.until(MS, || async { world.fleet.swaps.load(Ordering::SeqCst) == 1 }).await;
    let began = world.clock.now();
    world.until(MINUTE, || async { world.clock.now() - began > 24 * 60 * MINUTE }).await;
    let swaps = world.fleet.swaps.load(Ordering::SeqCst);
    // 1, 5, 15 minutes, 1, 4 and 12 hours: seven tries within 18 hours, and then one a day.
    assert!((7..=9).contains(&swaps), "{swaps}");
    assert_eq!(target(&client, &id, "paused").await.waiting, Some(Waiting::Paused));
    world.fleet.fault("broken", None);
    set(&client, "paused", TargetRules::default()).await;
    world.until(MINUTE, || async { status(&client, &id).await.run.state == RunState::Succeeded }).await;
    running.shutdown().await;
}

#[tokio::test]
async fn a_target_that_waited_in_vain_keeps_no_run_awake() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["paused"]).await;
    set(&client, "paused", TargetRules { paused: true, ..TargetRules::default() }).await;
    client.issue("shop", &id).await.unwrap();
    let waits = |target: &certlib_core::model::TargetRun| target.waiting.is_some();
    let looked = || async {
        let run = client.distribution_status("shop", &id).await.unwrap();
        run.is_some_and(|run| run.targets.iter().any(waits))
    };
    world.until(MS, looked).await;
    let revocation = Revocation { replace: false, ..Revocation::default() };
    client.revoke("shop", &id, revocation).await.unwrap();
    set(&client, "paused", TargetRules::default()).await;
    world.until(MINUTE, || async { status(&client, &id).await.run.finished_at.is_some() }).await;
    let ended = target(&client, &id, "paused").await;
    assert_eq!((ended.waiting, ended.error.unwrap().code.as_str()), (None, "version_revoked"));
    running.shutdown().await;
}

#[tokio::test]
async fn rules_that_make_no_sense_are_refused() {
    let world = World::new();
    let client = world.builder().build().unwrap().client();
    world.certificate(&client, &["a"]).await;
    let target = client.targets("shop").await.unwrap().remove(0);
    let window = MaintenanceWindow { days: vec![9], ..at_two() };
    let rules = TargetRules { window: Some(window), ..TargetRules::default() };
    let error = client.set_target_rules("shop", &target.id, "root", rules).await.unwrap_err();
    assert_eq!(error.code(), "window_invalid");
    let error = client.set_target_rules("other", &target.id, "root", TargetRules::default()).await.unwrap_err();
    assert!(error.is_not_found());
}
