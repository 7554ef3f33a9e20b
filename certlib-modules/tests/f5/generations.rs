//! Objects of former deliveries: two generations stay, and everything that something uses.

use certlib_core::module::Verb;
use serde_json::json;

use crate::common::{Subject, journal};
use crate::lab::{Lab, SHOP_PATH};

/// The fingerprints of the bundles whose objects are there, by their numbers.
fn generations(lab: &Lab) -> Vec<usize> {
    let described = lab.bigip.describe();
    let there = |number: &usize| {
        let leaf = lab.bundle(*number).leaf_pem();
        let size = format!("SHA1:{}:", leaf.len());
        described.lines().any(|line| {
            line.starts_with("cert /Common/certlib_") && line.contains(&size) && line.contains(&serial(lab, *number))
        })
    };
    (1..=4).filter(there).collect()
}

/// The part of the names that tells bundles apart.
fn serial(lab: &Lab, number: usize) -> String {
    let serial = lab.bundle(number).leaf().serial.clone();
    format!("_{}_", &serial[serial.len() - 8..])
}

/// Certificates of one test are made in the same second, so their order is that of their serial numbers.
fn in_order(lab: &Lab) -> Vec<usize> {
    let mut numbers: Vec<usize> = (1..=4).collect();
    numbers.sort_by_key(|number| (lab.bundle(*number).leaf().not_before, serial(lab, *number)));
    numbers
}

async fn deliver(lab: &Lab, subject: &Subject, number: usize) -> certlib_core::module::Facts {
    subject.deliver(&lab.bundle(number), &journal()).await.unwrap()
}

#[tokio::test]
async fn two_generations_stay() {
    let lab = Lab::new().await;
    let subject = lab.plain();
    let order = in_order(&lab);
    for number in &order[..3] {
        deliver(&lab, &subject, *number).await;
    }
    let mut expected = vec![order[1], order[2]];
    expected.sort_unstable();
    assert_eq!(generations(&lab), expected, "the one in use and the one before");
    assert!(lab.bigip.files().iter().all(|name| !name.contains(&serial(&lab, order[0]))), "keys and chains go, too");
    let plan = subject.plan(&lab.bundle(order[3])).await.unwrap();
    let removed: Vec<_> = plan.steps.iter().filter(|step| step.verb == Verb::Delete).collect();
    assert_eq!(removed.len(), 3, "{plan}");
    assert!(removed.iter().all(|step| !step.reversible && step.subject.contains(&serial(&lab, order[1]))), "{plan}");
    let log = journal();
    let facts = subject.execute(&lab.bundle(order[3]), plan, &log).await.unwrap();
    assert_eq!(facts.0["removed"].as_array().unwrap().len(), 3);
    assert_eq!(log.steps(), ["switch", "clean"]);
    assert!(lab.bigip.is_saved(), "saved after they went");
    subject.rollback(&log).await.unwrap();
    assert_eq!(lab.selected(), lab.issued(order[2]).fingerprint);
}

#[tokio::test]
async fn what_something_uses_stays() {
    let lab = Lab::new().await;
    let subject = lab.plain();
    let order = in_order(&lab);
    deliver(&lab, &subject, order[0]).await;
    let files = lab.bigip.files();
    let name = |ending: &str| {
        let own = |name: &&String| name.contains("certlib_") && name.ends_with(ending) && !name.contains("chain");
        files.iter().find(own).unwrap().clone()
    };
    let body = json!({ "name": "other", "cert": name(".crt"), "key": name(".key") });
    lab.bigip.operate("POST", "tm/ltm/profile/server-ssl", body).unwrap();
    deliver(&lab, &subject, order[1]).await;
    let facts = deliver(&lab, &subject, order[2]).await;
    assert_eq!(facts.0["removed"].as_array().unwrap().len(), 1, "only its chain, which nobody uses: {facts:?}");
    assert!(lab.bigip.files().contains(&name(".crt")) && lab.bigip.files().contains(&name(".key")));
}

#[tokio::test]
async fn other_targets_and_other_people_keep_their_objects() {
    let lab = Lab::new().await;
    let order = in_order(&lab);
    lab.bigip.install("/Common/certlib_shop_2020", lab.issued(0)).unwrap();
    let mut other = lab.plain();
    other.target.id = "t-2".to_owned();
    deliver(&lab, &other, order[0]).await;
    let theirs: Vec<String> = lab.bigip.files();
    let subject = lab.plain();
    for number in &order[1..] {
        deliver(&lab, &subject, *number).await;
    }
    assert!(theirs.iter().all(|name| lab.bigip.files().contains(name)), "{:?}", lab.bigip.files());
}

#[tokio::test]
async fn what_the_way_back_needs_stays() {
    let lab = Lab::new().await;
    let subject = lab.plain();
    let order = in_order(&lab);
    for number in &order[..2] {
        deliver(&lab, &subject, *number).await;
    }
    // Somebody goes back to the first by hand.
    let first = lab.bigip.files().into_iter().filter(|name| name.contains(&serial(&lab, order[0]))).collect::<Vec<_>>();
    let find =
        |ending: &str| first.iter().find(|name| name.ends_with(ending) && !name.contains("chain")).unwrap().clone();
    let entry = json!([{ "name": "former", "cert": find(".crt"), "key": find(".key") }]);
    lab.bigip.operate("PATCH", SHOP_PATH, json!({ "certKeyChain": entry })).unwrap();
    let log = journal();
    subject.deliver(&lab.bundle(order[2]), &log).await.unwrap();
    assert!(lab.bigip.files().contains(&find(".crt")) && lab.bigip.files().contains(&find(".key")));
    subject.rollback(&log).await.unwrap();
    assert_eq!(lab.selected(), lab.issued(order[0]).fingerprint);
}
