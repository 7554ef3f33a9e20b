//! Delivery, its proof, and the way back.

use std::time::Duration;

use certlib_core::error::codes;
use certlib_core::module::{RollbackOutcome, Validation, Verb};
use certlib_core::{Effect, ErrorClass};
use certlib_testkit::winrm::{ScriptMatcher, ScriptOutput, WindowsError};
use serde_json::json;

use crate::common::{Subject, certificate, journal};
use crate::{CERT, INHERITED, KEY, former, host_with, state, subject, windows};

#[tokio::test]
async fn every_form_is_written_where_nothing_was() {
    let host = windows::host()
        .windows(|windows| windows.files.create_directories(r"C:\tls").unwrap())
        .progress()
        .start()
        .await
        .unwrap();
    let location = json!({
        "url": host.https_url(),
        "paths": {
            "cert": r"C:\tls\cert.pem",
            "chain": r"C:\tls\chain.pem",
            "fullchain": r"C:\tls\full.pem",
            "key": { "path": r"C:\tls\key.pem", "acl": { "readers": ["NETWORK SERVICE"] } },
            "combined": { "path": r"C:\tls\both.pem", "acl": { "sddl": "D:P(A;;FA;;;BA)(A;;FRFX;;;NS)" } },
            "pfx": r"C:\tls\it's [a] $(pfx).pfx",
            "der": r"C:\tls\cert.der",
        },
    });
    let credentials = json!({ "login": windows::ntlm(windows::PASSWORD), "pfx_password": "pfx secret" });
    let config = json!({ "connection": windows::connection(&host) });
    let subject = Subject::new("winrm", config, location, Some(credentials));
    let (issued, bundle) = certificate(&["localhost"]);
    let plan = subject.plan(&bundle).await.unwrap();
    assert_eq!(plan.steps.iter().filter(|step| step.verb == Verb::Create).count(), 7, "{plan}");
    let journal = journal();
    subject.execute(&bundle, plan, &journal).await.unwrap();
    let read =
        |path: &str| host.with(|windows| (windows.files.read(path).unwrap(), windows.files.info(path).unwrap().sddl));
    assert_eq!(read(r"C:\tls\full.pem"), (issued.full_chain().into_bytes(), INHERITED.to_owned()));
    assert_eq!(read(r"C:\tls\cert.der").0, bundle.leaf_der());
    let (key, list) = read(r"C:\tls\key.pem");
    assert_eq!(
        (key, list.as_str()),
        (bundle.key_pem().unwrap().expose().as_bytes().to_vec(), "O:BAG:SYD:PAI(A;;FA;;;BA)(A;;FA;;;SY)(A;;FR;;;NS)")
    );
    assert!(read(r"C:\tls\both.pem").1.contains("(A;;0x1200a9;;;NS)"));
    assert!(read(r"C:\tls\it's [a] $(pfx).pfx").1.contains("PAI(A;;FA;;;BA)(A;;FA;;;SY)"), "keys are for few");
    let again = subject.plan(&bundle).await.unwrap();
    assert!(!again.changes_anything(), "{again}");
    assert!(matches!(subject.validate(&bundle).await.unwrap(), Validation::Served { .. }));
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert!(host.with(|windows| windows.files.list(r"C:\tls").unwrap().is_empty()));
}

#[tokio::test]
async fn a_list_that_others_loosened_is_set_right() {
    let host = host_with(&former()).await;
    let loose = "O:BAG:SYD:AI(A;;FA;;;WD)(A;ID;FA;;;SY)";
    host.with(|windows| windows.files.set_sddl(KEY, loose).unwrap());
    let mut subject = subject(&host, json!({}));
    subject.target.location["paths"]["key"] = json!({ "path": KEY, "acl": { "readers": [] } });
    let (_, bundle) = certificate(&["localhost"]);
    let journal = journal();
    subject.deliver(&bundle, &journal).await.unwrap();
    let list = || host.with(|windows| windows.files.info(KEY).unwrap().sddl);
    assert_eq!(list(), "O:BAG:SYD:PAI(A;;FA;;;BA)(A;;FA;;;SY)");
    host.with(|windows| windows.files.set_sddl(KEY, loose).unwrap());
    let plan = subject.plan(&bundle).await.unwrap();
    let verbs: Vec<_> = plan.steps.iter().map(|step| step.verb).collect();
    assert_eq!(verbs, [Verb::Keep, Verb::Replace], "{plan}");
    let Validation::NotServed { reason, .. } = subject.validate(&bundle).await.unwrap() else { panic!("served") };
    assert!(reason.contains("access list"), "{reason}");
    subject.rollback(&journal).await.unwrap();
    assert_eq!(list(), loose, "back to what it was, good or bad");
}

#[tokio::test]
async fn commands_run_and_their_failure_is_told() {
    let former = former();
    let (chain, key) = (former.full_chain(), former.key_pem.clone());
    let host = windows::host()
        .script(ScriptMatcher::program("app-check"), |_, windows| {
            let good = windows.files.read(CERT).is_ok();
            if good { ScriptOutput::text("fine") } else { ScriptOutput::failure(3, "no certificate") }
        })
        .script(ScriptMatcher::program("app-broken"), |_, _| ScriptOutput::failure(7, "cannot load\r\nthe key"))
        .script(ScriptMatcher::program("app-slow"), |_, _| ScriptOutput::text("").after(Duration::from_secs(600)))
        .script(ScriptMatcher::program("app-reload"), |_, windows| {
            windows.restart_service("app").unwrap();
            ScriptOutput::text("x".repeat(200_000))
        })
        .windows(move |windows| {
            windows.files.put(CERT, chain).unwrap();
            windows.files.put(KEY, key.as_bytes().to_vec()).unwrap();
            windows.add_service("app");
        })
        .start()
        .await
        .unwrap();
    let before = state(&host);
    let (_, bundle) = certificate(&["localhost"]);
    let starts = || host.with(|windows| windows.services["app"].starts);

    let working = subject(&host, json!({ "test_command": "app-check", "reload_command": "app-reload now" }));
    let done = journal();
    let facts = working.deliver(&bundle, &done).await.unwrap();
    assert_eq!((facts.0["reloaded"].as_bool(), starts()), (Some(true), 2));
    assert_eq!(done.steps(), ["swap", "reload"]);
    assert_eq!(working.rollback(&done).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!((state(&host), starts()), (before.clone(), 3));

    for (command, code, class) in [
        ("app-broken", "command_failed", ErrorClass::IoPermanent),
        ("app-slow", "command_timeout", ErrorClass::IoTransient),
        ("no-such-program", "command_failed", ErrorClass::IoPermanent),
    ] {
        let config = json!({
            "reload_command": command, "command_timeout_ms": 1_000, "wsman": { "operation_timeout_ms": 500 },
        });
        let failing = subject(&host, config);
        let undo = journal();
        let error = failing.deliver(&bundle, &undo).await.unwrap_err();
        assert_eq!((error.code(), error.class(), error.effect()), (code, class, Effect::Possible), "{error:?}");
        if command == "app-broken" {
            assert!(error.to_string().contains("cannot load") && error.to_string().contains("exit=7"), "{error}");
        }
        // The command fails on the way back, too; the files are back all the same.
        failing.rollback(&undo).await.unwrap_err();
        assert_eq!(state(&host), before, "{command}");
        assert_eq!(host.open_shells(), 0);
    }
}

#[tokio::test]
async fn what_the_machine_refuses_is_named() {
    type Refusal = fn() -> WindowsError;
    let table: [(&str, Refusal, &str, ErrorClass); 4] = [
        ("denied", || WindowsError::access_denied("x"), "permission_denied", ErrorClass::IoPermanent),
        ("full", || WindowsError::disk_full("x"), "disk_full", ErrorClass::IoPermanent),
        ("open", || WindowsError::sharing_violation("x"), "file_in_use", ErrorClass::IoTransient),
        ("odd", || WindowsError::invalid_parameter("x"), "script_failed", ErrorClass::IoPermanent),
    ];
    for (label, error, code, class) in table {
        let host = host_with(&former()).await;
        let before = state(&host);
        let (_, bundle) = certificate(&["localhost"]);
        let subject = subject(&host, json!({}));
        let plan = subject.plan(&bundle).await.unwrap();
        // The second file cannot be staged: the first is removed again.
        host.with(|windows| windows.files.fail(r"C:\tls\.site.key", 0, 1, error()));
        let found = subject.execute(&bundle, plan, &journal()).await.unwrap_err();
        assert_eq!((found.code(), found.class(), found.effect()), (code, class, Effect::None), "{label}: {found:?}");
        assert_eq!(state(&host), before, "{label}");
    }
}

#[tokio::test]
async fn a_file_that_stays_open_fails_halfway_and_is_taken_back() {
    let host = host_with(&former()).await;
    let before = state(&host);
    let (_, bundle) = certificate(&["localhost"]);
    let subject = subject(&host, json!({}));
    let plan = subject.plan(&bundle).await.unwrap();
    host.with(|windows| windows.files.fail(KEY, 0, 1, WindowsError::sharing_violation(KEY)));
    let journal = journal();
    let error = subject.execute(&bundle, plan, &journal).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("file_in_use", Effect::Possible));
    assert_ne!(state(&host), before, "the first file was swapped");
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(state(&host), before);
}

#[tokio::test]
async fn what_is_in_the_way_is_refused_by_name() {
    let host = host_with(&former()).await;
    let (_, bundle) = certificate(&["localhost"]);
    let code = async |path: &str, acl: serde_json::Value| {
        let mut subject = subject(&host, json!({}));
        subject.target.location = json!({ "url": host.https_url(), "paths": { "key": { "path": path, "acl": acl } } });
        subject.plan(&bundle).await.unwrap_err().code().to_owned()
    };
    host.with(|windows| {
        windows.files.create_directories(r"C:\tls\directory").unwrap();
        windows.files.put(r"C:\tls\large.pem", vec![0; 2 * 1024 * 1024]).unwrap();
    });
    let nothing = || json!({ "readers": [] });
    assert_eq!(code(r"C:\tls\directory", nothing()).await, "path_not_a_file");
    assert_eq!(code(r"C:\tls\large.pem", nothing()).await, "file_too_large");
    assert_eq!(code(r"C:\missing\a.pem", nothing()).await, "directory_missing");
    assert_eq!(code(r"C:\tls\a.pem", json!({ "readers": ["nobody"] })).await, "account_unknown");
    host.with(|windows| windows.files.set_locked(KEY, true));
    assert_eq!(code(KEY, nothing()).await, "file_in_use");
}

#[tokio::test]
async fn another_machine_is_left_alone() {
    let former = former();
    let (one, other) = (host_with(&former).await, host_with(&former).await);
    let (_, bundle) = certificate(&["localhost"]);
    let journal = journal();
    subject(&one, json!({})).deliver(&bundle, &journal).await.unwrap();
    let moved = subject(&other, json!({}));
    let before = state(&other);
    let RollbackOutcome::Refused { code, .. } = moved.rollback(&journal).await.unwrap() else { panic!("not refused") };
    assert_eq!(code, "wrong_machine");
    let plan = moved.plan(&bundle).await.unwrap();
    let error = moved.execute(&bundle, plan, &journal).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("wrong_machine", Effect::Possible));
    assert_eq!(state(&other), before);
}

#[tokio::test]
async fn a_file_that_somebody_else_changed_meanwhile_stays() {
    let host = host_with(&former()).await;
    let (_, bundle) = certificate(&["localhost"]);
    let subject = subject(&host, json!({}));
    let plan = subject.plan(&bundle).await.unwrap();
    let journal = journal();
    host.with(|windows| windows.files.fail(KEY, 0, 1, WindowsError::sharing_violation(KEY)));
    subject.execute(&bundle, plan.clone(), &journal).await.unwrap_err();
    host.with(|windows| windows.files.put(CERT, b"theirs".to_vec()).unwrap());
    let theirs = state(&host);
    let error = subject.execute(&bundle, plan, &journal).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), (codes::FOREIGN_CHANGE, Effect::Possible));
    assert!(matches!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::Refused { .. }));
    assert_eq!(state(&host), theirs);
}
