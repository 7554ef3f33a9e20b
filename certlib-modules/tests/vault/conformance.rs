//! The module conformance suite, on each kind of mount.

use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::conformance::module::{ModuleFixture, ModuleHarness};
use certlib_core::module::{ErasedModule, TargetSpec};
use certlib_core::{CertificateBundle, Secret};
use certlib_testkit::pki::TestCa;
use serde_json::{Value, json};

use crate::support::{Server, bundles, fields};

const WRONG: &str = "hvs.battery-staple";

/// A kind of mount.
struct Vault(&'static str);

struct Mounted {
    server: Server,
    kind: &'static str,
    bundles: [CertificateBundle; 4],
}

impl Mounted {
    fn with_token(&self, token: &str) -> TargetSpec {
        let path = if self.kind == "pki" { "" } else { crate::support::PATH };
        let location = self.server.location(json!({"kind": self.kind, "path": path}));
        let config = self.server.config(json!({"pki_rollback": "if_unused"}));
        let credentials = json!({"method": "token", "token": token});
        TargetSpec::new("t-1", "shop", config, location, Some(Secret::new(credentials.to_string())))
    }

    async fn put(&self, number: usize) {
        let bundle = self.bundle(number);
        if self.kind != "pki" {
            let mut fields = fields(&bundle);
            fields["owner"] = json!("the shop");
            return self.server.put(fields).await;
        }
        let mount = &self.server.mount;
        let pem = bundle.key_pem().unwrap().expose().clone() + &bundle.fullchain_pem();
        let imported = self.server.write(&format!("{mount}/issuers/import/bundle"), json!({"pem_bundle": pem})).await;
        let mapping = imported["mapping"].as_object().unwrap();
        let (issuer, _) = mapping.iter().find(|(_, key)| *key != "").unwrap();
        self.server.write(&format!("{mount}/config/issuers"), json!({"default": issuer})).await;
    }
}

#[async_trait]
impl ModuleHarness for Vault {
    fn module(&self) -> Arc<dyn ErasedModule> {
        certlib_modules::registry().unwrap().module("vault").unwrap()
    }

    async fn fresh(&self) -> Option<Box<dyn ModuleFixture>> {
        let server = Server::any(self.0).await;
        let bundles = if self.0 == "pki" { authorities() } else { bundles() };
        let mounted = Mounted { server, kind: self.0, bundles };
        mounted.put(0).await;
        Some(Box::new(mounted))
    }

    fn tested_against(&self) -> &str {
        match (Server::is_real(), self.0) {
            (false, "kv1") => "VaultSim, key-value version 1",
            (false, "kv2") => "VaultSim, key-value version 2",
            (false, _) => "VaultSim, PKI while nothing was issued",
            (true, "kv1") => "the Vault at VAULT_ADDR, key-value version 1",
            (true, "kv2") => "the Vault at VAULT_ADDR, key-value version 2",
            (true, _) => "the Vault at VAULT_ADDR, PKI while nothing was issued",
        }
    }
}

#[async_trait]
impl ModuleFixture for Mounted {
    fn target(&self) -> TargetSpec {
        self.with_token(&self.server.token)
    }

    fn refused(&self) -> Option<TargetSpec> {
        Some(self.with_token(WRONG))
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.server.token.clone(), WRONG.to_owned()]
    }

    fn bundle(&self, number: usize) -> CertificateBundle {
        let bundle = &self.bundles[number];
        let pem = bundle.fullchain_pem() + bundle.key_pem().unwrap().expose();
        CertificateBundle::from_pem(pem.as_bytes()).unwrap()
    }

    /// Of a PKI mount, which issuer is the default one: imported issuers stay, as documented.
    async fn state(&self) -> String {
        if self.kind != "pki" {
            return self.server.state().await;
        }
        let mount = &self.server.mount;
        let mut config = self.server.read(&format!("{mount}/config/issuers")).await;
        let issuer = self.server.read(&format!("{mount}/issuer/default")).await;
        config["certificate"] = issuer["certificate"].clone();
        config.to_string()
    }

    async fn meddle(&self) {
        self.put(3).await;
    }
}

fn authorities() -> [CertificateBundle; 4] {
    let root = TestCa::new("root").unwrap();
    std::array::from_fn(|number| {
        let authority = root.intermediate(&format!("authority {number}")).unwrap();
        let pem = format!("{}{}{}", authority.certificate_pem(), root.certificate_pem(), authority.key_pem());
        CertificateBundle::from_pem(pem.as_bytes()).unwrap()
    })
}

mod kv1 {
    use super::*;
    certlib_core::module_conformance!(Vault("kv1"));
}

mod kv2 {
    use super::*;
    certlib_core::module_conformance!(Vault("kv2"));
}

mod pki {
    use super::*;
    certlib_core::module_conformance!(Vault("pki"));
}

#[test]
fn certificates_are_what_their_mounts_take() {
    assert!(authorities().iter().all(CertificateBundle::is_authority));
    assert!(!bundles::<1>()[0].is_authority());
    assert_ne!(fields(&bundles::<1>()[0]), Value::Null);
}
