//! Secrets that are somebody else's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::error::{Effect, Error, ErrorClass};
use certlib_core::module::{RollbackOutcome, Verb};
use serde_json::{Value, json};

use crate::common::journal;
use crate::support::{Certificates, NAME, Place, server};

#[track_caller]
fn assert_refused(error: &Error, class: ErrorClass, code: &str) {
    assert_eq!((error.class(), error.code(), error.effect()), (class, code, Effect::None), "{error:?}");
}

fn context<'a>(error: &'a Error, key: &str) -> &'a str {
    error.context().find(|(name, _)| *name == key).map(|(_, value)| value).unwrap_or_default()
}

#[tokio::test]
async fn those_who_would_write_again_are_not_fought() {
    let Some(server) = server().await else { return };
    let certificates = Certificates::new();
    let reference =
        json!([{"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "name": "www", "uid": "u"}]);
    let annotated = |key: &str| json!({"metadata": {"annotations": {key: "x"}}});
    // What is there; the code without and with `take_over`; who is named.
    let table: [(Value, &str, Option<&str>, &str); 9] = [
        (json!({}), "foreign_manager", None, "kubectl"),
        (
            annotated("cert-manager.io/certificate-name"),
            "owned_by_cert_manager",
            Some("owned_by_cert_manager"),
            "cert-manager",
        ),
        (
            annotated("cert-manager.io/issuer-name"),
            "owned_by_cert_manager",
            Some("owned_by_cert_manager"),
            "cert-manager",
        ),
        (
            annotated("sealedsecrets.bitnami.com/managed"),
            "owned_by_controller",
            Some("owned_by_controller"),
            "Sealed Secrets",
        ),
        (
            json!({"metadata": {"ownerReferences": reference}}),
            "owned_by_controller",
            Some("owned_by_controller"),
            "ExternalSecret/www",
        ),
        (annotated("meta.helm.sh/release-name"), "owned_by_deployer", None, "Helm"),
        (annotated("argocd.argoproj.io/tracking-id"), "owned_by_deployer", None, "Argo CD"),
        (json!({"immutable": true}), "secret_immutable", Some("secret_immutable"), ""),
        (json!({"type": "Opaque"}), "wrong_type", Some("wrong_type"), ""),
    ];
    for (there, code, code_of_taking_over, owner) in table {
        let place = Place::new(server).await;
        place.create(certificates.issued(0), there.clone()).await;
        let before = place.state().await;
        let error = place.subject(json!({})).plan(certificates.bundle(1)).await.unwrap_err();
        assert_refused(&error, ErrorClass::Validation, code);
        let named = format!("{}{}", context(&error, "owner"), context(&error, "managers"));
        assert_eq!(named, owner, "{error}");
        let taking_over = place.subject(json!({"take_over": true}));
        match code_of_taking_over {
            Some(code) => {
                let error = taking_over.plan(certificates.bundle(1)).await.unwrap_err();
                assert_refused(&error, ErrorClass::Validation, code);
                assert_eq!(place.state().await, before);
            }
            None => {
                taking_over.deliver(certificates.bundle(1), &journal()).await.unwrap();
                assert_eq!(place.served().await, certificates.issued(1).fingerprint);
            }
        }
    }
}

#[tokio::test]
async fn what_holds_the_certificate_already_is_left_to_its_owner() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let bundle = certificates.bundle(0);
    let data = json!({"data": {
        "tls.crt": STANDARD.encode(bundle.fullchain_pem()), "tls.key": STANDARD.encode(bundle.key_pem().unwrap().expose()),
    }});
    place.create(certificates.issued(0), data).await;
    let before = place.get().await;
    let subject = place.subject(json!({}));
    let plan = subject.plan(bundle).await.unwrap();
    assert!(!plan.changes_anything(), "{plan}");
    let undo = journal();
    let facts = subject.execute(bundle, plan, &undo).await.unwrap();
    assert_eq!((&facts.0["changed"], undo.steps().len()), (&json!(false), 0));
    assert_eq!(place.get().await, before);
}

#[tokio::test]
async fn another_type_is_kept_where_it_is_asked_for() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    place.create(certificates.issued(0), json!({"type": "Opaque"})).await;
    let subject = place.subject(json!({"secret_type": "Opaque", "take_over": true}));
    subject.deliver(certificates.bundle(1), &journal()).await.unwrap();
    assert_eq!(place.get().await.unwrap()["type"], "Opaque");
    assert_eq!(place.served().await, certificates.issued(1).fingerprint);
}

#[tokio::test]
async fn fields_are_taken_over_only_when_asked_and_given_back() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    place
        .apply_as("flux", &place.secret(certificates.issued(0), json!({"metadata": {"labels": {"app": "shop"}}})))
        .await;
    let before = place.state().await;
    let error = place.subject(json!({})).plan(certificates.bundle(1)).await.unwrap_err();
    assert_refused(&error, ErrorClass::Validation, "foreign_manager");
    assert_eq!(context(&error, "managers"), "flux");

    let subject = place.subject(json!({"take_over": true}));
    let undo = journal();
    let plan = subject.plan(certificates.bundle(1)).await.unwrap();
    let taken = plan.steps.iter().find(|step| step.subject.ends_with("ownership of its fields")).unwrap();
    assert_eq!(
        (taken.verb, taken.before.as_deref(), taken.after.as_deref()),
        (Verb::Replace, Some("flux"), Some("certlib"))
    );
    subject.execute(certificates.bundle(1), plan, &undo).await.unwrap();
    assert!(place.state().await.contains("certlib Apply"));
    for expected in [RollbackOutcome::RolledBack, RollbackOutcome::NothingToDo] {
        assert_eq!(subject.rollback(&undo).await.unwrap(), expected);
        assert_eq!(place.state().await, before, "content and ownership are as they were");
    }
    // And the former owner can go on without a conflict.
    let path = format!("{}?fieldManager=flux", place.path());
    let kind = "application/apply-patch+yaml";
    let secret = place.secret(certificates.issued(2), json!({}));
    let (status, _) = server.call_as(server.admin_token(), "PATCH", &path, kind, Some(&secret)).await.unwrap();
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_label_of_another_manager_is_a_conflict() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    place.subject(json!({})).deliver(certificates.bundle(0), &journal()).await.unwrap();
    place.merge(json!({"metadata": {"labels": {"app": "theirs"}}})).await;
    let before = place.state().await;
    let error = place.subject(json!({"labels": {"app": "ours"}})).plan(certificates.bundle(1)).await.unwrap_err();
    assert_refused(&error, ErrorClass::Validation, "field_conflict");
    assert_eq!(context(&error, "fields"), ".metadata.labels.app");
    assert_eq!(place.state().await, before);
}

/// Server-side apply of `stringData` leaves nobody as the owner of what lands in `data` on old servers: the API server
/// would let us overwrite it without a word.
#[tokio::test]
async fn content_that_nobody_admits_to_is_not_ours() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let issued = certificates.issued(0);
    let mut theirs = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": NAME},
        "stringData": {"tls.crt": issued.full_chain(), "tls.key": issued.key_pem},
    });
    place.apply_as("theirs", &theirs).await;
    let error = place.subject(json!({})).plan(certificates.bundle(1)).await.unwrap_err();
    assert_refused(&error, ErrorClass::Validation, "foreign_manager");

    // The same over a Secret whose fields are recorded as ours.
    let place = Place::new(server).await;
    let subject = place.subject(json!({}));
    subject.deliver(certificates.bundle(1), &journal()).await.unwrap();
    theirs["stringData"]["tls.crt"] = json!(certificates.issued(2).full_chain());
    theirs["stringData"]["tls.key"] = json!(certificates.issued(2).key_pem);
    place.apply_as("theirs", &theirs).await;
    assert_eq!(place.served().await, certificates.issued(2).fingerprint);
    let error = subject.plan(certificates.bundle(0)).await.unwrap_err();
    assert_refused(&error, ErrorClass::Validation, "foreign_manager");
    assert_eq!(place.served().await, certificates.issued(2).fingerprint);
}

#[tokio::test]
async fn a_secret_that_waits_for_its_end_is_left_alone() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    place.create(certificates.issued(0), json!({"metadata": {"finalizers": ["example.com/slow"]}})).await;
    place.delete().await;
    let subject = place.subject(json!({"take_over": true}));
    let error = subject.plan(certificates.bundle(1)).await.unwrap_err();
    assert_refused(&error, ErrorClass::IoTransient, "being_deleted");
    place.merge(json!({"metadata": {"finalizers": null}})).await;
    subject.deliver(certificates.bundle(1), &journal()).await.unwrap();
}
