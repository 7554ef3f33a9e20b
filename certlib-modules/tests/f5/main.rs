//! The `f5` module against a simulated BIG-IP, and against a real one where `F5_ADDR` names it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod delivery;
mod faults;
mod generations;
mod lab;
mod logins;
mod pair;
mod real;
mod rollback;
mod settings;
