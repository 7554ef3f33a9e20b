//! What the cases share: a store with its clock, records to store, jobs to run.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use time::macros::datetime;

use super::StoreHarness;
use crate::clock::{Clock, ManualClock};
use crate::error::{Error, ErrorRecord, Result};
use crate::lock::{Lease, LeaseRequest};
use crate::model::{Event, new_id};
use crate::queue::{ClaimRequest, DEAD_LETTER_EVENT, Job, JobState, Lane, NewJob, Outcome, Settlement};
use crate::store::{Index, IndexValue, Record, SharedStore, StoreExt, TypedQuery};

pub(super) const START: OffsetDateTime = datetime!(2027-01-01 00:00 UTC);
pub(super) const LEASE: Duration = Duration::from_secs(60);

/// A fresh store and the clock it goes by.
pub(super) struct Fixture {
    pub(super) store: SharedStore,
    pub(super) clock: ManualClock,
    pub(super) precision: Duration,
}

impl Fixture {
    pub(super) async fn new(harness: &impl StoreHarness) -> Self {
        let clock = ManualClock::new(START);
        let store = harness.open(Arc::new(clock.clone())).await;
        Self { store, clock, precision: harness.time_precision() }
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    /// Moves the clock.
    pub(super) fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    pub(super) async fn enqueue_one(&self, job: NewJob) -> String {
        self.store.enqueue(vec![job]).await.unwrap().remove(0).id
    }

    /// Claims what is due in `lane`, whatever its parents are.
    pub(super) async fn claim(&self, lane: Lane, worker: &str, limit: usize, lease: Duration) -> Result<Vec<Job>> {
        self.store.claim(&ClaimRequest::new(lane, worker, limit, lease)).await
    }

    /// Claims what is due, as `worker`.
    pub(super) async fn claim_as(&self, worker: &str) -> Vec<Job> {
        self.claim(LANE, worker, 100, LEASE).await.unwrap()
    }

    /// Asks for a lease with a request of its own.
    pub(super) async fn acquire(&self, name: &str, holder: &str, ttl: Duration) -> Result<Option<Lease>> {
        self.store.acquire(&LeaseRequest::new(name, holder, new_id(), ttl)).await
    }

    /// Has an ended job run again at once.
    pub(super) async fn retry(&self, id: &str) -> Result<Job> {
        self.store.retry(id, Duration::ZERO).await
    }

    /// Claims the only job that is due.
    pub(super) async fn claim_one(&self) -> Job {
        let mut jobs = self.claim_as("worker").await;
        assert_eq!(jobs.len(), 1, "exactly one job is due");
        jobs.remove(0)
    }

    /// A job that a worker is running.
    pub(super) async fn running(&self, job: NewJob) -> Job {
        self.enqueue_one(job).await;
        self.claim_one().await
    }

    pub(super) async fn settle_one(&self, job: &Job, outcome: Outcome) -> bool {
        self.store.settle(vec![settlement(job, outcome)]).await.unwrap()[0]
    }

    pub(super) async fn load_job(&self, id: &str) -> Job {
        self.store.job(id).await.unwrap().expect("the job is there")
    }

    pub(super) async fn state_of(&self, id: &str) -> JobState {
        self.load_job(id).await.state
    }

    pub(super) async fn item(&self, id: &str) -> Option<Item> {
        self.store.find::<Item>(id).await.unwrap().map(|item| item.record)
    }

    pub(super) fn assert_near(&self, actual: OffsetDateTime, expected: OffsetDateTime) {
        assert!((actual - expected).abs() <= self.precision, "{actual} should be {expected}");
    }
}

impl Deref for Fixture {
    type Target = SharedStore;

    fn deref(&self) -> &SharedStore {
        &self.store
    }
}

/// The lane that the cases use unless they say otherwise.
pub(super) const LANE: Lane = Lane::Issuance;

/// A job that is due at once.
pub(super) fn job() -> NewJob {
    NewJob::new("test_job", LANE, json!({"n": 1}))
}

pub(super) fn settlement(job: &Job, outcome: Outcome) -> Settlement {
    Settlement { claim: job.claim(), outcome, duration: Duration::from_millis(1500) }
}

pub(super) fn failure() -> ErrorRecord {
    Error::network("test.run", "unreachable", "nobody there").to_record()
}

/// Fails unless `result` is an error with `code`.
#[track_caller]
pub(super) fn assert_code<T: std::fmt::Debug>(result: Result<T>, code: &str) {
    let error = result.expect_err("should have been refused");
    assert_eq!(error.code(), code, "{error:?}");
}

/// Project and subject of each dead-letter event, oldest first.
pub(super) async fn dead_letters(f: &Fixture) -> Vec<(String, String)> {
    let events = TypedQuery::<Event>::new().equal("kind", DEAD_LETTER_EVENT);
    let events = f.store.list_all(events).await.unwrap();
    events.into_iter().map(|event| (event.record.project, event.record.subject)).collect()
}

/// Runs `count` tasks of `make` at the same time.
pub(super) async fn at_once<F>(count: usize, make: impl Fn(usize) -> F) -> Vec<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let barrier = Arc::new(tokio::sync::Barrier::new(count));
    let tasks = (0..count).map(|number| {
        let (task, barrier) = (make(number), barrier.clone());
        tokio::spawn(async move {
            barrier.wait().await;
            task.await
        })
    });
    join_all(tasks).await.into_iter().map(|result| result.expect("no task panics")).collect()
}

/// A record with fields of both types.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) group: String,
    pub(super) rank: Option<i64>,
    pub(super) mixed: Option<Mixed>,
    pub(super) note: String,
}

/// A field whose values are of either type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mixed {
    Number(i64),
    Word(String),
}

impl Item {
    pub(super) fn new(id: &str, group: &str) -> Self {
        Self { id: id.to_owned(), group: group.to_owned(), ..Self::default() }
    }

    pub(super) fn ranked(id: &str, group: &str, rank: i64) -> Self {
        Self { rank: Some(rank), ..Self::new(id, group) }
    }

    pub(super) fn mixed(id: &str, mixed: Mixed) -> Self {
        Self { mixed: Some(mixed), ..Self::new(id, "mixed") }
    }
}

impl Record for Item {
    const KIND: &'static str = "conformance_item";
    const FIELDS: &'static [&'static str] = &["group", "rank", "mixed"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        let mixed = self.mixed.as_ref().map(|mixed| match mixed {
            Mixed::Number(number) => IndexValue::Int(*number),
            Mixed::Word(word) => IndexValue::Text(word.clone()),
        });
        Index::new().field("group", &*self.group).maybe("rank", self.rank).maybe("mixed", mixed)
    }
}

/// Another kind of record, without fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Other {
    pub(super) id: String,
}

impl Record for Other {
    const KIND: &'static str = "conformance_other";
    const FIELDS: &'static [&'static str] = &[];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
    }
}

/// A record that sets a field it does not declare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Undeclared {
    pub(super) id: String,
}

impl Record for Undeclared {
    const KIND: &'static str = "conformance_undeclared";
    const FIELDS: &'static [&'static str] = &["declared"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("undeclared", 1_i64)
    }
}
