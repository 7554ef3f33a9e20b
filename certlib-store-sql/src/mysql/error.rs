//! From the server's error numbers to certlib's classes.

use certlib_core::error::{Effect, Error, ErrorClass};
use sqlx::mysql::MySqlDatabaseError;

pub(super) use crate::error::{closed, unreadable};

/// Codes that [`Database`](super::database::Database) reacts to.
pub(super) mod code {
    /// The server gave up one of several transactions that waited for each other.
    pub(crate) const DEADLOCK: &str = "deadlock";
    /// Somebody kept a row locked for too long.
    pub(crate) const LOCK_TIMEOUT: &str = "lock_timeout";
    /// Somebody else inserted the same row at the same time.
    pub(crate) const DUPLICATE: &str = "duplicate_key";
    /// The connection broke.
    pub(crate) const LOST: &str = "connection_lost";
    /// The server, or a replica that took its place, takes no writes.
    pub(crate) const READ_ONLY: &str = "read_only";
}

/// The server's error number, when `error` comes from the server.
pub(super) fn number(error: &sqlx::Error) -> Option<u16> {
    let database = error.as_database_error()?;
    database.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

/// Whether a unique key refused a row.
pub(super) fn is_duplicate(error: &sqlx::Error) -> bool {
    number(error) == Some(1062)
}

/// `error`, seen by `operation`, as certlib's. Its effect is none: a transaction that did not commit is undone.
pub(super) fn store_error(operation: &'static str, error: sqlx::Error) -> Error {
    use ErrorClass::{Auth, IoPermanent, IoTransient, Network, Validation};
    let number = number(&error);
    let (class, name, message) = match number {
        Some(1213 | 1614 | 1020 | 3101) => {
            (IoTransient, code::DEADLOCK, "the server chose this transaction to end a deadlock")
        }
        Some(1205) => (IoTransient, code::LOCK_TIMEOUT, "another transaction kept a row locked for too long"),
        Some(1062) => (IoTransient, code::DUPLICATE, "another transaction inserted the same row"),
        Some(1969 | 3024 | 1317 | 1028) => (IoTransient, "statement_timeout", "the statement took too long"),
        Some(1040 | 1203 | 1226) => (IoTransient, "too_many_connections", "the server takes no more connections"),
        Some(1053 | 1927 | 4031 | 3168 | 1152 | 1158..=1161 | 1077..=1079) => {
            (Network, code::LOST, "the server ended the connection")
        }
        Some(1290 | 1836 | 1792 | 3100) => (IoTransient, code::READ_ONLY, "the server takes no writes"),
        Some(1044 | 1045 | 1095 | 1142 | 1143 | 1227 | 1698 | 1820 | 1862) => {
            (Auth, "access_denied", "the server does not let this user in, or not do this")
        }
        Some(1049) => (IoPermanent, "database_missing", "the database does not exist"),
        Some(1114 | 1021 | 1041) => (IoPermanent, "disk_full", "the server has no room left"),
        Some(1153 | 1301 | 1406 | 1264 | 1118) => (Validation, "too_large", "a value is larger than the server takes"),
        Some(_) => (IoPermanent, "database_error", "the server refused the statement"),
        None => match &error {
            sqlx::Error::PoolTimedOut => (IoTransient, "database_busy", "all connections are in use"),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => return closed(operation).with_source(error),
            sqlx::Error::Io(_) => (Network, code::LOST, "the connection to the server failed"),
            sqlx::Error::Tls(_) => (Network, "tls_failed", "the server cannot be reached safely over TLS"),
            sqlx::Error::Protocol(_) | sqlx::Error::BeginFailed => {
                (Network, "store_protocol", "the server answered with something else than was asked for")
            }
            sqlx::Error::Configuration(_) => (Validation, "url_invalid", "the database URL cannot be used"),
            _ => (IoPermanent, "row_unreadable", "what the database holds cannot be read by this version"),
        },
    };
    let stored = Error::new(class, operation, name, message);
    let stored = match number {
        Some(number) => stored.with("mysql_code", number),
        None => stored,
    };
    stored.with_source(error)
}

/// Why a connection could not be made.
pub(super) fn connect_error(operation: &'static str, error: sqlx::Error) -> Error {
    match error {
        // What the TLS library says about the server's certificate comes as invalid data.
        sqlx::Error::Io(source) if source.kind() == std::io::ErrorKind::InvalidData => {
            store_error(operation, sqlx::Error::Tls(source.into()))
        }
        sqlx::Error::Io(source) => {
            Error::network(operation, "unreachable", "the server cannot be reached").with_source(source)
        }
        other => store_error(operation, other),
    }
}

/// `error`, when it hit something whose outcome nobody knows now.
pub(super) fn uncertain(error: Error) -> Error {
    error.with_effect(Effect::Possible)
}

/// Nobody answered in time.
pub(super) fn silent(operation: &'static str) -> Error {
    Error::network(operation, "no_answer", "the server did not answer in time")
}

/// A row that no packet can carry.
pub(super) fn too_large(operation: &'static str, actual: usize, limit: usize) -> Error {
    Error::validation(operation, "too_large", "a value is larger than the server takes")
        .with("setting", "max_allowed_packet")
        .with("limit", limit)
        .with("actual", actual)
}
