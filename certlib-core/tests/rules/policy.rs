use std::sync::atomic::Ordering;

use certlib_core::bundle::KeyType;
use certlib_core::client::NewCertificate;
use certlib_core::model::IssuancePolicy;
use certlib_core::policy::Violation;

use crate::common::World;
use crate::{MINUTE, issued, told};

#[tokio::test]
async fn all_that_is_not_allowed_is_named_before_anything_is_queued() {
    let world = World::new();
    let client = world.builder().build().unwrap().client();
    let id = world.certificate(&client, &["a"]).await;
    let policy = IssuancePolicy {
        key_types: vec![KeyType::EcdsaP384],
        allow_names: vec![".shop.example".into()],
        most_names: Some(1),
        export_keys: false,
        ..IssuancePolicy::new("ignored")
    };
    let set = client.set_issuance_policy("shop", "root", policy).await.unwrap();
    assert_eq!((set.id.as_str(), &client.issuance_policy("shop").await.unwrap()), ("shop", &set));

    let issuer_id = client.issuers("shop").await.unwrap().remove(0).id;
    let new = NewCertificate::new(["www.shop.example", "www.other.example"], issuer_id);
    let error = client.create_certificate("shop", new).await.unwrap_err();
    assert_eq!(error.code(), "policy_violated");
    let json = error.context().find(|(key, _)| *key == "violations").unwrap().1;
    let rules: Vec<_> = serde_json::from_str::<Vec<Violation>>(json).unwrap().into_iter().map(|one| one.rule).collect();
    assert_eq!(rules, ["key_types", "allow_names", "most_names"]);
    assert_eq!(client.certificates("shop", None, 10).await.unwrap().records.len(), 1, "nothing was made");

    // One that was there before is asked, too.
    assert_eq!(client.issue("shop", &id).await.unwrap_err().code(), "policy_violated");
    assert_eq!(world.store.stats().await.unwrap().by_kind.len(), 0, "nothing was queued");
    let error = client.material("shop", &id, None, true).await.unwrap_err();
    assert!(error.code() == "export_forbidden" || error.is_not_found(), "{error:?}");

    let invalid = IssuancePolicy { most_names: Some(0), ..set };
    assert_eq!(client.set_issuance_policy("shop", "root", invalid).await.unwrap_err().code(), "policy_invalid");
    assert!(client.issuance_policy("nobody").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_stricter_policy_takes_no_site_down_unless_it_says_so() {
    for stop_renewals in [false, true] {
        let world = World::new();
        let running = world.builder().build().unwrap().start();
        let client = running.client();
        let id = world.certificate(&client, &["a"]).await;
        issued(&world, &client, &id).await;
        let policy = IssuancePolicy { key_types: vec![KeyType::Rsa4096], stop_renewals, ..IssuancePolicy::new("shop") };
        client.set_issuance_policy("shop", "root", policy).await.unwrap();
        let due = client.certificate("shop", &id).await.unwrap().renew_at.unwrap();
        let wanted = if stop_renewals { 1 } else { 2 };
        let day = 24 * 60 * MINUTE;
        world
            .until(60 * MINUTE, || async {
                let told = told(&client).await.iter().any(|kind| kind == "certificate.policy_violated");
                let version = client.certificate("shop", &id).await.unwrap().latest_version;
                let late = certlib_core::clock::Clock::now(&*world.clock) > due + 2 * day;
                told && version == wanted && (late || !stop_renewals)
            })
            .await;
        assert_eq!(world.ca.submits.load(Ordering::SeqCst), wanted as usize);
        let times = told(&client).await.iter().filter(|kind| *kind == "certificate.policy_violated").count();
        assert_eq!(times, 1, "it is told once for each version");
        running.shutdown().await;
    }
}
