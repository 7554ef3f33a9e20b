//! What an operator does, step by step, and what there is to see.

use std::time::Duration;

use certlib_core::client::Client;
use certlib_core::model::{KeyringState, Rotation, RotationPhase};
use certlib_core::store::{KEK_FIELD, SharedStore, StoreExt as _, TypedQuery, WriteBatch};
use certlib_core::{Error, Result};
use tokio::time::Instant;

use crate::kept::{self, KeptSecret};
use crate::nodes::PATIENCE;

/// A client with these keys, which is no node.
pub(crate) fn client(store: &SharedStore, keys: impl IntoIterator<Item = u32>) -> Client {
    kept::runtime(store.clone(), kept::keyring(keys), |_| {}).client()
}

/// Fills the store with `rows` secrets under key 1.
pub(crate) async fn fill(store: &SharedStore, rows: usize) {
    let client = client(store, [1]);
    for begin in (0..rows).step_by(500) {
        let mut batch = WriteBatch::new();
        for row in begin..rows.min(begin + 500) {
            batch = batch.insert(&KeptSecret::seal(&client, &kept::id(row), 0).await.unwrap()).unwrap();
        }
        store.commit(batch).await.unwrap();
    }
}

/// Calls until the answer does not depend on a store that is busy.
pub(crate) async fn insist<T>(call: impl AsyncFn() -> Result<T>) -> Result<T> {
    insist_until(call, |_| false).await
}

/// As [`insist`], and until it is refused for another reason than `not_yet`.
pub(crate) async fn insist_until<T>(call: impl AsyncFn() -> Result<T>, not_yet: fn(&Error) -> bool) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Err(error) if (kept::is_away(&error) || not_yet(&error)) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answer => return answer,
        }
    }
}

pub(crate) async fn state(store: &SharedStore) -> KeyringState {
    insist(async || store.load::<KeyringState>(KeyringState::ID).await).await.unwrap().record
}

/// The rotation, if one is under way.
pub(crate) async fn rotation(store: &SharedStore) -> Option<Rotation> {
    state(store).await.rotation
}

/// Waits until the rotation has come to `phase`, or has ended.
pub(crate) async fn until(store: &SharedStore, phase: RotationPhase) {
    let deadline = Instant::now() + PATIENCE;
    while let Some(rotation) = rotation(store).await {
        if rotation.phase >= phase {
            return;
        }
        assert!(Instant::now() < deadline, "not {phase:?}: {rotation:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until the rotation to `version` has ended.
pub(crate) async fn until_over(store: &SharedStore, version: u32) {
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let state = state(store).await;
        if state.rotation.is_none() {
            assert_eq!(state.primary.version, version);
            return;
        }
        assert!(Instant::now() < deadline, "{state:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Removes a key, as soon as all nodes know that it is retired.
pub(crate) async fn remove(client: &Client, version: u32) {
    let not_yet = |error: &Error| error.code() == "kek_node_behind";
    insist_until(async || client.remove_kek(version, false).await, not_yet).await.unwrap();
}

/// Checks that there are `rows` secrets, that all open with the key `version` alone, and that the index knows no other.
/// Answers with them.
pub(crate) async fn check_all(store: &SharedStore, rows: usize, version: u32) -> Vec<KeptSecret> {
    let alone = client(store, [version]);
    alone.check_keyring().await.unwrap();
    let keys = kept::keyring([version]);
    let all = store.list_all::<KeptSecret>(TypedQuery::new()).await.unwrap();
    assert_eq!(all.len(), rows);
    for kept in &all {
        assert_eq!(kept.key(&keys), Some(version), "{} is an orphan", kept.id);
        kept.check(&alone).await.unwrap();
    }
    for kek in kept::keyring(1..=version).keks() {
        let query = TypedQuery::<KeptSecret>::new().equal(KEK_FIELD, kek.id.to_string());
        let found = store.list_all(query).await.unwrap().len();
        assert_eq!(found, if kek.version == version { rows } else { 0 }, "in the index under {kek}");
    }
    // The check can fail: other keys do not do.
    let without = client(store, version + 1..version + 2);
    assert_eq!(without.check_keyring().await.unwrap_err().code(), "kek_orphaned");
    all.into_iter().map(|kept| kept.record).collect()
}
