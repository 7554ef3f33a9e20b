//! From SQLite's result codes to certlib's classes.

use std::sync::Arc;

use certlib_core::error::{Effect, Error, ErrorClass};
use sqlx::error::DatabaseError;

pub(super) use crate::error::{closed, unreadable};

/// Primary result codes of SQLite.
pub(super) mod code {
    pub(crate) const ERROR: i32 = 1;
    pub(crate) const BUSY: i32 = 5;
    pub(crate) const LOCKED: i32 = 6;
    pub(crate) const NOMEM: i32 = 7;
    pub(crate) const READONLY: i32 = 8;
    pub(crate) const INTERRUPT: i32 = 9;
    pub(crate) const IOERR: i32 = 10;
    pub(crate) const CORRUPT: i32 = 11;
    pub(crate) const FULL: i32 = 13;
    pub(crate) const CANTOPEN: i32 = 14;
    pub(crate) const PROTOCOL: i32 = 15;
    pub(crate) const TOOBIG: i32 = 18;
    pub(crate) const NOTADB: i32 = 26;
}

/// The primary result code, when `error` comes from SQLite itself.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let database = error.as_database_error()?;
    database.code()?.parse::<i32>().ok().map(|extended| extended & 0xff)
}

/// `error`, seen by `operation`, as certlib's.
///
/// The effect is none: whatever fails before the commit is rolled back.
pub(super) fn store_error(operation: &'static str, error: impl Into<Arc<sqlx::Error>>) -> Error {
    let error = error.into();
    use ErrorClass::{IoPermanent, IoTransient, Validation};
    let (class, name, message) = match primary_code(&error) {
        Some(code::BUSY | code::LOCKED | code::PROTOCOL) => {
            (IoTransient, "database_busy", "another process keeps the database busy")
        }
        Some(code::NOMEM) => (IoTransient, "out_of_memory", "SQLite is out of memory"),
        Some(code::INTERRUPT) => (IoTransient, "interrupted", "the statement was interrupted"),
        Some(code::IOERR) => (IoTransient, "io_error", "the disk failed"),
        Some(code::FULL) => (IoPermanent, "disk_full", "the disk, or the room given to the database, is full"),
        Some(code::READONLY) => (IoPermanent, "read_only", "the database file or its directory cannot be written"),
        Some(code::CORRUPT) => (IoPermanent, "database_corrupt", "the database file is damaged"),
        Some(code::NOTADB) => (IoPermanent, "not_a_database", "the file is not a SQLite database"),
        Some(code::CANTOPEN) => (IoPermanent, "cannot_open", "the database file cannot be opened or created"),
        Some(code::TOOBIG) => (Validation, "too_large", "a value is larger than SQLite takes"),
        Some(_) => (IoPermanent, "database_error", "SQLite refused the statement"),
        None => match &*error {
            sqlx::Error::PoolTimedOut => (IoTransient, "database_busy", "too many reads at the same time"),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => return closed(operation).with_source(error),
            sqlx::Error::Io(_) => (IoTransient, "io_error", "the connection to the database failed"),
            _ => (IoPermanent, "row_unreadable", "what the database holds cannot be read by this version"),
        },
    };
    let result_code = error.as_database_error().and_then(DatabaseError::code).map(|code| code.into_owned());
    let stored = Error::new(class, operation, name, message);
    let stored = match result_code {
        Some(code) => stored.with("sqlite_code", code),
        None => stored,
    };
    stored.with_source(error)
}

/// What a commit that failed leaves in doubt: its frames may have reached the log, and survive a crash.
pub(super) fn commit_error(error: impl Into<Arc<sqlx::Error>>) -> Error {
    store_error("store.commit", error).with_effect(Effect::Possible)
}
