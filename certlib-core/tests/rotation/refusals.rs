//! What is refused, and that the refusal says who or what is missing.

use certlib_core::model::{Backup, KeyringState, RotationPhase, record_kinds};
use certlib_core::scheduler::RotationSweep;
use certlib_core::secret::Kek;
use certlib_core::store::{StoreExt as _, Write, WriteBatch};
use certlib_core::{Error, Runtime};

use crate::common::START;
use crate::lab::{Lab, Note, SECOND, envelope, kek, note};

fn context<'a>(error: &'a Error, key: &str) -> &'a str {
    error.context().find(|(name, _)| *name == key).map_or("", |(_, value)| value)
}

#[tokio::test]
async fn a_rotation_is_refused_while_another_is_unfinished_and_to_keys_that_make_no_sense() {
    let lab = Lab::with_notes(3).await;
    let client = lab.client(&[1, 2, 3]);
    assert_eq!(client.rotate_kek(1).await.unwrap_err().code(), "kek_is_primary");
    let unknown = client.rotate_kek(9).await.unwrap_err();
    assert_eq!((unknown.code(), context(&unknown, "version")), ("kek_unknown", "9"));
    assert!(client.cancel_rotation().await.unwrap_err().is_not_found());

    // In a task of its own: what servers do.
    let own = client.clone();
    tokio::spawn(async move { own.rotate_kek(2).await.unwrap() }).await.unwrap();
    let refused = client.rotate_kek(3).await.unwrap_err();
    assert_eq!((refused.code(), context(&refused, "phase")), ("rotation_unfinished", "prepare"));
    assert_eq!((lab.fences(1).await, lab.fences(2).await), (16, 16));
    assert_eq!(client.remove_kek(2, true).await.unwrap_err().code(), "rotation_unfinished");
    assert_eq!(client.remove_kek(1, true).await.unwrap_err().code(), "kek_is_primary");

    client.cancel_rotation().await.unwrap();
    assert!(lab.is_steady().await);
    assert_eq!((lab.fences(1).await, lab.fences(2).await), (16, 0));
    assert_eq!(lab.events("kek.rotation_cancelled").await.len(), 1);
    client.rotate_kek(2).await.unwrap();
    let (sweep, cx) = (Lab::sweep(&[1, 2, 3]), lab.world.leader("leader").await);
    lab.finish(&sweep, &cx).await;
    assert_eq!((lab.fences(1).await, lab.fences(2).await), (0, 16));
}

#[tokio::test]
async fn a_promoted_rotation_cannot_be_cancelled() {
    let lab = Lab::with_notes(3).await;
    let client = lab.client(&[1, 2]);
    client.rotate_kek(2).await.unwrap();
    let mut state = lab.store().load::<KeyringState>(KeyringState::ID).await.unwrap();
    for phase in [RotationPhase::Rewrap, RotationPhase::Settle, RotationPhase::Verify] {
        state.record.rotation.as_mut().unwrap().phase = phase;
        lab.store().update(&mut state).await.unwrap();
        let late = client.cancel_rotation().await.unwrap_err();
        assert_eq!((late.code(), context(&late, "phase")), ("rotation_promoted", phase.as_str()));
        let again = client.rotate_kek(2).await.unwrap_err();
        assert_eq!((again.code(), context(&again, "phase")), ("rotation_unfinished", phase.as_str()));
    }
}

#[tokio::test]
async fn a_key_is_removed_only_when_nothing_needs_it() {
    let lab = Lab::with_notes(3).await;
    let client = lab.client(&[1, 2]);
    client.rotate_kek(2).await.unwrap();
    lab.finish(&Lab::sweep(&[1, 2]), &lab.world.leader("leader").await).await;
    assert_eq!(client.remove_kek(2, true).await.unwrap_err().code(), "kek_is_primary");
    assert_eq!(client.remove_kek(7, true).await.unwrap_err().code(), "kek_unknown");

    // A record that came in past the fence: only somebody who writes to the database by hand can do that.
    let stray = note(&Lab::new().client(&[1]), "stray", 1).await;
    assert!(lab.store().insert(stray.clone()).await.unwrap_err().is_conflict(), "the fence is gone");
    let mut batch = WriteBatch::new();
    batch.writes.push(Write::of(&stray).unwrap());
    lab.store().commit(batch).await.unwrap();
    let used = client.remove_kek(1, true).await.unwrap_err();
    assert_eq!((used.code(), context(&used, "secrets"), context(&used, "kinds")), ("kek_in_use", "1", "note"));
    lab.store().commit(WriteBatch::new().delete::<Note>("stray")).await.unwrap();

    let node = lab.node("slow/1", 1);
    lab.store().insert(node.clone()).await.unwrap();
    let behind = client.remove_kek(1, true).await.unwrap_err();
    assert_eq!((behind.code(), context(&behind, "nodes")), ("kek_node_behind", "slow/1"));
    lab.world.clock.advance(16 * SECOND);

    let kek = Kek::new(kek(1), 1, "local");
    let backup = Backup { id: "b1".into(), keks: vec![kek], records: 3, taken_at: START };
    lab.store().insert(backup).await.unwrap();
    let kept = client.remove_kek(1, false).await.unwrap_err();
    assert_eq!((kept.code(), context(&kept, "backups"), context(&kept, "newest")), ("kek_in_backup", "1", "b1"));
    assert!(lab.events("kek.removed").await.is_empty());
    client.remove_kek(1, true).await.unwrap();
    assert_eq!(lab.events("kek.removed").await[0].data["escrowed"], true);
    assert_eq!(client.remove_kek(1, true).await.unwrap_err().code(), "kek_unknown");
}

#[tokio::test]
async fn a_key_that_only_others_have_can_be_rotated_to_unless_they_disagree() {
    let lab = Lab::with_notes(1).await;
    let client = lab.client(&[1]);
    let mut node = lab.node("a/1", 1);
    lab.store().insert(node.clone()).await.unwrap();
    assert_eq!(client.check_kek(2).await.unwrap().kek.id, kek(2));
    node.id = "b/1".into();
    node.keks = vec![Kek::new(kek(3), 2, "local")];
    lab.store().insert(node).await.unwrap();
    assert_eq!(client.check_kek(2).await.unwrap_err().code(), "kek_ambiguous");
    assert_eq!(lab.client(&[1, 2]).check_kek(2).await.unwrap().lack, ["b/1"], "another key under the same version");
}

#[tokio::test]
async fn nobody_rotates_removes_or_backs_up_past_kinds_that_they_do_not_know() {
    let lab = Lab::with_notes(3).await;
    let stranger = Runtime::builder(lab.store(), envelope(&[1, 2])).clock(lab.world.clock.clone()).build().unwrap();
    stranger.client().rotate_kek(2).await.unwrap();
    let cx = lab.world.leader("leader").await;
    let blind = RotationSweep::new(envelope(&[1, 2]), record_kinds());
    let waits =
        async || lab.state().await.rotation.is_some_and(|one| one.note.is_some_and(|note| note.contains("note")));
    lab.sweep_until(&blind, &cx, waits).await;
    assert_eq!(lab.state().await.rotation.unwrap().phase, RotationPhase::Prepare);
    assert_eq!(lab.keks().await, [(kek(1), 3)].into());

    lab.finish(&Lab::sweep(&[1, 2]), &cx).await;
    assert_eq!(lab.keks().await, [(kek(2), 3)].into());
    let unknown = stranger.client().remove_kek(1, true).await.unwrap_err();
    assert_eq!((unknown.code(), context(&unknown, "kinds")), ("kinds_unknown", "note"));
    let unknown = stranger.client().backup(&mut Vec::new(), &mut |_| {}).await.unwrap_err();
    assert_eq!((unknown.code(), context(&unknown, "kinds")), ("kinds_unknown", "note"));
    assert!(lab.client(&[1, 2]).backups().await.unwrap().is_empty(), "none was begun");
    lab.client(&[1, 2]).remove_kek(1, true).await.unwrap();
}
