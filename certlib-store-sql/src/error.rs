//! Errors that every store of this crate has.

use certlib_core::error::Error;

/// The store was closed, or its runtime is going down.
pub(crate) fn closed(operation: &'static str) -> Error {
    Error::transient(operation, "store_closed", "the store is closed")
}

/// A stored value that no version of certlib wrote.
pub(crate) fn unreadable(what: &'static str) -> Error {
    Error::permanent("store.decode", "row_unreadable", "what the database holds cannot be read by this version")
        .with("value", what)
}
