//! Whether a host is the one that is meant: every way to know it, and every way in which it can be another one.

use certlib_core::{Effect, ErrorClass};
use certlib_testkit::simhost::{Fault, SimHost, UserAuth};
use hashing::hashed;
use serde_json::{Value, json};

use crate::common::{Subject, certificate};

mod hashing {
    use aws_lc_rs::hmac;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    /// A name as `ssh-keygen -H` writes it.
    pub(super) fn hashed(name: &str) -> String {
        let salt = [7; 20];
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
        format!("|1|{}|{}", STANDARD.encode(salt), STANDARD.encode(hmac::sign(&key, name.as_bytes())))
    }
}

/// A key of a type that the host does not have.
const OTHER_TYPE: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBNNBnGX9Mk7mr5PzXEZc\
                          EcGjYkUJ0fEepZpu1SNWyW7GBKgskNFG4n4OVqJiTz3KpnZoGFlolFY5Gdp9HvErNxE=";

async fn host() -> SimHost {
    SimHost::builder()
        .user("root", UserAuth::password("correct horse"))
        .file("/etc/ssl/site.pem", "former", 0o644)
        .start()
        .await
        .unwrap()
}

fn subject(host: &SimHost, host_key: Value) -> Subject {
    let address = host.ssh_addr();
    let location = json!({
        "host": address.ip().to_string(), "port": address.port(), "paths": { "cert": "/etc/ssl/site.pem" },
    });
    let config = json!({ "host_key": host_key });
    Subject::new("ssh", config, location, Some(json!({ "user": "root", "password": "correct horse" })))
}

#[tokio::test]
async fn every_row_of_known_hosts() {
    let (host, other) = (host().await, host().await);
    let line = |host: &SimHost| host.known_hosts_line();
    let key = |host: &SimHost| line(host).split_once(' ').unwrap().1.trim().to_owned();
    let name = line(&host).split_once(' ').unwrap().0.to_owned();
    let (ours, theirs) = (key(&host), key(&other));
    let known = |text: String| json!({ "known_hosts": text });
    let (ip, port) = (host.ssh_addr().ip(), host.ssh_addr().port());
    let fingerprint = |host: &SimHost| json!({ "fingerprint": host.host_key_fingerprint() });
    let (_, bundle) = certificate(&["localhost"]);

    let table: Vec<(&str, Value, &str, ErrorClass)> = vec![
        // Known.
        ("the line", known(line(&host)), "fine", ErrorClass::Auth),
        ("its hash", known(format!("{} {ours}", hashed(&name))), "fine", ErrorClass::Auth),
        ("one of several", known(format!("{name} {theirs}\n{name} {ours}")), "fine", ErrorClass::Auth),
        ("a list of names", known(format!("a,b,{name} {ours}")), "fine", ErrorClass::Auth),
        ("a wildcard", known(format!("[127.0.0.*]:* {ours}")), "fine", ErrorClass::Auth),
        ("CRLF, comments", known(format!("# x\r\n\r\n{name} {ours} by hand\r\n")), "fine", ErrorClass::Auth),
        ("the fingerprint", fingerprint(&host), "fine", ErrorClass::Auth),
        // Unknown: an empty set is a set, and never "off".
        ("nothing", known(String::new()), "host_key_unknown", ErrorClass::Auth),
        ("comments only", known("# nothing\n".to_owned()), "host_key_unknown", ErrorClass::Auth),
        ("another host", known(line(&other)), "host_key_unknown", ErrorClass::Auth),
        ("the same host, port 22", known(format!("{ip} {ours}")), "host_key_unknown", ErrorClass::Auth),
        ("another port", known(format!("[{ip}]:{} {ours}", port ^ 1)), "host_key_unknown", ErrorClass::Auth),
        ("the hash of another", known(format!("{} {ours}", hashed("[h]:1"))), "host_key_unknown", ErrorClass::Auth),
        ("an exception", known(format!("[127.0.0.*]:*,!{name} {ours}")), "host_key_unknown", ErrorClass::Auth),
        ("an authority", known(format!("@cert-authority {name} {ours}")), "host_key_unknown", ErrorClass::Auth),
        ("the authority alone", json!({ "host_ca": theirs }), "host_key_unknown", ErrorClass::Auth),
        // Changed.
        ("another key", known(format!("{name} {theirs}")), "host_key_changed", ErrorClass::Auth),
        ("another key, hashed", known(format!("{} {theirs}", hashed(&name))), "host_key_changed", ErrorClass::Auth),
        ("another fingerprint", fingerprint(&other), "host_key_changed", ErrorClass::Auth),
        // Revoked, also where it is known besides.
        ("revoked", known(format!("{name} {ours}\n@revoked * {ours}")), "host_key_revoked", ErrorClass::Auth),
        (
            "revoked first",
            known(format!("@revoked {name} {ours}\n{name} {ours}")),
            "host_key_revoked",
            ErrorClass::Auth,
        ),
        // Unreadable is refused, not skipped.
        ("a half line", known(format!("{name} ssh-ed25519")), "known_hosts_invalid", ErrorClass::Validation),
        ("no base64", known(format!("{name} ssh-ed25519 !!!")), "known_hosts_invalid", ErrorClass::Validation),
        ("a marker", known(format!("@trusted {name} {ours}")), "known_hosts_invalid", ErrorClass::Validation),
        ("a revocation", known(format!("{name} {ours}\n@revoked")), "known_hosts_invalid", ErrorClass::Validation),
        ("too much of it", known("#".repeat(2 * 1024 * 1024)), "known_hosts_invalid", ErrorClass::Validation),
        ("no fingerprint", json!({ "fingerprint": "SHA256:" }), "fingerprint_invalid", ErrorClass::Validation),
        ("MD5", json!({ "fingerprint": "MD5:aa:bb" }), "fingerprint_invalid", ErrorClass::Validation),
        ("no authority", json!({ "host_ca": "nonsense" }), "host_ca_invalid", ErrorClass::Validation),
        // Missing is refused as well.
        ("not said", Value::Null, "config_invalid", ErrorClass::Validation),
        ("any, not meant", json!({ "insecure_accept_any": false }), "host_key_missing", ErrorClass::Validation),
        ("accept-new", json!({ "accept_new": true }), "config_invalid", ErrorClass::Validation),
        (
            "two ways",
            json!({ "insecure_accept_any": true, "known_hosts": "" }),
            "config_invalid",
            ErrorClass::Validation,
        ),
    ];
    for (what, host_key, expected, class) in table {
        let logins = host.history().len();
        let outcome = subject(&host, host_key).plan(&bundle).await;
        match outcome {
            Ok(_) => assert_eq!(expected, "fine", "{what}"),
            Err(error) => {
                let seen = (error.code(), error.class(), error.effect());
                assert_eq!(seen, (expected, class, Effect::None), "{what}: {error:?}");
                assert_eq!(host.history().len(), logins, "{what}: the login was not even tried");
            }
        }
    }
}

#[tokio::test]
async fn a_host_with_another_type_of_key_only() {
    let host = host().await;
    let (_, bundle) = certificate(&["localhost"]);
    let name = host.known_hosts_line().split_once(' ').unwrap().0.to_owned();
    let other_type = format!("{name} {OTHER_TYPE}");
    let error = subject(&host, json!({ "known_hosts": other_type })).plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("host_key_changed", ErrorClass::Auth), "{error:?}");
    assert!(host.history().is_empty());
}

/// A reinstalled host, or somebody in between, is refused by everything that was known; only who says so in as many
/// words takes whatever comes.
#[tokio::test]
async fn a_host_that_changed_its_key() {
    let host = host().await;
    let (_, bundle) = certificate(&["localhost"]);
    let ways =
        [json!({ "known_hosts": host.known_hosts_line() }), json!({ "fingerprint": host.host_key_fingerprint() })];
    host.set_fault(Some(Fault::WrongHostKey)).await.unwrap();
    for way in ways {
        let error = subject(&host, way).plan(&bundle).await.unwrap_err();
        assert_eq!((error.code(), error.class(), error.effect()), ("host_key_changed", ErrorClass::Auth, Effect::None));
    }
    assert!(host.history().is_empty());
    subject(&host, json!({ "insecure_accept_any": true })).plan(&bundle).await.unwrap();
    assert!(!host.history().is_empty());
}
