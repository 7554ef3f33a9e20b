//! What is delivered, and what the plan says of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::context::Subject as About;
use certlib_core::error::{Effect, ErrorClass};
use certlib_core::module::{RollbackOutcome, Validation, Verb};
use serde_json::json;

use crate::common::{journal, served};
use crate::support::{Certificates, NAME, Place, server};

#[tokio::test]
async fn a_secret_is_made_renewed_and_deleted_again() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let mut subject = place.subject(json!({
        "labels": {"app": "shop"}, "annotations": {"team": "blue"}, "ca_crt": true,
        "extra_keys": {"combined.pem": "combined", "leaf.pem": "leaf"},
    }));
    subject.cx = subject.cx.about(About::certificate("shop", "cert-7", 3));
    let first = journal();
    let plan = subject.plan(certificates.bundle(0)).await.unwrap();
    let fingerprint = certificates.issued(0).fingerprint.clone();
    let [step] = plan.steps.as_slice() else { panic!("{plan}") };
    assert_eq!((step.verb, step.reversible), (Verb::Create, true));
    let after = format!("leaf {fingerprint}, kubernetes.io/tls: ca.crt combined.pem leaf.pem tls.crt tls.key");
    assert_eq!((step.after.as_deref(), step.before.as_deref()), (Some(after.as_str()), None));
    assert_eq!(step.subject, format!("secret {}/{NAME}", place.namespace));
    assert_eq!(place.get().await, None, "a dry run changes nothing");

    let facts = subject.execute(certificates.bundle(0), plan, &first).await.unwrap();
    let secret = place.get().await.unwrap();
    assert_eq!(facts.0["resource_version"], secret["metadata"]["resourceVersion"]);
    assert_eq!((&facts.0["changed"], &facts.0["resumed"]), (&json!(true), &json!(false)));
    let (issued, bundle) = (certificates.issued(0), certificates.bundle(0));
    let text = |key: &str| String::from_utf8(STANDARD.decode(secret["data"][key].as_str().unwrap()).unwrap()).unwrap();
    assert_eq!(text("tls.crt"), bundle.fullchain_pem());
    assert_eq!(text("tls.key"), *bundle.key_pem().unwrap().expose());
    assert_eq!(text("ca.crt"), bundle.chain_pem());
    assert_eq!(text("leaf.pem"), bundle.leaf_pem());
    assert_eq!(text("combined.pem"), format!("{}{}", bundle.fullchain_pem(), bundle.key_pem().unwrap().expose()));
    assert_eq!(secret["data"].as_object().unwrap().len(), 5);
    assert_eq!(secret["metadata"]["labels"], json!({"app": "shop"}));
    let annotations = &secret["metadata"]["annotations"];
    assert_eq!(annotations["certlib.io/fingerprint"], issued.fingerprint.as_str());
    assert_eq!((&annotations["certlib.io/id"], &annotations["team"]), (&json!("cert-7"), &json!("blue")));
    assert!(annotations["certlib.io/not-after"].as_str().unwrap().ends_with('Z'));

    // A renewal needs no `take_over`: the fields are ours.
    let second = journal();
    let plan = subject.plan(certificates.bundle(1)).await.unwrap();
    let [step] = plan.steps.as_slice() else { panic!("{plan}") };
    assert_eq!((step.verb, step.before.clone()), (Verb::Replace, Some(format!("leaf {fingerprint}"))));
    subject.execute(certificates.bundle(1), plan, &second).await.unwrap();
    assert_eq!(place.served().await, certificates.issued(1).fingerprint);
    let plan = subject.plan(certificates.bundle(1)).await.unwrap();
    assert!(!plan.changes_anything() && plan.steps[0].verb == Verb::Keep, "{plan}");

    assert_eq!(subject.rollback(&second).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(place.served().await, fingerprint);
    assert_eq!(subject.rollback(&first).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(place.get().await, None);
    assert_eq!(subject.rollback(&first).await.unwrap(), RollbackOutcome::NothingToDo);
}

#[tokio::test]
async fn what_is_not_configured_any_more_goes_and_comes_back() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let rich = json!({"ca_crt": true, "labels": {"app": "shop", "tier": "web"}, "annotations": {"team": "blue"}});
    place.subject(rich).deliver(certificates.bundle(0), &journal()).await.unwrap();
    // What others add stays, whatever we do.
    place.merge(json!({"metadata": {"labels": {"theirs": "1"}}, "data": {"theirs": STANDARD.encode("x")}})).await;
    let before = place.state().await;

    let subject = place.subject(json!({"labels": {"app": "shop"}}));
    let undo = journal();
    let plan = subject.plan(certificates.bundle(1)).await.unwrap();
    let gone: Vec<_> = plan.steps.iter().filter(|step| step.verb == Verb::Delete).map(|step| &step.subject).collect();
    let secret = format!("secret {}/{NAME}", place.namespace);
    let expected = ["data ca.crt", "label tier", "annotation team"].map(|what| format!("{secret} {what}"));
    assert_eq!(gone, expected.iter().collect::<Vec<_>>(), "{plan}");
    subject.execute(certificates.bundle(1), plan, &undo).await.unwrap();
    let secret = place.get().await.unwrap();
    assert_eq!(secret["metadata"]["labels"], json!({"app": "shop", "theirs": "1"}));
    assert_eq!((&secret["data"]["ca.crt"], &secret["metadata"]["annotations"]["team"]), (&json!(null), &json!(null)));
    assert_eq!(secret["data"]["theirs"], STANDARD.encode("x"));
    assert!(!subject.plan(certificates.bundle(1)).await.unwrap().changes_anything());

    assert_eq!(subject.rollback(&undo).await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(place.state().await, before);
}

#[tokio::test]
async fn names_may_be_templates() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let any_name = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create", "patch"]}]);
    let account = server.account(&place.namespace, "wide", &any_name).await.unwrap();
    let mut subject = place.subject_of(Default::default(), json!({}), json!({"token": account.token()}));
    subject.target.location["namespace"] = json!("{project}");
    subject.target.location["name"] = json!("{certificate}.{name}");
    subject.cx = subject.cx.about(About::certificate(&place.namespace, "cert-7", 1));
    let facts = subject.deliver(certificates.bundle(0), &journal()).await.unwrap();
    assert_eq!(facts.0["secret"], format!("{}/cert-7.www.shop.example.com", place.namespace));
    assert!(served(&subject.validate(certificates.bundle(0)).await.unwrap()));

    subject.cx = subject.cx.about(About::certificate("../kube-system", "cert-7", 1));
    let error = subject.plan(certificates.bundle(0)).await.unwrap_err();
    assert_eq!((error.code(), error.class()), ("name_invalid", ErrorClass::Validation));
}

#[tokio::test]
async fn the_api_server_checks_before_anybody_approves() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let subject = place.subject(json!({"annotations": {"long": "x".repeat(300_000)}}));
    let error = subject.plan(certificates.bundle(0)).await.unwrap_err();
    assert_eq!((error.code(), error.class(), error.effect()), ("invalid", ErrorClass::Validation, Effect::None));
    assert!(error.context().any(|pair| pair == ("fields", "metadata.annotations")), "{error}");
    assert_eq!(place.get().await, None);
}

#[tokio::test]
async fn reading_back_looks_at_certificate_and_key() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let subject = place.subject(json!({}));
    let reason = async || match subject.validate(certificates.bundle(0)).await.unwrap() {
        Validation::NotServed { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    assert!(reason().await.contains("does not exist"));
    subject.deliver(certificates.bundle(0), &journal()).await.unwrap();
    assert!(served(&subject.validate(certificates.bundle(0)).await.unwrap()));
    place.merge(json!({"data": {"tls.key": STANDARD.encode(&certificates.issued(1).key_pem)}})).await;
    assert!(reason().await.contains("key does not belong"));
    place.merge(json!({"data": {"tls.crt": STANDARD.encode(certificates.issued(1).full_chain())}})).await;
    assert!(reason().await.contains("another certificate"));
    place.merge(json!({"data": {"tls.crt": ""}})).await;
    assert!(reason().await.contains("no certificate"));
}

#[tokio::test]
async fn endpoints_are_asked_when_there_are_any() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    // The API server itself is the endpoint: it serves another certificate than the one in the Secret.
    let (host, port) = (server.addr().ip().to_string(), server.addr().port());
    let endpoint = json!({"host": host, "port": port, "tries": 1, "delay_ms": 0});
    let subject = place.subject(json!({"endpoints": [endpoint]}));
    subject.deliver(certificates.bundle(0), &journal()).await.unwrap();
    let Validation::NotServed { endpoints, .. } = subject.validate(certificates.bundle(0)).await.unwrap() else {
        panic!("it is not served there")
    };
    assert!(endpoints[0].found.is_some() && endpoints[0].endpoint.ends_with(&port.to_string()));
}
