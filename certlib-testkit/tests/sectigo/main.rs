//! The simulated Sectigo Certificate Manager, seen by `cert_manager`, by a plain HTTP client, and under faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod faults;
mod orders;

use std::process::Command;

use certlib_testkit::{locate::locate, process, require, sectigo::SectigoSim};
use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData as _};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

const SCRIPT: &str = include_str!("cert_manager_client.py");

/// A request for a name, PEM, and its key.
fn request(name: &str) -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.serialize_request(&key).unwrap().pem().unwrap(), key)
}

fn http() -> Client {
    Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(std::time::Duration::from_secs(60)).build().unwrap()
}

/// The answer to a request with the right login; `None` when there was none.
async fn send(sim: &SectigoSim, method: &str, path: &str, body: Value) -> Option<Response> {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = http()
        .request(method, format!("{}/{path}", sim.url()))
        .header("login", SectigoSim::LOGIN)
        .header("password", SectigoSim::PASSWORD)
        .header("customerUri", SectigoSim::CUSTOMER_URI);
    if !body.is_null() {
        request = request.body(body.to_string());
    }
    request.send().await.ok()
}

/// Its status and body; a body that is no JSON is a string.
async fn ask(sim: &SectigoSim, method: &str, path: &str, body: Value) -> (u16, Value) {
    let response = send(sim, method, path, body).await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// What an order for `shop.example` says.
fn enrolment(csr: &str) -> Value {
    json!({ "orgId": SectigoSim::ORGANIZATION, "csr": csr, "certType": SectigoSim::PROFILE, "term": 90 })
}

/// Orders, and gives the id.
async fn enroll(sim: &SectigoSim, csr: &str) -> i64 {
    let (status, body) = ask(sim, "POST", "ssl/v1/enroll", enrolment(csr)).await;
    assert_eq!(status, 200, "{body}");
    body["sslId"].as_i64().unwrap()
}

/// Status and code of a collection; the code is 1 when there is a certificate.
async fn collect(sim: &SectigoSim, id: i64) -> (u16, i64) {
    let (status, body) = ask(sim, "GET", &format!("ssl/v1/collect/{id}/x509"), Value::Null).await;
    (status, body["code"].as_i64().unwrap_or(1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cert_manager_finds_what_it_expects() {
    let python = require!(locate("cert_manager").await);
    let openssl = require!(locate("openssl").await);
    let builder = SectigoSim::builder().tls().custom_field("cost centre", true);
    let sim = builder.pending_polls(2).collect_lag(1).start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let mut command = Command::new(openssl);
    command.args(["req", "-new", "-newkey", "rsa:2560", "-nodes", "-subj", "/CN=shop.example", "-keyout"]);
    command.arg(folder.path().join("odd.key"));
    let odd = process::run(command, b"").await.unwrap();
    let requests = [request("shop.example"), request("shop.example")].map(|(csr, key)| {
        let key: String = key.subject_public_key_info().iter().map(|byte| format!("{byte:02x}")).collect();
        json!({ "csr": csr, "key": key })
    });
    let mut command = Command::new(python);
    command.arg(file("cert_manager_client.py", SCRIPT)).args([sim.url(), sim.private_url(), sim.token_url()]);
    command.arg(file("client.pem", &sim.client_certificate().certificate_pem));
    command.arg(file("client.key", &sim.client_certificate().key_pem));
    command.env("REQUESTS_CA_BUNDLE", file("ca.pem", sim.ca_pem().unwrap())).env("NO_PROXY", "127.0.0.1");
    let input = json!({
        "login": SectigoSim::LOGIN,
        "password": SectigoSim::PASSWORD,
        "customer": SectigoSim::CUSTOMER_URI,
        "client_id": SectigoSim::CLIENT_ID,
        "client_secret": SectigoSim::CLIENT_SECRET,
        "issuer": sim.issuer_pem(),
        "root": sim.root_pem(),
        "requests": requests,
        "odd": String::from_utf8(odd.stdout).unwrap(),
    });
    let output = process::run(command, input.to_string().as_bytes()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let checks: usize = text.trim().strip_suffix(" checks").unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    assert!(checks >= 155, "only {checks} checks");
}
