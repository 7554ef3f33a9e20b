//! Things that go wrong in the middle.

use std::time::Duration;

use async_trait::async_trait;
use certlib_core::error::{Effect, Error, ErrorClass, codes};
use certlib_core::module::{MemoryJournal, RollbackOutcome};
use certlib_testkit::counterpart::Kubernetes;
use certlib_testkit::process::poll_until;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::common::{journal, served};
use crate::support::{Certificates, Event, Meanwhile, Place, documented_rules, server, settled, start};

#[track_caller]
fn assert_failed(error: &Error, class: ErrorClass, code: &str, effect: Effect) {
    assert_eq!((error.class(), error.code(), error.effect()), (class, code, effect), "{error:?}");
}

/// Somebody else is faster.
#[derive(Debug)]
enum Somebody<'a> {
    Forces(&'a Place<'a>, &'a Certificates),
    Labels(&'a Place<'a>),
    Deletes(&'a Place<'a>),
}

#[async_trait]
impl Event for Somebody<'_> {
    async fn happen(&self) {
        let happening = async {
            match self {
                Somebody::Forces(place, certificates) => place.force(certificates.issued(3)).await,
                Somebody::Labels(place) => place.merge(json!({"metadata": {"labels": {"theirs": "1"}}})).await,
                Somebody::Deletes(place) => place.delete().await,
            }
        };
        settled(happening);
    }
}

/// Between the look at the Secret and the change, the version that the plan saw is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_changes_the_secret_at_the_last_moment_wins() {
    let Some(server) = server().await else { return };
    let certificates = Certificates::new();
    for (exists, take_over, what) in [
        (true, false, "forces"),
        (true, true, "forces"),
        (true, true, "labels"),
        (true, true, "deletes"),
        (false, false, "forces"),
        (false, true, "forces"),
    ] {
        let place = Place::new(server).await;
        let subject = place.subject(json!({"take_over": take_over}));
        if exists {
            subject.deliver(certificates.bundle(0), &journal()).await.unwrap();
        }
        let plan = subject.plan(certificates.bundle(1)).await.unwrap();
        let undo = Meanwhile::new(match what {
            "forces" => Somebody::Forces(&place, &certificates),
            "labels" => Somebody::Labels(&place),
            _ => Somebody::Deletes(&place),
        });
        let error = subject.execute(certificates.bundle(1), plan.clone(), &undo).await.unwrap_err();
        assert_failed(&error, ErrorClass::Validation, codes::PLAN_STALE, Effect::None);
        let theirs = place.state().await;
        match (exists, what) {
            (_, "forces") => assert_eq!(place.served().await, certificates.issued(3).fingerprint),
            (_, "labels") => assert_eq!(place.served().await, certificates.issued(0).fingerprint),
            _ => assert_eq!(theirs, "none"),
        }
        assert_eq!(undo.inner.steps(), ["apply", "not_taken"]);
        assert_eq!(subject.rollback(&undo).await.unwrap(), RollbackOutcome::NothingToDo);
        let again = subject.execute(certificates.bundle(1), plan, &undo).await.unwrap_err();
        assert_failed(&again, ErrorClass::Validation, codes::PLAN_STALE, Effect::None);
        assert_eq!(place.state().await, theirs, "{what}");
    }
}

/// A journal that a process left behind which died before its request was sent.
async fn died(subject: &crate::common::Subject, certificates: &Certificates) -> MemoryJournal {
    #[derive(Debug)]
    struct Dying(MemoryJournal);
    #[async_trait]
    impl certlib_core::module::JournalSink for Dying {
        async fn append(&self, step: &str, undo: certlib_core::secret::SecretBytes) -> certlib_core::Result<()> {
            self.0.append(step, undo).await?;
            Err(Error::transient("journal", "process_died", "the process died here"))
        }
        async fn entries(&self) -> certlib_core::Result<Vec<certlib_core::secret::SecretBytes>> {
            self.0.entries().await
        }
    }
    let dying = Dying(MemoryJournal::new());
    let plan = subject.plan(certificates.bundle(1)).await.unwrap();
    subject.execute(certificates.bundle(1), plan, &dying).await.unwrap_err();
    dying.0
}

#[tokio::test]
async fn a_resumed_attempt_does_not_overwrite_what_came_between() {
    let Some(server) = server().await else { return };
    let certificates = Certificates::new();
    for exists in [true, false] {
        let place = Place::new(server).await;
        let subject = place.subject(json!({}));
        if exists {
            subject.deliver(certificates.bundle(0), &journal()).await.unwrap();
        }
        let plan = subject.plan(certificates.bundle(1)).await.unwrap();
        let undo = died(&subject, &certificates).await;
        place.force(certificates.issued(3)).await;
        let error = subject.execute(certificates.bundle(1), plan.clone(), &undo).await.unwrap_err();
        assert_failed(&error, ErrorClass::Validation, codes::FOREIGN_CHANGE, Effect::Possible);
        let RollbackOutcome::Refused { code, .. } = subject.rollback(&undo).await.unwrap() else { panic!() };
        assert_eq!(code, codes::FOREIGN_CHANGE);
        assert_eq!(place.served().await, certificates.issued(3).fingerprint);
    }
}

#[tokio::test]
async fn a_resumed_attempt_delivers_what_it_recorded_or_nothing() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let subject = place.subject(json!({}));
    subject.deliver(certificates.bundle(0), &journal()).await.unwrap();
    let undo = died(&subject, &certificates).await;
    let plan = subject.plan(certificates.bundle(2)).await.unwrap();
    let error = subject.execute(certificates.bundle(2), plan.clone(), &undo).await.unwrap_err();
    assert_failed(&error, ErrorClass::Validation, codes::PLAN_STALE, Effect::Possible);
    let mut elsewhere = place.subject(json!({}));
    elsewhere.target.location["server"] = json!(server.url().replace("127.0.0.1", "localhost"));
    let error = elsewhere.execute(certificates.bundle(1), plan.clone(), &undo).await.unwrap_err();
    assert_failed(&error, ErrorClass::Validation, "wrong_cluster", Effect::Possible);
    assert_eq!(place.served().await, certificates.issued(0).fingerprint);
    // A label that came meanwhile is no obstacle: our fields are as they were.
    place.merge(json!({"metadata": {"labels": {"theirs": "1"}}})).await;
    let facts = subject.execute(certificates.bundle(1), plan, &undo).await.unwrap();
    assert_eq!((&facts.0["resumed"], undo.steps().len()), (&json!(true), 1));
    assert_eq!(place.served().await, certificates.issued(1).fingerprint);
    assert_eq!(subject.rollback(&undo).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(place.served().await, certificates.issued(0).fingerprint);
}

#[tokio::test]
async fn namespaces_that_are_missing_or_going_are_named() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let mut admin = place.subject_of(Default::default(), json!({}), json!({"token": server.admin_token()}));
    admin.target.location["namespace"] = json!("no-such-namespace");
    let error = admin.plan(certificates.bundle(0)).await.unwrap_err();
    assert_failed(&error, ErrorClass::Validation, "namespace_missing", Effect::None);

    // Nothing finishes the deletion here: there are no controllers.
    let path = format!("/api/v1/namespaces/{}", place.namespace);
    server.ask("DELETE", &path, None).await.unwrap();
    let subject = place.subject(json!({}));
    let going = poll_until("the end of the namespace", Duration::from_secs(30), async || {
        subject.plan(certificates.bundle(0)).await.err()
    });
    assert_failed(&going.await.unwrap(), ErrorClass::Validation, "namespace_terminating", Effect::None);
}

#[tokio::test]
async fn logins_that_are_over_are_refused() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let with = |token: &str| place.subject_of(Default::default(), json!({}), json!({"token": token}));
    let expired = server.expired_token(&place.account).unwrap();
    for token in [expired.as_str(), "nonsense"] {
        let error = with(token).plan(certificates.bundle(0)).await.unwrap_err();
        assert_failed(&error, ErrorClass::Auth, "unauthorized", Effect::None);
        assert!(!format!("{error:?}").contains(token));
    }

    // In the middle of a run: planned while the account was there, executed when it is not.
    let subject = place.subject(json!({}));
    let plan = subject.plan(certificates.bundle(0)).await.unwrap();
    let account = format!("/api/v1/namespaces/{}/serviceaccounts/certlib", place.namespace);
    server.ask("DELETE", &account, None).await.unwrap();
    // The API server remembers tokens for ten seconds.
    poll_until("the end of the token", Duration::from_secs(60), async || {
        subject.validate(certificates.bundle(0)).await.err()
    })
    .await
    .unwrap();
    let undo = journal();
    let error = subject.execute(certificates.bundle(0), plan, &undo).await.unwrap_err();
    assert_failed(&error, ErrorClass::Auth, "unauthorized", Effect::None);
    assert!(undo.steps().is_empty());
    assert_eq!(place.get().await, None);
}

/// The API server is down, or answers nobody.
#[derive(Debug)]
struct Outage<'a> {
    server: &'a Mutex<Kubernetes>,
    frozen: bool,
}

#[async_trait]
impl Event for Outage<'_> {
    async fn happen(&self) {
        settled(async {
            let mut server = self.server.lock().await;
            if self.frozen {
                server.freeze().await.unwrap();
            } else {
                server.kill();
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_between_look_and_change_is_survived() {
    let Some(server) = start().await else { return };
    let server = Mutex::new(server);
    let certificates = Certificates::new();
    let (path, target, module) = {
        let server = server.lock().await;
        server.create_namespace("outage").await.unwrap();
        let account = server.account("outage", "certlib", &documented_rules()).await.unwrap();
        let place = Place { server: &server, namespace: "outage".to_owned(), account };
        let mut subject = place.subject(json!({}));
        subject.target.config["connection"]["timeouts"] =
            json!({"connect_ms": 5_000, "response_ms": 5_000, "total_ms": 5_000});
        (place.path(), subject.target, subject.module)
    };
    let subject = crate::common::Subject { module, target, cx: certlib_core::Context::new("operation") };
    let held = async |number: usize| {
        let secret: Value = server.lock().await.ask("GET", &path, None).await.unwrap();
        secret["metadata"]["annotations"]["certlib.io/fingerprint"] == certificates.issued(number).fingerprint.as_str()
    };

    // Killed: no connection, so certainly no effect. Back again, the same plan goes through with the same journal.
    let plan = subject.plan(certificates.bundle(0)).await.unwrap();
    let undo = Meanwhile::new(Outage { server: &server, frozen: false });
    let error = subject.execute(certificates.bundle(0), plan.clone(), &undo).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Network, "{error:?}");
    let down = subject.plan(certificates.bundle(0)).await.unwrap_err();
    assert_failed(&down, ErrorClass::Network, "connect_failed", Effect::None);
    assert_eq!(subject.validate(certificates.bundle(0)).await.unwrap_err().class(), ErrorClass::Network);
    assert_eq!(subject.rollback(&undo).await.is_err(), error.effect() == Effect::Possible);
    server.lock().await.resume().await.unwrap();
    subject.execute(certificates.bundle(0), plan, &undo).await.unwrap();
    assert!(held(0).await);
    assert!(served(&subject.validate(certificates.bundle(0)).await.unwrap()));

    // Frozen: the request may have arrived. Whatever becomes of it, the next attempt ends well.
    let plan = subject.plan(certificates.bundle(1)).await.unwrap();
    let undo = Meanwhile::new(Outage { server: &server, frozen: true });
    let error = subject.execute(certificates.bundle(1), plan.clone(), &undo).await.unwrap_err();
    assert_failed(&error, ErrorClass::Network, "timeout", Effect::Possible);
    assert_eq!(undo.inner.steps(), ["apply"]);
    server.lock().await.thaw().unwrap();
    let facts = subject.execute(certificates.bundle(1), plan, &undo).await.unwrap();
    assert_eq!(facts.0["resumed"], true);
    assert!(held(1).await);
    assert_eq!(subject.rollback(&undo).await.unwrap(), RollbackOutcome::RolledBack);
    assert!(held(0).await);
    server.into_inner().stop().await.unwrap();
}
