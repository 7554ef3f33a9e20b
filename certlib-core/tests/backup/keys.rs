//! Keys and secrets that are out of step.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use certlib_core::backup::check_backup;
use certlib_core::model::{CertificateState, Credential, IssuerSecret, KekFence, KeyringState, record_kinds};
use certlib_core::secret::{Aad, Sealed, SecretBytes, SecretEnvelope};
use certlib_core::store::{Record as _, StoreExt as _, WriteBatch};
use certlib_core::{Error, Result, Secret};

use crate::common::World;
use crate::{backup, check, client, credentials, empty_store, forged, keys, quiet, raw_query, restore, shop};

#[tokio::test]
async fn a_missing_key_is_named_with_what_depends_on_it() {
    let file = backup(&shop(&keys(&[(1, 1)]), 7).await).await;
    let report = check(&file, &keys(&[(2, 2)])).await.unwrap();
    assert!(!report.may_serve());
    let [kek] = &report.keks[..] else { panic!("{report:?}") };
    assert_eq!((kek.kek.version, kek.at_hand, kek.envelopes, kek.orphaned, kek.opened), (1, false, 7, 7, 0));
    assert_eq!(kek.instead, None);
    let error = report.verdict().unwrap_err();
    assert_eq!(error.code(), "kek_orphaned");
    let context: Vec<_> = error.context().collect();
    assert!(context.contains(&("count", "7")) && context.contains(&("kek", &*kek.kek.id.to_string())), "{error:?}");
    assert!(report.to_string().contains("7 do NOT: the key is missing"), "{report}");
}

#[tokio::test]
async fn the_wrong_key_under_the_right_version_is_seen() {
    let file = backup(&shop(&keys(&[(1, 1)]), 3).await).await;
    let wrong = keys(&[(1, 2)]);
    let report = check(&file, &wrong).await.unwrap();
    assert_eq!(report.keks[0].instead.as_ref(), wrong.keks().first());
    assert_eq!(report.verdict().unwrap_err().code(), "kek_orphaned");
    let target = client(&empty_store(), &wrong);
    assert_eq!(restore(&target, &file).await.unwrap_err().code(), "kek_orphaned");
    target.create_project("untouched").await.unwrap();
}

#[tokio::test]
async fn the_right_key_under_another_version_opens_everything() {
    let file = backup(&shop(&keys(&[(1, 1)]), 3).await).await;
    assert!(check(&file, &keys(&[(4, 1), (5, 5)])).await.unwrap().may_serve());
}

#[tokio::test]
async fn the_key_that_seals_is_needed_even_if_it_has_sealed_nothing() {
    let source = shop(&keys(&[(1, 1)]), 0).await;
    source.seal(b"", &Aad::new("", "", "", "")).await.unwrap();
    let report = check(&backup(&source).await, &keys(&[(2, 2)])).await.unwrap();
    assert_eq!(report.keks[0].envelopes, 0);
    assert_eq!(report.verdict().unwrap_err().code(), "kek_orphaned");
    let none = check(&backup(&source).await, &keys(&[])).await.unwrap();
    assert_eq!(none.verdict().unwrap_err().code(), "kek_orphaned");
}

#[tokio::test]
async fn secrets_that_were_swapped_are_found_and_named() {
    let envelope = keys(&[(1, 1)]);
    let file = backup(&shop(&envelope, 40).await).await;
    let sealed = |line: &str| {
        let at = line.find("\"sealed\":\"").unwrap() + 10;
        line[at..at + line[at..].find('"').unwrap()].to_owned()
    };
    // Whoever can write the file can make its checksum right. Secrets still belong where they were sealed.
    let swapped = forged(&file, |lines| {
        let places: Vec<_> = (0..lines.len()).filter(|at| lines[*at].contains("\"kind\":\"credential\"")).collect();
        let (one, other) = (sealed(&lines[places[0]]), sealed(&lines[places[1]]));
        lines[places[0]] = lines[places[0]].replace(&one, &other);
        lines[places[1]] = lines[places[1]].replace(&other, &one);
    });
    let report = check(&swapped, &envelope).await.unwrap();
    assert_eq!((report.failed, report.keks[0].failed, report.keks[0].opened), (2, 2, 38));
    assert!(report.failures.iter().all(|failure| failure.code == "envelope_rejected" && failure.kind == "credential"));
    let target = client(&empty_store(), &envelope);
    assert_eq!(restore(&target, &swapped).await.unwrap_err().code(), "record_failed");
    assert_eq!(credentials(target.store()).await.len(), 0);

    let noise = forged(&file, |lines| {
        for line in lines.iter_mut().filter(|line| line.contains("\"kind\":\"credential\"")) {
            let was = sealed(line);
            *line = line.replace(&was, "AAAA");
        }
    });
    let report = check(&noise, &envelope).await.unwrap();
    assert_eq!((report.failed, report.failures.len()), (40, 20), "the first ones are told one by one");
    assert!(report.to_string().contains("and 20 more"), "{report}");
}

/// A key provider that is away.
#[derive(Debug)]
struct Away;

#[async_trait]
impl SecretEnvelope for Away {
    async fn seal(&self, _: &[u8], _: &Aad<'_>) -> Result<Sealed> {
        Err(away())
    }

    async fn open(&self, _: &Sealed, _: &Aad<'_>) -> Result<SecretBytes> {
        Err(away())
    }

    async fn rewrap(&self, _: &Sealed, _: &Aad<'_>) -> Result<Sealed> {
        Err(away())
    }
}

fn away() -> Error {
    Error::network("test", "away", "nobody there")
}

#[tokio::test]
async fn a_provider_that_is_away_says_nothing_about_secrets() {
    let file = backup(&shop(&keys(&[(1, 1)]), 3).await).await;
    let error = check_backup(&file[..], &record_kinds(), &Away, &mut quiet()).await.unwrap_err();
    assert_eq!(error.code(), "away");
}

#[tokio::test]
async fn a_store_is_checked_like_a_file() {
    let envelope = keys(&[(1, 1)]);
    let source = shop(&envelope, 5).await;
    let report = source.check_store(&mut quiet()).await.unwrap();
    assert!(report.may_serve(), "{report}");
    assert_eq!((report.keks[0].opened, report.kinds["credential"], report.backup.clone()), (5, 5, None));

    // As after a snapshot of the database was restored next to keys of another time.
    let late = client(source.store(), &keys(&[(2, 2)]));
    let report = late.check_store(&mut quiet()).await.unwrap();
    let error = report.verdict().unwrap_err();
    assert_eq!(error.code(), "kek_orphaned");
    assert!(error.context().any(|context| context == ("count", "5")), "{error:?}");

    // A record was copied over another.
    let all = credentials(source.store()).await;
    let mut moved = source.store().load::<Credential>(&all[0].id).await.unwrap();
    moved.sealed = all[1].sealed.clone();
    source.store().update(&mut moved).await.unwrap();
    let report = source.check_store(&mut quiet()).await.unwrap();
    assert_eq!((report.failed, &report.failures[0].id), (1, &all[0].id));
    assert_eq!(report.verdict().unwrap_err().code(), "record_failed");
}

#[tokio::test]
async fn a_store_that_would_refuse_new_secrets_is_noticed() {
    let envelope = keys(&[(1, 1)]);
    let source = shop(&envelope, 1).await;
    let state = source.store().load::<KeyringState>(KeyringState::ID).await.unwrap();
    let fence = KekFence::of(&state.primary.id).last().unwrap();
    let batch = WriteBatch::new().delete::<KekFence>(&fence.id);
    source.store().commit(batch).await.unwrap();
    let report = source.check_store(&mut quiet()).await.unwrap();
    assert_eq!(report.verdict().unwrap_err().code(), "keyring_unfenced");
    // A restore makes them anew.
    let target = client(&empty_store(), &envelope);
    restore(&target, &backup(&source).await).await.unwrap();
    assert!(target.check_store(&mut quiet()).await.unwrap().may_serve());
    target.create_credential("shop", "new", &Secret::new("1".to_owned())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_of_any_kind_is_in_the_file() {
    let world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a", "b"]).await;
    let canary = Secret::new("{\"password\":\"canary-4711\"}".to_owned());
    client.create_credential("shop", "login", &canary).await.unwrap();
    client.issue("shop", &id).await.unwrap();
    world
        .until(Duration::from_millis(100), || async {
            client.certificate("shop", &id).await.unwrap().state == CertificateState::Active
        })
        .await;
    let issuer = client.certificate("shop", &id).await.unwrap().issuer_id;
    let unsealed = IssuerSecret { id: issuer, project: "shop".into(), sealed: Sealed::from_bytes(Vec::new()) };
    let sealed = client.seal(b"canary-of-an-issuer", &unsealed.sealed().unwrap().aad).await.unwrap();
    client.store().insert(IssuerSecret { sealed, ..unsealed }).await.unwrap();
    world.stop(running).await;

    let file = backup(&client).await;
    let text = std::str::from_utf8(&file).unwrap();
    let mut with_secrets = BTreeSet::new();
    for kind in record_kinds().iter() {
        for raw in client.store().query(&raw_query(kind.name())).await.unwrap().records {
            let record = kind.decode(&raw).unwrap();
            let Some(field) = record.sealed() else { continue };
            let plain = world.envelope.open(field.sealed, &field.aad).await.unwrap();
            let plain = plain.expose();
            let hex: String = plain.iter().map(|byte| format!("{byte:02x}")).collect();
            for encoded in [
                STANDARD.encode(plain),
                STANDARD_NO_PAD.encode(plain),
                URL_SAFE_NO_PAD.encode(plain),
                hex.clone(),
                hex.to_uppercase(),
            ] {
                assert!(!text.contains(&encoded), "{} {}", kind.name(), raw.id);
            }
            assert!(!file.windows(plain.len()).any(|window| window == plain), "{} {}", kind.name(), raw.id);
            assert!(text.contains(&STANDARD.encode(field.sealed.as_bytes())), "sealed, it is there");
            with_secrets.insert(kind.name());
        }
    }
    let all = BTreeSet::from(["certificate_version", "credential", "issuer_secret", "journal_entry", "order"]);
    assert_eq!(with_secrets, all);
    assert!(!text.contains("4711") && !text.contains("PRIVATE KEY"));
    assert!(check(&file, &world.envelope).await.unwrap().may_serve());
}
