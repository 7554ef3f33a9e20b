//! The joint restore drill on real files: database, keys and backups, together and out of step.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use certlib_core::backup::{KeyReport, RestoreOptions, RestoreReport, check_backup};
use certlib_core::client::{Client, NewCertificate, NewIssuer};
use certlib_core::model::{CertificateState, Credential, KeyringState, record_kinds};
use certlib_core::runtime::{IssuerRegistry, Runtime, Settings};
use certlib_core::secret::{KEK_LEN, Keyring, KeyringEnvelope, SecretString};
use certlib_core::store::{SharedStore, StoreExt as _, TypedQuery};
use certlib_core::{Result, Secret};
use certlib_issuers::local_ca::LocalCaFactory;
use certlib_store_sql::{SqliteOptions, SqliteStore};
use serde_json::json;
use tokio::fs::File;

/// An operator's machine: files, and nothing else that survives.
struct Site {
    folder: tempfile::TempDir,
}

/// certlib on a database file with a key file.
struct Opened {
    runtime: Runtime,
    store: Arc<SqliteStore>,
}

impl Site {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a key file with these versions, a line each. The keys need not be secret.
    fn key_file(&self, name: &str, keys: &[(u32, u8)]) -> PathBuf {
        let line = |(version, byte): &(u32, u8)| {
            let digits: String = (0..32_u8).map(|n| format!("{:02x}", n ^ byte)).collect();
            format!("v{version} {digits}\n")
        };
        let path = self.path(name);
        std::fs::write(&path, keys.iter().map(line).collect::<String>()).unwrap();
        path
    }

    async fn open(&self, database: &str, key_file: &Path) -> Opened {
        let store = Arc::new(SqliteStore::open(self.path(database), SqliteOptions::new()).await.unwrap());
        let settings = |settings: &mut Settings| {
            settings.state_dir = Some(self.path("state"));
            settings.node_heartbeat = Duration::from_millis(300);
            settings.leader_ttl = Duration::from_secs(2);
            settings.leader_heartbeat = Duration::from_millis(300);
            settings.leader_poll = Duration::from_millis(100);
            settings.sweep_interval = Duration::from_millis(200);
            settings.poll_interval = Duration::from_millis(100);
        };
        let runtime = Runtime::builder(store.clone(), Arc::new(KeyringEnvelope::new(read_keys(key_file))))
            .issuers(IssuerRegistry::new().register(LocalCaFactory::new()).unwrap())
            .settings(settings)
            .build()
            .unwrap();
        Opened { runtime, store }
    }

    /// What `restore --check FILE` does.
    async fn check(&self, backup: &str, key_file: &Path) -> Result<KeyReport> {
        let file = File::open(self.path(backup)).await.unwrap();
        check_backup(file, &record_kinds(), &KeyringEnvelope::new(read_keys(key_file)), &mut |_| {}).await
    }

    /// What `restore FILE` does.
    async fn restore(&self, backup: &str, database: &str, key_file: &Path) -> Result<RestoreReport> {
        let opened = self.open(database, key_file).await;
        let mut file = File::open(self.path(backup)).await.unwrap();
        let restored = opened.runtime.client().restore(&mut file, &RestoreOptions::default(), &mut |_| {}).await;
        opened.store.close().await;
        restored
    }

    /// What `restore --check --store` does.
    async fn check_store(&self, database: &str, key_file: &Path) -> KeyReport {
        let opened = self.open(database, key_file).await;
        let report = opened.runtime.client().check_store(&mut |_| {}).await.unwrap();
        opened.store.close().await;
        report
    }
}

fn read_keys(key_file: &Path) -> Keyring {
    let mut ring = Keyring::default();
    for line in std::fs::read_to_string(key_file).unwrap().lines() {
        let (version, digits) = line.strip_prefix('v').unwrap().split_once(' ').unwrap();
        let mut key = [0; KEK_LEN];
        for (at, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap();
        }
        ring.add(version.parse().unwrap(), Secret::new(key)).unwrap();
    }
    ring
}

async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done().await {
        assert!(Instant::now() < deadline, "{what}: not within 120 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn login(number: usize) -> SecretString {
    Secret::new(json!({ "user": "deploy", "password": format!("canary-{number}") }).to_string())
}

async fn issue(client: &Client, id: &str, version: u32) {
    client.issue("shop", id).await.unwrap();
    until("issued", || async {
        let certificate = client.certificate("shop", id).await.unwrap();
        certificate.active_version == Some(version) && certificate.state == CertificateState::Active
    })
    .await;
}

async fn opens_all_credentials(client: &Client, store: &SharedStore) -> usize {
    let all = store.list_all(TypedQuery::<Credential>::new()).await.unwrap();
    for credential in &all {
        let plain = client.open(&credential.record).await.unwrap();
        assert!(String::from_utf8_lossy(plain.expose()).contains("canary-"));
    }
    all.len()
}

fn code(report: &KeyReport) -> String {
    report.verdict().map_or_else(|error| error.code().to_owned(), |()| "may serve".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_data_out_of_step_are_found_before_traffic_and_in_step_they_serve() {
    let site = Site::new();
    let first_keys = site.key_file("kek.2027-01", &[(1, 1)]);
    let both_keys = site.key_file("kek.2027-02", &[(1, 1), (2, 2)]);
    let second_keys = site.key_file("kek.2027-03", &[(2, 2)]);
    let wrong_keys = site.key_file("kek.elsewhere", &[(1, 1), (2, 9)]);

    // January: an installation with its first key, and a backup.
    let opened = site.open("certlib.db", &first_keys).await;
    let running = opened.runtime.start();
    let client = running.client();
    client.create_project("shop").await.unwrap();
    let issuer = NewIssuer::new("ca", "local-ca", json!({ "common_name": "Drill CA" }));
    let issuer = client.create_issuer("shop", issuer).await.unwrap().id;
    let new = NewCertificate::new(["www.shop.example"], issuer);
    let id = client.create_certificate("shop", new).await.unwrap().id;
    for number in 0..20 {
        client.create_credential("shop", &format!("c{number}"), &login(number)).await.unwrap();
    }
    issue(&client, &id, 1).await;
    let root =
        client.material("shop", &id, Some(1), false).await.unwrap().bundle.certificates().last().unwrap().to_vec();
    client.backup_to(&site.path("january.backup"), false, &mut |_| {}).await.unwrap();
    running.shutdown().await;
    opened.store.close().await;

    // February: the key is rotated; the former one is held back by the backup until it is put in escrow.
    let opened = site.open("certlib.db", &both_keys).await;
    let running = opened.runtime.start();
    let client = running.client();
    until("the node tells of its keys", || async {
        client.check_kek(2).await.is_ok_and(|readiness| readiness.is_ready() && !readiness.have.is_empty())
    })
    .await;
    client.rotate_kek(2).await.unwrap();
    until("rotated", || async {
        let state = client.store().load::<KeyringState>(KeyringState::ID).await.unwrap();
        state.rotation.is_none() && state.primary.version == 2
    })
    .await;
    assert_eq!(client.remove_kek(1, false).await.unwrap_err().code(), "kek_in_backup");
    client.remove_kek(1, true).await.unwrap();
    client.create_credential("shop", "february", &login(99)).await.unwrap();
    client.backup_to(&site.path("february.backup"), false, &mut |_| {}).await.unwrap();
    // What only the snapshot of the database has, and what is in neither.
    issue(&client, &id, 2).await;
    running.shutdown().await;
    opened.store.close().await;
    std::fs::copy(site.path("certlib.db"), site.path("snapshot.db")).unwrap();

    // March: the database is lost. Somebody finds a key file from January.
    std::fs::remove_file(site.path("certlib.db")).unwrap();
    let report = site.check("february.backup", &first_keys).await.unwrap();
    assert_eq!(code(&report), "kek_orphaned", "{report}");
    let [missing] = &report.keks[..] else { panic!("{report}") };
    assert_eq!((missing.kek.version, missing.orphaned), (2, missing.envelopes));
    assert!(missing.envelopes >= 23, "credentials, CA, version, order: {report}");
    let refused = site.restore("february.backup", "certlib.db", &first_keys).await.unwrap_err();
    assert_eq!(refused.code(), "kek_orphaned");
    // One with the right versions, from another installation.
    let report = site.check("february.backup", &wrong_keys).await.unwrap();
    assert_eq!(code(&report), "kek_orphaned");
    assert!(report.keks[0].instead.is_some(), "{report}");
    // The snapshot of the database fares no better with them.
    for keys in [&first_keys, &wrong_keys] {
        assert_eq!(code(&site.check_store("snapshot.db", keys).await), "kek_orphaned");
    }
    // The older backup needs the older key.
    assert_eq!(code(&site.check("january.backup", &second_keys).await.unwrap()), "kek_orphaned");
    assert_eq!(code(&site.check("january.backup", &first_keys).await.unwrap()), "may serve");

    // The right keys are found.
    assert_eq!(code(&site.check_store("snapshot.db", &second_keys).await), "may serve");
    assert_eq!(code(&site.check("february.backup", &second_keys).await.unwrap()), "may serve");
    let report = site.restore("february.backup", "certlib.db", &second_keys).await.unwrap();
    assert!(report.checked.may_serve() && report.leader_epoch > 0);
    assert_eq!(code(&site.check_store("certlib.db", &second_keys).await), "may serve");

    // It serves: secrets open, the same CA goes on, what was issued after the backup is issued anew. This node led after
    // the backup was taken, but no other term began since: it leads again without being told anything.
    let opened = site.open("certlib.db", &second_keys).await;
    let running = opened.runtime.start();
    let client = running.client();
    assert_eq!(opens_all_credentials(&client, client.store()).await, 21);
    assert_eq!(client.certificate("shop", &id).await.unwrap().latest_version, 1);
    assert!(client.material("shop", &id, Some(1), true).await.unwrap().bundle.key().is_some());
    issue(&client, &id, 2).await;
    let renewed = client.material("shop", &id, Some(2), true).await.unwrap().bundle;
    assert_eq!(renewed.certificates().last().unwrap().to_vec(), root, "by the root of January");
    until("leads", || async { running.is_leader() }).await;
    let seen = client.cluster_instances().await.unwrap().newest_epoch;
    running.shutdown().await;
    opened.store.close().await;

    // January's backup is older than what the node remembers: it does not lead until it is told to.
    site.restore("january.backup", "older.db", &first_keys).await.unwrap();
    let opened = site.open("older.db", &first_keys).await;
    let client = opened.runtime.client();
    let running = opened.runtime.start();
    until("the node notices that the store went back", || async {
        let events = client.store().list_all(TypedQuery::<certlib_core::model::Event>::new()).await.unwrap();
        events.iter().any(|event| event.kind == "store.regressed")
    })
    .await;
    assert!(!running.is_leader());
    client.raise_leader_epoch(seen).await.unwrap();
    until("leads", || async { running.is_leader() }).await;
    assert_eq!(opens_all_credentials(&client, client.store()).await, 20);
    issue(&client, &id, 2).await;
    running.shutdown().await;
    opened.store.close().await;
}
