//! A real process is killed with SIGKILL at every commit of a renewal, before or after it takes effect. Whatever the
//! moment: nginx keeps serving a certificate, and after a restart target and store agree on the new one, without a
//! second order.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use certlib_core::CertificateBundle;
use certlib_core::Secret;
use certlib_core::client::{Client, NewCertificate, NewIssuer, NewTarget, TargetRules};
use certlib_core::model::{CertificateState, Order, TargetStatus};
use certlib_core::store::{StoreExt as _, TypedQuery};
use certlib_testkit::counterpart::{CertificateFiles, KeyType, Nginx, Sshd};
use certlib_testkit::pki::TestCa;
use certlib_testkit::require;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::process::Command;

#[path = "support/world.rs"]
mod world;

/// How many cases run at the same time: they mostly wait.
const PARALLEL: usize = 4;

/// One certificate on one target with a real nginx behind it.
struct Case {
    folder: tempfile::TempDir,
    nginx: Nginx,
    files: CertificateFiles,
    certificate: String,
    /// The fingerprint of version 1.
    first: String,
}

impl Case {
    fn folder(&self) -> PathBuf {
        self.folder.path().join("node")
    }

    /// Issues and delivers version 1, and asks for version 2.
    async fn prepare(sshd: Option<&Sshd>) -> Case {
        let folder = tempfile::tempdir().unwrap();
        let files = CertificateFiles::new(folder.path().join("tls"));
        files.write(&TestCa::new("former ca").unwrap().issue(&["www.shop.example"]).unwrap()).unwrap();
        let nginx = Nginx::start(&files).await.unwrap();
        let node = folder.path().join("node");
        fs::create_dir(&node).unwrap();
        let store = world::open_store(&node).await;
        let running = world::runtime(store.clone()).start();
        let client = running.client();
        client.create_project("shop").await.unwrap();
        let issuer = NewIssuer { name: "ca".into(), kind: "local-ca".into(), config: json!({}), credential_id: None };
        let issuer_id = client.create_issuer("shop", issuer).await.unwrap().id;
        let target = target(&client, &nginx, &files, sshd).await;
        let target_id = client.create_target("shop", target).await.unwrap().id;
        let new = NewCertificate {
            names: vec!["www.shop.example".into()],
            issuer_id,
            targets: vec![target_id],
            ..NewCertificate::default()
        };
        let certificate = client.create_certificate("shop", new).await.unwrap().id;
        client.issue("shop", &certificate).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while client.certificate("shop", &certificate).await.unwrap().state != CertificateState::Active {
            let state = client.certificate("shop", &certificate).await.unwrap();
            let status = client.distribution_status("shop", &certificate).await.unwrap();
            assert!(Instant::now() < deadline, "version 1 was not delivered: {state:?} {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let first = client.material("shop", &certificate, Some(1), false).await.unwrap().bundle.fingerprint();
        let first = first.to_string();
        // Right after a reload, nginx's former workers may still answer.
        nginx.await_served(&first).await.unwrap();
        client.renew("shop", &certificate).await.unwrap();
        running.shutdown().await;
        Case { folder, nginx, files, certificate, first }
    }

    /// What nginx serves, as a whole handshake shows it.
    async fn served(&self) -> String {
        self.nginx.served_fingerprint().await.expect("nginx serves a certificate")
    }

    /// The pair on disk.
    fn on_disk(&self) -> certlib_core::Result<CertificateBundle> {
        let mut pem = fs::read(self.files.full_chain()).unwrap();
        pem.extend(fs::read(self.files.private_key()).unwrap());
        CertificateBundle::from_pem(&pem)
    }
}

async fn target(client: &Client, nginx: &Nginx, files: &CertificateFiles, sshd: Option<&Sshd>) -> NewTarget {
    let paths = json!({ "fullchain": files.full_chain(), "key": files.private_key() });
    let mut config = json!({
        "test_command": nginx.test_command(),
        "reload_command": nginx.reload_command(),
        "endpoints": [{
            "host": nginx.addr().ip(), "port": nginx.addr().port(), "server_name": "www.shop.example",
            "tries": 20, "delay_ms": 100,
        }],
    });
    let Some(sshd) = sshd else {
        let location = json!({ "paths": paths });
        return NewTarget {
            name: "web".into(),
            module: "file".into(),
            config,
            location,
            credential_id: None,
            rules: TargetRules::default(),
        };
    };
    let private_key = fs::read_to_string(sshd.user_key(KeyType::Ed25519)).unwrap();
    let login = json!({ "user": sshd.user(), "private_key": private_key }).to_string();
    let credential = client.create_credential("shop", "deploy", &Secret::new(login)).await.unwrap();
    config["host_key"] = json!({ "known_hosts": fs::read_to_string(sshd.known_hosts()).unwrap() });
    let addr = sshd.addr();
    let location: Value = json!({ "host": addr.ip(), "port": addr.port(), "paths": paths });
    NewTarget {
        name: "web".into(),
        module: "ssh".into(),
        config,
        location,
        credential_id: Some(credential.id),
        rules: TargetRules::default(),
    }
}

async fn node(folder: &Path, death: Option<(usize, &str)>) -> std::process::ExitStatus {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crash-node"));
    command.arg(folder).kill_on_drop(true);
    if let Some((nth, when)) = death {
        command.arg(nth.to_string()).arg(when);
    }
    tokio::time::timeout(Duration::from_secs(120), command.status()).await.expect("the node ends").unwrap()
}

/// Kills the node at commit `nth`; returns whether it lived to the end.
async fn killed_at(nth: usize, when: &'static str, sshd: Option<&Sshd>) -> bool {
    let case = Case::prepare(sshd).await;
    let what = format!("commit {nth} {when}");
    let former = case.first.clone();
    let status = node(&case.folder(), Some((nth, when))).await;
    let survived = status.success();
    assert!(survived || status.signal() == Some(9), "{what}: {status}");
    let between = case.served().await;

    assert!(node(&case.folder(), None).await.success(), "{what}: resumes");
    let bundle = case.on_disk().unwrap_or_else(|error| panic!("{what}: no matching pair: {error}"));
    let now = bundle.fingerprint().to_string();
    case.nginx.await_served(&now).await.unwrap_or_else(|error| panic!("{what}: served and kept differ: {error}"));
    assert_ne!(now, former, "{what}: the new certificate is served");
    assert!(between == former || between == now, "{what}: served {between} in between");

    let store = world::open_store(&case.folder()).await;
    let client = world::runtime(store.clone()).client();
    let certificate = client.certificate("shop", &case.certificate).await.unwrap();
    assert_eq!((certificate.active_version, certificate.latest_version), (Some(2), 2), "{what}");
    let status = client.distribution_status("shop", &case.certificate).await.unwrap().unwrap();
    assert_eq!(status.targets[0].status, TargetStatus::Validated, "{what}");
    let orders = store.list_all(TypedQuery::<Order>::new().equal("certificate", &*case.certificate)).await.unwrap();
    assert_eq!(orders.len(), 2, "{what}: one order for each version");
    survived
}

/// Goes on to later commits until the node survives them all; returns how many there were.
async fn every_commit(sshd: Option<&Sshd>) -> usize {
    for first in (1..).step_by(PARALLEL / 2) {
        assert!(first < 100, "the node never survives");
        let cases = (first..first + PARALLEL / 2).flat_map(|nth| [(nth, "before"), (nth, "after")]);
        let survived: Vec<bool> =
            stream::iter(cases).map(|(nth, when)| killed_at(nth, when, sshd)).buffered(PARALLEL).collect().await;
        if survived.iter().all(|survived| *survived) {
            return first - 1;
        }
    }
    unreachable!()
}

#[tokio::test]
async fn a_file_target_survives_sigkill_at_every_commit() {
    require!(certlib_testkit::locate::locate("nginx").await);
    let commits = every_commit(None).await;
    assert!(commits >= 8, "only {commits} commits were tried");
}

#[tokio::test]
async fn an_ssh_target_survives_sigkill_at_every_commit() {
    require!(certlib_testkit::locate::locate("nginx").await);
    let sshd = require!(Sshd::start().await);
    let commits = every_commit(Some(&sshd)).await;
    assert!(commits >= 8, "only {commits} commits were tried");
}
