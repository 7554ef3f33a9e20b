//! What goes wrong has the class of its remedy, and says whether anything may have changed.

use std::time::Duration;

use certlib_core::error::{Effect, ErrorClass};
use certlib_core::module::{JournalSink as _, RollbackOutcome, Validation};
use certlib_testkit::simhost::{Service, SimHost};
use certlib_testkit::vault::{Fault, Injection, VaultSim};
use serde_json::{Value, json};

use crate::common::{journal, served};
use crate::support::{Server, bundles, fields};

fn answer(status: u16, body: &str) -> Fault {
    Fault::Answer { status, content_type: "application/json".to_owned(), body: body.to_owned() }
}

#[tokio::test]
async fn classes_follow_the_status() {
    use Effect::{None as Unchanged, Possible};
    use ErrorClass::{Auth, IoPermanent, IoTransient, Network, Validation};
    let server = Server::simulated("kv2").await;
    let [old, new] = bundles();
    server.put(fields(&old)).await;
    let subject = server.subject(json!({}));
    let secs = Duration::from_secs;
    let elsewhere = Fault::Redirect { location: "https://elsewhere.example/v1/x".to_owned() };
    let table = [
        (Fault::Stale, "vault_behind", IoTransient, Unchanged),
        (Fault::RateLimited { retry_after: Some(secs(7)) }, "vault_busy", IoTransient, Unchanged),
        (Fault::InternalError, "http_status", IoTransient, Possible),
        (elsewhere, "vault_standby", IoTransient, Unchanged),
        (answer(502, "<html>"), "http_status", IoTransient, Possible),
        (answer(503, "{}"), "vault_sealed", IoTransient, Possible),
        (answer(472, "{}"), "vault_standby", IoTransient, Unchanged),
        (answer(473, "{}"), "vault_standby", IoTransient, Unchanged),
        (answer(400, r#"{"errors": ["canary"]}"#), "write_refused", Validation, Unchanged),
        (answer(403, r#"{"errors": ["canary"]}"#), "vault_forbidden", Auth, Unchanged),
        (answer(405, "{}"), "http_status", IoPermanent, Unchanged),
        (answer(200, "<html>welcome</html>"), "answer_invalid", IoTransient, Possible),
        (answer(204, ""), "answer_invalid", IoTransient, Possible),
        (answer(200, r#"{"data": {"version": 9}}"#), "answer_invalid", IoTransient, Possible),
        (Fault::LoseRequest, "connection_lost", Network, Possible),
        (Fault::LoseReply, "connection_lost", Network, Possible),
    ];
    for (fault, code, class, effect) in table {
        server.sim().clear_faults();
        server.put(fields(&old)).await;
        let (plan, journal) = (subject.plan(&new).await.unwrap(), journal());
        server.sim().inject(Injection::new(fault.clone()).method("POST").on("secret/data/"));
        let error = subject.execute(&new, plan.clone(), &journal).await.unwrap_err();
        assert_eq!((error.class(), error.effect()), (class, effect), "{fault:?}: {error:?}");
        // How the end of a connection shows depends on which side notices it first.
        let lost = class == Network && ["connection_lost", "no_answer"].contains(&error.code());
        assert!(lost || error.code() == code, "{fault:?}: {error:?}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        if let Fault::RateLimited { retry_after } = fault {
            assert_eq!(error.retry_after(), retry_after);
        }
        let steps = if effect == Unchanged { vec!["secret", "not_written"] } else { vec!["secret"] };
        assert_eq!(journal.steps(), steps, "{fault:?}");
        server.sim().clear_faults();
        // Whatever it was, both ways are open.
        if fault == Fault::LoseReply {
            assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
        } else {
            assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::NothingToDo);
        }
        assert_eq!(Value::Object(server.fields().await.unwrap()), fields(&old), "{fault:?}");
    }
}

#[tokio::test]
async fn a_failure_after_the_secret_is_written_is_taken_back_or_finished() {
    let server = Server::simulated("kv2").await;
    let [old, new] = bundles();
    server.put(fields(&old)).await;
    let before = server.state().await;
    let subject = server.subject(json!({}));
    for fault in [answer(403, "{}"), answer(400, "{}"), Fault::InternalError, Fault::LoseReply, Fault::LoseRequest] {
        for finish in [false, true] {
            let (plan, journal) = (subject.plan(&new).await.unwrap(), journal());
            server.sim().inject(Injection::new(fault.clone()).method("POST").on("secret/metadata/").times(1));
            let error = subject.execute(&new, plan.clone(), &journal).await.unwrap_err();
            assert_eq!(error.effect(), Effect::Possible, "{fault:?}");
            assert_eq!(journal.steps(), ["secret", "custom_metadata"]);
            if finish {
                subject.execute(&new, plan, &journal).await.unwrap();
                assert!(served(&subject.validate(&new).await.unwrap()));
                assert_eq!(journal.steps(), ["secret", "custom_metadata"], "no backup is taken twice");
            }
            assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
            assert_eq!(server.state().await, before, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_rollback_that_is_cut_short_is_finished_by_the_next() {
    let server = Server::simulated("kv2").await;
    let [old, new] = bundles();
    server.put(fields(&old)).await;
    let before = server.state().await;
    let subject = server.subject(json!({}));
    for path in ["secret/data/", "secret/metadata/"] {
        for fault in [Fault::LoseReply, Fault::LoseRequest, Fault::InternalError, Fault::Stale] {
            let journal = journal();
            subject.deliver(&new, &journal).await.unwrap();
            server.sim().inject(Injection::new(fault.clone()).method("POST").on(path));
            let error = subject.rollback(&journal).await.unwrap_err();
            assert!(error.class().is_retryable(), "{path} {fault:?}: {error:?}");
            server.sim().clear_faults();
            let outcome = subject.rollback(&journal).await.unwrap();
            assert!(matches!(outcome, RollbackOutcome::RolledBack | RollbackOutcome::NothingToDo), "{outcome:?}");
            assert_eq!(server.state().await, before, "{path} {fault:?}");
        }
    }
}

#[tokio::test]
async fn reading_fails_without_effect_and_a_node_that_is_behind_is_asked_again() {
    let server = Server::simulated("kv2").await;
    let [bundle] = bundles();
    let subject = server.subject(json!({}));
    for (fault, class) in [
        (Fault::InternalError, ErrorClass::IoTransient),
        (answer(404, "<html>"), ErrorClass::IoTransient),
        (answer(404, r#"{"errors": ["no handler for route"]}"#), ErrorClass::Validation),
        (answer(200, "{}"), ErrorClass::IoTransient),
        (Fault::LoseReply, ErrorClass::Network),
        (Fault::Stale, ErrorClass::IoTransient),
    ] {
        server.sim().inject(Injection::new(fault.clone()).method("GET").on("secret/data/"));
        for error in [subject.plan(&bundle).await.unwrap_err(), subject.validate(&bundle).await.unwrap_err()] {
            assert_eq!((error.class(), error.effect()), (class, Effect::None), "{fault:?}: {error:?}");
        }
        server.sim().clear_faults();
    }
    server.sim().inject(Injection::new(Fault::Stale).on("secret/").times(3));
    let journal = journal();
    subject.deliver(&bundle, &journal).await.unwrap();
    server.sim().inject(Injection::new(Fault::Stale).method("POST").on("secret/").times(2));
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
}

#[tokio::test]
async fn a_sealed_vault_is_waited_for_and_a_standby_followed() {
    let server = Server::from_builder(VaultSim::builder().standby().tls(), "kv2").await;
    let [bundle] = bundles();
    let subject = server.subject(json!({}));
    let plan = subject.plan(&bundle).await.unwrap();
    server.sim().seal();
    let sink = journal();
    for error in [subject.plan(&bundle).await.unwrap_err(), subject.execute(&bundle, plan, &sink).await.unwrap_err()] {
        let found = (error.code(), error.class(), error.effect());
        assert_eq!(found, ("vault_sealed", ErrorClass::IoTransient, Effect::None));
    }
    assert!(sink.entries().await.unwrap().is_empty());
    server.sim().unseal();

    let (role_id, secret_id) = server.sim().create_approle("w", json!({"token_policies": ["root"]})).unwrap();
    let login = json!({"method": "approle", "role_id": role_id, "secret_id": secret_id});
    let standby = json!({"url": server.sim().standby_address().unwrap()});
    let subject = server.subject_with(json!({}), standby, login);
    let journal = journal();
    subject.deliver(&bundle, &journal).await.unwrap();
    assert!(served(&subject.validate(&bundle).await.unwrap()));
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    let redirected = server.sim().history().into_iter().filter(|record| record.standby);
    assert!(redirected.clone().count() > 10 && redirected.into_iter().all(|record| record.status == Some(307)));
}

#[tokio::test]
async fn silence_ends_and_strangers_are_not_trusted() {
    let server = Server::from_builder(VaultSim::builder().tls(), "kv2").await;
    let [bundle] = bundles();
    let mut subject = server.subject(json!({}));
    let plan = subject.plan(&bundle).await.unwrap();
    subject.target.config["connection"]["timeouts"] = json!({"response_ms": 1000, "connect_ms": 1000});
    server.sim().inject(Injection::new(Fault::Slow(Duration::from_secs(600))).method("POST").on("secret/data/"));
    let error = subject.execute(&bundle, plan, &journal()).await.unwrap_err();
    assert_eq!((error.code(), error.class(), error.effect()), ("timeout", ErrorClass::Network, Effect::Possible));
    server.sim().clear_faults();

    let before = server.sim().history().len();
    let other = certlib_testkit::pki::TestCa::new("somebody else").unwrap();
    subject.target.config["connection"]["tls"] = json!({"ca_pem": other.certificate_pem()});
    let error = subject.plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("tls_untrusted", ErrorClass::Auth));
    assert_eq!(server.sim().history().len(), before, "no token was sent");
}

#[tokio::test]
async fn endpoints_must_serve_the_certificate_as_well() {
    let server = Server::simulated("kv2").await;
    let ca = certlib_testkit::pki::TestCa::new("root").unwrap();
    let (issued, other) = (ca.issue(&["localhost"]).unwrap(), ca.issue(&["localhost"]).unwrap());
    let host = SimHost::builder()
        .file("/site.pem", issued.full_chain(), 0o644)
        .file("/site.key", issued.key_pem.clone(), 0o600)
        .service(Service::new("/site.pem", "/site.key"))
        .start()
        .await
        .unwrap();
    let endpoint = json!({
        "host": host.tls_addr().ip().to_string(), "port": host.tls_addr().port(), "server_name": "localhost",
        "tries": 1, "delay_ms": 0,
    });
    let subject = server.subject(json!({"endpoints": [endpoint]}));
    for (issued, proven) in [(&issued, true), (&other, false)] {
        let bundle = certlib_core::CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap();
        subject.deliver(&bundle, &journal()).await.unwrap();
        match subject.validate(&bundle).await.unwrap() {
            Validation::Served { endpoints } => assert!(proven && endpoints.len() == 2),
            Validation::NotServed { endpoints, .. } => {
                assert!(!proven && endpoints[0].problem.is_none() && endpoints[1].problem.is_some(), "{endpoints:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}
