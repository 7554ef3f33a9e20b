//! What a delivery does, and what it refuses to do.

use certlib_core::error::{Effect, ErrorClass};
use certlib_core::module::{Validation, Verb};
use certlib_testkit::locate::locate;
use certlib_testkit::pki::Issued;
use certlib_testkit::{process, require, tls};
use serde_json::{Value, json};

use crate::common::{journal, served};
use crate::lab::{BACK, Lab, SHOP, SHOP_PATH};

#[tokio::test]
async fn a_delivery_is_served_saved_and_leaves_nothing_behind() {
    let lab = Lab::new().await;
    let subject = lab.subject(|config, _| config["endpoints"] = lab.endpoints());
    let bundle = lab.bundle(1);
    assert!(!served(&subject.validate(&bundle).await.unwrap()));
    let facts = subject.deliver(&bundle, &journal()).await.unwrap();
    assert_eq!(facts.0["changed"], json!([format!("client-ssl {SHOP} [former]"), format!("server-ssl {BACK}")]));
    assert_eq!((facts.0["saved"].clone(), facts.0["created"].as_array().unwrap().len()), (json!(true), 3));
    assert!(served(&subject.validate(&bundle).await.unwrap()));
    for address in [lab.served, lab.heir] {
        assert_eq!(tls::leaf_fingerprint(address, "shop.example").await.unwrap(), lab.issued(1).fingerprint);
    }
    assert!(lab.bigip.is_saved());
    lab.bigip.reboot();
    assert!(served(&subject.validate(&bundle).await.unwrap()), "also after a reboot");
    lab.assert_clean();
    let made = lab.bigip.files().into_iter().filter(|name| name.contains("certlib_")).count();
    assert_eq!(made, 3, "{:?}", lab.bigip.files());
    let entry = &lab.bigip.operate("GET", SHOP_PATH, Value::Null).unwrap()["certKeyChain"][0];
    assert_eq!(entry["name"], "former", "the entry keeps its name");
    assert!(entry["chain"].as_str().unwrap().contains(".chain-"));
}

#[tokio::test]
async fn all_is_switched_in_one_transaction() {
    let lab = Lab::new().await;
    lab.plain().deliver(&lab.bundle(1), &journal()).await.unwrap();
    let history = lab.bigip.history();
    let inside: Vec<String> = history
        .iter()
        .filter(|record| record.coordination.is_some())
        .map(|record| format!("{} {}", record.method, record.path))
        .collect();
    let expected = [
        "POST tm/sys/file/ssl-key",
        "POST tm/sys/file/ssl-cert",
        "POST tm/sys/file/ssl-cert",
        "PATCH tm/ltm/profile/client-ssl/~Common~shop",
        "PATCH tm/ltm/profile/server-ssl/~Common~back",
    ];
    assert_eq!(inside, expected);
    let commits: Vec<_> = history
        .iter()
        .filter(|record| record.method == "PATCH" && record.path.starts_with("tm/transaction/"))
        .collect();
    assert_eq!(commits.len(), 1);
    assert!(commits[0].coordination.is_none(), "a commit is not part of itself");
    let outside = history.iter().filter(|record| record.coordination.is_none() && record.method != "GET");
    let changes = outside.filter(|record| record.path.starts_with("tm/ltm") || record.path.starts_with("tm/sys/file"));
    assert_eq!(changes.count(), 0, "nothing is changed outside of it");
}

#[tokio::test]
async fn a_plan_reads_well() {
    let lab = Lab::new().await;
    let subject = lab.subject(|config, _| config["sync_group"] = json!("pair"));
    let plan = subject.plan(&lab.bundle(1)).await.unwrap();
    let verbs: Vec<Verb> = plan.steps.iter().map(|step| step.verb).collect();
    let expected = [vec![Verb::Call; 4], vec![Verb::Create; 3], vec![Verb::Replace; 2], vec![Verb::Call; 4]];
    assert_eq!(verbs, expected.concat(), "{plan}");
    assert!(plan.differs_from(&plan).is_empty(), "each step can be told from the others");
    let text = plan.to_string();
    for part in [
        "call POST /mgmt/shared/file-transfer/uploads (private key): of",
        "call POST /mgmt/tm/transaction: begin: 3 objects and 2 profiles, all or nothing",
        "create sys file ssl-key /Common/certlib_",
        "replace ltm profile client-ssl /Common/shop [former]: cert /Common/former.crt",
        "inherited by /Common/heir; used by /Common/vs_heir, /Common/vs_shop",
        "replace ltm profile server-ssl /Common/back",
        "call PATCH /mgmt/tm/transaction: commit",
        "call POST /mgmt/tm/util/unix-rm: the uploads",
        "call POST /mgmt/tm/sys/config: save",
        "call POST /mgmt/tm/cm: config-sync to-group pair",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let writes = lab.bigip.history().into_iter().filter(|record| record.method != "GET");
    assert!(writes.into_iter().all(|record| record.path.starts_with("shared/auth")), "a dry run only logs in and out");
    lab.assert_clean();
}

#[tokio::test]
async fn virtual_servers_are_part_of_the_plan() {
    let lab = Lab::new().await;
    let subject = lab.plain();
    let plan = subject.plan(&lab.bundle(1)).await.unwrap();
    lab.bigip.add_virtual("/Common/vs_new", &[SHOP]).unwrap();
    let error = subject.execute(&lab.bundle(1), plan.clone(), &journal()).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("plan_stale", Effect::None));
    let again = subject.plan(&lab.bundle(1)).await.unwrap();
    assert!(again.to_string().contains("/Common/vs_new") && again.base != plan.base);
    let silent = lab.subject(|config, _| config["list_virtual_servers"] = json!(false));
    assert!(!silent.plan(&lab.bundle(1)).await.unwrap().to_string().contains("used by"));
    let other = subject.execute(&lab.bundle(2), again, &journal()).await.unwrap_err();
    assert_eq!(other.code(), "plan_stale", "another certificate than the plan was made for");
}

#[tokio::test]
async fn partitions_and_folders() {
    let lab = Lab::new().await;
    let entry = json!([{ "name": "x", "cert": "/Common/former.crt", "key": "/Common/former.key" }]);
    let body = json!({ "name": "shop", "partition": "Tenant", "subPath": "app", "certKeyChain": entry });
    lab.bigip.operate("POST", "tm/ltm/profile/client-ssl", body).unwrap();
    for (folder, expected) in [(None, "/Tenant/app/certlib_"), (Some("/Common"), "/Common/certlib_")] {
        let number = if folder.is_none() { 1 } else { 2 };
        let subject = lab.subject(|_, location| {
            location["profiles"] = json!([{ "name": "/Tenant/app/shop" }]);
            location["folder"] = json!(folder);
        });
        let log = journal();
        subject.deliver(&lab.bundle(number), &log).await.unwrap();
        assert_eq!(lab.bigip.certificates_of("/Tenant/app/shop"), [lab.issued(number).fingerprint.clone()]);
        assert_eq!(lab.bigip.files().iter().filter(|name| name.starts_with(expected)).count(), 3);
        assert!(served(&subject.validate(&lab.bundle(number)).await.unwrap()));
        subject.rollback(&log).await.unwrap();
        assert_eq!(lab.bigip.files().iter().filter(|name| name.starts_with(expected)).count(), 0);
    }
    let nowhere = lab.subject(|_, location| location["folder"] = json!("/Common/absent"));
    let error = nowhere.deliver(&lab.bundle(1), &journal()).await.unwrap_err();
    assert_eq!((error.code(), error.effect()), ("transaction_failed", Effect::None));
    lab.assert_clean();
}

#[tokio::test]
async fn one_of_several_entries() {
    let lab = Lab::new().await;
    lab.bigip.install("/Common/other", lab.issued(4)).unwrap();
    lab.bigip.add_client_ssl("/Common/two", &["/Common/former", "/Common/other"]).unwrap();
    let to = |entry: Value| {
        lab.subject(|_, location| location["profiles"] = json!([{ "name": "/Common/two", "entry": entry }]))
    };
    let code = async |entry: Value| to(entry).plan(&lab.bundle(1)).await.unwrap_err().code().to_owned();
    assert_eq!(code(Value::Null).await, "entry_ambiguous", "both have the same kind of key");
    assert_eq!(code(json!("absent")).await, "entry_missing");
    let (subject, log) = (to(json!("other")), journal());
    subject.deliver(&lab.bundle(1), &log).await.unwrap();
    let (former, new, other) = (&lab.issued(0).fingerprint, &lab.issued(1).fingerprint, &lab.issued(4).fingerprint);
    assert_eq!(lab.bigip.certificates_of("/Common/two"), [former.clone(), new.clone()]);
    assert!(served(&subject.validate(&lab.bundle(1)).await.unwrap()));
    assert!(!served(&to(json!("former")).validate(&lab.bundle(1)).await.unwrap()), "the other entry has not");
    // Somebody else changes the entry that is not ours: that stays.
    lab.bigip.install("/Common/theirs", lab.issued(3)).unwrap();
    let mut entries =
        lab.bigip.operate("GET", "tm/ltm/profile/client-ssl/two", Value::Null).unwrap()["certKeyChain"].clone();
    (entries[0]["cert"], entries[0]["key"]) = (json!("/Common/theirs.crt"), json!("/Common/theirs.key"));
    lab.bigip.operate("PATCH", "tm/ltm/profile/client-ssl/two", json!({ "certKeyChain": entries })).unwrap();
    subject.rollback(&log).await.unwrap();
    assert_eq!(lab.bigip.certificates_of("/Common/two"), [lab.issued(3).fingerprint.clone(), other.clone()]);
}

#[tokio::test]
async fn the_kind_of_key_tells_which_entry() {
    let openssl = require!(locate("openssl").await);
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(openssl);
    command
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=shop.example", "-days", "30"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder.path());
    process::run(command, b"").await.unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let lab = Lab::new().await;
    let mut rsa: Issued = lab.issued(0).clone();
    (rsa.certificate_pem, rsa.key_pem) = (read("cert.pem"), read("key.pem"));
    rsa.fingerprint = tls::fingerprint(&pem_der(&rsa.certificate_pem));
    lab.bigip.install("/Common/rsa", &rsa).unwrap();
    lab.bigip.add_client_ssl("/Common/both", &["/Common/rsa", "/Common/former"]).unwrap();
    let subject = lab.subject(|_, location| location["profiles"] = json!([{ "name": "/Common/both" }]));
    subject.deliver(&lab.bundle(1), &journal()).await.unwrap();
    assert_eq!(lab.bigip.certificates_of("/Common/both"), [rsa.fingerprint, lab.issued(1).fingerprint.clone()]);
    assert!(served(&subject.validate(&lab.bundle(1)).await.unwrap()));
}

fn pem_der(pem: &str) -> Vec<u8> {
    use base64::Engine as _;

    let lines: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(lines).unwrap()
}

#[tokio::test]
async fn a_profile_without_a_certificate_gets_one_and_loses_it_again() {
    let lab = Lab::new().await;
    lab.bigip.operate("POST", "tm/ltm/profile/server-ssl", json!({ "name": "empty" })).unwrap();
    // What it inherits is nothing.
    let to = json!([{ "name": "/Common/empty", "kind": "server-ssl" }]);
    let subject = lab.subject(|_, location| location["profiles"] = to);
    let (before, log) = (lab.bigip.describe(), journal());
    subject.deliver(&lab.bundle(1), &log).await.unwrap();
    assert!(served(&subject.validate(&lab.bundle(1)).await.unwrap()));
    subject.rollback(&log).await.unwrap();
    let shown = lab.bigip.operate("GET", "tm/ltm/profile/server-ssl/empty", Value::Null).unwrap();
    assert_eq!((&shown["cert"], &shown["key"]), (&json!("none"), &json!("none")));
    let files = |text: &str| text.lines().filter(|line| line.starts_with("cert") || line.starts_with("key")).count();
    assert_eq!(files(&lab.bigip.describe()), files(&before));
}

#[tokio::test]
async fn what_cannot_be_delivered_to() {
    let lab = Lab::new().await;
    let code = async |profile: Value| {
        let subject = lab.subject(|_, location| location["profiles"] = json!([profile]));
        let error = subject.plan(&lab.bundle(1)).await.unwrap_err();
        assert_eq!((error.class(), error.effect()), (ErrorClass::Validation, Effect::None), "{error}");
        error.code().to_owned()
    };
    assert_eq!(code(json!({ "name": "/Common/absent" })).await, "profile_missing");
    assert_eq!(code(json!({ "name": "/Common/heir" })).await, "profile_inherits");
    assert_eq!(code(json!({ "name": SHOP, "entry": "absent" })).await, "entry_missing");
    let absent = lab.subject(|_, location| location["profiles"] = json!([{ "name": "/Common/absent" }]));
    match absent.validate(&lab.bundle(1)).await.unwrap() {
        Validation::NotServed { reason, .. } => assert!(reason.contains("does not exist"), "{reason}"),
        validation => panic!("{validation:?}"),
    }
    let without_key = certlib_core::CertificateBundle::from_pem(lab.issued(1).full_chain().as_bytes()).unwrap();
    assert_eq!(lab.plain().plan(&without_key).await.unwrap_err().code(), "key_missing");
    lab.assert_clean();
}

#[tokio::test]
async fn names_that_are_taken() {
    let lab = Lab::new().await;
    let (subject, log) = (lab.plain(), journal());
    subject.deliver(&lab.bundle(1), &log).await.unwrap();
    let made = lab.bigip.files().into_iter().find(|name| name.contains("certlib_") && name.ends_with("example.crt"));
    let stem = made.unwrap().trim_end_matches(".crt").to_owned();
    // The profile goes back, the objects stay: they are used again.
    let entry = json!([{ "name": "former", "cert": "/Common/former.crt", "key": "/Common/former.key" }]);
    lab.bigip.operate("PATCH", SHOP_PATH, json!({ "certKeyChain": entry })).unwrap();
    let plan = subject.plan(&lab.bundle(1)).await.unwrap();
    assert_eq!(plan.steps.iter().filter(|step| step.verb == Verb::Create).count(), 0, "{plan}");
    let again = journal();
    subject.execute(&lab.bundle(1), plan, &again).await.unwrap();
    assert_eq!(lab.selected(), lab.issued(1).fingerprint);
    subject.rollback(&again).await.unwrap();
    assert!(lab.bigip.files().contains(&format!("{stem}.crt")), "what was there before stays");
    // Somebody else puts other content there.
    let back = json!({ "cert": "/Common/former.crt", "key": "/Common/former.key", "chain": "none" });
    lab.bigip.operate("PATCH", "tm/ltm/profile/server-ssl/back", back).unwrap();
    lab.bigip.install(&stem, lab.issued(4)).unwrap();
    assert_eq!(subject.plan(&lab.bundle(1)).await.unwrap_err().code(), "name_taken");
}
