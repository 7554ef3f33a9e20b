//! One transaction, run again as long as others get in its way.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use certlib_core::error::{Effect, Error};
use mongodb::ClientSession;
use mongodb::error::{Error as MongoError, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use time::OffsetDateTime;

use crate::database::Database;
use crate::error::{contended, is_away, is_transient, store_error, write_error};

/// How often a transaction is begun before it counts as contended.
const ATTEMPTS: u32 = 30;
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What happens within one transaction, and may happen again when it has to be repeated.
#[async_trait]
pub(crate) trait Operation: Send + Sync {
    /// What it gives when it was committed.
    type Output: Send;

    /// The name for errors.
    const NAME: &'static str;

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<Self::Output, Failure>;
}

/// A transaction that is open.
pub(crate) struct Transaction<'a> {
    pub(crate) database: &'a Database,
    pub(crate) session: ClientSession,
    /// The time at which all of it happens.
    pub(crate) now: OffsetDateTime,
    /// Whether a job becomes due with it.
    pub(crate) became_due: bool,
}

/// Why a transaction was given up.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The database failed.
    Database(MongoError),
    /// A condition did not hold, or a value was unreadable.
    Refused(Error),
}

impl From<MongoError> for Failure {
    fn from(error: MongoError) -> Self {
        Self::Database(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// Runs `operation` in a transaction and commits it.
pub(crate) async fn transact<O: Operation>(database: &Database, operation: &O) -> Result<O::Output, Error> {
    match transact_within(database, operation, ATTEMPTS).await {
        Ok(output) => output.ok_or_else(|| contended(O::NAME)),
        Err(error) => Err(error),
    }
}

/// Like [`transact`], beginning at most `attempts` times; `None` when others were in the way each time.
pub(crate) async fn transact_within<O: Operation>(
    database: &Database,
    operation: &O,
    attempts: u32,
) -> Result<Option<O::Output>, Error> {
    let deadline = Instant::now() + database.timeout;
    for attempt in 0..attempts {
        if attempt > 0 {
            pause(attempt).await;
        }
        let now = database.now().await?;
        let mut session = database.client.start_session().await.map_err(|error| store_error(O::NAME, error))?;
        let begun = session.start_transaction().with_options(database.transaction_options()).await;
        begun.map_err(|error| store_error(O::NAME, error))?;
        let mut tx = Transaction { database, session, now, became_due: false };
        match operation.run(&mut tx).await {
            Ok(output) => match commit(&mut tx.session, deadline).await {
                Ok(()) => {
                    if tx.became_due {
                        database.wake();
                    }
                    return Ok(Some(output));
                }
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(write_error(O::NAME, error).with_effect(Effect::Possible)),
            },
            Err(failure) => {
                // If it cannot be told, the server ends it by itself.
                let _ = tx.session.abort_transaction().await;
                match failure {
                    Failure::Refused(error) => return Err(error),
                    Failure::Database(error) if is_transient(&error) || is_away(&error) => {}
                    Failure::Database(error) => return Err(store_error(O::NAME, error)),
                }
            }
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    Ok(None)
}

/// Commits; a commit whose answer was lost is asked for again, which cannot commit twice.
async fn commit(session: &mut ClientSession, deadline: Instant) -> Result<(), MongoError> {
    let mut attempt = 0;
    loop {
        match session.commit_transaction().await {
            Err(error) if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) && Instant::now() < deadline => {
                attempt += 1;
                if attempt >= ATTEMPTS {
                    return Err(error);
                }
                pause(attempt).await;
            }
            result => return result,
        }
    }
}

/// A random pause that grows with the number of the attempt.
pub(crate) async fn pause(attempt: u32) {
    let longest = Duration::from_millis(1 << attempt.min(7)).min(PAUSE_MAX);
    tokio::time::sleep(longest.mul_f64(rand::random_range(0.2..1.0))).await;
}
