//! Keys in Vault's transit engine: on the simulator, and on a real server where `VAULT_ADDR` and `VAULT_TOKEN` name one.

#![cfg(feature = "vault-transit")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod connection;
mod contract;
mod environment;
mod faults;
mod logins;
mod rotation;
mod secrecy;
mod support;
