//! Suites that show whether an implementation of certlib's traits keeps its promises: one macro line in a test file
//! runs all of a suite's cases as separate tests. Feature `conformance`.
//!
//! - [`dying`]: a store that dies at a chosen commit, to crash-test what runs on it.
//! - [`issuer`]: issuers, see [`issuer_conformance!`](crate::issuer_conformance).
//! - [`module`]: distribution modules, see [`module_conformance!`](crate::module_conformance).
//! - [`store`]: stores, see [`store_conformance!`](crate::store_conformance).

// A suite reports a broken promise by panicking in the test that runs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod dying;
pub mod issuer;
pub mod module;
pub mod store;
