//! What is written while a backup is taken: the restored store must be one that certlib can go on with.

use std::collections::BTreeMap;

use certlib_core::backup::Progress;
use certlib_core::client::{Client, NewCertificate};
use certlib_core::model::{
    Certificate, CertificateVersion, Credential, Distribution, Issuer, JournalEntry, KekFence, KeyringState, Rotation,
    RotationPhase, Run, Target, TargetPhase, TargetRun, TargetState, VersionState, new_id,
};
use certlib_core::secret::{Kek, Sealed, SecretEnvelope as _};
use certlib_core::store::{Record, StoreExt as _, TypedQuery, Versioned, WriteBatch};
use certlib_core::{CertificateBundle, Secret};
use futures::FutureExt as _;
use serde_json::json;

use crate::common::START;
use crate::{backup, check, client, empty_store, keys, quiet, restore, shop};

async fn all<R: Record>(client: &Client) -> Vec<Versioned<R>> {
    client.store().list_all(TypedQuery::<R>::new()).await.unwrap()
}

/// Seals for where `record` keeps its secret.
async fn seal<R: Record>(client: &Client, mut record: R) -> R {
    let sealed = client.seal(b"secret", &record.sealed().unwrap().aad).await.unwrap();
    record.replace_sealed(sealed);
    record
}

/// Issues the next version of a certificate and begins its delivery, as the engine does, in as many commits.
async fn issue(client: &Client, certificate: &str) {
    let store = client.store();
    let mut certificate = store.load::<Certificate>(certificate).await.unwrap();
    let number = certificate.latest_version + 1;
    let leaf = rcgen::generate_simple_self_signed(vec!["www.shop.example".to_owned()]).unwrap();
    let bundle = CertificateBundle::new(vec![leaf.cert.der().to_vec()], None).unwrap();
    let version = CertificateVersion {
        id: CertificateVersion::id_of(&certificate.id, number),
        certificate_id: certificate.id.clone(),
        project: "shop".to_owned(),
        version: number,
        chain_pem: bundle.fullchain_pem(),
        key: Sealed::from_bytes(Vec::new()),
        leaf: bundle.leaf().clone(),
        issuer_id: certificate.issuer_id.clone(),
        order_id: new_id(),
        state: VersionState::Issued,
        created_at: START,
    };
    let version = seal(client, version).await;
    let distribution = all::<Distribution>(client).await.remove(0).record;
    let run: Run = serde_json::from_value(json!({
        "id": new_id(), "project": "shop", "certificate_id": certificate.id, "distribution_id": distribution.id,
        "version": number, "targets": distribution.targets, "batch_size": 10, "state": "running", "summary": {
            "targets": 1, "queued": 1, "running": 0, "validated": 0, "unverified": 0, "rolled_back": 0, "failed": 0
        }, "passes": 0, "error": null, "due": null, "kept": true, "tidy_at": null, "finished_at": null,
        "created_at": "2027-01-01T00:00:00Z", "updated_at": "2027-01-01T00:00:00Z",
    }))
    .unwrap();
    certificate.latest_version = number;
    let batch = WriteBatch::new().insert(&version).unwrap().insert(&run).unwrap().update(&certificate).unwrap();
    store.commit(batch).await.unwrap();
    let target = distribution.targets[0].clone();
    let mut target_run: TargetRun = serde_json::from_value(json!({
        "id": TargetRun::id_of(&run.id, &target), "run_id": run.id, "target_id": target, "target_name": "t",
        "module": "fake", "status": "queued", "phase": "queued", "attempt": 0, "plan": null, "facts": null,
        "endpoints": [], "error": null, "retryable": false, "retry_after": null, "journal_entries": 0,
        "updated_at": "2027-01-01T00:00:00Z",
    }))
    .unwrap();
    store.insert(target_run.clone()).await.unwrap();
    let entry = seal(
        client,
        JournalEntry {
            id: JournalEntry::id_of(&target_run.id, 1),
            project: "shop".to_owned(),
            target_run_id: target_run.id.clone(),
            sequence: 1,
            step: "swap".to_owned(),
            sealed: Sealed::from_bytes(Vec::new()),
            at: START,
        },
    )
    .await;
    target_run.attempt = 1;
    target_run.phase = TargetPhase::Executing;
    let target_run = Versioned { record: target_run, revision: 1 };
    let mut state = store.find::<TargetState>(&target).await.unwrap();
    let batch = WriteBatch::new().update(&target_run).unwrap();
    let batch = match &mut state {
        Some(state) => {
            state.run_id = Some(run.id.clone());
            batch.update(state).unwrap()
        }
        None => {
            let state = TargetState { id: target, run_id: Some(run.id.clone()), versions: BTreeMap::new() };
            batch.insert(&state).unwrap()
        }
    };
    store.commit(batch).await.unwrap();
    store.insert(entry).await.unwrap();
}

/// Adds an issuer with a credential, and a certificate from it on a target, as people do.
async fn set_up(client: &Client) -> String {
    let secret = Secret::new("\"x\"".to_owned());
    let credential = client.create_credential("shop", "new", &secret).await.unwrap();
    let issuer: Issuer = serde_json::from_value(json!({
        "id": new_id(), "project": "shop", "name": "ca", "kind": "fake", "config": {}, "credential_id": credential.id,
        "created_at": "2027-01-01T00:00:00Z",
    }))
    .unwrap();
    let issuer = client.store().insert(issuer).await.unwrap();
    let target: Target = serde_json::from_value(json!({
        "id": new_id(), "project": "shop", "name": "t", "module": "fake", "config": {}, "location": {},
        "credential_id": credential.id, "created_at": "2027-01-01T00:00:00Z",
    }))
    .unwrap();
    let target = client.store().insert(target).await.unwrap();
    let new = NewCertificate::new(["www.shop.example"], &*issuer.id).deliver_to([&*target.id]);
    client.create_certificate("shop", new).await.unwrap().id
}

/// Every reference leads somewhere, and every number that will be given next is free.
async fn assert_sound(client: &Client, when: usize) {
    let store = client.store();
    let mut newest = BTreeMap::new();
    for certificate in all::<Certificate>(client).await {
        let issuer =
            store.load::<Issuer>(&certificate.issuer_id).await.unwrap_or_else(|error| panic!("{when}: {error}"));
        let credential = issuer.credential_id.as_deref().unwrap();
        store.load::<Credential>(credential).await.unwrap_or_else(|error| panic!("{when}: {error}"));
        let query = TypedQuery::<Distribution>::new().equal("certificate", &*certificate.id);
        for distribution in store.list_all(query).await.unwrap() {
            for target in &distribution.targets {
                let target = store.load::<Target>(target).await.unwrap_or_else(|error| panic!("{when}: {error}"));
                let credential = target.credential_id.as_deref().unwrap();
                store.load::<Credential>(credential).await.unwrap();
            }
        }
        newest.insert(certificate.id.clone(), certificate.latest_version);
    }
    let mut versions = BTreeMap::<String, u32>::new();
    for version in all::<CertificateVersion>(client).await {
        *versions.entry(version.certificate_id.clone()).or_default() += 1;
        assert!(version.version <= newest[&version.certificate_id], "{when}: the next number is taken");
    }
    for (certificate, newest) in &newest {
        assert_eq!(versions.get(certificate).copied().unwrap_or_default(), *newest, "{when}: every version is there");
    }
    for run in all::<Run>(client).await {
        assert!(run.version <= newest[&run.certificate_id], "{when}: a run delivers what is not there");
    }
    for entry in all::<JournalEntry>(client).await {
        let target_run = store.load::<TargetRun>(&entry.target_run_id).await;
        let target_run = target_run.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert!(target_run.attempt > 0, "{when}: the first undo record would meet another");
    }
}

#[tokio::test]
async fn whenever_a_version_is_issued_meanwhile_the_copy_is_sound() {
    let mut when = 0;
    let mut differences = 0;
    loop {
        let envelope = keys(&[(1, 1)]);
        let source = shop(&envelope, 1).await;
        let id = set_up(&source).await;
        issue(&source, &id).await;
        let mut calls = 0;
        let mut file = Vec::new();
        let mut at = |_: Progress| {
            if calls == when {
                issue(&source, &id).now_or_never().expect("this store answers at once");
                set_up(&source).now_or_never().expect("this store answers at once");
            }
            calls += 1;
        };
        source.backup(&mut file, &mut at).await.unwrap();
        let target = client(&empty_store(), &envelope);
        restore(&target, &file).await.unwrap();
        assert_sound(&target, when).await;
        assert!(target.check_store(&mut quiet()).await.unwrap().may_serve());
        // What the engine does next works: it counts on from what is there.
        issue(&target, &id).await;
        assert_sound(&target, when).await;
        let (copy, now) =
            (all::<CertificateVersion>(&target).await.len(), all::<CertificateVersion>(&source).await.len());
        differences += usize::from(copy != now);
        if when > calls {
            break;
        }
        when += 1;
    }
    assert!(when > 15 && differences > 0, "{when} moments, {differences} of which made a difference");
}

/// What a promotion does, and what is sealed after it.
async fn promote(client: &Client) {
    let kek = second_key();
    let mut state = client.store().load::<KeyringState>(KeyringState::ID).await.unwrap();
    let from = std::mem::replace(&mut state.primary, kek);
    state.epoch += 1;
    let to = state.primary.clone();
    state.rotation = Some(rotation(from, to, RotationPhase::Rewrap));
    let mut batch = WriteBatch::new().update(&state).unwrap();
    for fence in KekFence::of(&state.primary.id) {
        batch = batch.put(&fence).unwrap();
    }
    client.store().commit(batch).await.unwrap();
}

fn rotation(from: Kek, to: Kek, phase: RotationPhase) -> Rotation {
    serde_json::from_value(json!({
        "id": new_id(), "from": from, "to": to, "phase": phase, "cursor": null, "total": 0, "rewrapped": 0,
        "verified": 0, "unreadable": 0, "note": null,
        "started_at": "2027-01-01T00:00:00Z", "phase_since": "2027-01-01T00:00:00Z",
    }))
    .unwrap()
}

fn second_key() -> Kek {
    keys(&[(2, 2)]).keks().remove(0)
}

#[tokio::test]
async fn when_another_key_begins_to_seal_meanwhile_the_backup_is_taken_again() {
    let envelope = keys(&[(1, 1)]);
    let (mut when, mut refused) = (0, 0);
    loop {
        let source = shop(&envelope, 2).await;
        let (mut calls, mut file) = (0, Vec::new());
        let mut at = |_: Progress| {
            if calls == when {
                promote(&source).now_or_never().expect("this store answers at once");
            }
            calls += 1;
        };
        let taken = source.backup(&mut file, &mut at).await;
        if when >= calls {
            taken.unwrap();
            break;
        }
        assert_eq!(taken.unwrap_err().code(), "keyring_changed", "{when}");
        assert_eq!(source.backups().await.unwrap(), [], "{when}");
        refused += 1;
        when += 1;
    }
    assert!(refused > 15);
}

#[tokio::test]
async fn a_rotation_under_way_goes_on_where_it_was() {
    let envelope = keys(&[(1, 1), (2, 2)]);
    let first = keys(&[(1, 1)]);
    let source = shop(&first, 3).await;
    promote(&source).await;
    // A node that knows of it seals under the new key.
    let node = client(source.store(), &envelope);
    node.create_credential("shop", "new", &Secret::new("1".to_owned())).await.unwrap();
    let mut seen = None;
    let mut at = |_: Progress| {
        let kept = source.backups().now_or_never().expect("this store answers at once").unwrap();
        seen.get_or_insert(kept);
    };
    let mut file = Vec::new();
    let (_, end) = source.backup(&mut file, &mut at).await.unwrap();
    let versions: Vec<_> = end.keks.iter().map(|kek| (kek.version, kek.envelopes)).collect();
    assert_eq!(versions, [(1, 3), (2, 1)]);
    let kept = seen.unwrap();
    assert_eq!(kept[0].keks.len(), 2, "both keys are kept from the first moment on: {kept:?}");
    assert_eq!(check(&file, &first).await.unwrap().verdict().unwrap_err().code(), "kek_orphaned");

    let target = client(&empty_store(), &envelope);
    restore(&target, &file).await.unwrap();
    let state = target.store().load::<KeyringState>(KeyringState::ID).await.unwrap();
    assert_eq!(state.record, source.store().load::<KeyringState>(KeyringState::ID).await.unwrap().record);
    // Both may store what they seal, until the rotation is further.
    for kek in [&state.primary, &state.rotation.as_ref().unwrap().from] {
        for fence in KekFence::of(&kek.id) {
            let raw = target.store().get("kek_fence", &fence.id).await.unwrap().unwrap();
            assert_eq!(raw.revision, 1);
        }
    }
    target.create_credential("shop", "newest", &Secret::new("1".to_owned())).await.unwrap();

    // Once nothing may be stored under the old one, nothing may be in the copy.
    let mut state = source.store().load::<KeyringState>(KeyringState::ID).await.unwrap();
    state.rotation.as_mut().unwrap().phase = RotationPhase::Verify;
    source.store().update(&mut state).await.unwrap();
    let target = client(&empty_store(), &envelope);
    restore(&target, &backup(&source).await).await.unwrap();
    let old = state.rotation.as_ref().unwrap().from.id;
    let fence = KekFence::of(&old).next().unwrap();
    assert_eq!(target.store().get("kek_fence", &fence.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_prepared_rotation_that_begins_meanwhile_spoils_the_backup() {
    let envelope = keys(&[(1, 1), (2, 2)]);
    let source = shop(&keys(&[(1, 1)]), 2).await;
    let mut state = source.store().load::<KeyringState>(KeyringState::ID).await.unwrap();
    state.rotation = Some(rotation(state.primary.clone(), second_key(), RotationPhase::Prepare));
    source.store().update(&mut state).await.unwrap();
    let (mut calls, mut file) = (0, Vec::new());
    let mut at = |_: Progress| {
        if calls == 1 {
            promote(&source).now_or_never().expect("this store answers at once");
            let node = client(source.store(), &envelope);
            let secret = Secret::new("1".to_owned());
            let sealed = node.create_credential("shop", "new", &secret).now_or_never();
            sealed.expect("this store answers at once").unwrap();
        }
        calls += 1;
    };
    // The state in it would let the rotation be cancelled, with secrets under the new key already.
    let error = source.backup(&mut file, &mut at).await.unwrap_err();
    assert_eq!(error.code(), "keyring_changed");
    let error = check(&file, &envelope).await.unwrap_err();
    assert!(error.code().starts_with("backup_"), "{error}");

    // Afterwards it lists both keys: the rotation needs them, wherever it is restored.
    let file = backup(&source).await;
    let report = check(&file, &envelope).await.unwrap();
    assert_eq!(report.keks.len(), 2);
}
