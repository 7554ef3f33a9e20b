//! Into which store, how it can be interrupted, and what works afterwards.

use std::io::{self, Cursor};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use certlib_core::Secret;
use certlib_core::backup::{RestoreOptions, check_backup};
use certlib_core::conformance::dying::{Death, DyingStore};
use certlib_core::memory::MemoryStore;
use certlib_core::model::{Certificate, CertificateState, KeyringState, record_kinds};
use certlib_core::queue::{Lane, NewJob};
use certlib_core::runtime::Runtime;
use certlib_core::scheduler::LEASE;
use certlib_core::secret::{Aad, Sealed};
use certlib_core::store::{Index, Record, SealedField, SharedStore, StoreExt as _};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};

use crate::common::World;
use crate::{backup, client, contents, empty_store, keys, quiet, restore, shop};

const STEP: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_store_that_holds_anything_is_left_alone() {
    let envelope = keys(&[(1, 1)]);
    let file = backup(&shop(&envelope, 2).await).await;

    let occupied = client(&empty_store(), &envelope);
    occupied.create_project("other").await.unwrap();
    let before = contents(&occupied).await;
    let error = restore(&occupied, &file).await.unwrap_err();
    assert_eq!(error.code(), "store_not_empty");
    assert!(error.context().any(|context| context == ("found", "project other")), "{error:?}");
    assert_eq!(contents(&occupied).await, before);

    let busy = client(&empty_store(), &envelope);
    busy.store().enqueue(vec![NewJob::new("x", Lane::Maintenance, json!({}))]).await.unwrap();
    assert_eq!(restore(&busy, &file).await.unwrap_err().code(), "store_not_empty");
    assert_eq!(contents(&busy).await, []);

    let rotated = client(&empty_store(), &envelope);
    rotated.seal(b"", &Aad::new("", "", "", "")).await.unwrap();
    let mut state = rotated.store().load::<KeyringState>(KeyringState::ID).await.unwrap();
    state.epoch = 2;
    rotated.store().update(&mut state).await.unwrap();
    assert_eq!(restore(&rotated, &file).await.unwrap_err().code(), "store_not_empty");

    let target = client(&empty_store(), &envelope);
    restore(&target, &file).await.unwrap();
    assert_eq!(restore(&target, &file).await.unwrap_err().code(), "store_not_empty", "once is enough");
}

#[tokio::test]
async fn what_a_first_look_leaves_is_replaced() {
    let old = keys(&[(1, 1)]);
    let source = shop(&old, 2).await;
    let file = backup(&source).await;
    // The new installation was looked at with a key of its own before anybody thought of the backup.
    let both = keys(&[(1, 1), (9, 9)]);
    let store = empty_store();
    let first = client(&store, &both);
    first.seal(b"", &Aad::new("", "", "", "")).await.unwrap();
    let state = store.load::<KeyringState>(KeyringState::ID).await.unwrap();
    assert_eq!(state.primary.version, 9);
    restore(&first, &file).await.unwrap();
    let target = client(&store, &both);
    assert_eq!(contents(&target).await, contents(&source).await);
    let report = target.check_store(&mut quiet()).await.unwrap();
    assert!(report.may_serve(), "{report}");
    let fence = certlib_core::model::KekFence::of(&state.primary.id).next().unwrap();
    assert_eq!(
        store.get("kek_fence", &fence.id).await.unwrap(),
        None,
        "nothing is stored under a key that does not seal"
    );
    target.create_credential("shop", "new", &Secret::new("1".to_owned())).await.unwrap();
    let opened = crate::credentials(&store).await;
    for credential in &opened {
        target.open(credential).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_may_be_at_work() {
    let world = World::new();
    let file = backup(&shop(&world.envelope, 1).await).await;
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let beats = || async { !client.cluster_instances().await.unwrap().instances.is_empty() };
    world.until(STEP, beats).await;
    let error = restore(&client, &file).await.unwrap_err();
    assert_eq!(error.code(), "store_in_use", "{error}");
    world.stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restored_store_renews_and_delivers_as_before() {
    let mut world = World::new();
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a", "b"]).await;
    client.issue("shop", &id).await.unwrap();
    let live = |client: &certlib_core::Client, version| {
        let (client, id) = (client.clone(), id.clone());
        async move {
            let certificate = client.certificate("shop", &id).await.unwrap();
            certificate.active_version == Some(version) && certificate.state == CertificateState::Active
        }
    };
    world.until(STEP, || live(&client, 1)).await;
    let file = backup(&client).await;
    let epoch = client.store().inspect(LEASE).await.unwrap().unwrap().epoch;
    // What happens after the backup is lost with the store.
    client.renew("shop", &id).await.unwrap();
    world.until(STEP, || live(&client, 2)).await;
    let lost = client.material("shop", &id, Some(2), false).await.unwrap().bundle.fingerprint();
    assert_eq!(world.fleet.served("a"), Some(lost));
    world.stop(running).await;

    world.store = Arc::new(MemoryStore::new(world.clock.clone()));
    let offline = world.builder().build().unwrap().client();
    let report = restore(&offline, &file).await.unwrap();
    assert!(report.checked.may_serve());
    assert_eq!((report.leader_epoch, report.resumed, report.to_issue.len()), (epoch, false, 0));
    assert_eq!(offline.store().inspect(LEASE).await.unwrap().unwrap().epoch, epoch);
    assert!(offline.check_store(&mut quiet()).await.unwrap().may_serve());
    let first = offline.material("shop", &id, Some(1), true).await.unwrap();
    assert!(first.bundle.key().is_some(), "the key of the version opens");

    let running = world.patient_builder().build().unwrap().start();
    let client = running.client();
    client.renew("shop", &id).await.unwrap();
    world.until(STEP, || live(&client, 2)).await;
    let renewed = client.material("shop", &id, Some(2), false).await.unwrap().bundle.fingerprint();
    assert_ne!(renewed, lost);
    assert_eq!((world.fleet.served("a"), world.fleet.served("b")), (Some(renewed), Some(renewed)));
    // Sweeps find what is due without anybody asking.
    let due = client.store().load::<Certificate>(&id).await.unwrap().renew_at.unwrap();
    let wait = Duration::try_from(due - certlib_core::clock::Clock::now(&*world.clock)).unwrap();
    world.clock.advance(wait);
    world.until(Duration::from_secs(60), || live(&client, 3)).await;
    assert!(client.store().inspect(LEASE).await.unwrap().unwrap().epoch > epoch);
    world.stop(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn jobs_that_were_lost_are_begun_again_or_named() {
    let mut world = World::new();
    world.ca.pending.store(1_000_000, std::sync::atomic::Ordering::SeqCst);
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    let id = world.certificate(&client, &["a"]).await;
    client.issue("shop", &id).await.unwrap();
    let state = |client: &certlib_core::Client| {
        let (client, id) = (client.clone(), id.clone());
        async move { client.certificate("shop", &id).await.unwrap().state }
    };
    world.until(STEP, || async { state(&client).await == CertificateState::Issuing }).await;
    let file = backup(&client).await;
    world.stop(running).await;

    world.store = Arc::new(MemoryStore::new(world.clock.clone()));
    let offline = world.builder().build().unwrap().client();
    let report = restore(&offline, &file).await.unwrap();
    assert_eq!(report.to_issue.len(), 1);
    assert_eq!((&*report.to_issue[0].project, &report.to_issue[0].certificate), ("shop", &id));
    world.ca.pending.store(0, std::sync::atomic::Ordering::SeqCst);
    let running = world.builder().build().unwrap().start();
    let client = running.client();
    client.issue("shop", &id).await.unwrap();
    world.until(STEP, || async { state(&client).await == CertificateState::Active }).await;
    assert_eq!(
        world.ca.submits.load(std::sync::atomic::Ordering::SeqCst),
        1,
        "the order that was placed is found again"
    );
    world.stop(running).await;
}

#[tokio::test]
async fn an_interrupted_restore_says_so_and_can_be_finished() {
    let envelope = keys(&[(1, 1)]);
    let source = shop(&envelope, 500).await;
    let file = backup(&source).await;
    let other = backup(&shop(&envelope, 1).await).await;
    for death in [Death::Before, Death::After] {
        let mut nth = 1;
        loop {
            let store = empty_store();
            let dying: SharedStore = DyingStore::new(store.clone(), nth, death);
            let died = restore(&client(&dying, &envelope), &file).await;
            let target = client(&store, &envelope);
            let Err(error) = died else { break };
            let begun = nth > 1 || death == Death::After;
            let over = target.check_restored().await.is_ok();
            if begun && !over {
                if nth > 1 {
                    assert_eq!(error.code(), "restore_interrupted", "{nth} {death:?}");
                    assert_eq!(error.effect(), certlib_core::Effect::Possible);
                }
                assert_eq!(target.check_restored().await.unwrap_err().code(), "restore_unfinished");
                let report = target.check_store(&mut quiet()).await.unwrap();
                assert_eq!(report.verdict().unwrap_err().code(), "restore_unfinished");
                assert_eq!(restore(&target, &other).await.unwrap_err().code(), "restore_unfinished");
            }
            // The answer of the very last commit was lost: all is there.
            if !(begun && over) {
                let report = restore(&target, &file).await.unwrap();
                assert_eq!(report.resumed, begun, "{nth} {death:?}");
            }
            target.check_restored().await.unwrap();
            assert_eq!(contents(&target).await, contents(&source).await, "{nth} {death:?}");
            assert!(target.check_store(&mut quiet()).await.unwrap().may_serve());
            target.create_credential("shop", "new", &Secret::new("1".to_owned())).await.unwrap();
            nth += 1;
        }
        assert!(nth > 5, "{nth} commits");
    }
}

#[tokio::test]
async fn whoever_writes_meanwhile_is_noticed() {
    let envelope = keys(&[(1, 1)]);
    let file = backup(&shop(&envelope, 300).await).await;
    let target = client(&empty_store(), &envelope);
    let mut intruder = Some(client(target.store(), &envelope));
    let mut at = |progress: certlib_core::backup::Progress| {
        if progress.stage == certlib_core::backup::Stage::Restore
            && let Some(intruder) = intruder.take()
        {
            let done = futures::FutureExt::now_or_never(intruder.create_project("intruder"));
            done.expect("this store answers at once").unwrap();
        }
    };
    let mut input = Cursor::new(file);
    let error = target.restore(&mut input, &RestoreOptions::default(), &mut at).await.unwrap_err();
    assert_eq!(error.code(), "restore_interrupted");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("restore_counts"), "{source}");
    assert!(target.check_restored().await.is_err());
}

/// One file at first, and another from the second reading on.
struct Swapped {
    now: Cursor<Vec<u8>>,
    then: Vec<u8>,
    rewound: usize,
}

impl AsyncRead for Swapped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.now).poll_read(cx, buffer)
    }
}

impl AsyncSeek for Swapped {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        self.rewound += 1;
        if self.rewound == 2 {
            self.now = Cursor::new(self.then.clone());
        }
        Pin::new(&mut self.now).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.now).poll_complete(cx)
    }
}

#[tokio::test]
async fn a_file_that_changes_after_its_check_is_not_let_in() {
    let envelope = keys(&[(1, 1)]);
    let now = Cursor::new(backup(&shop(&envelope, 3).await).await);
    let then = backup(&shop(&envelope, 4).await).await;
    let target = client(&empty_store(), &envelope);
    let mut input = Swapped { now, then, rewound: 0 };
    let error = target.restore(&mut input, &RestoreOptions::default(), &mut quiet()).await.unwrap_err();
    assert_eq!(error.code(), "restore_interrupted");
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("backup_changed"));
    assert_eq!(target.check_restored().await.unwrap_err().code(), "restore_unfinished");
}

#[tokio::test]
async fn without_its_keys_a_backup_is_restored_only_on_request() {
    let envelope = keys(&[(1, 1)]);
    let source = shop(&envelope, 3).await;
    let file = backup(&source).await;
    let store = empty_store();
    let keyless = client(&store, &keys(&[(2, 2)]));
    assert_eq!(restore(&keyless, &file).await.unwrap_err().code(), "kek_orphaned");
    let options = RestoreOptions::default().without_keys();
    let report = keyless.restore(&mut Cursor::new(file), &options, &mut quiet()).await.unwrap();
    assert!(!report.checked.may_serve());
    assert!(!keyless.check_store(&mut quiet()).await.unwrap().may_serve());
    let later = client(&store, &envelope);
    assert!(later.check_store(&mut quiet()).await.unwrap().may_serve());
    assert_eq!(contents(&later).await, contents(&source).await);
}

/// A host's own record with a secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Token {
    id: String,
    sealed: Sealed,
}

impl Record for Token {
    const KIND: &'static str = "host_token";
    const FIELDS: &'static [&'static str] = &[];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
    }

    fn sealed(&self) -> Option<SealedField<'_>> {
        Some(SealedField { sealed: &self.sealed, aad: Aad::new("", Self::KIND, &self.id, "sealed") })
    }

    fn replace_sealed(&mut self, sealed: Sealed) {
        self.sealed = sealed;
    }
}

#[tokio::test]
async fn records_of_the_host_come_along_and_must_be_known() {
    let envelope = keys(&[(1, 1)]);
    let host = |store: &SharedStore| {
        Runtime::builder(store.clone(), envelope.clone()).record::<Token>().build().unwrap().client()
    };
    let source = host(&empty_store());
    let sealed = source.seal(b"token", &Aad::new("", Token::KIND, "t", "sealed")).await.unwrap();
    source.store().insert(Token { id: "t".to_owned(), sealed }).await.unwrap();
    let file = backup(&source).await;

    let report = crate::check(&file, &envelope).await.unwrap();
    let error = report.verdict().unwrap_err();
    assert_eq!(error.code(), "kind_unknown");
    assert!(error.context().any(|context| context == ("kinds", "host_token")), "{error:?}");
    let stranger = client(&empty_store(), &envelope);
    for options in [RestoreOptions::default(), RestoreOptions::default().without_keys()] {
        let error = stranger.restore(&mut Cursor::new(file.clone()), &options, &mut quiet()).await.unwrap_err();
        assert_eq!(error.code(), "kind_unknown");
    }
    assert_eq!(contents(&stranger).await, []);

    let kinds = record_kinds().with::<Token>();
    assert!(check_backup(&file[..], &kinds, &*envelope, &mut quiet()).await.unwrap().may_serve());
    let target = host(&empty_store());
    restore(&target, &file).await.unwrap();
    let token = target.store().load::<Token>("t").await.unwrap();
    assert_eq!(target.open(&token.record).await.unwrap().expose(), b"token");
}
