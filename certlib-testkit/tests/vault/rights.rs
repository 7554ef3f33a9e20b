//! Tokens, roles, policies and namespaces.

use std::time::Duration;

use certlib_testkit::vault::VaultSim;
use serde_json::{Value, json};

use crate::{ask, with_key};

async fn look_up(vault: &VaultSim, token: &str) -> (u16, Value) {
    ask(vault, "GET", "auth/token/lookup-self", token, Value::Null).await
}

#[tokio::test]
async fn tokens_expire_and_are_renewed_by_the_clock_of_the_simulator() {
    let vault = with_key().await;
    let token = vault.create_token(&[], Some(Duration::from_secs(600))).unwrap();
    vault.advance(Duration::from_secs(500));
    let (_, body) = look_up(&vault, &token).await;
    assert!((98..=100).contains(&body["data"]["ttl"].as_i64().unwrap()), "{body}");
    let (_, body) = ask(&vault, "POST", "auth/token/renew-self", &token, json!({})).await;
    assert_eq!(body["auth"]["lease_duration"], 600);
    vault.advance(Duration::from_secs(599));
    assert_eq!(look_up(&vault, &token).await.0, 200);
    vault.advance(Duration::from_secs(2));
    assert_eq!(look_up(&vault, &token).await.0, 403);
    assert_eq!(ask(&vault, "POST", "auth/token/renew-self", &token, json!({})).await.0, 403);

    let token = vault.create_token(&[], None).unwrap();
    vault.expire_tokens();
    assert_eq!(look_up(&vault, &token).await.0, 403);
    assert_eq!(look_up(&vault, vault.root_token()).await.0, 200, "root is for ever");
    for body in [json!({ "num_uses": 2 }), json!({ "num_uses": "2" })] {
        let (_, made) = ask(&vault, "POST", "auth/token/create", vault.root_token(), body).await;
        let token = made["auth"]["client_token"].as_str().unwrap();
        let seen = [look_up(&vault, token).await.0, look_up(&vault, token).await.0, look_up(&vault, token).await.0];
        assert_eq!(seen, [200, 200, 403]);
    }
}

#[tokio::test]
async fn secrets_of_a_role_are_used_up_and_expire() {
    let vault = with_key().await;
    let login = async |role: &str, secret: &str| {
        let body = json!({ "role_id": role, "secret_id": secret });
        ask(&vault, "POST", "auth/approle/login", "", body).await
    };
    let (role, once) = vault.create_approle("a", json!({ "secret_id_num_uses": 1, "token_ttl": "5m" })).unwrap();
    let (status, body) = login(&role, &once).await;
    assert_eq!((status, &body["auth"]["lease_duration"]), (200, &json!(300)));
    assert_eq!(login(&role, &once).await, (400, json!({ "errors": ["invalid role or secret ID"] })));
    let (role, twice) = vault.create_approle("a", json!({ "secret_id_num_uses": 2 })).unwrap();
    assert_eq!(
        [login(&role, &twice).await.0, login(&role, &twice).await.0, login(&role, &twice).await.0],
        [200, 200, 400]
    );
    let (role, brief) = vault.create_approle("a", json!({ "secret_id_num_uses": 0, "secret_id_ttl": 60 })).unwrap();
    assert_eq!(login(&role, &brief).await.0, 200);
    vault.advance(Duration::from_secs(61));
    assert_eq!(login(&role, &brief).await.0, 400);
    assert_eq!(login("unknown", &brief).await.0, 400);
    let (role, _) = vault.create_approle("b", json!({ "bind_secret_id": false })).unwrap();
    assert_eq!(login(&role, "").await.0, 200);
}

#[tokio::test]
async fn policies_decide_about_paths() {
    let vault = VaultSim::builder()
        .policy("reader", &[("transit/keys/+", &["read"]), ("transit/keys/secret", &["deny"])])
        .policy("updater", &[("transit/encrypt/*", &["update"])])
        .policy("creator", &[("transit/encrypt/*", &["create"])])
        .start()
        .await
        .unwrap();
    vault.write("sys/mounts/transit", json!({ "type": "transit" })).unwrap();
    for name in ["app", "secret"] {
        vault.write(&format!("transit/keys/{name}"), json!({})).unwrap();
    }
    let reader = vault.create_token(&["reader"], None).unwrap();
    assert_eq!(ask(&vault, "GET", "transit/keys/app", &reader, Value::Null).await.0, 200);
    for (method, path) in [
        ("GET", "transit/keys/secret"),
        ("LIST", "transit/keys"),
        ("POST", "transit/keys/app/rotate"),
        ("POST", "transit/encrypt/app"),
        ("GET", "sys/mounts"),
    ] {
        assert_eq!(ask(&vault, method, path, &reader, Value::Null).await.0, 403, "{method} {path}");
    }
    assert_eq!(ask(&vault, "GET", "transit/keys/app", "", Value::Null).await.0, 403);
    let body = || json!({ "plaintext": "eA==" });
    let (updater, creator) =
        (vault.create_token(&["updater"], None).unwrap(), vault.create_token(&["creator"], None).unwrap());
    assert_eq!(ask(&vault, "POST", "transit/encrypt/app", &updater, body()).await.0, 200);
    assert_eq!(ask(&vault, "POST", "transit/encrypt/new", &updater, body()).await.0, 403);
    assert_eq!(ask(&vault, "POST", "transit/encrypt/app", &creator, body()).await.0, 403);
    assert_eq!(ask(&vault, "POST", "transit/encrypt/new", &creator, body()).await.0, 200, "made out of nothing");
    vault.write("transit/config/keys", json!({ "disable_upsert": true })).unwrap();
    assert_eq!(ask(&vault, "POST", "transit/encrypt/newer", &creator, body()).await.0, 400);
}

#[tokio::test]
async fn a_token_is_good_in_its_namespace_and_below() {
    let vault = VaultSim::builder().namespace("team/a").start().await.unwrap();
    vault.write("team/a/sys/mounts/transit", json!({ "type": "transit" })).unwrap();
    vault.write("team/a/transit/keys/app", json!({})).unwrap();
    let made = vault.write("team/auth/token/create", json!({ "policies": ["root"] }));
    made.unwrap();
    let get = async |namespace: &str, path: &str, token: &str| {
        let url = format!("{}/v1/{path}", vault.address());
        let request = crate::http().get(url).header("x-vault-token", token).header("x-vault-namespace", namespace);
        request.send().await.unwrap().status().as_u16()
    };
    let root = vault.root_token();
    assert_eq!(get("team/a/", "transit/keys/app", root).await, 200);
    assert_eq!(get("team", "a/transit/keys/app", root).await, 200);
    assert_eq!(get("", "team/a/transit/keys/app", root).await, 200);
    assert_eq!(get("team", "transit/keys/app", root).await, 404);
    assert_eq!(get("nobody", "transit/keys/app", root).await, 404);
}
