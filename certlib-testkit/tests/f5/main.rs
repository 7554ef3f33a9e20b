//! The simulated BIG-IP, seen by `f5-sdk`, by F5's collection for Ansible, and by a plain HTTP client.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod ansible;
mod faults;
mod serving;

use std::{net::Ipv4Addr, process::Command};

use certlib_testkit::{
    f5::{F5Sim, Role},
    locate::locate,
    pki::TestCa,
    process, require, tls,
};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

const SCRIPT: &str = include_str!("f5_client.py");

fn http(bigip: &F5Sim) -> Client {
    tls::http_client(bigip.ca_pem()).unwrap()
}

fn request(bigip: &F5Sim, method: &str, path: &str, body: &Value) -> RequestBuilder {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let request = http(bigip).request(method, format!("{}/mgmt/{path}", bigip.url()));
    if body.is_null() {
        return request;
    }
    request.header("content-type", "application/json").body(body.to_string())
}

/// Status and body of the answer to a request of the administrator, with HTTP Basic.
async fn ask(bigip: &F5Sim, method: &str, path: &str, body: Value) -> (u16, Value) {
    let request = request(bigip, method, path, &body).basic_auth(F5Sim::USER, Some(F5Sim::PASSWORD));
    answer(request).await
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null))
}

async fn login(bigip: &F5Sim, user: &str, password: &str, provider: &str) -> (u16, Value) {
    let body = json!({ "username": user, "password": password, "loginProviderName": provider });
    answer(request(bigip, "POST", "shared/authn/login", &body)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_sdk_finds_what_it_expects() {
    let python = require!(locate("f5-sdk").await);
    let bigip = F5Sim::builder()
        .folder("/Tenant/app")
        .device_group("pair")
        .user("watcher", "watcher-password", Role::Guest)
        .start()
        .await
        .unwrap();
    let ca = TestCa::new("root").unwrap();
    let (one, two) = (ca.issue(&["shop.example"]).unwrap(), ca.issue(&["shop.example"]).unwrap());
    bigip.install("/Common/served", &one).unwrap();
    bigip.add_client_ssl("/Common/served", &["/Common/served"]).unwrap();
    bigip.add_virtual("/Common/vs", &["/Common/served"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).unwrap();
    write("f5_client.py", SCRIPT);
    write("ca.pem", bigip.ca_pem());
    write("chain.crt", ca.certificate_pem());
    for (name, issued) in [("one", &one), ("two", &two)] {
        write(&format!("{name}.crt"), &issued.certificate_pem);
        write(&format!("{name}.key"), &issued.key_pem);
    }
    let mut command = Command::new(python);
    command
        .arg(folder.path().join("f5_client.py"))
        .args([Ipv4Addr::LOCALHOST.to_string(), bigip.addr().port().to_string()])
        .arg(folder.path().join("ca.pem"))
        .arg(folder.path());
    let input = format!("{} {} watcher watcher-password", F5Sim::USER, F5Sim::PASSWORD);
    let output = process::run(command, input.as_bytes()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let checks: usize = text.trim().strip_suffix(" checks").unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    assert!(checks >= 70, "only {checks} checks");
    let history = bigip.history();
    assert!(history.iter().any(|record| record.coordination.is_some()));
    assert!(history.iter().all(|record| !record.path.contains("tokens/") || record.path.ends_with("tokens/*")));
    assert_eq!(bigip.peer_certificates_of("/Common/sdk"), [two.fingerprint]);
}

#[tokio::test]
async fn the_shell_saves_and_does_nothing_else() {
    let bigip = F5Sim::builder().device_group("pair").start().await.unwrap();
    bigip.operate("POST", "tm/auth/partition", json!({ "name": "New" })).unwrap();
    let shell = |command: &str| json!({ "command": "run", "utilCmdArgs": format!("-c \"{command}\"") });
    let (status, body) = ask(&bigip, "POST", "tm/util/bash", shell("rm -r /config")).await;
    assert_eq!((status, &body["commandResult"]), (200, &json!("/bin/bash: rm: command not found\n")));
    assert!(!bigip.is_saved());
    let (_, body) = ask(&bigip, "POST", "tm/util/bash", shell("tmsh save sys config")).await;
    assert!(bigip.is_saved() && body["commandResult"].as_str().unwrap().contains("/config/bigip.conf"), "{body}");
    let (_, devices) = ask(&bigip, "GET", "tm/cm/device?$top=1&$skip=1", Value::Null).await;
    assert_eq!(devices["items"].as_array().unwrap().len(), 1, "pages here, too");
}

#[tokio::test]
async fn who_comes_without_a_login_is_invited_to_use_http_basic() {
    let bigip = F5Sim::start().await.unwrap();
    let invited = async |request: RequestBuilder| {
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.headers().contains_key("www-authenticate"))
    };
    let ask = || request(&bigip, "GET", "tm/sys", &Value::Null);
    assert_eq!(invited(ask()).await, (401, true));
    assert_eq!(invited(ask().header("x-f5-auth-token", "gone")).await, (401, false));
    assert_eq!(invited(ask().basic_auth(F5Sim::USER, Some(F5Sim::PASSWORD))).await, (200, false));
}

#[tokio::test]
async fn logins_by_provider_and_the_limit_of_tokens() {
    let bigip = F5Sim::builder().remote_user("ldap", "jo", "jos-password", Role::Administrator).start().await.unwrap();
    assert_eq!(login(&bigip, "jo", "jos-password", "tmos").await.0, 401);
    for _ in 0..100 {
        assert_eq!(login(&bigip, "jo", "jos-password", "ldap").await.0, 200);
    }
    let (status, body) = login(&bigip, "jo", "jos-password", "ldap").await;
    assert_eq!(status, 400, "{body}");
    assert!(body["message"].as_str().unwrap().contains("maximum active login tokens"));
    bigip.advance(std::time::Duration::from_secs(1_200));
    assert_eq!(bigip.live_tokens(), 0);
    assert_eq!(login(&bigip, "jo", "jos-password", "ldap").await.0, 200);
}

#[tokio::test]
async fn tokens_end_and_are_their_owners() {
    let bigip = F5Sim::builder()
        .without_basic()
        .user("a", "a-password", Role::ResourceAdministrator)
        .user("b", "b-password", Role::ResourceAdministrator)
        .start()
        .await
        .unwrap();
    let token = async |user: &str| {
        let (_, body) = login(&bigip, user, &format!("{user}-password"), "tmos").await;
        body["token"]["token"].as_str().unwrap().to_owned()
    };
    let (a, b) = (token("a").await, token("b").await);
    let with = |token: &str, method: &str, path: &str, body: Value| {
        request(&bigip, method, path, &body).header("x-f5-auth-token", token)
    };
    let own = format!("shared/authz/tokens/{a}");
    assert_eq!(answer(with(&b, "DELETE", &own, Value::Null)).await.0, 404, "not b's");
    let (status, extended) = answer(with(&a, "PATCH", &own, json!({ "timeout": 36_000 }))).await;
    assert_eq!((status, &extended["timeout"]), (200, &json!(36_000)));
    bigip.advance(std::time::Duration::from_secs(1_300));
    assert_eq!(answer(with(&a, "GET", "tm/sys/version", Value::Null)).await.0, 200);
    assert_eq!(answer(with(&b, "GET", "tm/sys/version", Value::Null)).await.0, 401);
    let rm = json!({ "command": "run", "utilCmdArgs": "/var/config/rest/downloads/x" });
    let (status, body) = answer(with(&a, "POST", "tm/util/unix-rm", rm)).await;
    assert!(status == 401 && body["message"].as_str().unwrap().contains("unix-rm"), "{body}");
    assert_eq!(ask(&bigip, "GET", "tm/sys/version", Value::Null).await.0, 401, "no HTTP Basic");
    assert_eq!(answer(with(&a, "DELETE", &own, Value::Null)).await.0, 200);
    assert_eq!(bigip.live_tokens(), 0);
}
