//! Where modules connect to: every address, URL and host of the catalogue, at every module that is told one.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use certlib_core::error::{Effect, Error, ErrorClass};
use certlib_core::{Context, Fingerprint};
use certlib_modules::net::AddressPolicy;
use certlib_modules::probe::{self, Endpoint};
use certlib_testkit::attacks::{ADDRESSES, HOSTS, URLS};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::common::{Subject, certificate};
use crate::surfaces::{BY_URL, Everything, LOCAL, Surface};
use crate::windows;

const PUBLIC: &str = "93.184.215.14";

/// A listener that counts who connects, and says nothing.
async fn tripwire() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, seen)
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[track_caller]
fn refused(error: &Error, code: &str, what: (Surface, &str)) {
    let seen = (error.class(), error.code(), error.effect());
    assert_eq!(seen, (ErrorClass::Validation, code, Effect::None), "{what:?}: {error:?}");
}

#[test]
fn every_module_is_in_the_loop() {
    let all: BTreeSet<String> = certlib_modules::registry().unwrap().kinds().map(str::to_owned).collect();
    let covered = BY_URL.iter().chain(&[Surface::Smtp, Surface::Ssh]).map(|surface| surface.kind()).chain(LOCAL);
    assert_eq!(all, covered.map(str::to_owned).collect());
}

#[tokio::test]
async fn every_address_as_a_literal() {
    let (port, seen) = tripwire().await;
    let widest = json!({ "allow": ["0.0.0.0/0", "::/0"] });
    let admissible = ["private", "shared", "benchmarking", "unique_local"];
    for surface in BY_URL {
        for (addr, rule) in ADDRESSES {
            let what = (surface, addr);
            let url = format!("https://{}:{port}/", bracketed(addr));
            let target = surface.target(&url, None);
            let error = surface.check(&target).unwrap_err();
            refused(&error, "address_forbidden", what);
            assert!(error.context().any(|pair| pair == ("rule", rule)), "{what:?}: {error:?}");
            refused(&surface.dry_run(&target, Everything::is(&[PUBLIC])).await, "address_forbidden", what);
            // What no allow-list may admit stays forbidden under the widest.
            if !admissible.contains(&rule) {
                let error = surface.check(&surface.target(&url, Some(widest.clone()))).unwrap_err();
                refused(&error, "address_forbidden", what);
            }
        }
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn every_address_as_an_answer_of_dns() {
    let (port, seen) = tripwire().await;
    for surface in BY_URL.into_iter().filter(|surface| *surface != Surface::NetScalerPeer).chain([Surface::Smtp]) {
        let place = match surface {
            Surface::Smtp => "hook.example.com".to_owned(),
            _ => format!("https://hook.example.com:{port}/"),
        };
        let target = surface.target(&place, None);
        surface.check(&target).unwrap();
        for (addr, rule) in ADDRESSES {
            for answer in [&[addr][..], &[PUBLIC, addr], &[addr, PUBLIC]] {
                let error = surface.dry_run(&target, Everything::is(answer)).await;
                refused(&error, "address_forbidden", (surface, addr));
                let canonical = addr.parse::<IpAddr>().unwrap().to_string();
                for pair in [("host", "hook.example.com"), ("addr", &canonical), ("rule", rule)] {
                    assert!(error.context().any(|found| found == pair), "{surface:?} {addr}: {error:?}");
                }
            }
        }
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0);
}

#[test]
fn every_url() {
    for surface in BY_URL {
        for url in URLS {
            let error = surface.check(&surface.target(url, None)).unwrap_err();
            refused(&error, "url_invalid", (surface, url));
            assert!(!error.to_string().contains(['\r', '\n', '\0']), "{surface:?}: {error}");
        }
    }
}

/// Those that are told a host have a policy, too: public addresses for mail, internal ones besides for what is logged in
/// to over SSH or only looked at.
#[test]
fn every_address_as_a_host() {
    let internal = AddressPolicy::internal();
    let strict: AddressPolicy = serde_json::from_value(json!({})).unwrap();
    for (addr, _) in ADDRESSES {
        let error = Surface::Smtp.check(&Surface::Smtp.target(addr, None)).unwrap_err();
        refused(&error, "address_forbidden", (Surface::Smtp, addr));
        let error = Surface::Ssh.check(&Surface::Ssh.target(addr, Some(json!({})))).unwrap_err();
        refused(&error, "address_forbidden", (Surface::Ssh, addr));
        let endpoint = |addresses: &AddressPolicy| {
            let mut endpoint = Endpoint::new(addr, 443);
            endpoint.addresses = addresses.clone();
            endpoint.check()
        };
        assert_eq!(endpoint(&strict).unwrap_err().code(), "address_forbidden", "{addr}");

        let admitted = internal.check("h", addr.parse().unwrap()).is_ok();
        let unsaid = |mut target: certlib_core::module::TargetSpec| {
            target.config.as_object_mut().unwrap().remove("addresses");
            target
        };
        let ssh = Surface::Ssh.check(&unsaid(Surface::Ssh.target(addr, None)));
        for outcome in [ssh, Endpoint::new(addr, 443).check(), endpoint(&internal)] {
            match outcome {
                Ok(()) => assert!(admitted, "{addr}"),
                Err(error) => assert!(!admitted && error.code() == "address_forbidden", "{addr}: {error:?}"),
            }
        }
    }
}

#[test]
fn every_host() {
    for host in HOSTS {
        let mail = Surface::Smtp.check(&Surface::Smtp.target(host, None)).unwrap_err();
        refused(&mail, "location_invalid", (Surface::Smtp, host));
        let ssh = Surface::Ssh.check(&Surface::Ssh.target(host, None)).unwrap_err();
        refused(&ssh, "host_invalid", (Surface::Ssh, host));
        let mut endpoint = Endpoint::new(host, 443);
        for server_name in [None, Some("good.example".to_owned())] {
            endpoint.server_name = server_name;
            let error = endpoint.check().unwrap_err();
            assert_eq!(error.code(), "endpoint_invalid", "{host:?}");
            assert!(!error.to_string().contains(['\r', '\n', '\0']), "{error}");
        }
        assert!(![mail, ssh].iter().any(|error| error.to_string().contains(['\r', '\n', '\0'])));
    }
}

/// Spellings of addresses that only the operating system's resolver understands end at the policy as well.
#[tokio::test]
async fn spellings_that_the_resolver_understands() {
    let (port, seen) = tripwire().await;
    let table = [
        ("2130706433", true),
        ("0x7f.1", true),
        ("0177.0.0.1", true),
        ("127.1", true),
        ("localhost", true),
        ("2852039166", false),
        ("0xa9fea9fe", false),
        ("169.254.43518", false),
        ("0", false),
        ("3758096385", false),
    ];
    for (host, is_loopback) in table {
        let looked = async |addresses: AddressPolicy| {
            let mut endpoint = Endpoint::new(host, port);
            endpoint.server_name = Some("a.example".to_owned());
            endpoint.addresses = addresses;
            endpoint.tries = 1;
            endpoint.dial_timeout_ms = 2_000;
            endpoint.check().unwrap();
            let check = probe::check(&Context::new("t"), &endpoint, Fingerprint::from_bytes([1; 32])).await;
            check.problem.unwrap()
        };
        let problem = looked(AddressPolicy::default()).await;
        assert!(problem.contains("address_forbidden"), "{host}: {problem}");
        let mut target = Surface::Ssh.target(host, Some(json!({})));
        target.location["port"] = Value::from(port);
        let error = Surface::Ssh.dry_run(&target, Everything::is(&[PUBLIC])).await;
        refused(&error, "address_forbidden", (Surface::Ssh, host));
        if !is_loopback {
            let problem = looked(AddressPolicy::internal()).await;
            assert!(problem.contains("address_forbidden"), "{host}: {problem}");
            let mut target = Surface::Ssh.target(host, None);
            target.location["port"] = Value::from(port);
            let error = Surface::Ssh.dry_run(&target, Everything::is(&[PUBLIC])).await;
            refused(&error, "address_forbidden", (Surface::Ssh, host));
        }
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0);
}

/// Turning verification off takes two words everywhere, and three modules do without it altogether.
#[test]
fn verification_is_not_turned_off_by_accident() {
    for surface in BY_URL.into_iter().chain([Surface::Smtp]) {
        let place = if surface == Surface::Smtp { "mail.example.com" } else { "https://hook.example.com/" };
        let with = |tls: Value| {
            let mut target = surface.target(place, None);
            match surface {
                Surface::Webhook | Surface::Smtp => target.config["tls"] = tls,
                _ => target.config["connection"]["tls"] = tls,
            }
            surface.check(&target)
        };
        let error = with(json!({ "insecure_skip_verify": true })).unwrap_err();
        refused(&error, "insecure_not_acknowledged", (surface, place));
        let acknowledged = with(json!({ "insecure_skip_verify": true, "acknowledge_insecure": true }));
        match surface {
            Surface::Smtp | Surface::WinRm | Surface::Iis => {
                refused(&acknowledged.unwrap_err(), "insecure_unsupported", (surface, place));
            }
            _ => acknowledged.unwrap(),
        }
    }
    // Nothing like it exists for what is dialled by SSH or looked at: a host key is known or it is not, and a handshake
    // succeeds for one certificate only.
    assert!(serde_json::from_value::<Endpoint>(json!({ "host": "a", "tls": {} })).is_err());
    let mut target = Surface::Ssh.target("host.example", None);
    target.config["tls"] = json!({ "insecure_skip_verify": true });
    assert_eq!(Surface::Ssh.check(&target).unwrap_err().code(), "config_invalid");
}

/// A login by Kerberos connects to a second place, the key distribution centre, under the same policy.
#[tokio::test]
async fn every_address_as_a_distribution_centre() {
    let host = windows::host().start().await.unwrap();
    let config = json!({ "connection": windows::connection(&host) });
    let location = json!({ "url": host.https_url(), "paths": { "cert": r"C:\tls\site.pem" } });
    let (_, bundle) = certificate(&["localhost"]);
    let rows = ADDRESSES.into_iter().filter(|(addr, rule)| *rule != "loopback" && !addr.contains(':'));
    let spellings = [("2852039166", "metadata"), ("0xa9fea9fe", "metadata"), ("0", "this_network")];
    for (addr, rule) in rows.chain(spellings) {
        let login = json!({ "method": "kerberos", "user": "deploy@EX.TEST", "password": "p", "kdc": format!("{addr}:88"), "service": "HTTP/app.ex.test" });
        let subject = Subject::new("winrm", config.clone(), location.clone(), Some(json!({ "login": login })));
        let error = subject.plan(&bundle).await.unwrap_err();
        refused(&error, "address_forbidden", (Surface::WinRm, addr));
        assert!(error.context().any(|pair| pair == ("rule", rule)), "{addr}: {error:?}");
    }
    let login = json!({ "method": "kerberos", "user": "deploy@EX.TEST", "password": "p", "kdc": "fe80::1%eth0", "service": "HTTP/app.ex.test" });
    let subject = Subject::new("winrm", config, location, Some(json!({ "login": login })));
    assert_eq!(subject.plan(&bundle).await.unwrap_err().code(), "kdc_invalid");
}
