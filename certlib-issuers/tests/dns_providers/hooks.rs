//! Providers that leave the work to others: acme-dns, a service of one's own, a program.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::SystemClock;
use certlib_core::issuer::IssuerFactory as _;
use certlib_core::secret::Secret;
use certlib_core::{Context, ErrorClass, Result};
use certlib_issuers::acme::AcmeFactory;
use certlib_issuers::dns::{self, DnsProvider};
use certlib_testkit::counterpart::{Bind, Pebble};
use certlib_testkit::require;
use serde_json::{Value, json};

use super::common::{MemoryState, finish, request, spec_at, store};
use super::fake::{Fake, Reply, Request, State};
use super::{CANARY, NAME, ZONE};

fn provider(kind: &str, fake: &Fake, more: &Value, credentials: &Value) -> Result<Arc<dyn DnsProvider>> {
    let mut settings = json!({
        "kind": kind,
        "api_url": format!("{}/base", fake.url()),
        "connection": { "allow_http": true, "addresses": { "allow_loopback": true } },
    });
    for (name, value) in more.as_object().unwrap() {
        settings[name] = value.clone();
    }
    dns::provider(&settings, Some(&Secret::new(json!({ "dns": credentials }).to_string())))
}

/// Keeps the two newest values, as the real one does: the oldest row is overwritten.
fn acme_dns(state: &mut State, request: &Request) -> Reply {
    if request.header("x-api-user") != "user" || request.header("x-api-key") != CANARY {
        return Reply::new(401, json!({ "error": "forbidden" }));
    }
    let body = request.json();
    let (("POST", path), Some("sub"), Some(value)) =
        (request.route(), body["subdomain"].as_str(), body["txt"].as_str())
    else {
        return Reply::unexpected(request);
    };
    if path != ["base", "update"] {
        return Reply::unexpected(request);
    }
    if state.records.len() == 2 {
        state.records.remove(0);
    }
    state.add("auth.test", "sub.auth.test", value);
    Reply::new(200, json!({ "txt": value }))
}

#[tokio::test]
async fn acme_dns_keeps_two_values() {
    let cx = Context::new("test");
    let fake = Fake::start(acme_dns, &["auth.test"]).await;
    let settings = json!({ "subdomain": "sub", "fulldomain": "Sub.auth.test" });
    let login = json!({ "username": "user", "password": CANARY });
    let provider_of = |login: &Value| provider("acme-dns", &fake, &settings, login).unwrap();
    let provider = provider_of(&login);
    // The second look at an order adds again: its values must not push each other out.
    for value in ["one", "two", "one", "one", "two"] {
        provider.add_txt(&cx, "sub.auth.test", value).await.unwrap();
    }
    assert_eq!(fake.values("auth.test", "sub.auth.test"), ["one", "two"]);
    assert_eq!(fake.log().len(), 2);
    provider.remove_txt(&cx, "sub.auth.test", "one").await.unwrap();
    provider.add_txt(&cx, "sub.auth.test", "three").await.unwrap();
    assert_eq!(fake.values("auth.test", "sub.auth.test"), ["three", "two"]);

    let error = provider.add_txt(&cx, "_acme-challenge.example.test", "x").await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "alias_missing"));
    assert!(error.message().contains("sub.auth.test"), "{error}");
    let wrong = provider_of(&json!({ "username": "user", "password": "wrong" }));
    let error = wrong.add_txt(&cx, "sub.auth.test", "x").await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "credentials_refused"));
    assert!(!format!("{provider:?}").contains(CANARY));
}

fn receiver(state: &mut State, request: &Request) -> Reply {
    let known = [format!("Bearer {CANARY}"), "Basic dXNlcjpwYXNz".to_owned(), String::new()];
    if !known.iter().any(|known| request.header("authorization") == known) {
        return Reply::new(401, "");
    }
    let body = request.json();
    let (Some(fqdn), Some(value)) = (body["fqdn"].as_str(), body["value"].as_str()) else {
        return Reply::unexpected(request);
    };
    if fqdn != format!("{NAME}.") {
        return Reply::new(422, "not mine");
    }
    match request.route() {
        ("POST", path) if path == ["base", "present"] => drop(state.add(ZONE, fqdn, value)),
        ("POST", path) if path == ["base", "cleanup"] => state.records.retain(|record| record.value != value),
        _ => return Reply::unexpected(request),
    }
    Reply::new(204, "")
}

#[tokio::test]
async fn a_service_of_ones_own_is_told() {
    let cx = Context::new("test");
    let fake = Fake::start(receiver, &[ZONE]).await;
    for login in [json!({ "token": CANARY }), json!({ "username": "user", "password": "pass" }), json!({})] {
        let provider = provider("webhook", &fake, &json!({}), &login).unwrap();
        provider.add_txt(&cx, NAME, "one").await.unwrap();
        assert_eq!(fake.values(ZONE, NAME), ["one"]);
        provider.remove_txt(&cx, &format!("{NAME}.").to_ascii_uppercase(), "one").await.unwrap();
        assert_eq!(fake.values(ZONE, NAME), Vec::<String>::new());
        assert!(!format!("{provider:?}").contains(CANARY));
    }
    for login in [json!({ "token": "t", "username": "u", "password": "p" }), json!({ "username": "u" })] {
        let error = provider("webhook", &fake, &json!({}), &login).unwrap_err();
        assert_eq!(error.code(), "credentials_invalid");
    }
    let provider = provider("webhook", &fake, &json!({}), &json!({ "token": CANARY })).unwrap();
    let error = provider.add_txt(&cx, "elsewhere.test", "x").await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "refused"));
    fake.fail(true, Reply::new(429, CANARY).header("Retry-After", "9"));
    let error = provider.add_txt(&cx, NAME, "x").await.unwrap_err();
    assert_eq!((error.class(), error.retry_after()), (ErrorClass::IoTransient, Some(Duration::from_secs(9))));
    assert!(!format!("{error:?}").contains(CANARY));
}

#[tokio::test]
async fn a_program_changes_a_real_zone() {
    let bind = require!(Bind::start("example.test").await);
    let pebble = require!(Pebble::builder().dns_server(bind.addr()).authz_reuse_percent(0).start().await);
    let folder = tempfile::tempdir().unwrap();
    let port = bind.addr().port();
    let script = format!(
        "#!/bin/sh
case $1 in
    present) change=\"add $2 60 TXT \\\"$3\\\"\" ;;
    cleanup) change=\"delete $2 TXT \\\"$3\\\"\" ;;
    *) exit 65 ;;
esac
read -r key
printf 'server 127.0.0.1 {port}\\nzone example.test\\nkey hmac-sha256:{} %s\\nupdate %s\\nsend\\n' \"$key\" \"$change\" | nsupdate
",
        bind.key_name()
    );
    // Written by another process: one of ours that is being written could not be run while a test elsewhere forks.
    let mut writer = Command::new("/bin/sh")
        .args(["-c", "umask 022; cat >update-dns; chmod 755 update-dns"])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writer.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());

    let config = json!({
        "directory_url": pebble.directory_url(),
        "root_pem": pebble.api_root_pem(),
        "terms_of_service_agreed": true,
        "challenge": {
            "type": "dns-01",
            "provider": { "kind": "exec", "program": "update-dns" },
            "propagation": { "nameservers": [bind.addr().to_string()], "resolvers": [bind.addr().to_string()] },
        },
    });
    let error = AcmeFactory::new().check(&config).unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "hooks_not_allowed"));

    let factory = AcmeFactory::new().with_hooks(folder.path());
    factory.check(&config).unwrap();
    let mut spec = spec_at(config, &Arc::new(MemoryState::default()), SystemClock::shared(), store());
    spec.credentials = Some(Secret::new(json!({ "dns": { "secret": bind.key_secret() } }).to_string()));
    let cx = Context::new("test");
    let issuer = factory.build(&cx, spec).await.unwrap();
    bind.update("update add _acme-challenge.example.test 60 TXT \"theirs\"").await.unwrap();
    let handle = issuer.submit(&cx, &request(&["example.test", "*.example.test"]).0).await.unwrap();
    finish(issuer.as_ref(), &cx, &handle).await;
    assert_eq!(bind.txt("_acme-challenge.example.test").await.unwrap(), ["theirs"]);
}
