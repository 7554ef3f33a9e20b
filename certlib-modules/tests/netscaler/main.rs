//! `netscaler` with a simulated appliance whose virtual servers really serve, and with a real one where
//! `NETSCALER_ADDR`, `NETSCALER_USER`, `NETSCALER_PASSWORD` and `NETSCALER_CERTKEY` say which.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod conformance;
mod crash;
mod deliver;
mod faults;
mod high_availability;
mod real;
mod rebind;
mod refusals;
mod rollback;
mod support;
