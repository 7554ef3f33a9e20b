//! Ways of delivery: modules that put a certificate where it is served, prove that it is, and take it back.
//!
//! - [`file`](mod@file): files on this machine. The one to read before writing a module of your own.
//! - [`ssh`]: files on another machine, over SFTP, with commands over SSH.
//! - [`winrm`]: files on a Windows machine, over WinRM.
//! - [`iis`]: bindings of Internet Information Services, over WinRM.
//! - [`kubernetes`]: a TLS Secret of a Kubernetes cluster, by server-side apply.
//! - [`f5`]: SSL profiles of an F5 BIG-IP, over iControl REST.
//! - [`netscaler`]: Citrix NetScaler ADC, over NITRO.
//! - [`vault`]: a secret, or the default issuer of a PKI mount, of HashiCorp Vault or OpenBao.
//! - [`huawei`]: the certificate manager, load balancers, delivery network and firewall of Huawei Cloud.
//! - [`webhook`]: hands the certificate to an HTTPS endpoint of yours.
//! - [`smtp`]: mails the certificate to people.
//!
//! What they share: [`files`] (delivery as files, whatever the transport), [`probe`] (which certificate is served?),
//! [`net`] (outbound connections that cannot be led astray).
//!
//! Each module is a Cargo feature of its name; all are on by default. [`registry`] has those that are.

#[cfg(any(feature = "smtp", feature = "webhook"))]
mod certificate;
pub mod files;
pub mod probe;
mod wire;

pub use certlib_net as net;

#[cfg(feature = "f5")]
pub mod f5;
#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "huawei")]
pub mod huawei;
#[cfg(feature = "iis")]
pub mod iis;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(feature = "netscaler")]
pub mod netscaler;
#[cfg(feature = "smtp")]
pub mod smtp;
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
    #[cfg(feature = "huawei")]
    let registry = registry.register(huawei::HuaweiCloud::new())?;
    #[cfg(feature = "iis")]
    let registry = registry.register(iis::IisModule::new())?;
    #[cfg(feature = "kubernetes")]
    let registry = registry.register(kubernetes::Kubernetes::new())?;
    #[cfg(feature = "netscaler")]
    let registry = registry.register(netscaler::NetScaler::new())?;
    #[cfg(feature = "smtp")]
    let registry = registry.register(smtp::Smtp::new())?;
    #[cfg(feature = "ssh")]
    let registry = registry.register(ssh::SshModule::new())?;
    #[cfg(feature = "vault")]
    let registry = registry.register(vault::VaultModule::new())?;
    #[cfg(feature = "webhook")]
    let registry = registry.register(webhook::Webhook::new())?;
    #[cfg(feature = "winrm")]
    let registry = registry.register(winrm::WinRmModule::new())?;
    Ok(registry)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_module_is_registered() {
        let compiled = [
            ("f5", cfg!(feature = "f5")),
            ("file", cfg!(feature = "file")),
            ("huawei", cfg!(feature = "huawei")),
            ("iis", cfg!(feature = "iis")),
            ("kubernetes", cfg!(feature = "kubernetes")),
            ("netscaler", cfg!(feature = "netscaler")),
            ("smtp", cfg!(feature = "smtp")),
            ("ssh", cfg!(feature = "ssh")),
            ("vault", cfg!(feature = "vault")),
            ("webhook", cfg!(feature = "webhook")),
            ("winrm", cfg!(feature = "winrm")),
        ];
        let expected = compiled.into_iter().filter(|(_, compiled)| *compiled).map(|(kind, _)| kind);
        let registry = super::registry().unwrap();
        assert_eq!(registry.kinds().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}
