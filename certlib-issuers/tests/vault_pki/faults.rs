//! What goes wrong between certlib and Vault.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::bundle::{Expected, check_issued};
use certlib_core::{CertificateBundle, Context, Effect, ErrorClass};
use certlib_testkit::vault::{Fault, Injection, VaultSim};
use serde_json::json;

use crate::common::{finish, request};
use crate::support::Server;

const SIGN: &str = "pki/sign/web";

#[tokio::test]
async fn what_passes_is_transient_and_says_when_to_come_back() {
    let server = Server::simulated().await;
    let cx = Context::new("test");
    let issuer = server.issuer(json!({})).await;
    let (wanted, _) = request(&["a.shop.example"]);
    let page = |status| Fault::Answer { status, content_type: "text/html".to_owned(), body: "CANARY".to_owned() };
    for (fault, code, effect) in [
        (Fault::RateLimited { retry_after: Some(Duration::from_secs(7)) }, "vault_busy", Effect::None),
        (Fault::InternalError, "http_status", Effect::Possible),
        (page(502), "http_status", Effect::Possible),
        (page(503), "vault_sealed", Effect::Possible),
        (page(473), "vault_standby", Effect::None),
        (page(412), "vault_behind", Effect::None),
        (Fault::Redirect { location: "https://elsewhere.example/".to_owned() }, "vault_standby", Effect::None),
    ] {
        let wait = matches!(fault, Fault::RateLimited { .. }).then_some(Duration::from_secs(7));
        server.sim().inject(Injection::new(fault).on(SIGN));
        let error = issuer.submit(&cx, &wanted).await.unwrap_err();
        assert_eq!((error.class(), error.code(), error.effect()), (ErrorClass::IoTransient, code, effect), "{error:?}");
        assert_eq!(error.retry_after(), wait);
        assert!(!format!("{error:?}").contains("CANARY"));
        server.sim().clear_faults();
    }
    assert!(server.serials().await.is_empty());
    server.sim().seal();
    assert_eq!(issuer.submit(&cx, &wanted).await.unwrap_err().code(), "vault_sealed");
    server.sim().unseal();
    issuer.submit(&cx, &wanted).await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_behind_is_asked_again() {
    let server = Server::simulated().await;
    let cx = Context::new("test");
    let issuer = server.issuer(json!({})).await;
    let (wanted, _) = request(&["a.shop.example"]);
    server.sim().inject(Injection::new(Fault::Stale).on(SIGN).times(2));
    finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await;
    assert_eq!((server.sim().count(SIGN), server.serials().await.len()), (3, 1));
}

#[tokio::test]
async fn a_standby_on_the_same_host_leads_to_the_active_node() {
    let server = Server::from_builder(VaultSim::builder().tls().standby()).await;
    let cx = Context::new("test");
    let standby = server.sim().standby_address().unwrap();
    let issuer = server.issuer(json!({ "url": standby })).await;
    let (wanted, key) = request(&["a.shop.example"]);
    let bundle = finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await;
    check_issued(&bundle, &Expected::new(&wanted.names, key.public_key(), cx.clock.now())).unwrap();
    assert!(server.sim().history().iter().any(|record| record.standby && record.path == SIGN));
}

#[tokio::test]
async fn an_answer_that_is_lost_leaves_a_second_certificate_for_the_same_key() {
    let server = Server::simulated().await;
    let cx = Context::new("test");
    let issuer = server.issuer(json!({})).await;
    let (wanted, key) = request(&["a.shop.example"]);
    server.sim().inject(Injection::new(Fault::LoseReply).on(SIGN).times(1));
    let error = issuer.submit(&cx, &wanted).await.unwrap_err();
    assert!(error.class().is_retryable() && error.effect() == Effect::Possible, "{error:?}");
    assert_eq!(server.serials().await.len(), 1);
    let bundle = finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await;
    check_issued(&bundle, &Expected::new(&wanted.names, key.public_key(), cx.clock.now())).unwrap();
    assert_eq!(server.serials().await.len(), 2);
}

#[tokio::test]
async fn an_answer_that_is_none_of_vaults_is_no_certificate() {
    let server = Server::simulated().await;
    let cx = Context::new("test");
    let issuer = server.issuer(json!({})).await;
    let (wanted, _) = request(&["a.shop.example"]);
    let page = Fault::Answer { status: 200, content_type: "text/html".to_owned(), body: "<html>CANARY".to_owned() };
    for fault in [
        page,
        Fault::ReplaceData(json!({})),
        Fault::ReplaceData(json!({ "certificate": "CANARY", "serial_number": "01" })),
        Fault::ReplaceData(json!({ "certificate": 7, "serial_number": "01" })),
    ] {
        server.sim().inject(Injection::new(fault).on(SIGN));
        let error = issuer.submit(&cx, &wanted).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (ErrorClass::IoPermanent, "answer_invalid"));
        assert_ne!(error.effect(), Effect::None, "something was signed: {error:?}");
        assert!(!format!("{error:?}").contains("CANARY"), "{error:?}");
        server.sim().clear_faults();
    }
}

#[tokio::test]
async fn chains_of_servers_with_one_authority_end_before_the_root() {
    let server = Server::simulated().await;
    let cx = Context::new("test");
    let issuer = server.issuer(json!({})).await;
    let (wanted, _) = request(&["a.shop.example"]);
    let mut data = server.write("pki/issue/web", json!({ "common_name": "a.shop.example" })).await;
    let chain = data["ca_chain"].as_array().unwrap().clone();
    data.as_object_mut().unwrap().remove("ca_chain");
    for (authority, length) in [(&chain[0], 2), (&chain[1], 1)] {
        data["issuing_ca"] = authority.clone();
        server.sim().inject(Injection::new(Fault::ReplaceData(data.clone())).on(SIGN));
        let bundle = finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await;
        assert_eq!(bundle.certificates().len(), length);
        server.sim().clear_faults();
    }
}

#[tokio::test]
async fn a_certificate_for_somebody_else_is_noticed() {
    let server = Server::simulated().await;
    let cx = Context::new("test");
    let issuer = server.issuer(json!({})).await;
    let other = server.write("pki/issue/web", json!({ "common_name": "other.example" })).await;
    server.sim().inject(Injection::new(Fault::ReplaceData(other)).on(SIGN));
    let (wanted, key) = request(&["a.shop.example"]);
    let bundle: CertificateBundle = finish(issuer.as_ref(), &cx, &issuer.submit(&cx, &wanted).await.unwrap()).await;
    let checked = check_issued(&bundle, &Expected::new(&wanted.names, key.public_key(), cx.clock.now()));
    assert_eq!(checked.unwrap_err().class(), ErrorClass::Validation);
}

#[tokio::test]
async fn a_server_that_is_gone_is_a_failure_of_the_network() {
    let server = Server::simulated().await;
    let issuer = server.issuer(json!({})).await;
    let (wanted, _) = request(&["a.shop.example"]);
    let cx = Context::new("test");
    drop(server);
    assert_eq!(issuer.submit(&cx, &wanted).await.unwrap_err().class(), ErrorClass::Network);
    drop(Arc::clone(&issuer));
}
