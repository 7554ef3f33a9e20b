//! DNS-01 by dynamic update: Pebble asks a real BIND that certlib updates.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(feature = "acme")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use certlib_core::bundle::{Expected, check_issued};
use certlib_core::clock::{Clock, ManualClock, SystemClock};
use certlib_core::issuer::{AsyncIssuer, IssuerFactory as _, OrderState};
use certlib_core::secret::Secret;
use certlib_core::{Context, Error, ErrorClass};
use certlib_issuers::acme::AcmeFactory;
use certlib_issuers::dns::{DnsProvider, Rfc2136, Rfc2136Config, TsigAlgorithm};
use certlib_testkit::counterpart::{Bind, Pebble, random_mac_key};
use certlib_testkit::require;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::common::{MemoryState, finish, request, spec_at, store};

const ZONE: &str = "example.test";

fn provider_config(bind: &Bind) -> Rfc2136Config {
    serde_json::from_value(json!({ "server": bind.addr().to_string(), "key_name": bind.key_name() })).unwrap()
}

fn provider(bind: &Bind) -> Rfc2136 {
    Rfc2136::new(&provider_config(bind), &Secret::new(bind.key_secret().to_owned())).unwrap()
}

async fn issuer(pebble: &Pebble, bind: &Bind, propagation: Value, clock: Arc<dyn Clock>) -> Arc<dyn AsyncIssuer> {
    let config = json!({
        "directory_url": pebble.directory_url(),
        "root_pem": pebble.api_root_pem(),
        "terms_of_service_agreed": true,
        "challenge": {
            "type": "dns-01",
            "provider": { "kind": "rfc2136", "server": bind.addr().to_string(), "key_name": bind.key_name() },
            "propagation": propagation,
        },
    });
    let mut spec = spec_at(config, &Arc::new(MemoryState::default()), clock, store());
    spec.credentials = Some(Secret::new(json!({ "tsig_secret": bind.key_secret() }).to_string()));
    AcmeFactory::new().build(&Context::new("test"), spec).await.unwrap()
}

fn at(bind: &Bind) -> Value {
    json!({ "nameservers": [bind.addr().to_string()] })
}

#[tokio::test]
async fn a_name_and_its_wildcard_in_one_order() {
    let bind = require!(Bind::start(ZONE).await);
    let pebble = require!(Pebble::builder().dns_server(bind.addr()).authz_reuse_percent(0).start().await);
    let cx = Context::new("test");
    let issuer = issuer(&pebble, &bind, at(&bind), SystemClock::shared()).await;
    // Somebody else's proof, which must survive ours.
    bind.update("update add _acme-challenge.example.test 60 TXT \"theirs\"").await.unwrap();

    let (request, key) = request(&["example.test", "*.example.test", "www.example.test"]);
    let handle = issuer.submit(&cx, &request).await.unwrap();
    let bundle = finish(issuer.as_ref(), &cx, &handle).await;
    check_issued(&bundle, &Expected::new(&request.names, key.public_key(), cx.clock.now())).unwrap();
    assert_eq!(bind.txt("_acme-challenge.example.test").await.unwrap(), ["theirs"]);
    assert_eq!(bind.txt("_acme-challenge.www.example.test").await.unwrap(), Vec::<String>::new());
    assert_eq!(pebble.order_count(), 1);
}

#[tokio::test]
async fn a_delegated_challenge_is_written_where_the_alias_points() {
    let bind = require!(Bind::start(ZONE).await);
    let pebble = require!(Pebble::builder().dns_server(bind.addr()).start().await);
    let cx = Context::new("test");
    let issuer = issuer(&pebble, &bind, at(&bind), SystemClock::shared()).await;
    bind.update("update add _acme-challenge.www.example.test 60 CNAME www.challenges.example.test").await.unwrap();

    // A BIND without recursion follows aliases within its own zone, and so does Pebble then.
    let handle = issuer.submit(&cx, &request(&["www.example.test"]).0).await.unwrap();
    finish(issuer.as_ref(), &cx, &handle).await;
    assert!(bind.log().contains("www.challenges.example.test"), "{}", bind.log());
    assert_eq!(bind.txt("www.challenges.example.test").await.unwrap(), Vec::<String>::new());

    bind.update("update add _acme-challenge.loop.example.test 60 CNAME a.example.test").await.unwrap();
    bind.update("update add a.example.test 60 CNAME _acme-challenge.loop.example.test").await.unwrap();
    let handle = issuer.submit(&cx, &request(&["loop.example.test"]).0).await.unwrap();
    let error = issuer.poll(&cx, &handle).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "cname_loop"));
}

#[tokio::test]
async fn an_order_that_cannot_be_proven_leaves_no_record_behind() {
    let bind = require!(Bind::start(ZONE).await);
    let slow = require!(Bind::start(ZONE).await);
    let pebble = require!(Pebble::builder().dns_server(bind.addr()).authz_reuse_percent(0).start().await);
    let clock = ManualClock::new(SystemClock::new().now());
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let cx = Context::with(shared.clone(), CancellationToken::new(), "test");
    let both = json!({
        "nameservers": [bind.addr().to_string(), slow.addr().to_string()],
        "interval_seconds": 30,
        "timeout_seconds": 100,
    });
    let issuer = issuer(&pebble, &bind, both, shared).await;
    let handle = issuer.submit(&cx, &request(&["a.example.test", "loop.example.test"]).0).await.unwrap();
    assert!(matches!(issuer.poll(&cx, &handle).await.unwrap(), OrderState::Pending { .. }), "one server lacks it");
    assert_eq!(bind.txt("_acme-challenge.a.example.test").await.unwrap().len(), 1);

    for server in [&bind, &slow] {
        server.update("update delete _acme-challenge.loop.example.test TXT").await.unwrap();
        server.update("update add _acme-challenge.loop.example.test 60 CNAME b.example.test").await.unwrap();
        server.update("update add b.example.test 60 CNAME _acme-challenge.loop.example.test").await.unwrap();
    }
    let error = issuer.poll(&cx, &handle).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "cname_loop"));
    assert_eq!(bind.txt("_acme-challenge.a.example.test").await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn the_ca_is_not_told_before_every_server_has_the_record() {
    let bind = require!(Bind::start(ZONE).await);
    let slow = require!(Bind::start(ZONE).await);
    let pebble = require!(Pebble::builder().dns_server(bind.addr()).start().await);
    let clock = ManualClock::new(SystemClock::new().now());
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let cx = Context::with(shared.clone(), CancellationToken::new(), "test");
    let both = json!({
        "nameservers": [bind.addr().to_string(), slow.addr().to_string()],
        "interval_seconds": 30,
        "timeout_seconds": 100,
    });
    let issuer = issuer(&pebble, &bind, both, shared).await;
    let handle = issuer.submit(&cx, &request(&["a.example.test"]).0).await.unwrap();

    match issuer.poll(&cx, &handle).await.unwrap() {
        OrderState::Pending { retry_after } => assert_eq!(retry_after, Some(Duration::from_secs(30))),
        other => panic!("the CA was told: {other:?}"),
    }
    let values = bind.txt("_acme-challenge.a.example.test").await.unwrap();
    assert_eq!(values.len(), 1, "the record is there, and one server lacks it");

    clock.advance(Duration::from_secs(100));
    let error = issuer.poll(&cx, &handle).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "record_not_visible"));
    assert!(error.message().contains(&slow.addr().to_string()), "{error}");

    // Late, but it comes, and the order was never lost.
    slow.update(&format!("update add _acme-challenge.a.example.test 60 TXT \"{}\"", values[0])).await.unwrap();
    let real = Context::new("test");
    finish(issuer.as_ref(), &real, &handle).await;
    assert_eq!(pebble.order_count(), 1);
}

#[tokio::test]
async fn values_come_and_go_one_by_one() {
    let bind = require!(Bind::start(ZONE).await);
    let (cx, provider) = (Context::new("test"), provider(&bind));
    let name = "_acme-challenge.deep.down.example.test";
    for value in ["one", "two", "one"] {
        provider.add_txt(&cx, name, value).await.unwrap();
    }
    let mut values = bind.txt(name).await.unwrap();
    values.sort();
    assert_eq!(values, ["one", "two"], "adding twice is adding once");
    for value in ["one", "one", "never"] {
        provider.remove_txt(&cx, name, value).await.unwrap();
    }
    assert_eq!(bind.txt(name).await.unwrap(), ["two"], "only what was ours is gone");

    let mut config = provider_config(&bind);
    config.zone = Some("example.test".to_owned());
    let fixed = Rfc2136::new(&config, &Secret::new(bind.key_secret().to_owned())).unwrap();
    fixed.remove_txt(&cx, name, "two").await.unwrap();
    assert_eq!(bind.txt(name).await.unwrap(), Vec::<String>::new());
    let error = fixed.add_txt(&cx, "_acme-challenge.example.org", "x").await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "not_in_zone"));
}

#[tokio::test]
async fn refusals_have_their_class() {
    let bind = require!(Bind::start(ZONE).await);
    let cx = Context::new("test");
    let add = async |config: &Rfc2136Config, secret: &str, cx: &Context| -> Error {
        let provider = Rfc2136::new(config, &Secret::new(secret.to_owned())).unwrap();
        provider.add_txt(cx, "_acme-challenge.example.test", "x").await.unwrap_err()
    };
    let config = provider_config(&bind);

    let error = add(&config, &random_mac_key().replace('-', "+").replace('_', "/").repeat(4)[..44], &cx).await;
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "update_notauth"), "wrong secret: {error}");

    let mut other = config.clone();
    other.key_name = "somebody-else".to_owned();
    let error = add(&other, bind.key_secret(), &cx).await;
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "update_notauth"), "unknown key: {error}");

    let mut other = config.clone();
    other.algorithm = TsigAlgorithm::HmacSha512;
    let error = add(&other, bind.key_secret(), &cx).await;
    assert_eq!(error.class(), ErrorClass::Auth, "wrong algorithm: {error}");

    let past = ManualClock::new(SystemClock::new().now() - Duration::from_secs(3600));
    let late = Context::with(Arc::new(past), CancellationToken::new(), "test");
    let error = add(&config, bind.key_secret(), &late).await;
    assert_eq!(error.class(), ErrorClass::Auth, "clocks differ: {error}");
    assert!(error.to_string().contains("BadTime"), "{error}");

    let mut other = config.clone();
    other.zone = Some("test".to_owned());
    let error = add(&other, bind.key_secret(), &cx).await;
    assert_eq!(error.class(), ErrorClass::Auth, "a zone that the server does not have: {error}");

    let nobody = certlib_testkit::ports::free_addr().unwrap();
    let mut other = config.clone();
    other.server = nobody.to_string();
    let error = add(&other, bind.key_secret(), &cx).await;
    assert_eq!((error.class(), error.code()), (ErrorClass::Network, "dns_unreachable"), "{error}");

    assert_eq!(bind.txt("_acme-challenge.example.test").await.unwrap(), Vec::<String>::new());
    let provider = provider(&bind);
    assert!(!format!("{provider:?}").contains(bind.key_secret()));
}
