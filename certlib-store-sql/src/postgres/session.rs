//! Running operations: a connection, a transaction where one is needed, a limit, another try where it is safe.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::clock::Clock;
use certlib_core::error::Result;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Connection, Row};

use super::error::{CONNECTION_LOST, CONTENDED, in_doubt, no_answer, store_error};
use super::notify::Wakeups;
use certlib_core::store::timestamp::{floor, to_millis};

/// How often an operation is tried that another transaction got in the way of.
const TRIES: u32 = 8;
/// How often an operation is tried whose connection broke before anything could have happened.
const LOST_TRIES: u32 = 3;
/// The longest first wait before another try; it doubles each time.
const PAUSE: Duration = Duration::from_millis(4);
/// What the client grants on top of the longest statement before it gives a connection up.
const GRACE: Duration = Duration::from_secs(5);

/// The present in Unix milliseconds: the caller's, or else the database's own. Evaluated once in a statement.
macro_rules! now {
    ($parameter:literal) => {
        concat!(
            "(SELECT coalesce(",
            $parameter,
            "::bigint, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint))"
        )
    };
}
pub(super) use now;

/// How an operation must be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// It only reads.
    Read,
    /// It writes with one statement, which is a transaction of its own.
    Statement,
    /// It writes with several statements that belong together.
    Transaction,
}

/// Something to do with the database.
#[async_trait]
pub(super) trait Operation: Send + Sync {
    /// What it results in.
    type Output: Send;

    /// How it must be run.
    const MODE: Mode;

    /// Does it. May be called again after it failed.
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Output>;
}

/// Where an operation runs.
#[derive(Debug)]
pub(super) struct Tx<'c> {
    pub(super) connection: &'c mut PgConnection,
    /// The present, unless the database is to tell it.
    pub(super) now: Option<i64>,
    /// Whether a job became due that nobody else was told of.
    pub(super) became_due: bool,
    /// Who is told.
    pub(super) wakeups: &'c Wakeups,
}

/// Connections, and how to use them.
#[derive(Debug, Clone)]
pub(super) struct Sessions {
    pub(super) pool: PgPool,
    pub(super) clock: Option<Arc<dyn Clock>>,
    pub(super) wakeups: Wakeups,
    pub(super) statement_timeout: Duration,
}

impl Sessions {
    /// Runs `operation`. Tries again, a few times, when another transaction got in the way, or when the connection broke
    /// while nothing could have been committed yet.
    pub(super) async fn run<O: Operation>(&self, name: &'static str, operation: &O) -> Result<O::Output> {
        let mut tried = 0;
        loop {
            let error = match self.attempt(name, operation).await {
                Ok(output) => return Ok(output),
                Err(error) => error,
            };
            tried += 1;
            let harmless = error.effect() == certlib_core::error::Effect::None;
            let again = match error.code() {
                CONTENDED => tried < TRIES,
                CONNECTION_LOST => harmless && tried < LOST_TRIES,
                _ => false,
            };
            if !again {
                return Err(error);
            }
            let longest = PAUSE * 2_u32.pow(tried.min(6));
            tokio::time::sleep(longest.mul_f64(rand::random::<f64>())).await;
        }
    }

    /// The present, unless the database is to tell it.
    pub(super) fn now(&self) -> Option<i64> {
        self.clock.as_ref().map(|clock| to_millis(floor(clock.now())))
    }

    async fn attempt<O: Operation>(&self, name: &'static str, operation: &O) -> Result<O::Output> {
        let mut connection = self.pool.acquire().await.map_err(|error| store_error(name, error))?;
        let work = self.perform(name, &mut connection, operation);
        let outcome = match tokio::time::timeout(self.statement_timeout + GRACE, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(match O::MODE {
                Mode::Read => no_answer(name),
                Mode::Statement | Mode::Transaction => in_doubt(no_answer(name)),
            }),
        };
        if outcome.as_ref().is_err_and(|error| error.code() == CONNECTION_LOST) {
            // The pool would wait for a goodbye that nobody answers.
            drop(connection.detach());
        }
        outcome
    }

    async fn perform<O: Operation>(
        &self,
        name: &'static str,
        connection: &mut PgConnection,
        operation: &O,
    ) -> Result<O::Output> {
        let (now, wakeups) = (self.now(), &self.wakeups);
        if O::MODE != Mode::Transaction {
            let mut tx = Tx { connection, now, became_due: false, wakeups };
            let outcome = operation.run(&mut tx).await;
            let due = tx.became_due;
            if due && outcome.is_ok() {
                wakeups.wake();
            }
            return if O::MODE == Mode::Statement { outcome.map_err(in_doubt) } else { outcome };
        }
        let mut transaction = connection.begin().await.map_err(|error| store_error(name, error))?;
        let mut tx = Tx { connection: &mut transaction, now, became_due: false, wakeups };
        let output = operation.run(&mut tx).await?;
        let due = tx.became_due;
        if due {
            wakeups.tell(&mut transaction).await.map_err(|error| store_error(name, error))?;
        }
        transaction.commit().await.map_err(|error| in_doubt(store_error(name, error)))?;
        if due {
            wakeups.wake();
        }
        Ok(output)
    }
}

impl Tx<'_> {
    /// The present in Unix milliseconds.
    pub(super) async fn present(&mut self) -> Result<i64> {
        if let Some(now) = self.now {
            return Ok(now);
        }
        let row = sqlx::query(concat!("SELECT ", now!("NULL"))).fetch_one(&mut *self.connection).await;
        row.and_then(|row| row.try_get(0)).map_err(|error| store_error("store.clock", error))
    }
}
