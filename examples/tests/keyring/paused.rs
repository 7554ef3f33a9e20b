//! Writers that are stopped between sealing and storing, while the key they sealed with is rotated away and removed.

use std::time::Duration;

use certlib_core::model::RotationPhase;
use certlib_core::store::{SharedStore, WriteBatch};
use tokio::time::{Instant, timeout};

use crate::kept::{self, KeptSecret};
use crate::nodes::{Cluster, Node, PATIENCE};
use crate::steps;

/// Rows that exist before.
const SECRETS: usize = 200;
const ROUNDS: u32 = 3;

/// When a stopped writer is continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wakes {
    /// While the key is on its way out.
    AtRewrap,
    /// When nothing may be stored under the key any more.
    AtVerify,
    AfterRemoval,
}

/// What the writer does, and when it goes on doing it.
const WRITERS: [(&str, Wakes); 5] = [
    ("insert", Wakes::AtRewrap),
    ("insert", Wakes::AtVerify),
    ("insert", Wakes::AfterRemoval),
    ("insert", Wakes::AfterRemoval),
    ("update", Wakes::AfterRemoval),
];

/// Whenever a writer wakes up, no secret is left under the key; and it stores its secret under the next one.
pub(crate) async fn writers(url: &str) {
    let store = kept::open(url).await.unwrap();
    steps::fill(&store, SECRETS).await;
    let client = steps::client(&store, 1..=ROUNDS + 1);
    let keys: Vec<String> = (1..=ROUNDS + 1).map(|key| key.to_string()).collect();
    let mut cluster = Cluster::new(url, store.clone());
    for _ in WRITERS {
        cluster.add("pauses", &keys.join(","));
    }
    cluster.add("leads", &keys.join(","));
    cluster.ready().await;
    let (mut rows, mut fenced) = (SECRETS, 0);
    for from in 1..=ROUNDS {
        let to = from + 1;
        for (node, (how, _)) in cluster.nodes.iter_mut().zip(WRITERS) {
            let row = if how == "insert" { rows } else { 0 };
            rows += usize::from(how == "insert");
            node.tell(&format!("{how} {}", kept::id(row))).await;
            assert_eq!(node.line().await, format!("sealed {from}"));
            stop(node, &store).await;
        }
        steps::insist(async || client.rotate_kek(to).await).await.unwrap();
        for moment in [Wakes::AtRewrap, Wakes::AtVerify, Wakes::AfterRemoval] {
            match moment {
                Wakes::AtRewrap => steps::until(&store, RotationPhase::Rewrap).await,
                Wakes::AtVerify => steps::until(&store, RotationPhase::Verify).await,
                Wakes::AfterRemoval => {
                    steps::until_over(&store, to).await;
                    steps::remove(&client, from).await;
                }
            }
            for (node, (how, _)) in cluster.nodes.iter_mut().zip(WRITERS).filter(|(_, (_, wakes))| *wakes == moment) {
                let answer = wake(node).await;
                // A row that exists was wrapped anew meanwhile, which is reason enough to refuse.
                match (moment, how, &*answer) {
                    (_, _, "refused by kek_fence") => fenced += 1,
                    (_, "update", "refused by kept_secret") => {}
                    (Wakes::AtRewrap, _, stored) if stored == format!("stored {from}") => continue,
                    _ => panic!("{how} {moment:?} from {from}: {answer}"),
                }
                assert_eq!(node.line().await, format!("stored {to}"), "{how} {moment:?} from {from}");
            }
        }
        steps::check_all(&store, rows, to).await;
    }
    cluster.stop().await;
    eprintln!("{} tries, {fenced} refused by the fence", WRITERS.len() * ROUNDS as usize);
    // All inserts but those that were continued early.
    assert!(fenced >= 3 * ROUNDS as usize, "only {fenced} were refused by the fence");
}

/// Stops a node, but not in the middle of a heartbeat: nobody could write to a SQLite file then.
async fn stop(node: &Node, store: &SharedStore) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        node.signal("-STOP").await;
        let nothing = WriteBatch::new().delete::<KeptSecret>("nobody");
        if timeout(Duration::from_secs(1), store.commit(nothing)).await.is_ok_and(|written| written.is_ok()) {
            return;
        }
        assert!(Instant::now() < deadline, "nobody can write while {} is stopped", node.name);
        node.signal("-CONT").await;
    }
}

/// Continues a stopped writer, which stores what it sealed before; its answer.
async fn wake(node: &mut Node) -> String {
    node.tell("store").await;
    node.signal("-CONT").await;
    node.line().await
}
