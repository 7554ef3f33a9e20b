//! From the driver's errors to certlib's classes.

use certlib_core::error::{Effect, Error, ErrorClass};
use mongodb::error::{Error as MongoError, ErrorKind, TRANSIENT_TRANSACTION_ERROR, WriteFailure};

/// Codes of the server.
pub(crate) mod code {
    pub(crate) const UNAUTHORIZED: i32 = 13;
    pub(crate) const AUTHENTICATION_FAILED: i32 = 18;
    pub(crate) const NAMESPACE_EXISTS: i32 = 48;
    pub(crate) const WRITE_CONFLICT: i32 = 112;
    pub(crate) const DUPLICATE_KEY: i32 = 11_000;
    pub(crate) const NOT_PRIMARY: i32 = 10_107;
    pub(crate) const OUT_OF_DISK: i32 = 14_031;
    pub(crate) const TOO_LARGE: i32 = 10_334;
    pub(crate) const INDEX_OPTIONS_CONFLICT: i32 = 85;
    pub(crate) const INDEX_KEYS_CONFLICT: i32 = 86;
    /// The server goes down, hands over, or cannot be reached by another one.
    pub(crate) const AWAY: [i32; 11] = [6, 7, 89, 91, 189, 262, 9001, 11_600, 11_602, 13_435, 13_436];
    /// The server is busy or gave up waiting.
    pub(crate) const BUSY: [i32; 7] = [24, 46, 50, 112, 202, 246, 251];
    /// A write is not where it was asked to be: on the disks of a majority.
    pub(crate) const CONCERN: [i32; 3] = [64, 79, 100];
}

/// The server's code, wherever the driver put it.
pub(crate) fn code_of(error: &MongoError) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => Some(concern.code),
        ErrorKind::InsertMany(many) => match (&many.write_concern_error, many.write_errors.as_deref()) {
            (Some(concern), _) => Some(concern.code),
            (None, Some([first, ..])) => Some(first.code),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a unique index refused the write.
pub(crate) fn is_duplicate(error: &MongoError) -> bool {
    code_of(error) == Some(code::DUPLICATE_KEY)
}

/// Whether the write was made, but not yet where it is safe.
fn is_concern(error: &MongoError) -> bool {
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteConcernError(_)) => true,
        ErrorKind::InsertMany(many) => many.write_concern_error.is_some(),
        _ => false,
    }
}

/// Whether the same call may succeed when it is sent again, because the primary was away.
pub(crate) fn is_away(error: &MongoError) -> bool {
    match &*error.kind {
        ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } => true,
        _ => code_of(error).is_some_and(|code| code == code::NOT_PRIMARY || code::AWAY.contains(&code)),
    }
}

/// Whether a transaction failed for a reason that is gone when it is run again.
pub(crate) fn is_transient(error: &MongoError) -> bool {
    error.contains_label(TRANSIENT_TRANSACTION_ERROR)
        || is_duplicate(error)
        || code_of(error) == Some(code::WRITE_CONFLICT)
}

/// `error`, seen by `operation`, as certlib's; the effect is none.
pub(crate) fn store_error(operation: &'static str, error: MongoError) -> Error {
    use ErrorClass::{Auth, IoPermanent, IoTransient, Network, Validation};
    let server_code = code_of(&error);
    let (class, name, message) = match (&*error.kind, server_code) {
        _ if is_concern(&error) => {
            (IoTransient, "write_concern_failed", "the write is not yet on the disks of a majority")
        }
        (_, Some(code::UNAUTHORIZED)) => (Auth, "unauthorized", "the database user lacks a permission"),
        (_, Some(code::AUTHENTICATION_FAILED)) => (Auth, "authentication_failed", "the database refused the login"),
        (_, Some(code::OUT_OF_DISK)) => (IoPermanent, "disk_full", "the disk of the database is full"),
        (_, Some(code::TOO_LARGE)) => (Validation, "too_large", "a value is larger than MongoDB takes"),
        (_, Some(code::NOT_PRIMARY)) => (Network, "primary_unavailable", "no primary answers"),
        (_, Some(code)) if code::AWAY.contains(&code) => (Network, "primary_unavailable", "no primary answers"),
        (_, Some(code)) if code::BUSY.contains(&code) => (IoTransient, "database_busy", "the database is busy"),
        (_, Some(code)) if code::CONCERN.contains(&code) => {
            (IoTransient, "write_concern_failed", "the write is not yet on the disks of a majority")
        }
        (_, Some(_)) => (IoPermanent, "database_error", "MongoDB refused the command"),
        (ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. }, _) => {
            (Network, "connection_failed", "the connection to the database failed")
        }
        (ErrorKind::ServerSelection { .. }, _) => (Network, "primary_unavailable", "no primary answers"),
        (ErrorKind::DnsResolve { .. }, _) => (Network, "name_unresolved", "a name of the database does not resolve"),
        (ErrorKind::Authentication { .. }, _) => (Auth, "authentication_failed", "the database refused the login"),
        (ErrorKind::InvalidTlsConfig { .. }, _) => (IoPermanent, "tls_invalid", "the TLS settings cannot be used"),
        (ErrorKind::Shutdown, _) => (IoTransient, "store_closed", "the store is closed"),
        (ErrorKind::BsonDeserialization(_) | ErrorKind::Bson(_), _) => {
            (IoPermanent, "row_unreadable", "what the database holds cannot be read by this version")
        }
        _ => (IoPermanent, "database_error", "the driver refused the call"),
    };
    let stored = Error::new(class, operation, name, message);
    let stored = match server_code {
        Some(code) => stored.with("mongodb_code", code),
        None => stored,
    };
    stored.with_source(error)
}

/// A write that failed: its effect is in doubt unless it certainly was not made.
pub(crate) fn write_error(operation: &'static str, error: MongoError) -> Error {
    let certainly_not = match &*error.kind {
        ErrorKind::ServerSelection { .. }
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::Authentication { .. }
        | ErrorKind::DnsResolve { .. }
        | ErrorKind::InvalidArgument { .. } => true,
        // Refused as a whole, before anything was done.
        ErrorKind::Command(command) => command.code == code::NOT_PRIMARY || command.code == code::UNAUTHORIZED,
        ErrorKind::Write(WriteFailure::WriteError(_)) => true,
        _ => false,
    };
    let error = store_error(operation, error);
    if certainly_not { error } else { error.with_effect(Effect::Possible) }
}

/// Others wrote the same documents again and again.
pub(crate) fn contended(operation: &'static str) -> Error {
    Error::transient(operation, "database_busy", "others kept writing the same documents")
}

/// No answer within the time that a call may take.
pub(crate) fn timed_out(operation: &'static str) -> Error {
    Error::network(operation, "timeout", "the database did not answer in time")
}

/// A stored value that no version of certlib wrote.
pub(crate) fn unreadable(what: &'static str) -> Error {
    Error::permanent("store.decode", "row_unreadable", "what the database holds cannot be read by this version")
        .with("value", what)
}

/// A newer core has conditions, effects or filters that this store does not know: refusing is the only safe answer.
pub(crate) fn unknown(operation: &'static str, what: &dyn std::fmt::Debug) -> Error {
    Error::permanent(operation, "unsupported", "this store does not know this condition, effect or filter")
        .with("what", format_args!("{what:?}"))
}
