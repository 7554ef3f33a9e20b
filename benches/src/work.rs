//! The queue at work: jobs that do nothing, by hand and by a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use certlib_core::queue::{ClaimRequest, Job, Lane, NewJob, Outcome, Settlement};
use certlib_core::runtime::{Handled, JobContext, JobHandler, Role, RunningRuntime, Runtime, Settings};
use certlib_core::secret::{Keyring, KeyringEnvelope};
use certlib_core::store::SharedStore;
use serde_json::json;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::{LIMIT, Result};

/// The lane of every job.
pub const LANE: Lane = Lane::Issuance;

const KIND: &str = "no_op";

/// How long a job is leased.
const LEASE: Duration = Duration::from_secs(60);

/// `count` jobs that do nothing.
pub fn jobs(count: usize) -> Vec<NewJob> {
    (0..count).map(|number| NewJob::new(KIND, LANE, json!({ "n": number }))).collect()
}

/// Enqueues jobs, `batch` at a time.
///
/// # Errors
/// As the store.
pub async fn enqueue(store: &SharedStore, mut jobs: Vec<NewJob>, batch: usize) -> Result<()> {
    while !jobs.is_empty() {
        let rest = jobs.split_off(batch.min(jobs.len()));
        store.enqueue(std::mem::replace(&mut jobs, rest)).await?;
    }
    Ok(())
}

/// Claims and settles until nothing is left, by `loops` at the same time; returns how many jobs that were.
///
/// # Errors
/// As the store; when a claim was lost.
pub async fn drain(store: &SharedStore, loops: usize, batch: usize) -> Result<usize> {
    let workers: Vec<_> = (0..loops)
        .map(|number| {
            let store = store.lane(LANE).unwrap_or_else(|| store.clone());
            tokio::spawn(drain_one(store, ClaimRequest::new(LANE, format!("loop-{number}"), batch, LEASE)))
        })
        .collect();
    let mut done = 0;
    for worker in workers {
        done += worker.await??;
    }
    Ok(done)
}

async fn drain_one(store: SharedStore, request: ClaimRequest) -> Result<usize> {
    let mut done = 0;
    loop {
        let jobs = store.claim(&request).await?;
        if jobs.is_empty() {
            return Ok(done);
        }
        let settled = store.settle(jobs.iter().map(succeeded).collect()).await?;
        if !settled.iter().all(|settled| *settled) {
            return Err("a claim was lost".into());
        }
        done += jobs.len();
    }
}

fn succeeded(job: &Job) -> Settlement {
    Settlement { claim: job.claim(), outcome: Outcome::Succeeded, duration: Duration::from_millis(1) }
}

/// Does nothing, and counts it.
#[derive(Debug, Clone, Default)]
struct NoOp {
    done: Arc<AtomicUsize>,
    progress: Arc<Notify>,
    wanted: usize,
}

#[async_trait]
impl JobHandler for NoOp {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn lane(&self) -> Lane {
        LANE
    }

    async fn run(&self, _: &Job, _: &JobContext) -> certlib_core::Result<Handled> {
        if self.done.fetch_add(1, Ordering::Relaxed) + 1 == self.wanted {
            self.progress.notify_one();
        }
        Ok(Handled::Succeeded)
    }
}

/// Says when each job came.
#[derive(Debug, Clone)]
struct Stamp(UnboundedSender<(usize, Instant)>);

#[async_trait]
impl JobHandler for Stamp {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn lane(&self) -> Lane {
        LANE
    }

    async fn run(&self, job: &Job, _: &JobContext) -> certlib_core::Result<Handled> {
        let now = Instant::now();
        let number = job.payload.get("n").and_then(serde_json::Value::as_u64).unwrap_or_default();
        // Nobody listens any more: the bench is over.
        let _ = self.0.send((number as usize, now));
        Ok(Handled::Succeeded)
    }
}

/// Runs the worker on `store` until all `count` jobs in it have ended in the database.
///
/// # Errors
/// As the store; when it does not come to an end.
pub async fn run_worker(store: &SharedStore, count: usize, tune: fn(&mut Settings)) -> Result<()> {
    let handler = NoOp { wanted: count, ..NoOp::default() };
    let progress = handler.progress.clone();
    let running = worker(store, handler, tune)?;
    tokio::time::timeout(LIMIT, progress.notified()).await?;
    let deadline = Instant::now() + LIMIT;
    while active(store).await? > 0 {
        if Instant::now() > deadline {
            return Err("the last jobs did not end".into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    running.shutdown().await;
    Ok(())
}

/// How many jobs are not over.
async fn active(store: &SharedStore) -> Result<u64> {
    let stats = store.stats().await?;
    Ok(stats.by_kind.values().map(|depth| depth.pending + depth.in_progress).sum())
}

/// Enqueues `count` jobs through `enqueuer`, one by one, `gap` apart; returns how long each took from there to its
/// handler, in a worker on `store`.
///
/// # Errors
/// As the store; when a job does not come.
pub async fn pickup(store: &SharedStore, enqueuer: &SharedStore, count: usize, gap: Duration) -> Result<Vec<Duration>> {
    const WARM_UP: usize = 10;
    let (sender, mut arrivals) = unbounded_channel();
    let running = worker(store, Stamp(sender), |_| {})?;
    let mut sent = Vec::with_capacity(WARM_UP + count);
    let mut took = Vec::with_capacity(WARM_UP + count);
    let mut jobs = jobs(WARM_UP + count);
    for job in jobs.drain(..WARM_UP) {
        sent.push(Instant::now());
        enqueuer.enqueue(vec![job]).await?;
        took.push(arrival(&mut arrivals, &sent).await?);
    }
    for job in jobs {
        tokio::time::sleep(gap).await;
        sent.push(Instant::now());
        enqueuer.enqueue(vec![job]).await?;
    }
    while took.len() < sent.len() {
        took.push(arrival(&mut arrivals, &sent).await?);
    }
    running.shutdown().await;
    Ok(took.split_off(WARM_UP))
}

async fn arrival(arrivals: &mut UnboundedReceiver<(usize, Instant)>, sent: &[Instant]) -> Result<Duration> {
    let arrival = tokio::time::timeout(LIMIT, arrivals.recv()).await?;
    let (number, at) = arrival.ok_or("the worker is gone")?;
    Ok(at - *sent.get(number).ok_or("a job that was not enqueued")?)
}

/// A worker of one lane, and nothing else.
fn worker(store: &SharedStore, handler: impl JobHandler, tune: fn(&mut Settings)) -> Result<RunningRuntime> {
    let envelope = Arc::new(KeyringEnvelope::new(Keyring::generate()?));
    let runtime = Runtime::builder(store.clone(), envelope).handler(handler).settings(|settings| {
        settings.roles = vec![Role::Worker];
        settings.lanes.retain(|lane, _| *lane == LANE);
        tune(settings);
    });
    Ok(runtime.build()?.start())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Server};

    #[tokio::test]
    async fn jobs_are_drained_by_hand_and_by_a_worker() {
        for backend in [Backend::Memory, Backend::Sqlite] {
            let server = Server::start(backend).await.unwrap().unwrap();
            let store = server.database("drained").await.unwrap().open().await.unwrap();
            enqueue(&store, jobs(25), 10).await.unwrap();
            assert_eq!(active(&store).await.unwrap(), 25);
            assert_eq!(drain(&store, 2, 10).await.unwrap(), 25);
            enqueue(&store, jobs(25), 10).await.unwrap();
            run_worker(&store, 25, |_| {}).await.unwrap();
            assert_eq!(active(&store).await.unwrap(), 0);
            server.stop().await.unwrap();
        }
    }

    #[tokio::test]
    async fn every_pickup_is_timed() {
        let server = Server::start(Backend::Memory).await.unwrap().unwrap();
        let store = server.database("picked_up").await.unwrap().open().await.unwrap();
        let took = pickup(&store, &store, 5, Duration::ZERO).await.unwrap();
        assert!(took.len() == 5 && took.iter().all(|took| !took.is_zero()));
    }
}
