//! Load balancers.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::ManualClock;
use certlib_core::error::{Effect, ErrorClass, codes};
use certlib_core::module::{JournalSink as _, RollbackOutcome, Validation};
use certlib_core::{Context, Secret};
use certlib_testkit::tls;
use serde_json::json;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::{Case, bundle, journal, refusal, served, steps};

const NAMES: [&str; 2] = ["shop.example.com", "www.shop.example.com"];

/// A listener with a default certificate for another name, and its id.
async fn listener(place: &str) -> (Case, String, String) {
    let case = Case::new(&NAMES).await;
    let default = case.sim.put_elb_certificate("default", &case.issue_for(&["default.example.com"])).unwrap();
    let id = case.sim.add_listener("HTTPS", Some(&default), &[]).unwrap();
    let case = case.resource(json!({"service": "elb", "listener_id": id, "use": place}));
    (case, id, default)
}

#[tokio::test]
async fn the_default_is_switched_served_and_switched_back() {
    let (mut case, id, former) = listener("default").await;
    let issued = case.issue();
    let new = bundle(&issued);
    let before = case.sim.snapshot();
    let plan = case.plan(&new).await.unwrap();
    let replace = format!("replace ELB listener {id}, default certificate");
    assert_eq!(steps(&plan), ["create certificate in SCM", "create certificate in ELB", &replace]);
    assert!(plan.steps.iter().all(|step| step.reversible));
    assert!(plan.steps[2].before.as_ref().unwrap().contains(&former));

    let journal = journal();
    let facts = case.execute(&new, plan, &journal).await.unwrap();
    assert_eq!(journal.steps(), ["create", "create", "bind"]);
    let (default, sni) = case.sim.listener_certificates(&id).unwrap();
    assert_eq!(facts.0["elb_certificate_id"], default.unwrap().as_str());
    assert!(sni.is_empty());
    let address = case.sim.listener_address(&id).unwrap();
    assert_eq!(tls::leaf_fingerprint(address, NAMES[0]).await.unwrap(), issued.fingerprint);

    let Validation::Served { endpoints } = case.validate(&new).await.unwrap() else { panic!("not there") };
    assert_eq!(endpoints[0].endpoint, format!("ELB listener {id}, default certificate"));
    case.config("endpoints", json!([{"host": "127.0.0.1", "port": address.port(), "server_name": NAMES[0]}]));
    assert!(served(&case.validate(&new).await.unwrap()), "the handshake says so, too");
    case.config("endpoints", json!([]));

    assert_eq!(case.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(case.sim.snapshot(), before);
}

#[tokio::test]
async fn journals_plans_and_answers_hold_no_key() {
    let (case, ..) = listener("both").await;
    let issued = case.issue();
    let new = bundle(&issued);
    let plan = case.plan(&new).await.unwrap();
    let mut seen = format!("{plan} {plan:?}");
    let journal = journal();
    seen.push_str(&format!("{:?}", case.execute(&new, plan, &journal).await.unwrap()));
    for entry in journal.entries().await.unwrap() {
        seen.push_str(std::str::from_utf8(entry.expose()).unwrap());
    }
    assert!(seen.contains(&issued.fingerprint));
    for secret in [issued.key_pem.lines().nth(1).unwrap(), case.sim.secret_key(), case.sim.access_key()] {
        assert!(!seen.contains(secret));
    }
}

#[tokio::test]
async fn a_name_takes_the_place_of_its_former_certificate() {
    let (case, id, default) = listener("sni").await;
    let old = case.sim.put_elb_certificate("old", &case.issue()).unwrap();
    let other = case.sim.put_elb_certificate("other", &case.issue_for(&["x.example.com"])).unwrap();
    case.sim.point_listener(&id, &default, &[&old, &other]).unwrap();
    let issued = case.issue();
    let journal = journal();
    case.deliver(&bundle(&issued), &journal).await.unwrap();
    let (still, sni) = case.sim.listener_certificates(&id).unwrap();
    assert_eq!((still.as_ref(), sni.len(), &sni[1]), (Some(&default), 2, &other));
    let address = case.sim.listener_address(&id).unwrap();
    assert_eq!(tls::leaf_fingerprint(address, NAMES[1]).await.unwrap(), issued.fingerprint);
    assert_ne!(tls::leaf_fingerprint(address, "x.example.com").await.unwrap(), issued.fingerprint);

    // Others may add names meanwhile: theirs stay.
    let more = case.sim.put_elb_certificate("more", &case.issue_for(&["y.example.com"])).unwrap();
    case.sim.point_listener(&id, &default, &[&sni[0], &other, &more]).unwrap();
    assert_eq!(case.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(case.sim.listener_certificates(&id).unwrap(), (Some(default), vec![old, other, more]));
}

#[tokio::test]
async fn a_new_name_joins_and_leaves_again() {
    let (case, id, default) = listener("both").await;
    let journal = journal();
    case.deliver(&bundle(&case.issue()), &journal).await.unwrap();
    let (now, sni) = case.sim.listener_certificates(&id).unwrap();
    assert_eq!(sni, [now.unwrap()]);
    case.rollback(&journal).await.unwrap();
    assert_eq!(case.sim.listener_certificates(&id).unwrap(), (Some(default), vec![]));
}

#[tokio::test]
async fn names_must_not_get_lost() {
    let (case, id, default) = listener("sni").await;
    let wide = case.issue_for(&["shop.example.com", "gone.example.com"]);
    let old = case.sim.put_elb_certificate("old", &wide).unwrap();
    case.sim.point_listener(&id, &default, &[&old]).unwrap();
    let error = case.plan(&bundle(&case.issue())).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "names_lost"));
    assert!(error.context().any(|pair| pair == ("name", "gone.example.com")));
}

#[tokio::test]
async fn the_store_alone_and_without_the_certificate_manager() {
    let mut case = Case::new(&NAMES).await.resource(json!({"service": "elb"}));
    case.config("scm_import", json!(false));
    let new = bundle(&case.issue());
    let journal = journal();
    let plan = case.plan(&new).await.unwrap();
    assert_eq!(steps(&plan), ["create certificate in ELB"]);
    case.execute(&new, plan, &journal).await.unwrap();
    assert!(served(&case.validate(&new).await.unwrap()));
    assert_eq!((case.sim.elb_certificates().len(), case.sim.scm_certificates().len()), (1, 0));
    assert_eq!(case.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    assert!(case.sim.elb_certificates().is_empty());
}

#[tokio::test]
async fn what_is_served_already_is_kept_wherever_it_is_from() {
    let (case, id, _) = listener("default").await;
    let issued = case.issue();
    let by_hand = case.sim.put_elb_certificate("by-hand", &issued).unwrap();
    case.sim.point_listener(&id, &by_hand, &[]).unwrap();
    let plan = case.plan(&bundle(&issued)).await.unwrap();
    assert_eq!(steps(&plan), [format!("keep ELB listener {id}, default certificate")]);
    let journal = journal();
    case.execute(&bundle(&issued), plan, &journal).await.unwrap();
    assert!(journal.steps().is_empty() && case.sim.scm_certificates().is_empty());
}

#[tokio::test]
async fn another_content_under_the_same_id_is_a_foreign_change() {
    let (case, id, _) = listener("default").await;
    let new = bundle(&case.issue());
    let plan = case.plan(&new).await.unwrap();
    let (default, _) = case.sim.listener_certificates(&id).unwrap();
    case.sim.replace_elb_certificate(&default.unwrap(), &case.issue()).unwrap();
    let error = case.execute(&new, plan, &journal()).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), (codes::PLAN_STALE, Effect::None));

    let journal = journal();
    case.deliver(&new, &journal).await.unwrap();
    let (default, _) = case.sim.listener_certificates(&id).unwrap();
    case.sim.replace_elb_certificate(&default.unwrap(), &case.issue()).unwrap();
    let theirs = case.sim.snapshot();
    assert_eq!(refusal(case.rollback(&journal).await.unwrap()), codes::FOREIGN_CHANGE);
    assert_eq!(case.sim.snapshot(), theirs);
    assert!(!served(&case.validate(&new).await.unwrap()));
}

#[tokio::test]
async fn a_former_certificate_that_has_expired_does_not_come_back() {
    let (mut case, ..) = listener("default").await;
    let clock = ManualClock::new(OffsetDateTime::now_utc());
    case.cx = Context::with(Arc::new(clock.clone()), CancellationToken::new(), "operation");
    let journal = journal();
    case.deliver(&bundle(&case.issue()), &journal).await.unwrap();
    let now = case.sim.snapshot();
    let month = Duration::from_secs(31 * 24 * 3600);
    clock.advance(month);
    case.sim.advance(month, false);
    assert_eq!(refusal(case.rollback(&journal).await.unwrap()), "backup_expired");
    assert_eq!(case.sim.snapshot(), now);
}

#[tokio::test]
async fn a_former_certificate_that_is_gone_does_not_come_back() {
    let (case, _, former) = listener("default").await;
    let journal = journal();
    case.deliver(&bundle(&case.issue()), &journal).await.unwrap();
    case.sim.delete_elb_certificate(&former);
    let now = case.sim.snapshot();
    assert_eq!(refusal(case.rollback(&journal).await.unwrap()), "former_gone");
    assert_eq!(case.sim.snapshot(), now);
}

#[tokio::test]
async fn listeners_that_cannot_be_used() {
    let case = Case::new(&NAMES).await;
    let plain = case.sim.add_listener("TCP", None, &[]).unwrap();
    let new = bundle(&case.issue());
    let case = case.resource(json!({"service": "elb", "listener_id": plain}));
    assert_eq!(case.plan(&new).await.unwrap_err().code(), "listener_without_tls");
    let case = case.resource(json!({"service": "elb", "listener_id": "none"}));
    let error = case.plan(&new).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, codes::NOT_FOUND));
}

#[tokio::test]
async fn a_key_is_needed_only_when_something_is_to_be_done() {
    let (case, id, _) = listener("default").await;
    let issued = case.issue();
    let keyless = certlib_core::CertificateBundle::from_pem(issued.full_chain().as_bytes()).unwrap();
    assert_eq!(case.plan(&keyless).await.unwrap_err().code(), "key_missing");
    let by_hand = case.sim.put_elb_certificate("by-hand", &issued).unwrap();
    case.sim.point_listener(&id, &by_hand, &[]).unwrap();
    assert!(!case.plan(&keyless).await.unwrap().changes_anything());
}

#[tokio::test]
async fn another_bundle_does_not_resume_an_attempt() {
    let (case, ..) = listener("default").await;
    let (one, two) = (bundle(&case.issue()), bundle(&case.issue()));
    let journal = journal();
    case.deliver(&one, &journal).await.unwrap();
    let plan = case.plan(&two).await.unwrap();
    let error = case.execute(&two, plan, &journal).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), (codes::PLAN_STALE, Effect::Possible));
}

#[tokio::test]
async fn an_undo_record_that_cannot_be_read_is_refused() {
    let (case, ..) = listener("default").await;
    let bytes = Secret::new(br#"{"step":"unheard_of"}"#.to_vec());
    let error = case.module.rollback(&case.cx, &case.target, &[bytes]).await.unwrap_err();
    assert_eq!(error.code(), "journal_unreadable");
}
