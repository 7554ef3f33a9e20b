//! Keys in a real token, of SoftHSM2.
//!
//! The library is told by its environment where its tokens are, and has one state per process. So each test makes a
//! token and runs itself once more, as a process of its own with that environment.
#![cfg(feature = "pkcs11")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod envelope;
mod failures;
mod keys;
mod rotation;
mod support;
mod vendor;
mod wraps;
