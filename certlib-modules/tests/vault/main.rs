//! The vault module with a simulated Vault, and with a real one where `VAULT_ADDR` and `VAULT_TOKEN` name it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod environment;
mod faults;
mod kv1;
mod kv2;
mod logins;
mod pki;
mod settings;
mod support;
