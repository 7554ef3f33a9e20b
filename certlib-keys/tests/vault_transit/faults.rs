//! What goes wrong has the class of its remedy, and nothing that Vault says wrongly is believed.

use std::time::Duration;

use certlib_core::ErrorClass;
use certlib_core::secret::{Kek, KeyProvider as _};
use certlib_keys::vault_transit::VaultTransit;
use certlib_testkit::vault::{Fault, Injection, VaultSim};
use serde_json::json;

use crate::support::{AAD, Server, dek, failure, only, round_trip};

async fn ready() -> (Server, VaultTransit, Kek) {
    let server = Server::simulated().await;
    let mut config = server.config(1);
    config.timeouts.total_ms = 2_000;
    let provider = VaultTransit::new(config).unwrap();
    let kek = only(&provider).await;
    (server, provider, kek)
}

#[tokio::test]
async fn classes_follow_the_status() {
    let (server, provider, kek) = ready().await;
    let wrapped = round_trip(&provider, &kek).await.unwrap();
    let answer = |status, body: &str| Fault::Answer {
        status,
        content_type: "application/json".to_owned(),
        body: body.to_owned(),
    };
    let table = [
        (
            Fault::RateLimited { retry_after: Some(Duration::from_secs(7)) },
            "vault_busy",
            ErrorClass::IoTransient,
            Some(7),
        ),
        (Fault::RateLimited { retry_after: None }, "vault_busy", ErrorClass::IoTransient, None),
        (Fault::InternalError, "vault_refused", ErrorClass::IoTransient, None),
        (answer(502, "<html>"), "vault_refused", ErrorClass::IoTransient, None),
        (answer(503, "{}"), "vault_sealed", ErrorClass::IoTransient, None),
        (answer(473, "{}"), "vault_standby", ErrorClass::IoTransient, None),
        (answer(404, "{}"), "kek_unknown", ErrorClass::Validation, None),
        (answer(405, "{}"), "vault_refused", ErrorClass::IoPermanent, None),
        (answer(403, r#"{"errors": ["denied"]}"#), "vault_forbidden", ErrorClass::Auth, None),
        (answer(200, "<html>welcome</html>"), "answer_invalid", ErrorClass::IoTransient, None),
        (answer(200, r#"{"data": {}}"#), "answer_invalid", ErrorClass::IoTransient, None),
        (Fault::LoseRequest, "connection_lost", ErrorClass::Network, None),
        (Fault::LoseReply, "connection_lost", ErrorClass::Network, None),
    ];
    for (fault, code, class, retry_after) in table {
        server.sim().inject(Injection::new(fault.clone()).on("transit/encrypt/"));
        server.sim().inject(Injection::new(fault.clone()).on("transit/decrypt/"));
        for error in
            [failure(provider.wrap(&kek, &dek(1), AAD).await), failure(provider.unwrap(&kek, &wrapped, AAD).await)]
        {
            assert_eq!((error.code(), error.class()), (code, class), "{fault:?}: {error:?}");
            assert_eq!(error.retry_after(), retry_after.map(Duration::from_secs), "{fault:?}");
        }
        server.sim().clear_faults();
        round_trip(&provider, &kek).await.unwrap();
    }
    server.sim().seal();
    assert_eq!(failure(provider.wrap(&kek, &dek(1), AAD).await).code(), "vault_sealed");
    server.sim().unseal();
    round_trip(&provider, &kek).await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_behind_is_asked_again() {
    let (server, provider, kek) = ready().await;
    server.sim().inject(Injection::new(Fault::Stale).on("transit/").times(2));
    round_trip(&provider, &kek).await.unwrap();
    server.sim().inject(Injection::new(Fault::Stale).on("transit/"));
    let error = failure(provider.wrap(&kek, &dek(1), AAD).await);
    assert_eq!((error.code(), error.class()), ("vault_behind", ErrorClass::IoTransient), "{error}");
}

#[tokio::test]
async fn silence_ends_and_nobody_listening_is_seen() {
    let (server, provider, kek) = ready().await;
    server.sim().inject(Injection::new(Fault::Slow(Duration::from_secs(600))).on("transit/encrypt/"));
    let error = failure(provider.wrap(&kek, &dek(1), AAD).await);
    assert_eq!((error.code(), error.class()), ("timeout", ErrorClass::Network), "{error:?}");
    drop(server);
    let closed = certlib_testkit::process::poll_until("the port to close", Duration::from_secs(60), async || {
        let error = failure(provider.wrap(&kek, &dek(1), AAD).await);
        (error.code() == "connect_failed").then_some(error)
    });
    assert_eq!(closed.await.unwrap().class(), ErrorClass::Network);
}

#[tokio::test]
async fn answers_of_another_length_or_version_are_not_believed() {
    let (server, provider, kek) = ready().await;
    let wrapped = round_trip(&provider, &kek).await.unwrap();
    let text = |version: u32, length: usize| format!("vault:v{version}:{}", "AAAA".repeat(length / 3));
    for ciphertext in [text(1, 57), text(1, 63), text(2, 60), "vault:v1:".to_owned(), "AAAA".to_owned()] {
        let fault = Fault::ReplaceData(json!({ "ciphertext": ciphertext }));
        server.sim().inject(Injection::new(fault).on("transit/encrypt/").times(1));
        let error = failure(provider.wrap(&kek, &dek(1), AAD).await);
        assert_eq!((error.code(), error.class()), ("answer_invalid", ErrorClass::IoPermanent), "{ciphertext}");
    }
    for plaintext in ["", "AAAA", "*", &"AAAA".repeat(11), &"AAAA".repeat(400)] {
        let fault = Fault::ReplaceData(json!({ "plaintext": plaintext }));
        server.sim().inject(Injection::new(fault).on("transit/decrypt/").times(1));
        let error = failure(provider.unwrap(&kek, &wrapped, AAD).await);
        assert_eq!((error.code(), error.class()), ("answer_invalid", ErrorClass::IoPermanent), "{plaintext}");
    }
    let fault = Fault::ReplaceData(json!({ "hmac": "vault:v1:AAAA" }));
    server.sim().inject(Injection::new(fault).on("transit/hmac/").times(1));
    assert_eq!(failure(provider.keys().await).code(), "answer_invalid");
    let huge = "x".repeat(2 * 1024 * 1024);
    let fault = Fault::Answer { status: 200, content_type: "application/json".to_owned(), body: huge };
    server.sim().inject(Injection::new(fault).on("transit/keys/").times(1));
    assert_eq!(failure(provider.keys().await).code(), "answer_too_long");
}

#[tokio::test]
async fn a_server_that_leaves_associated_data_out_is_refused() {
    let server = Server::from_builder(VaultSim::builder().ignoring_associated_data()).await;
    let error = failure(server.provider(1).keys().await);
    assert_eq!((error.code(), error.class()), ("aad_unsupported", ErrorClass::IoPermanent), "{error}");
}
