//! Vault's PKI engine, on a simulated Vault, and on a real one where `VAULT_ADDR` and `VAULT_TOKEN` name it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(feature = "vault-pki")]

#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod environment;
mod faults;
mod logins;
mod revocation;
mod support;

use std::time::Duration;

use certlib_core::bundle::{Expected, KeyType, check_issued};
use certlib_core::issuer::{IssuerFactory as _, Recovery};
use certlib_core::{Context, ErrorClass};
use certlib_issuers::vault_pki::VaultPkiFactory;
use serde_json::json;

use self::common::{finish, request, request_with};
use self::support::Server;

#[tokio::test]
async fn issues_what_was_asked_for() {
    let server = Server::any().await;
    let cx = Context::new("test");
    let issuer = server.issuer(json!({ "validity_seconds": 3600 })).await;
    for (names, kind) in [
        (&["a.shop.example"][..], KeyType::EcdsaP256),
        (&["b.shop.example", "*.b.shop.example", "10.1.2.3", "2001:db8::1"], KeyType::Rsa2048),
        (&["10.1.2.4", "c.shop.example"], KeyType::EcdsaP384),
    ] {
        let (request, key) = request_with(names, kind);
        let handle = issuer.submit(&cx, &request).await.unwrap();
        // A handle is plain data, for whichever node asks next.
        let handle = serde_json::from_str(&serde_json::to_string(&handle).unwrap()).unwrap();
        let bundle = finish(issuer.as_ref(), &cx, &handle).await;
        check_issued(&bundle, &Expected::new(&request.names, key.public_key(), cx.clock.now())).unwrap();
        assert_eq!(bundle.certificates().len(), 2, "leaf and issuing CA, without the root");
        let minutes = (bundle.leaf().not_after - cx.clock.now()).whole_minutes();
        assert!((58..=60).contains(&minutes), "{minutes}");
    }
}

#[tokio::test]
async fn the_names_are_the_same_wherever_a_role_takes_them_from() {
    let server = Server::any().await;
    let cx = Context::new("test");
    let issuer = server.issuer(json!({})).await;
    for (csr_name, csr_sans) in [(true, true), (true, false), (false, true), (false, false)] {
        server.role("web", json!({ "use_csr_common_name": csr_name, "use_csr_sans": csr_sans })).await;
        let (request, key) = request(&["a.shop.example", "b.shop.example", "10.1.2.3"]);
        let bundle = finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &request).await.unwrap()).await;
        check_issued(&bundle, &Expected::new(&request.names, key.public_key(), cx.clock.now())).unwrap();
        assert_eq!(bundle.leaf().names.len(), 3, "each name once: {:?}", bundle.leaf().names);
    }
}

#[tokio::test]
async fn names_without_a_common_name_need_a_role_that_takes_them() {
    let server = Server::any().await;
    let cx = Context::new("test");
    let issuer = server.issuer(json!({})).await;
    let long = format!("{}.shop.example", "a".repeat(60));
    for names in [&[long.as_str()][..], &["10.1.2.3"]] {
        server.role("web", json!({})).await;
        let (request, key) = request(names);
        assert_eq!(issuer.submit(&cx, &request).await.unwrap_err().class(), ErrorClass::Validation);
        server.role("web", json!({ "require_cn": false })).await;
        let bundle = finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &request).await.unwrap()).await;
        check_issued(&bundle, &Expected::new(&request.names, key.public_key(), cx.clock.now())).unwrap();
    }
}

#[tokio::test]
async fn the_profile_is_a_role_and_the_validity_the_orders() {
    let server = Server::any().await;
    let cx = Context::new("test");
    let issuer = server.issuer(json!({ "role": "none", "validity_seconds": 60 })).await;
    server.role("short", json!({ "ttl": "30m", "max_ttl": "30m" })).await;
    let (mut wanted, _) = request(&["a.shop.example"]);
    assert_eq!(issuer.submit(&cx, &wanted).await.unwrap_err().class(), ErrorClass::Validation, "no such role");
    for (profile, seconds, minutes) in [("web", 7200, 118..=120), ("short", 7200, 28..=30), ("short", 600, 8..=10)] {
        wanted.profile = Some(profile.to_owned());
        wanted.validity = Some(Duration::from_secs(seconds));
        let bundle = finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await;
        let lasts = (bundle.leaf().not_after - cx.clock.now()).whole_minutes();
        assert!(minutes.contains(&lasts), "{profile}, {seconds} s: {lasts} min");
    }
    let before = server.serials().await.len();
    for (profile, validity, code) in [
        (Some("../sign-verbatim"), None, "profile_unknown"),
        (Some(""), None, "profile_unknown"),
        (Some("web"), Some(Duration::from_millis(1)), "validity_invalid"),
    ] {
        wanted.profile = profile.map(str::to_owned);
        wanted.validity = validity;
        assert_eq!(issuer.submit(&cx, &wanted).await.unwrap_err().code(), code);
    }
    assert_eq!(server.serials().await.len(), before, "nothing was signed");
}

#[tokio::test]
async fn what_a_role_does_not_allow_ends_the_order() {
    let server = Server::any().await;
    let cx = Context::new("test");
    let issuer = server.issuer(json!({})).await;
    let before = server.serials().await.len();
    let (request, _) = request(&["a.shop.example"]);
    let forbidding = [
        json!({ "allow_any_name": false, "allowed_domains": "other.example", "allow_subdomains": true }),
        // The issuer does not live that long.
        json!({ "ttl": "80000h", "max_ttl": "80000h" }),
    ];
    for role in forbidding {
        server.role("web", role).await;
        let error = issuer.submit(&cx, &request).await.unwrap_err();
        assert_eq!((error.class(), error.effect()), (ErrorClass::Validation, certlib_core::Effect::None), "{error:?}");
        assert!(!format!("{error:?}").contains("shop.example"), "nothing is quoted: {error:?}");
    }
    assert_eq!(server.serials().await.len(), before);
    let astray = server.issuer(json!({ "mount": format!("{}/none", server.mount) })).await;
    assert!(!astray.submit(&cx, &request).await.unwrap_err().class().is_retryable());
}

#[tokio::test]
async fn another_issuer_of_the_mount_signs_if_it_is_named() {
    let server = Server::any().await;
    let cx = Context::new("test");
    let root = server.root_id().await;
    let (request, key) = request(&["a.shop.example"]);
    let issuer = server.issuer(json!({ "issuer_ref": root })).await;
    let bundle = finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &request).await.unwrap()).await;
    check_issued(&bundle, &Expected::new(&request.names, key.public_key(), cx.clock.now())).unwrap();
    assert_eq!(bundle.certificates().len(), 1, "what the root signs needs no chain");
    let nobody = server.issuer(json!({ "issuer_ref": "nobody" })).await;
    assert!(nobody.submit(&cx, &request).await.is_err());
}

#[tokio::test]
async fn what_vault_does_not_keep_is_issued_all_the_same() {
    let server = Server::any().await;
    let cx = Context::new("test");
    server.role("web", json!({ "no_store": true })).await;
    let before = server.serials().await.len();
    let issuer = server.issuer(json!({})).await;
    let (request, key) = request(&["a.shop.example"]);
    let handle = issuer.submit(&cx, &request).await.unwrap();
    // After a restart, by another process.
    let other = server.issuer(json!({})).await;
    let bundle = finish(other.as_ref(), &cx, &handle).await;
    check_issued(&bundle, &Expected::new(&request.names, key.public_key(), cx.clock.now())).unwrap();
    assert_eq!(server.serials().await.len(), before);
    assert!(matches!(other.recovery(), Recovery::Repeat));
}

#[test]
fn the_configuration_is_checked_beforehand() {
    let check = |config| VaultPkiFactory.check(&config).map_err(|error| error.code().to_owned());
    assert_eq!(check(json!({ "url": "https://vault.example:8200", "role": "web" })), Ok(()));
    assert_eq!(check(json!({ "url": "https://vault.example:8200" })), Err("config_invalid".to_owned()));
    assert_eq!(check(json!({ "url": "https://127.0.0.1:8200", "role": "web" })), Err("address_forbidden".to_owned()));
}
