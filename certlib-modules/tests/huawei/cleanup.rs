//! Earlier generations go, and nothing else does.

use certlib_core::module::RollbackOutcome;
use certlib_testkit::huawei::{Fault, Injection, Kept};
use serde_json::json;

use crate::{Case, bundle, journal, served, steps};

const NAME: &str = "shop.example.com";

async fn listener() -> (Case, String) {
    let case = Case::new(&[NAME]).await;
    let first = case.sim.put_elb_certificate("by-hand", &case.issue()).unwrap();
    let id = case.sim.add_listener("HTTPS", Some(&first), &[]).unwrap();
    let case = case.resource(json!({"service": "elb", "listener_id": id}));
    (case, id)
}

fn fingerprints(kept: &[Kept]) -> Vec<&str> {
    kept.iter().map(|kept| kept.fingerprint.as_str()).collect()
}

#[tokio::test]
async fn two_generations_stay_in_every_store() {
    let (case, _) = listener().await;
    let other = case.sim.import_scm("certlib-by-hand", &case.issue()).unwrap();
    let mut all = Vec::new();
    for number in 0..4 {
        let issued = case.issue();
        let plan = case.plan(&bundle(&issued)).await.unwrap();
        let deletions = steps(&plan).iter().filter(|step| step.starts_with("delete unused certificate")).count();
        assert_eq!(deletions, if number < 2 { 0 } else { 2 }, "{plan}");
        assert!(plan.steps.iter().all(|step| step.reversible != step.subject.starts_with("unused")));
        let facts = case.execute(&bundle(&issued), plan, &journal()).await.unwrap();
        assert_eq!(facts.0["retired"].as_array().unwrap().len(), deletions);
        all.push(issued.fingerprint);
        let from = all.len().saturating_sub(2);
        let elb = case.sim.elb_certificates();
        assert_eq!(fingerprints(&elb)[1..], all[from..]);
        assert_eq!(elb[0].name, "by-hand");
        let scm = case.sim.scm_certificates();
        assert_eq!(fingerprints(&scm)[1..], all[from..]);
        assert_eq!(scm[0].id, other, "what only looks like ours stays");
    }
}

#[tokio::test]
async fn the_former_certificate_stays_for_the_way_back() {
    let (case, id) = listener().await;
    let issued: Vec<_> = (0..3).map(|_| case.issue()).collect();
    let mut journals = Vec::new();
    for one in &issued {
        let journal = journal();
        case.deliver(&bundle(one), &journal).await.unwrap();
        journals.push(journal);
    }
    assert!(journals[2].steps().contains(&"retire".to_owned()));
    assert_eq!(case.rollback(&journals[2]).await.unwrap(), RollbackOutcome::RolledBack);
    assert!(served(&case.validate(&bundle(&issued[1])).await.unwrap()));
    assert!(case.sim.listener_certificates(&id).is_some());
}

#[tokio::test]
async fn what_is_in_use_or_cannot_be_removed_fails_no_delivery() {
    let (case, _) = listener().await;
    let first = case.issue();
    case.deliver(&bundle(&first), &journal()).await.unwrap();
    let ours = case.sim.elb_certificates().into_iter().find(|kept| kept.fingerprint == first.fingerprint).unwrap();
    // Somebody found it useful for a listener of their own.
    let theirs = case.sim.add_listener("HTTPS", Some(&ours.id), &[]).unwrap();
    case.deliver(&bundle(&case.issue()), &journal()).await.unwrap();
    let facts = case.deliver(&bundle(&case.issue()), &journal()).await.unwrap();
    assert_eq!(facts.0["retired"], json!([]), "the certificate manager knows that it is linked to one in use");
    assert_eq!(case.sim.listener_certificates(&theirs).unwrap().0, Some(ours.id.clone()));
    assert!(case.sim.elb_certificates().contains(&ours));

    case.sim.point_listener(&theirs, &case.sim.elb_certificates()[0].id, &[]).unwrap();
    case.sim.inject(Injection::new(Fault::Forbidden).on("DELETE", ""));
    let facts = case.deliver(&bundle(&case.issue()), &journal()).await.unwrap();
    assert_eq!(facts.0["retired"], json!([]));
    case.sim.clear_faults();
    let facts = case.deliver(&bundle(&case.issue()), &journal()).await.unwrap();
    assert!(!facts.0["retired"].as_array().unwrap().is_empty(), "the next delivery tries again");
    assert!(!case.sim.elb_certificates().contains(&ours));
}
