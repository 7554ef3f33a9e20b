//! Ways to log in, and what happens when a token ends.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::ErrorClass;
use certlib_core::clock::ManualClock;
use certlib_core::secret::{KeyProvider as _, SecretString};
use certlib_keys::vault_transit::{TransitKey, VaultAuth, VaultTransit};
use certlib_testkit::vault::VaultSim;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::support::{AAD, KEY, Server, dek, failure, only, round_trip};

/// What the documentation of the provider asks for.
const RULES: [(&str, &[&str]); 4] = [
    ("transit/keys/certlib", &["read"]),
    ("transit/encrypt/certlib", &["update"]),
    ("transit/decrypt/certlib", &["update"]),
    ("transit/hmac/certlib/sha2-256", &["update"]),
];

async fn server() -> Server {
    Server::from_builder(VaultSim::builder().policy("certlib", &RULES)).await
}

fn approle(server: &Server, options: Value) -> VaultAuth {
    let mut all = json!({ "token_policies": "certlib", "token_ttl": "10m", "token_max_ttl": "1h" });
    all.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    let (role_id, secret) = server.sim().create_approle("certlib", all).unwrap();
    VaultAuth::AppRole { mount: "approle".to_owned(), role_id, secret_id: Some(SecretString::new(secret)) }
}

fn logins(server: &Server) -> usize {
    server.sim().count("auth/approle/login")
}

#[tokio::test]
async fn an_approle_logs_in_once_and_again_when_its_token_is_gone() {
    let server = server().await;
    let provider = server.provider_with(approle(&server, json!({})));
    assert_eq!(logins(&server), 0, "nothing is asked before it is needed");
    let kek = only(&provider).await;
    let wrapped = round_trip(&provider, &kek).await.unwrap();
    assert_eq!(logins(&server), 1);
    for round in 2..5 {
        server.sim().expire_tokens();
        provider.unwrap(&kek, &wrapped, AAD).await.unwrap();
        assert_eq!(logins(&server), round);
    }
    // Many at once log in once.
    server.sim().expire_tokens();
    let provider = Arc::new(provider);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (provider, kek, wrapped) = (provider.clone(), kek.clone(), wrapped.clone());
        tasks.spawn(async move { provider.unwrap(&kek, &wrapped, AAD).await.unwrap() });
    }
    tasks.join_all().await;
    assert_eq!(logins(&server), 5);
    assert!(
        server.sim().history().iter().filter(|record| record.path.ends_with("login")).all(|record| !record.with_token)
    );
}

#[tokio::test]
async fn a_secret_that_is_used_up_is_tried_once_and_not_again_and_again() {
    let server = server().await;
    let clock = Arc::new(ManualClock::new(OffsetDateTime::UNIX_EPOCH));
    let auth = approle(&server, json!({ "secret_id_num_uses": 1 }));
    let config = server.config_with(auth, vec![TransitKey::new(KEY, 1)]);
    let provider = VaultTransit::with_clock(config, clock.clone()).unwrap();
    let kek = only(&provider).await;
    server.sim().expire_tokens();
    for _ in 0..5 {
        let error = failure(provider.wrap(&kek, &dek(1), AAD).await);
        assert_eq!((error.code(), error.class()), ("vault_login_refused", ErrorClass::Auth), "{error}");
    }
    assert_eq!(logins(&server), 2, "who tries too often is locked out");
    clock.advance(Duration::from_secs(31));
    assert_eq!(failure(provider.wrap(&kek, &dek(1), AAD).await).code(), "vault_login_refused");
    assert_eq!(logins(&server), 3);
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let server = server().await;
    let clock = Arc::new(ManualClock::new(OffsetDateTime::UNIX_EPOCH));
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3_600));
    let token = server.sim().create_token(&["certlib"], Some(hour)).unwrap();
    let given = VaultAuth::Token { token: SecretString::new(token) };
    for auth in [given, approle(&server, json!({ "secret_id_num_uses": 1, "token_ttl": "1h", "token_max_ttl": 0 }))] {
        let config = server.config_with(auth, vec![TransitKey::new(KEY, 1)]);
        let provider = VaultTransit::with_clock(config, clock.clone()).unwrap();
        let kek = only(&provider).await;
        let before = server.sim().count("auth/token/renew-self");
        for _ in 0..5 {
            for passed in [39 * minute, 2 * minute] {
                clock.advance(passed);
                server.sim().advance(passed);
                round_trip(&provider, &kek).await.unwrap();
            }
        }
        assert_eq!(server.sim().count("auth/token/renew-self") - before, 5, "once in every two thirds of its time");
    }
}

#[tokio::test]
async fn what_the_policy_forbids_is_no_reason_to_log_in_again() {
    let rules = [("transit/keys/certlib", &["read"][..])];
    let server = Server::from_builder(VaultSim::builder().policy("certlib", &rules)).await;
    let provider = server.provider_with(approle(&server, json!({})));
    for _ in 0..3 {
        let error = failure(provider.keys().await);
        assert_eq!((error.code(), error.class()), ("vault_forbidden", ErrorClass::Auth), "{error}");
    }
    assert_eq!(logins(&server), 1);
}

#[tokio::test]
async fn a_token_without_more_rights_than_documented_is_enough() {
    let server = server().await;
    let token = server.sim().create_token(&["certlib"], None).unwrap();
    let provider = server.provider_with(VaultAuth::Token { token: SecretString::new(token) });
    let kek = only(&provider).await;
    round_trip(&provider, &kek).await.unwrap();
    server.delete(KEY).await;
    let error = failure(provider.wrap(&kek, &dek(1), AAD).await);
    assert_eq!(error.class(), ErrorClass::Auth, "without the right to create, no key comes into being: {error}");
    assert!(server.sim().read("transit/keys/certlib").is_err());

    server.sim().expire_tokens();
    let error = failure(provider.keys().await);
    assert_eq!((error.code(), error.class()), ("vault_forbidden", ErrorClass::Auth), "{error}");
}

#[tokio::test]
async fn nothing_is_sealed_for_long_under_a_key_that_took_another_ones_name() {
    let server = server().await;
    let clock = Arc::new(ManualClock::new(OffsetDateTime::UNIX_EPOCH));
    let provider = VaultTransit::with_clock(server.config(1), clock.clone()).unwrap();
    let kek = only(&provider).await;
    server.delete(KEY).await;
    server.create(KEY, json!({})).await;
    clock.advance(Duration::from_secs(61));
    let error = failure(provider.wrap(&kek, &dek(1), AAD).await);
    assert_eq!((error.code(), error.class()), ("kek_unknown", ErrorClass::Validation), "{error}");
    assert!(error.message().contains("made anew"), "{error}");
}

#[tokio::test]
async fn the_proof_is_asked_for_once_a_minute() {
    let server = server().await;
    let clock = Arc::new(ManualClock::new(OffsetDateTime::UNIX_EPOCH));
    let provider = VaultTransit::with_clock(server.config(1), clock.clone()).unwrap();
    let kek = only(&provider).await;
    let before = server.sim().count("transit/hmac/");
    for _ in 0..3 {
        for _ in 0..10 {
            round_trip(&provider, &kek).await.unwrap();
        }
        clock.advance(Duration::from_secs(61));
    }
    assert_eq!(server.sim().count("transit/hmac/") - before, 2);
}

#[tokio::test]
async fn a_token_from_a_file_is_read_again() {
    let server = server().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let provider = server.provider_with(VaultAuth::TokenFile { path: path.clone() });
    assert_eq!(failure(provider.keys().await).code(), "token_unreadable");
    std::fs::write(&path, "\n").unwrap();
    assert_eq!(failure(provider.keys().await).code(), "token_invalid");
    let fresh = || server.sim().create_token(&["certlib"], None).unwrap();
    std::fs::write(&path, format!("{}\n", fresh())).unwrap();
    let kek = only(&provider).await;
    server.sim().expire_tokens();
    let error = failure(provider.wrap(&kek, &dek(1), AAD).await);
    assert_eq!((error.code(), error.class()), ("vault_forbidden", ErrorClass::Auth), "the same again: {error}");
    std::fs::write(&path, fresh()).unwrap();
    round_trip(&provider, &kek).await.unwrap();
}
