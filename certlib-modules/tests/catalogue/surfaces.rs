//! Every module that is told a URL or a host, with a target that makes sense but for that.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::module::{ErasedModule, TargetSpec};
use certlib_core::{CertificateBundle, Context, Error, Secret};
use certlib_modules::net::Lookup;
use certlib_modules::{f5, huawei, iis, kubernetes, netscaler, smtp, ssh, vault, webhook, winrm};
use certlib_testkit::pki::TestCa;
use serde_json::{Value, json};

/// Resolves every name to the same addresses.
#[derive(Debug)]
pub(crate) struct Everything(pub(crate) Vec<IpAddr>);

impl Everything {
    pub(crate) fn is(addresses: &[&str]) -> Arc<dyn Lookup> {
        Arc::new(Self(addresses.iter().map(|address| address.parse().unwrap()).collect()))
    }
}

#[async_trait]
impl Lookup for Everything {
    async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(self.0.clone())
    }
}

/// One way to tell a module where to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surface {
    Webhook,
    Vault,
    F5,
    NetScaler,
    NetScalerPeer,
    Huawei,
    Kubernetes,
    Kubeconfig,
    WinRm,
    Iis,
    Smtp,
    Ssh,
}

/// Those that are told a URL.
pub(crate) const BY_URL: [Surface; 10] = [
    Surface::Webhook,
    Surface::Vault,
    Surface::F5,
    Surface::NetScaler,
    Surface::NetScalerPeer,
    Surface::Huawei,
    Surface::Kubernetes,
    Surface::Kubeconfig,
    Surface::WinRm,
    Surface::Iis,
];

/// The kinds of modules that connect to nothing: files and commands of this machine.
pub(crate) const LOCAL: [&str; 1] = ["file"];

impl Surface {
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Vault => "vault",
            Self::F5 => "f5",
            Self::NetScaler | Self::NetScalerPeer => "netscaler",
            Self::Huawei => "huawei",
            Self::Kubernetes | Self::Kubeconfig => "kubernetes",
            Self::WinRm => "winrm",
            Self::Iis => "iis",
            Self::Smtp => "smtp",
            Self::Ssh => "ssh",
        }
    }

    fn module(self, lookup: Arc<dyn Lookup>) -> Arc<dyn ErasedModule> {
        match self {
            Self::Webhook => Arc::new(webhook::Webhook::with_lookup(lookup)),
            Self::Vault => Arc::new(vault::VaultModule::with_lookup(lookup)),
            Self::F5 => Arc::new(f5::F5::with_lookup(lookup)),
            Self::NetScaler | Self::NetScalerPeer => Arc::new(netscaler::NetScaler::with_lookup(lookup)),
            Self::Huawei => Arc::new(huawei::HuaweiCloud::with_lookup(lookup)),
            Self::Kubernetes | Self::Kubeconfig => Arc::new(kubernetes::Kubernetes::with_lookup(lookup)),
            Self::WinRm => Arc::new(winrm::WinRmModule::with_lookup(lookup)),
            Self::Iis => Arc::new(iis::IisModule::with_lookup(lookup)),
            Self::Smtp => Arc::new(smtp::Smtp::with_lookup(lookup)),
            // Asks the operating system.
            Self::Ssh => Arc::new(ssh::SshModule::new()),
        }
    }

    /// Where the module is to connect to: `place` is a URL or a host.
    fn location(self, place: &str) -> Value {
        match self {
            Self::Webhook => json!({ "url": place }),
            Self::Vault => json!({ "url": place, "mount": "secret", "path": "tls/shop" }),
            Self::F5 => json!({ "url": place, "profiles": [{ "name": "/Common/shop" }] }),
            Self::NetScaler => json!({ "url": place, "certkey": "shop" }),
            Self::NetScalerPeer => json!({ "url": "https://ns1.example.com", "peer_url": place, "certkey": "shop" }),
            Self::Huawei => json!({
                "region": "cn-north-4",
                "project_id": "0605767cae00d5762f19c0155cd8c1a8",
                "resource": { "service": "scm" },
                "urls": { "scm": place, "iam": place },
            }),
            Self::Kubernetes => json!({ "server": place, "namespace": "shop", "name": "tls-www" }),
            Self::Kubeconfig => json!({ "namespace": "shop", "name": "tls-www" }),
            Self::WinRm => json!({ "url": place, "paths": { "cert": r"C:\tls\site.pem" } }),
            Self::Iis => json!({ "url": place, "bindings": [{ "site": "Shop", "host": "shop.example.com" }] }),
            Self::Smtp => json!({ "host": place, "to": ["ops@example.com"] }),
            Self::Ssh => json!({ "host": place, "paths": { "cert": "/etc/ssl/site.pem" } }),
        }
    }

    fn config(self, addresses: Option<Value>) -> Value {
        // A root of our own, so that those of the operating system need not be read every time.
        let tls = json!({ "ca_pem": TestCa::new("unused root").unwrap().certificate_pem() });
        let addresses = addresses.unwrap_or_else(|| match self {
            Self::Ssh => json!({ "allow": ["0.0.0.0/0", "::/0"], "allow_loopback": true }),
            _ => json!({}),
        });
        match self {
            Self::Webhook => json!({ "tls": tls, "addresses": addresses }),
            Self::Smtp => json!({ "tls": tls, "addresses": addresses, "from": "certs@example.com" }),
            Self::Ssh => {
                let pin = format!("SHA256:{}", "A".repeat(43));
                json!({ "addresses": addresses, "host_key": { "fingerprint": pin }, "dial_timeout_ms": 2_000 })
            }
            _ => json!({ "connection": { "tls": tls, "addresses": addresses } }),
        }
    }

    fn credentials(self, place: &str) -> Option<Value> {
        let login = || json!({ "username": "certlib", "password": "a-password" });
        match self {
            Self::Webhook => Some(json!({ "secret": "whsec_Y2VydGxpYi1leGFtcGxlLXNlY3JldC0zMi1ieXRlcyE=" })),
            Self::Vault => Some(json!({ "method": "token", "token": "hvs.example" })),
            Self::F5 | Self::NetScaler | Self::NetScalerPeer => Some(login()),
            Self::Huawei => Some(json!({ "access_key": "AKEXAMPLE", "secret_key": "example" })),
            Self::Kubernetes => Some(json!({ "token": "example" })),
            Self::Kubeconfig => {
                let kubeconfig = json!({
                    "apiVersion": "v1", "kind": "Config", "current-context": "c",
                    "clusters": [{ "name": "cluster", "cluster": { "server": place } }],
                    "users": [{ "name": "user", "user": { "token": "example" } }],
                    "contexts": [{ "name": "c", "context": { "cluster": "cluster", "user": "user" } }],
                });
                Some(json!({ "kubeconfig": kubeconfig.to_string() }))
            }
            Self::WinRm | Self::Iis => {
                Some(json!({ "login": { "method": "ntlm", "user": r"EX\deploy", "password": "p" } }))
            }
            Self::Smtp => None,
            Self::Ssh => Some(json!({ "user": "root", "password": "a-password" })),
        }
    }

    /// A target at `place`, with what the policy admits, or by default nothing that it does not have to.
    pub(crate) fn target(self, place: &str, addresses: Option<Value>) -> TargetSpec {
        let credentials = self.credentials(place).map(|value| Secret::new(value.to_string()));
        TargetSpec::new("t-1", "target", self.config(addresses), self.location(place), credentials)
    }

    /// Checks a target, without the network.
    pub(crate) fn check(self, target: &TargetSpec) -> Result<(), Error> {
        self.module(Everything::is(&["93.184.215.14"])).check(target)
    }

    /// Tries a dry run, which is the first to connect.
    pub(crate) async fn dry_run(self, target: &TargetSpec, lookup: Arc<dyn Lookup>) -> Error {
        let issued = TestCa::new("root").unwrap().issue(&["shop.example.com"]).unwrap();
        let bundle = CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap();
        self.module(lookup).dry_run(&Context::new("t"), target, &bundle).await.unwrap_err()
    }
}
