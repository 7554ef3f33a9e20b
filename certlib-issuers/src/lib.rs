//! Issuers for certlib: ACME (RFC 8555) with HTTP-01 and DNS-01, CAs with APIs of their own, and a CA of one's own.
//!
//! # The map
//! Each is a feature of its name.
//! - [`local_ca`] (`local-ca`): a CA whose root key lives sealed in certlib's own store. For development, tests, and
//!   networks that trust a private root.
//! - [`acme`]: any ACME CA. Orders are taken up from wherever the CA says they are.
//! - [`adcs`]: Microsoft AD Certificate Services, by their web services or their web pages.
//! - [`digicert`]: DigiCert CertCentral.
//! - [`entrust`]: Entrust Certificate Services, and Entrust's CA Gateway.
//! - [`globalsign`]: GlobalSign Atlas.
//! - [`sectigo`]: Sectigo Certificate Manager.
//! - [`vault_pki`] (`vault-pki`): the PKI secrets engine of HashiCorp Vault or OpenBao.
//!
//! With `acme` come
//! - [`challenge`]: how names are proven; [`challenge::Http01Responder`] is what a web server embeds.
//! - [`dns`]: [`dns::DnsProvider`], the one that speaks dynamic update (RFC 2136), and those of DNS services with an HTTP
//!   API.
//!
//! Every issuer is made by an [`IssuerFactory`](certlib_core::issuer::IssuerFactory) from plain configuration, which
//! is refused when it holds a field that nobody knows.

#[cfg(feature = "acme")]
pub mod acme;
#[cfg(feature = "adcs")]
pub mod adcs;
#[cfg(any(feature = "acme", feature = "http", feature = "local-ca"))]
#[allow(dead_code, reason = "which of it is used depends on the features")]
mod base64_bytes;
#[cfg(any(feature = "entrust", feature = "sectigo"))]
mod chain;
#[cfg(feature = "acme")]
pub mod challenge;
#[cfg(feature = "digicert")]
pub mod digicert;
#[cfg(feature = "acme")]
pub mod dns;
#[cfg(feature = "entrust")]
pub mod entrust;
#[cfg(feature = "globalsign")]
pub mod globalsign;
#[cfg(feature = "http")]
#[allow(dead_code, reason = "which of it is used depends on the features")]
mod keys;
#[cfg(feature = "local-ca")]
pub mod local_ca;
#[cfg(feature = "http")]
#[allow(dead_code, reason = "which of it is used depends on the features")]
mod paging;
#[cfg(feature = "sectigo")]
pub mod sectigo;
#[cfg(feature = "http")]
#[allow(dead_code, reason = "which of it is used depends on the features")]
mod triage;
#[cfg(feature = "vault-pki")]
pub mod vault_pki;

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
    #[cfg(feature = "digicert")]
    let registry = registry.register(digicert::DigiCertFactory)?;
    #[cfg(feature = "entrust")]
    let registry = registry.register(entrust::EntrustFactory)?;
    #[cfg(feature = "globalsign")]
    let registry = registry.register(globalsign::GlobalSignFactory)?;
    #[cfg(feature = "local-ca")]
    let registry = registry.register(local_ca::LocalCaFactory::new())?;
    #[cfg(feature = "sectigo")]
    let registry = registry.register(sectigo::SectigoFactory)?;
    #[cfg(feature = "vault-pki")]
    let registry = registry.register(vault_pki::VaultPkiFactory)?;
    Ok(registry)
}
