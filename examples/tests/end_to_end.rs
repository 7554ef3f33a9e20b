//! All the way on real programs: Pebble issues, certlib delivers over OpenSSH to nginx and HAProxy, reloads them, and
//! openssl sees the new leaf.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::time::{Duration, Instant};

use certlib_core::Secret;
use certlib_core::client::{Client, NewTarget};
use certlib_core::model::{CertificateState, RunState, TargetStatus};
use certlib_issuers::challenge::http01::{Http01Responder, serve};
use certlib_testkit::counterpart::{
    Bind, CertificateFiles, Haproxy, KeyType, Nginx, Pebble, Sshd, WebServer, s_client_fingerprint,
};
use certlib_testkit::pki::TestCa;
use certlib_testkit::require;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[path = "support/node.rs"]
mod node;

use node::{Node, quick_polls};

const NAME: &str = "www.shop.example";

/// nginx and HAProxy behind one sshd, each with a certificate of its own to begin with.
struct Hosts {
    sshd: Sshd,
    nginx: Nginx,
    haproxy: Haproxy,
    nginx_files: CertificateFiles,
    haproxy_files: CertificateFiles,
    _folder: tempfile::TempDir,
}

impl Hosts {
    async fn start() -> certlib_testkit::Result<Hosts> {
        let folder = tempfile::tempdir().unwrap();
        let former = TestCa::new("former ca")?.issue(&[NAME])?;
        let nginx_files = CertificateFiles::new(folder.path().join("nginx"));
        let haproxy_files = CertificateFiles::new(folder.path().join("haproxy"));
        nginx_files.write(&former)?;
        haproxy_files.write(&former)?;
        Ok(Hosts {
            sshd: Sshd::start().await?,
            nginx: Nginx::start(&nginx_files).await?,
            haproxy: Haproxy::start(&haproxy_files).await?,
            nginx_files,
            haproxy_files,
            _folder: folder,
        })
    }

    /// Both as targets over SSH.
    async fn targets(&self, client: &Client) -> Vec<String> {
        let private_key = fs::read_to_string(self.sshd.user_key(KeyType::Ed25519)).unwrap();
        let login = json!({ "user": self.sshd.user(), "private_key": private_key }).to_string();
        let credential_id = client.create_credential("shop", "deploy", &Secret::new(login)).await.unwrap().id;
        let known_hosts = fs::read_to_string(self.sshd.known_hosts()).unwrap();
        let nginx = json!({ "fullchain": self.nginx_files.full_chain(), "key": self.nginx_files.private_key() });
        let haproxy = json!({ "combined": self.haproxy_files.combined() });
        let mut ids = Vec::new();
        for (name, server, paths) in [("nginx", &*self.nginx, nginx), ("haproxy", &*self.haproxy, haproxy)] {
            let target = NewTarget {
                name: name.into(),
                module: "ssh".into(),
                config: config(server, &known_hosts),
                location: json!({ "host": "127.0.0.1", "port": self.sshd.addr().port(), "paths": paths }),
                credential_id: Some(credential_id.clone()),
                ..NewTarget::default()
            };
            ids.push(client.create_target("shop", target).await.unwrap().id);
        }
        ids
    }

    /// Waits until openssl sees these: right after a reload, former workers may still answer.
    async fn await_served(&self, nginx: &str, haproxy: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let served = self.served().await;
            if (&*served.0, &*served.1) == (nginx, haproxy) {
                return;
            }
            assert!(Instant::now() < deadline, "{served:?} instead of {nginx} and {haproxy}");
        }
    }

    async fn served(&self) -> (String, String) {
        let nginx = s_client_fingerprint(self.nginx.addr(), NAME).await.unwrap();
        let haproxy = s_client_fingerprint(self.haproxy.addr(), NAME).await.unwrap();
        (nginx, haproxy)
    }
}

fn config(server: &WebServer, known_hosts: &str) -> Value {
    json!({
        "host_key": { "known_hosts": known_hosts },
        "test_command": server.test_command(),
        "reload_command": server.reload_command(),
        "endpoints": [{
            "host": "127.0.0.1", "port": server.addr().port(), "server_name": NAME, "tries": 20, "delay_ms": 200,
        }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn http_01_then_ssh_to_nginx_and_haproxy_and_a_broken_config_is_caught() {
    let hosts = require!(Hosts::start().await);
    let node = Node::start().await;
    let client = node.running.client();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http_01 = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let responder = tokio::spawn(serve(listener, Http01Responder::new(node.store.clone()), stop.clone()));
    let pebble = require!(Pebble::builder().http_01_port(http_01.port()).start().await);

    let targets = hosts.targets(&client).await;
    let config = json!({
        "directory_url": pebble.directory_url(),
        "root_pem": pebble.api_root_pem(),
        "contact": ["mailto:ops@shop.example"],
        "terms_of_service_agreed": true,
        "challenge": { "type": "http-01" },
        "poll": quick_polls(),
    });
    let id = node.certificate(config, None, &[NAME], targets).await;
    node.until(&id, CertificateState::Active).await;
    let first = client.material("shop", &id, Some(1), false).await.unwrap().bundle.fingerprint().to_string();
    hosts.await_served(&first, &first).await;
    assert_eq!(pebble.order_count(), 1);

    // nginx's configuration breaks: its test fails before any reload, and the old certificate keeps being served.
    hosts.nginx.break_config().unwrap();
    client.renew("shop", &id).await.unwrap();
    node.until(&id, CertificateState::PartialFailure).await;
    let second = client.material("shop", &id, Some(2), false).await.unwrap().bundle.fingerprint().to_string();
    hosts.await_served(&first, &second).await;
    let status = client.distribution_status("shop", &id).await.unwrap().unwrap();
    let nginx = status.targets.iter().find(|target| target.target_name == "nginx").unwrap();
    assert_eq!(nginx.status, TargetStatus::RolledBack, "{nginx:#?}");

    // It is mended: the run goes on with the same material.
    hosts.nginx.restore_config().unwrap();
    client.distribute("shop", &id).await.unwrap();
    node.until(&id, CertificateState::Active).await;
    hosts.await_served(&second, &second).await;
    assert_eq!(pebble.order_count(), 2, "no further order");
    stop.cancel();
    responder.await.unwrap();
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_01_through_bind_for_apex_and_wildcard() {
    let hosts = require!(Hosts::start().await);
    let bind = require!(Bind::start("shop.example").await);
    let pebble = require!(Pebble::builder().dns_server(bind.addr()).start().await);
    let node = Node::start().await;
    let client = node.running.client();
    let targets = hosts.targets(&client).await;
    let config = json!({
        "directory_url": pebble.directory_url(),
        "root_pem": pebble.api_root_pem(),
        "contact": ["mailto:ops@shop.example"],
        "terms_of_service_agreed": true,
        "challenge": {
            "type": "dns-01",
            "provider": {
                "kind": "rfc2136",
                "server": bind.addr().to_string(),
                "key_name": bind.key_name(),
                "algorithm": "hmac-sha256",
            },
            "propagation": { "nameservers": [bind.addr().to_string()], "interval_seconds": 1 },
        },
        "poll": quick_polls(),
    });
    let secret = json!({ "tsig_secret": bind.key_secret() });
    let id = node.certificate(config, Some(secret), &["shop.example", "*.shop.example"], targets).await;
    node.until(&id, CertificateState::Active).await;
    let material = client.material("shop", &id, None, false).await.unwrap();
    let fingerprint = material.bundle.fingerprint().to_string();
    hosts.await_served(&fingerprint, &fingerprint).await;
    assert_eq!(bind.txt("_acme-challenge.shop.example").await.unwrap(), Vec::<String>::new(), "cleaned up");
    let status = client.distribution_status("shop", &id).await.unwrap().unwrap();
    assert_eq!(status.run.state, RunState::Succeeded);
    node.running.shutdown().await;
}
