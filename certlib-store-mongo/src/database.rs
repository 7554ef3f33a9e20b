//! The connection, the collections, and what every call needs of them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bson::{Bson, Document, doc};
use certlib_core::clock::Clock;
use certlib_core::error::Result;
use certlib_core::model::new_id;
use futures::TryStreamExt;
use mongodb::action::Find;
use mongodb::error::{Error as MongoError, ErrorKind, WriteFailure};
use mongodb::options::{ReadConcern, TransactionOptions, WriteConcern};
use mongodb::{Client, ClientSession, Collection};
use time::OffsetDateTime;
use tokio::sync::{Mutex, watch};

use crate::error::{store_error, unreadable};
use certlib_core::store::timestamp::{self, LAST, from_millis, to_millis};

/// Most statements of one command, and about the most bytes of them: a command has 16 MiB.
const STATEMENTS_MAX: usize = 1000;
const STATEMENT_BYTES_MAX: usize = 6 << 20;

/// Everything that the views of one store share.
pub(crate) struct Database {
    pub(crate) client: Client,
    pub(crate) handle: mongodb::Database,
    pub(crate) records: Collection<Document>,
    pub(crate) jobs: Collection<Document>,
    pub(crate) leases: Collection<Document>,
    pub(crate) schema: Collection<Document>,
    pub(crate) timeout: Duration,
    pub(crate) wakeups: watch::Sender<u64>,
    pub(crate) vacancies: watch::Sender<u64>,
    /// Commits under a lease all write the lease: one after the other they do not get in each other's way.
    pub(crate) leaders: Mutex<()>,
    /// What the writes of this store sign their wake-up calls with, so that it does not hear its own.
    pub(crate) instance: String,
    clock: Option<Arc<dyn Clock>>,
    calls: AtomicU64,
}

impl Database {
    pub(crate) fn new(client: Client, name: &str, clock: Option<Arc<dyn Clock>>, timeout: Duration) -> Self {
        let handle = client.database(name);
        Self {
            records: handle.collection("certlib_records"),
            jobs: handle.collection("certlib_jobs"),
            leases: handle.collection("certlib_leases"),
            schema: handle.collection("certlib_schema"),
            client,
            handle,
            timeout,
            wakeups: watch::Sender::new(0),
            vacancies: watch::Sender::new(0),
            leaders: Mutex::new(()),
            instance: new_id(),
            clock,
            calls: AtomicU64::new(0),
        }
    }

    /// The time as an expression in Unix milliseconds, evaluated by the server when it has no other clock.
    pub(crate) fn now_expression(&self) -> Bson {
        match &self.clock {
            Some(clock) => Bson::Int64(to_millis(timestamp::floor(clock.now()))),
            None => doc! { "$toLong": "$$NOW" }.into(),
        }
    }

    /// The time after `wait`, as an expression.
    pub(crate) fn later_expression(&self, wait: Duration) -> Bson {
        let wait = wait.as_nanos().div_ceil(1_000_000);
        let wait = i64::try_from(wait).map_or(LAST, |wait| wait.min(LAST));
        doc! { "$min": [LAST, { "$add": [self.now_expression(), wait] }] }.into()
    }

    /// The condition that `field` is not later than now.
    pub(crate) fn passed(&self, field: &str) -> Document {
        match &self.clock {
            Some(_) => doc! { field: { "$lte": self.now_expression() } },
            None => doc! { "$expr": { "$lte": [format!("${field}"), self.now_expression()] } },
        }
    }

    /// The time, asked of the primary, rounded down to the millisecond.
    pub(crate) async fn now(&self) -> Result<OffsetDateTime> {
        if let Some(clock) = &self.clock {
            return Ok(timestamp::floor(clock.now()));
        }
        let hello =
            self.handle.run_command(doc! { "hello": 1 }).await.map_err(|error| store_error("store.now", error))?;
        let time = hello.get_datetime("localTime").map_err(|_| unreadable("localTime"))?;
        from_millis(time.timestamp_millis())
    }

    /// A fresh mark for documents written together.
    pub(crate) fn token(&self) -> String {
        format!("{}/{}", self.instance, self.calls.fetch_add(1, Ordering::Relaxed))
    }

    /// Tells the workers of this process that jobs became due.
    pub(crate) fn wake(&self) {
        self.wakeups.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Tells the candidates of this process that a lease became free.
    pub(crate) fn vacate(&self) {
        self.vacancies.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Writes are acknowledged when they are on the disks of a majority, or reported as failed.
    pub(crate) fn write_concern(timeout: Duration) -> WriteConcern {
        let mut concern = WriteConcern::majority();
        concern.journal = Some(true);
        concern.w_timeout = Some(timeout);
        concern
    }

    pub(crate) fn transaction_options(&self) -> TransactionOptions {
        TransactionOptions::builder()
            .read_concern(ReadConcern::snapshot())
            .write_concern(Self::write_concern(self.timeout))
            .build()
    }

    /// Runs update statements, in as few commands as they fit in. Returns how many documents they matched.
    ///
    /// The driver does not repeat this command by itself: statements must say what they expect to find.
    pub(crate) async fn update_each(
        &self,
        collection: &Collection<Document>,
        statements: Vec<Document>,
        mut session: Option<&mut ClientSession>,
    ) -> Result<u64, MongoError> {
        let mut matched = 0;
        for statements in chunks(statements)? {
            let mut command = doc! { "update": collection.name(), "updates": statements, "ordered": false };
            if session.is_none() {
                let timeout = i64::try_from(self.timeout.as_millis()).unwrap_or(i64::MAX);
                command.insert("writeConcern", doc! { "w": "majority", "j": true, "wtimeout": timeout });
            }
            let action = self.handle.run_command(command);
            let reply = match session.as_deref_mut() {
                Some(session) => action.session(session).await?,
                None => action.await?,
            };
            matched += matched_by(reply)?;
        }
        Ok(matched)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("name", &self.handle.name()).finish_non_exhaustive()
    }
}

/// What `find` finds, within the transaction of `session` if there is one.
pub(crate) async fn find_all(
    find: Find<'_, Document>,
    session: Option<&mut ClientSession>,
) -> Result<Vec<Document>, MongoError> {
    match session {
        Some(session) => find.session(&mut *session).await?.stream(session).try_collect().await,
        None => find.await?.try_collect().await,
    }
}

fn chunks(statements: Vec<Document>) -> Result<Vec<Vec<Document>>, MongoError> {
    let mut chunks: Vec<Vec<Document>> = Vec::new();
    let mut room = 0;
    for statement in statements {
        let bytes = statement.to_vec().map_err(ErrorKind::Bson)?.len();
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < STATEMENTS_MAX && bytes <= room => {
                room -= bytes;
                chunk.push(statement);
            }
            _ => {
                room = STATEMENT_BYTES_MAX.saturating_sub(bytes);
                chunks.push(vec![statement]);
            }
        }
    }
    Ok(chunks)
}

/// The number of matches that an update reports, unless it reports a failure.
fn matched_by(mut reply: Document) -> Result<u64, MongoError> {
    let failure = |failure: WriteFailure| -> MongoError { ErrorKind::Write(failure).into() };
    if let Some(Bson::Array(errors)) = reply.remove("writeErrors")
        && let Some(first) = errors.into_iter().next()
    {
        let error = bson::deserialize_from_bson(first).map_err(ErrorKind::Bson)?;
        return Err(failure(WriteFailure::WriteError(error)));
    }
    if let Some(concern) = reply.remove("writeConcernError") {
        let error = bson::deserialize_from_bson(concern).map_err(ErrorKind::Bson)?;
        return Err(failure(WriteFailure::WriteConcernError(error)));
    }
    let matched = match reply.get("n") {
        Some(Bson::Int32(matched)) => i64::from(*matched),
        Some(Bson::Int64(matched)) => *matched,
        _ => 0,
    };
    Ok(matched.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{code_of, write_error};

    #[test]
    fn a_write_concern_error_in_a_reply_that_is_ok_is_an_error() {
        let reply = doc! { "ok": 1.0, "n": 1, "writeConcernError": { "code": 64, "errmsg": "waiting timed out" } };
        let error = write_error("test", matched_by(reply).unwrap_err());
        assert_eq!((error.code(), error.effect()), ("write_concern_failed", certlib_core::Effect::Possible));
        let reply = doc! { "ok": 1.0, "n": 0, "writeErrors": [{ "index": 0, "code": 11000, "errmsg": "dup" }] };
        assert_eq!(code_of(&matched_by(reply).unwrap_err()), Some(11_000));
        assert_eq!(matched_by(doc! { "ok": 1.0, "n": 3 }).unwrap(), 3);
    }

    #[test]
    fn commands_stay_small() {
        let statement = |bytes: usize| doc! { "q": "x".repeat(bytes) };
        assert!(chunks(Vec::new()).unwrap().is_empty());
        let many = chunks((0..2500).map(|_| statement(1)).collect()).unwrap();
        assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [1000, 1000, 500]);
        let large = chunks((0..7).map(|_| statement(3_000_000)).collect()).unwrap();
        assert_eq!(large.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2, 1]);
    }
}
