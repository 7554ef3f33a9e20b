//! Renewals with a new key, and with the same one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::time::Duration;

use certlib_core::client::{Client, NewCertificate, Revocation};
use certlib_core::issuer::RevocationReason;
use certlib_core::model::RenewalPolicy;

use crate::common::World;

const MS: Duration = Duration::from_millis(50);

/// A certificate whose key is kept, or not.
async fn certificate(world: &World, client: &Client, reuse_key: bool) -> String {
    world.certificate(client, &[]).await;
    let issuer_id = client.issuers("shop").await.unwrap()[0].id.clone();
    let renewal = RenewalPolicy { reuse_key, ..RenewalPolicy::default() };
    let new = NewCertificate { renewal, ..NewCertificate::new(["a.shop.example"], issuer_id) };
    client.create_certificate("shop", new).await.unwrap().id
}

/// The public key of `version`, once it is there.
async fn public_key(world: &World, client: &Client, id: &str, version: u32) -> Vec<u8> {
    world.until(MS, || async { client.certificate("shop", id).await.unwrap().latest_version == version }).await;
    let material = client.material("shop", id, Some(version), true).await.unwrap();
    material.bundle.key().unwrap().public_key().to_vec()
}

#[tokio::test]
async fn a_renewal_has_a_new_key_unless_it_is_kept() {
    for reuse_key in [false, true] {
        let world = World::new();
        let node = world.builder().build().unwrap().start();
        let client = node.client();
        let id = certificate(&world, &client, reuse_key).await;
        client.issue("shop", &id).await.unwrap();
        let first = public_key(&world, &client, &id, 1).await;
        client.renew("shop", &id).await.unwrap();
        let second = public_key(&world, &client, &id, 2).await;
        assert_eq!(first == second, reuse_key);
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_key_of_a_revoked_version_is_not_kept() {
    let world = World::new();
    let node = world.builder().build().unwrap().start();
    let client = node.client();
    let id = certificate(&world, &client, true).await;
    client.issue("shop", &id).await.unwrap();
    let first = public_key(&world, &client, &id, 1).await;
    client.renew("shop", &id).await.unwrap();
    assert_eq!(public_key(&world, &client, &id, 2).await, first);
    // Not the newest version is revoked, but it has the same key.
    let reason = RevocationReason::KeyCompromise;
    client.revoke("shop", &id, Revocation { version: Some(1), reason, replace: true }).await.unwrap();
    world.until(MS, || async { client.is_revoked("shop", &id, 1).await.unwrap() }).await;
    client.renew("shop", &id).await.unwrap();
    let third = public_key(&world, &client, &id, 3).await;
    assert_ne!(third, first);
    client.renew("shop", &id).await.unwrap();
    assert_eq!(public_key(&world, &client, &id, 4).await, third, "a good key is kept again");
    node.shutdown().await;
}

#[test]
fn what_is_not_set_is_not_written() {
    let default = RenewalPolicy::default();
    let json = serde_json::to_value(&default).unwrap();
    assert!(json.get("reuse_key").is_none(), "a node of an older version could not read it");
    assert_eq!(serde_json::from_value::<RenewalPolicy>(json).unwrap(), default);
    let kept = RenewalPolicy { reuse_key: true, ..default };
    let json = serde_json::to_value(&kept).unwrap();
    assert_eq!(serde_json::from_value::<RenewalPolicy>(json).unwrap(), kept);
}
