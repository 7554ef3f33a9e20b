//! Keys by version, a kind of record with a secret, and leaders that only rotate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use certlib_core::client::Client;
use certlib_core::clock::Clock as _;
use certlib_core::lock::LeaseRequest;
use certlib_core::model::{Event, KekFence, KeyringState, Node, record_kinds};
use certlib_core::runtime::{Role, RunningRuntime, RuntimeBuilder};
use certlib_core::scheduler::{LEASE, RotationSweep, Sweep as _, SweepContext, Watchdog};
use certlib_core::secret::{Aad, KekId, Keyring, KeyringEnvelope, Sealed, Secret};
use certlib_core::store::{Index, Record, SealedField, SharedStore, StoreExt as _, TypedQuery, Versioned, WriteBatch};
use certlib_core::{Result, Runtime};
use serde::{Deserialize, Serialize};

use crate::common::World;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(30);

/// A record of the host's own, with a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) id: String,
    pub(crate) generation: u32,
    pub(crate) sealed: Sealed,
}

impl Note {
    fn aad(id: &str) -> Aad<'_> {
        Aad::new("shop", Self::KIND, id, "text")
    }

    pub(crate) fn id_of(number: usize) -> String {
        format!("note-{number:05}")
    }

    pub(crate) fn text(id: &str, generation: u32) -> String {
        format!("the secret of {id}, generation {generation}")
    }
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
        Some(SealedField { sealed: &self.sealed, aad: Self::aad(&self.id) })
    }

    fn replace_sealed(&mut self, sealed: Sealed) {
        self.sealed = sealed;
    }
}

/// Keys of these versions: the same version is always the same key.
pub(crate) fn ring(versions: &[u32]) -> Keyring {
    let mut ring = Keyring::default();
    for version in versions {
        let seed = u8::try_from(*version).unwrap();
        ring.add(*version, Secret::new(std::array::from_fn(|n| u8::try_from(n).unwrap() ^ seed))).unwrap();
    }
    ring
}

pub(crate) fn envelope(versions: &[u32]) -> Arc<KeyringEnvelope> {
    Arc::new(KeyringEnvelope::new(ring(versions)))
}

pub(crate) fn kek(version: u32) -> KekId {
    ring(&[version]).keks()[0].id
}

pub(crate) struct Lab {
    pub(crate) world: World,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self { world: World::new() }
    }

    /// A store with so many notes, all under version 1.
    pub(crate) async fn with_notes(count: usize) -> Self {
        let lab = Self::new();
        let client = lab.client(&[1]);
        let mut batch = WriteBatch::new();
        for number in 0..count {
            batch = batch.insert(&note(&client, &Note::id_of(number), 1).await).unwrap();
        }
        lab.store().commit(batch).await.unwrap();
        lab
    }

    pub(crate) fn store(&self) -> SharedStore {
        self.world.store.clone()
    }

    pub(crate) fn builder(&self, store: SharedStore, envelope: Arc<KeyringEnvelope>) -> RuntimeBuilder {
        Runtime::builder(store, envelope)
            .clock(self.world.clock.clone())
            .watchdog(Watchdog::Task)
            .record::<Note>()
            .settings(|settings| {
                settings.roles = vec![Role::Scheduler];
                settings.leader_ttl = Duration::from_secs(15);
                settings.leader_heartbeat = 4 * SECOND;
                settings.node_heartbeat = 5 * SECOND;
                settings.sweep_interval = 2 * SECOND;
            })
    }

    /// A client with these keys, of a node that does not run.
    pub(crate) fn client(&self, versions: &[u32]) -> Client {
        self.client_on(self.store(), versions)
    }

    pub(crate) fn client_on(&self, store: SharedStore, versions: &[u32]) -> Client {
        self.builder(store, envelope(versions)).build().unwrap().client()
    }

    /// A node that runs, and stands for leader.
    pub(crate) fn start(&self, name: &str, envelope: Arc<KeyringEnvelope>) -> RunningRuntime {
        let builder = self.builder(self.store(), envelope).settings(|settings| settings.node_name = name.to_owned());
        builder.build().unwrap().start()
    }

    pub(crate) fn sweep(versions: &[u32]) -> RotationSweep {
        RotationSweep::new(envelope(versions), record_kinds().with::<Note>())
    }

    /// The context of a leader over `store`, which takes the lease from whoever has it.
    pub(crate) async fn leader_on(&self, store: SharedStore, holder: &str) -> SweepContext {
        let forever = Duration::from_secs(100 * 365 * 86_400);
        if let Some(info) = self.world.store.inspect(LEASE).await.unwrap() {
            self.world.store.raise(LEASE, info.epoch).await.unwrap();
        }
        let request = LeaseRequest::new(LEASE, holder, holder, forever);
        let lease = self.world.store.acquire(&request).await.unwrap().expect("the lease is free");
        SweepContext::under(lease, forever, store, self.world.clock.clone())
    }

    pub(crate) async fn state(&self) -> KeyringState {
        self.store().load::<KeyringState>(KeyringState::ID).await.unwrap().record
    }

    pub(crate) async fn is_steady(&self) -> bool {
        self.state().await.rotation.is_none()
    }

    /// Sweeps until the rotation has ended; nodes that run must not be needed for that.
    pub(crate) async fn finish(&self, sweep: &RotationSweep, cx: &SweepContext) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_steady().await {
            self.sweep_once(sweep, cx, deadline).await;
        }
    }

    pub(crate) async fn sweep_until(&self, sweep: &RotationSweep, cx: &SweepContext, done: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done().await {
            self.sweep_once(sweep, cx, deadline).await;
        }
    }

    async fn sweep_once(&self, sweep: &RotationSweep, cx: &SweepContext, deadline: Instant) {
        assert!(Instant::now() < deadline, "it did not happen within 30 s: {:?}", self.state().await.rotation);
        sweep.run(cx).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.world.clock.advance(SECOND);
    }

    /// The record of a node with versions 1 and 2 that has just beaten.
    pub(crate) fn node(&self, id: &str, keyring_epoch: u64) -> Node {
        let now = self.world.clock.now();
        Node {
            id: id.to_owned(),
            name: id.to_owned(),
            roles: Vec::new(),
            version: String::new(),
            pid: 1,
            hostname: String::new(),
            started_at: now,
            heartbeat_at: now,
            stale_at: now + 15 * SECOND,
            keks: ring(&[1, 2]).keks(),
            keyring_epoch,
            lanes: BTreeMap::new(),
            epochs: BTreeMap::new(),
        }
    }

    pub(crate) async fn fences(&self, version: u32) -> usize {
        let fences = self.store().list_all(TypedQuery::<KekFence>::new()).await.unwrap();
        let prefix = format!("{}/", kek(version));
        fences.iter().filter(|fence| fence.id.starts_with(&prefix)).count()
    }

    /// How many notes are under each key.
    pub(crate) async fn keks(&self) -> BTreeMap<KekId, usize> {
        let mut keks = BTreeMap::new();
        for note in self.notes().await {
            *keks.entry(note.sealed.kek().unwrap()).or_default() += 1;
        }
        keks
    }

    pub(crate) async fn notes(&self) -> Vec<Versioned<Note>> {
        self.store().list_all(TypedQuery::<Note>::new()).await.unwrap()
    }

    /// Every note opens with the keys of these versions alone.
    pub(crate) async fn demand_open(&self, versions: &[u32]) {
        let client = self.client(versions);
        for note in self.notes().await {
            let text = client.open(&note.record).await.unwrap();
            assert_eq!(text.expose(), Note::text(&note.id, note.generation).as_bytes());
        }
        client.check_keyring().await.unwrap();
    }

    pub(crate) async fn events(&self, kind: &str) -> Vec<Event> {
        let events = self.store().list_all(TypedQuery::<Event>::new().equal("kind", kind)).await.unwrap();
        events.into_iter().map(|event| event.record).collect()
    }

    /// The kinds of all events about keys, without repetitions.
    pub(crate) async fn told(&self) -> BTreeSet<String> {
        let events = self.store().list_all(TypedQuery::<Event>::new()).await.unwrap();
        events.into_iter().map(|event| event.record.kind).filter(|kind| kind.starts_with("kek.")).collect()
    }
}

pub(crate) async fn note(client: &Client, id: &str, generation: u32) -> Note {
    let sealed = client.seal(Note::text(id, generation).as_bytes(), &Note::aad(id)).await.unwrap();
    Note { id: id.to_owned(), generation, sealed }
}

/// The next generation of a note, written if nobody else wrote it meanwhile.
pub(crate) async fn rewrite(client: &Client, id: &str) -> Result<u32> {
    let mut old = client.store().load::<Note>(id).await?;
    let generation = old.generation + 1;
    old.record = note(client, id, generation).await;
    client.store().update(&mut old).await?;
    Ok(generation)
}
