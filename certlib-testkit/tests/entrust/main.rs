//! The simulated services of Entrust, seen by `acme2certifier`, by Ansible, by a plain HTTP client, and under faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod cagw;
mod ecs;
mod faults;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use certlib_testkit::{
    entrust::EcsSim,
    locate::locate,
    pki::{Issued, TestCa},
    process, require,
};
use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData as _};
use reqwest::Client;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::json;

const SCRIPT: &str = include_str!("acme2certifier_client.py");
const PLAYBOOK: &str = include_str!("ecs_certificate.yml");
const SPECIFICATION: &str = include_str!("cms-api.yaml");

/// A request for names, the first also as common name, DER, and its key.
fn request(names: &[&str]) -> (Vec<u8>, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, names[0]);
    (params.serialize_request(&key).unwrap().der().to_vec(), key)
}

fn pem(request: &[u8]) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", request))
}

/// A client that trusts one root, and shows a certificate if it has one.
fn http(root: &str, shown: Option<&Issued>) -> Client {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => {
            let certificate = CertificateDer::from_pem_slice(shown.certificate_pem.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(shown.key_pem.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    Client::builder()
        .tls_backend_preconfigured(config)
        .no_proxy()
        .pool_max_idle_per_host(0)
        .timeout(std::time::Duration::from_secs(60))
        .build()
        .unwrap()
}

/// Writes a file into a folder; its path.
fn file(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acme2certifier_finds_what_it_expects() {
    let python = require!(locate("acme2certifier").await);
    let sim = EcsSim::builder().domain("www.shop.example").start().await.unwrap();
    sim.add_organization("Pending Inc", false);
    sim.add_domain(1, "pending.example", false);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let bare = |names: &[&str]| {
        let (csr, key) = request(names);
        let key: String = key.subject_public_key_info().iter().map(|byte| format!("{byte:02x}")).collect();
        json!({ "csr": URL_SAFE_NO_PAD.encode(csr), "key": key })
    };
    let mut command = Command::new(python);
    command.arg(file(folder, "acme2certifier_client.py", SCRIPT)).arg(sim.url());
    command.arg(file(folder, "client.pem", &sim.client_certificate().certificate_pem));
    command.arg(file(folder, "client.key", &sim.client_certificate().key_pem));
    command.arg(file(folder, "root.pem", sim.root_pem())).arg(folder);
    command.env("REQUESTS_CA_BUNDLE", file(folder, "ca.pem", sim.ca_pem())).env("NO_PROXY", "127.0.0.1");
    let names = ["shop.example", "www.shop.example"];
    let input = json!({
        "user": EcsSim::USER,
        "key": EcsSim::KEY,
        "issuer": sim.issuer_pem(),
        "requests": [bare(&names), bare(&names)],
        "stranger": bare(&["elsewhere.example"])["csr"],
    });
    let output = process::run(command, input.to_string().as_bytes()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let checks = text.trim().lines().last().and_then(|line| line.strip_suffix(" checks"));
    let checks: usize = checks.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    assert!(checks >= 50, "only {checks} checks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ansible_finds_what_it_expects() {
    let ansible = require!(locate("ansible-playbook").await);
    let sim = EcsSim::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let other = TestCa::new("other").unwrap().issue(&["other.example"]).unwrap();
    file(folder, "other.pem", &other.certificate_pem);
    file(folder, "other.key", &other.key_pem);
    let csr = |name: &str| file(folder, name, &pem(&request(&["shop.example"]).0));
    let variables = json!({
        "user": EcsSim::USER,
        "key": EcsSim::KEY,
        "certificate": file(folder, "client.pem", &sim.client_certificate().certificate_pem),
        "certificate_key": file(folder, "client.key", &sim.client_certificate().key_pem),
        "specification": file(folder, "cms-api.yaml", &SPECIFICATION.replace("@HOST@", &sim.addr().to_string())),
        "folder": folder,
        "csr": { "one": csr("one.csr"), "two": csr("two.csr") },
        "ansible_python_interpreter": "auto_silent",
    });
    let mut command = Command::new(ansible);
    command
        .args(["-i", "localhost,", "-e"])
        .arg(variables.to_string())
        .arg(file(folder, "playbook.yml", PLAYBOOK))
        .env("HOME", folder)
        .env("ANSIBLE_LOCAL_TEMP", folder.join("local"))
        .env("ANSIBLE_REMOTE_TEMP", folder.join("remote"))
        .env("ANSIBLE_NOCOLOR", "1")
        .env("ANSIBLE_RETRY_FILES_ENABLED", "0")
        .env("SSL_CERT_FILE", file(folder, "ca.pem", sim.ca_pem()))
        .env("NO_PROXY", "127.0.0.1")
        .env("LC_ALL", "C.UTF-8");
    let output = process::capture(command, b"").await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let recap = text.lines().rev().find(|line| line.starts_with("localhost")).unwrap_or_else(|| panic!("{text}"));
    let number = |name: &str| -> usize {
        let field = recap.split_whitespace().find_map(|field| field.strip_prefix(name)).unwrap();
        field.parse().unwrap()
    };
    assert_eq!((number("failed="), number("unreachable=")), (0, 0), "{text}");
    assert!(number("ok=") >= 15, "only {recap}");
    assert_eq!(sim.orders().len(), 4, "an order, a renewal, a reissue and a wildcard");
}
