//! One node of a cluster that tests stop, continue and kill: it either works on jobs, or stands for leader and writes
//! down every write that it was allowed to make as leader.
//!
//! `cluster-node URL NAME JOURNAL leads|works`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::backoff::Ladder;
use certlib_core::error::codes;
use certlib_core::queue::{Job, Lane, RetryPolicy};
use certlib_core::runtime::{Handled, JobContext, JobHandler, Role, Runtime};
use certlib_core::scheduler::{Sweep, SweepContext};
use certlib_core::secret::{Keyring, KeyringEnvelope};
use certlib_core::{Result, Secret};

#[path = "database.rs"]
mod database;
#[path = "ledger.rs"]
mod ledger;

use ledger::{Entry, Tail};

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_max_level(tracing::Level::WARN).init();
    let args: Vec<String> = std::env::args().collect();
    let [_, url, name, journal, what] = args.as_slice() else { panic!("URL NAME JOURNAL leads|works") };
    let role = if what == "leads" { Role::Scheduler } else { Role::Worker };
    let journal = OpenOptions::new().append(true).create(true).open(journal).expect("the journal");
    let store = loop {
        match database::open(url).await {
            Ok(store) => break store,
            // A database may be between two primaries.
            Err(error) => {
                eprintln!("{error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let envelope =
        KeyringEnvelope::new(Keyring::new(Secret::new(*b"a key for tests, nothing besides")).expect("a key"));
    let mut quick = RetryPolicy::with_ladder(Ladder::new(vec![Duration::from_millis(20); 1000], 0.1));
    // Every kill here is the test's, not the job's.
    quick.poison_after = 1000;
    let running = Runtime::builder(store, Arc::new(envelope))
        .settings(|settings| {
            settings.node_name.clone_from(name);
            settings.roles = vec![role];
            settings.leader_ttl = ledger::TTL;
            settings.leader_heartbeat = ledger::TTL / 5;
            settings.sweep_interval = Duration::from_millis(5);
            settings.job_lease = Duration::from_secs(2);
            settings.lanes.insert(Lane::Maintenance, 8);
            settings.poll_interval = Duration::from_millis(100);
            settings.retry = quick;
        })
        .handler(Bookkeeper)
        .sweep(Scribe { journal: Arc::new(journal), leads_since: Arc::default() })
        .build()
        .expect("a runtime")
        .start();
    println!("ready");
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals");
    terminate.recv().await;
    running.shutdown().await;
}

/// Enters each job into the ledger, in the commit that settles it; jobs without a number leave no entry.
#[derive(Debug)]
struct Bookkeeper;

#[async_trait]
impl JobHandler for Bookkeeper {
    fn kind(&self) -> &'static str {
        ledger::KIND
    }

    fn lane(&self) -> Lane {
        Lane::Maintenance
    }

    async fn run(&self, job: &Job, cx: &JobContext) -> Result<Handled> {
        let Some(number) = job.payload["number"].as_u64() else { return Ok(Handled::Succeeded) };
        tokio::time::sleep(Duration::from_millis(number % 5)).await;
        let entry = Entry { id: format!("{}/{}", job.id, job.claim_epoch), job: job.id.clone() };
        Ok(Handled::success(cx.batch().put(&entry)?))
    }
}

/// Writes as leader, and goes on trying for a while after it stopped leading.
#[derive(Debug, Clone)]
struct Scribe {
    journal: Arc<File>,
    /// The epoch of the last leadership that was seen.
    leads_since: Arc<AtomicU64>,
}

#[async_trait]
impl Sweep for Scribe {
    fn name(&self) -> &'static str {
        "scribe"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        if self.leads_since.swap(cx.lease().epoch, Ordering::Relaxed) != cx.lease().epoch {
            tokio::spawn(self.clone().linger(cx.clone()));
        }
        self.write(cx).await?;
        Ok(0)
    }
}

impl Scribe {
    /// What a leader would do that does not notice its end: the store refuses it once there is a successor.
    async fn linger(self, cx: SweepContext) {
        cx.cancel.cancelled().await;
        for _ in 0..200 {
            if self.write(&cx).await.is_err_and(|error| error.code() == codes::LEASE_LOST) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One write that only the leader may make, and its place in the order of all of them.
    async fn write(&self, cx: &SweepContext) -> Result<()> {
        let epoch = cx.lease().epoch;
        let written = cx.store.commit(cx.batch().put(&Tail { epoch })?).await;
        let line = match &written {
            Ok(commit) => format!("{} {epoch}\n", commit.revisions[0]),
            Err(error) if error.code() == codes::LEASE_LOST => format!("refused {epoch}\n"),
            Err(_) => return written.map(drop),
        };
        (&*self.journal).write_all(line.as_bytes()).expect("the journal");
        written.map(drop)
    }
}
