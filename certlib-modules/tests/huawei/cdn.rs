//! The delivery network.

use std::time::Duration;

use certlib_core::error::{Effect, ErrorClass, codes};
use certlib_core::module::RollbackOutcome;
use certlib_testkit::huawei::{CdnSource, Fault, HuaweiSim, HuaweiSimBuilder, Injection};
use certlib_testkit::tls;
use serde_json::json;

use crate::{Case, bundle, journal, refusal, served, steps};

const NAME: &str = "shop.example.com";

async fn domain(builder: HuaweiSimBuilder) -> Case {
    let case = Case::with(builder, &[NAME]).await;
    case.sim.add_cdn_domain(NAME).unwrap();
    // The filter of the list is not exact.
    case.sim.add_cdn_domain("eshop.example.com").unwrap();
    case.resource(json!({"service": "cdn", "domain": NAME}))
}

#[tokio::test]
async fn https_is_switched_on_and_off_again_and_its_neighbours_stay() {
    let case = domain(HuaweiSim::builder()).await;
    let issued = case.issue();
    let new = bundle(&issued);
    let before = case.sim.snapshot();
    let plan = case.plan(&new).await.unwrap();
    assert_eq!(steps(&plan), ["create certificate in SCM", "replace CDN domain shop.example.com"]);
    assert_eq!(plan.steps[1].before.as_deref(), Some("HTTPS is off"));
    let journal = journal();
    case.execute(&new, plan, &journal).await.unwrap();
    let settings = case.sim.cdn_settings(NAME).unwrap();
    assert_eq!(settings.fingerprint, Some(issued.fingerprint.clone()));
    assert_eq!(settings.scm_id, Some(case.sim.scm_certificates()[0].id.clone()));
    let neighbours = (settings.http2.as_str(), settings.tls_version.as_str(), settings.ocsp_stapling.as_str());
    assert_eq!(neighbours, ("on", "TLSv1.2,TLSv1.3", "on"));
    let address = case.sim.cdn_address(NAME).unwrap();
    assert_eq!(tls::leaf_fingerprint(address, NAME).await.unwrap(), issued.fingerprint);
    assert!(served(&case.validate(&new).await.unwrap()));
    assert_eq!(case.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(case.sim.snapshot(), before);
}

#[tokio::test]
async fn what_was_given_to_the_network_directly_cannot_come_back() {
    let case = domain(HuaweiSim::builder()).await;
    case.sim.set_cdn_certificate(NAME, CdnSource::Own("by-hand", &case.issue())).unwrap();
    let new = bundle(&case.issue());
    let plan = case.plan(&new).await.unwrap();
    let reversible: Vec<_> = plan.steps.iter().map(|step| step.reversible).collect();
    assert_eq!(reversible, [true, false]);
    assert!(plan.to_string().contains("(cannot be undone)"));
    let journal = journal();
    case.execute(&new, plan, &journal).await.unwrap();
    let now = case.sim.snapshot();
    for _ in 0..2 {
        assert_eq!(refusal(case.rollback(&journal).await.unwrap()), "former_not_restorable");
        assert_eq!(case.sim.snapshot(), now);
    }
}

#[tokio::test]
async fn before_the_domain_was_touched_everything_can_be_undone() {
    let case = domain(HuaweiSim::builder()).await;
    case.sim.set_cdn_certificate(NAME, CdnSource::Own("by-hand", &case.issue())).unwrap();
    let before = case.sim.snapshot();
    case.sim.inject(Injection::new(Fault::Broken { status: 502 }).on("PUT", "/configs"));
    let journal = journal();
    let error = case.deliver(&bundle(&case.issue()), &journal).await.unwrap_err();
    assert_eq!((error.class(), error.effect()), (ErrorClass::IoTransient, Effect::Possible));
    assert_eq!(case.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(case.sim.snapshot(), before);
}

#[tokio::test]
async fn a_busy_domain_is_waited_for_or_left_alone() {
    let mut case = domain(HuaweiSim::builder().cdn_settles(Duration::from_secs(1))).await;
    case.config("busy_delay_ms", json!(50));
    let (first, second) = (journal(), journal());
    case.deliver(&bundle(&case.issue()), &first).await.unwrap();
    case.config("busy_wait_ms", json!(0));
    let new = bundle(&case.issue());
    let error = case.deliver(&new, &second).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "domain_busy"));
    assert_eq!((error.effect(), error.retry_after()), (Effect::Possible, Some(Duration::from_secs(60))));
    case.config("busy_wait_ms", json!(60_000));
    // The same attempt goes on, and waits.
    let plan = case.plan(&new).await.unwrap();
    case.execute(&new, plan, &second).await.unwrap();
    assert!(served(&case.validate(&new).await.unwrap()));
    assert_eq!(case.rollback(&second).await.unwrap(), RollbackOutcome::RolledBack);
}

#[tokio::test]
async fn domains_that_cannot_be_used() {
    let case = domain(HuaweiSim::builder()).await;
    let new = bundle(&case.issue());
    for status in ["offline", "checking", "deleting"] {
        case.sim.set_cdn_status(NAME, status).unwrap();
        let error = case.plan(&new).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "domain_not_online"), "{status}");
    }
    case.sim.set_cdn_status(NAME, "online").unwrap();
    let other = bundle(&case.issue_for(&["other.example.com"]));
    assert_eq!(case.plan(&other).await.unwrap_err().code(), "name_mismatch");
    let case = case.resource(json!({"service": "cdn", "domain": "none.shop.example.com"}));
    let wild = bundle(&case.issue_for(&["*.shop.example.com"]));
    assert_eq!(case.plan(&wild).await.unwrap_err().code(), codes::NOT_FOUND);
}

#[tokio::test]
async fn a_former_certificate_that_was_deleted_does_not_come_back() {
    let case = domain(HuaweiSim::builder()).await;
    let former = case.sim.import_scm("former", &case.issue()).unwrap();
    case.sim.set_cdn_certificate(NAME, CdnSource::Scm(&former)).unwrap();
    let journal = journal();
    case.deliver(&bundle(&case.issue()), &journal).await.unwrap();
    case.sim.delete_scm(&former);
    assert_eq!(refusal(case.rollback(&journal).await.unwrap()), "former_gone");
}

#[tokio::test]
async fn a_missing_delegation_is_told_clearly() {
    let case = domain(HuaweiSim::builder()).await;
    let body = r#"{"error": {"error_code": "CDN.00010198", "error_msg": "Insufficient permission to access scm."}}"#;
    let fault = Fault::Answer { status: 400, content_type: "application/json".to_owned(), body: body.to_owned() };
    case.sim.inject(Injection::new(fault).on("PUT", "/configs"));
    let error = case.deliver(&bundle(&case.issue()), &journal()).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "scm_delegation_missing"));
    assert!(!format!("{error:?}").contains("Insufficient"), "what peers say is not quoted");
}
