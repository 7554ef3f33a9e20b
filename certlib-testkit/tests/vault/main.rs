//! The simulated Vault, seen by `hvac` and by a plain HTTP client.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod engines;
mod faults;
mod rights;

use std::process::Command;

use certlib_testkit::{locate::locate, pki::TestCa, process, require, vault::VaultSim};
use reqwest::{Client, Method};
use serde_json::{Value, json};

const SCRIPT: &str = include_str!("hvac_client.py");

/// A client that follows no redirect and keeps no connection.
fn http() -> Client {
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .timeout(std::time::Duration::from_secs(60))
        .build()
        .unwrap()
}

/// Status and body of the answer to a request with a token.
async fn ask(vault: &VaultSim, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = http().request(method, format!("{}/v1/{path}", vault.address())).header("x-vault-token", token);
    if !body.is_null() {
        request = request.body(body.to_string());
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null))
}

/// A simulator with the transit engine and a key `app`.
async fn with_key() -> VaultSim {
    let vault = VaultSim::start().await.unwrap();
    vault.write("sys/mounts/transit", json!({ "type": "transit" })).unwrap();
    vault.write("transit/keys/app", json!({})).unwrap();
    vault
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hvac_finds_what_it_expects() {
    let python = require!(locate("hvac").await);
    let vault = VaultSim::builder().tls().standby().start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (script, ca) = (folder.path().join("hvac_client.py"), folder.path().join("ca.pem"));
    std::fs::write(&script, SCRIPT).unwrap();
    std::fs::write(&ca, vault.ca_pem().unwrap()).unwrap();
    let clients = TestCa::new("clients").unwrap();
    let client = clients.issue(&["machine.example"]).unwrap();
    let files = [
        ("client.pem", client.full_chain()),
        ("client.key", client.key_pem.clone()),
        ("clients.pem", clients.certificate_pem().to_owned()),
        ("identity.pem", vault.identity_key_pem()),
    ];
    for (name, text) in &files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let mut command = Command::new(python);
    command
        .arg(script)
        .args([vault.address(), vault.standby_address().unwrap()])
        .arg(ca)
        .args(files.map(|(name, _)| folder.path().join(name)))
        .env_remove("VAULT_ADDR")
        .env_remove("VAULT_TOKEN")
        .env_remove("VAULT_NAMESPACE");
    let stranger = VaultSim::start().await.unwrap();
    let user = json!({ "sub": "ci", "aud": "vault" });
    let input = [
        vault.root_token().to_owned(),
        vault.unseal_key(),
        vault.identity_token(user.clone()).unwrap(),
        vault.identity_token(json!({ "sub": "system:serviceaccount:ops:certlib" })).unwrap(),
        stranger.identity_token(user).unwrap(),
    ]
    .join(" ");
    let output = process::run(command, input.as_bytes()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let checks: usize = text.trim().strip_suffix(" checks").unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    assert!(checks >= 177, "only {checks} checks");
    assert!(vault.history().iter().any(|record| record.standby && record.status == Some(307)));
}

#[tokio::test]
async fn lists_in_both_forms_and_bearer_tokens() {
    let vault = with_key().await;
    let root = vault.root_token().to_owned();
    let keys = json!(["app"]);
    assert_eq!(ask(&vault, "LIST", "transit/keys", &root, Value::Null).await.1["data"]["keys"], keys);
    assert_eq!(ask(&vault, "GET", "transit/keys?list=true", &root, Value::Null).await.1["data"]["keys"], keys);
    let response =
        http().get(format!("{}/v1/transit/keys/app", vault.address())).bearer_auth(&root).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let (status, body) = ask(&vault, "LIST", "auth/approle/role", &root, Value::Null).await;
    assert_eq!(status, 404, "{body}");
    vault.delete("sys/mounts/transit").unwrap();
    vault.write("sys/mounts/transit", json!({ "type": "transit" })).unwrap();
    let (status, body) = ask(&vault, "LIST", "transit/keys", &root, Value::Null).await;
    assert_eq!((status, &body["errors"]), (404, &json!([])), "an empty list is none");
    assert_eq!(ask(&vault, "DELETE", "transit/encrypt/app", &root, Value::Null).await.0, 405);
    assert_eq!(ask(&vault, "POST", "transit/keys/app", &root, json!([1])).await.0, 400);
    assert_eq!(ask(&vault, "GET", "sys/health", "", Value::Null).await.0, 200);
}

#[tokio::test]
async fn the_envelope_of_an_answer_has_all_its_fields() {
    let vault = with_key().await;
    let (_, body) = ask(&vault, "GET", "transit/keys/app", vault.root_token(), Value::Null).await;
    let mut fields: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    let wanted = ["auth", "data", "lease_duration", "lease_id", "renewable", "request_id", "warnings", "wrap_info"];
    assert_eq!(fields, wanted);
}

#[tokio::test]
async fn an_older_server_leaves_associated_data_out() {
    let vault = VaultSim::builder().ignoring_associated_data().start().await.unwrap();
    vault.write("sys/mounts/transit", json!({ "type": "transit" })).unwrap();
    vault.write("transit/keys/app", json!({})).unwrap();
    let body = json!({ "plaintext": "eA==", "associated_data": "eA==" });
    let (_, answer) = ask(&vault, "POST", "transit/encrypt/app", vault.root_token(), body).await;
    assert!(answer["warnings"][0].as_str().unwrap().contains("associated_data"), "{answer}");
    let body = json!({ "ciphertext": answer["data"]["ciphertext"] });
    assert_eq!(vault.write("transit/decrypt/app", body).unwrap()["plaintext"], "eA==");
}
