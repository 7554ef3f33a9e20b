//! The process, or the network, dies at any request that changes something.

use certlib_core::Effect;
use certlib_core::module::RollbackOutcome;
use certlib_testkit::netscaler::{Fault, Injection, NetscalerSim};
use serde_json::{Value, json};

use crate::support::{Delivered, NAME, Shop, Work, endpoint, served};

fn settings(shop: &Shop, switch: &str) -> Value {
    json!({ "switch": switch, "endpoints": [endpoint(shop.web(), NAME)] })
}

/// A delivery that died.
struct Dead {
    shop: Shop,
    work: Work,
    new: Delivered,
    before: String,
}

/// Besides `web`, a virtual server with an SNI binding; and one delivery before.
async fn prepared(switch: &str) -> Shop {
    let shop = Shop::build(NetscalerSim::builder().vserver("", "named"), "").await;
    shop.sim.bind("", "named", "shop", true).unwrap();
    shop.work(settings(&shop, switch)).deliver(&shop.pki.by_a().bundle()).await.unwrap();
    shop
}

/// Every change from the `at`-th on meets `fault`. `None` when there are not so many.
async fn dead_at(switch: &str, fault: &Fault, at: u32) -> Option<Dead> {
    let shop = prepared(switch).await;
    let before = shop.sim.snapshot("");
    let new = shop.pki.by_b();
    let work = shop.work(settings(&shop, switch));
    let plan = work.plan(&new.bundle()).await.unwrap();
    shop.sim.inject(Injection::new(fault.clone()).on_changes().after(at));
    let outcome = work.execute(&new.bundle(), &plan).await;
    shop.sim.clear_faults();
    let error = outcome.err()?;
    assert_eq!(error.effect(), Effect::Possible, "change {at}: {error:?}");
    Some(Dead { shop, work, new, before })
}

async fn is_resumed_everywhere(switch: &str, fault: Fault) {
    for at in 0.. {
        let Some(Dead { shop, work, new, before }) = dead_at(switch, &fault, at).await else {
            assert!(at >= 8, "only {at} changes");
            return;
        };
        let plan = certlib_core::module::Plan::new("netscaler", "t", "of no use any more", Vec::new());
        let facts = work.execute(&new.bundle(), &plan).await.unwrap();
        assert_eq!(facts.0["resumed"], true, "{switch}, change {at}");
        assert!(served(&work.validate(&new.bundle()).await), "{switch}, change {at}");
        assert!(shop.is_trusted().await && !shop.sim.has_unsaved_changes(""), "{switch}, change {at}");
        assert!(!work.plan(&new.bundle()).await.unwrap().changes_anything(), "{switch}, change {at}");
        assert_eq!(work.rollback().await.unwrap(), RollbackOutcome::RolledBack, "{switch}, change {at}");
        assert_eq!(shop.sim.snapshot(""), before, "{switch}, change {at}");
    }
}

async fn is_rolled_back_everywhere(switch: &str, fault: Fault) {
    for at in 0.. {
        let Some(Dead { shop, work, before, .. }) = dead_at(switch, &fault, at).await else {
            assert!(at >= 8, "only {at} changes");
            return;
        };
        let outcome = work.rollback().await.unwrap();
        assert!(!matches!(outcome, RollbackOutcome::Refused { .. }), "{switch}, change {at}: {outcome:?}");
        assert_eq!(shop.sim.snapshot(""), before, "{switch}, change {at}");
        assert_eq!(work.rollback().await.unwrap(), RollbackOutcome::NothingToDo, "{switch}, change {at}");
    }
}

#[tokio::test]
async fn an_update_is_resumed() {
    is_resumed_everywhere("update", Fault::LoseRequest).await;
    is_resumed_everywhere("update", Fault::LoseReply).await;
}

#[tokio::test]
async fn an_update_is_rolled_back() {
    is_rolled_back_everywhere("update", Fault::LoseRequest).await;
    is_rolled_back_everywhere("update", Fault::Busy { retry_after: None }).await;
}

#[tokio::test]
async fn a_rebind_is_resumed() {
    is_resumed_everywhere("rebind", Fault::LoseRequest).await;
}

#[tokio::test]
async fn a_rebind_is_rolled_back() {
    is_rolled_back_everywhere("rebind", Fault::LoseRequest).await;
    is_rolled_back_everywhere("rebind", Fault::LoseReply).await;
}

/// The way back dies as well, at every change, and is gone once more.
#[tokio::test]
async fn a_rollback_that_dies_is_finished_by_the_next() {
    for switch in ["update", "rebind"] {
        for at in 0.. {
            let shop = prepared(switch).await;
            let before = shop.sim.snapshot("");
            let mut work = shop.work(settings(&shop, switch));
            work.deliver(&shop.pki.by_b().bundle()).await.unwrap();
            shop.sim.inject(Injection::new(Fault::LoseRequest).on_changes().after(at));
            let first = work.rollback().await;
            shop.sim.clear_faults();
            if first.is_ok() {
                assert!(at >= 6, "{switch}: only {at} changes");
                break;
            }
            let second = work.rollback().await.unwrap();
            assert!(!matches!(second, RollbackOutcome::Refused { .. }), "{switch}, change {at}: {second:?}");
            assert_eq!(shop.sim.snapshot(""), before, "{switch}, change {at}");
        }
    }
}
