//! Delivery by binding a new pair in place of the former one.

use certlib_testkit::netscaler::{AdminCall, NetscalerSim};
use serde_json::{Value, json};

use crate::support::{Delivered, NAME, Shop, endpoint, is_trusted, served};

fn rebind() -> Value {
    json!({ "switch": "rebind" })
}

async fn with_everything() -> Shop {
    let builder = NetscalerSim::builder().vserver("", "named").service("", "backend").service_group("", "group");
    let shop = Shop::build(builder, "").await;
    let other = Delivered::new(shop.pki.a.issue(&["other.example"]).unwrap(), &[]);
    shop.sim.put_pair("", "other", &other.issued.certificate_pem, &other.issued.key_pem).unwrap();
    shop.sim.bind("", "named", "other", false).unwrap();
    shop.sim.bind("", "named", "shop", true).unwrap();
    let bind = |resource: &str, fields| shop.sim.call("", &AdminCall::put(resource, fields)).unwrap();
    bind("sslservice_sslcertkey_binding", json!({ "servicename": "backend", "certkeyname": "shop" }));
    bind("sslservicegroup_sslcertkey_binding", json!({ "servicegroupname": "group", "certkeyname": "shop" }));
    let authority = json!({ "vservername": "web", "certkeyname": "upper-ca", "ca": true });
    bind("sslvserver_sslcertkey_binding", authority);
    shop.sim.save("").unwrap();
    shop
}

#[tokio::test]
async fn everything_that_had_the_former_pair_gets_the_new_one() {
    let shop = with_everything().await;
    let before = shop.sim.snapshot("");
    let new = shop.pki.by_b();
    let mut work = shop.work(rebind());
    let facts = work.deliver(&new.bundle()).await.unwrap();
    let pair = facts.0["certkey"].as_str().unwrap().to_owned();
    assert!(pair.starts_with("certlib-shop-") && pair.len() <= 31, "{pair}");
    assert_eq!(facts.0["rebound"].as_array().unwrap().len(), 4, "{facts:?}");
    assert_eq!(shop.serves(NAME).await, new.fingerprint());
    let named = shop.sim.vserver("", "named").unwrap();
    let by_name = certlib_testkit::tls::leaf_fingerprint(named, NAME).await.unwrap();
    assert_eq!(by_name, new.fingerprint(), "by SNI");
    assert!(is_trusted(named, NAME, shop.pki.root.certificate_pem()).await);
    for path in ["sslservice_sslcertkey_binding/backend", "sslservicegroup_sslcertkey_binding/group"] {
        assert_eq!(shop.sim.read("", path).unwrap()["certkeyname"], pair.as_str(), "{path}");
    }
    assert!(shop.sim.certkeys("").contains(&"shop".to_owned()), "the former pair stays");
    assert!(served(&work.validate(&new.bundle()).await));
    assert!(!work.plan(&new.bundle()).await.unwrap().changes_anything());
    work.rollback().await.unwrap();
    assert_eq!(shop.sim.snapshot(""), before);
}

#[tokio::test]
async fn it_is_never_without_chain() {
    let shop = Shop::new().await;
    let new = shop.pki.by_b();
    let mut work = shop.work(rebind());
    work.deliver(&new.bundle()).await.unwrap();
    let history = shop.sim.history();
    let at = |wanted: &dyn Fn(&certlib_testkit::netscaler::Record) -> bool| history.iter().rposition(wanted).unwrap();
    let linked = at(&|one| one.query == "action=link");
    let bound = at(&|one| one.resource == "sslvserver_sslcertkey_binding" && one.is_change());
    assert!(linked < bound, "linked first, then bound");
    assert!(!history.iter().any(|one| one.query == "action=unlink"));
}

#[tokio::test]
async fn renewals_leave_two_pairs_besides_the_one_of_the_administrator() {
    let shop = Shop::new().await;
    let mut work = shop.work(rebind());
    let ours =
        || shop.sim.certkeys("").into_iter().filter(|name| name.starts_with("certlib-shop-")).collect::<Vec<_>>();
    let mut last = String::new();
    for round in 1..=4_usize {
        let new = shop.pki.by_b();
        let facts = work.deliver(&new.bundle()).await.unwrap();
        last = facts.0["certkey"].as_str().unwrap().to_owned();
        assert_eq!(ours().len(), round.min(2), "round {round}: {:?}", ours());
        assert_eq!(shop.serves(NAME).await, new.fingerprint());
    }
    let files = shop.sim.files("").into_iter().filter(|file| file.starts_with("certlib-shop-")).count();
    assert_eq!(files, 4, "certificate and key, twice");
    assert!(ours().contains(&last));
    assert!(shop.sim.certkeys("").contains(&"shop".to_owned()), "not ours to remove");
    shop.sim.restart();
    assert!(shop.is_trusted().await);
}

#[tokio::test]
async fn updating_after_rebinding_is_not_confused() {
    let shop = Shop::new().await;
    let new = shop.pki.by_b();
    shop.work(rebind()).deliver(&new.bundle()).await.unwrap();
    let error = shop.work(json!({})).plan(&new.bundle()).await.unwrap_err();
    assert_eq!(error.code(), "certificate_taken", "{error:?}");
}

#[tokio::test]
async fn what_somebody_else_began_to_use_is_not_taken_away() {
    let shop = Shop::build(NetscalerSim::builder().vserver("", "second"), "").await;
    let mut work = shop.work(rebind());
    let new = shop.pki.by_b();
    let facts = work.deliver(&new.bundle()).await.unwrap();
    shop.sim.bind("", "second", facts.0["certkey"].as_str().unwrap(), false).unwrap();
    let theirs = shop.sim.snapshot("");
    assert_eq!(crate::support::refused(work.rollback().await.unwrap()), "foreign_change");
    assert_eq!(shop.sim.snapshot(""), theirs);
}

#[tokio::test]
async fn what_is_configured_is_bound_too() {
    let shop = Shop::build(NetscalerSim::builder().vserver("", "second"), "").await;
    let before = shop.sim.snapshot("");
    let second = shop.sim.vserver("", "second").unwrap();
    let endpoints = json!([endpoint(shop.web(), NAME), endpoint(second, NAME)]);
    let mut work =
        shop.work(json!({ "switch": "rebind", "bind": [{ "name": "second", "sni": true }], "endpoints": endpoints }));
    let new = shop.pki.by_a();
    work.deliver(&new.bundle()).await.unwrap();
    assert!(served(&work.validate(&new.bundle()).await));
    work.rollback().await.unwrap();
    assert_eq!(shop.sim.snapshot(""), before);
}
