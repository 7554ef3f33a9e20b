//! Types of job whose handlers are closures.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::Result;
use certlib_core::clock::ManualClock;
use certlib_core::queue::{Job, Lane, NewJob};
use certlib_core::runtime::{Handled, JobContext, JobHandler};
use futures::future::BoxFuture;
use serde_json::json;

type Run = dyn Fn(Job, JobContext) -> BoxFuture<'static, Result<Handled>> + Send + Sync;

/// A type of job.
#[derive(Clone)]
pub struct Act {
    kind: &'static str,
    lane: Lane,
    run: Arc<Run>,
}

impl Act {
    pub fn new<F>(kind: &'static str, lane: Lane, run: impl Fn(Job, JobContext) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Handled>> + Send + 'static,
    {
        Self { kind, lane, run: Arc::new(move |job, cx| Box::pin(run(job, cx))) }
    }
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Act").field(&self.kind).finish()
    }
}

#[async_trait]
impl JobHandler for Act {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn lane(&self) -> Lane {
        self.lane
    }

    async fn run(&self, job: &Job, cx: &JobContext) -> Result<Handled> {
        (self.run)(job.clone(), cx.clone()).await
    }
}

/// A job of type `kind` in the notification lane.
pub fn job(kind: &str) -> NewJob {
    NewJob::new(kind, Lane::Notification, json!({})).with_project("shop")
}

/// Lets everything on this thread run, and then moves the clock on. For what needs no other thread.
pub async fn tick(clock: &ManualClock, step: Duration) {
    for _ in 0..40 {
        tokio::task::yield_now().await;
    }
    clock.advance(step);
}
