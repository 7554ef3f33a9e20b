//! What goes wrong on the way.

use std::time::Duration;

use certlib_core::error::{Effect, ErrorClass, codes};
use certlib_core::module::RollbackOutcome;
use certlib_testkit::huawei::{CdnSource, Fault, HuaweiSim, Injection};
use serde_json::{Value, json};

use crate::{Case, bundle, journal, served};

const NAME: &str = "shop.example.com";

async fn listener() -> (Case, String) {
    let case = Case::new(&[NAME]).await;
    let first = case.sim.put_elb_certificate("by-hand", &case.issue()).unwrap();
    let id = case.sim.add_listener("HTTPS", Some(&first), &[]).unwrap();
    let case = case.resource(json!({"service": "elb", "listener_id": id, "use": "default"}));
    (case, id)
}

/// A target of each kind, with the requests that change something, in order.
async fn every_kind() -> Vec<(Case, Vec<(&'static str, &'static str)>)> {
    let import = ("POST", "/certificates/import");
    let (elb, _) = listener().await;
    let cdn = Case::new(&[NAME]).await.resource(json!({"service": "cdn", "domain": NAME}));
    cdn.sim.add_cdn_domain(NAME).unwrap();
    let id = cdn.sim.import_scm("by-hand", &cdn.issue()).unwrap();
    cdn.sim.set_cdn_certificate(NAME, CdnSource::Scm(&id)).unwrap();
    let waf = Case::new(&[NAME]).await;
    let id = waf.sim.put_waf_certificate("by-hand", &waf.issue()).unwrap();
    let id = waf.sim.add_waf_host(NAME, false, Some(&id)).unwrap();
    let waf = waf.resource(json!({"service": "waf", "host_id": id}));
    vec![
        (elb, vec![import, ("POST", "/elb/certificates"), ("PUT", "/elb/listeners/")]),
        (cdn, vec![import, ("PUT", "/configs")]),
        (waf, vec![import, ("POST", "/waf/certificate"), ("POST", "/apply-to-hosts")]),
    ]
}

#[tokio::test]
async fn whatever_is_lost_or_broken_can_be_resumed_and_undone() {
    for fault in [Fault::LoseReply, Fault::LoseRequest, Fault::Broken { status: 500 }] {
        for resumes in [true, false] {
            for (case, requests) in every_kind().await {
                for (method, part) in requests {
                    let what = format!("{fault:?} at {method} {part}, resumed: {resumes}");
                    let before = case.sim.snapshot();
                    let new = bundle(&case.issue());
                    let journal = journal();
                    let plan = case.plan(&new).await.unwrap();
                    case.sim.inject(Injection::new(fault.clone()).on(method, part).times(1));
                    let error = case.execute(&new, plan.clone(), &journal).await.unwrap_err();
                    assert!(error.class().is_retryable(), "{what}: {error:?}");
                    assert_eq!(error.effect(), Effect::Possible, "{what}");
                    if resumes {
                        case.execute(&new, plan, &journal).await.unwrap();
                        assert!(served(&case.validate(&new).await.unwrap()), "{what}");
                    }
                    case.rollback(&journal).await.unwrap();
                    assert_eq!(case.sim.snapshot(), before, "{what}");
                    assert_eq!(case.rollback(&journal).await.unwrap(), RollbackOutcome::NothingToDo, "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_rollback_whose_answers_are_lost_is_done_again() {
    for (method, part) in [("PUT", "/elb/listeners/"), ("DELETE", "/elb/certificates/"), ("DELETE", "/scm/")] {
        let (case, _) = listener().await;
        let before = case.sim.snapshot();
        let journal = journal();
        case.deliver(&bundle(&case.issue()), &journal).await.unwrap();
        case.sim.inject(Injection::new(Fault::LoseReply).on(method, part).times(1));
        let error = case.rollback(&journal).await.unwrap_err();
        assert!(error.class().is_retryable(), "{method} {part}: {error:?}");
        let again = case.rollback(&journal).await.unwrap();
        assert!(matches!(again, RollbackOutcome::RolledBack | RollbackOutcome::NothingToDo), "{again:?}");
        assert_eq!(case.sim.snapshot(), before, "{method} {part}");
    }
}

#[tokio::test]
async fn credentials_that_expire_on_the_way() {
    let (case, _) = listener().await;
    let before = case.sim.snapshot();
    let journal = journal();
    case.sim.inject(Injection::new(Fault::ExpiredCredentials).on("PUT", "/elb/listeners/"));
    let error = case.deliver(&bundle(&case.issue()), &journal).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "credentials_refused"));
    assert_eq!(error.effect(), Effect::Possible, "certificates were made");
    case.sim.clear_faults();
    assert_eq!(case.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(case.sim.snapshot(), before);
    case.sim.expire_access_key(case.sim.access_key());
    let error = case.plan(&bundle(&case.issue())).await.unwrap_err();
    assert_eq!((error.class(), error.code(), error.effect()), (ErrorClass::Auth, "credentials_refused", Effect::None));
}

#[tokio::test]
async fn refusals_by_code() {
    let answer = |status: u16, body: Value| Fault::Answer {
        status,
        content_type: "application/json".to_owned(),
        body: body.to_string(),
    };
    let page = Fault::Answer { status: 200, content_type: "text/html".to_owned(), body: "<html>canary".to_owned() };
    let wait = Some(Duration::from_secs(7));
    let table = [
        (Fault::Throttled { retry_after: wait }, ErrorClass::IoTransient, "throttled"),
        (answer(400, json!({"error_code": "APIGW.0308", "error_msg": "canary"})), ErrorClass::IoTransient, "throttled"),
        (Fault::Broken { status: 503 }, ErrorClass::IoTransient, "service_failed"),
        (Fault::Forbidden, ErrorClass::Auth, "not_permitted"),
        (answer(403, json!({"code": "ELB.0403", "message": "canary"})), ErrorClass::Auth, "not_permitted"),
        (Fault::ExpiredCredentials, ErrorClass::Auth, "credentials_refused"),
        (answer(400, json!({"error": {"code": "ELB.8902", "message": "canary"}})), ErrorClass::Validation, "refused"),
        (answer(405, json!({"error_msg": "canary"})), ErrorClass::IoPermanent, "refused"),
        (answer(302, json!({})), ErrorClass::IoPermanent, "redirect_refused"),
        (page, ErrorClass::IoTransient, "answer_invalid"),
    ];
    for (fault, class, code) in table {
        let (case, _) = listener().await;
        let before = case.sim.snapshot();
        case.sim.inject(Injection::new(fault.clone()).on("GET", "/elb/"));
        let error = case.plan(&bundle(&case.issue())).await.unwrap_err();
        assert_eq!((error.class(), error.code(), error.effect()), (class, code, Effect::None), "{fault:?}");
        assert!(!format!("{error:?}").contains("canary"), "what the peer says is not quoted: {error:?}");
        if matches!(fault, Fault::Throttled { .. }) {
            assert_eq!(error.retry_after(), wait);
        }
        assert_eq!(case.sim.snapshot(), before);
    }
}

#[tokio::test]
async fn a_first_request_that_is_refused_changes_nothing() {
    for (fault, code) in [
        (Fault::Throttled { retry_after: None }, "throttled"),
        (Fault::Forbidden, "not_permitted"),
        (Fault::ExpiredCredentials, "credentials_refused"),
    ] {
        let (case, _) = listener().await;
        let before = case.sim.snapshot();
        case.sim.inject(Injection::new(fault).on("POST", "/certificates/import").times(1));
        let journal = journal();
        let new = bundle(&case.issue());
        let error = case.deliver(&new, &journal).await.unwrap_err();
        assert_eq!((error.code(), error.effect()), (code, Effect::None));
        assert_eq!(case.sim.snapshot(), before);
        assert_eq!(case.rollback(&journal).await.unwrap(), RollbackOutcome::NothingToDo);
    }
}

#[tokio::test]
async fn a_busy_load_balancer_is_tried_again() {
    let (case, _) = listener().await;
    case.sim.inject(Injection::new(Fault::Conflict).on("PUT", "/elb/listeners/").times(1));
    let journal = journal();
    let new = bundle(&case.issue());
    let plan = case.plan(&new).await.unwrap();
    let error = case.execute(&new, plan.clone(), &journal).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "resource_busy"));
    case.execute(&new, plan, &journal).await.unwrap();
    assert!(served(&case.validate(&new).await.unwrap()));
}

#[tokio::test]
async fn another_administrator_between_two_attempts() {
    let (case, id) = listener().await;
    let new = bundle(&case.issue());
    for (method, part) in [("POST", "/elb/certificates"), ("PUT", "/elb/listeners/")] {
        let journal = journal();
        let plan = case.plan(&new).await.unwrap();
        case.sim.inject(Injection::new(Fault::LoseRequest).on(method, part).times(1));
        case.execute(&new, plan.clone(), &journal).await.unwrap_err();
        let theirs = case.sim.put_elb_certificate("theirs", &case.issue()).unwrap();
        case.sim.point_listener(&id, &theirs, &[]).unwrap();
        let error = case.execute(&new, plan, &journal).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Validation, codes::FOREIGN_CHANGE), "{part}");
        assert_eq!(error.effect(), Effect::Possible);
        assert_eq!(case.sim.listener_certificates(&id).unwrap().0, Some(theirs));
    }
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_from_a_wrong_key() {
    let (case, _) = listener().await;
    case.sim.advance(Duration::from_secs(3600), false);
    let error = case.plan(&bundle(&case.issue())).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "clock_skew"));
    case.sim.advance(Duration::from_secs(3600), true);
    assert!(case.plan(&bundle(&case.issue())).await.is_ok());
}

#[tokio::test]
async fn mistakes_about_project_and_region() {
    let (mut case, _) = listener().await;
    let new = bundle(&case.issue());
    let project = case.sim.project_id().to_owned();
    let elsewhere = case.sim.add_project("ap-southeast-1");
    let below = case.sim.add_project("cn-north-4_team");
    let table = [
        (json!("cn-north-4"), json!(null), None),
        (json!("cn-north-4"), json!(project), None),
        (json!("cn-north-4"), json!(below), None),
        (json!("cn-north-4"), json!("0".repeat(32)), Some("project_mismatch")),
        (json!("xx-nowhere-9"), json!(null), Some("region_unknown")),
        (json!("xx-nowhere-9"), json!("0".repeat(32)), Some("region_unknown")),
    ];
    for (region, project, code) in table {
        case.location("region", region.clone());
        case.location("project_id", project.clone());
        let plan = case.plan(&new).await;
        match (plan, code) {
            (Ok(_), None) => {}
            (Err(error), Some(code)) => {
                assert_eq!((error.class(), error.code()), (ErrorClass::Validation, code), "{region} {project}");
            }
            (plan, code) => panic!("{region} {project} {code:?}: {plan:?}"),
        }
    }
    // The project exists, but in another region than the listener.
    case.location("region", json!("cn-north-4"));
    case.location("project_id", json!(elsewhere));
    case.location("resource", json!({"service": "elb", "listener_id": "none"}));
    assert_eq!(case.plan(&new).await.unwrap_err().code(), "project_mismatch");
    case.sim.add_project("cn-north-4");
    case.location("project_id", json!(null));
    assert_eq!(case.plan(&new).await.unwrap_err().code(), "project_ambiguous");
}

#[tokio::test]
async fn a_region_whose_address_does_not_exist() {
    let (mut case, _) = listener().await;
    let url = case.sim.url();
    case.location("region", json!("xx-nowhere-9"));
    case.location("urls", json!({"iam": url, "scm": url, "elb": "http://elb.xx-nowhere-9.invalid"}));
    let error = case.plan(&bundle(&case.issue())).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "region_unknown"));
}

#[tokio::test]
async fn quotas_lengths_and_silence() {
    let case = Case::with(HuaweiSim::builder().scm_quota(0), &[NAME]).await;
    let error = case.deliver(&bundle(&case.issue()), &journal()).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoPermanent, "quota_exhausted"));
    assert_eq!(error.effect(), Effect::None);

    let many: Vec<String> = (0..200).map(|number| format!("a-rather-long-name-{number}.example.com")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let error = case.plan(&bundle(&case.issue_for(&many))).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "certificate_too_long"));

    let (mut case, _) = listener().await;
    case.target.config["connection"]["timeouts"] = json!({"response_ms": 100, "connect_ms": 100});
    case.sim.inject(Injection::new(Fault::Slow(Duration::from_secs(5))).on("GET", "/elb/"));
    let error = case.plan(&bundle(&case.issue())).await.unwrap_err();
    assert_eq!((error.class(), error.code(), error.effect()), (ErrorClass::Network, "timeout", Effect::None));
}

#[tokio::test]
async fn cancelled_before_anything_was_done() {
    let (case, _) = listener().await;
    let new = bundle(&case.issue());
    let plan = case.plan(&new).await.unwrap();
    case.cx.cancel.cancel();
    let journal = journal();
    let error = case.execute(&new, plan, &journal).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), (codes::CANCELLED, Effect::None));
    assert!(journal.steps().is_empty());
}
