//! certlib as a service would embed it, for tests that go all the way.

#![allow(dead_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use certlib_core::Secret;
use certlib_core::backoff::Ladder;
use certlib_core::client::{NewCertificate, NewIssuer};
use certlib_core::model::CertificateState;
use certlib_core::module::ModuleRegistry;
use certlib_core::queue::RetryPolicy;
use certlib_core::runtime::{IssuerRegistry, RunningRuntime, Runtime};
use certlib_core::secret::{Keyring, KeyringEnvelope};
use certlib_core::store::SharedStore;
use certlib_issuers::acme::AcmeFactory;
use certlib_modules::ssh::SshModule;
use certlib_store_sql::{SqliteOptions, SqliteStore};
use serde_json::{Value, json};

/// certlib on a SQLite store, with ACME and SSH.
pub(crate) struct Node {
    pub(crate) running: RunningRuntime,
    pub(crate) store: SharedStore,
    _folder: tempfile::TempDir,
}

impl Node {
    pub(crate) async fn start() -> Node {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("certlib.db");
        let store: SharedStore = Arc::new(SqliteStore::open(database, SqliteOptions::new()).await.unwrap());
        let envelope = Arc::new(KeyringEnvelope::new(Keyring::generate().unwrap()));
        let quick = RetryPolicy::with_ladder(Ladder::new(vec![Duration::from_millis(500); 20], 0.1));
        let running = Runtime::builder(store.clone(), envelope)
            .modules(ModuleRegistry::new().register(SshModule::new()).unwrap())
            .issuers(IssuerRegistry::new().register(AcmeFactory::new()).unwrap())
            .settings(|settings| {
                settings.poll_interval = Duration::from_millis(100);
                settings.sweep_interval = Duration::from_millis(500);
                settings.retry = quick.clone();
                settings.renewal_retry = quick;
            })
            .build()
            .unwrap()
            .start();
        running.client().create_project("shop").await.unwrap();
        Node { running, store, _folder: folder }
    }

    pub(crate) async fn certificate(
        &self,
        config: Value,
        credential: Option<Value>,
        names: &[&str],
        targets: Vec<String>,
    ) -> String {
        let client = self.running.client();
        let credential_id = match credential {
            Some(secret) => {
                Some(client.create_credential("shop", "ca", &Secret::new(secret.to_string())).await.unwrap().id)
            }
            None => None,
        };
        let issuer = NewIssuer { name: "pebble".into(), kind: "acme".into(), config, credential_id };
        let issuer_id = client.create_issuer("shop", issuer).await.unwrap().id;
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let new = NewCertificate { names, issuer_id, targets, ..NewCertificate::default() };
        let id = client.create_certificate("shop", new).await.unwrap().id;
        client.issue("shop", &id).await.unwrap();
        id
    }

    pub(crate) async fn until(&self, id: &str, wanted: CertificateState) {
        let client = self.running.client();
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let certificate = client.certificate("shop", id).await.unwrap();
            if certificate.state == wanted {
                return;
            }
            let status = client.distribution_status("shop", id).await.unwrap();
            assert!(Instant::now() < deadline, "not {wanted:?}: {certificate:#?} {status:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Asks a CA every second.
pub(crate) fn quick_polls() -> Value {
    json!({ "steps": [1], "spread": 0.1, "max_wait": 120 })
}
