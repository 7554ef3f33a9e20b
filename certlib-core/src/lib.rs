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
//! - [`bundle`]: certificates, chains, keys.
//! - [`model`]: the records; [`store`]: where they live; [`queue`] and [`lock`]: durable work and who leads.
//! - [`issuer`]: CAs; [`module`]: ways of delivery.
//! - [`backoff`], [`poll`]: when to try again, as pure functions.

pub mod backoff;
pub mod bundle;
pub mod classify;
pub mod clock;
pub mod context;
pub mod error;
pub mod issuer;
pub mod lock;
pub mod model;
pub mod module;
pub mod poll;
pub mod queue;
pub mod secret;
pub mod store;

pub use crate::bundle::{CertificateBundle, Fingerprint};
pub use crate::context::Context;
pub use crate::error::{Effect, Error, ErrorClass, Result};
pub use crate::secret::Secret;
