use std::sync::atomic::Ordering;

use certlib_core::client::Client;
use certlib_core::model::{CertificateState, Rollout, RunState, TargetStatus, Waiting};

use crate::common::{Fault, World};
use crate::{MINUTE, MS, count, issued, over, status, target};

async fn with_rollout(client: &Client, id: &str, rollout: Rollout) {
    let distribution = client.distributions("shop", id).await.unwrap().remove(0);
    client.set_distribution_rules("shop", &distribution.id, "root", None, rollout).await.unwrap();
}

#[tokio::test]
async fn a_canary_that_fails_keeps_the_others_as_they_were() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let names: Vec<_> = (0..12).map(|n| format!("web-{n:02}")).collect();
    let id = world.certificate(&client, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    issued(&world, &client, &id).await;
    with_rollout(&client, &id, Rollout { canary: 2, stop_after: None }).await;
    let former = world.fleet.served("web-11");
    for name in &names {
        world.fleet.fault(name, Some(Fault::KeepsServingOld));
    }
    let swaps = world.fleet.swaps.load(Ordering::SeqCst);
    client.renew("shop", &id).await.unwrap();
    world
        .until(MS, || async {
            status(&client, &id).await.run.version == 2 && status(&client, &id).await.run.passes == 1
        })
        .await;
    assert_eq!(world.fleet.swaps.load(Ordering::SeqCst), swaps + 2, "nobody but the canaries was touched");
    assert_eq!(count(&client, &id, TargetStatus::RolledBack).await, 2);
    assert_eq!(count(&client, &id, TargetStatus::Queued).await, 10);
    assert!(status(&client, &id).await.targets.iter().filter(|t| t.waiting == Some(Waiting::Stopped)).count() == 10);
    assert!(names.iter().all(|name| world.fleet.served(name) == former));
    assert_eq!(client.certificate("shop", &id).await.unwrap().active_version, Some(1));

    // Mended, the next attempt begins with the canaries and goes on to all.
    for name in &names {
        world.fleet.fault(name, None);
    }
    world
        .until(MINUTE, || async { client.certificate("shop", &id).await.unwrap().state == CertificateState::Active })
        .await;
    assert_eq!(count(&client, &id, TargetStatus::Validated).await, 12);
    assert!(target(&client, &id, "web-11").await.waiting.is_none());
    running.shutdown().await;
}

#[tokio::test]
async fn so_many_failures_stop_a_run() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let names: Vec<_> = (0..40).map(|n| format!("web-{n:02}")).collect();
    let id = world.certificate(&client, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    with_rollout(&client, &id, Rollout { canary: 0, stop_after: Some(3) }).await;
    for name in &names {
        world.fleet.fault(name, Some(Fault::Refuses));
    }
    client.issue("shop", &id).await.unwrap();
    over(&world, &client, &id, 1).await;
    let failed = count(&client, &id, TargetStatus::Failed).await;
    // Those that were under way when the third failed may fail as well.
    assert!((3..3 + 10).contains(&failed), "{failed}");
    assert_eq!(count(&client, &id, TargetStatus::Queued).await, 40 - failed);
    assert_eq!(status(&client, &id).await.run.state, RunState::Failed);
    running.shutdown().await;
}

#[tokio::test]
async fn by_default_failures_stop_nothing() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let names: Vec<_> = (0..30).map(|n| format!("web-{n:02}")).collect();
    let id = world.certificate(&client, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for name in &names[..20] {
        world.fleet.fault(name, Some(Fault::Refuses));
    }
    client.issue("shop", &id).await.unwrap();
    over(&world, &client, &id, 1).await;
    assert_eq!(count(&client, &id, TargetStatus::Failed).await, 20);
    assert_eq!(count(&client, &id, TargetStatus::Validated).await, 10);
    running.shutdown().await;
}
