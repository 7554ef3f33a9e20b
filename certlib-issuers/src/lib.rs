//! Issuers for certlib: ACME (RFC 8555) with HTTP-01 and DNS-01, and a CA of one's own.
//!
//! # The map
//! - [`local_ca`] (feature `local-ca`): a CA whose root key lives sealed in certlib's own store. For development,
//!   tests, and networks that trust a private root.
//! - [`acme`] (feature `acme`): any ACME CA. Orders are taken up from wherever the CA says they are.
//! - [`digicert`] (feature `digicert`): DigiCert CertCentral.
//! - [`globalsign`] (feature `globalsign`): GlobalSign Atlas.
//! - [`challenge`] (feature `acme`): how names are proven; [`challenge::Http01Responder`] is what a web server embeds.
//! - [`dns`] (feature `acme`): [`dns::DnsProvider`], the one that speaks dynamic update (RFC 2136), and those of DNS
//!   services with an HTTP API.
//!
//! Every issuer is made by an [`IssuerFactory`](certlib_core::issuer::IssuerFactory) from plain configuration, which
//! is refused when it holds a field that nobody knows.

#[cfg(feature = "acme")]
pub mod acme;
#[cfg(any(feature = "acme", feature = "http", feature = "local-ca"))]
#[allow(dead_code, reason = "which of it is used depends on the features")]
mod base64_bytes;
#[cfg(feature = "acme")]
pub mod challenge;
#[cfg(feature = "digicert")]
pub mod digicert;
#[cfg(feature = "acme")]
pub mod dns;
#[cfg(feature = "globalsign")]
pub mod globalsign;
#[cfg(feature = "http")]
#[allow(dead_code, reason = "which of it is used depends on the features")]
mod keys;
#[cfg(feature = "local-ca")]
pub mod local_ca;
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
    #[cfg(feature = "digicert")]
    let registry = registry.register(digicert::DigiCertFactory)?;
    #[cfg(feature = "globalsign")]
    let registry = registry.register(globalsign::GlobalSignFactory)?;
    #[cfg(feature = "local-ca")]
    let registry = registry.register(local_ca::LocalCaFactory::new())?;
    Ok(registry)
}
