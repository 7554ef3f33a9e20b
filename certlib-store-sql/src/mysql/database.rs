//! Running operations: on which connection, in which transaction, how often.
//!
//! Transactions run at READ COMMITTED. That is enough because nothing is decided by what was merely read: every row
//! that a decision rests on is locked when it is read (`FOR UPDATE`, `LOCK IN SHARE MODE`) or named in the condition
//! of the statement that writes, and that a row does *not* exist is held by a unique key. What REPEATABLE READ would
//! add are locks on the gaps between rows, from which inserts of neighbouring keys deadlock.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::backoff::Jitter;
use certlib_core::clock::Clock;
use certlib_core::error::{Effect, Error, Result};
use sqlx::{Connection, MySqlConnection, MySqlPool};
use tokio::time::{sleep, timeout};

use super::error::{code, connect_error, silent, store_error, uncertain};
use certlib_core::store::timestamp;

/// How often an operation is begun when others get in its way.
const ATTEMPTS: u32 = 24;
/// How often when a lock was waited for in vain, which takes long.
const SLOW_ATTEMPTS: u32 = 3;
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// The server's time in whole Unix milliseconds when the statement began, or the one bound here.
macro_rules! now {
    () => {
        "COALESCE(?, TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000)"
    };
}
pub(super) use now;

/// One thing to do, as often repeatable as it takes.
#[async_trait]
pub(super) trait Operation: Send + Sync {
    /// What it answers.
    type Output: Send;

    /// Its name in errors.
    const NAME: &'static str;

    /// Does it within `tx`; an error undoes it.
    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Self::Output>;
}

/// What an operation works with.
pub(super) struct Transaction<'a> {
    pub(super) connection: &'a mut MySqlConnection,
    /// The time to go by instead of the server's, in Unix milliseconds.
    pub(super) clock: Option<i64>,
    /// The largest packet that the server takes.
    pub(super) packet: usize,
    /// Set by an operation that made a job due.
    pub(super) became_due: bool,
}

/// How an operation is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Changes nothing.
    Read,
    /// Is one statement, which commits by itself.
    Statement,
    /// Is a transaction.
    Transaction,
}

/// Connections to the database.
#[derive(Debug, Clone)]
pub(super) struct Database {
    pub(super) pool: MySqlPool,
    pub(super) clock: Option<Arc<dyn Clock>>,
    pub(super) packet: usize,
    /// How long an attempt may take altogether.
    pub(super) patience: Duration,
}

/// What an operation answered, and whether it made a job due.
pub(super) struct Done<T> {
    pub(super) output: T,
    pub(super) became_due: bool,
}

impl Database {
    /// Runs what changes nothing.
    pub(super) async fn read<O: Operation>(&self, operation: &O) -> Result<O::Output> {
        self.run(operation, Mode::Read).await.map(|done| done.output)
    }

    /// Runs what is one statement, or several of which each may stand alone.
    pub(super) async fn statement<O: Operation>(&self, operation: &O) -> Result<Done<O::Output>> {
        self.run(operation, Mode::Statement).await
    }

    /// Runs what happens as a whole or not at all.
    pub(super) async fn transaction<O: Operation>(&self, operation: &O) -> Result<Done<O::Output>> {
        self.run(operation, Mode::Transaction).await
    }

    async fn run<O: Operation>(&self, operation: &O, mode: Mode) -> Result<Done<O::Output>> {
        let mut attempt = 1;
        loop {
            let error = match self.attempt(operation, mode).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let attempts = match error.code() {
                _ if error.effect() == Effect::Possible => 1,
                code::DEADLOCK | code::DUPLICATE => ATTEMPTS,
                code::LOCK_TIMEOUT => SLOW_ATTEMPTS,
                // All connections may have ended at once, and each says so only when it is used.
                code::LOST => self.pool.options().get_max_connections().saturating_add(2),
                _ => 1,
            };
            if attempt >= attempts {
                return Err(error);
            }
            let pause = Duration::from_millis(1 << attempt.min(7)).min(PAUSE_MAX);
            sleep(Jitter::random().apply(pause, 0.9)).await;
            attempt += 1;
        }
    }

    async fn attempt<O: Operation>(&self, operation: &O, mode: Mode) -> Result<Done<O::Output>> {
        let mut connection = self.pool.acquire().await.map_err(|error| self.connect_error(O::NAME, error))?;
        let clock = self.clock.as_ref().map(|clock| timestamp::to_millis(timestamp::floor(clock.now())));
        let work = async {
            match mode {
                Mode::Transaction => self.transact(operation, &mut connection, clock).await,
                Mode::Read | Mode::Statement => {
                    let mut tx =
                        Transaction { connection: &mut connection, clock, packet: self.packet, became_due: false };
                    let output = operation.run(&mut tx).await.map_err(|error| match mode {
                        // The statement may have arrived.
                        Mode::Statement if breaks(&error) => uncertain(error),
                        _ => error,
                    })?;
                    Ok(Done { output, became_due: tx.became_due })
                }
            }
        };
        let result = match timeout(self.patience, work).await {
            Ok(result) => result,
            Err(_) if mode == Mode::Read => Err(silent(O::NAME)),
            Err(_) => Err(uncertain(silent(O::NAME))),
        };
        if let Err(error) = &result
            && (breaks(error) || error.code() == code::READ_ONLY)
        {
            // Of no use to anybody any more; given back, it would be asked whether it is alive, which takes time.
            drop(connection.detach());
        }
        result
    }

    /// Why there is no connection: nothing was asked yet, and asking again at once does not help.
    fn connect_error(&self, operation: &'static str, error: sqlx::Error) -> Error {
        match error {
            // The pool goes on trying until its time is over.
            sqlx::Error::PoolTimedOut if self.pool.size() < self.pool.options().get_max_connections() => {
                Error::network(operation, "unreachable", "the server could not be reached in time").with_source(error)
            }
            other => connect_error(operation, other),
        }
    }

    async fn transact<O: Operation>(
        &self,
        operation: &O,
        connection: &mut MySqlConnection,
        clock: Option<i64>,
    ) -> Result<Done<O::Output>> {
        let failed = |error| store_error(O::NAME, error);
        let mut transaction = connection.begin().await.map_err(failed)?;
        let mut tx = Transaction { connection: &mut transaction, clock, packet: self.packet, became_due: false };
        match operation.run(&mut tx).await {
            Ok(output) => {
                let became_due = tx.became_due;
                // What a server reports about a commit is certain; that it is not heard of any more is not.
                transaction.commit().await.map_err(failed).map_err(|error| match error.code() {
                    code::DEADLOCK => error,
                    _ => uncertain(error),
                })?;
                Ok(Done { output, became_due })
            }
            Err(error) => {
                if !breaks(&error) {
                    // It fails when the connection is gone, and the transaction with it.
                    let _ = transaction.rollback().await;
                }
                Err(error)
            }
        }
    }
}

/// Whether nothing more can be said over the connection that failed with `error`.
fn breaks(error: &Error) -> bool {
    matches!(error.code(), code::LOST | "store_protocol" | "no_answer")
}
