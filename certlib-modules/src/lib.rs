//! Ways of delivery: modules that put a certificate where it is served, prove that it is, and take it back.
//!
//! - [`file`](mod@file): files on this machine. The one to read before writing a module of your own.
//! - [`ssh`]: files on another machine, over SFTP, with commands over SSH.
//! - [`vault`]: a secret, or the default issuer of a PKI mount, of HashiCorp Vault or OpenBao.
//! - [`webhook`]: hands the certificate to an HTTPS endpoint of yours.
//!
//! What they share: [`files`] (delivery as files, whatever the transport), [`probe`] (which certificate is served?),
//! [`net`] (outbound connections that cannot be led astray).
//!
//! Each module is a Cargo feature of its name; all are on by default. [`registry`] has those that are.

pub mod files;
pub mod net;
pub mod probe;

#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "ssh")]
pub mod ssh;
#[cfg(feature = "vault")]
pub mod vault;
#[cfg(feature = "webhook")]
pub mod webhook;

use certlib_core::Result;
use certlib_core::module::ModuleRegistry;

/// Every module of this crate that is compiled in, with its default settings.
///
/// # Errors
/// None that can happen: kinds are distinct.
pub fn registry() -> Result<ModuleRegistry> {
    let registry = ModuleRegistry::new();
    #[cfg(feature = "file")]
    let registry = registry.register(file::FileModule::new())?;
    #[cfg(feature = "ssh")]
    let registry = registry.register(ssh::SshModule::new())?;
    #[cfg(feature = "vault")]
    let registry = registry.register(vault::VaultModule::new())?;
    #[cfg(feature = "webhook")]
    let registry = registry.register(webhook::Webhook::new())?;
    Ok(registry)
}

#[cfg(all(test, feature = "file", feature = "ssh", feature = "vault", feature = "webhook"))]
mod tests {
    #[test]
    fn every_module_is_registered() {
        let registry = super::registry().unwrap();
        assert_eq!(registry.kinds().collect::<Vec<_>>(), ["file", "ssh", "vault", "webhook"]);
    }
}
