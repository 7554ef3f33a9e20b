//! A whole life with secrets of every kind, and a search of all that came of it.

use std::error::Error as _;
use std::fmt::Debug;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::backoff::Ladder;
use certlib_core::client::{Client, NewCertificate, NewIssuer, NewTarget, Revocation, TargetRules};
use certlib_core::model::{
    Certificate, CertificateState, CertificateVersion, Credential, IssuerSecret, JournalEntry, KeyringState, Order,
    TargetStatus,
};
use certlib_core::queue::{JobFilter, RetryPolicy};
use certlib_core::runtime::{IssuerRegistry, Runtime};
use certlib_core::secret::{KEK_LEN, Keyring, KeyringEnvelope};
use certlib_core::store::{Record, SharedStore, StoreExt as _, TypedQuery};
use certlib_core::{Error, Secret};
use certlib_issuers::acme::AcmeFactory;
use certlib_issuers::local_ca::LocalCaFactory;
use certlib_store_sql::{SqliteOptions, SqliteStore};
use certlib_testkit::counterpart::{Pebble, random_mac_key};
use certlib_testkit::pki::TestCa;
use certlib_testkit::require;
use certlib_testkit::simhost::{Fault, TestCertificate};
use serde_json::{Value, json};

use crate::capture::{Captured, captured};
use crate::hosts;
use crate::needles::Needle;

const NAME: &str = "www.shop.example";
const PATIENCE: Duration = Duration::from_secs(120);
/// Is not secret, and goes wherever secrets could go.
const CONTROL: &str = "control-5f1e8a0c9d7b";

/// A new secret of letters.
fn word() -> String {
    rand::random::<[u8; 32]>().iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

/// What is to be searched: what it is, and what it says.
type Place = (String, Vec<u8>);

/// What certlib answered.
#[derive(Default)]
struct Said(Vec<Place>);

impl Said {
    fn debug(&mut self, what: &str, value: &impl Debug) {
        self.0.push((what.to_owned(), format!("{value:?}\n{value:#?}").into_bytes()));
    }

    fn json(&mut self, what: &str, value: &impl serde::Serialize) {
        self.0.push((what.to_owned(), serde_json::to_vec(value).unwrap()));
    }

    fn error(&mut self, what: &str, error: &Error) {
        let mut text = format!("{error} {error:?} {error:#?} {}", serde_json::to_string(&error.to_record()).unwrap());
        let mut source = error.source();
        while let Some(error) = source {
            text += &format!("\n{error} {error:?}");
            source = error.source();
        }
        self.0.push((what.to_owned(), text.into_bytes()));
    }

    fn bytes(&mut self, what: &str, bytes: Vec<u8>) {
        self.0.push((what.to_owned(), bytes));
    }
}

struct Life {
    client: Client,
    store: SharedStore,
    needles: Vec<Needle>,
    said: Said,
}

impl Life {
    /// A credential with a new secret in each of `fields`.
    async fn credential(&mut self, name: &str, mut json: Value, fields: &[&str]) -> String {
        for field in fields {
            let secret = word();
            self.needles.push(Needle::new(format!("{name}: {field}"), secret.as_bytes()));
            json[*field] = secret.into();
        }
        self.keep(name, &json).await
    }

    async fn keep(&mut self, name: &str, json: &Value) -> String {
        let secret = Secret::new(json.to_string());
        let credential = self.client.create_credential("shop", name, &secret).await.unwrap();
        self.said.debug("a new credential", &(&credential, &secret));
        self.said.json("a new credential", &credential);
        credential.id
    }

    async fn target(&mut self, module: &str, name: &str, parts: (Value, Value), credential: Option<String>) -> String {
        let name = format!("{name} {CONTROL}");
        let (config, location) = parts;
        let new = NewTarget {
            name,
            module: module.into(),
            config,
            location,
            credential_id: credential,
            rules: TargetRules::default(),
        };
        self.said.debug("a target to be", &new);
        let target = self.client.create_target("shop", new).await.unwrap();
        self.said.debug("a target", &target);
        target.id
    }

    async fn issuer(&mut self, kind: &str, config: Value, credential: Option<String>) -> String {
        let new = NewIssuer { name: format!("{kind} {CONTROL}"), kind: kind.into(), config, credential_id: credential };
        let issuer = self.client.create_issuer("shop", new).await.unwrap();
        self.said.debug("an issuer", &issuer);
        issuer.id
    }

    async fn certificate(&mut self, issuer: String, targets: Vec<String>) -> String {
        let new = NewCertificate { names: vec![NAME.into()], issuer_id: issuer, targets, ..NewCertificate::default() };
        let id = self.client.create_certificate("shop", new).await.unwrap().id;
        self.client.issue("shop", &id).await.unwrap();
        id
    }

    async fn until(&self, id: &str, what: &str, done: impl Fn(&Certificate) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let certificate = self.client.certificate("shop", id).await.unwrap();
            if done(&certificate) {
                return;
            }
            let status = self.client.distribution_status("shop", id).await.unwrap();
            assert!(Instant::now() < deadline, "not {what}: {certificate:#?} {status:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Learns the secret that `record` holds; returns it in plain.
    async fn open<R: Record>(&self, record: &R) -> Vec<u8> {
        self.client.open(record).await.unwrap().expose().clone()
    }

    /// Adds the secrets that certlib made itself: keys of versions and orders, of accounts and CAs, and the files before.
    async fn learn(&mut self) {
        for version in self.all::<CertificateVersion>().await {
            let key = self.open(&version).await;
            self.needles.push(Needle::key(format!("the key of version {}", version.version), &key));
        }
        for order in self.all::<Order>().await {
            self.needles.push(Needle::key("the key of an order", &self.open(&order).await));
        }
        let (mut accounts, mut roots) = (0, 0);
        for kept in self.all::<IssuerSecret>().await {
            let json: Value = serde_json::from_slice(&self.open(&kept).await).unwrap();
            let (name, key) = match json["accounts"][0]["key"].as_str() {
                Some(key) => ("the key of an ACME account", key),
                None => ("the key of a CA", json["key"].as_str().unwrap()),
            };
            accounts += usize::from(name.contains("ACME"));
            roots += usize::from(name.contains("CA"));
            self.needles.push(Needle::key(name, &STANDARD.decode(key).unwrap()));
        }
        assert!(accounts > 0 && roots > 0, "{accounts} accounts, {roots} roots");
    }

    async fn all<R: Record>(&self) -> Vec<R> {
        let all = self.store.list_all::<R>(TypedQuery::new()).await.unwrap();
        all.into_iter().map(|record| record.record).collect()
    }

    /// Asks for everything that a client can ask for.
    async fn ask(&mut self, certificates: &[String]) {
        let (client, said) = (&self.client, &mut self.said);
        for id in certificates {
            said.debug("a certificate", &client.certificate("shop", id).await.unwrap());
            said.debug("versions", &client.versions("shop", id).await.unwrap());
            said.json("versions", &client.versions("shop", id).await.unwrap());
            let status = client.distribution_status("shop", id).await.unwrap();
            said.debug("the status of a distribution", &status);
            if let Some(status) = &status {
                said.json("a run", &status.run);
                said.json("runs of targets", &status.targets);
            }
            said.debug("distributions", &client.distributions("shop", id).await.unwrap());
            if let Ok(material) = client.material("shop", id, None, true).await {
                assert!(material.bundle.key().is_some());
                said.debug("material with its key", &material);
                said.json("a version", &material.version);
            }
            match client.dry_run("shop", id, |_| {}).await {
                Ok(plans) => {
                    for planned in &plans {
                        said.debug("a plan", planned);
                        if let Ok(plan) = &planned.plan {
                            said.json("a plan", plan);
                            said.bytes("a plan", plan.to_string().into_bytes());
                        }
                    }
                }
                Err(error) => said.error("a plan that failed", &error),
            }
        }
        let jobs = client.jobs("shop", JobFilter { limit: 1000, ..JobFilter::default() }).await.unwrap();
        for job in &jobs {
            said.json("a job", job);
            let log = client.job_log("shop", &job.id, None, 1000).await.unwrap();
            said.debug("the log of a job", &log);
        }
        said.debug("jobs", &jobs);
        let events = client.events("shop", None, 1000).await.unwrap();
        said.debug("events", &events);
        said.json("events", &events);
        said.json("events of the installation", &client.events("", None, 1000).await.unwrap());
        said.debug("credentials", &client.credentials("shop").await.unwrap());
        said.debug("issuers", &client.issuers("shop").await.unwrap());
        said.debug("targets", &client.targets("shop").await.unwrap());
        said.debug("nodes", &client.cluster_instances().await.unwrap());
        said.debug("keys", &client.keyring().await.unwrap());
        said.debug("the queue", &client.queue_stats().await.unwrap());
        said.debug("the client", client);
    }

    /// All secrets that the store holds now, in plain: where each of them has to be found.
    async fn plain(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        self.add_plain::<CertificateVersion>(&mut plain).await;
        self.add_plain::<Order>(&mut plain).await;
        self.add_plain::<IssuerSecret>(&mut plain).await;
        self.add_plain::<Credential>(&mut plain).await;
        self.add_plain::<JournalEntry>(&mut plain).await;
        plain
    }

    async fn add_plain<R: Record>(&self, plain: &mut Vec<u8>) {
        for record in self.all::<R>().await {
            plain.extend(self.open(&record).await);
            plain.push(b'\n');
        }
    }

    /// Fails if any secret is in any of `places`.
    fn search(&self, places: &[Place]) {
        let next = AtomicUsize::new(0);
        let hits = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some(needle) = self.needles.get(next.fetch_add(1, Ordering::Relaxed)) {
                        for (place, bytes) in places {
                            if let Some(found) = needle.found_in(bytes) {
                                hits.lock().unwrap().push(format!("{} in {place}, {found}", needle.name));
                            }
                        }
                    }
                });
            }
        });
        let hits = hits.into_inner().unwrap();
        assert!(hits.is_empty(), "{} secrets got out:\n{}", hits.len(), hits.join("\n"));
        let total: usize = places.iter().map(|(_, bytes)| bytes.len()).sum();
        eprintln!("{} secrets, {} places, {} KB searched", self.needles.len(), places.len(), total / 1000);
    }
}

/// What this process logged and measured, and the files of its store.
fn outside(captured: &Captured, data: &Path) -> Vec<Place> {
    let mut places = vec![("log".to_owned(), captured.log()), ("metrics".to_owned(), captured.metrics().into_bytes())];
    for entry in fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        places.push(("database".to_owned(), fs::read(path).unwrap()));
    }
    places
}

/// Fails unless what is not secret is where it has to be: so the places were filled, and are searched.
fn controls(places: &[Place]) {
    let control = Needle::new("control", CONTROL.as_bytes());
    for place in ["log", "database", "a target", "a plan", "the status of a distribution", "events", "runs of targets"]
    {
        let found = places.iter().any(|(name, bytes)| name == place && control.found_in(bytes).is_some());
        assert!(found, "{place} does not have what is not secret");
    }
    let text = |wanted: &str| {
        let (_, bytes) = places.iter().find(|(place, _)| place == wanted).unwrap();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let metrics = text("metrics");
    assert!(metrics.contains("certlib_") && metrics.contains("module=\"ssh\""), "{metrics}");
    let log = text("log");
    for speaker in ["TRACE", "certlib_core", "russh", "reqwest", "hyper_util", "rustls"] {
        assert!(log.contains(speaker), "{speaker} says nothing");
    }
}

fn envelope(keys: &[[u8; KEK_LEN]]) -> Arc<KeyringEnvelope> {
    let mut ring = Keyring::default();
    for (version, key) in (1..).zip(keys) {
        ring.add(version, Secret::new(*key)).unwrap();
    }
    Arc::new(KeyringEnvelope::new(ring))
}

fn runtime(store: &SharedStore, envelope: Arc<KeyringEnvelope>) -> Runtime {
    let quick = RetryPolicy::with_ladder(Ladder::new(vec![Duration::from_millis(200); 2], 0.1));
    Runtime::builder(store.clone(), envelope)
        .modules(certlib_modules::registry().unwrap())
        .issuers(
            IssuerRegistry::new()
                .register(LocalCaFactory::new())
                .and_then(|issuers| issuers.register(AcmeFactory::new()))
                .unwrap(),
        )
        .settings(|settings| {
            settings.poll_interval = Duration::from_millis(50);
            settings.sweep_interval = Duration::from_millis(100);
            settings.leader_poll = Duration::from_millis(50);
            settings.node_heartbeat = Duration::from_millis(200);
            settings.retry = quick.clone();
            settings.renewal_retry = quick;
        })
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_gets_out_in_a_whole_life() {
    let captured = captured();
    let mac_key = random_mac_key();
    let pebble = require!(Pebble::builder().always_valid().external_account("kid-1", &mac_key).start().await);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let store: SharedStore = Arc::new(SqliteStore::open(data.join("certlib.db"), SqliteOptions::new()).await.unwrap());
    let keys: [[u8; KEK_LEN]; 2] = [rand::random(), rand::random()];

    // The first start has one key only.
    let running = runtime(&store, envelope(&keys[..1])).start();
    let mut life = Life { client: running.client(), store: store.clone(), needles: Vec::new(), said: Said::default() };
    life.needles.push(Needle::new("the MAC key of an external account", mac_key.as_bytes()));
    life.client.create_project("shop").await.unwrap();
    let targets = targets(&mut life, folder.path()).await;
    let local = life.issuer("local-ca", json!({ "common_name": format!("root {CONTROL}") }), None).await;
    let first = life.certificate(local, targets).await;
    let acme = acme(&mut life, &pebble, &mac_key).await;

    life.until(&first, "delivered to some", |certificate| certificate.state == CertificateState::PartialFailure).await;
    for id in &acme[..1] {
        life.until(id, "active", |certificate| certificate.state == CertificateState::Active).await;
    }
    life.until(&acme[1], "refused", |certificate| certificate.last_error.is_some()).await;
    check_targets(&life, &first).await;
    let mut plain = life.plain().await;
    life.client.renew("shop", &first).await.unwrap();
    life.until(&first, "renewed", |certificate| {
        certificate.active_version == Some(2) && certificate.state == CertificateState::PartialFailure
    })
    .await;
    life.client.revoke("shop", &acme[0], Revocation { replace: false, ..Revocation::default() }).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !life.client.is_revoked("shop", &acme[0], 1).await.unwrap() {
        assert!(Instant::now() < deadline, "it was not revoked");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    mistakes(&mut life).await;
    let certificates = [&[first][..], &acme].concat();
    life.ask(&certificates).await;
    plain.extend(life.plain().await);
    running.shutdown().await;

    // The next start has another key too, and moves all secrets to it.
    let running = runtime(&store, envelope(&keys)).start();
    life.client = running.client();
    rotate(&mut life).await;
    life.learn().await;
    life.ask(&certificates).await;
    // This one was put back, and its undo data is gone since.
    plain.extend(fs::read(folder.path().join("tls/key.pem")).unwrap());
    for needle in &life.needles {
        assert!(needle.found_in(&plain).is_some(), "{} is not even in the secrets themselves", needle.name);
    }
    for (number, key) in keys.iter().enumerate() {
        life.needles.push(Needle::new(format!("key-encryption key {}", number + 1), key));
    }
    let mut places = outside(captured, &data);
    places.append(&mut life.said.0);
    controls(&places);
    life.search(&places);
    // Once more what is left when all has ended.
    running.shutdown().await;
    life.search(&outside(captured, &data));
}

/// Every way to deliver that there is, and every way in which it can fail.
async fn targets(life: &mut Life, folder: &Path) -> Vec<String> {
    let mut ids = Vec::new();
    // Good hosts and bad ones. What they served before becomes undo data.
    let shared = TestCertificate::shared().unwrap();
    life.needles.push(Needle::pem("the key on a host before", shared.key_pem()));
    let fault = Fault::ReloadFails { exit_code: 1, stderr: format!("no such thing as {CONTROL}") };
    for (name, fault) in [("good", None), ("stubborn", Some(fault)), ("stale", Some(Fault::ServesOldCertificate))] {
        let (password, host_name) = (word(), format!("{name}-host"));
        let host = Box::leak(Box::new(hosts::host(&host_name, &password, fault).await));
        life.needles.push(Needle::new(format!("{name}: password"), password.as_bytes()));
        let login = json!({ "user": hosts::USER, "password": password });
        let credential = life.credential(name, login, &["pfx_password"]).await;
        let parts = (hosts::config(host, NAME), hosts::location(host));
        ids.push(life.target("ssh", name, parts, Some(credential)).await);
        if name == "good" {
            // The same host with a password and a private key that it does not know.
            let key = TestCa::new("ssh").unwrap().key_pem();
            life.needles.push(Needle::pem("a private key for SSH", &key));
            let login = json!({ "user": hosts::USER, "private_key": key });
            let credential = life.credential("stranger", login, &["password", "pfx_password"]).await;
            let parts = (hosts::config(host, NAME), hosts::location(host));
            ids.push(life.target("ssh", "stranger", parts, Some(credential)).await);

            // Files whose former content nobody wants back, until the check of what is served fails.
            let files = folder.join("tls");
            fs::create_dir(&files).unwrap();
            let former = TestCa::new("former").unwrap().issue(&[NAME]).unwrap();
            life.needles.push(Needle::pem("the key in a file before", &former.key_pem));
            fs::write(files.join("full.pem"), former.full_chain()).unwrap();
            fs::write(files.join("key.pem"), &former.key_pem).unwrap();
            let credential = life.credential("files", json!({}), &["pfx_password"]).await;
            let paths = json!({ "paths": {
                "fullchain": files.join("full.pem"), "key": files.join("key.pem"), "combined": files.join("all.pem"),
                "pfx": files.join("all.pfx"),
            } });
            let mut config = json!({ "endpoints": [hosts::endpoint(host, "another.example")] });
            config["endpoints"][0]["port"] = json!(closed_port());
            ids.push(life.target("file", "files", (config, paths), Some(credential)).await);
        }
    }
    let url = json!({ "url": format!("http://{}/hook", hosts::echo().await) });
    let config = json!({ "allow_http": true, "addresses": { "allow_loopback": true } });
    let secrets = [rand::random::<[u8; 32]>(), rand::random()];
    let [secret, previous] = secrets.map(|secret| format!("whsec_{}", STANDARD.encode(secret)));
    for secret in &secrets {
        life.needles.push(Needle::new("a secret that signs", secret));
    }
    let login = json!({ "secret": secret, "previous_secret": previous });
    let credential = life.credential("hook", login, &["bearer"]).await;
    ids.push(life.target("webhook", "hook", (config, url), Some(credential)).await);
    ids
}

/// A certificate from an account that is bound with the right key, and one with a wrong key.
async fn acme(life: &mut Life, pebble: &Pebble, mac_key: &str) -> Vec<String> {
    let config = json!({
        "directory_url": pebble.directory_url(),
        "root_pem": pebble.api_root_pem(),
        "contact": [format!("mailto:{CONTROL}@example.com")],
        "terms_of_service_agreed": true,
        "challenge": { "type": "http-01" },
        "poll": { "steps": [1], "spread": 0.1, "max_wait": 120 },
        "eab_kid": "kid-1",
    });
    let wrong = random_mac_key();
    life.needles.push(Needle::new("a wrong MAC key of an external account", wrong.as_bytes()));
    let mut ids = Vec::new();
    for key in [mac_key, &wrong] {
        let credential = life.keep("external account", &json!({ "eab_hmac_key": key })).await;
        let issuer = life.issuer("acme", config.clone(), Some(credential)).await;
        ids.push(life.certificate(issuer, Vec::new()).await);
    }
    ids
}

/// That the targets did what they are there for.
async fn check_targets(life: &Life, certificate: &str) {
    let status = life.client.distribution_status("shop", certificate).await.unwrap().unwrap();
    let of = |name: &str| {
        let wanted = format!("{name} {CONTROL}");
        status.targets.iter().find(|target| target.target_name == wanted).unwrap().status
    };
    let seen = ["good", "stale", "files", "stranger", "hook"].map(of);
    use TargetStatus::{Failed, RolledBack, Validated};
    assert_eq!(seen, [Validated, RolledBack, RolledBack, Failed, Failed], "{status:#?}");
    assert_ne!(of("stubborn"), Validated);
    assert!(!life.all::<JournalEntry>().await.is_empty(), "there is undo data");
}

/// What an operator may do wrong with a secret at hand.
async fn mistakes(life: &mut Life) {
    let canary = word();
    life.needles.push(Needle::new("a secret in the wrong place", canary.as_bytes()));
    let wrong = [
        json!(canary),
        json!([canary]),
        json!({ "user": [canary] }),
        json!({ "user": "root", "password": { (&*canary): 1 } }),
        json!({ "user": "root", "password": [canary] }),
        json!({ "user": "root", "password": "x", (&*canary): true }),
        json!({ "user": "root", "private_key": canary }),
        json!({ "user": "root", "private_key": canary, "passphrase": canary, "certificate": canary }),
        json!({ "secret": [canary], "bearer": 7 }),
        json!({ "secret": canary }),
        json!({ "basic": { "username": "a:b", "password": canary } }),
        json!({ "bearer": format!("{canary}\n") }),
        json!({ "pfx_password": { "value": canary } }),
        json!({ "eab_hmac_key": [canary] }),
        json!({ "eab_hmac_key": format!("{canary}!") }),
        json!({ "tsig_secret": { "value": canary } }),
    ];
    let (mut refused, mut ids) = (0, Vec::new());
    for wrong in wrong {
        let credential = Some(life.keep("mistake", &wrong).await);
        let paths = json!({ "paths": { "fullchain": "/nowhere/full.pem", "key": "/nowhere/key.pem" } });
        let mut there = paths.clone();
        there["host"] = json!("127.0.0.1");
        let hook = json!({ "url": "http://127.0.0.1:9/" });
        let host_key = json!({ "host_key": { "insecure_accept_any": true } });
        let parts =
            [("ssh", host_key, there), ("file", json!({}), paths), ("webhook", json!({"allow_http": true}), hook)];
        for (module, config, location) in parts {
            let target = NewTarget {
                name: format!("mistake {module}"),
                module: module.into(),
                config,
                location,
                credential_id: credential.clone(),
            };
            if let Err(error) = life.client.create_target("shop", target).await {
                refused += 1;
                life.said.error("a target that was refused", &error);
            }
        }
        let config = json!({
            "directory_url": "https://127.0.0.1:9/directory", "terms_of_service_agreed": true,
            "challenge": { "type": "http-01" }, "eab_kid": "kid-1",
        });
        let issuer = life.issuer("acme", config, credential).await;
        ids.push(life.certificate(issuer, Vec::new()).await);
    }
    for id in ids {
        life.until(&id, "refused", |certificate| certificate.last_error.is_some()).await;
        life.said.debug("a certificate that was refused", &life.client.certificate("shop", &id).await.unwrap());
    }
    assert!(refused > 30, "{refused}");
    for text in [format!("{{\"password\":\"{canary}"), format!("{canary} \"{canary}\"")] {
        let error = life.client.create_credential("shop", "torn", &Secret::new(text)).await.unwrap_err();
        life.said.error("a credential that was refused", &error);
    }
}

/// Moves all secrets to the second key, and lets the first one go.
async fn rotate(life: &mut Life) {
    let client = life.client.clone();
    life.said.debug("the readiness for a key", &client.check_kek(2).await.unwrap());
    let rotation = client.rotate_kek(2).await.unwrap();
    life.said.debug("a rotation", &rotation);
    life.said.error("a second rotation", &client.rotate_kek(1).await.unwrap_err());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = client.keyring().await.unwrap();
        if status.state.rotation.is_none() {
            assert_eq!(status.state.primary.version, 2);
            break;
        }
        life.said.debug("a rotation under way", &status);
        assert!(Instant::now() < deadline, "{status:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.check_keyring().await.unwrap();
    client.remove_kek(1, false).await.unwrap();
    let state = life.store.load::<KeyringState>(KeyringState::ID).await.unwrap();
    life.said.json("the keyring", &state.record);
}

/// A port on which nobody listens.
fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
