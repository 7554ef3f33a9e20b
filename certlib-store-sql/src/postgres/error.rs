//! From PostgreSQL's SQLSTATEs to certlib's classes.

use certlib_core::error::{Effect, Error, ErrorClass};

pub(super) use crate::error::{closed, unreadable};

/// The connection is gone, and with it whatever was not committed.
pub(super) const CONNECTION_LOST: &str = "connection_lost";
/// Another transaction was in the way: the same again may succeed.
pub(super) const CONTENDED: &str = "contended";

const TLS_FAILED: (ErrorClass, &str, &str) =
    (ErrorClass::Auth, "tls_failed", "TLS with the database failed, or is not what was demanded");

/// `error`, seen by `operation`, as certlib's.
///
/// The effect is none: what was not committed is rolled back. Who commits says otherwise.
pub(super) fn store_error(operation: &'static str, error: sqlx::Error) -> Error {
    use ErrorClass::{IoPermanent, IoTransient, Network, Validation};
    let state = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
    let (class, name, message) = match (&error, state.as_deref()) {
        (_, Some(state)) => of_state(state),
        (sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed, _) => return closed(operation).with_source(error),
        (sqlx::Error::PoolTimedOut, _) => {
            (IoTransient, "no_connection", "no connection became free, or came up, in time")
        }
        // What rustls refuses arrives as data that is invalid.
        (sqlx::Error::Io(cause), _) if cause.kind() == std::io::ErrorKind::InvalidData => TLS_FAILED,
        (sqlx::Error::Tls(_), _) => TLS_FAILED,
        (sqlx::Error::Io(_), _) => (Network, CONNECTION_LOST, "the connection to the database failed"),
        (sqlx::Error::Protocol(_), _) => (Network, "store_protocol", "the database answered with something unexpected"),
        (sqlx::Error::Configuration(_), _) => (Validation, "url_invalid", "the address of the database cannot be used"),
        (sqlx::Error::Encode(_), _) => (Validation, "value_invalid", "a value cannot be sent to the database"),
        _ => (IoPermanent, "row_unreadable", "what the database holds cannot be read by this version"),
    };
    let stored = Error::new(class, operation, name, message);
    let stored = match state {
        Some(state) => stored.with("sqlstate", state),
        None => stored,
    };
    stored.with_source(error)
}

fn of_state(state: &str) -> (ErrorClass, &'static str, &'static str) {
    use ErrorClass::{Auth, IoPermanent, IoTransient, Network, Validation};
    match state {
        "40001" | "40P01" => (IoTransient, CONTENDED, "another transaction was in the way"),
        "55P03" => (IoTransient, "lock_timeout", "somebody else keeps a row locked"),
        "57014" => (IoTransient, "statement_timeout", "the statement took too long, or was cancelled"),
        "57P01" | "57P02" | "57P05" | "25P03" => (Network, CONNECTION_LOST, "the database ended the session"),
        "57P03" => (IoTransient, "starting_up", "the database is starting up or shutting down"),
        "25006" => (IoTransient, "read_only", "the database takes no writes: it may be a standby now"),
        "53300" => (IoTransient, "too_many_connections", "the database has no connection to spare"),
        "53100" => (IoPermanent, "disk_full", "the database's disk is full"),
        "58030" => (IoTransient, "io_error", "the database's disk failed"),
        "XX001" | "XX002" => (IoPermanent, "database_corrupt", "the database is damaged"),
        "3D000" => (IoPermanent, "database_missing", "the database does not exist"),
        "42501" => (IoPermanent, "permission_denied", "the database does not let us do this"),
        "42P01" | "42703" | "3F000" => (IoPermanent, "schema_missing", "certlib's tables are not there"),
        "54000" | "54001" => (Validation, "too_large", "a value is larger than the database takes"),
        _ => match state.get(..2) {
            Some("08") => (Network, CONNECTION_LOST, "the connection to the database failed"),
            Some("22") => (Validation, "value_invalid", "the database cannot keep this value"),
            Some("28") => (Auth, "login_refused", "the database does not let us in"),
            Some("53") => (IoTransient, "out_of_resources", "the database is out of resources"),
            Some("57") => (IoTransient, "interrupted", "the database interrupted the statement"),
            _ => (IoPermanent, "database_error", "the database refused the statement"),
        },
    }
}

/// Whether `error` broke a unique index.
pub(super) fn is_duplicate(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// No answer came in time; the connection is given up.
pub(super) fn no_answer(operation: &'static str) -> Error {
    Error::network(operation, CONNECTION_LOST, "the database did not answer in time")
}

/// What a commit whose answer is missing leaves in doubt.
pub(super) fn in_doubt(error: Error) -> Error {
    let answered = error.code() != CONNECTION_LOST && error.code() != "store_protocol";
    if answered { error } else { error.with_effect(Effect::Possible) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_states_has_its_remedy() {
        for (state, class, code) in [
            ("40P01", ErrorClass::IoTransient, CONTENDED),
            ("57P01", ErrorClass::Network, CONNECTION_LOST),
            ("08006", ErrorClass::Network, CONNECTION_LOST),
            ("28P01", ErrorClass::Auth, "login_refused"),
            ("53200", ErrorClass::IoTransient, "out_of_resources"),
            ("53100", ErrorClass::IoPermanent, "disk_full"),
            ("22021", ErrorClass::Validation, "value_invalid"),
            ("42601", ErrorClass::IoPermanent, "database_error"),
            ("", ErrorClass::IoPermanent, "database_error"),
        ] {
            let (actual, name, _) = of_state(state);
            assert_eq!((actual, name), (class, code), "{state}");
        }
    }

    #[test]
    fn only_a_missing_answer_is_in_doubt() {
        assert_eq!(in_doubt(no_answer("t")).effect(), Effect::Possible);
        assert_eq!(in_doubt(Error::transient("t", "lock_timeout", "m")).effect(), Effect::None);
    }
}
