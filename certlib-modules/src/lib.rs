//! Ways of delivery: modules that put a certificate where it is served, prove that it is, and take it back.
//!
//! - [`file`](mod@file): files on this machine. The one to read before writing a module of your own.
//! - [`ssh`]: files on another machine, over SFTP, with commands over SSH.
//! - [`winrm`]: files on a Windows machine, over WinRM.
//! - [`iis`]: bindings of Internet Information Services, over WinRM.
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
#[cfg(feature = "iis")]
pub mod iis;
#[cfg(feature = "ssh")]
pub mod ssh;
#[cfg(feature = "webhook")]
pub mod webhook;
#[cfg(feature = "winrm")]
pub mod winrm;

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
    #[cfg(feature = "webhook")]
    let registry = registry.register(webhook::Webhook::new())?;
    #[cfg(feature = "iis")]
    let registry = registry.register(iis::IisModule::new())?;
    #[cfg(feature = "winrm")]
    let registry = registry.register(winrm::WinRmModule::new())?;
    Ok(registry)
}

#[cfg(all(test, feature = "file", feature = "ssh", feature = "webhook", feature = "winrm", feature = "iis"))]
mod tests {
    #[test]
    fn every_module_is_registered() {
        let registry = super::registry().unwrap();
        assert_eq!(registry.kinds().collect::<Vec<_>>(), ["file", "iis", "ssh", "webhook", "winrm"]);
    }
}
