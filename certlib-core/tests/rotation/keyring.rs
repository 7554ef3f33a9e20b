//! Many versions, ways back, and keyrings that do not belong to the store.

use std::collections::BTreeMap;

use certlib_core::model::KeyringState;
use certlib_core::secret::{Kek, KekId};
use certlib_core::store::{StoreExt as _, Write, WriteBatch};

use crate::lab::{Lab, Note, SECOND, kek, note, rewrite};

async fn rotate(lab: &Lab, versions: &[u32], to: u32) {
    lab.client(versions).rotate_kek(to).await.unwrap();
    lab.finish(&Lab::sweep(versions), &lab.world.leader("leader").await).await;
}

#[tokio::test]
async fn many_versions_are_kept_and_each_can_seal_again() {
    let all = [1, 2, 3, 4];
    let lab = Lab::with_notes(5).await;
    let versions = async || lab.state().await.retired.iter().map(|kek| kek.version).collect::<Vec<_>>();
    for to in 2..=4 {
        rotate(&lab, &all, to).await;
        rewrite(&lab.client(&all), &Note::id_of(0)).await.unwrap();
    }
    assert_eq!(versions().await, [1, 2, 3]);
    assert_eq!(lab.keks().await, [(kek(4), 5)].into());
    rotate(&lab, &all, 2).await;
    assert_eq!(lab.state().await.primary.version, 2);
    assert_eq!(versions().await, [1, 3, 4]);
    lab.demand_open(&[2]).await;
    let client = lab.client(&all);
    client.remove_kek(3, false).await.unwrap();
    client.remove_kek(1, false).await.unwrap();
    assert_eq!(versions().await, [4]);
    rotate(&lab, &[2, 3], 3).await;
    assert_eq!(versions().await, [4, 2], "a removed key that is there again is as good as any");
    lab.demand_open(&[3]).await;
}

#[tokio::test]
async fn a_rotation_of_nothing_ends() {
    let lab = Lab::with_notes(0).await;
    lab.client(&[1]).keyring().await.unwrap();
    rotate(&lab, &[1, 2], 2).await;
    assert_eq!(lab.state().await.primary.version, 2);
}

#[tokio::test]
async fn secrets_under_a_key_that_is_missing_here_are_counted() {
    let lab = Lab::new();
    for version in 1..=4_u32 {
        // Four stores' worth of notes, as a restore of the wrong backup would leave them.
        let other = Lab::new();
        let client = other.client(&[version]);
        for number in 0..version {
            let note = note(&client, &format!("{version}-{number}"), 1).await;
            let mut batch = WriteBatch::new();
            batch.writes.push(Write::of(&note).unwrap());
            lab.store().commit(batch).await.unwrap();
        }
    }
    lab.client(&[1, 2, 3, 4]).check_keyring().await.unwrap();
    lab.client(&[1, 2, 3, 4, 5]).check_keyring().await.unwrap();
    for (versions, missing, count) in [
        (vec![1, 2, 3], vec![4], 4),
        (vec![2, 3, 4], vec![1], 1),
        (vec![2, 4, 7], vec![1, 3], 4),
        (vec![9], vec![1, 2, 3, 4], 10),
    ] {
        let error = lab.client(&versions).check_keyring().await.unwrap_err();
        assert_eq!(error.code(), "kek_orphaned");
        let context: BTreeMap<_, _> = error.context().collect();
        assert_eq!(context["count"], count.to_string(), "{versions:?}");
        let mut missing: Vec<_> = missing.into_iter().map(kek).collect();
        missing.sort();
        let missing: Vec<_> = missing.iter().map(KekId::short).collect();
        assert_eq!(context["kek"], missing.join(", "), "{versions:?}");
    }
}

#[tokio::test]
async fn while_a_rotation_goes_on_nobody_seals_with_what_was_seen_a_moment_ago() {
    let lab = Lab::with_notes(1).await;
    let client = lab.client(&[1, 2]);
    client.rotate_kek(2).await.unwrap();
    assert_eq!(note(&client, "before", 1).await.sealed.kek(), Some(kek(1)));
    let mut state = lab.store().load::<KeyringState>(KeyringState::ID).await.unwrap();
    state.record.epoch = 2;
    state.record.primary = state.rotation.as_ref().unwrap().to.clone();
    lab.store().update(&mut state).await.unwrap();
    assert_eq!(note(&client, "after", 1).await.sealed.kek(), Some(kek(2)));
    // Without one, a look each second is enough.
    state.record.rotation = None;
    lab.store().update(&mut state).await.unwrap();
    note(&client, "steady", 1).await;
    state.record.primary = Kek::new(kek(1), 1, "local");
    lab.store().update(&mut state).await.unwrap();
    assert_eq!(note(&client, "soon", 1).await.sealed.kek(), Some(kek(2)));
    lab.world.clock.advance(SECOND);
    assert_eq!(note(&client, "later", 1).await.sealed.kek(), Some(kek(1)));
}
