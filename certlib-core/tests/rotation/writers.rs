//! Whoever writes a record while it is being wrapped anew wins, and costs nobody else anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use certlib_core::client::Client;
use certlib_core::model::{KeyringState, RotationPhase};
use certlib_core::scheduler::Sweep as _;
use certlib_core::store::{StoreExt as _, Write, WriteBatch};
use futures::FutureExt as _;
use tokio::sync::Semaphore;

use crate::hooked::Hooked;
use crate::lab::{Lab, Note, kek, rewrite};

fn notes_in(batch: &WriteBatch) -> usize {
    batch.writes.iter().filter(|write| matches!(write, Write::Put { kind: "note", .. })).count()
}

/// A store for the leader before whose first commit of notes `clients` write, a note each.
fn disturbed(lab: &Lab, commits: &Arc<AtomicUsize>, writers: Vec<(Client, usize)>) -> Arc<Hooked> {
    let commits = commits.clone();
    Hooked::new(lab.store(), move |batch| {
        let is_first = notes_in(batch) > 0 && commits.fetch_add(1, Ordering::SeqCst) == 0;
        let writers = if is_first { writers.clone() } else { Vec::new() };
        async move {
            for (client, number) in writers {
                rewrite(&client, &Note::id_of(number)).await.unwrap();
            }
        }
        .boxed()
    })
}

#[tokio::test]
async fn a_writer_costs_only_its_own_record() {
    let lab = Lab::with_notes(200).await;
    let knows = lab.client(&[1, 2]);
    knows.rotate_kek(2).await.unwrap();
    let commits = Arc::default();
    let store = disturbed(&lab, &commits, vec![(knows, 17), (lab.client(&[2]), 160)]);
    let cx = lab.leader_on(store, "leader").await;
    let sweep = Lab::sweep(&[1, 2]);
    // It holds the rotation up once everything was looked at for the first time.
    let slow = lab.node("slow", 1);
    lab.store().insert(slow).await.unwrap();
    let settles = async || lab.state().await.rotation.is_none_or(|rotation| rotation.phase == RotationPhase::Settle);
    lab.sweep_until(&sweep, &cx, settles).await;
    assert_eq!(lab.state().await.rotation.unwrap().rewrapped, 198);
    assert_eq!(lab.keks().await, [(kek(2), 200)].into());
    lab.finish(&sweep, &cx).await;
    let generations: Vec<_> = lab.notes().await.into_iter().map(|note| note.record.generation).collect();
    assert_eq!(generations.iter().filter(|generation| **generation == 2).count(), 2);
    assert_eq!((generations[17], generations[160]), (2, 2), "the writers won");
    lab.demand_open(&[2]).await;
    let finished = &lab.events("kek.rotation_finished").await[0];
    assert_eq!((&finished.data["rewrapped"], &finished.data["verified"]), (&198.into(), &200.into()));
    let commits = commits.load(Ordering::SeqCst);
    assert!(commits <= 1 + 2 * 2 * 8, "halving finds a record in a page of 200 in eight steps: {commits}");
}

#[tokio::test]
async fn what_was_written_under_the_old_key_meanwhile_is_moved_before_it_is_too_late() {
    let lab = Lab::with_notes(5).await;
    // It has sealed before the promotion, and stores while the page is being committed.
    let writer = lab.client(&[1, 2]);
    let mut late = lab.store().load::<Note>(&Note::id_of(3)).await.unwrap();
    late.record = crate::lab::note(&writer, &Note::id_of(3), 2).await;
    writer.rotate_kek(2).await.unwrap();
    let commits = Arc::new(AtomicUsize::new(0));
    let (counter, store) = (commits.clone(), lab.store());
    let store = Hooked::new(lab.store(), move |batch| {
        let is_first = notes_in(batch) > 0 && counter.fetch_add(1, Ordering::SeqCst) == 0;
        let (mut late, store) = (late.clone(), store.clone());
        async move {
            if is_first {
                store.update(&mut late).await.unwrap();
            }
        }
        .boxed()
    });
    let cx = lab.leader_on(store, "leader").await;
    lab.finish(&Lab::sweep(&[1, 2]), &cx).await;
    assert_eq!(lab.keks().await, [(kek(2), 5)].into());
    assert_eq!(lab.notes().await[3].generation, 2);
    lab.demand_open(&[2]).await;
}

#[tokio::test]
async fn the_state_may_be_written_by_others_meanwhile() {
    let lab = Lab::with_notes(450).await;
    lab.client(&[1, 2]).rotate_kek(2).await.unwrap();
    let plain = lab.store();
    let store = Hooked::new(lab.store(), move |_| {
        let plain = plain.clone();
        async move {
            // Always one step ahead of the leader, once for every commit that it tries for the first time.
            let mut state = plain.load::<KeyringState>(KeyringState::ID).await.unwrap();
            if state.revision % 2 == 1 {
                plain.update(&mut state).await.unwrap();
            }
        }
        .boxed()
    });
    let cx = lab.leader_on(store, "leader").await;
    lab.finish(&Lab::sweep(&[1, 2]), &cx).await;
    assert_eq!(lab.keks().await, [(kek(2), 450)].into());
    let finished = &lab.events("kek.rotation_finished").await[0];
    assert_eq!((&finished.data["rewrapped"], &finished.data["verified"]), (&450.into(), &450.into()));
}

#[tokio::test]
async fn the_sweep_does_not_wait_for_the_pass_and_there_is_one_at_a_time() {
    let lab = Lab::with_notes(450).await;
    lab.client(&[1, 2]).rotate_kek(2).await.unwrap();
    let (gate, waiting) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (hook_gate, hook_waiting) = (gate.clone(), waiting.clone());
    let store = Hooked::new(lab.store(), move |batch| {
        let (is_page, gate, waiting) = (notes_in(batch) > 0, hook_gate.clone(), hook_waiting.clone());
        async move {
            if is_page {
                waiting.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
            }
        }
        .boxed()
    });
    let sweep = Lab::sweep(&[1, 2]);
    let cx = lab.leader_on(store, "leader").await;
    assert_eq!(sweep.run(&cx).await.unwrap(), 1);
    lab.sweep_until(&sweep, &cx, async || waiting.load(Ordering::SeqCst) == 1).await;
    for _ in 0..5 {
        assert_eq!(sweep.run(&cx).await.unwrap(), 0);
        tokio::task::yield_now().await;
    }
    assert_eq!(waiting.load(Ordering::SeqCst), 1);
    let rotation = lab.state().await.rotation.unwrap();
    assert_eq!((rotation.phase, rotation.total, rotation.rewrapped), (RotationPhase::Rewrap, 450, 0));
    gate.add_permits(1);
    lab.sweep_until(&sweep, &cx, async || waiting.load(Ordering::SeqCst) == 2).await;
    let rotation = lab.state().await.rotation.unwrap();
    assert_eq!((rotation.rewrapped, rotation.cursor.as_ref().unwrap().after.clone()), (200, Some(Note::id_of(199))));
    assert!((rotation.progress() - 200.0 / 450.0).abs() < 1e-9, "progress shows while the pass goes on");
    gate.add_permits(10);
    lab.finish(&sweep, &cx).await;
    assert_eq!(lab.keks().await, [(kek(2), 450)].into());
    assert_eq!(sweep.run(&cx).await.unwrap(), 0);
}
