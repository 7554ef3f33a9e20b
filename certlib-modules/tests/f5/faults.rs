//! What goes wrong on the way: at every request, in every manner.

use certlib_core::error::{Effect, Error, ErrorClass};
use certlib_core::module::RollbackOutcome;
use certlib_testkit::f5::{Fault, Injection};
use serde_json::json;

use crate::common::{journal, served};
use crate::lab::{Lab, SHOP_PATH, meddling};

fn error(status: u16) -> Fault {
    Fault::Error { status, message: "injected".to_owned() }
}

/// Whether nothing was changed.
fn is_former(lab: &Lab, before: &str) -> bool {
    lab.bigip.describe() == before
}

/// One fault at each request of a delivery, one after the other: the profiles have the old certificate or the new one,
/// whole; the error says truly whether anything can have changed; the next attempt delivers; and the way back leads to
/// where it was.
async fn at_every_request(fault: Fault) {
    for at in 0.. {
        let lab = Lab::new().await;
        let before = lab.bigip.describe();
        let (subject, log) = (lab.plain(), journal());
        let plan = subject.plan(&lab.bundle(1)).await.unwrap();
        let requests = lab.bigip.history().len();
        lab.bigip.inject(Injection::new(fault.clone()).after(at).times(1));
        let outcome = subject.execute(&lab.bundle(1), plan.clone(), &log).await;
        let met = lab.bigip.history().len() - requests > at as usize;
        lab.bigip.clear_faults();
        let context = format!("{fault:?} at request {at}: {outcome:?}");
        let new = lab.selected() == lab.issued(1).fingerprint;
        assert!(new || lab.selected() == lab.issued(0).fingerprint, "{context}");
        match &outcome {
            Ok(_) => assert!(new, "{context}"),
            Err(error) if error.effect() == Effect::None => {
                assert!(is_former(&lab, &before), "{context}");
                assert_eq!(lab.bigip.uploads(), [], "{context}");
            }
            Err(_) => {}
        }
        let resumed = subject.execute(&lab.bundle(1), plan, &log).await;
        assert!(resumed.is_ok(), "{context}, then {resumed:?}");
        assert!(served(&subject.validate(&lab.bundle(1)).await.unwrap()), "{context}");
        assert!(lab.bigip.is_saved() && lab.bigip.uploads().is_empty(), "{context}");
        assert_eq!(subject.rollback(&log).await.unwrap(), RollbackOutcome::RolledBack, "{context}");
        assert!(is_former(&lab, &before), "{context}");
        if !met {
            assert!(at > 20, "a delivery has more requests than {at}");
            return;
        }
    }
}

/// The same on the way back: the next attempt ends it.
async fn at_every_request_back(fault: Fault) {
    for at in 0.. {
        let lab = Lab::new().await;
        let before = lab.bigip.describe();
        let (subject, log) = (lab.plain(), journal());
        subject.deliver(&lab.bundle(1), &log).await.unwrap();
        let requests = lab.bigip.history().len();
        lab.bigip.inject(Injection::new(fault.clone()).after(at).times(1));
        let outcome = subject.rollback(&log).await;
        let met = lab.bigip.history().len() - requests > at as usize;
        lab.bigip.clear_faults();
        let context = format!("{fault:?} at request {at}: {outcome:?}");
        if let Ok(outcome) = &outcome {
            assert_eq!(*outcome, RollbackOutcome::RolledBack, "{context}");
        }
        let again = subject.rollback(&log).await;
        let undone = matches!(again, Ok(RollbackOutcome::RolledBack | RollbackOutcome::NothingToDo));
        assert!(undone, "{context}, then {again:?}");
        assert!(is_former(&lab, &before) && lab.bigip.is_saved(), "{context}");
        if !met {
            assert!(at > 15, "a rollback has more requests than {at}");
            return;
        }
    }
}

#[tokio::test]
async fn requests_are_lost() {
    at_every_request(Fault::LoseRequest).await;
}

#[tokio::test]
async fn answers_are_lost() {
    at_every_request(Fault::LoseReply).await;
}

#[tokio::test]
async fn the_unit_fails_before_it_does_anything() {
    at_every_request(error(500)).await;
}

#[tokio::test]
async fn the_unit_fails_after_it_did_something() {
    at_every_request(Fault::HideReply { status: 502 }).await;
}

#[tokio::test]
async fn a_conflict_is_reported() {
    at_every_request(error(409)).await;
}

#[tokio::test]
async fn a_page_of_a_proxy_in_between() {
    let page = Fault::Answer { status: 200, content_type: "text/html".to_owned(), body: "<html>".to_owned() };
    at_every_request(page.clone()).await;
    at_every_request_back(page).await;
}

#[tokio::test]
async fn requests_back_are_lost() {
    at_every_request_back(Fault::LoseRequest).await;
}

#[tokio::test]
async fn answers_back_are_lost() {
    at_every_request_back(Fault::LoseReply).await;
}

#[tokio::test]
async fn the_unit_fails_on_the_way_back() {
    at_every_request_back(error(500)).await;
    at_every_request_back(Fault::HideReply { status: 500 }).await;
}

#[tokio::test]
async fn a_busy_unit_is_waited_for() {
    let lab = Lab::new().await;
    lab.bigip.inject(Injection::new(Fault::Busy).on("POST", "shared/authn").times(3));
    lab.bigip.inject(Injection::new(Fault::Busy).on("GET", "tm/ltm").times(3));
    lab.bigip.inject(Injection::new(Fault::Busy).on("POST", "tm/transaction").times(3));
    lab.bigip.inject(Injection::new(error(404)).on("GET", "tm/sys/file").times(2));
    lab.plain().deliver(&lab.bundle(1), &journal()).await.unwrap();
    assert_eq!(lab.selected(), lab.issued(1).fingerprint);
    lab.bigip.inject(Injection::new(Fault::Busy).on("GET", "tm/ltm"));
    let busy = lab.plain().plan(&lab.bundle(2)).await.unwrap_err();
    assert_eq!((busy.class(), busy.effect()), (ErrorClass::IoTransient, Effect::None));
    lab.bigip.clear_faults();
    lab.bigip.inject(Injection::new(error(404)).on("GET", "tm/ltm/profile"));
    let starting = lab.plain().plan(&lab.bundle(2)).await.unwrap_err();
    assert_eq!(
        (starting.code(), starting.class()),
        ("api_unavailable", ErrorClass::IoTransient),
        "not `profile_missing`"
    );
}

#[tokio::test]
async fn a_transaction_that_fails_changes_nothing() {
    let table = [
        ("01070317:3: profile /Common/shop's key and certificate do not match", "key_mismatch", "01070317:3"),
        ("01070712:3: Unable to validate certificate", "transaction_failed", "01070712:3"),
        ("01020066:3: The requested Certificate File already exists", "transaction_failed", "01020066:3"),
    ];
    for (message, code, f5_code) in table {
        let lab = Lab::new().await;
        let before = lab.bigip.describe();
        let fault = Fault::TransactionFails { message: message.to_owned() };
        lab.bigip.inject(Injection::new(fault).on("PATCH", "tm/transaction/").times(1));
        let (subject, log) = (lab.plain(), journal());
        let error: Error = subject.deliver(&lab.bundle(1), &log).await.unwrap_err();
        assert_eq!((error.code(), error.class(), error.effect()), (code, ErrorClass::Validation, Effect::None));
        assert!(error.context().any(|pair| pair == ("f5_code", f5_code)), "{error}");
        assert!(!error.to_string().contains("/Common/shop's"), "what the unit says is not quoted: {error}");
        assert!(is_former(&lab, &before));
        lab.assert_clean();
        assert_eq!(subject.rollback(&log).await.unwrap(), RollbackOutcome::NothingToDo);
        assert!(is_former(&lab, &before));
    }
}

#[tokio::test]
async fn the_simulator_itself_refuses_a_wrong_key() {
    let lab = Lab::new().await;
    // Somebody puts another key where ours would be: the name is ours, the content is not.
    let bundle = lab.bundle(1);
    let subject = lab.plain();
    let plan = subject.plan(&bundle).await.unwrap();
    let step = plan.steps.iter().find(|step| step.subject.starts_with("sys file ssl-key")).unwrap();
    let name = step.subject.trim_start_matches("sys file ssl-key ");
    let stem = name.trim_end_matches(".key");
    lab.bigip.install(stem, lab.issued(4)).unwrap();
    for file in
        [format!("ssl-cert/{}.crt", stem.replace('/', "~")), format!("ssl-cert/{}_chain.crt", stem.replace('/', "~"))]
    {
        lab.bigip.operate("DELETE", &format!("tm/sys/file/{file}"), serde_json::Value::Null).unwrap();
    }
    let before = lab.bigip.describe();
    let error = subject.deliver(&bundle, &journal()).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("key_mismatch", Effect::None));
    assert!(is_former(&lab, &before));
    lab.assert_clean();
}

#[tokio::test]
async fn somebody_else_is_faster() {
    // While the files are uploaded.
    let lab = Lab::new().await;
    lab.bigip.install("/Common/foreign", lab.issued(5)).unwrap();
    let (subject, log) = (lab.plain(), journal());
    let edit = Fault::Meanwhile { method: "PATCH".to_owned(), path: SHOP_PATH.to_owned(), body: meddling() };
    lab.bigip.inject(Injection::new(edit.clone()).on("POST", "shared/file-transfer").times(1));
    let error = subject.deliver(&lab.bundle(1), &log).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("plan_stale", Effect::None));
    assert_eq!(lab.selected(), lab.issued(5).fingerprint, "theirs stays");
    assert!(!lab.bigip.describe().contains("certlib_"));
    lab.assert_clean();
    match subject.rollback(&log).await.unwrap() {
        RollbackOutcome::Refused { code, .. } => assert_eq!(code, "foreign_change"),
        outcome => panic!("{outcome:?}"),
    }
    // After a crash, before the next attempt.
    let lab = Lab::new().await;
    let (subject, log) = (lab.plain(), journal());
    let plan = subject.plan(&lab.bundle(1)).await.unwrap();
    lab.bigip.inject(Injection::new(Fault::LoseRequest).on("POST", "tm/transaction"));
    subject.execute(&lab.bundle(1), plan.clone(), &log).await.unwrap_err();
    lab.bigip.clear_faults();
    lab.meddle();
    let error = subject.execute(&lab.bundle(1), plan.clone(), &log).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("foreign_change", Effect::Possible));
    assert_eq!(lab.selected(), lab.issued(5).fingerprint);
    assert_eq!(lab.bigip.uploads(), []);
    // Another bundle with the journal of the first.
    let error = subject.execute(&lab.bundle(2), plan, &log).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("plan_stale", Effect::Possible));
}

#[tokio::test]
async fn a_slow_unit_is_given_up_on() {
    let lab = Lab::new().await;
    let subject = lab.subject(|config, _| {
        config["connection"]["timeouts"] = json!({ "connect_ms": 250, "response_ms": 250, "total_ms": 500 });
        config["tries"] = json!(1);
    });
    lab.bigip.inject(Injection::new(Fault::Slow(std::time::Duration::from_secs(5))).on("GET", "tm/ltm/virtual"));
    let error = subject.plan(&lab.bundle(1)).await.unwrap_err();
    assert_eq!((error.code(), error.class(), error.effect()), ("timeout", ErrorClass::Network, Effect::None));
}

#[tokio::test]
async fn uploads_that_cannot_be_removed_are_reported() {
    let lab = Lab::new().await;
    lab.bigip.inject(Injection::new(error(500)).on("POST", "tm/util/unix-rm"));
    let (subject, log) = (lab.plain(), journal());
    let error = subject.deliver(&lab.bundle(1), &log).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("uploads_left", ErrorClass::IoPermanent));
    assert_eq!(error.effect(), Effect::Possible);
    assert!(error.to_string().contains("/var/config/rest/downloads/"), "{error}");
    lab.bigip.clear_faults();
    assert_eq!(subject.rollback(&log).await.unwrap(), RollbackOutcome::RolledBack);
    lab.assert_clean();
}
