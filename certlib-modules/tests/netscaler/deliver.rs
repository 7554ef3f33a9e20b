//! Delivery by updating the pair: chains, files, partitions, and what is kept.

use certlib_core::module::{Validation, Verb};
use certlib_testkit::netscaler::{AdminCall, NetscalerSim};
use certlib_testkit::pki::TestCa;
use serde_json::json;

use crate::support::{Delivered, NAME, Shop, Work, config, endpoint, login, served};

#[tokio::test]
async fn an_update_keeps_bindings_and_serves_the_whole_chain() {
    let shop = Shop::new().await;
    let new = shop.pki.by_b();
    let mut work = shop.work(json!({ "endpoints": [endpoint(shop.web(), NAME)] }));
    assert_eq!(shop.serves(NAME).await, shop.former.fingerprint());
    let plan = work.plan(&new.bundle()).await.unwrap();
    let text = plan.to_string();
    for part in ["create file /nsconfig/ssl/certlib-shop-", "certkey certlib-ca-", "replace certkey shop", "save"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let facts = work.deliver(&new.bundle()).await.unwrap();
    assert_eq!((facts.0["changed"].as_bool(), facts.0["certkey"].as_str()), (Some(true), Some("shop")));
    assert_eq!(shop.serves(NAME).await, new.fingerprint());
    assert!(shop.is_trusted().await, "the chain is linked up to the root");
    assert!(served(&work.validate(&new.bundle()).await));
    assert!(!served(&work.validate(&shop.former.bundle()).await));
    assert!(!shop.sim.has_unsaved_changes("") && shop.sim.sessions() == 0);
    shop.sim.restart();
    assert_eq!(shop.serves(NAME).await, new.fingerprint(), "it was saved, and its files are there");
    assert!(shop.is_trusted().await);
}

#[tokio::test]
async fn with_the_same_issuer_it_is_one_step() {
    let shop = Shop::new().await;
    let new = shop.pki.by_a();
    let mut work = shop.work(json!({}));
    work.deliver(&new.bundle()).await.unwrap();
    assert_eq!(shop.link_of("shop").as_deref(), Some("lower-a"));
    let certkey_changes: Vec<_> =
        shop.sim.history().into_iter().filter(|one| one.is_change() && one.resource == "sslcertkey").collect();
    assert_eq!(certkey_changes.len(), 1, "{certkey_changes:?}");
    assert_eq!(certkey_changes[0].query, "action=update");
    assert!(shop.is_trusted().await);
}

#[tokio::test]
async fn a_certificate_that_is_there_is_used_whatever_its_name() {
    let shop = Shop::new().await;
    shop.sim.put_authority("", "Our Lower B 2026", shop.pki.b.certificate_pem()).unwrap();
    let before = shop.sim.certkeys("");
    let mut work = shop.work(json!({}));
    work.deliver(&shop.pki.by_b().bundle()).await.unwrap();
    assert_eq!(shop.sim.certkeys(""), before, "no certificate twice");
    assert_eq!(shop.link_of("shop").as_deref(), Some("Our Lower B 2026"));
    assert_eq!(shop.link_of("Our Lower B 2026").as_deref(), Some("upper-ca"), "linked, as it was not");
    assert!(shop.is_trusted().await);
    work.rollback().await.unwrap();
    assert_eq!(shop.link_of("Our Lower B 2026"), None, "as it was");
}

#[tokio::test]
async fn a_chain_has_no_limit() {
    // Clients give up after six, so the last one is looked at link by link.
    for levels in [5, 12] {
        let shop = Shop::new().await;
        let mut authorities = vec![shop.pki.upper.intermediate("level 1").unwrap()];
        for level in 2..=levels {
            let next = authorities.last().unwrap().intermediate(&format!("level {level}")).unwrap();
            authorities.push(next);
        }
        let chain: Vec<&TestCa> = authorities.iter().rev().chain([&shop.pki.upper]).collect();
        let new = Delivered::new(chain[0].issue(&[NAME]).unwrap(), &chain);
        let before = shop.sim.snapshot("");
        let mut work = shop.work(json!({}));
        work.deliver(&new.bundle()).await.unwrap();
        let (mut name, mut subjects) = ("shop".to_owned(), Vec::new());
        while let Some(next) = shop.link_of(&name) {
            subjects.push(shop.pair(&next)["subject"].as_str().unwrap().to_owned());
            name = next;
        }
        let wanted = (1..=levels).rev().map(|level| format!("CN=level {level}")).chain(["CN=upper".to_owned()]);
        assert_eq!(subjects, wanted.collect::<Vec<_>>());
        assert!(levels > 5 || shop.is_trusted().await);
        work.rollback().await.unwrap();
        assert_eq!(shop.sim.snapshot(""), before);
    }
}

#[tokio::test]
async fn what_is_not_there_is_added_and_bound() {
    let sim = NetscalerSim::builder().vserver("", "web").service("", "backend").start().await.unwrap();
    let ca = TestCa::new("root").unwrap();
    let first = ca.issue(&[NAME]).unwrap();
    sim.put_pair("", "default", &first.certificate_pem, &first.key_pem).unwrap();
    sim.bind("", "web", "default", false).unwrap();
    let before = sim.snapshot("");
    let mut settings = config(&sim);
    settings["bind"] = json!([{ "name": "web" }, { "kind": "service", "name": "backend", "sni": true }]);
    let web = sim.vserver("", "web").unwrap();
    settings["endpoints"] = json!([endpoint(web, NAME)]);
    let location = json!({ "url": sim.url(), "certkey": "shop" });
    let target =
        certlib_core::module::TargetSpec::new("t", "t", settings, location, login("nsroot", "nsroot-password"));
    let mut work = Work::new(target);
    let new = Delivered::new(ca.issue(&[NAME]).unwrap(), &[&ca]);
    work.deliver(&new.bundle()).await.unwrap();
    assert!(served(&work.validate(&new.bundle()).await));
    let bound = sim.read("", "sslservice_sslcertkey_binding/backend").unwrap();
    assert_eq!((bound["certkeyname"].as_str(), bound["snicert"].as_bool()), (Some("shop"), Some(true)));
    assert!(!work.plan(&new.bundle()).await.unwrap().changes_anything());
    work.rollback().await.unwrap();
    assert_eq!(sim.snapshot(""), before, "the certificate that was displaced is bound again");
}

#[tokio::test]
async fn two_generations_of_files_stay() {
    let shop = Shop::new().await;
    let mut work = shop.work(json!({}));
    let ours = || shop.sim.files("").into_iter().filter(|file| file.starts_with("certlib-shop-")).collect::<Vec<_>>();
    for round in 1..=4_usize {
        let new = shop.pki.by_b();
        let plan = work.plan(&new.bundle()).await.unwrap();
        let deletions = plan.steps.iter().filter(|step| step.verb == Verb::Delete).count();
        assert_eq!(deletions, if round > 2 { 2 } else { 0 }, "{plan}");
        work.deliver(&new.bundle()).await.unwrap();
        assert_eq!(ours().len(), 2 * round.min(2), "round {round}: {:?}", ours());
    }
    let before = shop.sim.snapshot("");
    work.deliver(&shop.pki.by_b().bundle()).await.unwrap();
    work.rollback().await.unwrap();
    let after = shop.sim.snapshot("");
    assert_eq!(
        before.lines().filter(|line| line.contains("certkey shop")).collect::<Vec<_>>(),
        after.lines().filter(|line| line.contains("certkey shop")).collect::<Vec<_>>()
    );
    // What others have put there is not touched.
    assert!(shop.sim.files("").contains(&"shop.key".to_owned()));
}

#[tokio::test]
async fn an_issuer_that_nobody_needs_any_more_goes_at_the_next_renewal() {
    let shop = Shop::new().await;
    let mut work = shop.work(json!({}));
    let authorities =
        || shop.sim.certkeys("").into_iter().filter(|name| name.starts_with("certlib-ca-")).collect::<Vec<_>>();
    work.deliver(&shop.pki.by_b().bundle()).await.unwrap();
    let of_b = authorities();
    assert_eq!(of_b.len(), 1);
    work.deliver(&shop.pki.by_a().bundle()).await.unwrap();
    assert_eq!(authorities(), of_b, "rollback may need it");
    work.deliver(&shop.pki.by_a().bundle()).await.unwrap();
    assert_eq!(authorities(), Vec::<String>::new());
    assert!(!shop.sim.files("").iter().any(|file| file.starts_with("certlib-ca-")));
}

#[tokio::test]
async fn in_a_partition_everything_happens_there() {
    let shop = Shop::build(NetscalerSim::builder(), "tenant").await;
    let default = shop.sim.snapshot("");
    let new = shop.pki.by_b();
    let mut work = shop.work(json!({}));
    work.deliver(&new.bundle()).await.unwrap();
    assert_eq!(shop.serves(NAME).await, new.fingerprint());
    assert!(shop.sim.files("tenant").iter().any(|file| file.starts_with("certlib-shop-")));
    assert_eq!(shop.sim.snapshot(""), default);
    assert_eq!((shop.sim.saves("tenant") > 3, shop.sim.has_unsaved_changes("tenant")), (true, false));
    let nowhere = {
        let mut work = shop.work(json!({}));
        work.target.location["partition"] = json!("nowhere");
        work
    };
    let error = nowhere.plan(&new.bundle()).await.unwrap_err();
    assert_eq!(error.code(), "object_missing", "{error:?}");
}

#[tokio::test]
async fn an_older_build_says_the_same_with_other_numbers() {
    let shop = Shop::build(NetscalerSim::builder().older_build(), "").await;
    let new = shop.pki.by_b();
    for settings in [json!({}), json!({ "switch": "rebind" })] {
        let before = shop.sim.snapshot("");
        let mut work = shop.work(settings);
        work.deliver(&new.bundle()).await.unwrap();
        assert_eq!(shop.serves(NAME).await, new.fingerprint());
        work.rollback().await.unwrap();
        assert_eq!(shop.sim.snapshot(""), before);
    }
}

#[tokio::test]
async fn without_saving_nothing_of_others_is_saved() {
    let shop = Shop::new().await;
    shop.meddle();
    let saves = shop.sim.saves("");
    let mut work = shop.work(json!({ "save": false }));
    let new = shop.pki.by_a();
    let plan = work.plan(&new.bundle()).await.unwrap();
    assert!(!plan.to_string().contains("save"), "{plan}");
    work.deliver(&new.bundle()).await.unwrap();
    assert_eq!(shop.sim.saves(""), saves);
    let saving = shop.work(json!({})).plan(&shop.pki.by_a().bundle()).await.unwrap();
    assert!(saving.to_string().contains("somebody else has not saved"), "{saving}");
}

#[tokio::test]
async fn read_back_says_what_is_missing() {
    let shop = Shop::new().await;
    let new = shop.pki.by_b();
    let mut work = shop.work(json!({ "bind": [{ "name": "web" }] }));
    let reason = |validation| match validation {
        Validation::NotServed { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    assert!(reason(work.validate(&new.bundle()).await).contains("does not hold"));
    work.deliver(&new.bundle()).await.unwrap();
    assert!(served(&work.validate(&new.bundle()).await));
    let call = |call| shop.sim.call("", &call).unwrap();
    call(AdminCall::post("sslcertkey?action=unlink", json!({ "certkey": "shop" })));
    assert!(reason(work.validate(&new.bundle()).await).contains("not linked"));
    let again = shop.work(json!({ "chain": "keep" }));
    assert!(served(&again.validate(&new.bundle()).await), "links are not looked at");
    call(AdminCall::delete("sslvserver_sslcertkey_binding/web?args=certkeyname:shop"));
    assert!(reason(work.validate(&new.bundle()).await).contains("not linked"));
    assert!(
        reason(shop.work(json!({ "chain": "keep", "bind": [{ "name": "web" }] })).validate(&new.bundle()).await)
            .contains("not bound")
    );
}

#[tokio::test]
async fn another_folder_is_named_in_the_pair() {
    let shop = Shop::new().await;
    let mut work = shop.work(json!({ "folder": "/nsconfig/ssl/certlib" }));
    let new = shop.pki.by_b();
    work.deliver(&new.bundle()).await.unwrap();
    assert!(shop.pair("shop")["cert"].as_str().unwrap().starts_with("/nsconfig/ssl/certlib/certlib-shop-"));
    assert_eq!(shop.serves(NAME).await, new.fingerprint());
    work.rollback().await.unwrap();
    assert_eq!(shop.serves(NAME).await, shop.former.fingerprint());
}
