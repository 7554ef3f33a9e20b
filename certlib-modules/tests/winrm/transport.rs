//! What the way to the machine does wrong.

use std::time::Duration;

use certlib_core::module::RollbackOutcome;
use certlib_core::{Effect, ErrorClass};
use certlib_testkit::winrm::{Fault, Injection, Operation, ScriptMatcher, ScriptOutput};
use serde_json::json;

use crate::common::{certificate, journal};
use crate::{former, host_with, state, subject, windows};

/// Steps that are met by a fault once, and go on all the same.
#[tokio::test]
async fn passing_trouble_passes() {
    let faults = [
        Injection::new(Fault::LoginExpired).on(Operation::Command).times(1),
        Injection::new(Fault::LoginExpired).on(Operation::Receive).times(1),
        Injection::new(Fault::TimedOut).on(Operation::Receive).times(3),
        Injection::new(Fault::LoseRequest).on(Operation::Receive).times(1),
        Injection::new(Fault::LoseReply).on(Operation::Signal).times(1),
        Injection::new(Fault::LoseReply).on(Operation::Delete).times(1),
        Injection::new(Fault::AccessDenied).on(Operation::Signal).times(1),
        Injection::new(Fault::ShellsLost).on(Operation::Command).after(1).times(1),
        Injection::new(Fault::Slow(Duration::from_millis(30))),
    ];
    for fault in faults {
        let host = host_with(&former()).await;
        let label = format!("{fault:?}");
        let (_, bundle) = certificate(&["localhost"]);
        let subject = subject(&host, json!({}));
        let plan = subject.plan(&bundle).await.unwrap();
        host.inject(fault);
        subject.execute(&bundle, plan, &journal()).await.unwrap_or_else(|error| panic!("{label}: {error:?}"));
        host.clear_faults();
        assert!(!subject.plan(&bundle).await.unwrap().changes_anything(), "{label}");
    }
}

/// Faults before anything is changed: the error says so, and nothing is.
#[tokio::test]
async fn trouble_before_the_first_change_changes_nothing() {
    let page = Fault::Answer { status: 503, content_type: "text/html".into(), body: "<html>canary</html>".into() };
    let odd = Fault::Answer { status: 200, content_type: "text/html".into(), body: "<html>canary</html>".into() };
    let gone = Fault::Answer { status: 404, content_type: String::new(), body: String::new() };
    let internal = Fault::Wsman { code: 2_147_943_855, subcode: "w:InternalError".into(), reason: "canary".to_owned() };
    let table = [
        (Fault::ShellQuota, Operation::Create, "quota_exceeded", ErrorClass::IoTransient),
        (Fault::OperationQuota, Operation::Command, "quota_exceeded", ErrorClass::IoTransient),
        (Fault::AccessDenied, Operation::Create, "access_denied", ErrorClass::Auth),
        (Fault::LoseRequest, Operation::Create, "connection_lost", ErrorClass::Network),
        (Fault::LoseReply, Operation::Command, "connection_lost", ErrorClass::Network),
        (internal, Operation::Command, "remote_failed", ErrorClass::IoTransient),
        (page, Operation::Create, "http_status", ErrorClass::IoTransient),
        (gone, Operation::Create, "http_status", ErrorClass::Validation),
        (odd, Operation::Create, "protocol_error", ErrorClass::IoPermanent),
    ];
    for (fault, operation, code, class) in table {
        let host = host_with(&former()).await;
        let before = state(&host);
        let (_, bundle) = certificate(&["localhost"]);
        let subject = subject(&host, json!({}));
        let plan = subject.plan(&bundle).await.unwrap();
        let label = format!("{fault:?}");
        host.inject(Injection::new(fault).on(operation));
        let error = subject.execute(&bundle, plan, &journal()).await.unwrap_err();
        assert_eq!((error.code(), error.class(), error.effect()), (code, class, Effect::None), "{label}: {error:?}");
        assert!(!format!("{error:?}").contains("canary"), "{label}");
        assert_eq!(state(&host), before, "{label}");
    }
}

/// Whichever request of a delivery is lost, or whose answer is lost: another attempt delivers, or all is taken back.
#[tokio::test]
async fn a_lost_connection_at_any_step_is_recovered_from() {
    let mut failures = 0;
    for (fault, roll_back) in [(Fault::LoseReply, false), (Fault::LoseReply, true), (Fault::LoseRequest, false)] {
        for after in 0.. {
            let host = host_with(&former()).await;
            let before = state(&host);
            let (_, bundle) = certificate(&["localhost"]);
            let subject = subject(&host, json!({}));
            let plan = subject.plan(&bundle).await.unwrap();
            let requests = host.history().len();
            let journal = journal();
            host.inject(Injection::new(fault.clone()).after(after).times(1));
            let result = subject.execute(&bundle, plan.clone(), &journal).await;
            let all = host.history().len() - requests;
            host.clear_faults();
            if let Err(error) = &result {
                failures += 1;
                assert!(matches!(error.class(), ErrorClass::Network | ErrorClass::IoTransient), "{after}: {error:?}");
                assert!(error.effect() == Effect::Possible || state(&host) == before, "{after}: {error:?}");
            }
            if roll_back {
                let outcome = subject.rollback(&journal).await.unwrap();
                assert!(!matches!(outcome, RollbackOutcome::Refused { .. }), "{after}: {outcome:?}");
                assert_eq!(state(&host), before, "{fault:?} {after}");
            } else {
                subject.execute(&bundle, plan, &journal).await.unwrap_or_else(|error| panic!("{after}: {error:?}"));
                assert!(!subject.plan(&bundle).await.unwrap().changes_anything(), "{fault:?} {after}");
                assert_eq!(host.with(|windows| windows.files.list(r"C:\tls").unwrap().len()), 2, "no stray files");
            }
            if usize::try_from(after).unwrap() >= all {
                break;
            }
        }
    }
    assert!(failures > 10, "{failures}");
}

#[tokio::test]
async fn small_envelopes_carry_large_files() {
    let former = former();
    let host = windows::host().max_envelope_kb(20).windows(|windows| {
        windows.files.put(crate::CERT, former.full_chain()).unwrap();
        windows.files.put(crate::KEY, former.key_pem.as_bytes().to_vec()).unwrap();
    });
    let host = host.start().await.unwrap();
    let subject = subject(&host, json!({ "wsman": { "max_envelope_kb": 20 } }));
    let names: Vec<String> = (0..200).map(|index| format!("host-{index}.a-rather-long-domain.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (_, bundle) = certificate(&names);
    subject.deliver(&bundle, &journal()).await.unwrap();
    assert!(!subject.plan(&bundle).await.unwrap().changes_anything());
    let sends = host.history().iter().filter(|record| record.operation == Operation::Send).count();
    let scripts = host.executed().len();
    assert!(sends > scripts, "{sends} pieces of input for {scripts} scripts");
}

/// Neither scripts nor data are seen on a command line, where every user of the machine could read them.
#[tokio::test]
async fn command_lines_are_all_alike() {
    let host = host_with(&former()).await;
    let (issued, bundle) = certificate(&["localhost"]);
    subject(&host, json!({})).deliver(&bundle, &journal()).await.unwrap();
    let mut lines: Vec<_> = host.executed().into_iter().map(|executed| executed.command_line).collect();
    assert!(lines.len() >= 6 && lines.iter().all(|line| line.len() < 8_000), "{lines:?}");
    lines.sort();
    lines.dedup();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(!lines[0].contains(&issued.key_pem[100..120]));
}

#[tokio::test]
async fn a_step_that_takes_too_long_is_given_up() {
    let slow = |_: &_, _: &mut _| ScriptOutput::text("").after(Duration::from_secs(600));
    let host = windows::host()
        .script(ScriptMatcher::marker("files.look"), slow)
        .windows(|windows| windows.files.create_directories(r"C:\tls").unwrap())
        .start()
        .await
        .unwrap();
    let wsman = json!({ "script_timeout_ms": 1_500, "operation_timeout_ms": 500 });
    let (_, bundle) = certificate(&["localhost"]);
    let error = subject(&host, json!({ "wsman": wsman })).plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("command_timeout", ErrorClass::IoTransient));
    let signals = host.history().iter().filter(|record| record.operation == Operation::Signal).count();
    assert_eq!((signals, host.open_shells()), (1, 0), "the command was ended, the shell closed");
}

#[tokio::test]
async fn powershell_that_does_not_run_is_an_error() {
    let host = windows::host()
        .script(ScriptMatcher::marker("files.look"), |_, _| ScriptOutput::failure(1, "canary"))
        .start()
        .await
        .unwrap();
    let (_, bundle) = certificate(&["localhost"]);
    let error = subject(&host, json!({})).plan(&bundle).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("powershell_failed", ErrorClass::IoPermanent));
    assert!(!format!("{error:?}").contains("canary"));
}
