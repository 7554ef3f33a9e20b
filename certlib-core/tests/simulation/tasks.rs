//! Jobs of a type of their own: they succeed, fail, wait, snooze, or kill the process they run in.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::queue::{Job, Lane, NewJob};
use certlib_core::runtime::{Handled, JobContext, JobHandler};
use certlib_core::scheduler::{Sweep, SweepContext};
use certlib_core::store::{Index, Record, StoreExt as _};
use certlib_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::network::Node;

pub const TASK: &str = "task";

/// What a task does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Deed {
    Nothing,
    /// Fails so often for reasons that pass; the peer asks to wait so many seconds.
    Fail {
        times: u32,
        retry_after: Option<u64>,
    },
    /// Fails for good.
    Refuse,
    /// Takes so many steps of so many milliseconds, and keeps each.
    Work {
        steps: u32,
        millis: u64,
    },
    /// Has nothing to do so often.
    Snooze {
        times: u32,
        seconds: u64,
    },
    /// Takes the process with it.
    Kill,
}

impl Deed {
    pub fn job(&self) -> NewJob {
        NewJob::new(TASK, Lane::Notification, serde_json::to_value(self).unwrap()).with_project("shop")
    }
}

/// How far a task, or the leader's sweep, has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mark {
    id: String,
    count: u64,
}

impl Record for Mark {
    const KIND: &'static str = "mark";
    const FIELDS: &'static [&'static str] = &[];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
    }
}

/// Runs tasks.
pub struct Tasks {
    pub backend: Arc<Backend>,
    pub node: Arc<Node>,
    pub kill: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("node", &self.node.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl JobHandler for Tasks {
    fn kind(&self) -> &'static str {
        TASK
    }

    fn lane(&self) -> Lane {
        Lane::Notification
    }

    async fn run(&self, job: &Job, cx: &JobContext) -> Result<Handled> {
        let stage = &self.node.stage;
        let deed: Deed = serde_json::from_value(job.payload.clone()).unwrap();
        stage.note(&self.node.name, format!("task {}/{} begins: {deed:?}", &job.id[..18], cx.claim.epoch));
        stage.judge(self.backend.ledger.lock().unwrap().begin(&cx.claim));
        // The attempts that failed tell how often it was tried.
        let tried = u32::try_from(job.attempts.len()).unwrap();
        match deed {
            Deed::Nothing => Ok(Handled::Succeeded),
            Deed::Refuse => Err(Error::auth("task", "refused", "no")),
            Deed::Fail { times, retry_after } if tried < times => {
                let after = retry_after.map(Duration::from_secs);
                if let Some(after) = after {
                    self.backend.ledger.lock().unwrap().ask(&cx.claim, after);
                }
                Err(Error::transient("task", "busy", "later").with_retry_after(after))
            }
            Deed::Fail { .. } => Ok(Handled::Succeeded),
            Deed::Work { steps, millis } => self.work(job, cx, steps, millis).await,
            Deed::Snooze { times, seconds } if cx.claim.epoch <= u64::from(times) => {
                Ok(Handled::Snooze(Duration::from_secs(seconds)))
            }
            Deed::Snooze { .. } => Ok(Handled::Succeeded),
            Deed::Kill => {
                (self.kill)();
                self.node.gate().await;
                Ok(Handled::Succeeded)
            }
        }
    }
}

impl Tasks {
    async fn work(&self, job: &Job, cx: &JobContext, steps: u32, millis: u64) -> Result<Handled> {
        for step in 0..steps {
            cx.cx.clock.sleep(Duration::from_millis(millis)).await;
            cx.cx.check_cancelled("task")?;
            let mark = Mark { id: format!("{}/{step}", job.id), count: cx.claim.epoch };
            cx.store.commit(cx.batch().put(&mark)?).await?;
        }
        Ok(Handled::Succeeded)
    }
}

/// A sweep that always has something to write.
pub struct Heartbeat;

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Heartbeat")
    }
}

#[async_trait]
impl Sweep for Heartbeat {
    fn name(&self) -> &'static str {
        "heartbeat"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        for id in ["one", "two"] {
            let count = cx.store.find::<Mark>(id).await?.map_or(0, |mark| mark.count);
            cx.store.commit(cx.batch().put(&Mark { id: id.to_owned(), count: count + 1 })?).await?;
        }
        Ok(0)
    }
}
