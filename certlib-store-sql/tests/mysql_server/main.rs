//! The MySQL store against a real MariaDB that is misconfigured, killed, restarted, and slow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod durability;
mod lanes;
mod leases;
#[path = "../mysql_support/mod.rs"]
mod mysql_support;
mod reconnect;
mod refusals;
#[path = "../support/mod.rs"]
mod support;
