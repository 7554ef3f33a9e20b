//! A fleet rotates: nothing is noticed, whoever leads, and nodes without the key are waited for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certlib_core::client::KekRole;
use certlib_core::model::{Node, RotationPhase};
use certlib_core::runtime::RunningRuntime;
use certlib_core::store::{StoreExt as _, TypedQuery, Write};
use futures::FutureExt as _;
use rand::RngExt as _;

use crate::hooked::Hooked;
use crate::lab::{Lab, Note, SECOND, envelope, kek, note, rewrite, ring};

#[tokio::test]
async fn a_node_without_the_new_key_is_named_and_waited_for() {
    let lab = Lab::with_notes(450).await;
    let (first, second) = (envelope(&[1, 2]), envelope(&[1]));
    let a = lab.start("alpha", first);
    let b = lab.start("beta", second.clone());
    let client = a.client();
    lab.world
        .until(SECOND, || async { client.keyring().await.unwrap().keks[0].lack.is_empty() && a.is_leader() })
        .await;

    let readiness = client.check_kek(2).await.unwrap();
    assert!(!readiness.is_ready());
    assert!(readiness.have[0].starts_with("alpha/") && readiness.lack[0].starts_with("beta/"), "{readiness:?}");
    let begun = client.rotate_kek(2).await.unwrap();
    assert_eq!((begun.phase, begun.from.version, begun.to.version), (RotationPhase::Prepare, 1, 2));
    let says = || async { lab.state().await.rotation.and_then(|rotation| rotation.note).unwrap_or_default() };
    lab.world.until(SECOND, || async { says().await.contains("beta/") }).await;
    assert!(!says().await.contains("alpha/"));
    let roles = client.keyring().await.unwrap().keks.into_iter().map(|kek| kek.role).collect::<Vec<_>>();
    assert_eq!(roles, [KekRole::Primary, KekRole::Next]);
    for _ in 0..60 {
        lab.world.clock.advance(SECOND);
        tokio::task::yield_now().await;
    }
    let state = lab.state().await;
    assert_eq!((state.primary.version, state.epoch), (1, 1), "nothing has changed");
    assert_eq!(lab.keks().await, [(kek(1), 450)].into());

    second.replace(ring(&[1, 2])).unwrap();
    lab.world.until(SECOND, || lab.is_steady()).await;
    let state = lab.state().await;
    assert_eq!((state.primary.version, state.epoch), (2, 2));
    assert_eq!(state.retired.iter().map(|kek| kek.version).collect::<Vec<_>>(), [1]);
    assert_eq!(lab.keks().await, [(kek(2), 450)].into());
    lab.demand_open(&[2]).await;
    let told = lab.told().await;
    assert_eq!(told.into_iter().collect::<Vec<_>>(), ["kek.promoted", "kek.rotation_finished", "kek.rotation_started"]);
    let finished = &lab.events("kek.rotation_finished").await[0];
    assert_eq!((&finished.data["rewrapped"], &finished.data["verified"]), (&450.into(), &450.into()));

    client.remove_kek(1, false).await.unwrap();
    assert!(lab.state().await.retired.is_empty());
    let keks = client.keyring().await.unwrap().keks;
    assert_eq!(keks.iter().map(|kek| kek.role).collect::<Vec<_>>(), [KekRole::Spare, KekRole::Primary]);
    assert_eq!(lab.events("kek.removed").await[0].data["kek"]["version"], 1);
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn a_node_that_does_not_know_yet_which_key_seals_may_still_store() {
    let lab = Lab::with_notes(5).await;
    let mut node = lab.store().insert(lab.node("slow/1", 1)).await.unwrap();
    lab.client(&[1, 2]).rotate_kek(2).await.unwrap();
    // What is left under the former key when nothing may be stored under it any more: who writes such a record is
    // refused until it is moved.
    let left = Arc::new(Mutex::new(None));
    let (counter, plain) = (left.clone(), lab.store());
    let store = Hooked::new(lab.store(), move |batch| {
        let is_end = batch.writes.iter().any(|write| matches!(write, Write::Delete { kind: "kek_fence", .. }));
        let (counter, plain) = (counter.clone(), plain.clone());
        async move {
            if is_end {
                let notes = plain.list_all(TypedQuery::<Note>::new()).await.unwrap();
                let former = notes.iter().filter(|note| note.sealed.kek() == Some(kek(1))).count();
                *counter.lock().unwrap() = Some(former);
            }
        }
        .boxed()
    });
    let (sweep, cx) = (Lab::sweep(&[1, 2]), lab.leader_on(store, "leader").await);
    let rotation = async || lab.state().await.rotation.unwrap();
    let waits = async || rotation().await.note.is_some_and(|note| note.contains("slow/1"));
    lab.sweep_until(&sweep, &cx, waits).await;
    assert_eq!(rotation().await.phase, RotationPhase::Settle);
    assert_eq!(lab.keks().await, [(kek(2), 5)].into());
    assert_eq!((lab.fences(1).await, lab.fences(2).await), (16, 16));
    // Sealed by a node that has only the former key.
    let late = note(&Lab::new().client(&[1]), "late", 1).await;
    lab.store().insert(late).await.unwrap();
    node.record = lab.node("slow/1", 2);
    lab.store().update(&mut node).await.unwrap();
    lab.finish(&sweep, &cx).await;
    assert_eq!((lab.fences(1).await, lab.fences(2).await), (0, 16));
    assert_eq!(lab.keks().await, [(kek(2), 6)].into(), "what came in meanwhile was moved, too");
    assert_eq!(*left.lock().unwrap(), Some(0), "in time");
    lab.demand_open(&[2]).await;
}

#[tokio::test]
async fn a_node_that_died_is_waited_for_only_until_it_is_silent() {
    let lab = Lab::with_notes(3).await;
    let dead = lab.start("dead", envelope(&[1]));
    let client = lab.client(&[1, 2]);
    lab.world.until(SECOND, || async { !client.check_kek(1).await.unwrap().have.is_empty() }).await;
    // Its record stays as it is: dropped without a goodbye.
    let record = client.store().list_all(TypedQuery::<Node>::new()).await.unwrap();
    lab.world.stop(dead).await;
    client.store().insert(record[0].record.clone()).await.unwrap();
    let live = lab.start("live", envelope(&[1, 2]));
    client.rotate_kek(2).await.unwrap();
    lab.world.until(SECOND, || lab.is_steady()).await;
    assert_eq!(lab.state().await.primary.version, 2);
    live.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_notices_two_rotations() {
    const NOTES: usize = 600;
    let lab = Lab::with_notes(NOTES).await;
    let mut nodes: Vec<_> = ["a", "b", "c"].into_iter().map(|name| lab.start(name, envelope(&[1, 2, 3]))).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(Mutex::new(HashMap::<String, u32>::new()));
    let reads = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for number in 0..8_usize {
        let client = nodes[number % 3].client();
        let (stop, written, reads) = (stop.clone(), written.clone(), reads.clone());
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let id = Note::id_of(rand::rng().random_range(0..NOTES));
                if number % 2 == 0 {
                    match rewrite(&client, &id).await {
                        Ok(generation) => {
                            let mut written = written.lock().unwrap();
                            let newest = written.entry(id).or_default();
                            *newest = generation.max(*newest);
                        }
                        Err(error) => assert!(error.is_conflict(), "{error}"),
                    }
                } else {
                    let note = client.store().load::<Note>(&id).await.unwrap();
                    let text = client.open(&note.record).await.unwrap();
                    assert_eq!(text.expose(), Note::text(&id, note.generation).as_bytes());
                    reads.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }));
    }

    let leader = || nodes.iter().position(RunningRuntime::is_leader);
    lab.world.until(SECOND, || async { leader().is_some() }).await;
    let leader = nodes.remove(leader().unwrap());
    let client = nodes[0].client();
    client.rotate_kek(2).await.unwrap();
    let begun = || async { lab.state().await.rotation.is_some_and(|rotation| rotation.phase > RotationPhase::Prepare) };
    lab.world.until(SECOND / 2, begun).await;
    lab.world.stop(leader).await;
    lab.world.until(SECOND, || lab.is_steady()).await;
    client.remove_kek(1, false).await.unwrap();
    client.rotate_kek(3).await.unwrap();
    lab.world.until(SECOND, || lab.is_steady()).await;
    client.remove_kek(2, false).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }

    assert_eq!(lab.keks().await, [(kek(3), NOTES)].into());
    lab.demand_open(&[3]).await;
    let written = written.lock().unwrap().clone();
    assert!(written.len() > 50 && reads.load(Ordering::Relaxed) > 50, "it was quiet: {}", written.len());
    for note in lab.notes().await {
        let newest = written.get(&note.id).copied().unwrap_or(1);
        assert_eq!(note.generation, newest, "{}", note.id);
    }
    for node in nodes {
        node.shutdown().await;
    }
}
