//! Requests that keep to the account's validation policy.

use certlib_core::{Context, ErrorClass};
use certlib_testkit::globalsign::GlobalSignSim;
use serde_json::{Value, json};

use crate::common::{finish, request, request_with};
use crate::support::issuer;

fn changed(pointer: &str, value: Value) -> Value {
    let mut policy = GlobalSignSim::default_policy();
    *policy.pointer_mut(pointer).unwrap() = value;
    policy
}

#[tokio::test]
async fn what_the_policy_wants_is_sent_and_nothing_else() {
    let cx = Context::new("test");
    let text = |presence: &str| json!({ "presence": presence, "format": "^.+$" });
    let list = |most: u64| json!({ "static": false, "list": ["^.+$"], "mincount": 0, "maxcount": most });
    let settings = json!({ "subject": {
        "organization": "Shop Ltd", "organizational_unit": ["web"], "locality": "London", "country": "GB",
    } });
    for policy in [
        GlobalSignSim::default_policy(),
        changed("/subject_dn/organization", text("REQUIRED")),
        changed("/subject_dn/locality", text("FORBIDDEN")),
        changed("/subject_dn/common_name", text("FORBIDDEN")),
        changed("/subject_dn/organizational_unit", list(2)),
        changed("/extended_key_usages/ekus/static", json!(true)),
        changed("/signature/algorithm/presence", json!("REQUIRED")),
        changed("/signature/hash_algorithm/presence", json!("FORBIDDEN")),
    ] {
        let ca = GlobalSignSim::builder().policy(policy.clone()).start().await.unwrap();
        let issuer = issuer(&ca, settings.clone()).await;
        let (wanted, _) = request(&["a.example.com"]);
        let handle = issuer.submit(&cx, &wanted).await.unwrap_or_else(|error| panic!("{policy}: {error:?}"));
        finish(issuer.as_ref(), &cx, &handle).await;
    }
}

#[tokio::test]
async fn what_the_policy_does_not_allow_is_refused_before_it_is_sent() {
    let cx = Context::new("test");
    for (policy, code) in [
        (changed("/subject_dn/organization", json!({ "presence": "REQUIRED", "format": "^.+$" })), "policy_violated"),
        (changed("/san/dns_names/list", json!(["^.*\\.example\\.org$"])), "policy_violated"),
        (changed("/public_key/key_type", json!("RSA")), "policy_violated"),
        (changed("/public_key/allowed_lengths", json!([384])), "policy_violated"),
        (changed("/validity/secondsmin", json!(100 * 86_400)), "policy_violated"),
        (changed("/public_key/key_format", json!("PKCS8")), "key_format_unsupported"),
    ] {
        let ca = GlobalSignSim::builder().policy(policy.clone()).start().await.unwrap();
        let issuer = issuer(&ca, json!({})).await;
        let (wanted, _) = request(&["a.example.com"]);
        let error = issuer.submit(&cx, &wanted).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::Validation, code), "{policy}");
        assert_eq!(ca.count("POST", "certificates"), 0, "{policy}");
    }
}

#[tokio::test]
async fn a_policy_that_was_changed_is_read_again_after_a_refusal() {
    let ca = GlobalSignSim::start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({ "subject": { "locality": "London" } })).await;
    let (wanted, _) = request(&["a.example.com"]);
    issuer.submit(&cx, &wanted).await.unwrap();
    ca.set_policy(changed("/subject_dn/locality/presence", json!("FORBIDDEN")));
    let error = issuer.submit(&cx, &wanted).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Validation);
    issuer.submit(&cx, &wanted).await.unwrap();
    assert_eq!(ca.count("GET", "validationpolicy"), 2);
}

#[tokio::test]
async fn rsa_keys_go_where_the_policy_wants_them() {
    let policy =
        changed("/public_key", json!({ "key_type": "RSA", "allowed_lengths": [2048], "key_format": "PKCS10" }));
    let ca = GlobalSignSim::builder().policy(policy).start().await.unwrap();
    let cx = Context::new("test");
    let issuer = issuer(&ca, json!({})).await;
    let (wanted, key) = request_with(&["a.example.com"], certlib_core::bundle::KeyType::Rsa2048);
    let handle = issuer.submit(&cx, &wanted).await.unwrap();
    finish(issuer.as_ref(), &cx, &handle).await.with_key(key).unwrap();
}
