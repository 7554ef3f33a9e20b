//! Jobs whose workers are killed.

use std::collections::HashMap;
use std::time::Duration;

use certlib_core::queue::{JobState, Lane, NewJob};
use certlib_core::store::{StoreExt as _, TypedQuery};
use rand::RngExt as _;
use serde_json::json;
use tokio::time::Instant;

use crate::ledger::{Entry, KIND};
use crate::nodes::{Cluster, PATIENCE};

const KILLS: usize = 500;
const JOBS_PER_KILL: usize = 10;

/// Kills one worker after the other while jobs keep coming; `halfway` happens in the middle. Every job ends, once.
pub(crate) async fn kill_workers(url: &str, halfway: impl AsyncFnOnce()) {
    let mut cluster = Cluster::start(url, "works").await;
    let mut halfway = Some(halfway);
    let began = Instant::now();
    let mut ids = Vec::new();
    let mut starting = None;
    for kill in 0..KILLS {
        if kill == KILLS / 2
            && let Some(halfway) = halfway.take()
        {
            halfway().await;
        }
        ids.extend(enqueue(&cluster, kill).await);
        let pause = rand::rng().random_range(0..30);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        // Two are always at work.
        if let Some(number) = starting.take() {
            let node: &mut crate::nodes::Node = &mut cluster.nodes[number];
            node.ready().await;
        }
        let victim = kill % cluster.nodes.len();
        cluster.replace(victim).await;
        starting = Some(victim);
    }
    eprintln!("{KILLS} kills in {:?}", began.elapsed());
    let began = Instant::now();
    loop {
        let open: u64 = match cluster.store.stats().await {
            Ok(stats) => stats.by_kind.get(KIND).map_or(0, |depth| depth.pending + depth.in_progress),
            Err(_) => u64::MAX,
        };
        if open == 0 {
            break;
        }
        assert!(began.elapsed() < 3 * PATIENCE, "{open} jobs never ended\n{}", cluster.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eprintln!("the rest in {:?}", began.elapsed());
    check(&cluster, &ids).await;
}

/// Half of the jobs leave an entry in the ledger, the other half nothing.
async fn enqueue(cluster: &Cluster, kill: usize) -> Vec<String> {
    let job = |n: usize| {
        let payload = if n.is_multiple_of(2) { json!({ "number": kill + n }) } else { json!({}) };
        NewJob::new(KIND, Lane::Maintenance, payload)
    };
    let jobs: Vec<NewJob> = (0..JOBS_PER_KILL).map(job).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The ids make it safe to ask again when an answer was lost.
        match cluster.store.enqueue(jobs.clone()).await {
            Ok(_) => return jobs.into_iter().map(|job| job.id).collect(),
            Err(error) => assert!(error.class().is_retryable() && Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn check(cluster: &Cluster, ids: &[String]) {
    assert_eq!(ids.len(), KILLS * JOBS_PER_KILL);
    let mut entries: HashMap<String, usize> = HashMap::new();
    for entry in cluster.store.list_all(TypedQuery::<Entry>::new()).await.unwrap() {
        *entries.entry(entry.record.job).or_default() += 1;
    }
    let mut attempts = 0;
    for (n, id) in ids.iter().enumerate() {
        let job = cluster.store.job(id).await.unwrap().expect("the job is there");
        assert_eq!(job.state, JobState::Succeeded, "{job:?}");
        let expected = usize::from((n % JOBS_PER_KILL).is_multiple_of(2));
        assert_eq!(entries.remove(id).unwrap_or(0), expected, "entries of {job:?}");
        attempts += job.claim_epoch;
    }
    assert!(entries.is_empty(), "entries of nobody: {entries:?}");
    eprintln!("{} jobs, {attempts} claims, {KILLS} kills", ids.len());
    assert!(attempts > ids.len() as u64, "no kill ever met a job");
}
