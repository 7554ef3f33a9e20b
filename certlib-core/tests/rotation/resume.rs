//! A rotation goes on where the last commit was, whoever leads and however the former leader ended.

use certlib_core::conformance::dying::{Death, DyingStore};
use certlib_core::scheduler::Sweep as _;

use crate::lab::{Lab, SECOND, kek};

/// Three pages.
const NOTES: usize = 450;

#[tokio::test]
async fn it_survives_a_leader_that_dies_at_any_of_its_writes() {
    for death in [Death::Before, Death::After] {
        let mut nth = 0;
        loop {
            nth += 1;
            let lab = Lab::with_notes(NOTES).await;
            lab.client(&[1, 2]).rotate_kek(2).await.unwrap();
            let dying = DyingStore::new(lab.store(), nth, death);
            let sweep = Lab::sweep(&[1, 2]);
            let cx = lab.leader_on(dying.clone(), "first").await;
            let dead_or_done = async || {
                let _ = sweep.run(&cx).await;
                dying.is_dead() || lab.is_steady().await
            };
            while !dead_or_done().await {
                tokio::task::yield_now().await;
                lab.world.clock.advance(SECOND);
            }
            let survived = !dying.is_dead();

            let cx = lab.leader_on(lab.store(), "second").await;
            lab.finish(&Lab::sweep(&[1, 2]), &cx).await;
            assert_eq!(lab.keks().await, [(kek(2), NOTES)].into(), "{death:?} {nth}");
            lab.demand_open(&[2]).await;
            let state = lab.state().await;
            assert_eq!((state.primary.version, state.epoch), (2, 2), "{death:?} {nth}");
            for kind in ["kek.promoted", "kek.rotation_finished"] {
                assert_eq!(lab.events(kind).await.len(), 1, "{kind} {death:?} {nth}");
            }
            let data = &lab.events("kek.rotation_finished").await[0].data;
            let counts = [&data["rewrapped"], &data["verified"]].map(|count| count.as_u64().unwrap());
            assert_eq!(counts, [NOTES as u64; 2], "each was counted once: {death:?} {nth}");
            if survived {
                break;
            }
        }
        assert!(nth > 8, "there are more writes than {nth}");
    }
}

#[tokio::test]
async fn a_former_leader_changes_nothing() {
    let lab = Lab::with_notes(NOTES).await;
    lab.client(&[1, 2]).rotate_kek(2).await.unwrap();
    let sweep = Lab::sweep(&[1, 2]);
    let cx = lab.leader_on(lab.store(), "first").await;
    let successor = lab.leader_on(lab.store(), "second").await;
    sweep.run(&cx).await.unwrap();
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    let state = lab.state().await;
    assert_eq!((state.epoch, state.rotation.unwrap().note), (1, None));
    lab.finish(&Lab::sweep(&[1, 2]), &successor).await;
    assert_eq!(lab.keks().await, [(kek(2), NOTES)].into());
}
