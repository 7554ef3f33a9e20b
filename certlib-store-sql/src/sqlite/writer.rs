//! The one connection that writes.
//!
//! Every write is an [`Operation`] sent to one task, which takes all that are waiting into one transaction and answers
//! after its commit: one sync of the disk serves them all. Within it each has its own savepoint, so that one that
//! fails leaves no trace among the others.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::clock::Clock;
use certlib_core::error::{Effect, Error, Result};
use sqlx::{Connection, SqliteConnection};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch};

use super::error::{closed, code, commit_error, primary_code, store_error};
use super::timestamp;

/// How many writes may wait for the writer; more wait to wait.
const QUEUE: usize = 1024;
/// How many writes share one transaction at most.
const GROUP_MAX: usize = 256;

/// One write, as often repeatable as it takes.
#[async_trait]
pub(super) trait Operation: Send + Sync + 'static {
    /// What it answers.
    type Output: Send + 'static;

    /// Does it within `tx`; an error undoes it.
    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Self::Output>;
}

/// The transaction that an operation runs in.
pub(super) struct Transaction<'a> {
    pub(super) connection: &'a mut SqliteConnection,
    /// The store's time, in whole milliseconds.
    pub(super) now: OffsetDateTime,
    /// Set by an operation that made a job due.
    pub(super) became_due: bool,
}

/// The way to the writing task.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    requests: mpsc::Sender<Request>,
}

enum Request {
    Write(Box<dyn Task>),
    Close(oneshot::Sender<()>),
}

impl Writer {
    /// Starts the task that writes over `connection`, on the current runtime.
    pub(super) fn start(connection: SqliteConnection, clock: Arc<dyn Clock>, wakeups: watch::Sender<u64>) -> Self {
        let (requests, queue) = mpsc::channel(QUEUE);
        tokio::spawn(Loop { connection, clock, wakeups }.run(queue));
        Self { requests }
    }

    /// Runs `operation` and returns when it is durable.
    ///
    /// Dropped before that, it happens or it does not.
    pub(super) async fn write<O: Operation>(&self, operation: O) -> Result<O::Output> {
        let (answer, answered) = oneshot::channel();
        let task = Box::new(Pending { operation, result: None, answer });
        self.requests.send(Request::Write(task)).await.map_err(|_| closed("store.write"))?;
        answered.await.map_err(|_| closed("store.write").with_effect(Effect::Possible))?
    }

    /// Finishes what is waiting and closes the connection.
    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.requests.send(Request::Close(done)).await.is_ok() {
            // An error means that the task is gone, which is what was asked for.
            let _ = closed.await;
        }
    }
}

struct Loop {
    connection: SqliteConnection,
    clock: Arc<dyn Clock>,
    wakeups: watch::Sender<u64>,
}

impl Loop {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut closers = Vec::new();
        let mut requests = Vec::new();
        while queue.recv_many(&mut requests, GROUP_MAX).await > 0 {
            let mut group = Vec::with_capacity(requests.len());
            for request in requests.drain(..) {
                match request {
                    Request::Write(task) => group.push(task),
                    Request::Close(done) => {
                        queue.close();
                        closers.push(done);
                    }
                }
            }
            self.execute(group).await;
        }
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "the database was not closed cleanly");
        }
        for done in closers {
            // Nobody waiting any more is fine.
            let _ = done.send(());
        }
    }

    async fn execute(&mut self, mut group: Vec<Box<dyn Task>>) {
        group.retain(|task| !task.is_abandoned());
        if group.is_empty() {
            return;
        }
        let outcome = self.attempt(&mut group).await;
        if group.len() == 1 || !matches!(outcome, Outcome::Undone(_)) {
            return self.answer(group, outcome);
        }
        // One of them may be what the database cannot take: each for itself, then.
        let mut tasks = group.into_iter();
        while let Some(task) = tasks.next() {
            let mut alone = vec![task];
            let outcome = self.attempt(&mut alone).await;
            if matches!(outcome, Outcome::NotBegun(_)) {
                alone.extend(tasks.by_ref());
            }
            self.answer(alone, outcome);
        }
    }

    fn answer(&self, group: Vec<Box<dyn Task>>, outcome: Outcome) {
        let (error, uncertain) = match outcome {
            Outcome::Done { became_due } => {
                if became_due {
                    self.wakeups.send_modify(|count| *count = count.wrapping_add(1));
                }
                return group.into_iter().for_each(|task| task.answer(None));
            }
            Outcome::NotBegun(error) | Outcome::Undone(error) => (Arc::new(error), false),
            Outcome::Uncertain(error) => (Arc::new(error), true),
        };
        for task in group {
            let error = if uncertain { commit_error(error.clone()) } else { store_error("store.write", error.clone()) };
            task.answer(Some(error));
        }
    }

    /// Runs `group` in one transaction.
    async fn attempt(&mut self, group: &mut [Box<dyn Task>]) -> Outcome {
        if let Err(error) = self.begin().await {
            return Outcome::NotBegun(error);
        }
        match self.fill(group).await {
            Ok(Filled { kept: 0, .. }) => {
                self.roll_back().await;
                Outcome::Done { became_due: false }
            }
            Ok(Filled { became_due, .. }) => match self.run_sql("COMMIT").await {
                Ok(()) => Outcome::Done { became_due },
                Err(error) => {
                    self.roll_back().await;
                    // A full disk is noticed while writing what comes before the frame that makes a commit.
                    match primary_code(&error) {
                        Some(code::FULL) => Outcome::Undone(error),
                        _ => Outcome::Uncertain(error),
                    }
                }
            },
            Err(error) => {
                self.roll_back().await;
                Outcome::Undone(error)
            }
        }
    }

    async fn begin(&mut self) -> sqlx::Result<()> {
        match self.run_sql("BEGIN IMMEDIATE").await {
            // Still within the transaction before, whose rollback failed.
            Err(error) if primary_code(&error) == Some(code::ERROR) => {
                self.roll_back().await;
                self.run_sql("BEGIN IMMEDIATE").await
            }
            result => result,
        }
    }

    /// Runs every operation of `group`. An error means that SQLite gave up the whole transaction.
    async fn fill(&mut self, group: &mut [Box<dyn Task>]) -> sqlx::Result<Filled> {
        let mut filled = Filled { kept: 0, became_due: false };
        let shared = group.len() > 1;
        for task in group {
            if shared {
                self.run_sql("SAVEPOINT operation").await?;
            }
            let now = timestamp::floor(self.clock.now());
            let mut tx = Transaction { connection: &mut self.connection, now, became_due: false };
            if task.run(&mut tx).await {
                filled.became_due |= tx.became_due;
                filled.kept += 1;
            } else if shared {
                self.run_sql("ROLLBACK TO operation").await?;
            }
            if shared {
                self.run_sql("RELEASE operation").await?;
            }
        }
        Ok(filled)
    }

    async fn run_sql(&mut self, sql: &'static str) -> sqlx::Result<()> {
        sqlx::query(sql).execute(&mut self.connection).await.map(drop)
    }

    async fn roll_back(&mut self) {
        // It fails when SQLite has rolled back by itself, which is just as well.
        let _ = self.run_sql("ROLLBACK").await;
    }
}

struct Filled {
    /// How many operations succeeded.
    kept: usize,
    became_due: bool,
}

/// What became of a transaction.
enum Outcome {
    /// Durable; operations that failed by themselves left no trace.
    Done { became_due: bool },
    /// It could not even begin.
    NotBegun(sqlx::Error),
    /// Nothing was committed, for certain.
    Undone(sqlx::Error),
    /// The commit failed, and nobody knows how far it came.
    Uncertain(sqlx::Error),
}

/// An operation with its result and whoever waits for it, whatever its type.
#[async_trait]
trait Task: Send {
    /// Whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool;

    /// Runs the operation; whether it succeeded.
    async fn run(&mut self, tx: &mut Transaction<'_>) -> bool;

    /// Tells the result; `error`, if there is one, takes the place of a success.
    fn answer(self: Box<Self>, error: Option<Error>);
}

struct Pending<O: Operation> {
    operation: O,
    result: Option<Result<O::Output>>,
    answer: oneshot::Sender<Result<O::Output>>,
}

#[async_trait]
impl<O: Operation> Task for Pending<O> {
    fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    async fn run(&mut self, tx: &mut Transaction<'_>) -> bool {
        self.result.insert(self.operation.run(tx).await).is_ok()
    }

    fn answer(self: Box<Self>, error: Option<Error>) {
        let result = match (self.result, error) {
            (Some(Err(own)), _) => Err(own),
            (_, Some(error)) => Err(error),
            (Some(Ok(output)), None) => Ok(output),
            (None, None) => Err(closed("store.write")),
        };
        // Whoever stopped waiting does not want to know.
        let _ = self.answer.send(result);
    }
}
