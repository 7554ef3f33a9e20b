//! The SMTP module against Exim, and against a server that misbehaves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod conformance;
mod delivery;
mod faults;
mod policy;
mod recovery;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::Context;
use certlib_core::bundle::CertificateBundle;
use certlib_core::clock::ManualClock;
use certlib_core::context::Subject;
use certlib_core::error::{Effect, Error, ErrorClass, Result};
use certlib_core::module::{
    ApprovedPlan, ErasedModule, Facts, JournalSink, MemoryJournal, RollbackOutcome, TargetSpec,
};
use certlib_core::secret::Secret;
use certlib_modules::net::Lookup;
use certlib_modules::smtp::Smtp;
use certlib_testkit::counterpart::{Aiosmtpd, Exim, Login};
use certlib_testkit::pki::{Issued, TestCa};
use certlib_testkit::{locate::locate, process};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::datetime;
use tokio_util::sync::CancellationToken;

/// How long a delivered message may take to be in the mailbox.
pub(crate) const SOON: Duration = Duration::from_secs(60);
pub(crate) const NOW: OffsetDateTime = datetime!(2027-03-01 12:00 UTC);
pub(crate) const CONTAINER_PASSWORD: &str = "correct horse battery";

/// Answers from a script, one after the other; the last for ever. Counts how often it was asked.
#[derive(Debug, Default)]
pub(crate) struct Script {
    answers: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    pub(crate) asked: AtomicUsize,
}

impl Script {
    pub(crate) fn new(host: &str, answers: &[&[&str]]) -> Arc<Self> {
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

/// A CA, and the certificate of a relay that is called `mail.test`.
pub(crate) struct RelayCertificate {
    pub(crate) ca: TestCa,
    pub(crate) issued: Issued,
}

impl RelayCertificate {
    pub(crate) fn new() -> Self {
        let ca = TestCa::new("relay root").unwrap();
        let issued = ca.issue(&["mail.test"]).unwrap();
        Self { ca, issued }
    }

    pub(crate) fn tls(&self) -> Value {
        json!({ "ca_pem": self.ca.certificate_pem() })
    }
}

/// One target, one certificate, one journal.
pub(crate) struct Case {
    pub(crate) module: Smtp,
    pub(crate) spec: TargetSpec,
    pub(crate) bundle: CertificateBundle,
    pub(crate) clock: ManualClock,
    pub(crate) cx: Context,
    pub(crate) journal: MemoryJournal,
}

impl Case {
    /// A target behind `addr`, which is called `mail.test`; `location` and `config` add or override.
    pub(crate) fn new(addr: SocketAddr, location: Value, config: Value) -> Self {
        Self::with_lookup(addr, location, config, Script::new("mail.test", &[&["127.0.0.1"]]))
    }

    pub(crate) fn with_lookup(addr: SocketAddr, location: Value, config: Value, lookup: Arc<Script>) -> Self {
        let base_location = json!({ "host": "mail.test", "port": addr.port(), "to": ["Ops <ops@example.com>"] });
        let base_config = json!({ "from": "certs@example.com", "addresses": { "allow_loopback": true } });
        let (location, config) = (merged(base_location, location), merged(base_config, config));
        let clock = ManualClock::new(NOW);
        let cx = Context::with(Arc::new(clock.clone()), CancellationToken::new(), "run-1.target-1")
            .about(Subject::certificate("shop", "cert-1", 3));
        Self {
            module: Smtp::with_lookup(lookup),
            spec: TargetSpec::new("t1", "operations", config, location, None),
            bundle: bundle(),
            clock,
            cx,
            journal: MemoryJournal::new(),
        }
    }

    pub(crate) fn log_in(mut self, credentials: Value) -> Self {
        self.spec.credentials = Some(Secret::new(credentials.to_string()));
        self
    }

    pub(crate) async fn plan(&self) -> Result<ApprovedPlan> {
        self.module.dry_run(&self.cx, &self.spec, &self.bundle).await.map(ApprovedPlan::assertion)
    }

    pub(crate) async fn execute(&self) -> Result<Facts> {
        let plan = self.plan().await?;
        self.module.execute(&self.cx, &self.spec, &self.bundle, &plan, &self.journal).await
    }

    pub(crate) async fn rollback(&self) -> Result<RollbackOutcome> {
        let entries = self.journal.entries().await.unwrap();
        self.module.rollback(&self.cx, &self.spec, &entries).await
    }
}

pub(crate) fn merged(mut base: Value, more: Value) -> Value {
    base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    base
}

pub(crate) fn bundle() -> CertificateBundle {
    let root = TestCa::new("smtp test root").unwrap();
    let issued =
        root.intermediate("smtp test intermediate").unwrap().issue(&["shop.example.com", "*.shop.example.com"]);
    CertificateBundle::from_pem(issued.unwrap().combined().as_bytes()).unwrap()
}

pub(crate) fn password(login: &Login) -> Value {
    json!({ "username": login.user(), "password": login.password() })
}

#[track_caller]
pub(crate) fn assert_refused(error: &Error, class: ErrorClass, code: &str, effect: Effect) {
    assert_eq!((error.class(), error.code(), error.effect()), (class, code, effect), "{error:?}");
}

#[track_caller]
pub(crate) fn assert_context(error: &Error, key: &str, value: &str) {
    assert!(error.context().any(|pair| pair == (key, value)), "{key}={value} is missing in {error:?}");
}

/// A message as Python's `email` reads it.
#[derive(Debug)]
pub(crate) struct Parsed(Value);

impl Parsed {
    /// Fails unless Python reads it without a complaint.
    pub(crate) async fn read(raw: &[u8]) -> Self {
        let python = locate("aiosmtpd").await.unwrap();
        let mut command = Command::new(python);
        command.args(["-c", include_str!("parse.py")]);
        let output = process::run(command, raw).await.unwrap();
        let parsed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(parsed["defects"], json!([]));
        assert!(parsed["longest_line"].as_u64().unwrap() <= 998);
        Self(parsed)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.0["headers"].as_array().unwrap().iter().filter(|header| header[0] == name);
        let first = found.next()?;
        assert!(found.next().is_none(), "{name} is there twice");
        first[1].as_str()
    }

    /// The text, with line feeds.
    pub(crate) fn text(&self) -> String {
        self.0["text"].as_str().unwrap().replace("\r\n", "\n")
    }

    /// Name, media type and bytes of every attachment.
    pub(crate) fn attachments(&self) -> Vec<(String, String, Vec<u8>)> {
        let list = self.0["attachments"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        list.iter()
            .inspect(|part| assert_eq!(part["disposition"], "attachment"))
            .map(|part| (text(&part["name"]), text(&part["type"]), STANDARD.decode(text(&part["base64"])).unwrap()))
            .collect()
    }
}

/// Exim with a login, over TLS only.
pub(crate) async fn exim(certificate: &RelayCertificate) -> certlib_testkit::Result<Exim> {
    // Python is needed to read what it delivers.
    locate("aiosmtpd").await?;
    Exim::builder().tls(&certificate.issued).login().start().await
}

/// The other server, which can be told to misbehave.
pub(crate) async fn misbehaving(certificate: &RelayCertificate) -> certlib_testkit::Result<Aiosmtpd> {
    Aiosmtpd::builder().tls(&certificate.issued).login().start().await
}
