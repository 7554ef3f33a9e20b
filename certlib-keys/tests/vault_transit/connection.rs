//! TLS, namespaces, redirects.

use certlib_core::ErrorClass;
use certlib_core::secret::{KeyProvider as _, SecretString};
use certlib_keys::vault_transit::{TransitKey, VaultAuth, VaultTransit, VaultTransitConfig};
use certlib_testkit::vault::{Fault, Injection, VaultSim};
use serde_json::json;

use crate::support::{KEY, Server, failure, only, round_trip};

fn provider(server: &Server, change: impl FnOnce(&mut VaultTransitConfig)) -> VaultTransit {
    let mut config = server.config(1);
    change(&mut config);
    VaultTransit::new(config).unwrap()
}

#[tokio::test]
async fn the_servers_certificate_is_verified() {
    let server = Server::from_builder(VaultSim::builder().tls()).await;
    let trusting = provider(&server, |_| {});
    let kek = only(&trusting).await;
    round_trip(&trusting, &kek).await.unwrap();
    let others = certlib_testkit::pki::TestCa::new("others").unwrap().certificate_pem().to_owned();
    let before = server.sim().history().len();
    for ca_pem in [None, Some(others)] {
        let error = failure(provider(&server, |config| config.ca_pem = ca_pem).keys().await);
        assert_eq!((error.code(), error.class()), ("tls_failed", ErrorClass::Auth), "{error:?}");
    }
    assert_eq!(server.sim().history().len(), before, "it was told nothing");
    let mut config = server.config(1);
    config.ca_pem = Some("no PEM".to_owned());
    assert_eq!(failure(VaultTransit::new(config)).code(), "config_invalid");
}

#[tokio::test]
async fn namespaces_are_asked_for_by_header() {
    let server = Server::from_builder(VaultSim::builder().namespace("team/a")).await;
    let sim = server.sim();
    sim.write("team/a/sys/mounts/own", json!({ "type": "transit" })).unwrap();
    sim.write("team/a/own/keys/certlib", json!({})).unwrap();
    sim.write("team/a/sys/auth/machines", json!({ "type": "approle" })).unwrap();
    sim.write(
        "team/a/sys/policies/acl/all",
        json!({ "policy": json!({ "path": { "own/*": { "capabilities": ["read", "update"] } } }).to_string() }),
    )
    .unwrap();
    sim.write("team/a/auth/machines/role/r", json!({ "token_policies": "all" })).unwrap();
    let role_id = sim.read("team/a/auth/machines/role/r/role-id").unwrap()["role_id"].as_str().unwrap().to_owned();
    let secret = sim.write("team/a/auth/machines/role/r/secret-id", json!({})).unwrap();
    let secret_id = Some(SecretString::new(secret["secret_id"].as_str().unwrap().to_owned()));
    let auth = VaultAuth::AppRole { mount: "machines".to_owned(), role_id, secret_id };
    let mut config = server.config_with(auth, vec![TransitKey::new(KEY, 1)]);
    config.mount = "own".to_owned();
    config.namespace = Some("team/a/".to_owned());
    let inside = VaultTransit::new(config).unwrap();
    let kek = only(&inside).await;
    round_trip(&inside, &kek).await.unwrap();
    assert_ne!(only(&provider(&server, |_| {})).await.id, kek.id);
    assert!(sim.history().iter().any(|record| record.namespace == "team/a" && record.path == "own/encrypt/certlib"));
}

#[tokio::test]
async fn a_standby_on_the_same_host_leads_to_the_active_node() {
    let server = Server::from_builder(VaultSim::builder().standby()).await;
    let standby = server.sim().standby_address().unwrap().to_owned();
    let redirected = provider(&server, |config| config.address = standby);
    let kek = only(&redirected).await;
    round_trip(&redirected, &kek).await.unwrap();
    assert!(server.sim().history().iter().any(|record| record.standby));
}

#[tokio::test]
async fn no_token_goes_to_another_host() {
    let server = Server::simulated().await;
    let elsewhere = VaultSim::start().await.unwrap();
    let port = elsewhere.addr().port();
    for location in [
        format!("http://localhost:{port}/v1/transit/keys/certlib"),
        format!("https://127.0.0.1:{port}/v1/x"),
        format!("//localhost:{port}/v1/x"),
        "::".to_owned(),
    ] {
        server.sim().inject(Injection::new(Fault::Redirect { location }).on("transit/keys/"));
        let error = failure(provider(&server, |_| {}).keys().await);
        assert_eq!((error.code(), error.class()), ("vault_standby", ErrorClass::IoTransient), "{error}");
        server.sim().clear_faults();
    }
    assert!(elsewhere.history().is_empty());
    // In circles: no longer than once.
    let location = format!("{}/v1/transit/keys/certlib", server.sim().address());
    server.sim().inject(Injection::new(Fault::Redirect { location }).on("transit/keys/"));
    assert_eq!(failure(provider(&server, |_| {}).keys().await).code(), "vault_standby");
    assert_eq!(server.sim().count("transit/keys/certlib"), 1 + 4 + 2);
}
