//! A node that runs moves its secrets from a key in memory into Vault, to the next version there, and back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use certlib_core::Runtime;
use certlib_core::client::{Client, KekRole};
use certlib_core::clock::ManualClock;
use certlib_core::memory::MemoryStore;
use certlib_core::model::KeyringState;
use certlib_core::runtime::Role;
use certlib_core::scheduler::Watchdog;
use certlib_core::secret::{Aad, KekId, Keyring, KeyringEnvelope, Sealed, Secret, SecretEnvelope as _};
use certlib_core::store::{Index, Record, SealedField, SharedStore, StoreExt as _, TypedQuery, WriteBatch};
use certlib_testkit::vault::{Fault, Injection};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::support::{KEY, Server, on_each};

const NOTES: usize = 40;

/// A record with a secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    id: String,
    sealed: Sealed,
}

fn place(id: &str) -> Aad<'_> {
    Aad::new("shop", "note", id, "text")
}

impl Record for Note {
    const KIND: &'static str = "note";
    const FIELDS: &'static [&'static str] = &[];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
    }

    fn sealed(&self) -> Option<SealedField<'_>> {
        Some(SealedField { sealed: &self.sealed, aad: place(&self.id) })
    }

    fn replace_sealed(&mut self, sealed: Sealed) {
        self.sealed = sealed;
    }
}

/// Local keys of these versions, and everything that Vault has, from version 2 on.
async fn ring(local: &[u32], server: &Server) -> Keyring {
    let mut ring = Keyring::default();
    for version in local {
        let seed = u8::try_from(*version).unwrap();
        ring.add(*version, Secret::new(std::array::from_fn(|n| u8::try_from(n).unwrap() ^ seed))).unwrap();
    }
    ring.add_provider(server.provider(2)).await.unwrap();
    ring
}

async fn state(client: &Client) -> KeyringState {
    client.store().load::<KeyringState>(KeyringState::ID).await.unwrap().record
}

async fn notes(client: &Client) -> Vec<Note> {
    let notes = client.store().list_all(TypedQuery::<Note>::new()).await.unwrap();
    notes.into_iter().map(|note| note.record).collect()
}

/// Lets time pass until it is so. All secrets open all the while.
async fn until(what: &str, client: &Client, clock: &ManualClock, done: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done().await {
        assert!(Instant::now() < deadline, "{what}: {:?}", state(client).await.rotation);
        let any = notes(client).await.swap_remove(0);
        assert_eq!(client.open(&any).await.unwrap().expose(), any.id.as_bytes());
        tokio::time::sleep(Duration::from_millis(5)).await;
        clock.advance(Duration::from_millis(200));
    }
}

async fn rotate(client: &Client, clock: &ManualClock, to: u32) {
    until("every node has the key", client, clock, async || {
        client.check_kek(to).await.is_ok_and(|ready| ready.is_ready() && !ready.have.is_empty())
    })
    .await;
    client.rotate_kek(to).await.unwrap();
    until("the end of the rotation", client, clock, async || state(client).await.rotation.is_none()).await;
    let state = state(client).await;
    assert_eq!(state.primary.version, to);
    for note in notes(client).await {
        assert_eq!(note.sealed.kek(), Some(state.primary.id));
        assert_eq!(client.open(&note).await.unwrap().expose(), note.id.as_bytes());
    }
    client.check_keyring().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_move_into_vault_within_it_and_out_again() {
    on_each(async |server| {
        let clock = Arc::new(ManualClock::new(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)));
        let store: SharedStore = Arc::new(MemoryStore::new(clock.clone()));
        let mut local = Keyring::default();
        local.add(1, Secret::new(std::array::from_fn(|n| u8::try_from(n).unwrap() ^ 1))).unwrap();
        let envelope = Arc::new(KeyringEnvelope::new(local));
        let builder = Runtime::builder(store, envelope.clone()).clock(clock.clone()).watchdog(Watchdog::Task);
        let builder = builder.record::<Note>().settings(|settings| {
            settings.roles = vec![Role::Scheduler];
            settings.node_heartbeat = Duration::from_secs(5);
            settings.sweep_interval = Duration::from_secs(2);
        });
        let node = builder.build().unwrap().start();
        let client = node.client();
        let mut batch = WriteBatch::new();
        for number in 0..NOTES {
            let id = format!("note-{number:03}");
            let sealed = client.seal(id.as_bytes(), &place(&id)).await.unwrap();
            batch = batch.insert(&Note { id, sealed }).unwrap();
        }
        client.store().commit(batch).await.unwrap();

        envelope.replace(ring(&[1], server).await).unwrap();
        rotate(&client, &clock, 2).await;
        server.rotate(KEY).await;
        envelope.replace(ring(&[1], server).await).unwrap();
        rotate(&client, &clock, 3).await;
        envelope.replace(ring(&[1, 9], server).await).unwrap();
        rotate(&client, &clock, 9).await;

        let roles: Vec<_> =
            client.keyring().await.unwrap().keks.iter().map(|kek| (kek.kek.version, kek.role)).collect();
        let retired = KekRole::Retired;
        assert_eq!(roles, [(1, retired), (2, retired), (3, retired), (9, KekRole::Primary)]);
        for version in [1, 2, 3] {
            client.remove_kek(version, false).await.unwrap();
        }
        // Vault is not needed any more.
        let mut last = Keyring::default();
        last.add(9, Secret::new(std::array::from_fn(|n| u8::try_from(n).unwrap() ^ 9))).unwrap();
        envelope.replace(last).unwrap();
        for note in notes(&client).await {
            assert_eq!(client.open(&note).await.unwrap().expose(), note.id.as_bytes());
        }
        node.shutdown().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_outlasts_a_vault_that_fails_now_and_then() {
    let server = Server::simulated().await;
    let clock = Arc::new(ManualClock::new(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)));
    let store: SharedStore = Arc::new(MemoryStore::new(clock.clone()));
    let envelope = Arc::new(KeyringEnvelope::new(ring(&[1], &server).await));
    let first = key_of_version(&envelope, 1);
    envelope.promote(&first).unwrap();
    let builder = Runtime::builder(store, envelope).clock(clock.clone()).watchdog(Watchdog::Task);
    let builder = builder.record::<Note>().settings(|settings| {
        settings.roles = vec![Role::Scheduler];
        settings.node_heartbeat = Duration::from_secs(5);
        settings.sweep_interval = Duration::from_secs(2);
    });
    let node = builder.build().unwrap().start();
    let client = node.client();
    let mut batch = WriteBatch::new();
    for number in 0..NOTES {
        let id = format!("note-{number:03}");
        let sealed = client.seal(id.as_bytes(), &place(&id)).await.unwrap();
        assert_eq!(sealed.kek(), Some(first));
        batch = batch.insert(&Note { id, sealed }).unwrap();
    }
    client.store().commit(batch).await.unwrap();
    until("every node has the key", &client, &clock, async || {
        client.check_kek(2).await.is_ok_and(|ready| ready.is_ready() && !ready.have.is_empty())
    })
    .await;
    for fault in [Fault::LoseReply, Fault::InternalError, Fault::RateLimited { retry_after: None }, Fault::LoseRequest]
    {
        server.sim().inject(Injection::new(fault).on("transit/encrypt/").times(2));
    }
    client.rotate_kek(2).await.unwrap();
    // Readers of what has moved already would meet the faults as well, so only the state is looked at.
    let deadline = Instant::now() + Duration::from_secs(120);
    while state(&client).await.rotation.is_some() {
        assert!(Instant::now() < deadline, "{:?}", state(&client).await.rotation);
        tokio::time::sleep(Duration::from_millis(5)).await;
        clock.advance(Duration::from_millis(200));
    }
    assert!(server.sim().history().iter().filter(|record| record.status.is_none()).count() >= 4);
    for note in notes(&client).await {
        assert_ne!(note.sealed.kek(), Some(first));
        assert_eq!(client.open(&note).await.unwrap().expose(), note.id.as_bytes());
    }
    node.shutdown().await;
}

fn key_of_version(envelope: &KeyringEnvelope, version: u32) -> KekId {
    envelope.keks().into_iter().find(|kek| kek.version == version).unwrap().id
}
