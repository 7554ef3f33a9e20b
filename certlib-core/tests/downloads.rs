//! Exports, and downloads that a token opens once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::time::Duration;

use certlib_core::bundle::pkcs12;
use certlib_core::client::Client;
use certlib_core::export::{Export, ExportFormat, ExportOptions};
use certlib_core::model::{Download, Event, IssuancePolicy};
use certlib_core::runtime::RunningRuntime;
use certlib_core::scheduler::{DownloadSweep, Sweep as _};
use certlib_core::secret::SecretString;
use certlib_core::store::{StoreExt as _, TypedQuery};
use certlib_core::{Result, Secret};

use crate::common::World;

const HOUR: Duration = Duration::from_secs(3600);

fn keyed(format: ExportFormat) -> ExportOptions {
    ExportOptions { format, with_key: true, ..ExportOptions::default() }
}

/// A node, and a certificate of which `versions` are issued.
async fn issued(world: &World, versions: u32) -> (RunningRuntime, Client, String) {
    let node = world.builder().build().unwrap().start();
    let client = node.client();
    let id = world.certificate(&client, &[]).await;
    for version in 1..=versions {
        client.issue("shop", &id).await.unwrap();
        let there = || async { client.certificate("shop", &id).await.unwrap().active_version == Some(version) };
        world.until(Duration::from_millis(50), there).await;
    }
    (node, client, id)
}

async fn events(world: &World, kind: &str) -> Vec<Event> {
    let query = TypedQuery::<Event>::new().equal("kind", kind);
    world.store.list_all(query).await.unwrap().into_iter().map(|event| event.record).collect()
}

fn code(result: Result<Export>) -> String {
    result.unwrap_err().code().to_owned()
}

#[tokio::test]
async fn a_token_gives_the_version_it_was_made_for_once() {
    let world = World::new();
    let (node, client, id) = issued(&world, 1).await;
    let promised = client.create_download("shop", &id, keyed(ExportFormat::Fullchain), HOUR).await.unwrap();
    assert_eq!((promised.version, promised.token.expose().len()), (1, 43));
    assert!(!format!("{promised:?}").contains(promised.token.expose()));
    client.issue("shop", &id).await.unwrap();
    let renewed = || async { client.certificate("shop", &id).await.unwrap().active_version == Some(2) };
    world.until(Duration::from_millis(50), renewed).await;

    // Whoever reads the store cannot redeem what they find there.
    let kept = world.store.list_all(TypedQuery::<Download>::new()).await.unwrap();
    let [kept] = &kept[..] else { panic!("{kept:?}") };
    assert!(!serde_json::to_string(&kept.record).unwrap().contains(promised.token.expose()));
    assert_eq!(code(client.redeem_download(&Secret::new(kept.id.clone()), None).await), "not_found");

    let file = client.redeem_download(&promised.token, None).await.unwrap();
    let first = client.material("shop", &id, Some(1), true).await.unwrap().bundle;
    let expected = first.fullchain_pem() + first.key_pem().unwrap().expose();
    assert_eq!((file.version, &*file.file_name), (1, "www.shop.example.pem"));
    assert_eq!(*file.bytes.expose(), expected.into_bytes());
    assert_eq!(code(client.redeem_download(&promised.token, None).await), "not_found");
    assert!(world.store.find::<Download>(&kept.id).await.unwrap().is_none());

    let [created] = &events(&world, "certificate.download_created").await[..] else { panic!() };
    let [used] = &events(&world, "certificate.downloaded").await[..] else { panic!() };
    for event in [created, used] {
        assert_eq!((&*event.subject, &event.data["version"], &event.data["with_key"]), (&*id, &1.into(), &true.into()));
        assert_eq!(event.data["download"], kept.short_id());
    }
    // One for the download, one for the comparison above.
    assert_eq!(events(&world, "certificate.key_exported").await.len(), 2);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_who_redeem_at_the_same_time_one_succeeds() {
    let world = World::new();
    let (node, client, id) = issued(&world, 1).await;
    let promised = client.create_download("shop", &id, keyed(ExportFormat::Key), HOUR).await.unwrap();
    let start = std::sync::Arc::new(tokio::sync::Barrier::new(100));
    let racers: Vec<_> = (0..100)
        .map(|_| {
            let (client, token, start) = (client.clone(), promised.token.duplicate(), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                client.redeem_download(&token, None).await
            })
        })
        .collect();
    let mut given = Vec::new();
    for racer in racers {
        match racer.await.unwrap() {
            Ok(file) => given.push(file),
            Err(error) => assert_eq!(error.code(), "not_found", "{error}"),
        }
    }
    let [file] = &given[..] else { panic!("{} got it", given.len()) };
    let key = client.material("shop", &id, None, true).await.unwrap().bundle.key_pem().unwrap();
    assert_eq!(file.bytes.expose(), key.expose().as_bytes());
    assert_eq!(events(&world, "certificate.downloaded").await.len(), 1);
    node.shutdown().await;
}

#[tokio::test]
async fn used_late_and_unknown_tokens_are_told_the_same() {
    let world = World::new();
    let (node, client, id) = issued(&world, 1).await;
    let late = client.create_download("shop", &id, ExportOptions::default(), HOUR).await.unwrap().token;
    let used = client.create_download("shop", &id, ExportOptions::default(), 2 * HOUR).await.unwrap().token;
    client.redeem_download(&used, None).await.unwrap();
    node.shutdown().await;
    world.clock.advance(HOUR);
    let unknown: SecretString = Secret::new("A".repeat(43));
    let malformed: SecretString = Secret::new("../x".to_owned());
    let mut answers = Vec::new();
    for token in [&late, &used, &unknown, &malformed] {
        let error = client.redeem_download(token, None).await.unwrap_err();
        assert!(!format!("{error:?}").contains(token.expose()));
        answers.push(format!("{error:?}"));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn what_has_expired_is_forgotten() {
    let world = World::new();
    let (node, client, id) = issued(&world, 1).await;
    node.shutdown().await;
    client.create_download("shop", &id, ExportOptions::default(), HOUR).await.unwrap();
    let young = client.create_download("shop", &id, ExportOptions::default(), 3 * HOUR).await.unwrap().token;
    let cx = world.leader("test").await;
    assert_eq!(DownloadSweep.run(&cx).await.unwrap(), 0);
    world.clock.advance(2 * HOUR);
    assert_eq!(DownloadSweep.run(&cx).await.unwrap(), 1);
    client.redeem_download(&young, None).await.unwrap();
}

#[tokio::test]
async fn a_container_waits_for_its_password() {
    let world = World::new();
    let (node, client, id) = issued(&world, 1).await;
    let what = ExportOptions { alias: Some("tomcat".into()), ..keyed(ExportFormat::Pkcs12) };
    let promised = client.create_download("shop", &id, what, HOUR).await.unwrap();
    assert_eq!(code(client.redeem_download(&promised.token, None).await), "password_missing");
    let password = Secret::new("a long password".to_owned());
    let file = client.redeem_download(&promised.token, Some(&password)).await.unwrap();
    let bundle = client.material("shop", &id, None, true).await.unwrap().bundle;
    assert!(pkcs12::holds(file.bytes.expose(), &password, &bundle));
    assert_eq!(code(client.redeem_download(&promised.token, Some(&password)).await), "not_found");
    node.shutdown().await;
}

#[tokio::test]
async fn the_policy_is_asked_when_a_token_is_made_and_when_it_is_used() {
    let world = World::new();
    let (node, client, id) = issued(&world, 1).await;
    let promised = client.create_download("shop", &id, keyed(ExportFormat::Key), HOUR).await.unwrap();
    let keeps = IssuancePolicy { export_keys: false, ..IssuancePolicy::new("shop") };
    client.set_issuance_policy("shop", "test", keeps).await.unwrap();
    assert_eq!(code(client.redeem_download(&promised.token, None).await), "export_forbidden");
    let refused = client.create_download("shop", &id, keyed(ExportFormat::Key), HOUR).await.unwrap_err();
    assert_eq!(refused.code(), "export_forbidden");
    assert_eq!(code(client.export("shop", &id, &keyed(ExportFormat::Leaf), None).await), "export_forbidden");
    client.create_download("shop", &id, ExportOptions::default(), HOUR).await.unwrap();
    assert_eq!(events(&world, "certificate.key_exported").await.len(), 0, "nothing has left");
    node.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_is_kept() {
    let world = World::new();
    let (node, client, id) = issued(&world, 1).await;
    let plain = ExportOptions::default;
    for ttl in [Duration::ZERO, Duration::from_millis(999), Duration::from_secs(7 * 86_400 + 1)] {
        assert_eq!(client.create_download("shop", &id, plain(), ttl).await.unwrap_err().code(), "ttl_invalid");
    }
    let later = ExportOptions { version: Some(2), ..plain() };
    let keyless = ExportOptions { format: ExportFormat::Pkcs12, ..plain() };
    for (project, what, expected) in
        [("shop", later, "not_found"), ("shop", keyless, "key_not_asked_for"), ("other", plain(), "not_found")]
    {
        assert_eq!(client.create_download(project, &id, what, HOUR).await.unwrap_err().code(), expected);
    }
    assert!(world.store.list_all(TypedQuery::<Download>::new()).await.unwrap().is_empty());
    node.shutdown().await;
}
