//! certlib owns the whole life of a certificate: it issues it from any CA, keeps its key sealed, renews it in time,
//! delivers it to every machine that serves it, proves that it is served, and puts the old one back when it is not.
//!
//! This crate holds the traits, the domain types, the engine and a store in memory. Databases, CAs and ways of
//! delivery live in sibling crates, or in yours: everything depends on this crate, and nothing here on TLS, HTTP or a
//! database.
//!
//! # The map
//! - [`error`], [`classify`]: one error type, one table from what was seen to what can be done about it.
//! - [`secret`]: secrets that do not show themselves, and the envelope that seals them.
//! - [`bundle`]: certificates, chains, keys; [`export`]: as files.
//! - [`model`]: the records; [`store`]: where they live; [`queue`] and [`lock`]: durable work and who leads.
//! - [`issuer`]: CAs; [`module`]: ways of delivery.
//! - [`backoff`], [`poll`], [`policy`]: when to try again, when to ask, when to renew, as pure functions.
//! - [`issuance`], [`distribution`], [`scheduler`]: the work itself; [`runtime`] runs it; [`client`] is the front door.
//! - [`backup`]: all of it in one file, and back into a store.
//! - [`memory`]: a store in memory; [`clock`] and [`random`]: time and chance, injected.

pub mod backoff;
pub mod backup;
mod base64_bytes;
pub mod bundle;
pub mod classify;
pub mod client;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod context;
pub mod distribution;
pub mod error;
pub mod export;
pub mod issuance;
pub mod issuer;
pub mod lock;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod module;
pub mod policy;
pub mod poll;
pub mod queue;
pub mod random;
pub mod runtime;
pub mod scheduler;
pub mod secret;
pub mod store;

pub use crate::bundle::{CertificateBundle, Fingerprint};
pub use crate::client::Client;
pub use crate::context::Context;
pub use crate::error::{Effect, Error, ErrorClass, Result};
pub use crate::runtime::Runtime;
pub use crate::secret::Secret;
