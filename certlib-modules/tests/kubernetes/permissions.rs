//! What the login may do: the documented role is enough, and every verb of it is missed.

use certlib_core::error::{Effect, ErrorClass};
use certlib_core::module::RollbackOutcome;
use serde_json::json;

use crate::common::journal;
use crate::support::{Certificates, NAME, Place, documented_rules, rules, server};

#[tokio::test]
async fn each_verb_is_needed_and_its_lack_shows_in_the_dry_run() {
    let Some(server) = server().await else { return };
    let certificates = Certificates::new();
    // The verbs that are granted; whether the Secret exists; the verb that the error names.
    for (verbs, exists, missing) in [
        (vec!["list"], true, "get"),
        (vec!["list", "watch", "patch", "create"], true, "get"),
        (vec!["get"], true, "patch or create"),
        (vec!["get", "update"], true, "patch or create"),
        (vec!["get", "patch"], false, "patch or create"),
        (vec!["get", "create"], false, "patch or create"),
    ] {
        let place = Place::with_rules(server, &rules(&verbs)).await;
        if exists {
            place.create(certificates.issued(0), json!({})).await;
        }
        let before = place.state().await;
        let error = place.subject(json!({"take_over": true})).plan(certificates.bundle(1)).await.unwrap_err();
        assert_eq!((error.class(), error.code(), error.effect()), (ErrorClass::Auth, "forbidden", Effect::None));
        let secret = format!("{}/{NAME}", place.namespace);
        for pair in [("verb", missing), ("secret", secret.as_str()), ("status", "403")] {
            assert!(error.context().any(|context| context == pair), "{verbs:?}: {pair:?} is missing in {error}");
        }
        assert_eq!(place.state().await, before);
    }
}

#[tokio::test]
async fn a_secret_that_could_not_be_deleted_again_is_planned_as_irreversible() {
    let Some(server) = server().await else { return };
    let certificates = Certificates::new();
    let place = Place::with_rules(server, &rules(&["get", "create", "patch"])).await;
    let subject = place.subject(json!({}));
    let undo = journal();
    let plan = subject.plan(certificates.bundle(0)).await.unwrap();
    assert!(!plan.steps[0].reversible, "{plan}");
    subject.execute(certificates.bundle(0), plan, &undo).await.unwrap();
    let error = subject.rollback(&undo).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "forbidden"));
    assert!(error.context().any(|pair| pair == ("verb", "delete")), "{error}");

    // Granted later, it works.
    let role = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles/certlib", place.namespace);
    let mut granted = server.ask("GET", &role, None).await.unwrap();
    granted["rules"] = documented_rules();
    server.ask("PUT", &role, Some(&granted)).await.unwrap();
    let limit = std::time::Duration::from_secs(30);
    let outcome =
        certlib_testkit::process::poll_until("the permission", limit, async || subject.rollback(&undo).await.ok());
    assert_eq!(outcome.await.unwrap(), RollbackOutcome::RolledBack);
    assert_eq!(place.get().await, None);
}

#[tokio::test]
async fn other_secrets_are_out_of_reach() {
    let Some(server) = server().await else { return };
    let (place, certificates) = (Place::new(server).await, Certificates::new());
    let mut subject = place.subject(json!({}));
    subject.target.location["name"] = json!("another");
    assert_eq!(subject.plan(certificates.bundle(0)).await.unwrap_err().code(), "forbidden");
    subject.target.location["name"] = json!(NAME);
    subject.target.location["namespace"] = json!("kube-system");
    assert_eq!(subject.plan(certificates.bundle(0)).await.unwrap_err().code(), "forbidden");
}
