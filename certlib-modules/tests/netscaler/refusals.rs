//! What is refused, with which code, and that nothing happens then.

use certlib_core::error::{Effect, ErrorClass};
use certlib_core::module::{ErasedModule, TargetSpec};
use certlib_modules::netscaler::NetScaler;
use certlib_testkit::netscaler::AdminCall;
use certlib_testkit::pki::TestCa;
use serde_json::{Value, json};

use crate::support::{Delivered, NAME, Shop, login};

#[test]
fn bad_settings() {
    let cases: [(Value, Value, Value, &str); 17] = [
        (json!({}), json!({ "url": "http://ns.example.com" }), json!({}), "url_invalid"),
        (json!({}), json!({ "url": "https://user@ns.example.com" }), json!({}), "url_invalid"),
        (json!({}), json!({ "url": "https://10.0.0.1" }), json!({}), "address_forbidden"),
        (json!({}), json!({ "peer_url": "https://169.254.169.254" }), json!({}), "address_forbidden"),
        (json!({}), json!({ "certkey": "" }), json!({}), "certkey_invalid"),
        (json!({}), json!({ "certkey": "-shop" }), json!({}), "certkey_invalid"),
        (json!({}), json!({ "certkey": "a/b" }), json!({}), "certkey_invalid"),
        (json!({}), json!({ "certkey": "x".repeat(64) }), json!({}), "certkey_invalid"),
        (json!({}), json!({ "partition": "a/../b" }), json!({}), "partition_invalid"),
        (json!({ "folder": "nsconfig" }), json!({}), json!({}), "folder_invalid"),
        (json!({ "folder": "/nsconfig/../etc" }), json!({}), json!({}), "folder_invalid"),
        (json!({ "bind": [{ "name": "" }] }), json!({}), json!({}), "bind_invalid"),
        (json!({ "bind": [{ "name": "a" }, { "name": "a", "sni": true }] }), json!({}), json!({}), "bind_invalid"),
        (json!({ "endpoints": [{ "host": "" }] }), json!({}), json!({}), "endpoint_invalid"),
        (json!({ "connection": { "timeouts": { "total_ms": 0 } } }), json!({}), json!({}), "timeout_invalid"),
        (json!({}), json!({}), json!({ "username": "" }), "credentials_invalid"),
        (json!({}), json!({}), json!({ "password": "a\nb" }), "credentials_invalid"),
    ];
    let merged = |base: Value, more: Value| {
        let mut base = base;
        base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        base
    };
    for (config, location, credentials, code) in cases {
        let location = merged(json!({ "url": "https://ns.example.com", "certkey": "shop" }), location);
        let credentials = merged(json!({ "username": "u", "password": "p" }), credentials);
        let target = TargetSpec::new("t", "t", config.clone(), location.clone(), Some(credentials.to_string().into()));
        let error = ErasedModule::check(&NetScaler::new(), &target).unwrap_err();
        assert_eq!(error.code(), code, "{config} {location}");
        assert_eq!((error.class(), error.effect()), (ErrorClass::Validation, Effect::None));
    }
    for (config, code) in [
        (json!({ "switch": "sideways" }), "config_invalid"),
        (json!({ "chain": 1 }), "config_invalid"),
        (json!({ "bind": [{ "name": "a", "port": 1 }] }), "config_invalid"),
    ] {
        let location = json!({ "url": "https://ns.example.com", "certkey": "shop" });
        let target = TargetSpec::new("t", "t", config, location, login("u", "p"));
        assert_eq!(ErasedModule::check(&NetScaler::new(), &target).unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_tried_once() {
    let shop = Shop::new().await;
    let mut work = shop.work(json!({}));
    work.target.credentials = login("nsroot", "not-the-password");
    let error = work.plan(&shop.pki.by_b().bundle()).await.unwrap_err();
    assert_eq!((error.class(), error.code(), error.effect()), (ErrorClass::Auth, "login_refused", Effect::None));
    assert!(!format!("{error:?}").contains("not-the-password"));
    assert_eq!(shop.sim.history().len(), 1, "accounts are locked after a few tries");
}

#[tokio::test]
async fn missing_permissions_are_named() {
    let shop = Shop::new().await;
    let new = shop.pki.by_b();
    for (method, resource, in_plan) in [
        ("GET", "sslcertkey", true),
        ("GET", "systemfile", true),
        ("POST", "systemfile", false),
        ("POST", "sslcertkey", false),
    ] {
        let before = shop.sim.snapshot("");
        shop.sim.deny(method, resource);
        let mut work = shop.work(json!({}));
        let error = match work.plan(&new.bundle()).await {
            Err(error) => {
                assert!(in_plan, "{method} {resource}");
                error
            }
            Ok(_) => work.deliver(&new.bundle()).await.unwrap_err(),
        };
        assert_eq!((error.class(), error.code()), (ErrorClass::Auth, "not_authorised"), "{method} {resource}");
        assert!(error.context().any(|(key, value)| key == "request" && value.contains(resource)), "{error:?}");
        shop.sim.allow_everything();
        work.rollback().await.unwrap();
        assert_eq!(shop.sim.snapshot(""), before, "{method} {resource}");
    }
}

#[tokio::test]
async fn a_shared_link_is_not_bent() {
    let shop = Shop::new().await;
    // B is there, but linked to a twin of the upper authority that has the same name and another certificate.
    let twin = TestCa::new("upper").unwrap();
    shop.sim.put_authority("", "twin", twin.certificate_pem()).unwrap();
    shop.sim.put_authority("", "lower-b", shop.pki.b.certificate_pem()).unwrap();
    shop.sim.link("", "lower-b", "twin").unwrap();
    let new = shop.pki.by_b();
    let before = shop.sim.snapshot("");
    let error = shop.work(json!({})).plan(&new.bundle()).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "chain_conflict"), "{error:?}");
    assert_eq!(shop.sim.snapshot(""), before);
    let mut lenient = shop.work(json!({ "chain": "lenient" }));
    lenient.deliver(&new.bundle()).await.unwrap();
    assert_eq!(shop.link_of("lower-b").as_deref(), Some("twin"));
    assert_eq!(shop.serves(NAME).await, new.fingerprint());
}

#[tokio::test]
async fn links_can_be_left_alone() {
    let shop = Shop::new().await;
    let mut work = shop.work(json!({ "chain": "keep" }));
    let before = shop.sim.certkeys("");
    work.deliver(&shop.pki.by_b().bundle()).await.unwrap();
    assert_eq!(shop.link_of("shop").as_deref(), Some("lower-a"), "as the administrator made it");
    assert_eq!(shop.sim.certkeys(""), before);
}

#[tokio::test]
async fn a_certificate_that_is_there_under_another_name() {
    let shop = Shop::new().await;
    let new = shop.pki.by_b();
    shop.sim.put_pair("", "by-hand", &new.issued.certificate_pem, &new.issued.key_pem).unwrap();
    let error = shop.work(json!({})).plan(&new.bundle()).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "certificate_taken"), "{error:?}");
    assert!(error.to_string().contains("by-hand"), "{error}");
}

#[tokio::test]
async fn what_to_bind_to_must_exist() {
    let shop = Shop::new().await;
    let work = shop.work(json!({ "bind": [{ "kind": "service_group", "name": "nowhere" }] }));
    let error = work.plan(&shop.pki.by_b().bundle()).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "holder_missing"), "{error:?}");
}

#[tokio::test]
async fn the_appliances_domain_check_can_be_had() {
    let shop = Shop::new().await;
    let other = Delivered::new(shop.pki.a.issue(&["other.example"]).unwrap(), &[&shop.pki.a, &shop.pki.upper]);
    let before = shop.sim.snapshot("");
    let mut strict = shop.work(json!({ "domain_check": true }));
    let error = strict.deliver(&other.bundle()).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoPermanent, "declined"), "{error:?}");
    strict.rollback().await.unwrap();
    assert_eq!(shop.sim.snapshot(""), before);
    let mut work = shop.work(json!({}));
    work.deliver(&other.bundle()).await.unwrap();
    assert_eq!(shop.serves("other.example").await, other.fingerprint());
    work.rollback().await.unwrap();
    assert_eq!(shop.sim.snapshot(""), before);
}

#[tokio::test]
async fn without_the_key_nothing_is_planned() {
    let shop = Shop::new().await;
    let issued = shop.pki.a.issue(&[NAME]).unwrap();
    let bundle = certlib_core::CertificateBundle::from_pem(issued.certificate_pem.as_bytes()).unwrap();
    assert_eq!(shop.work(json!({})).plan(&bundle).await.unwrap_err().code(), "key_missing");
    assert!(shop.sim.history().is_empty());
}

#[tokio::test]
async fn an_encrypted_former_key_needs_its_pass_phrase() {
    let shop = Shop::new().await;
    let locked = shop.pki.by_a();
    shop.sim.put_file("", "locked.cer", locked.issued.certificate_pem.as_bytes());
    shop.sim.put_locked_key("", "locked.key", &locked.issued.key_pem, "open-sesame");
    let fields = json!({ "certkey": "shop", "cert": "locked.cer", "key": "locked.key", "passplain": "open-sesame" });
    shop.sim.call("", &AdminCall::post("sslcertkey?action=update", fields)).unwrap();
    shop.sim.save("").unwrap();
    let before = shop.sim.snapshot("");
    let new = shop.pki.by_b();
    let mut work = shop.work(json!({}));
    let error = work.plan(&new.bundle()).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::Validation, "former_key_encrypted"), "{error:?}");
    let credentials = json!({
        "username": "nsroot", "password": "nsroot-password", "former_passphrase": "open-sesame",
    });
    work.target.credentials = Some(credentials.to_string().into());
    work.deliver(&new.bundle()).await.unwrap();
    assert!(!format!("{:?}", work.journal).contains("open-sesame"));
    work.rollback().await.unwrap();
    assert_eq!(shop.sim.snapshot(""), before);
    assert_eq!(shop.serves(NAME).await, locked.fingerprint());
}
