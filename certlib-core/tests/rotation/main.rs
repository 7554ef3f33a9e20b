//! Rotating the key-encryption key while everything goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod fleet;
mod hooked;
mod keyring;
mod lab;
mod orders;
mod paused_writer;
mod refusals;
mod resume;
mod writers;
