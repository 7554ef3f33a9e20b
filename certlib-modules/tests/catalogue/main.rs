//! The attack catalogue against the modules, row by row: where they may connect to (`addresses`), which paths they may
//! be given (`paths`), who a host must be (`host_keys`), what commands may do (`commands`), and what receivers of
//! notifications see and answer (`receivers`).
//!
//! Rows that other tests cover are listed in `coverage`, which fails when such a test disappears; it also says which rows
//! cannot apply to a surface, and why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod addresses;
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod coverage;
mod host_keys;
mod paths;
mod receivers;
mod surfaces;
#[path = "../windows/mod.rs"]
mod windows;
