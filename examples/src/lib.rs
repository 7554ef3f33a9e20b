//! Runnable examples of certlib, one folder each:
//!
//! - `cargo run --example quickstart`: from nothing to a certificate that is delivered and proven.
//! - `cargo run --example server`: a complete service with HTTP API, tokens, metrics and SQLite.

/// Keeps the README's code compiling.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
