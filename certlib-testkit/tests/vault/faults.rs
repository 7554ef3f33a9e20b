//! What goes wrong on demand, and only then.

use std::time::{Duration, Instant};

use certlib_testkit::vault::{Fault, Injection, VaultSim};
use serde_json::{Value, json};

use crate::{ask, http, with_key};

const ENCRYPT: &str = "transit/encrypt/app";

async fn encrypt(vault: &VaultSim) -> (u16, Value) {
    ask(vault, "POST", ENCRYPT, vault.root_token(), json!({ "plaintext": "eA==" })).await
}

#[tokio::test]
async fn faults_without_effect() {
    let vault = with_key().await;
    for (fault, status) in [
        (Fault::Stale, 412),
        (Fault::RateLimited { retry_after: None }, 429),
        (Fault::InternalError, 500),
        (Fault::Redirect { location: "https://elsewhere.example/v1/x".to_owned() }, 307),
        (Fault::Answer { status: 502, content_type: "text/html".to_owned(), body: "<html>".to_owned() }, 502),
    ] {
        vault.inject(Injection::new(fault.clone()).on(ENCRYPT).times(1));
        let (_, other) = ask(&vault, "GET", "transit/keys/app", vault.root_token(), Value::Null).await;
        assert_eq!(other["data"]["latest_version"], 1, "other paths are as before");
        assert_eq!(encrypt(&vault).await.0, status, "{fault:?}");
        assert_eq!(encrypt(&vault).await.0, 200, "once only");
    }
    vault.inject(Injection::new(Fault::RateLimited { retry_after: Some(Duration::from_secs(7)) }));
    let response = http().get(format!("{}/v1/sys/health", vault.address())).send().await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (429, &"7".parse().unwrap()));
    vault.clear_faults();
    assert_eq!(encrypt(&vault).await.0, 200);
}

#[tokio::test]
async fn a_lost_reply_has_its_effect_and_a_lost_request_has_none() {
    let vault = with_key().await;
    for (fault, version) in [(Fault::LoseRequest, 1), (Fault::LoseReply, 2)] {
        vault.inject(Injection::new(fault).on("transit/keys/").times(1));
        let url = format!("{}/v1/transit/keys/app/rotate", vault.address());
        http().post(url).header("x-vault-token", vault.root_token()).send().await.unwrap_err();
        assert_eq!(vault.read("transit/keys/app").unwrap()["latest_version"], version);
    }
    let cut: Vec<_> = vault.history().iter().map(|record| record.status).collect();
    assert_eq!(cut, [None, None]);
}

#[tokio::test]
async fn slow_and_replaced_answers() {
    let vault = with_key().await;
    vault.inject(Injection::new(Fault::Slow(Duration::from_millis(200))).times(1));
    let began = Instant::now();
    assert_eq!(encrypt(&vault).await.0, 200);
    assert!(began.elapsed() >= Duration::from_millis(200));
    vault.inject(Injection::new(Fault::ReplaceData(json!({ "ciphertext": "vault:v1:AAAA" }))).times(1));
    assert_eq!(encrypt(&vault).await.1["data"]["ciphertext"], "vault:v1:AAAA");
}

#[tokio::test]
async fn a_sealed_node_tells_how_it_is_and_nothing_else() {
    let vault = with_key().await;
    vault.seal();
    assert_eq!(encrypt(&vault).await, (503, json!({ "errors": ["Vault is sealed"] })));
    assert_eq!(ask(&vault, "GET", "sys/health", "", Value::Null).await.0, 503);
    assert_eq!(ask(&vault, "GET", "sys/seal-status", "", Value::Null).await.1["sealed"], true);
    assert_eq!(ask(&vault, "PUT", "sys/unseal", "", json!({ "key": "wrong" })).await.0, 400);
    vault.unseal();
    assert_eq!(encrypt(&vault).await.0, 200);
}

#[tokio::test]
async fn a_standby_points_to_the_active_node() {
    let vault = VaultSim::builder().standby().start().await.unwrap();
    let url = format!("{}/v1/sys/mounts?a=b", vault.standby_address().unwrap());
    let response = http().get(url).send().await.unwrap();
    assert_eq!(response.status(), 307);
    let location = response.headers()["location"].to_str().unwrap();
    assert_eq!(location, format!("{}/v1/sys/mounts?a=b", vault.address()));
    let address = vault.address().to_owned();
    vault.stop();
    certlib_testkit::process::poll_until("the port to close", Duration::from_secs(60), async || {
        http().get(&address).send().await.is_err().then_some(())
    })
    .await
    .unwrap();
}
