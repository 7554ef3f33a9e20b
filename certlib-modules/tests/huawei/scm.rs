//! The certificate manager alone.

use certlib_core::module::{RollbackOutcome, Validation};
use certlib_testkit::huawei::HuaweiSim;

use crate::{Case, bundle, journal, served, steps};

#[tokio::test]
async fn a_certificate_is_imported_read_back_and_taken_back() {
    let case = Case::with(HuaweiSim::builder().tls(), &["shop.example.com"]).await;
    let issued = case.issue();
    let new = bundle(&issued);
    let before = case.sim.snapshot();
    assert!(!served(&case.validate(&new).await.unwrap()));

    let plan = case.plan(&new).await.unwrap();
    assert_eq!(steps(&plan), ["create certificate in SCM"]);
    let journal = journal();
    let facts = case.execute(&new, plan, &journal).await.unwrap();
    let kept = case.sim.scm_certificates();
    assert_eq!((kept.len(), &kept[0].fingerprint), (1, &issued.fingerprint));
    assert_eq!(facts.0["scm_certificate_id"], kept[0].id.as_str());
    assert!(kept[0].name.starts_with("certlib-") && kept[0].name.ends_with(&issued.fingerprint[..16]));

    let Validation::Served { endpoints } = case.validate(&new).await.unwrap() else { panic!("not there") };
    assert_eq!(endpoints[0].found, Some(new.fingerprint()));
    assert_eq!(steps(&case.plan(&new).await.unwrap()), ["keep certificate in SCM"]);
    assert_eq!(journal.steps(), ["create"]);

    assert_eq!(case.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(case.sim.snapshot(), before);
    assert_eq!(case.rollback(&journal).await.unwrap(), RollbackOutcome::NothingToDo);
}

#[tokio::test]
async fn what_others_imported_is_not_ours() {
    let case = Case::new(&["shop.example.com"]).await;
    let issued = case.issue();
    case.sim.import_scm("by-hand", &issued).unwrap();
    let journal = journal();
    case.deliver(&bundle(&issued), &journal).await.unwrap();
    assert_eq!(case.sim.scm_certificates().len(), 2, "the same certificate under a name of ours");
    case.rollback(&journal).await.unwrap();
    let names: Vec<_> = case.sim.scm_certificates().into_iter().map(|kept| kept.name).collect();
    assert_eq!(names, ["by-hand"]);
}

#[tokio::test]
async fn a_certificate_that_services_use_stays() {
    let case = Case::new(&["shop.example.com"]).await;
    let journal = journal();
    case.deliver(&bundle(&case.issue()), &journal).await.unwrap();
    case.sim.add_cdn_domain("shop.example.com").unwrap();
    let id = case.sim.scm_certificates()[0].id.clone();
    case.sim.set_cdn_certificate("shop.example.com", certlib_testkit::huawei::CdnSource::Scm(&id)).unwrap();
    assert_eq!(case.rollback(&journal).await.unwrap(), RollbackOutcome::NothingToDo);
    assert_eq!(case.sim.scm_certificates().len(), 1);
}

#[tokio::test]
async fn two_targets_do_not_share_names() {
    let mut case = Case::new(&["shop.example.com"]).await;
    let new = bundle(&case.issue());
    case.deliver(&new, &journal()).await.unwrap();
    case.target.id = "t-2".to_owned();
    let second = journal();
    case.deliver(&new, &second).await.unwrap();
    assert_eq!(case.sim.scm_certificates().len(), 2);
    case.rollback(&second).await.unwrap();
    case.target.id = "t-1".to_owned();
    assert!(served(&case.validate(&new).await.unwrap()), "the other target's certificate is untouched");
}

#[tokio::test]
async fn temporary_keys_and_looked_up_projects() {
    let mut case = Case::new(&["shop.example.com"]).await;
    case.sim.add_access_key("TEMP", "temp-secret", Some("temp-token"));
    case.credentials(serde_json::json!({
        "access_key": "TEMP", "secret_key": "temp-secret", "security_token": "temp-token",
    }));
    case.deliver(&bundle(&case.issue()), &journal()).await.unwrap();
    assert!(case.sim.history().iter().all(|record| record.access_key == "TEMP"));
}
