//! The guarded dialer: which addresses an outbound request may reach, and how.
//!
//! A target's URL is written by somebody who may not be the operator of this process. Everything here serves one
//! promise: **no request reaches a forbidden address.**
//!
//! - [`HttpUrl`] accepts only URLs that every parser reads the same way.
//! - [`AddressPolicy`] decides about an address by the IANA special-purpose registries; private networks can be
//!   admitted by name, loopback only by its own switch, link-local and metadata services never.
//! - [`Guard`] resolves a host once and gives out addresses only if *all* of them pass: what is dialled was checked.
//!   Who only looks, and sends no secret, may do without those that no policy admits.
//! - [`TlsSettings`] says whom to trust; verification is never off by accident.
//! - [`http`] builds the one HTTP client: no proxy, no redirect, HTTP/1.1, TLS by aws-lc-rs.
//! - [`Api`] sends requests to the HTTP API of an appliance or service, with limits, and says what failures mean.
//! - [`signature`] signs requests in the ways of cloud vendors.

mod address;
mod cidr;
mod http_url;
mod registry;
mod resolve;

#[cfg(feature = "http")]
mod api;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "http")]
pub mod signature;
mod timeouts;
#[cfg(feature = "http")]
mod tls;

pub use self::address::AddressPolicy;
#[cfg(feature = "http")]
pub use self::api::{Answer, Api, Connection, Request};
pub use self::cidr::Cidr;
pub use self::http_url::HttpUrl;
pub use self::registry::REGISTRY_DATE;
pub use self::resolve::{Guard, Lookup, SystemLookup};
pub use self::timeouts::Timeouts;
#[cfg(feature = "http")]
pub use self::tls::{ClientIdentity, TlsSettings};
