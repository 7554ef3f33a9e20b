//! Ten modules in one run: two hundred targets, a fifth of them faulty in one way or another.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod fleet;
mod kinds;
#[path = "../../../certlib-modules/tests/webhook/receiver.rs"]
#[allow(dead_code)]
mod receiver;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use certlib_core::client::{Client, NewCertificate, NewIssuer};
use certlib_core::clock::SystemClock;
use certlib_core::memory::MemoryStore;
use certlib_core::model::{RunState, TargetRun, TargetStatus};
use certlib_core::runtime::{IssuerRegistry, Runtime};
use certlib_core::secret::{Keyring, KeyringEnvelope};
use certlib_issuers::local_ca::LocalCaFactory;
use certlib_testkit::{counterpart, require};
use serde_json::json;

use crate::fleet::{Fault, Fleet};

/// How many targets each module has.
const EACH: usize = 20;
/// How much memory the process may have used, simulators included, in MiB.
const MEMORY: u64 = 300;
const PATIENCE: Duration = Duration::from_secs(300);

/// The most memory this process has had, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Waits until the first pass of the run of `version` is over, and gives its targets by name.
async fn passed(client: &Client, id: &str, version: u32) -> (RunState, BTreeMap<String, TargetRun>) {
    let began = Instant::now();
    loop {
        if let Some(status) = client.distribution_status("shop", id).await.unwrap()
            && status.run.version == version
            && status.run.passes > 0
        {
            let targets = status.targets.into_iter().map(|target| (target.target_name.clone(), target));
            return (status.run.state, targets.collect());
        }
        assert!(began.elapsed() < PATIENCE, "the run of version {version} does not come to an end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthy_targets_are_validated_and_faulty_ones_keep_what_they_had() {
    let kubernetes = require!(counterpart::Kubernetes::start().await);
    let relay = fleet::relay_certificate();
    let mail = require!(counterpart::Aiosmtpd::builder().tls(&relay.1).login().start().await);
    let mut fleet = Fleet::new(EACH, kubernetes, mail, &relay.0).await;

    let store = Arc::new(MemoryStore::new(SystemClock::shared()));
    let running = Runtime::builder(store, Arc::new(KeyringEnvelope::new(Keyring::generate().unwrap())))
        .modules(certlib_modules::registry().unwrap())
        .issuers(IssuerRegistry::new().register(LocalCaFactory::new()).unwrap())
        .build()
        .unwrap()
        .start();
    let client = running.client();
    client.create_project("shop").await.unwrap();
    let issuer = client.create_issuer("shop", NewIssuer::new("ca", "local-ca", json!({}))).await.unwrap();
    let targets = fleet.register(&client).await;
    assert_eq!(targets.len(), 10 * EACH);
    let new = NewCertificate {
        batch_size: Some(50),
        ..NewCertificate::new([fleet::NAME, "127.0.0.1"], issuer.id).deliver_to(targets)
    };
    let id = client.create_certificate("shop", new).await.unwrap().id;

    // All is well.
    client.issue("shop", &id).await.unwrap();
    let (state, targets) = passed(&client, &id, 1).await;
    let first = client.material("shop", &id, Some(1), false).await.unwrap().bundle.fingerprint();
    for (name, target) in &targets {
        let wanted = if fleet.verifies(name) { TargetStatus::Validated } else { TargetStatus::Unverified };
        assert_eq!(target.status, wanted, "{name}: {:?}", target.error);
        fleet.assert_has(name, first).await;
    }
    assert_eq!(state, RunState::Succeeded);

    // A fifth is not.
    fleet.break_some(&client).await;
    client.renew("shop", &id).await.unwrap();
    let (state, targets) = passed(&client, &id, 2).await;
    assert_eq!(state, RunState::Waiting, "what may pass is tried again");
    let second = client.material("shop", &id, Some(2), false).await.unwrap().bundle.fingerprint();
    let mut counts = BTreeMap::new();
    for (name, target) in &targets {
        let fault = fleet.fault(name);
        let wanted = match fault {
            None if fleet.verifies(name) => TargetStatus::Validated,
            None => TargetStatus::Unverified,
            Some(Fault::NotServed) => TargetStatus::RolledBack,
            Some(Fault::WrongLogin | Fault::Unreachable) => TargetStatus::Failed,
        };
        assert_eq!(target.status, wanted, "{name}: {fault:?} {:?}", target.error);
        *counts.entry(format!("{:?}", target.status)).or_insert(0) += 1;
        match fault {
            None => fleet.assert_has(name, second).await,
            Some(_) => {
                let error = target.error.as_ref().unwrap();
                assert!(!error.message.is_empty() && !error.code.is_empty(), "{name} says why");
                fleet.assert_has(name, first).await;
            }
        }
    }
    let certificate = client.certificate("shop", &id).await.unwrap();
    assert_eq!(certificate.active_version, Some(2));
    let peak = peak();
    eprintln!("{counts:?}, at most {peak} MiB");
    assert!(peak < MEMORY, "{peak} MiB");
    running.shutdown().await;
}
