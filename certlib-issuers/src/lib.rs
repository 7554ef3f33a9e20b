//! Issuers for certlib: ACME (RFC 8555) with HTTP-01 and DNS-01, commercial CAs, and a CA of one's own.
//!
//! # The map
//! - [`local_ca`] (feature `local-ca`): a CA whose root key lives sealed in certlib's own store. For development,
//!   tests, and networks that trust a private root.
//! - [`acme`] (feature `acme`): any ACME CA. Orders are taken up from wherever the CA says they are.
//! - [`entrust`] (feature `entrust`): Entrust Certificate Services, and Entrust's CA Gateway.
//! - [`sectigo`] (feature `sectigo`): Sectigo Certificate Manager.
//! - [`challenge`] (feature `acme`): how names are proven; [`challenge::Http01Responder`] is what a web server embeds.
//! - [`dns`] (feature `acme`): [`dns::DnsProvider`], and the one that speaks dynamic update (RFC 2136).
//!
//! Every issuer is made by an [`IssuerFactory`](certlib_core::issuer::IssuerFactory) from plain configuration, which
//! is refused when it holds a field that nobody knows.

#[cfg(feature = "acme")]
pub mod acme;
#[cfg(any(feature = "acme", feature = "entrust", feature = "local-ca"))]
mod base64_bytes;
#[cfg(any(feature = "entrust", feature = "sectigo"))]
mod chain;
#[cfg(feature = "acme")]
pub mod challenge;
#[cfg(feature = "acme")]
pub mod dns;
#[cfg(feature = "entrust")]
pub mod entrust;
#[cfg(feature = "http")]
#[allow(dead_code, reason = "which of it is used depends on the features")]
mod keys;
#[cfg(feature = "local-ca")]
pub mod local_ca;
#[cfg(feature = "sectigo")]
pub mod sectigo;
#[cfg(feature = "http")]
#[allow(dead_code, reason = "which of it is used depends on the features")]
mod triage;

use certlib_core::Result;
use certlib_core::runtime::IssuerRegistry;

/// Every issuer of this crate that is compiled in.
///
/// # Errors
/// None that can happen: kinds are distinct.
pub fn registry() -> Result<IssuerRegistry> {
    let registry = IssuerRegistry::new();
    #[cfg(feature = "acme")]
    let registry = registry.register(acme::AcmeFactory::new())?;
    #[cfg(feature = "entrust")]
    let registry = registry.register(entrust::EntrustFactory)?;
    #[cfg(feature = "local-ca")]
    let registry = registry.register(local_ca::LocalCaFactory::new())?;
    #[cfg(feature = "sectigo")]
    let registry = registry.register(sectigo::SectigoFactory)?;
    Ok(registry)
}
