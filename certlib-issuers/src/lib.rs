//! Issuers for certlib: ACME (RFC 8555) with HTTP-01 and DNS-01, CAs with APIs of their own, and a CA of one's own.
//!
//! # The map
//! - [`local_ca`] (feature `local-ca`): a CA whose root key lives sealed in certlib's own store. For development,
//!   tests, and networks that trust a private root.
//! - [`acme`] (feature `acme`): any ACME CA. Orders are taken up from wherever the CA says they are.
//! - [`adcs`] (feature `adcs`): Microsoft AD Certificate Services, by their web services or their web pages.
//! - [`challenge`] (feature `acme`): how names are proven; [`challenge::Http01Responder`] is what a web server embeds.
//! - [`dns`] (feature `acme`): [`dns::DnsProvider`], and the one that speaks dynamic update (RFC 2136).
//!
//! Every issuer is made by an [`IssuerFactory`](certlib_core::issuer::IssuerFactory) from plain configuration, which
//! is refused when it holds a field that nobody knows.

#[cfg(feature = "acme")]
pub mod acme;
#[cfg(feature = "adcs")]
pub mod adcs;
#[cfg(any(feature = "acme", feature = "local-ca"))]
mod base64_bytes;
#[cfg(feature = "acme")]
pub mod challenge;
#[cfg(feature = "acme")]
pub mod dns;
#[cfg(feature = "local-ca")]
pub mod local_ca;
#[cfg(feature = "http")]
#[allow(dead_code, reason = "which part of it is used depends on the issuers that are compiled in")]
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
    #[cfg(feature = "adcs")]
    let registry = registry.register(adcs::AdcsFactory)?;
    #[cfg(feature = "local-ca")]
    let registry = registry.register(local_ca::LocalCaFactory::new())?;
    Ok(registry)
}
