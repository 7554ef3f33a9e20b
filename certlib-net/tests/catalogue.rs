//! The attack catalogue for outbound requests, row by row, at the dialer that every surface shares.
//!
//! | Row | Here |
//! |---|---|
//! | special addresses, as literals and as answers of DNS | `every_address_by_every_way_in` |
//! | URLs that parsers disagree about | `every_url_by_every_way_in` |
//! | rebinding, mixed answers, a thousand answers | `what_was_checked_is_what_is_dialled`, `mixed_answers` |
//! | bombs, floods, lies and silence of a peer | `answers_of_a_hostile_peer` |
//! | redirects, with and without a login | `no_redirect_carries_a_login_away` |
//! | proxies in the environment | `proxies_in_the_environment_are_ignored` |
//! | HTTP/2 frame floods | n/a: HTTP/1.1 only, which `answers_of_a_hostile_peer` shows |
//! | URLs inside certificates (CRL, AIA, OCSP) | n/a: none is ever fetched |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use certlib_core::error::{Effect, ErrorClass};
use certlib_core::secret::SecretString;
use certlib_core::{Context, Error};
use certlib_net::{AddressPolicy, Api, Connection, Guard, HttpUrl, Lookup, SystemLookup, TlsSettings, http};
use certlib_testkit::attacks::{ADDRESSES, URLS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Answers from a script, one after the other; the last for ever. Counts how often it was asked.
#[derive(Debug)]
struct Script {
    answers: Mutex<Vec<Vec<IpAddr>>>,
    asked: AtomicUsize,
}

impl Script {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|addr| addr.parse().unwrap()).collect();
        Arc::new(Self { answers: Mutex::new(answers.iter().map(parse).collect()), asked: AtomicUsize::new(0) })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Lookup for Script {
    async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        Ok(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
    }
}

/// A peer that answers every connection with the same bytes, `more` of them over and over.
struct Peer {
    port: u16,
    seen: Arc<AtomicUsize>,
}

impl Peer {
    async fn start(head: Vec<u8>, more: Vec<u8>, closes: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let (head, more) = (head.clone(), more.clone());
                tokio::spawn(async move {
                    let mut request = [0; 8192];
                    let _ = stream.read(&mut request).await;
                    let mut sent = stream.write_all(&head).await;
                    while sent.is_ok() && !more.is_empty() {
                        sent = stream.write_all(&more).await;
                    }
                    if !closes {
                        // Waits for the other side to give up.
                        let _ = stream.read(&mut request).await;
                    }
                });
            }
        });
        Self { port, seen }
    }

    fn connections(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

fn connection(text: &str) -> Connection {
    serde_json::from_str(text).unwrap()
}

fn loopback() -> Connection {
    connection(r#"{"allow_http": true, "addresses": {"allow_loopback": true}, "timeouts": {"total_ms": 1500}}"#)
}

fn refused(error: &Error, code: &str, what: &str) {
    let seen = (error.class(), error.code(), error.effect());
    assert_eq!(seen, (ErrorClass::Validation, code, Effect::None), "{what}: {error:?}");
}

/// `host` as it stands in a URL.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

// --- addresses and URLs -----------------------------------------------------------------------------------------

#[test]
fn the_catalogue_is_whole() {
    assert!(ADDRESSES.len() >= 90, "{} addresses", ADDRESSES.len());
    for list in [ADDRESSES.map(|(addr, _)| addr).to_vec(), URLS.to_vec()] {
        let mut distinct = list.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), list.len());
    }
    // What the catalogue names in so many words.
    let named = [
        "127.0.0.1",
        "0.0.0.0",
        "10.0.0.0",
        "100.64.0.0",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.0.1",
        "192.0.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.0",
        "255.255.255.255",
        "::",
        "::1",
        "fc00::",
        "fe80::",
        "ff00::",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "::7f00:1",
    ];
    assert!(named.iter().all(|addr| ADDRESSES.iter().any(|(row, _)| row == addr)));
}

#[tokio::test]
async fn every_address_by_every_way_in() {
    let peer = Peer::start(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(), Vec::new(), true).await;
    let settings = connection(r#"{"allow_http": true, "timeouts": {"connect_ms": 500, "response_ms": 500}}"#);
    let tls = TlsSettings::default();
    let cx = Context::new("t");
    for (addr, rule) in ADDRESSES {
        let told = |error: &Error, host: &str| {
            refused(error, "address_forbidden", addr);
            let context: Vec<_> = error.context().collect();
            let canonical = addr.parse::<IpAddr>().unwrap().to_string();
            for pair in [("host", host), ("addr", &canonical), ("rule", rule)] {
                assert!(context.contains(&pair), "{pair:?} in {error:?}");
            }
        };
        let base = format!("http://{}:{}/", bracketed(addr), peer.port);
        let url = HttpUrl::parse(&base, true).unwrap();
        told(&settings.check(&base).unwrap_err(), url.host());
        told(&Api::new("t", &base, &settings, None, Arc::new(SystemLookup)).unwrap_err(), url.host());
        let guard = Guard::new(AddressPolicy::default());
        told(&http::client(&url, &guard, &tls, Duration::from_secs(1)).unwrap_err(), url.host());
        told(&guard.resolve(addr).await.unwrap_err(), addr);

        let base = format!("http://hook.example:{}/", peer.port);
        let api = Api::new("t", &base, &settings, None, Script::new(&[&[addr]])).unwrap();
        told(&api.post(["x"]).json(&1).send(&cx).await.unwrap_err(), "hook.example");
    }
    assert_eq!(peer.connections(), 0, "several of these lead to the peer when they are dialled");
}

#[tokio::test]
async fn every_url_by_every_way_in() {
    for text in URLS {
        let settings = Connection::default();
        refused(&HttpUrl::parse(text, false).unwrap_err(), "url_invalid", text);
        refused(&settings.check(text).unwrap_err(), "url_invalid", text);
        let error = Api::new("t", text, &settings, None, Arc::new(SystemLookup)).unwrap_err();
        refused(&error, "url_invalid", text);
        assert!(!error.to_string().contains(['\r', '\n', '\0']), "{error}");
    }
    // Only the scheme makes the difference, where http is admitted.
    assert!(HttpUrl::parse("http://hook.example.com/", true).is_ok());
    let host = format!("https://{}/", ["a"; 140].join("."));
    let path = format!("https://good/{}", "a".repeat(2048));
    for long in [host, path] {
        refused(&HttpUrl::parse(&long, false).unwrap_err(), "url_invalid", "long");
    }
}

#[tokio::test]
async fn mixed_answers() {
    const GOOD: [&str; 2] = ["93.184.215.14", "2606:4700::1"];
    for (addr, _) in ADDRESSES {
        for answer in [vec![addr, GOOD[0]], vec![GOOD[0], addr], vec![GOOD[1], GOOD[0], addr], vec![addr, GOOD[1]]] {
            let guard = Guard::with_lookup(AddressPolicy::default(), Script::new(&[&answer]));
            refused(&guard.resolve("hook.example").await.unwrap_err(), "address_forbidden", addr);
        }
        let mut flood = vec![GOOD[0]; 999];
        flood.push(addr);
        let guard = Guard::with_lookup(AddressPolicy::default(), Script::new(&[&flood]));
        refused(&guard.resolve("hook.example").await.unwrap_err(), "address_forbidden", addr);
    }
    let guard = Guard::with_lookup(AddressPolicy::default(), Script::new(&[&[GOOD[0]; 1000]]));
    assert_eq!(guard.resolve("hook.example").await.unwrap().len(), 16);
    assert_eq!(guard.resolve_at_most("hook.example", 32).await.unwrap().len(), 32);
}

#[tokio::test]
async fn what_was_checked_is_what_is_dialled() {
    let cx = Context::new("t");
    let peer = Peer::start(b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(), Vec::new(), true).await;
    for (bad, _) in ADDRESSES.into_iter().filter(|(_, rule)| *rule != "loopback") {
        let lookup = Script::new(&[&["127.0.0.1"], &[bad]]);
        let base = format!("http://hook.example:{}/", peer.port);
        let api = Api::new("t", &base, &loopback(), None, Arc::clone(&lookup) as Arc<dyn Lookup>).unwrap();
        let before = peer.connections();
        assert!(api.get(["a"]).send(&cx).await.unwrap().is_success());
        // One connection asks once, so the second answer is not for it; the next connection asks again.
        assert_eq!((lookup.asked(), peer.connections() - before), (1, 1));
        refused(&api.get(["b"]).send(&cx).await.unwrap_err(), "address_forbidden", bad);
        assert_eq!((lookup.asked(), peer.connections() - before), (2, 1));
    }
}

// --- what peers answer ------------------------------------------------------------------------------------------

/// One member of a gzip stream: a megabyte of zeros, in about a kilobyte.
fn bomb() -> Vec<u8> {
    let mut child = Command::new("gzip")
        .args(["-9", "-c"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || io::Write::write_all(&mut input, &vec![0; 8 * 1024 * 1024]).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.stdout.len() < 20_000);
    output.stdout
}

#[tokio::test]
async fn answers_of_a_hostile_peer() {
    let cx = Context::new("t");
    let ok = |rest: &str| format!("HTTP/1.1 200 OK\r\n{rest}").into_bytes();
    let bomb = bomb();
    let gzip =
        [ok(&format!("content-encoding: gzip\r\ncontent-length: {}\r\n\r\n", bomb.len())), bomb.clone()].concat();
    // An empty SETTINGS frame, then empty DATA frames of stream 1, without end.
    let settings_frame = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let empty_frames = [0, 0, 0, 0, 0, 0, 0, 0, 1].repeat(1000);
    const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";
    type Row = (&'static str, Vec<u8>, Vec<u8>, bool, &'static str);
    // What, the beginning, what comes over and over, whether the peer hangs up, and the code.
    let table: [Row; 19] = [
        ("gzip bomb, 8 MB in 8 kB", gzip, vec![], true, "answer_too_long"),
        ("body without end", ok("\r\n"), vec![b'a'; 65_536], true, "answer_too_long"),
        (
            "large chunks without end",
            ok(CHUNKED),
            [&b"10000\r\n"[..], &[b'a'; 65_536], b"\r\n"].concat(),
            true,
            "answer_too_long",
        ),
        ("small chunks without end", ok(CHUNKED), b"1\r\na\r\n".repeat(5000), true, "timeout"),
        (
            "a length of 10^18",
            ok("content-length: 1000000000000000000\r\n\r\n"),
            vec![b'a'; 65_536],
            true,
            "answer_too_long",
        ),
        ("a length that lies, hung up", ok("content-length: 1000\r\n\r\nshort"), vec![], true, "connection_lost"),
        ("a length that lies, silent", ok("content-length: 1000\r\n\r\nshort"), vec![], false, "timeout"),
        ("two lengths", ok("content-length: 1\r\ncontent-length: 2\r\n\r\nab"), vec![], true, "no_answer"),
        ("a negative length", ok("content-length: -1\r\n\r\n"), vec![], true, "no_answer"),
        ("headers without end", ok(""), b"x-flood: 1\r\n".repeat(1000), true, "no_answer"),
        ("one header without end", ok("x-flood: "), vec![b'a'; 65_536], true, "no_answer"),
        ("a broken chunk", ok("transfer-encoding: chunked\r\n\r\nzz\r\n"), vec![], true, "no_answer"),
        ("no gzip", ok("content-encoding: gzip\r\ncontent-length: 4\r\n\r\nzzzz"), vec![], true, "no_answer"),
        ("HTTP/2 nobody asked for", settings_frame, empty_frames, true, "no_answer"),
        ("another protocol", b"SSH-2.0-canary\r\n".to_vec(), vec![], true, "no_answer"),
        ("half a status line", b"HTTP/1.1 2".to_vec(), vec![], true, "no_answer"),
        ("nothing, hung up", vec![], vec![], true, "no_answer"),
        ("nothing at all", vec![], vec![], false, "timeout"),
        ("interim answers without end", vec![], b"HTTP/1.1 100 Continue\r\n\r\n".repeat(500), true, "timeout"),
    ];
    for (what, head, more, closes, code) in table {
        let peer = Peer::start(head, more, closes).await;
        let base = format!("http://127.0.0.1:{}/", peer.port);
        let mut settings = loopback();
        settings.timeouts = serde_json::from_str(r#"{"response_ms": 4000, "total_ms": 8000}"#).unwrap();
        if code == "timeout" {
            settings.timeouts = serde_json::from_str(r#"{"response_ms": 300, "total_ms": 600}"#).unwrap();
        }
        let api = Api::new("t", &base, &settings, None, Arc::new(SystemLookup)).unwrap();
        let started = Instant::now();
        let error = api.post(["x"]).json(&1).send(&cx).await.unwrap_err();
        assert_eq!((error.code(), error.effect()), (code, Effect::Possible), "{what}: {error:?}");
        let lasting = code == "answer_too_long";
        assert_eq!(error.class(), if lasting { ErrorClass::IoPermanent } else { ErrorClass::Network }, "{what}");
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        assert!(!format!("{error:?}").contains("canary"), "{what}");
    }
}

/// What an upstream says is for its own log: class, status and request, and nothing of the body.
#[tokio::test]
async fn no_error_quotes_the_peer() {
    let cx = Context::new("t");
    for status in [300, 400, 401, 403, 404, 409, 418, 422, 429, 500, 502, 503, 599, 999] {
        let answer = format!("HTTP/1.1 {status} canary\r\nx-why: canary\r\ncontent-length: 13\r\n\r\n<b>canary</b>");
        let peer = Peer::start(answer.into_bytes(), Vec::new(), true).await;
        let api = Api::new("t", &format!("http://127.0.0.1:{}/", peer.port), &loopback(), None, Arc::new(SystemLookup));
        let error = match api.unwrap().post(["x"]).json(&1).send(&cx).await {
            Ok(answer) => answer.success().unwrap_err(),
            Err(error) => error,
        };
        assert!(error.context().any(|(key, value)| key == "status" && value == status.to_string()), "{error:?}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}

#[tokio::test]
async fn no_redirect_carries_a_login_away() {
    let cx = Context::new("t");
    let elsewhere = Peer::start(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(), Vec::new(), true).await;
    let token = SecretString::new("canary".to_owned());
    for status in [300, 301, 302, 303, 305, 307, 308] {
        for location in [
            format!("http://localhost:{}/", elsewhere.port),
            format!("http://127.0.0.2:{}/", elsewhere.port),
            format!("//localhost:{}/", elsewhere.port),
            format!("http://canary@127.0.0.1:{}/", elsewhere.port),
            "http://169.254.169.254/latest/meta-data/".to_owned(),
            "https://127.0.0.1/".to_owned(),
            "file:///etc/passwd".to_owned(),
            "gopher://127.0.0.1/".to_owned(),
        ] {
            let answer = format!("HTTP/1.1 {status} X\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
            let peer = Peer::start(answer.into_bytes(), Vec::new(), true).await;
            let base = format!("http://127.0.0.1:{}/", peer.port);
            let api = Api::new("t", &base, &loopback(), None, Arc::new(SystemLookup)).unwrap();
            let plain = api.get(["x"]).secret_header("authorization", &token).send(&cx).await.unwrap_err();
            let follows =
                api.get(["x"]).secret_header("authorization", &token).follow_on_host().send(&cx).await.unwrap_err();
            for error in [plain, follows] {
                assert_eq!((error.code(), error.effect()), ("redirect_refused", Effect::None), "{status} {location}");
                assert!(!format!("{error:?}").contains("canary"));
            }
            assert_eq!(peer.connections(), 2, "{status} {location}");
        }
    }
    assert_eq!(elsewhere.connections(), 0);
}

/// A peer that redirects to itself for ever is followed once where that is allowed at all.
#[tokio::test]
async fn redirects_without_end() {
    let answer = b"HTTP/1.1 307 X\r\nlocation: /again\r\ncontent-length: 0\r\n\r\n".to_vec();
    let peer = Peer::start(answer, Vec::new(), true).await;
    let base = format!("http://127.0.0.1:{}/", peer.port);
    let api = Api::new("t", &base, &loopback(), None, Arc::new(SystemLookup)).unwrap();
    let cx = Context::new("t");
    assert_eq!(api.get(["x"]).send(&cx).await.unwrap_err().code(), "redirect_refused");
    assert_eq!(peer.connections(), 1);
    assert_eq!(api.get(["x"]).follow_on_host().send(&cx).await.unwrap_err().code(), "redirect_refused");
    assert_eq!(peer.connections(), 3);
}

#[tokio::test]
async fn proxies_in_the_environment_are_ignored() {
    const NAMES: [&str; 6] = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
    let proxy = Peer::start(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n".to_vec(), Vec::new(), true).await;
    let url = format!("http://127.0.0.1:{}", proxy.port);
    // In a process of its own, because the environment belongs to all tests.
    let child = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "what_was_checked_is_what_is_dialled"]).envs(NAMES.map(|name| (name, &url)));
        command.env_remove("NO_PROXY").env_remove("no_proxy").output().unwrap()
    });
    let output = child.await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!(proxy.connections(), 0);
}
