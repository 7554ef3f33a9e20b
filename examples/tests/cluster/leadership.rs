//! Who leads, and who may still write.

use std::time::Duration;

use certlib_core::scheduler::LEASE;
use rand::RngExt as _;
use tokio::time::Instant;

use crate::ledger::TTL;
use crate::nodes::{Cluster, PATIENCE};

/// Of each kind: stopped and continued, killed.
const TIMES: usize = 40;

/// Stops and kills the leader in turns. No write under an old epoch is ever applied after one under a newer, although
/// every former leader goes on trying; and there is a new leader soon: how soon is printed.
pub(crate) async fn stop_and_kill(url: &str) {
    let mut cluster = Cluster::start(url, "leads").await;
    let (mut stopped, mut killed) = (Vec::new(), Vec::new());
    let mut last = 0;
    for round in 0..2 * TIMES {
        let (leader, epoch) = writing_leader(&cluster, last).await;
        // Whatever it is doing then.
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(0..100))).await;
        let began = Instant::now();
        if round % 2 == 0 {
            cluster.nodes[leader].signal("-STOP").await;
            cluster.leader(epoch).await;
            stopped.push(began.elapsed());
            // Its successor has written when it wakes up and goes on with what it was doing.
            writing_leader(&cluster, epoch).await;
            cluster.nodes[leader].signal("-CONT").await;
        } else {
            cluster.replace(leader).await;
            cluster.leader(epoch).await;
            killed.push(began.elapsed());
            cluster.nodes[leader].ready().await;
        }
        last = epoch;
    }
    writing_leader(&cluster, last).await;
    check_order(&cluster.journals());
    report("stopped", &mut stopped);
    report("killed", &mut killed);
}

/// The leader after epoch `after`, once it has written something.
async fn writing_leader(cluster: &Cluster, after: u64) -> (usize, u64) {
    let (leader, epoch) = cluster.leader(after).await;
    let deadline = Instant::now() + PATIENCE;
    while !cluster.has_written(leader, epoch) {
        assert!(Instant::now() < deadline, "the leader never wrote\n{}", cluster.logs());
        // It may have lost its lease before its first write.
        if cluster.store.inspect(LEASE).await.is_ok_and(|lease| lease.is_some_and(|lease| lease.epoch > epoch)) {
            return Box::pin(writing_leader(cluster, epoch)).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (leader, epoch)
}

fn check_order(journals: &[String]) {
    let mut refused = 0;
    let mut writes: Vec<(u64, u64)> = Vec::new();
    for line in journals {
        match line.split_once(' ').expect("two words") {
            ("refused", _) => refused += 1,
            (revision, epoch) => writes.push((revision.parse().unwrap(), epoch.parse().unwrap())),
        }
    }
    writes.sort_unstable();
    for pair in writes.windows(2) {
        let ((earlier, before), (later, after)) = (pair[0], pair[1]);
        assert!(earlier < later, "two writes with revision {later}");
        assert!(before <= after, "revision {later} was written under epoch {after}, after one under {before}");
    }
    assert!(writes.len() > 2 * TIMES, "only {} writes", writes.len());
    assert!(refused > TIMES / 4, "only {refused} late writes were tried and refused");
    eprintln!("{} writes in order, {refused} late ones refused", writes.len());
}

fn report(what: &str, takeovers: &mut [Duration]) {
    takeovers.sort_unstable();
    let (median, p95) = (takeovers[takeovers.len() / 2], takeovers[takeovers.len() * 95 / 100]);
    eprintln!("leader {what}: takeover median {median:?}, p95 {p95:?}, worst {:?}", takeovers.last().unwrap());
    // Within the lease and a second, on a machine that has nothing else to do; twice that shows a promise that is broken.
    assert!(p95 <= 2 * (TTL + Duration::from_secs(1)), "leader {what}: takeover p95 {p95:?}");
}
