//! Ways to log in, and what happens when a login ends.

use std::time::Duration;

use certlib_core::error::{Effect, ErrorClass};
use certlib_core::module::{JournalSink as _, RollbackOutcome};
use certlib_testkit::pki::TestCa;
use certlib_testkit::vault::{VaultSim, VaultSimBuilder};
use serde_json::{Value, json};

use crate::common::{journal, served};
use crate::support::{Server, bundles, fields};

/// What the module's documentation says is needed.
fn documented() -> VaultSimBuilder {
    let kv2: &[(&str, &[&str])] = &[
        ("secret/data/tls/shop", &["read", "create", "update"]),
        ("secret/metadata/tls/shop", &["read", "create", "update"]),
        ("secret/delete/tls/shop", &["update"]),
    ];
    let kv1: &[(&str, &[&str])] = &[("secret/tls/shop", &["read", "create", "update", "delete"])];
    let pki: &[(&str, &[&str])] = &[
        ("secret/config/issuers", &["read", "update"]),
        ("secret/issuers", &["list"]),
        ("secret/issuer/+", &["read"]),
        ("secret/issuers/import/bundle", &["update"]),
        ("secret/certs", &["list"]),
        ("secret/roles", &["list"]),
        ("secret/roles/+", &["read"]),
    ];
    VaultSim::builder().policy("kv2", kv2).policy("kv1", kv1).policy("pki", pki)
}

/// A whole delivery and the way back; how often it logged in.
async fn life(server: &Server, credentials: Value) -> usize {
    let [bundle] = bundles();
    let subject = server.subject_with(json!({}), json!({}), credentials);
    let before = server.sim().count("auth/");
    let journal = journal();
    subject.deliver(&bundle, &journal).await.unwrap();
    assert!(served(&subject.validate(&bundle).await.unwrap()));
    assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    let after = server.sim().history().into_iter().filter(|record| record.path.starts_with("auth/"));
    after.skip(before).filter(|record| record.path.ends_with("login")).count()
}

#[tokio::test]
async fn every_way_to_log_in_delivers_with_the_documented_rights() {
    let server = Server::from_builder(documented().tls(), "kv2").await;
    let sim = server.sim();
    let policies = |more: Value| {
        let mut role = json!({"token_policies": ["kv2"], "token_ttl": "5m"});
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        role
    };
    let token = sim.create_token(&["kv2"], None).unwrap();
    assert_eq!(life(&server, json!({"method": "token", "token": token})).await, 0);

    let (role_id, secret_id) = sim.create_approle("worker", policies(json!({}))).unwrap();
    let approle = json!({"method": "approle", "role_id": role_id, "secret_id": secret_id});
    assert_eq!(life(&server, approle).await, 4, "each operation logs in for itself");

    sim.write("sys/auth/oidc/ci", json!({"type": "jwt"})).unwrap();
    sim.write("auth/oidc/ci/config", json!({"jwt_validation_pubkeys": [sim.identity_key_pem()]})).unwrap();
    let role = policies(json!({"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"]}));
    sim.write("auth/oidc/ci/role/deploy", role).unwrap();
    let jwt = sim.identity_token(json!({"sub": "ci", "aud": "vault"})).unwrap();
    let login = json!({"method": "jwt", "mount": "oidc/ci", "role": "deploy", "jwt": jwt});
    assert_eq!(life(&server, login).await, 4);

    sim.write("sys/auth/kubernetes", json!({"type": "kubernetes"})).unwrap();
    sim.write("auth/kubernetes/config", json!({"kubernetes_host": "https://k8s.example"})).unwrap();
    let role = policies(json!({"bound_service_account_names": "certlib", "bound_service_account_namespaces": "ops"}));
    sim.write("auth/kubernetes/role/certlib", role).unwrap();
    let jwt = sim.identity_token(json!({"sub": "system:serviceaccount:ops:certlib"})).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{jwt}\n")).unwrap();
    let login = json!({"method": "kubernetes", "role": "certlib", "jwt_file": file});
    assert_eq!(life(&server, login).await, 4);
    let login = json!({"method": "kubernetes", "role": "certlib", "jwt": jwt});
    assert_eq!(life(&server, login).await, 4);

    let ca = TestCa::new("clients").unwrap();
    let client = ca.issue(&["certlib.example"]).unwrap();
    sim.write("sys/auth/cert", json!({"type": "cert"})).unwrap();
    sim.write("auth/cert/certs/machines", policies(json!({"certificate": ca.certificate_pem()}))).unwrap();
    let identity = json!({"certificate_pem": client.full_chain(), "private_key_pem": client.key_pem});
    for name in [json!("machines"), Value::Null] {
        let login = json!({"method": "cert", "name": name, "identity": identity});
        assert_eq!(life(&server, login).await, 4);
    }
    // Nothing that was given out is left, but the tokens themselves that were given to us.
    let history = sim.history();
    let count = |end: &str| history.iter().filter(|record| record.path.ends_with(end)).count();
    assert_eq!(count("login"), count("revoke-self"));
}

#[tokio::test]
async fn the_documented_rights_are_enough_for_the_other_mounts() {
    for kind in ["kv1", "pki"] {
        let server = Server::from_builder(documented(), kind).await;
        let token = server.sim().create_token(&[kind], None).unwrap();
        let login = json!({"method": "token", "token": token});
        if kind == "kv1" {
            life(&server, login).await;
            continue;
        }
        server.write("secret/root/generate/internal", json!({"common_name": "own root"})).await;
        let ca = TestCa::new("new root").unwrap();
        let pem = format!("{}{}", ca.certificate_pem(), ca.key_pem());
        let bundle = certlib_core::CertificateBundle::from_pem(pem.as_bytes()).unwrap();
        let config = json!({"pki_rollback": "if_unused"});
        let subject = server.subject_with(config, json!({"kind": "pki", "path": ""}), login);
        let journal = journal();
        subject.deliver(&bundle, &journal).await.unwrap();
        assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    }
}

#[tokio::test]
async fn missing_rights_show_in_the_dry_run() {
    let full: [(&str, &[&str]); 3] = [
        ("secret/data/tls/shop", &["read", "create", "update"]),
        ("secret/metadata/tls/shop", &["read", "create", "update"]),
        ("secret/delete/tls/shop", &["update"]),
    ];
    let [bundle] = bundles();
    for (path, left, missing) in [
        ("secret/data/tls/shop", &["read"][..], "create"),
        ("secret/data/tls/shop", &["read", "create"], "update"),
        ("secret/metadata/tls/shop", &["read"], "create or update"),
        ("secret/delete/tls/shop", &[], "update"),
    ] {
        let rules: Vec<_> = full.iter().map(|(at, all)| (*at, if *at == path { left } else { *all })).collect();
        let server = Server::from_builder(VaultSim::builder().policy("some", &rules), "kv2").await;
        let token = server.sim().create_token(&["some"], None).unwrap();
        let subject = server.subject_with(json!({}), json!({}), json!({"method": "token", "token": token}));
        let error = subject.plan(&bundle).await.unwrap_err();
        assert_eq!((error.code(), error.class(), error.effect()), ("vault_forbidden", ErrorClass::Auth, Effect::None));
        let context: Vec<_> = error.context().collect();
        assert_eq!(context, [("path", path), ("missing", missing)], "{error}");
    }
    // Reading metadata is refused at once, and the message says what else would do.
    let rules = [full[0], full[2]];
    let server = Server::from_builder(VaultSim::builder().policy("some", &rules), "kv2").await;
    let token = server.sim().create_token(&["some"], None).unwrap();
    let login = json!({"method": "token", "token": token});
    let error = server.subject_with(json!({}), json!({}), login.clone()).plan(&bundle).await.unwrap_err();
    assert!(error.code() == "vault_forbidden" && error.message().contains("custom_metadata"), "{error}");
    let subject = server.subject_with(json!({"custom_metadata": false}), json!({}), login);
    subject.deliver(&bundle, &journal()).await.unwrap();
}

#[tokio::test]
async fn a_login_that_ends_in_the_middle_is_made_again_once() {
    let [old, new] = bundles();
    // So many requests a token is good for; one is enough for nothing.
    for uses in 2..9 {
        let server = Server::from_builder(documented(), "kv2").await;
        server.put(fields(&old)).await;
        let role = json!({"token_policies": ["kv2"], "token_num_uses": uses});
        let (role_id, secret_id) = server.sim().create_approle("worker", role).unwrap();
        let login = json!({"method": "approle", "role_id": role_id, "secret_id": secret_id});
        let plan = server.subject(json!({})).plan(&new).await.unwrap();
        let subject = server.subject_with(json!({}), json!({}), login);
        let journal = journal();
        let before = server.sim().count("auth/approle/login");
        let result = subject.execute(&new, plan.clone(), &journal).await;
        let logins = server.sim().count("auth/approle/login") - before;
        assert!((1..=2).contains(&logins), "{uses} uses: {logins} logins");
        if let Err(error) = result {
            assert_eq!(error.class(), ErrorClass::Auth, "{uses} uses: {error:?}");
            let writes = server.version().await > 1;
            assert!(!writes || error.effect() == Effect::Possible, "{uses} uses: {error:?}");
        } else {
            assert!(served(&server.subject(json!({})).validate(&new).await.unwrap()), "{uses} uses");
        }
        // Another attempt, with a login that lasts, comes to an end.
        let subject = server.subject(json!({}));
        subject.execute(&new, plan, &journal).await.unwrap();
        assert!(served(&subject.validate(&new).await.unwrap()), "{uses} uses");
        assert_eq!(subject.rollback(&journal).await.unwrap(), RollbackOutcome::RolledBack);
    }
}

#[tokio::test]
async fn a_token_that_ended_is_not_replaced() {
    let server = Server::from_builder(documented(), "kv2").await;
    let token = server.sim().create_token(&["kv2"], Some(Duration::from_secs(60))).unwrap();
    let subject = server.subject_with(json!({}), json!({}), json!({"method": "token", "token": token}));
    let [bundle] = bundles();
    let plan = subject.plan(&bundle).await.unwrap();
    server.sim().advance(Duration::from_secs(61));
    let journal = journal();
    let error = subject.execute(&bundle, plan, &journal).await.unwrap_err();
    assert_eq!((error.code(), error.class(), error.effect()), ("vault_forbidden", ErrorClass::Auth, Effect::None));
    assert!(journal.entries().await.unwrap().is_empty());
}

#[tokio::test]
async fn wrong_logins_are_refused_once_and_not_quoted() {
    let server = Server::from_builder(documented(), "kv2").await;
    let sim = server.sim();
    let (role_id, _) = sim.create_approle("worker", json!({"token_policies": ["kv2"]})).unwrap();
    for (mount, kind) in [("jwt", "jwt"), ("kubernetes", "kubernetes"), ("cert", "cert")] {
        sim.write(&format!("sys/auth/{mount}"), json!({"type": kind})).unwrap();
    }
    sim.write("auth/kubernetes/config", json!({"kubernetes_host": "https://k8s.example"})).unwrap();
    let role = json!({"bound_service_account_names": "a", "bound_service_account_namespaces": "b"});
    sim.write("auth/kubernetes/role/r", role).unwrap();
    let stranger = VaultSim::start().await.unwrap();
    let jwt = stranger.identity_token(json!({"sub": "system:serviceaccount:b:a"})).unwrap();
    let client = TestCa::new("clients").unwrap().issue(&["certlib.example"]).unwrap();
    let identity = json!({"certificate_pem": client.full_chain(), "private_key_pem": client.key_pem});
    let [bundle] = bundles();
    for (login, secret) in [
        (json!({"method": "approle", "role_id": role_id, "secret_id": "canary-1"}), "canary-1"),
        (json!({"method": "approle", "role_id": "nobody", "secret_id": "canary-1"}), "canary-1"),
        (json!({"method": "approle", "mount": "elsewhere", "role_id": role_id}), "canary"),
        (json!({"method": "jwt", "role": "r", "jwt": jwt}), jwt.as_str()),
        (json!({"method": "kubernetes", "role": "r", "jwt": jwt}), jwt.as_str()),
        (json!({"method": "cert", "identity": identity}), "PRIVATE KEY"),
    ] {
        let before = sim.count("auth/");
        let subject = server.subject_with(json!({}), json!({}), login.clone());
        let error = subject.plan(&bundle).await.unwrap_err();
        assert_eq!((error.code(), error.class()), ("vault_login_refused", ErrorClass::Auth), "{login}: {error:?}");
        assert_eq!(error.effect(), Effect::None);
        assert!(!format!("{error:?}").contains(secret), "{error:?}");
        assert_eq!(sim.count("auth/") - before, 1, "Vault locks out who tries too often");
    }
}

#[tokio::test]
async fn namespaces_of_login_and_mount_can_differ() {
    let server = Server::from_builder(VaultSim::builder().namespace("team/a"), "kv2").await;
    let sim = server.sim();
    sim.write("team/a/sys/mounts/secret", json!({"type": "kv", "options": {"version": "2"}})).unwrap();
    let policy = json!({"policy": r#"{"path": {"secret/*": {"capabilities":
        ["create", "read", "update", "delete", "list"]}}}"#});
    sim.write("team/a/sys/policies/acl/all", policy.clone()).unwrap();
    sim.write("team/a/sys/auth/approle", json!({"type": "approle"})).unwrap();
    sim.write("team/a/auth/approle/role/w", json!({"token_policies": ["all"]})).unwrap();
    let role_id = sim.read("team/a/auth/approle/role/w/role-id").unwrap()["role_id"].clone();
    let secret_id = sim.write("team/a/auth/approle/role/w/secret-id", json!({})).unwrap()["secret_id"].clone();
    let [bundle] = bundles();
    let login = json!({"method": "approle", "role_id": role_id, "secret_id": secret_id});
    let subject = server.subject_with(json!({}), json!({"namespace": "/team/a/"}), login.clone());
    subject.deliver(&bundle, &journal()).await.unwrap();
    let read = sim.read("team/a/secret/data/tls/shop").unwrap();
    assert_eq!(read["data"]["certificate"], bundle.leaf_pem());
    assert_eq!(server.fields().await, None, "nothing in the root");

    let wrong = server.subject_with(json!({"login_namespace": ""}), json!({"namespace": "team/a"}), login);
    assert_eq!(wrong.plan(&bundle).await.unwrap_err().code(), "vault_login_refused");
    let policy = json!({"policy": r#"{"path": {"team/a/secret/*": {"capabilities":
        ["create", "read", "update", "delete", "list"]}, "team/a/sys/*": {"capabilities": ["read", "update"]}}}"#});
    sim.write("sys/policies/acl/team", policy).unwrap();
    let (role_id, secret_id) = sim.create_approle("root-w", json!({"token_policies": ["team"]})).unwrap();
    let login = json!({"method": "approle", "role_id": role_id, "secret_id": secret_id});
    let config = json!({"login_namespace": ""});
    let subject = server.subject_with(config, json!({"namespace": "team/a", "path": "tls/other"}), login);
    subject.deliver(&bundle, &journal()).await.unwrap();
}
