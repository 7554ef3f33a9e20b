//! Secrets are seen nowhere, and bad input is named, not repeated.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber as _;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::{Bench, ModuleHarness};
use crate::error::{Effect, Error, ErrorClass};
use crate::module::{JournalSink as _, TargetSpec};
use crate::secret::Secret;

/// A whole life of a delivery shows no secret: not in plans, facts, proofs, errors, or logs at the finest level.
pub async fn secrets_are_seen_nowhere(harness: &impl ModuleHarness) {
    let log = Log::default();
    let life = async {
        let bench = Bench::new(harness).await;
        let mut seen = format!("{bench:?} {:?}", bench.fixture.target());
        let bundle = bench.new_bundle();
        let plan = bench.plan(&bundle).await;
        let text = serde_json::to_string(&plan).unwrap();
        write!(seen, "{plan} {plan:?} {text}").unwrap();
        let journal = crate::module::MemoryJournal::new();
        let facts = bench.execute(&bundle, &plan, &journal).await.unwrap();
        write!(seen, "{facts:?} {}", serde_json::to_string(&facts).unwrap()).unwrap();
        write!(seen, "{:?}", bench.validate(&bundle).await).unwrap();
        write!(seen, "{:?}", bench.validate(&bench.fixture.bundle(2)).await).unwrap();
        write!(seen, "{:?} {:?}", journal, journal.entries().await.unwrap()).unwrap();
        write!(seen, "{:?}", bench.roll_back(&journal).await).unwrap();
        if let Some(refused) = bench.fixture.refused() {
            write!(seen, "{}", whole(&bench.try_plan(&refused, &bundle).await.unwrap_err())).unwrap();
        }
        (bench, seen)
    };
    let (bench, seen) = life.with_subscriber(log.clone()).await;
    let mut secrets = bench.fixture.secrets();
    for number in 0..=2 {
        // A line in the middle of the key's PEM: no header, and unlike any other.
        let pem = bench.fixture.bundle(number).key_pem().unwrap();
        secrets.extend(pem.expose().lines().nth(2).map(str::to_owned));
    }
    let logged = log.text();
    for (index, secret) in secrets.iter().enumerate() {
        assert!(secret.len() >= 4, "secret {index} is too short to look for");
        assert!(!seen.contains(secret.as_str()), "secret {index} is in what the module gives back");
        assert!(!logged.contains(secret.as_str()), "secret {index} is in the log");
    }
}

/// A refused login is `Auth`, changes nothing, and repeats no secret; neither does a credential of the wrong form.
pub async fn bad_credentials_are_not_echoed(harness: &impl ModuleHarness) {
    let bench = Bench::new(harness).await;
    let before = bench.state().await;
    let bundle = bench.new_bundle();
    let mut errors = Vec::new();
    if let Some(refused) = bench.fixture.refused() {
        let error = bench.try_plan(&refused, &bundle).await.unwrap_err();
        assert_eq!((error.class(), error.effect()), (ErrorClass::Auth, Effect::None), "{error:?}");
        errors.push(error);
    }
    let canary = "canary-4f1c7e0d";
    let malformed = [json!({ "no_such_field": canary }), json!(canary), json!({ "password": { canary: canary } })];
    let forms =
        malformed.iter().map(Value::to_string).chain([format!("{{\"password\": \"{canary}"), canary.to_owned()]);
    for text in forms {
        let target = TargetSpec { credentials: Some(Secret::new(text)), ..bench.fixture.target() };
        let error = bench.module.check(&target).unwrap_err();
        assert_eq!(error.code(), "credentials_invalid", "{error:?}");
        errors.push(error);
    }
    for error in errors {
        let text = whole(&error);
        let secrets = bench.fixture.secrets();
        assert!(!text.contains(canary) && !secrets.iter().any(|secret| text.contains(secret.as_str())));
        assert!(!error.message().is_empty());
    }
    assert_eq!(bench.state().await, before);
}

/// Settings that the module does not know are refused by name, before anything is done.
pub async fn unknown_settings_are_refused(harness: &impl ModuleHarness) {
    let bench = Bench::new(harness).await;
    bench.module.check(&bench.fixture.target()).unwrap();
    let with = |value: &Value| {
        let mut value = if value.is_null() { json!({}) } else { value.clone() };
        value["no_such_setting"] = json!(1);
        value
    };
    let target = bench.fixture.target();
    let config = TargetSpec { config: with(&target.config), ..bench.fixture.target() };
    let location = TargetSpec { location: with(&target.location), ..bench.fixture.target() };
    let wrong = TargetSpec { config: json!(5), ..bench.fixture.target() };
    for (target, code) in [(config, "config_invalid"), (location, "location_invalid"), (wrong, "config_invalid")] {
        let error = bench.module.check(&target).unwrap_err();
        assert_eq!((error.code(), error.class()), (code, ErrorClass::Validation), "{error:?}");
        let error = bench.try_plan(&target, &bench.new_bundle()).await.unwrap_err();
        assert_eq!(error.code(), code, "{error:?}");
    }
}

/// All that an error can show, its sources included.
fn whole(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {}", serde_json::to_string(&error.to_record()).unwrap());
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        write!(text, "{error} {error:?}").unwrap();
        source = error.source();
    }
    text
}

/// Everything that is logged while it is the subscriber.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Log {
    fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

impl Visit for Log {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        writeln!(self.0.lock().unwrap(), "{field}={value:?}").unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut self.clone());
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, values: &Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}
