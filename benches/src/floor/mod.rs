//! The limits to compare with: what a database does when it is asked by hand, in as few statements as possible.
//!
//! Same columns as certlib's table of jobs (fence, lease, attempts, finished jobs kept), one index for claims and no
//! other, no retries, no deduplication, no way to list anything.

mod mariadb;
mod mongodb;
mod postgres;
mod sqlite;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use certlib_core::model::new_id;
use time::OffsetDateTime;

pub use self::mariadb::MariadbFloor;
pub use self::mongodb::MongodbFloor;
pub use self::postgres::PostgresFloor;
pub use self::sqlite::SqliteFloor;
use crate::Result;

/// The lane of every job.
pub const LANE: &str = "issuance";

/// How long a job is leased, in milliseconds.
const LEASE: i64 = 60_000;

/// A job to add.
#[derive(Debug, Clone)]
pub struct RawJob {
    /// Its id.
    pub id: String,
    /// What it needs to know, as JSON.
    pub payload: String,
}

impl RawJob {
    /// `count` jobs.
    pub fn many(count: usize) -> Vec<Self> {
        (0..count).map(|number| Self { id: new_id(), payload: format!("{{\"n\":{number}}}") }).collect()
    }
}

/// A job that was claimed.
#[derive(Debug, Clone)]
pub struct RawClaim {
    /// The job.
    pub id: String,
    /// The fencing token.
    pub epoch: i64,
    /// What it needs to know, as JSON.
    pub payload: String,
}

/// A queue and a lease in a database, without certlib.
#[async_trait]
pub trait Floor: Debug + Send + Sync + 'static {
    /// Adds jobs, all at once.
    async fn insert(&self, jobs: &[RawJob]) -> Result<()>;

    /// Claims at most `limit` jobs; none when none is left.
    async fn claim(&self, limit: usize) -> Result<Vec<RawClaim>>;

    /// Settles claimed jobs, all at once; says how many were still claimed.
    async fn settle(&self, claims: &[RawClaim]) -> Result<u64>;

    /// Adds one job and tells whoever listens.
    async fn ring(&self, job: &RawJob) -> Result<()>;

    /// Hears of jobs added from now on.
    async fn bell(&self) -> Result<Box<dyn Bell>>;

    /// Takes the leader's lease for three seconds, under a new epoch; `None` if it is held.
    async fn acquire(&self, holder: &str) -> Result<Option<i64>>;

    /// Extends the lease; whether it was still held.
    async fn renew(&self, holder: &str, epoch: i64) -> Result<bool>;

    /// Gives the lease back; whether it was still held.
    async fn release(&self, holder: &str, epoch: i64) -> Result<bool>;
}

/// Waits for [`Floor::ring`].
#[async_trait]
pub trait Bell: Debug + Send {
    /// Returns when at least one job was added since the last call.
    async fn heard(&mut self) -> Result<()>;
}

/// Claims and settles until nothing is left, by `loops` at the same time; returns how many jobs that were.
///
/// # Errors
/// As the database; when a job was settled that was not claimed any more.
pub async fn drain(floor: &Arc<dyn Floor>, loops: usize, batch: usize) -> Result<usize> {
    let workers: Vec<_> = (0..loops).map(|_| tokio::spawn(drain_one(floor.clone(), batch))).collect();
    let mut done = 0;
    for worker in workers {
        done += worker.await??;
    }
    Ok(done)
}

async fn drain_one(floor: Arc<dyn Floor>, batch: usize) -> Result<usize> {
    let mut done = 0;
    loop {
        let claims = floor.claim(batch).await?;
        if claims.is_empty() {
            return Ok(done);
        }
        if floor.settle(&claims).await? != claims.len() as u64 {
            return Err("a claim was lost".into());
        }
        done += claims.len();
    }
}

/// Adds `count` jobs, one by one, `gap` apart; returns how long each took from there to the hands of a worker.
///
/// # Errors
/// As the database.
pub async fn pickup(floor: &Arc<dyn Floor>, count: usize, gap: Duration) -> Result<Vec<Duration>> {
    let bell = floor.bell().await?;
    let jobs = RawJob::many(count);
    let worker = tokio::spawn(take(floor.clone(), bell, count));
    let mut sent = HashMap::new();
    for job in &jobs {
        tokio::time::sleep(gap).await;
        sent.insert(job.id.clone(), Instant::now());
        floor.ring(job).await?;
    }
    let taken = tokio::time::timeout(crate::LIMIT, worker).await???;
    Ok(taken.into_iter().filter_map(|(id, at)| Some(at - *sent.get(&id)?)).collect())
}

/// Takes `count` jobs as they come; says when.
async fn take(floor: Arc<dyn Floor>, mut bell: Box<dyn Bell>, count: usize) -> Result<Vec<(String, Instant)>> {
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count {
        bell.heard().await?;
        let claims = floor.claim(16).await?;
        taken.extend(claims.iter().map(|claim| (claim.id.clone(), Instant::now())));
        if !claims.is_empty() {
            floor.settle(&claims).await?;
        }
    }
    Ok(taken)
}

/// Milliseconds since 1970, by this process.
fn now() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn floor(folder: &tempfile::TempDir) -> Arc<dyn Floor> {
        Arc::new(SqliteFloor::open(&folder.path().join("raw.db")).await.unwrap())
    }

    #[tokio::test]
    async fn every_job_is_settled_once_and_only_under_its_claim() {
        let folder = tempfile::tempdir().unwrap();
        let floor = floor(&folder).await;
        floor.insert(&RawJob::many(25)).await.unwrap();
        let mut claims = floor.claim(5).await.unwrap();
        assert_eq!(claims.iter().map(|claim| claim.epoch).collect::<Vec<_>>(), [1; 5]);
        claims[0].epoch = 2;
        assert_eq!(floor.settle(&claims).await.unwrap(), 4);
        assert_eq!(floor.settle(&claims).await.unwrap(), 0);
        assert_eq!(drain(&floor, 2, 7).await.unwrap(), 20);
    }

    #[tokio::test]
    async fn what_is_rung_is_picked_up() {
        let folder = tempfile::tempdir().unwrap();
        let took = pickup(&floor(&folder).await, 7, Duration::ZERO).await.unwrap();
        assert_eq!(took.len(), 7);
    }

    #[tokio::test]
    async fn one_at_a_time_holds_the_lease() {
        let folder = tempfile::tempdir().unwrap();
        let floor = floor(&folder).await;
        assert_eq!(floor.acquire("a").await.unwrap(), Some(1));
        assert_eq!(floor.acquire("b").await.unwrap(), None);
        assert!(floor.renew("a", 1).await.unwrap() && !floor.renew("b", 1).await.unwrap());
        assert!(floor.release("a", 1).await.unwrap() && !floor.release("a", 1).await.unwrap());
        assert_eq!(floor.acquire("b").await.unwrap(), Some(2));
    }
}
