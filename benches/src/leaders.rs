//! Nodes that stand for leader, each on threads and connections of its own, so that one can die.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use certlib_core::runtime::{Role, RunningRuntime, Runtime};
use certlib_core::scheduler::{Sweep, SweepContext};
use certlib_core::secret::{Keyring, KeyringEnvelope};
use certlib_core::store::{Index, Record};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::backend::Database;
use crate::{LIMIT, Result};

/// How long the leader's lease lasts.
pub const TTL: Duration = Duration::from_secs(3);

/// What a leader has written: its number, and when its write was acknowledged.
pub type Mark = (usize, Instant);

/// A node that stands for leader and, as leader, writes.
pub struct Node {
    threads: tokio::runtime::Runtime,
    running: RunningRuntime,
    number: usize,
}

impl Node {
    /// Starts it, with a store of its own on `database`.
    ///
    /// # Errors
    /// As the store.
    pub async fn start(database: &Database, number: usize, marks: UnboundedSender<Mark>) -> Result<Self> {
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let running = threads.spawn(start(database.clone(), Write { number, marks })).await??;
        Ok(Self { threads, running, number })
    }

    /// Its number.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Stops it in order; returns when it was told to.
    ///
    /// # Errors
    /// When it does not stop.
    pub async fn stop(self) -> Result<Instant> {
        let began = Instant::now();
        let running = self.running;
        self.threads.spawn(async move { running.shutdown().await }).await?;
        self.threads.shutdown_background();
        Ok(began)
    }

    /// Ends its threads wherever they are, which also closes its connections; returns when. It releases nothing.
    pub async fn crash(self) -> Instant {
        let began = Instant::now();
        self.threads.shutdown_background();
        // Dropping this earlier would ask what still runs to stop in order.
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(self.running);
        began
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("number", &self.number).finish_non_exhaustive()
    }
}

async fn start(database: Database, sweep: Write) -> Result<RunningRuntime> {
    let store = database.open().await?;
    let envelope = Arc::new(KeyringEnvelope::new(Keyring::generate()?));
    let name = format!("node-{}", sweep.number);
    let runtime = Runtime::builder(store, envelope).sweep(sweep).settings(|settings| {
        settings.roles = vec![Role::Scheduler];
        settings.node_name = name;
        settings.leader_ttl = TTL;
        settings.leader_heartbeat = TTL.mul_f64(0.3);
        // Its first sweep is all that is asked of it.
        settings.sweep_interval = LIMIT;
    });
    Ok(runtime.build()?.start())
}

/// The first write of node `number` as leader; writes of others before it are passed over.
///
/// # Errors
/// When it does not come.
pub async fn first_write(marks: &mut UnboundedReceiver<Mark>, number: usize) -> Result<Instant> {
    let found = async {
        while let Some((writer, at)) = marks.recv().await {
            if writer == number {
                return Ok(at);
            }
        }
        Err("the node is gone".into())
    };
    tokio::time::timeout(LIMIT, found).await?
}

/// Writes one record under the leader's lease.
#[derive(Debug)]
struct Write {
    number: usize,
    marks: UnboundedSender<Mark>,
}

#[async_trait]
impl Sweep for Write {
    fn name(&self) -> &'static str {
        "write"
    }

    async fn run(&self, cx: &SweepContext) -> certlib_core::Result<usize> {
        let entry = Entry { id: "leader".to_owned(), number: self.number };
        cx.commit(cx.batch().put(&entry)?).await?;
        // Nobody listens any more: the bench is over.
        let _ = self.marks.send((self.number, Instant::now()));
        Ok(1)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    id: String,
    number: usize,
}

impl Record for Entry {
    const KIND: &'static str = "bench_entry";
    const FIELDS: &'static [&'static str] = &[];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
    }
}
