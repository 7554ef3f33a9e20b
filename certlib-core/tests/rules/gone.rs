use std::sync::atomic::Ordering;

use certlib_core::client::{Client, TargetRules};
use certlib_core::model::{Event, RunState, TargetStatus, Waiting};

use crate::common::{Fault, World};
use crate::{MINUTE, MS, is, over, status, target};

async fn told(client: &Client) -> Vec<Event> {
    let events = client.events("shop", None, 1000).await.unwrap();
    events.into_iter().filter(|event| event.kind == "target.disabled").collect()
}

async fn paused(client: &Client) -> Vec<(String, bool)> {
    let targets = client.targets("shop").await.unwrap();
    targets.into_iter().map(|target| (target.name, target.paused)).collect()
}

#[tokio::test]
async fn a_target_that_is_gone_for_good_is_paused_and_told_about_once() {
    for (fault, swaps) in [(Fault::Gone, 1), (Fault::GoneHalfway, 2)] {
        let world = World::new();
        let running = world.builder().build().unwrap().start();
        let client = running.client();
        let id = world.certificate(&client, &["gone", "here"]).await;
        world.fleet.fault("gone", Some(fault));
        client.issue("shop", &id).await.unwrap();
        over(&world, &client, &id, 1).await;

        let ended = target(&client, &id, "gone").await;
        assert_eq!((ended.status, ended.retryable, ended.attempt), (TargetStatus::Failed, false, 1), "{fault:?}");
        let code = ended.error.unwrap().code;
        assert!(["target_gone", "rollback_refused:target_gone"].contains(&code.as_str()), "{code}");
        assert_eq!(status(&client, &id).await.run.state, RunState::PartialFailure);
        assert_eq!(target(&client, &id, "here").await.status, TargetStatus::Validated, "the others do not suffer");
        let mut targets = paused(&client).await;
        targets.sort();
        assert_eq!(targets, [("gone".to_owned(), true), ("here".to_owned(), false)]);
        let events = told(&client).await;
        let [event] = &events[..] else { panic!("{events:?}") };
        let gone = client.targets("shop").await.unwrap().into_iter().find(|target| target.name == "gone").unwrap();
        assert_eq!((&event.subject, &event.data["certificate"]), (&gone.id, &serde_json::json!(id)));
        assert_eq!((&event.data["error"]["code"], &event.data["severity"]), (&"target_gone".into(), &"error".into()));

        // The next version does not ask it again, until somebody says that it is back.
        client.issue("shop", &id).await.unwrap();
        let waits = |target: &certlib_core::model::TargetRun| target.waiting == Some(Waiting::Paused);
        world.until(MS, || async { status(&client, &id).await.run.version == 2 }).await;
        world.until(MS, || async { is(&client, &id, "gone", waits).await }).await;
        world.until(MS, || async { target(&client, &id, "here").await.status == TargetStatus::Validated }).await;
        assert_eq!(world.fleet.swaps.load(Ordering::SeqCst), swaps + 1, "{fault:?}");
        assert_eq!(told(&client).await.len(), 1);
        world.fleet.with("gone", |target| *target = Default::default());
        client.set_target_rules("shop", &gone.id, "root", TargetRules::default()).await.unwrap();
        world.until(MINUTE, || async { status(&client, &id).await.run.state == RunState::Succeeded }).await;
        running.shutdown().await;
    }
}

#[tokio::test]
async fn a_failure_that_only_looks_final_disables_nothing() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["refuses", "here"]).await;
    world.fleet.fault("refuses", Some(Fault::Refuses));
    client.issue("shop", &id).await.unwrap();
    over(&world, &client, &id, 1).await;
    assert_eq!(target(&client, &id, "refuses").await.status, TargetStatus::Failed);
    assert!(paused(&client).await.iter().all(|(_, paused)| !paused));
    assert!(told(&client).await.is_empty());
    running.shutdown().await;
}
