//! Which certificate is served after an upgrade to TLS: by the real programs, and seen by `openssl`, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certlib_core::{Context, Fingerprint};
use certlib_modules::probe::{self, Endpoint, Starttls};
use certlib_testkit::counterpart::{Dovecot, Exim, Mariadb, Postgres, Slapd};
use certlib_testkit::locate::locate;
use certlib_testkit::pki::{Issued, TestCa};
use certlib_testkit::process::{self, Child};
use certlib_testkit::{ports, require};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn endpoint(addr: SocketAddr, starttls: Option<Starttls>) -> Endpoint {
    let mut endpoint = Endpoint::new("127.0.0.1", addr.port());
    (endpoint.tries, endpoint.dial_timeout_ms) = (1, 20_000);
    (endpoint.server_name, endpoint.starttls) = (Some("localhost".to_owned()), starttls);
    endpoint
}

/// A certificate below an intermediate, and another one of the same authority.
fn certificates() -> (Issued, Issued) {
    let ca = TestCa::new("root").unwrap().intermediate("intermediate").unwrap();
    (ca.issue(&["localhost"]).unwrap(), ca.issue(&["localhost"]).unwrap())
}

/// Checks that `served` is found at `addr`, by the probe and by `openssl`, and nothing else is taken for it.
async fn assert_serves(addr: SocketAddr, protocol: Starttls, openssl_name: &str, served: &Issued, other: &Issued) {
    let cx = Context::new("t");
    let (expected, another): (Fingerprint, Fingerprint) =
        (served.fingerprint.parse().unwrap(), other.fingerprint.parse().unwrap());
    let good = probe::check(&cx, &endpoint(addr, Some(protocol)), expected).await;
    assert_eq!((good.found, good.problem, good.ocsp_staple), (Some(expected), None, Some(false)), "{protocol:?}");
    let bad = probe::check(&cx, &endpoint(addr, Some(protocol)), another).await;
    assert_eq!(bad.found, Some(expected));
    assert!(bad.problem.as_ref().unwrap().contains("another certificate"), "{bad:?}");
    // Without the upgrade there is no TLS.
    let mut impatient = endpoint(addr, None);
    impatient.dial_timeout_ms = 2_000;
    let plain = probe::check(&cx, &impatient, expected).await;
    assert!(plain.problem.is_some() && plain.found.is_none(), "{plain:?}");

    let mut command = Command::new(locate("openssl").await.unwrap());
    command.args(["s_client", "-connect", &addr.to_string(), "-starttls", openssl_name]);
    let session = process::capture(command, b"").await.unwrap();
    let mut command = Command::new(locate("openssl").await.unwrap());
    command.args(["x509", "-noout", "-fingerprint", "-sha256"]);
    let line = String::from_utf8(process::run(command, &session.stdout).await.unwrap().stdout).unwrap();
    assert_eq!(line.trim().rsplit_once('=').unwrap().1.parse::<Fingerprint>().unwrap(), expected, "{protocol:?}");
}

/// Checks that a server without TLS is said to have none.
async fn assert_has_none(addr: SocketAddr, protocol: Starttls) {
    let expected = Fingerprint::from_bytes([1; 32]);
    let check = probe::check(&Context::new("t"), &endpoint(addr, Some(protocol)), expected).await;
    assert!(check.problem.as_ref().unwrap().contains("offers no TLS over"), "{protocol:?} {check:?}");
    assert_eq!((check.found, check.ocsp_staple), (None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smtp_by_exim() {
    let (served, other) = certificates();
    let exim = require!(Exim::builder().tls(&served).start().await);
    assert_serves(exim.addr(), Starttls::Smtp, "smtp", &served, &other).await;
    let plain = require!(Exim::builder().start().await);
    assert_has_none(plain.addr(), Starttls::Smtp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imap_and_pop3_by_dovecot() {
    let (served, other) = certificates();
    let dovecot = require!(Dovecot::start(Some(&served)).await);
    assert_serves(dovecot.imap_addr(), Starttls::Imap, "imap", &served, &other).await;
    assert_serves(dovecot.pop3_addr(), Starttls::Pop3, "pop3", &served, &other).await;
    let plain = require!(Dovecot::start(None).await);
    assert_has_none(plain.imap_addr(), Starttls::Imap).await;
    assert_has_none(plain.pop3_addr(), Starttls::Pop3).await;
    dovecot.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ldap_by_slapd() {
    let (served, other) = certificates();
    let slapd = require!(Slapd::start(Some(&served)).await);
    assert_serves(slapd.addr(), Starttls::Ldap, "ldap", &served, &other).await;
    let plain = require!(Slapd::start(None).await);
    assert_has_none(plain.addr(), Starttls::Ldap).await;
    slapd.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_by_itself() {
    let (served, other) = certificates();
    let postgres = require!(Postgres::builder().tls(&served).start().await);
    assert_serves(postgres.addr(), Starttls::Postgresql, "postgres", &served, &other).await;
    let plain = require!(Postgres::start().await);
    assert_has_none(plain.addr(), Starttls::Postgresql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_by_mariadb() {
    let (served, other) = certificates();
    let mariadb = require!(Mariadb::builder().tls(served.clone()).start().await);
    assert_serves(mariadb.addr(), Starttls::Mysql, "mysql", &served, &other).await;
    let plain = require!(Mariadb::start().await);
    assert_has_none(plain.addr(), Starttls::Mysql).await;
}

/// `openssl` answers for a CA, and its server shows the answer with the certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_staple_is_seen() {
    let openssl = require!(locate("openssl").await);
    let ca = TestCa::new("root").unwrap();
    let issued = ca.issue(&["localhost"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("ca.pem"), ca.certificate_pem()).unwrap();
    std::fs::write(at("ca.key"), ca.key_pem()).unwrap();
    std::fs::write(at("leaf.pem"), &issued.certificate_pem).unwrap();
    std::fs::write(at("leaf.key"), &issued.key_pem).unwrap();
    let run = async |line: &str| {
        let mut command = Command::new(&openssl);
        command.args(line.split(' ')).current_dir(folder.path());
        String::from_utf8_lossy(&process::run(command, b"").await.unwrap().stdout).into_owned()
    };
    let serial = run("x509 -in leaf.pem -noout -serial").await;
    let serial = serial.trim().rsplit_once('=').unwrap().1;
    std::fs::write(at("index"), format!("V\t491231235959Z\t\t{serial}\tunknown\t/CN=localhost\n")).unwrap();
    run("ocsp -index index -rsigner ca.pem -rkey ca.key -CA ca.pem -issuer ca.pem -cert leaf.pem -respout staple")
        .await;

    let expected = issued.fingerprint.parse().unwrap();
    for (more, staple) in [(&["-status_file", "staple"][..], true), (&[], false)] {
        let addr = ports::free_addr().unwrap();
        let mut command = Command::new(&openssl);
        command.args(["s_server", "-quiet", "-accept", &addr.to_string(), "-cert", "leaf.pem", "-key", "leaf.key"]);
        command.args(["-cert_chain", "ca.pem"]).args(more).current_dir(folder.path());
        let mut server = Child::spawn("s_server", command, folder.path()).unwrap();
        server.wait_for_port(addr).await.unwrap();
        let check = probe::check(&Context::new("t"), &endpoint(addr, None), expected).await;
        assert_eq!((check.problem.as_deref(), check.ocsp_staple), (None, Some(staple)), "{}", server.log());
    }
}

/// A server that says one thing, and keeps what it hears until the client goes.
async fn says(words: &'static [u8]) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(words).await.unwrap();
            let mut all = Vec::new();
            // Somebody who is cut off by a time-out may reset the connection.
            let _ = stream.read_to_end(&mut all).await;
            kept.lock().unwrap().extend(all);
        }
    });
    (addr, heard)
}

#[tokio::test]
async fn nothing_is_said_after_a_refusal_and_silence_ends() {
    let expected = Fingerprint::from_bytes([1; 32]);
    for (protocol, words, said) in [
        (Starttls::Postgresql, &b"N"[..], &[0, 0, 0, 8, 4, 210, 22, 47][..]),
        (Starttls::Imap, b"* BYE not now\r\n", b""),
        (Starttls::Pop3, b"-ERR not now\r\n", b""),
        (Starttls::Smtp, b"421 not now\r\n", b""),
        (Starttls::Mysql, b"\x05\0\0\0\xff\x10\x04no", b""),
    ] {
        let (addr, heard) = says(words).await;
        let check = probe::check(&Context::new("t"), &endpoint(addr, Some(protocol)), expected).await;
        assert!(check.problem.as_ref().unwrap().contains("offers no TLS"), "{check:?}");
        let all = process::poll_until("what was heard", Duration::from_secs(20), async || {
            let heard = heard.lock().unwrap().clone();
            (heard.len() >= said.len()).then_some(heard)
        });
        assert_eq!(all.await.unwrap(), said, "{protocol:?}");

        let (addr, _) = says(b"").await;
        let mut impatient = endpoint(addr, Some(protocol));
        impatient.dial_timeout_ms = 100;
        let check = probe::check(&Context::new("t"), &impatient, expected).await;
        assert!(check.problem.as_ref().unwrap().contains("in time"), "{check:?}");
    }
}
