//! The webhook module against a receiver over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "webhook/receiver.rs"]
mod receiver;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::bundle::CertificateBundle;
use certlib_core::clock::ManualClock;
use certlib_core::context::Subject;
use certlib_core::error::{Effect, Error, ErrorClass, Result};
use certlib_core::module::{
    ApprovedPlan, ErasedModule, Facts, JournalSink, MemoryJournal, RollbackOutcome, TargetSpec, Validation,
};
use certlib_core::secret::{Secret, SecretBytes, SecretString};
use certlib_core::{Context, Fingerprint};
use certlib_modules::net::Lookup;
use certlib_modules::webhook::{Webhook, verify};
use certlib_testkit::pki::TestCa;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::datetime;
use tokio_util::sync::CancellationToken;

use self::receiver::{Answer, Receiver};

const SECRET: &str = "whsec_Y2VydGxpYi1leGFtcGxlLXNlY3JldC0zMi1ieXRlcyE=";
const OLD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NOW: OffsetDateTime = datetime!(2027-03-01 12:00 UTC);

/// Answers from a script, one after the other; the last for ever. Counts how often it was asked.
#[derive(Debug, Default)]
struct Script {
    answers: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    asked: AtomicUsize,
}

impl Script {
    fn new(host: &str, answers: &[&[&str]]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|addr| addr.parse().unwrap()).collect();
        let answers = [(host.to_owned(), answers.iter().map(parse).collect())].into();
        Arc::new(Self { answers: Mutex::new(answers), asked: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Lookup for Script {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let script = answers.get_mut(host).ok_or(io::ErrorKind::NotFound)?;
        Ok(if script.len() > 1 { script.remove(0) } else { script[0].clone() })
    }
}

/// One target, one certificate, one journal.
struct Case {
    module: Webhook,
    spec: TargetSpec,
    bundle: CertificateBundle,
    clock: ManualClock,
    cx: Context,
    journal: MemoryJournal,
}

impl Case {
    /// `hook.test` is 127.0.0.1, which is admitted, and plain http too; `config` adds or overrides.
    fn new(url: &str, config: Value) -> Self {
        Self::with_lookup(url, config, Script::new("hook.test", &[&["127.0.0.1"]]))
    }

    fn with_lookup(url: &str, config: Value, lookup: Arc<Script>) -> Self {
        let mut merged = json!({"allow_http": true, "addresses": {"allow_loopback": true}});
        merged.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        let clock = ManualClock::new(NOW);
        let cx = Context::with(Arc::new(clock.clone()), CancellationToken::new(), "run-1.target-1")
            .about(Subject::certificate("shop", "cert-1", 3));
        Self {
            module: Webhook::with_lookup(lookup),
            spec: TargetSpec::new("t1", "cdn", merged, json!({"url": url}), credentials(json!({"secret": SECRET}))),
            bundle: bundle(),
            clock,
            cx,
            journal: MemoryJournal::new(),
        }
    }

    fn log_in(&mut self, value: Value) {
        self.spec.credentials = credentials(value);
    }

    async fn plan(&self) -> Result<ApprovedPlan> {
        self.module.dry_run(&self.cx, &self.spec, &self.bundle).await.map(ApprovedPlan::assertion)
    }

    async fn execute(&self) -> Result<Facts> {
        let plan = self.plan().await?;
        self.module.execute(&self.cx, &self.spec, &self.bundle, &plan, &self.journal).await
    }

    async fn rollback(&self) -> Result<RollbackOutcome> {
        let entries = self.journal.entries().await.unwrap();
        self.module.rollback(&self.cx, &self.spec, &entries).await
    }
}

fn credentials(value: Value) -> Option<SecretString> {
    Some(Secret::new(value.to_string()))
}

fn bundle() -> CertificateBundle {
    let issued = TestCa::new("webhook test root").unwrap().issue(&["shop.example.com"]).unwrap();
    CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap()
}

fn check_signature(request: &receiver::Request, secret: &str, now: OffsetDateTime) -> Result<()> {
    let header = |name: &str| request.headers[name].as_str();
    let secret = Secret::new(secret.to_owned());
    let signatures = header("webhook-signature");
    verify(&secret, header("webhook-id"), header("webhook-timestamp"), signatures, &request.body, now)
}

#[track_caller]
fn assert_refused(error: &Error, class: ErrorClass, code: &str, effect: Effect) {
    assert_eq!((error.class(), error.code(), error.effect()), (class, code, effect), "{error:?}");
}

// --- what is sent -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_deployment_is_announced_and_taken_back() {
    let hook = Receiver::start().await;
    let mut case = Case::new(&hook.url("hook.test"), json!({"headers": {"X-Tenant": "blue"}}));
    case.log_in(json!({"secret": SECRET, "bearer": "token-canary"}));
    let facts = case.execute().await.unwrap();

    let requests = hook.requests();
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    check_signature(request, SECRET, NOW).unwrap();
    assert_eq!(request.line, "POST /hook HTTP/1.1");
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!(request.headers["x-tenant"], "blue");
    assert_eq!(request.headers["authorization"], "Bearer token-canary");
    assert_eq!(request.headers["idempotency-key"], request.headers["webhook-id"]);
    assert!(request.headers["user-agent"].starts_with("certlib/"));
    let event = request.json();
    assert_eq!(event["type"], "certificate.deploy");
    assert_eq!(event["id"], request.headers["webhook-id"].as_str());
    assert_eq!(event["created_at"], "2027-03-01T12:00:00Z");
    assert_eq!(event["certificate"]["id"], "cert-1");
    assert_eq!(event["certificate"]["version"], 3);
    assert_eq!(event["certificate"]["names"], json!(["shop.example.com"]));
    assert_eq!(event["target"], json!({"id": "t1", "name": "cdn", "operation": "execute"}));
    let sent = CertificateBundle::from_pem(event["material"]["certificate_pem"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(sent.fingerprint(), case.bundle.fingerprint());
    assert_eq!(event["material"]["chain_pem"], case.bundle.chain_pem());
    assert!(!String::from_utf8_lossy(&request.body).contains("PRIVATE KEY"));
    assert_eq!(facts.0["status"], 200);
    assert_eq!(facts.0["delivery_id"], event["id"]);
    assert!(!serde_json::to_string(&facts).unwrap().contains("canary"));

    for _ in 0..2 {
        assert_eq!(case.rollback().await.unwrap(), RollbackOutcome::RolledBack);
    }
    let requests = hook.requests();
    let [_, first, second] = requests.as_slice() else { panic!("{requests:?}") };
    check_signature(first, SECRET, NOW).unwrap();
    let taken_back = first.json();
    assert_eq!(taken_back["type"], "certificate.rollback");
    assert_eq!(taken_back["reverts"], event["id"]);
    assert_eq!(taken_back["certificate"], event["certificate"]);
    assert_eq!(taken_back.get("material"), None);
    assert_ne!(taken_back["id"], event["id"]);
    assert_eq!(second.json()["id"], taken_back["id"]);
}

#[tokio::test]
async fn retries_send_the_same_delivery_with_its_own_time_and_signature() {
    let hook = Receiver::start().await;
    let case = Case::new(&hook.url("hook.test"), json!({}));
    hook.answer(Answer::status(500, ""));
    let error = case.execute().await.unwrap_err();
    assert_refused(&error, ErrorClass::IoTransient, "http_status", Effect::Possible);
    case.clock.advance(Duration::from_secs(900));
    hook.answer(Answer::status(200, ""));
    case.execute().await.unwrap();

    let requests = hook.requests();
    let [first, second] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!(first.body, second.body);
    assert_eq!(first.headers["webhook-id"], second.headers["webhook-id"]);
    let later = NOW + Duration::from_secs(900);
    assert_eq!(second.headers["webhook-timestamp"], later.unix_timestamp().to_string());
    check_signature(second, SECRET, later).unwrap();
    assert_eq!(check_signature(first, SECRET, later).unwrap_err().code(), "timestamp_invalid");
    assert_eq!(case.journal.steps(), ["announce"]);
}

#[tokio::test]
async fn signatures_follow_the_configuration() {
    let hook = Receiver::start().await;
    let mut case = Case::new(&hook.url("hook.test"), json!({}));
    case.log_in(json!({"secret": SECRET, "previous_secret": OLD_SECRET}));
    case.execute().await.unwrap();
    let mut hub = Case::new(&hook.url("hook.test"), json!({"signature": "hub-sha256"}));
    hub.log_in(json!({"secret": "certlib-secret"}));
    hub.execute().await.unwrap();
    let mut unsigned = Case::new(&hook.url("hook.test"), json!({"signature": "none"}));
    unsigned.spec.credentials = None;
    unsigned.execute().await.unwrap();

    let requests = hook.requests();
    let [both, hub, unsigned] = requests.as_slice() else { panic!("{requests:?}") };
    check_signature(both, SECRET, NOW).unwrap();
    check_signature(both, OLD_SECRET, NOW).unwrap();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"certlib-secret");
    let tag = aws_lc_rs::hmac::sign(&key, &hub.body);
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hub.headers["x-hub-signature-256"], format!("sha256={hex}"));
    assert!(!hub.headers.contains_key("webhook-signature"));
    assert!(!unsigned.headers.keys().any(|name| name.contains("signature")));
}

#[tokio::test]
async fn the_private_key_travels_only_when_asked_and_only_over_verified_https() {
    let ca = TestCa::new("receiver root").unwrap();
    let hook = Receiver::start_tls(&ca.issue(&["hook.test"]).unwrap()).await;
    let tls = json!({"ca_pem": ca.certificate_pem()});
    let mut case = Case::new(&hook.https_url("hook.test"), json!({"include_private_key": true, "tls": tls}));
    let plan = case.plan().await.unwrap();
    let shown = format!("{plan:?} {}", plan.plan());
    assert!(shown.contains("(private key)") && !shown.contains("PRIVATE KEY"), "{shown}");
    case.execute().await.unwrap();
    let key = case.bundle.key_pem().unwrap();
    assert_eq!(hook.requests()[0].json()["material"]["private_key_pem"], key.expose().as_str());
    let journal = case.journal.entries().await.unwrap();
    assert!(!String::from_utf8_lossy(journal[0].expose()).contains("PRIVATE KEY"));

    case.bundle = CertificateBundle::new(case.bundle.certificates().to_vec(), None).unwrap();
    assert_eq!(case.execute().await.unwrap_err().code(), "key_missing");

    let before = hook.connections().await;
    let insecure = json!({"insecure_skip_verify": true, "acknowledge_insecure": true});
    for (url, tls) in [(hook.url("hook.test"), tls), (hook.https_url("hook.test"), insecure)] {
        let case = Case::new(&url, json!({"include_private_key": true, "tls": tls}));
        assert_eq!(case.execute().await.unwrap_err().code(), "key_needs_verified_https");
    }
    assert_eq!(hook.connections().await, before);
}

#[tokio::test]
async fn a_dry_run_sends_nothing_shows_no_secret_and_repeats_itself() {
    let hook = Receiver::start().await;
    let mut case = Case::new(&format!("{}?token=query-canary", hook.url("hook.test")), json!({}));
    case.log_in(json!({"secret": SECRET, "basic": {"username": "u", "password": "login-canary"}}));
    let plan = case.plan().await.unwrap();
    case.clock.advance(Duration::from_secs(60));
    assert_eq!(plan, case.plan().await.unwrap());
    let text = plan.plan().to_string();
    assert!(text.contains("call POST http://hook.test") && text.contains("shop.example.com"), "{text}");
    assert!(!format!("{plan:?}{text}").contains("canary"));
    assert!(plan.plan().changes_anything());
    assert_eq!(hook.connections().await, 0);
    assert_eq!(case.module.validate(&case.cx, &case.spec, &case.bundle).await.unwrap(), Validation::Skipped);
    assert_eq!(hook.connections().await, 0);
}

#[tokio::test]
async fn a_plan_for_something_else_is_stale() {
    let hook = Receiver::start().await;
    let mut case = Case::new(&hook.url("hook.test"), json!({}));
    let plan = case.plan().await.unwrap();
    let fingerprint: Fingerprint = case.bundle.fingerprint();
    case.bundle = bundle();
    assert_ne!(case.bundle.fingerprint(), fingerprint);
    let error = case.module.execute(&case.cx, &case.spec, &case.bundle, &plan, &case.journal).await.unwrap_err();
    assert_refused(&error, ErrorClass::Validation, "plan_stale", Effect::None);
    case.spec.location = json!({"url": hook.url("other.test")});
    let plan = Case::new(&hook.url("hook.test"), json!({})).plan().await.unwrap();
    let error = case.module.execute(&case.cx, &case.spec, &case.bundle, &plan, &case.journal).await.unwrap_err();
    assert_eq!(error.code(), "plan_stale");
    assert!(case.journal.steps().is_empty());
    assert_eq!(hook.connections().await, 0);
}

// --- the journal ------------------------------------------------------------------------------------------------

/// A journal that cannot be written.
#[derive(Debug)]
struct Broken;

#[async_trait]
impl JournalSink for Broken {
    async fn append(&self, _step: &str, _undo: SecretBytes) -> Result<()> {
        Err(Error::transient("journal", "lease_lost", "somebody else works on this target"))
    }

    async fn entries(&self) -> Result<Vec<SecretBytes>> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn nothing_is_sent_before_it_is_recorded_or_after_a_cancel() {
    let hook = Receiver::start().await;
    let case = Case::new(&hook.url("hook.test"), json!({}));
    let plan = case.plan().await.unwrap();
    let error = case.module.execute(&case.cx, &case.spec, &case.bundle, &plan, &Broken).await.unwrap_err();
    assert_eq!(error.code(), "lease_lost");
    case.cx.cancel.cancel();
    let error = case.module.execute(&case.cx, &case.spec, &case.bundle, &plan, &case.journal).await.unwrap_err();
    assert_refused(&error, ErrorClass::IoTransient, "cancelled", Effect::None);
    assert_eq!(hook.connections().await, 0);
}

#[tokio::test]
async fn what_was_declined_is_not_taken_back() {
    let hook = Receiver::start().await;
    hook.answer(Answer::status(404, ""));
    let case = Case::new(&hook.url("hook.test"), json!({}));
    let error = case.execute().await.unwrap_err();
    assert_refused(&error, ErrorClass::Validation, "http_status", Effect::None);
    assert_eq!(case.journal.steps(), ["announce", "not_taken"]);
    assert_eq!(case.rollback().await.unwrap(), RollbackOutcome::NothingToDo);
    assert_eq!(hook.connections().await, 1);
}

#[tokio::test]
async fn what_may_have_arrived_is_taken_back_even_if_a_later_attempt_was_declined() {
    let hook = Receiver::start().await;
    let case = Case::new(&hook.url("hook.test"), json!({}));
    for (status, class) in [(503, ErrorClass::IoTransient), (404, ErrorClass::Validation)] {
        hook.answer(Answer::status(status, ""));
        assert_refused(&case.execute().await.unwrap_err(), class, "http_status", Effect::Possible);
    }
    let error = case.rollback().await.unwrap_err();
    assert_eq!(error.code(), "http_status");
    hook.answer(Answer::status(200, ""));
    assert_eq!(case.rollback().await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(hook.requests().last().unwrap().json()["type"], "certificate.rollback");
}

// --- what receivers answer --------------------------------------------------------------------------------------

#[tokio::test]
async fn statuses_are_classified() {
    use ErrorClass as C;
    let hook = Receiver::start().await;
    let elsewhere = Receiver::start().await;
    let redirect = format!("location: {}\r\n", elsewhere.url("hook.test"));
    let table = [
        (301, C::IoPermanent, "redirect_refused", Effect::None),
        (302, C::IoPermanent, "redirect_refused", Effect::None),
        (307, C::IoPermanent, "redirect_refused", Effect::None),
        (308, C::IoPermanent, "redirect_refused", Effect::None),
        (304, C::IoPermanent, "redirect_refused", Effect::None),
        (400, C::Validation, "http_status", Effect::None),
        (401, C::Auth, "http_status", Effect::None),
        (403, C::Auth, "http_status", Effect::None),
        (404, C::Validation, "http_status", Effect::None),
        (408, C::IoTransient, "http_status", Effect::Possible),
        (410, C::IoPermanent, "target_gone", Effect::None),
        (418, C::IoPermanent, "http_status", Effect::None),
        (425, C::IoTransient, "http_status", Effect::None),
        (429, C::IoTransient, "http_status", Effect::None),
        (500, C::IoTransient, "http_status", Effect::Possible),
        (502, C::IoTransient, "http_status", Effect::Possible),
        (503, C::IoTransient, "http_status", Effect::Possible),
    ];
    for (status, class, code, effect) in table {
        hook.answer(Answer::status(status, &redirect));
        let error = Case::new(&hook.url("hook.test"), json!({})).execute().await.unwrap_err();
        assert_refused(&error, class, code, effect);
        assert!(error.context().any(|(key, value)| key == "status" && value == status.to_string()));
        assert_eq!(error.retry_after(), None);
    }
    assert_eq!(hook.connections().await, table.len());
    assert_eq!(elsewhere.connections().await, 0);
    for status in [200, 201, 202] {
        hook.answer(Answer::status(status, ""));
        let facts = Case::new(&hook.url("hook.test"), json!({})).execute().await.unwrap();
        assert_eq!(facts.0["status"], status);
    }
    hook.answer(Answer::Raw(b"HTTP/1.1 204 X\r\n\r\n".to_vec()));
    Case::new(&hook.url("hook.test"), json!({})).execute().await.unwrap();
}

#[tokio::test]
async fn receivers_say_when_to_come_back_within_an_hour() {
    let hook = Receiver::start().await;
    let table = [
        (429, "120", Some(120)),
        (503, "Mon, 01 Mar 2027 12:05:00 GMT", Some(300)),
        (429, "86400", Some(3600)),
        (503, "-5", Some(0)),
        (429, "soon", None),
        (429, "\u{fc}", None),
        (400, "120", None),
    ];
    for (status, header, seconds) in table {
        hook.answer(Answer::status(status, &format!("retry-after: {header}\r\n")));
        let error = Case::new(&hook.url("hook.test"), json!({})).execute().await.unwrap_err();
        assert_eq!(error.retry_after(), seconds.map(Duration::from_secs), "{status} {header}");
    }
}

/// Short only where waiting is all that can happen, so that a busy machine changes no outcome.
fn patience(answer: &Answer) -> Value {
    match answer {
        Answer::Stall(_) => json!({"timeouts": {"total_ms": 1000}}),
        _ => json!({}),
    }
}

#[tokio::test]
async fn a_delivery_is_a_delivery_whatever_the_body_says() {
    let hook = Receiver::start().await;
    let head = b"HTTP/1.1 200 OK\r\n".to_vec();
    let with = |rest: &[u8]| [head.as_slice(), rest].concat();
    // 300 000 zeros, compressed.
    let mut bomb = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xed\xc1\x01\x0d\0\0\0\xc2\xa0\xf7\x4f\x6d\x0f\x07\x14".to_vec();
    bomb.resize(315, 0);
    bomb.extend(b"\xfc\x18\xfb\xe2\xb2\xf6\xe0\x93\x04\0");
    let table = [
        (Answer::Raw(with(b"content-length: 4\r\n\r\n\xff\0\r\n")), 4, false),
        (Answer::Raw(with(b"content-length: 1000\r\n\r\nshort")), 5, true),
        (Answer::Raw(with(b"transfer-encoding: chunked\r\n\r\nzz\r\n")), 0, true),
        (Answer::Stall(with(b"content-length: 10\r\n\r\nhi")), 2, true),
        (Answer::Endless(with(b"\r\n"), vec![b'a'; 8192]), 65_536, true),
        (Answer::Endless(with(b"transfer-encoding: chunked\r\n\r\n"), b"8\r\naaaaaaaa\r\n".repeat(1000)), 65_536, true),
        (Answer::Raw([with(b"content-encoding: gzip\r\n\r\n"), bomb].concat()), 65_536, true),
    ];
    for (answer, read, cut) in table {
        hook.answer(answer.clone());
        let facts = Case::new(&hook.url("hook.test"), patience(&answer)).execute().await.unwrap();
        let shown = format!("{answer:?}").chars().take(80).collect::<String>();
        assert_eq!((&facts.0["response_bytes"], &facts.0["response_cut"]), (&json!(read), &json!(cut)), "{shown}");
    }
}

#[tokio::test]
async fn no_answer_is_a_network_error_and_takes_no_longer_than_allowed() {
    let hook = Receiver::start().await;
    let many: Vec<u8> = b"x-flood: 1\r\n".repeat(1000);
    let table = [
        (Answer::Stall(Vec::new()), "timeout"),
        (Answer::Stall(b"HTTP/1.1 200 OK\r\nx-slow: ".to_vec()), "timeout"),
        (Answer::Raw(Vec::new()), "no_answer"),
        (Answer::Raw(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()), "no_answer"),
        (Answer::Raw(b"HTTP/1.1 2".to_vec()), "no_answer"),
        (Answer::Endless(b"HTTP/1.1 200 OK\r\n".to_vec(), many), "no_answer"),
    ];
    for (answer, code) in table {
        let case = Case::new(&hook.url("hook.test"), patience(&answer));
        hook.answer(answer);
        let error = tokio::time::timeout(Duration::from_secs(20), case.execute()).await.unwrap().unwrap_err();
        assert_refused(&error, ErrorClass::Network, code, Effect::Possible);
        assert!(!format!("{error:?}").contains("OpenSSH"));
    }
}

#[tokio::test]
async fn nobody_there_means_nothing_happened() {
    let free = {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.local_addr().unwrap().port()
    };
    let case = Case::new(&format!("http://hook.test:{free}/"), json!({}));
    assert_refused(&case.execute().await.unwrap_err(), ErrorClass::Network, "connect_failed", Effect::None);
    assert_eq!(case.rollback().await.unwrap(), RollbackOutcome::NothingToDo);
    let case = Case::new("https://unknown.test/", json!({}));
    assert_refused(&case.execute().await.unwrap_err(), ErrorClass::Network, "dns_failed", Effect::None);
}

// --- where requests may go --------------------------------------------------------------------------------------

#[tokio::test]
async fn forbidden_addresses_are_never_dialled() {
    let hook = Receiver::start().await;
    let port = hook.addr.port();
    // All of these reach the receiver when they are dialled.
    let literals = ["127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:0.0.0.0]"];
    let forbidden = json!({"addresses": {"allow": ["0.0.0.0/0", "::/0"]}});
    for host in literals {
        let case = Case::new(&format!("http://{host}:{port}/"), forbidden.clone());
        let error = case.execute().await.unwrap_err();
        assert_refused(&error, ErrorClass::Validation, "address_forbidden", Effect::None);
        let error = ErasedModule::check(&case.module, &case.spec).unwrap_err();
        assert_eq!(error.code(), "address_forbidden", "{host}");
    }
    for host in ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "127.0.0.1.", "good@127.0.0.1", "hook.test."] {
        let case = Case::new(&format!("http://{host}:{port}/"), json!({}));
        assert_eq!(case.execute().await.unwrap_err().code(), "url_invalid", "{host}");
    }
    let answers: [&[&str]; 5] =
        [&["127.0.0.1"], &["::ffff:127.0.0.1"], &["0.0.0.0"], &["1.1.1.1", "127.0.0.1"], &["127.0.0.1", "1.1.1.1"]];
    for answer in answers {
        let lookup = Script::new("hook.test", &[answer]);
        let case = Case::with_lookup(&hook.url("hook.test"), forbidden.clone(), lookup);
        let error = case.execute().await.unwrap_err();
        assert_refused(&error, ErrorClass::Validation, "address_forbidden", Effect::None);
    }
    assert_eq!(hook.connections().await, 0);
    // The same receiver is reached as soon as it may be.
    Case::new(&hook.url("127.0.0.1"), json!({})).execute().await.unwrap();
    assert_eq!(hook.connections().await, 1);
}

#[tokio::test]
async fn a_mixed_answer_is_refused_as_a_whole() {
    let hook = Receiver::start().await;
    for answer in [["127.0.0.1", "10.0.0.1"], ["127.0.0.1", "169.254.169.254"], ["127.0.0.1", "fe80::1"]] {
        let case = Case::with_lookup(&hook.url("hook.test"), json!({}), Script::new("hook.test", &[&answer]));
        let error = case.execute().await.unwrap_err();
        assert_refused(&error, ErrorClass::Validation, "address_forbidden", Effect::None);
    }
    assert_eq!(hook.connections().await, 0);
}

#[tokio::test]
async fn rebinding_between_plan_and_delivery_or_within_one_finds_no_gap() {
    let hook = Receiver::start().await;
    let only_ours = json!({"addresses": {"allow_loopback": true}});
    // Good for the plan, bad for the delivery.
    let lookup = Script::new("hook.test", &[&["127.0.0.1"], &["10.0.0.1"]]);
    let case = Case::with_lookup(&hook.url("hook.test"), only_ours.clone(), Arc::clone(&lookup));
    let error = case.execute().await.unwrap_err();
    assert_refused(&error, ErrorClass::Validation, "address_forbidden", Effect::None);
    assert_eq!((lookup.asked.load(Ordering::SeqCst), hook.connections().await), (2, 0));
    assert_eq!(case.journal.steps(), ["announce", "not_taken"]);

    // One delivery asks once: what comes after the checked answer is never heard.
    let lookup = Script::new("hook.test", &[&["127.0.0.1"], &["127.0.0.1"], &["169.254.169.254"]]);
    let case = Case::with_lookup(&hook.url("hook.test"), only_ours, Arc::clone(&lookup));
    case.execute().await.unwrap();
    assert_eq!((lookup.asked.load(Ordering::SeqCst), hook.connections().await), (2, 1));
}

#[tokio::test]
async fn proxies_in_the_environment_are_ignored() {
    let proxy = Receiver::start().await;
    let url = format!("http://{}", proxy.addr);
    // In a process of its own, because the environment belongs to all tests.
    let child = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_deployment_is_announced_and_taken_back"]);
        for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env(name, &url);
        }
        command.env_remove("NO_PROXY").env_remove("no_proxy").output().unwrap()
    });
    let output = child.await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!(proxy.connections().await, 0);
}

// --- whom we talk to --------------------------------------------------------------------------------------------

#[tokio::test]
async fn receivers_must_prove_who_they_are() {
    let ca = TestCa::new("receiver root").unwrap();
    let other = TestCa::new("other root").unwrap();
    let trusted = json!({"tls": {"ca_pem": ca.certificate_pem()}});
    let wrong_root = json!({"tls": {"ca_pem": other.certificate_pem()}});
    let platform = json!({});
    let named = |names: &[&str]| ca.issue(names).unwrap();
    let table = [
        ("another name", "name", named(&["other.test"]), "hook.test", &trusted),
        ("a wildcard over two labels", "name", named(&["*.test"]), "a.hook.test", &trusted),
        ("an address instead of the name", "name", named(&["127.0.0.1"]), "hook.test", &trusted),
        ("a name instead of the address", "name", named(&["hook.test"]), "127.0.0.1", &trusted),
        ("another root", "unknown_issuer", named(&["hook.test"]), "hook.test", &wrong_root),
        ("a root the system does not know", "unknown_issuer", named(&["hook.test"]), "hook.test", &platform),
    ];
    for (what, reason, certificate, host, config) in table {
        let hook = Receiver::start_tls(&certificate).await;
        let lookup = Script::new(host, &[&["127.0.0.1"]]);
        let case = Case::with_lookup(&hook.https_url(host), config.clone(), lookup);
        let error = case.execute().await.unwrap_err();
        assert_refused(&error, ErrorClass::Auth, "tls_untrusted", Effect::None);
        assert!(error.context().any(|context| context == ("reason", reason)), "{what}: {error}");
        assert!(hook.connections().await == 1 && hook.requests().is_empty(), "{what}");
    }

    let hook = Receiver::start_tls(&named(&["hook.test"])).await;
    Case::new(&hook.https_url("hook.test"), trusted).execute().await.unwrap();
    assert_eq!(hook.requests().len(), 1);
}

#[tokio::test]
async fn verification_is_skipped_only_when_acknowledged() {
    let ca = TestCa::new("receiver root").unwrap();
    let hook = Receiver::start_tls(&ca.issue(&["other.test"]).unwrap()).await;
    let case = Case::new(&hook.https_url("hook.test"), json!({"tls": {"insecure_skip_verify": true}}));
    assert_eq!(case.execute().await.unwrap_err().code(), "insecure_not_acknowledged");
    assert_eq!(hook.connections().await, 0);
    let tls = json!({"insecure_skip_verify": true, "acknowledge_insecure": true});
    Case::new(&hook.https_url("hook.test"), json!({"tls": tls})).execute().await.unwrap();
    assert_eq!(hook.requests().len(), 1);
}

#[tokio::test]
async fn https_to_a_plain_server_is_not_retried() {
    let hook = Receiver::start().await;
    hook.answer(Answer::status(200, ""));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 64]).await.unwrap();
    });
    let error = Case::new(&format!("https://hook.test:{port}/"), json!({})).execute().await.unwrap_err();
    assert_refused(&error, ErrorClass::IoPermanent, "tls_policy", Effect::None);
    plain.await.unwrap();
}

// --- settings ---------------------------------------------------------------------------------------------------

#[tokio::test]
async fn bad_settings_are_refused_before_anything_is_dialled() {
    let hook = Receiver::start().await;
    let url = hook.url("hook.test");
    let configs = [
        (json!({"headers": {"X-A": "a\r\nX-B: b"}}), "header_invalid"),
        (json!({"headers": {"Host": "b"}}), "header_invalid"),
        (json!({"timeouts": {"total_ms": 0}}), "timeout_invalid"),
        (json!({"tls": {"ca_pem": "no"}}), "ca_invalid"),
        (json!({"signature": "md5"}), "config_invalid"),
        (json!({"addresses": {"allow": ["10.0.0.1/8"]}}), "config_invalid"),
        (json!({"follow_redirects": true}), "config_invalid"),
        (json!({"allow_http": false}), "url_invalid"),
    ];
    for (config, code) in configs {
        let case = Case::new(&url, config);
        assert_eq!(ErasedModule::check(&case.module, &case.spec).unwrap_err().code(), code);
        assert_eq!(case.execute().await.unwrap_err().code(), code);
    }
    let logins = [
        (json!(null), "secret_missing"),
        (json!({"secret": "whsec_canary"}), "secret_invalid"),
        (json!({"secret": SECRET, "previous_secret": "canary"}), "secret_invalid"),
        (json!({"secret": SECRET, "bearer": "canary\n"}), "credentials_invalid"),
        (json!({"token": "canary"}), "credentials_invalid"),
    ];
    for (login, code) in logins {
        let mut case = Case::new(&url, json!({}));
        case.log_in(login);
        let error = case.execute().await.unwrap_err();
        assert_eq!(error.code(), code);
        assert!(!format!("{error:?}").contains("canary"));
    }
    assert_eq!(hook.connections().await, 0);
}
