//! A runtime with one certificate and its targets, delivered on demand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use certlib_core::Client;
use certlib_core::client::{NewCertificate, NewIssuer, NewTarget};
use certlib_core::clock::SystemClock;
use certlib_core::memory::MemoryStore;
use certlib_core::model::{Certificate, Run, RunState, Trigger};
use certlib_core::module::{DistributionModule, ModuleRegistry};
use certlib_core::runtime::{IssuerRegistry, RunningRuntime, Runtime};
use certlib_core::secret::{Keyring, KeyringEnvelope, Secret};
use certlib_core::store::{SharedStore, StoreExt as _};
use certlib_issuers::local_ca::LocalCaFactory;
use certlib_modules::ssh::SshModule;
use certlib_store_sql::{SqliteOptions, SqliteStore};
use serde_json::json;
use tempfile::TempDir;

use crate::hosts::{CERTIFICATE, Hosts, KEY, RELOAD_COMMAND, TEST_COMMAND, USER};
use crate::noop::NoOp;
use crate::{LIMIT, Result};

const PROJECT: &str = "bench";

/// How often the engine is asked whether it is done.
const LOOK: Duration = Duration::from_millis(2);

/// Where records live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// In memory.
    Memory,
    /// In an SQLite file, durable.
    Sqlite,
}

impl StoreKind {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
        }
    }

    /// A new, empty store, and the directory it lives in.
    ///
    /// # Errors
    /// When the directory for temporary files cannot be written.
    pub async fn open(self) -> Result<(SharedStore, TempDir)> {
        let directory = tempfile::tempdir()?;
        let store: SharedStore = match self {
            Self::Memory => Arc::new(MemoryStore::new(SystemClock::shared())),
            Self::Sqlite => {
                Arc::new(SqliteStore::open(directory.path().join("bench.db"), SqliteOptions::default()).await?)
            }
        };
        Ok((store, directory))
    }
}

/// A runtime at work, with one certificate that is delivered when asked for.
#[derive(Debug)]
pub struct Engine {
    running: RunningRuntime,
    client: Client,
    certificate: String,
    _directory: TempDir,
}

impl Engine {
    /// A certificate on `hosts`, through the `ssh` module.
    ///
    /// # Errors
    /// As the client.
    pub async fn over_ssh(store: StoreKind, hosts: &Hosts, batch: usize) -> Result<Self> {
        let mut engine = Self::start(store, SshModule::new()).await?;
        let login = json!({ "user": USER, "private_key": hosts.login_pem()? });
        let credential = engine.client.create_credential(PROJECT, "login", &Secret::new(login.to_string())).await?.id;
        let targets = hosts.list().into_iter().map(|host| NewTarget {
            name: host.name,
            module: SshModule::KIND.to_owned(),
            config: json!({
                "host_key": { "fingerprint": host.host_key },
                "test_command": TEST_COMMAND,
                "reload_command": RELOAD_COMMAND,
                "endpoints": [{
                    "host": host.tls.ip(),
                    "port": host.tls.port(),
                    "server_name": "www.example.test",
                }],
            }),
            location: json!({
                "host": host.ssh.ip(),
                "port": host.ssh.port(),
                "paths": { "fullchain": CERTIFICATE, "key": KEY },
            }),
            credential_id: Some(credential.clone()),
            ..NewTarget::default()
        });
        engine.attach(targets.collect(), batch).await?;
        Ok(engine)
    }

    /// A certificate on `targets` targets of a module that does nothing, in memory.
    ///
    /// # Errors
    /// As the client.
    pub async fn over_nothing(module: NoOp, targets: usize, batch: usize) -> Result<Self> {
        let mut engine = Self::start(StoreKind::Memory, module).await?;
        let target = |index| NewTarget {
            name: format!("target-{index:05}"),
            module: NoOp::KIND.to_owned(),
            ..NewTarget::default()
        };
        engine.attach((0..targets).map(target).collect(), batch).await?;
        engine.issue().await?;
        Ok(engine)
    }

    async fn start(store: StoreKind, module: impl DistributionModule) -> Result<Self> {
        let (store, directory) = store.open().await?;
        let envelope = Arc::new(KeyringEnvelope::new(Keyring::generate()?));
        let running = Runtime::builder(store, envelope)
            .modules(ModuleRegistry::new().register(module)?)
            .issuers(IssuerRegistry::new().register(LocalCaFactory)?)
            .build()?
            .start();
        let client = running.client();
        client.create_project(PROJECT).await?;
        Ok(Self { running, client, certificate: String::new(), _directory: directory })
    }

    async fn attach(&mut self, targets: Vec<NewTarget>, batch: usize) -> Result<()> {
        let client = &self.client;
        let mut ids = Vec::with_capacity(targets.len());
        for target in targets {
            ids.push(client.create_target(PROJECT, target).await?.id);
        }
        let issuer =
            NewIssuer { name: "ca".to_owned(), kind: "local-ca".to_owned(), config: json!({}), credential_id: None };
        let certificate = NewCertificate {
            names: vec!["www.example.test".to_owned()],
            issuer_id: client.create_issuer(PROJECT, issuer).await?.id,
            ..NewCertificate::default()
        };
        self.certificate = client.create_certificate(PROJECT, certificate).await?.id;
        client.attach(PROJECT, &self.certificate, ids, Some(batch), Trigger::Manual).await?;
        Ok(())
    }

    /// Gets a new version, so that there is something to deliver; returns its fingerprint, lower-case hexadecimal.
    ///
    /// # Errors
    /// As the client; when the CA does not issue.
    pub async fn issue(&self) -> Result<String> {
        let before = self.client.certificate(PROJECT, &self.certificate).await?.latest_version;
        self.client.issue(PROJECT, &self.certificate).await?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let certificate = self.client.store().load::<Certificate>(&self.certificate).await?;
            if certificate.latest_version > before {
                let material = self.client.material(PROJECT, &self.certificate, Some(before + 1), false).await?;
                return Ok(material.bundle.fingerprint().to_string());
            }
            if let Some(error) = &certificate.last_error {
                return Err(error.to_string().into());
            }
            wait(deadline, "issuing").await?;
        }
    }

    /// Delivers the newest version to all targets.
    ///
    /// # Errors
    /// As the client; when a target did not take it.
    pub async fn deliver(&self) -> Result<()> {
        let runs = self.client.distribute(PROJECT, &self.certificate).await?;
        let deadline = Instant::now() + LIMIT;
        for run in runs {
            loop {
                let run = self.client.store().load::<Run>(&run.id).await?;
                match run.state {
                    RunState::Succeeded => break,
                    RunState::Running => wait(deadline, "delivery").await?,
                    other => {
                        let targets = self.client.run_status(PROJECT, &run.id).await?.targets;
                        let first = targets.iter().find_map(|target| target.error.as_ref());
                        let first = first.map(ToString::to_string).unwrap_or_default();
                        return Err(format!("{:?} after the first pass: {:?}; {first}", other, run.summary).into());
                    }
                }
            }
        }
        Ok(())
    }

    /// Stops the runtime.
    pub async fn stop(self) {
        self.running.shutdown().await;
    }
}

async fn wait(deadline: Instant, what: &str) -> Result<()> {
    if Instant::now() > deadline {
        return Err(format!("{what} did not end within {LIMIT:?}").into());
    }
    tokio::time::sleep(LOOK).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_version_is_delivered_to_every_host() {
        let hosts = Hosts::start(3).await.unwrap();
        for store in [StoreKind::Memory, StoreKind::Sqlite] {
            let engine = Engine::over_ssh(store, &hosts, 2).await.unwrap();
            for _ in 0..2 {
                let fingerprint = engine.issue().await.unwrap();
                engine.deliver().await.unwrap();
                hosts.expect_served(&fingerprint).unwrap();
            }
            engine.stop().await;
        }
        hosts.stop().await;
    }

    #[tokio::test]
    async fn targets_that_do_nothing_are_delivered_to() {
        for journals in [false, true] {
            let engine = Engine::over_nothing(NoOp { journals }, 50, 25).await.unwrap();
            engine.deliver().await.unwrap();
            engine.stop().await;
        }
    }
}
