//! A writer that stands still between sealing and storing, while the key is rotated and removed, leaves no secret that
//! nobody can open: what it stores too late is refused, and its second try seals anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use certlib_core::store::{Condition, StoreExt as _, Versioned, WriteBatch};
use futures::FutureExt as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::oneshot;

use crate::hooked::Hooked;
use crate::lab::{Lab, Note, SECOND, kek, note, rewrite};

const NOTES: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Stored,
    Refused,
    RefusedAfterRemoval,
    /// It was stored under the key that was removed: only without fences.
    Orphaned,
    /// It was stored under the old key, and that was noticed when the key was to be removed: only without fences.
    InTheWay,
}

/// One try: the writer goes on before the leader's commit number `at`, or, if there are not so many, after the removal.
/// Unless the writer is `fenced`, its commit does not demand the fence of its key.
async fn interleave(seed: u64, fenced: bool) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed);
    let lab = Lab::with_notes(NOTES).await;
    let at = rng.random_range(1..=14);
    let is_new = rng.random_bool(0.5);
    let id = if is_new { "new".to_owned() } else { Note::id_of(rng.random_range(0..NOTES)) };

    let writer = lab.client(&[1, 2]);
    let late = note(&writer, &id, 2).await;
    assert_eq!(late.sealed.kek(), Some(kek(1)));
    let former = lab.store().find::<Note>(&id).await.unwrap();
    lab.client(&[1, 2]).rotate_kek(2).await.unwrap();

    let (go, paused) = oneshot::channel::<()>();
    let store = lab.store();
    let writing = tokio::spawn(async move {
        let mut batch = match former {
            // It meets nobody but the fence, or somebody who wrapped the former generation anew.
            Some(former) => WriteBatch::new().update(&Versioned { record: late, ..former }).unwrap(),
            None => WriteBatch::new().insert(&late).unwrap(),
        };
        let is_fence = |one: &Condition| matches!(one, Condition::Record { kind: "kek_fence", .. });
        assert_eq!(batch.conditions.iter().filter(|one| is_fence(one)).count(), 1);
        batch.conditions.retain(|one| fenced || !is_fence(one));
        let _ = paused.await;
        store.commit(batch).await.map(drop)
    });
    let writing = Arc::new(tokio::sync::Mutex::new(Some((go, writing))));
    let stored = Arc::new(std::sync::Mutex::new(None));
    let release = {
        let (writing, stored) = (writing.clone(), stored.clone());
        move || {
            let (writing, stored) = (writing.clone(), stored.clone());
            async move {
                if let Some((go, task)) = writing.lock().await.take() {
                    go.send(()).unwrap();
                    *stored.lock().unwrap() = Some(task.await.unwrap());
                }
            }
            .boxed()
        }
    };
    let commits = AtomicUsize::new(0);
    let hook = release.clone();
    let store = Hooked::new(lab.store(), move |_| {
        if commits.fetch_add(1, Ordering::SeqCst) + 1 == at { hook() } else { async {}.boxed() }
    });
    let cx = lab.leader_on(store, "leader").await;
    lab.finish(&Lab::sweep(&[1, 2]), &cx).await;
    if let Err(error) = lab.client(&[2]).remove_kek(1, false).await {
        assert!(!fenced && error.code() == "kek_in_use", "{error}");
        return Outcome::InTheWay;
    }
    let is_late = stored.lock().unwrap().is_none();
    release().await;
    let result = stored.lock().unwrap().take().unwrap();
    let outcome = match result {
        Ok(()) if !fenced && lab.keks().await.contains_key(&kek(1)) => return Outcome::Orphaned,
        Ok(()) => Outcome::Stored,
        Err(error) => {
            assert!(error.is_conflict(), "{error}");
            // The second try, a moment later, by the same node, which still has both keys.
            lab.world.clock.advance(SECOND);
            if is_new {
                lab.store().insert(note(&writer, &id, 2).await).await.unwrap();
            } else {
                rewrite(&writer, &id).await.unwrap();
            }
            if is_late { Outcome::RefusedAfterRemoval } else { Outcome::Refused }
        }
    };
    assert_eq!(lab.keks().await, [(kek(2), NOTES + usize::from(is_new))].into(), "seed {seed}");
    lab.demand_open(&[2]).await;
    let kept = lab.store().load::<Note>(&id).await.unwrap();
    assert_eq!(kept.generation, 2, "seed {seed}");
    outcome
}

async fn outcomes(fenced: bool) -> BTreeMap<Outcome, usize> {
    let mut outcomes = BTreeMap::new();
    for seed in 0..100 {
        *outcomes.entry(interleave(seed, fenced).await).or_default() += 1;
    }
    outcomes
}

#[tokio::test]
async fn no_secret_is_orphaned_in_a_hundred_tries() {
    let outcomes = outcomes(true).await;
    for outcome in [Outcome::Stored, Outcome::Refused, Outcome::RefusedAfterRemoval] {
        assert!(outcomes.get(&outcome).is_some_and(|count| *count >= 5), "{outcomes:?}");
    }
    assert_eq!(outcomes.len(), 3, "{outcomes:?}");
}

#[tokio::test]
async fn without_the_fence_secrets_are_orphaned() {
    let outcomes = outcomes(false).await;
    assert!(outcomes.get(&Outcome::Orphaned).is_some_and(|count| *count >= 5), "{outcomes:?}");
}
