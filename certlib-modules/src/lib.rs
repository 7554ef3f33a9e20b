//! Ways of delivery: modules that put a certificate where it is served, prove that it is, and take it back.
//!
//! - [`file`](mod@file): files on this machine. The one to read before writing a module of your own.
//! - [`ssh`]: files on another machine, over SFTP, with commands over SSH.
//! - [`kubernetes`]: a TLS Secret of a Kubernetes cluster, by server-side apply.
//! - [`netscaler`]: Citrix NetScaler ADC, over NITRO.
//! - [`huawei`]: the certificate manager, load balancers, delivery network and firewall of Huawei Cloud.
//! - [`f5`]: SSL profiles of an F5 BIG-IP, over iControl REST.
//! - [`smtp`]: mails the certificate to people.
//! - [`winrm`]: files on a Windows machine, over WinRM.
//! - [`iis`]: bindings of Internet Information Services, over WinRM.
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

#[cfg(feature = "f5")]
pub mod f5;
#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(feature = "netscaler")]
pub mod netscaler;
#[cfg(feature = "huawei")]
pub mod huawei;
#[cfg(feature = "smtp")]
pub mod smtp;
#[cfg(feature = "iis")]
pub mod iis;
#[cfg(feature = "ssh")]
pub mod ssh;
#[cfg(feature = "vault")]
pub mod vault;
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
    #[cfg(feature = "f5")]
    let registry = registry.register(f5::F5::new())?;
    #[cfg(feature = "file")]
    let registry = registry.register(file::FileModule::new())?;
    #[cfg(feature = "kubernetes")]
    let registry = registry.register(kubernetes::Kubernetes::new())?;
    #[cfg(feature = "netscaler")]
    let registry = registry.register(netscaler::NetScaler::new())?;
    #[cfg(feature = "huawei")]
    let registry = registry.register(huawei::HuaweiCloud::new())?;
    #[cfg(feature = "smtp")]
    let registry = registry.register(smtp::Smtp::new())?;
    #[cfg(feature = "ssh")]
    let registry = registry.register(ssh::SshModule::new())?;
    #[cfg(feature = "vault")]
    let registry = registry.register(vault::VaultModule::new())?;
    #[cfg(feature = "webhook")]
    let registry = registry.register(webhook::Webhook::new())?;
    #[cfg(feature = "iis")]
    let registry = registry.register(iis::IisModule::new())?;
    #[cfg(feature = "winrm")]
    let registry = registry.register(winrm::WinRmModule::new())?;
    Ok(registry)
}

#[cfg(all(test, feature = "file", feature = "kubernetes", feature = "ssh", feature = "webhook"))]
#[cfg(all(test, feature = "file", feature = "netscaler", feature = "ssh", feature = "webhook"))]
#[cfg(all(test, feature = "file", feature = "huawei", feature = "ssh", feature = "webhook"))]
#[cfg(all(test, feature = "f5", feature = "file", feature = "ssh", feature = "webhook"))]
#[cfg(all(test, feature = "file", feature = "smtp", feature = "ssh", feature = "webhook"))]
#[cfg(all(test, feature = "file", feature = "ssh", feature = "webhook", feature = "winrm", feature = "iis"))]
#[cfg(all(test, feature = "file", feature = "ssh", feature = "vault", feature = "webhook"))]
mod tests {
    #[test]
    fn every_module_is_registered() {
        let registry = super::registry().unwrap();
        assert_eq!(registry.kinds().collect::<Vec<_>>(), ["file", "kubernetes", "ssh", "webhook"]);
        assert_eq!(registry.kinds().collect::<Vec<_>>(), ["file", "netscaler", "ssh", "webhook"]);
        assert_eq!(registry.kinds().collect::<Vec<_>>(), ["file", "huawei", "ssh", "webhook"]);
        assert_eq!(registry.kinds().collect::<Vec<_>>(), ["f5", "file", "ssh", "webhook"]);
        assert_eq!(registry.kinds().collect::<Vec<_>>(), ["file", "smtp", "ssh", "webhook"]);
        assert_eq!(registry.kinds().collect::<Vec<_>>(), ["file", "iis", "ssh", "webhook", "winrm"]);
        assert_eq!(registry.kinds().collect::<Vec<_>>(), ["file", "ssh", "vault", "webhook"]);
    }
}
