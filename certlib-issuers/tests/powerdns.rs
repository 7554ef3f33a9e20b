//! DNS-01 by the HTTP API of a real PowerDNS, which Pebble asks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(feature = "acme")]

mod common;

use std::sync::Arc;

use certlib_core::bundle::{Expected, check_issued};
use certlib_core::clock::SystemClock;
use certlib_core::issuer::{AsyncIssuer, IssuerFactory as _};
use certlib_core::secret::{Secret, SecretString};
use certlib_core::{Context, ErrorClass};
use certlib_issuers::acme::AcmeFactory;
use certlib_issuers::dns::{self, DnsProvider};
use certlib_testkit::counterpart::{Pebble, PowerDns};
use certlib_testkit::require;
use serde_json::{Value, json};

use self::common::{MemoryState, finish, request, spec_at, store};

const ZONES: [&str; 3] = ["example.test", "sub.example.test", "proofs.test"];

fn settings(server: &PowerDns) -> Value {
    json!({
        "kind": "powerdns",
        "api_url": server.api_url(),
        "connection": { "allow_http": true, "addresses": { "allow_loopback": true } },
    })
}

fn credentials(key: &str) -> SecretString {
    Secret::new(json!({ "dns": { "api_key": key } }).to_string())
}

fn provider(server: &PowerDns) -> Arc<dyn DnsProvider> {
    dns::provider(&settings(server), Some(&credentials(server.api_key()))).unwrap()
}

async fn issuer(pebble: &Pebble, server: &PowerDns) -> Arc<dyn AsyncIssuer> {
    let addr = server.addr().to_string();
    let config = json!({
        "directory_url": pebble.directory_url(),
        "root_pem": pebble.api_root_pem(),
        "terms_of_service_agreed": true,
        "challenge": {
            "type": "dns-01",
            "provider": settings(server),
            "propagation": { "nameservers": [addr], "resolvers": [addr] },
        },
    });
    AcmeFactory::new().check(&config).unwrap();
    let mut spec = spec_at(config, &Arc::new(MemoryState::default()), SystemClock::shared(), store());
    spec.credentials = Some(credentials(server.api_key()));
    AcmeFactory::new().build(&Context::new("test"), spec).await.unwrap()
}

#[tokio::test]
async fn names_wildcards_subzones_and_aliases_in_one_order() {
    let server = require!(PowerDns::start(&ZONES).await);
    let pebble = require!(Pebble::builder().dns_server(server.addr()).authz_reuse_percent(0).start().await);
    let cx = Context::new("test");
    let issuer = issuer(&pebble, &server).await;
    server.insert("_acme-challenge.example.test", "TXT", "\"theirs\"").await.unwrap();
    server.insert("_acme-challenge.alias.example.test", "CNAME", "alias.proofs.test").await.unwrap();

    let names = ["example.test", "*.example.test", "www.sub.example.test", "alias.example.test"];
    let (request, key) = request(&names);
    let handle = issuer.submit(&cx, &request).await.unwrap();
    let bundle = finish(issuer.as_ref(), &cx, &handle).await;
    check_issued(&bundle, &Expected::new(&request.names, key.public_key(), cx.clock.now())).unwrap();
    assert_eq!(server.txt("_acme-challenge.example.test").await.unwrap(), ["theirs"]);
    for name in ["_acme-challenge.www.sub.example.test", "alias.proofs.test"] {
        assert_eq!(server.txt(name).await.unwrap(), Vec::<String>::new(), "{name}");
    }
    assert_eq!(pebble.order_count(), 1);
}

#[tokio::test]
async fn values_come_and_go_one_by_one() {
    let server = require!(PowerDns::start(&ZONES).await);
    let (cx, provider) = (Context::new("test"), provider(&server));
    let name = "_acme-challenge.deep.down.sub.example.test";
    let odd = r#""a; \"b\" \\c" "d""#;
    server.insert(name, "TXT", odd).await.unwrap();
    let before = server.dig(name, "TXT").await.unwrap();
    for value in ["one", "two", "one"] {
        provider.add_txt(&cx, name, value).await.unwrap();
    }
    let values = server.txt(name).await.unwrap();
    assert_eq!(values.len(), 3, "adding twice is adding once: {values:?}");
    assert!(values.contains(&"one".to_owned()) && values.contains(&"two".to_owned()), "{values:?}");
    for value in ["one", "one", "never", "two"] {
        provider.remove_txt(&cx, name, value).await.unwrap();
    }
    assert_eq!(server.dig(name, "TXT").await.unwrap(), before, "what others wrote is as it was");
    provider.remove_txt(&cx, "_acme-challenge.nobody.example.test", "x").await.unwrap();
}

#[tokio::test]
async fn orders_of_one_name_side_by_side() {
    let server = require!(PowerDns::start(&ZONES).await);
    let (cx, provider) = (Context::new("test"), provider(&server));
    let name = "_acme-challenge.example.test";
    let values: Vec<String> = (0..8).map(|number| format!("value-{number}")).collect();
    futures::future::try_join_all(values.iter().map(|value| provider.add_txt(&cx, name, value))).await.unwrap();
    let mut found = server.txt(name).await.unwrap();
    found.sort();
    assert_eq!(found, values);
    futures::future::try_join_all(values[1..].iter().map(|value| provider.remove_txt(&cx, name, value))).await.unwrap();
    assert_eq!(server.txt(name).await.unwrap(), ["value-0"]);
}

#[tokio::test]
async fn what_another_node_overwrites_is_added_again() {
    let server = require!(PowerDns::start(&ZONES).await);
    let (cx, nodes) = (Context::new("test"), [provider(&server), provider(&server)]);
    let name = "_acme-challenge.example.test";
    server.insert(name, "TXT", "\"theirs\"").await.unwrap();
    for round in 0..4 {
        let values = [format!("a-{round}"), format!("b-{round}")];
        let pairs = || nodes.iter().zip(&values);
        let added = pairs().map(|(node, value)| node.add_txt(&cx, name, value));
        for result in futures::future::join_all(added).await {
            // Its SQLite has room for one writer; who comes second may be told to try again.
            assert!(result.as_ref().err().is_none_or(|error| error.class() == ErrorClass::IoTransient), "{result:?}");
        }
        // Each looks again before the CA is told.
        for (node, value) in pairs() {
            node.add_txt(&cx, name, value).await.unwrap();
        }
        let found = server.txt(name).await.unwrap();
        assert!(values.iter().all(|value| found.contains(value)), "{found:?}");
        for (node, value) in pairs() {
            node.remove_txt(&cx, name, value).await.unwrap();
        }
        assert_eq!(server.txt(name).await.unwrap(), ["theirs"]);
    }
}

#[tokio::test]
async fn refusals_have_their_class() {
    let server = require!(PowerDns::start(&ZONES).await);
    let cx = Context::new("test");
    let add = async |settings: &Value, key: &str, name: &str| {
        let provider = dns::provider(settings, Some(&credentials(key))).unwrap();
        provider.add_txt(&cx, name, "x").await.unwrap_err()
    };
    let (good, name) = (settings(&server), "_acme-challenge.example.test");
    let error = add(&good, "canary", name).await;
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "credentials_refused"), "{error}");
    assert!(!format!("{error:?}").contains("canary"));

    let error = add(&good, server.api_key(), "_acme-challenge.example.org").await;
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "zone_not_found"), "{error}");

    let with = |field: &str, value: Value| {
        let mut changed = good.clone();
        changed[field] = value;
        changed
    };
    let error = add(&with("zone", json!("sub.example.test")), server.api_key(), name).await;
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "not_in_zone"), "{error}");
    let error = add(&with("zone", json!("test")), server.api_key(), name).await;
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "zone_not_found"), "{error}");
    let error = add(&with("server_id", json!("other")), server.api_key(), name).await;
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "not_found"), "{error}");

    let nobody = certlib_testkit::ports::free_addr().unwrap();
    let error = add(&with("api_url", json!(format!("http://{nobody}/api/v1"))), server.api_key(), name).await;
    assert_eq!((error.class(), error.code()), (ErrorClass::Network, "connect_failed"), "{error}");
    assert_eq!(server.txt(name).await.unwrap(), Vec::<String>::new());

    for wrong in [with("api_url", json!(null)), with("connection", json!({})), with("surprise", json!(1))] {
        assert!(dns::provider(&wrong, Some(&credentials("k"))).is_err(), "{wrong}");
    }
    let error = dns::provider(&good, None).unwrap_err();
    assert_eq!(error.code(), "credentials_invalid");
}
