//! Pairs of nodes: changes are made on the primary one only.

use certlib_core::error::{Effect, ErrorClass};
use certlib_testkit::netscaler::{Fault, Injection, NetscalerSim};
use reqwest::Method;
use serde_json::json;

use crate::support::{NAME, Shop, Work, endpoint, served};

async fn pair() -> Shop {
    Shop::build(NetscalerSim::builder().high_availability(), "").await
}

fn with_peer(shop: &Shop) -> Work {
    let mut work = shop.work(json!({ "endpoints": [endpoint(shop.web(), NAME)] }));
    work.target.location["peer_url"] = json!(shop.sim.peer_url().unwrap());
    work
}

/// No change was ever asked of a secondary node.
fn nothing_went_to_the_secondary(shop: &Shop) {
    let wrong: Vec<_> = shop.sim.history().into_iter().filter(|one| one.is_change() && !one.primary).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[tokio::test]
async fn a_secondary_node_is_refused() {
    let shop = pair().await;
    shop.sim.fail_over();
    let before = shop.sim.snapshot("");
    let work = shop.work(json!({}));
    let error = work.plan(&shop.pki.by_b().bundle()).await.unwrap_err();
    assert_eq!((error.class(), error.code()), (ErrorClass::IoTransient, "not_primary"));
    assert_eq!(error.effect(), Effect::None);
    assert!(error.message().contains("peer_url"), "{error}");
    assert_eq!((shop.sim.snapshot(""), shop.sim.sessions()), (before, 0));
}

#[tokio::test]
async fn the_primary_node_is_followed() {
    let shop = pair().await;
    let new = shop.pki.by_b();
    let mut work = with_peer(&shop);
    shop.sim.fail_over();
    work.deliver(&new.bundle()).await.unwrap();
    assert!(served(&work.validate(&new.bundle()).await));
    shop.sim.fail_over();
    work.rollback().await.unwrap();
    assert_eq!(shop.serves(NAME).await, shop.former.fingerprint(), "undone at the other node");
    nothing_went_to_the_secondary(&shop);
}

#[tokio::test]
async fn a_node_that_is_gone_is_not_missed() {
    let shop = pair().await;
    let new = shop.pki.by_b();
    let mut work = with_peer(&shop);
    let gone = certlib_testkit::ports::free_addr().unwrap();
    work.target.location["url"] = json!(format!("https://{gone}"));
    work.target.location["peer_url"] = json!(shop.sim.url());
    work.deliver(&new.bundle()).await.unwrap();
    assert_eq!(shop.serves(NAME).await, new.fingerprint());
}

/// Roles change just before each request in turn; what was lost with the old primary is noticed, and done again.
#[tokio::test]
async fn a_failover_under_way_is_noticed() {
    let mut failed = 0;
    for at in 0.. {
        let shop = pair().await;
        let before = shop.sim.snapshot("");
        let new = shop.pki.by_b();
        let work = with_peer(&shop);
        let plan = work.plan(&new.bundle()).await.unwrap();
        let seen = shop.sim.history().len();
        shop.sim.inject(Injection::new(Fault::FailOver).after(at).times(1));
        let first = work.execute(&new.bundle(), &plan).await;
        let met = shop.sim.history().len() - seen > usize::try_from(at).unwrap();
        shop.sim.clear_faults();
        if !met {
            break;
        }
        if let Err(error) = first {
            failed += 1;
            if at % 2 == 0 {
                let outcome = work.rollback().await.unwrap();
                assert_eq!(shop.sim.snapshot(""), before, "request {at}: {error:?}, {outcome:?}");
                continue;
            }
            let again = work.plan(&new.bundle()).await.unwrap();
            work.execute(&new.bundle(), &again).await.unwrap();
        }
        assert!(served(&work.validate(&new.bundle()).await), "request {at}");
        assert!(shop.is_trusted().await, "request {at}");
    }
    assert!(failed >= 5, "{failed}");
}

#[tokio::test]
async fn who_may_not_see_the_roles_goes_on() {
    let shop = Shop::new().await;
    shop.sim.deny("GET", "hanode");
    shop.sim.deny("GET", "nsconfig");
    let new = shop.pki.by_b();
    let mut work = shop.work(json!({}));
    work.deliver(&new.bundle()).await.unwrap();
    assert_eq!(shop.serves(NAME).await, new.fingerprint());
    let refuse = |status, errorcode| Injection::new(Fault::Refuse { status, errorcode }).on(Method::GET, "hanode");
    shop.sim.inject(refuse(503, 1));
    assert_eq!(work.plan(&new.bundle()).await.unwrap_err().code(), "busy", "that is no permission");
    shop.sim.clear_faults();
    shop.sim.inject(refuse(599, 4711));
    assert_eq!(work.plan(&new.bundle()).await.unwrap_err().code(), "declined", "nor is that, outside of partitions");
}

#[tokio::test]
async fn inside_of_a_partition_roles_may_be_hidden() {
    let shop = Shop::build(NetscalerSim::builder(), "tenant").await;
    let new = shop.pki.by_b();
    let mut work = shop.work(json!({}));
    // The first look comes before the partition is entered.
    let hidden = Fault::Refuse { status: 599, errorcode: 4711 };
    shop.sim.inject(Injection::new(hidden).on(Method::GET, "hanode").after(2));
    work.deliver(&new.bundle()).await.unwrap();
    assert_eq!(shop.serves(NAME).await, new.fingerprint());
}
