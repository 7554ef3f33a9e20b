//! The web application firewall.

use certlib_core::error::{ErrorClass, codes};
use certlib_core::module::RollbackOutcome;
use certlib_testkit::tls;
use serde_json::json;

use crate::{Case, bundle, journal, refusal, served, steps};

const NAME: &str = "shop.example.com";

async fn host(mode: &str) -> (Case, String, String) {
    let case = Case::new(&["*.example.com"]).await;
    let former = case.sim.put_waf_certificate("by-hand", &case.issue()).unwrap();
    let id = case.sim.add_waf_host(NAME, mode == "premium", Some(&former)).unwrap();
    let case = case.resource(json!({"service": "waf", "host_id": id, "mode": mode}));
    (case, id, former)
}

#[tokio::test]
async fn a_host_is_switched_served_and_switched_back() {
    for (mode, label) in [("cloud", "host"), ("premium", "dedicated host")] {
        let (case, id, former) = host(mode).await;
        let issued = case.issue();
        let new = bundle(&issued);
        let before = case.sim.snapshot();
        let plan = case.plan(&new).await.unwrap();
        let replace = format!("replace WAF {label} {id}");
        assert_eq!(steps(&plan), ["create certificate in SCM", "create certificate in WAF", &replace]);
        let journal = journal();
        let facts = case.execute(&new, plan, &journal).await.unwrap();
        assert_eq!(facts.0["waf_certificate_id"], case.sim.waf_host_certificate(&id).unwrap().as_str());
        let address = case.sim.waf_host_address(&id).unwrap();
        assert_eq!(tls::leaf_fingerprint(address, NAME).await.unwrap(), issued.fingerprint);
        assert!(served(&case.validate(&new).await.unwrap()));
        assert!(!case.plan(&new).await.unwrap().changes_anything());
        assert_eq!(case.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
        assert_eq!(case.sim.snapshot(), before);
        assert_eq!(case.sim.waf_host_certificate(&id), Some(former));
    }
}

#[tokio::test]
async fn hosts_that_cannot_be_used() {
    let (case, id, _) = host("cloud").await;
    let new = bundle(&case.issue());
    let plain = case.sim.add_waf_host("plain.example.com", false, None).unwrap();
    let table = [
        (json!({"service": "waf", "host_id": plain}), "host_without_tls"),
        (json!({"service": "waf", "host_id": "none"}), codes::NOT_FOUND),
        // The mode is not that of the host.
        (json!({"service": "waf", "host_id": id, "mode": "premium"}), codes::NOT_FOUND),
    ];
    let mut case = case;
    for (resource, code) in table {
        case = case.resource(resource);
        let error = case.plan(&new).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Validation, code));
    }
    let case = case.resource(json!({"service": "waf", "host_id": id}));
    let other = bundle(&case.issue_for(&["shop.example.org"]));
    assert_eq!(case.plan(&other).await.unwrap_err().code(), "name_mismatch");
}

#[tokio::test]
async fn another_certificate_on_the_host_is_a_foreign_change() {
    let (case, id, _) = host("cloud").await;
    let journal = journal();
    case.deliver(&bundle(&case.issue()), &journal).await.unwrap();
    let theirs = case.sim.put_waf_certificate("theirs", &case.issue()).unwrap();
    case.sim.point_waf_host(&id, &theirs).unwrap();
    assert_eq!(refusal(case.rollback(&journal).await.unwrap()), codes::FOREIGN_CHANGE);
    assert_eq!(case.sim.waf_host_certificate(&id), Some(theirs));
}
