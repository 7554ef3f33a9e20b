//! The kubernetes module against a real API server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod deliver;
mod faults;
mod login;
mod owners;
mod permissions;
mod rollback;
mod support;
