//! DNS providers against faked services that are written from their documentation: one table of cases for all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg(feature = "acme")]

#[path = "../common/mod.rs"]
mod common;

mod by_call;
mod by_record;
mod by_set;
mod fake;
mod google;
mod hooks;
mod route53;

use std::sync::Arc;
use std::time::Duration;

use certlib_core::issuer::IssuerFactory as _;
use certlib_core::secret::Secret;
use certlib_core::{Context, ErrorClass};
use certlib_issuers::acme::AcmeFactory;
use certlib_issuers::dns::{self, DnsProvider};
use futures::future::try_join_all;
use serde_json::{Value, json};

use self::fake::{Fake, Reply, Service};

/// The longest one wins.
const ZONES: [&str; 2] = ["example.test", "sub.example.test"];
const ZONE: &str = "sub.example.test";
const NAME: &str = "_acme-challenge.www.sub.example.test";
/// Like those of ACME; the last has what zone files escape.
const THEIRS: &str = r#"v=spf1 "quoted" \ include:x"#;
/// What no error, log or debug output may show.
const CANARY: &str = "canary-4711";

/// A provider and what it is tested with.
pub(crate) struct Subject {
    kind: &'static str,
    service: Service,
    /// Settings of its own, for a service at this URL.
    settings: fn(&str) -> Value,
    credentials: fn() -> Value,
    /// Whether another node's value that comes between reading and writing survives.
    compares: bool,
}

impl Subject {
    async fn start(&self) -> (Fake, Arc<dyn DnsProvider>) {
        let fake = Fake::start(self.service, &ZONES).await;
        let provider = self.provider(&fake);
        (fake, provider)
    }

    fn provider(&self, fake: &Fake) -> Arc<dyn DnsProvider> {
        self.provider_with(fake, &[])
    }

    fn provider_with(&self, fake: &Fake, more: &[(&str, Value)]) -> Arc<dyn DnsProvider> {
        let mut settings = (self.settings)(&fake.url());
        settings["kind"] = self.kind.into();
        settings["api_url"] = fake.url().into();
        settings["connection"] = json!({ "allow_http": true, "addresses": { "allow_loopback": true } });
        for (name, value) in more {
            settings[name] = value.clone();
        }
        let credentials = Secret::new(json!({ "dns": (self.credentials)() }).to_string());
        dns::provider(&settings, Some(&credentials)).unwrap_or_else(|error| panic!("{}: {error}", self.kind))
    }
}

fn subjects() -> Vec<Subject> {
    [by_call::subjects(), by_record::subjects(), by_set::subjects()].into_iter().flatten().collect()
}

#[tokio::test]
async fn values_come_and_go_one_by_one() {
    let cx = Context::new("test");
    for subject in subjects() {
        let kind = subject.kind;
        let (fake, provider) = subject.start().await;
        fake.add(ZONE, NAME, THEIRS);
        fake.add(ZONE, "_acme-challenge.sub.example.test", "one");
        for value in ["one", "two", "one"] {
            provider.add_txt(&cx, NAME, value).await.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        }
        assert_eq!(fake.values(ZONE, NAME), ["one", "two", THEIRS], "{kind}: adding twice is adding once");
        for value in ["one", "one", "never"] {
            provider.remove_txt(&cx, NAME, value).await.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        }
        assert_eq!(fake.values(ZONE, NAME), ["two", THEIRS], "{kind}: only what was ours is gone");
        provider.remove_txt(&cx, &NAME.to_ascii_uppercase(), "two").await.unwrap();
        assert_eq!(fake.values(ZONE, NAME), [THEIRS], "{kind}: case does not matter");
        assert_eq!(fake.values(ZONE, "_acme-challenge.sub.example.test"), ["one"], "{kind}: another name");
        assert!(fake.state.lock().unwrap().records.iter().all(|record| record.zone == ZONE), "{kind}: longest zone");

        // The zone itself, and the last value of a name.
        provider.add_txt(&cx, "example.test", "apex").await.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        assert_eq!(fake.values("example.test", "example.test"), ["apex"], "{kind}");
        provider.remove_txt(&cx, "example.test", "apex").await.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        assert_eq!(fake.values("example.test", "example.test"), Vec::<String>::new(), "{kind}");
    }
}

#[tokio::test]
async fn orders_of_one_name_side_by_side() {
    let cx = Context::new("test");
    for subject in subjects() {
        let kind = subject.kind;
        let (fake, provider) = subject.start().await;
        fake.add(ZONE, NAME, THEIRS);
        // Another node has a provider of its own; where the service compares nothing, that is another test.
        let other = if subject.compares { subject.provider(&fake) } else { provider.clone() };
        let values: Vec<String> = (0..6).map(|number| format!("value-{number}")).collect();
        let both = values.iter().zip([&provider, &other].into_iter().cycle());
        try_join_all(both.clone().map(|(value, provider)| provider.add_txt(&cx, NAME, value)))
            .await
            .unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        let expected: Vec<&str> = [THEIRS].into_iter().chain(values.iter().map(String::as_str)).collect();
        assert_eq!(fake.values(ZONE, NAME), expected, "{kind}");
        try_join_all(both.skip(1).map(|(value, provider)| provider.remove_txt(&cx, NAME, value)))
            .await
            .unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        assert_eq!(fake.values(ZONE, NAME), [THEIRS, "value-0"], "{kind}");
    }
}

#[tokio::test]
async fn values_that_come_in_between() {
    let cx = Context::new("test");
    for subject in subjects() {
        let kind = subject.kind;
        for before in [&[][..], &["there"]] {
            let (fake, provider) = subject.start().await;
            before.iter().for_each(|value| fake.add(ZONE, NAME, value));
            fake.intrude(NAME, "intruder");
            provider.add_txt(&cx, NAME, "ours").await.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
            let found = fake.values(ZONE, NAME);
            assert!(found.contains(&"ours".to_owned()), "{kind}: {found:?}");
            if subject.compares {
                let expected: Vec<&str> = ["intruder", "ours"].into_iter().chain(before.iter().copied()).collect();
                assert_eq!(found, expected, "{kind}");
            }
            fake.intrude(NAME, "second");
            provider.remove_txt(&cx, NAME, "ours").await.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
            let found = fake.values(ZONE, NAME);
            assert!(!found.contains(&"ours".to_owned()), "{kind}: {found:?}");
            if subject.compares {
                assert!(
                    found.contains(&"intruder".to_owned()) && found.contains(&"second".to_owned()),
                    "{kind}: {found:?}"
                );
            }
        }
        // The very same value, by another node.
        let (fake, provider) = subject.start().await;
        fake.intrude(NAME, "ours");
        provider.add_txt(&cx, NAME, "ours").await.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        provider.remove_txt(&cx, NAME, "ours").await.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        assert_eq!(fake.values(ZONE, NAME), Vec::<String>::new(), "{kind}");
    }
}

#[tokio::test]
async fn zones_are_found_or_configured() {
    let cx = Context::new("test");
    for subject in subjects() {
        let kind = subject.kind;
        let (fake, provider) = subject.start().await;
        let error = provider.add_txt(&cx, "_acme-challenge.www.example.org", "x").await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "zone_not_found"), "{kind}: {error:?}");
        assert!(fake.state.lock().unwrap().records.is_empty(), "{kind}");

        let fixed = subject.provider_with(&fake, &[("zone", json!("Example.Test."))]);
        fixed.add_txt(&cx, NAME, "in the parent").await.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        assert_eq!(fake.values("example.test", NAME), ["in the parent"], "{kind}");
        let error = fixed.add_txt(&cx, "_acme-challenge.example.org", "x").await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "not_in_zone"), "{kind}: {error:?}");
        let absent = subject.provider_with(&fake, &[("zone", json!("test"))]);
        let error = absent.add_txt(&cx, NAME, "x").await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "zone_not_found"), "{kind}: {error:?}");
    }
}

#[tokio::test]
async fn refusals_have_their_class() {
    let cx = Context::new("test");
    for subject in subjects() {
        let kind = subject.kind;
        let (fake, provider) = subject.start().await;
        for writes in [false, true] {
            for (status, class, code) in [
                (401, ErrorClass::Auth, "credentials_refused"),
                (403, ErrorClass::Auth, "not_permitted"),
                (429, ErrorClass::IoTransient, "throttled"),
                (500, ErrorClass::IoTransient, "service_failed"),
                (503, ErrorClass::IoTransient, "service_failed"),
            ] {
                // One name below the zones that are asked for first, so that the first refusal is not the last word.
                let provider = subject.provider_with(&fake, &[("zone", json!(ZONE))]);
                fake.fail(writes, Reply::new(status, CANARY).header("Retry-After", "7"));
                let error = provider.add_txt(&cx, NAME, "x").await.unwrap_err();
                assert_eq!((error.class(), error.code()), (class, code), "{kind} {status}: {error:?}");
                let wait = class.is_retryable().then_some(Duration::from_secs(7));
                assert_eq!(error.retry_after(), wait, "{kind} {status}");
                assert!(!format!("{error:?}").contains(CANARY), "{kind}: {error:?}");
            }
        }
        assert_eq!(fake.values(ZONE, NAME), Vec::<String>::new(), "{kind}");
        fake.fail(false, Reply::new(200, "<html>"));
        let error = provider.add_txt(&cx, NAME, "x").await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "answer_invalid"), "{kind}: {error:?}");
    }
}

/// What a service calls by a code of its own, before the status.
#[tokio::test]
async fn codes_of_the_vendors_have_their_class() {
    let cx = Context::new("test");
    let xml = |code: &str| {
        format!("<ErrorResponse><Error><Code>{code}</Code></Error><RequestId>1</RequestId></ErrorResponse>")
    };
    let (auth, busy, bad) = (ErrorClass::Auth, ErrorClass::IoTransient, ErrorClass::Validation);
    for (kind, status, body, class, code, vendor) in [
        (
            "cloudflare",
            400,
            r#"{"errors":[{"code":6003,"error_chain":[{"code":6111}]}]}"#.to_owned(),
            auth,
            "credentials_refused",
            "6003",
        ),
        ("cloudflare", 400, r#"{"errors":[{"code":9999}]}"#.to_owned(), bad, "refused", "9999"),
        ("alidns", 400, r#"{"Code":"Throttling.User"}"#.to_owned(), busy, "throttled", "Throttling.User"),
        (
            "alidns",
            404,
            r#"{"Code":"InvalidAccessKeyId.NotFound"}"#.to_owned(),
            auth,
            "credentials_refused",
            "InvalidAccessKeyId.NotFound",
        ),
        ("alidns", 400, r#"{"Code":"Forbidden.RAM"}"#.to_owned(), auth, "not_permitted", "Forbidden.RAM"),
        ("hetzner", 423, r#"{"error":{"code":"locked"}}"#.to_owned(), busy, "set_contended", "locked"),
        ("huawei", 400, r#"{"code":"APIGW.0308"}"#.to_owned(), busy, "throttled", "APIGW.0308"),
        ("route53", 400, xml("Throttling"), busy, "throttled", "Throttling"),
        ("route53", 400, xml("PriorRequestNotComplete"), busy, "throttled", "PriorRequestNotComplete"),
        ("route53", 403, xml("InvalidClientTokenId"), auth, "credentials_refused", "InvalidClientTokenId"),
        ("route53", 403, xml("AccessDenied"), auth, "not_permitted", "AccessDenied"),
    ] {
        let subject = subjects().into_iter().find(|subject| subject.kind == kind).unwrap();
        let (fake, provider) = subject.start().await;
        fake.fail(true, Reply::new(status, body));
        let error = provider.add_txt(&cx, NAME, "x").await.unwrap_err();
        assert_eq!((error.class(), error.code()), (class, code), "{kind} {vendor}: {error:?}");
        assert!(error.context().any(|pair| pair == ("vendor_code", vendor)), "{kind} {vendor}: {error:?}");
    }
}

#[tokio::test]
async fn a_set_that_cannot_be_changed_is_no_contention() {
    let cx = Context::new("test");
    let batch = "<InvalidChangeBatch><Messages><Message>no</Message></Messages></InvalidChangeBatch>";
    for (kind, status, body) in [
        ("azure", 412, "{}"),
        ("google", 409, "{}"),
        ("route53", 400, batch),
        ("gandi", 409, "{}"),
        ("huawei", 409, "{}"),
    ] {
        let subject = subjects().into_iter().find(|subject| subject.kind == kind).unwrap();
        let (fake, provider) = subject.start().await;
        (0..3).for_each(|_| fake.fail(true, Reply::new(status, body)));
        let error = provider.add_txt(&cx, NAME, "x").await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "set_refused"), "{kind}: {error:?}");
        // Once is bad luck.
        fake.fail(true, Reply::new(status, body));
        provider.add_txt(&cx, NAME, "x").await.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        assert_eq!(fake.values(ZONE, NAME), ["x"], "{kind}");
    }
}

#[tokio::test]
async fn tokens_are_fetched_once_and_again_when_refused() {
    let cx = Context::new("test");
    for subject in subjects().into_iter().filter(|subject| ["azure", "google"].contains(&subject.kind)) {
        let kind = subject.kind;
        let (fake, provider) = subject.start().await;
        let fetched = || fake.log().iter().filter(|request| request.path.iter().any(|part| part == "token")).count();
        provider.add_txt(&cx, NAME, "one").await.unwrap();
        provider.add_txt(&cx, NAME, "two").await.unwrap();
        assert_eq!(fetched(), 1, "{kind}");
        fake.fail(false, Reply::new(401, "{}"));
        provider.add_txt(&cx, NAME, "three").await.unwrap_err();
        provider.add_txt(&cx, NAME, "three").await.unwrap();
        assert_eq!(fetched(), 2, "{kind}");
        let credentials: fn() -> Value = match kind {
            "azure" => || json!({ "client_id": "client", "client_secret": "wrong" }),
            _ => || {
                let mut credentials = google::credentials();
                credentials["client_email"] = "somebody@else.example".into();
                credentials
            },
        };
        let wrong = Subject { credentials, ..subject }.provider(&fake);
        let error = wrong.add_txt(&cx, NAME, "x").await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "credentials_refused"), "{kind}: {error:?}");
    }
}

#[tokio::test]
async fn secrets_stay_inside() {
    let cx = Context::new("test");
    for subject in subjects() {
        let kind = subject.kind;
        let (fake, provider) = subject.start().await;
        provider.add_txt(&cx, NAME, "x").await.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        assert!(!format!("{provider:?}").contains(CANARY), "{kind}");
        for request in fake.log() {
            assert!(request.path.iter().chain(request.query.values()).all(|text| !text.contains(CANARY)), "{kind}");
        }
        let wrong = Secret::new(json!({ "dns": { "surprise": CANARY } }).to_string());
        let mut settings = (subject.settings)(&fake.url());
        settings["kind"] = kind.into();
        settings["api_url"] = "https://api.example".into();
        let error = dns::provider(&settings, Some(&wrong)).unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "credentials_invalid"), "{kind}");
        assert!(!format!("{error:?}").contains(CANARY), "{kind}");
        settings["surprise"] = json!(1);
        assert_eq!(dns::provider(&settings, Some(&wrong)).unwrap_err().code(), "config_invalid", "{kind}");
    }
}

/// The settings that the manual shows.
#[test]
fn the_examples_of_the_manual_are_accepted() {
    let manual = include_str!("../../../docs/dns-01.md");
    let factory = AcmeFactory::new().with_hooks("/");
    let mut kinds = Vec::new();
    for block in manual.split("```json\n").skip(1) {
        let provider: Value = serde_json::from_str(block.split("```").next().unwrap()).unwrap();
        kinds.push(provider["kind"].as_str().unwrap().to_owned());
        let config = json!({
            "directory_url": "https://ca.example/dir",
            "challenge": { "type": "dns-01", "provider": provider },
        });
        factory.check(&config).unwrap_or_else(|error| panic!("{block}: {error}"));
    }
    for subject in subjects() {
        assert!(kinds.iter().any(|kind| kind == subject.kind), "{} is missing", subject.kind);
    }
    assert_eq!(kinds.len(), 16, "{kinds:?}");
}
