//! A fleet moves its secrets into an HSM and out again, while it reads and writes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use certlib_core::client::KekRole;
use certlib_core::clock::SystemClock;
use certlib_core::memory::MemoryStore;
use certlib_core::runtime::RunningRuntime;
use certlib_core::secret::{KekId, Keyring, KeyringEnvelope};
use certlib_core::store::SharedStore;
use certlib_core::{Client, Runtime, Secret};
use tokio::task::JoinSet;

use crate::support::{Token, in_process};

const LIMIT: Duration = Duration::from_secs(120);
const PROJECT: &str = "shop";

fn key(version: u8) -> Secret<[u8; 32]> {
    Secret::new(std::array::from_fn(|n| u8::try_from(n).unwrap() ^ version))
}

/// The keys in memory of these versions, and those of the token if it is there.
async fn keyring(in_memory: &[u8], token: Option<&Token>) -> Keyring {
    let mut ring = Keyring::default();
    for version in in_memory {
        ring.add(u32::from(*version), key(*version)).unwrap();
    }
    if let Some(token) = token {
        ring.add_provider(token.provider().await).await.unwrap();
    }
    ring
}

struct Node {
    envelope: Arc<KeyringEnvelope>,
    runtime: RunningRuntime,
}

impl Node {
    fn start(store: &SharedStore, name: &str, keyring: Keyring) -> Self {
        let envelope = Arc::new(KeyringEnvelope::new(keyring));
        let builder = Runtime::builder(store.clone(), envelope.clone()).settings(|settings| {
            settings.node_name = name.to_owned();
            // A machine under load may be late by a second or two and is not dead then.
            settings.node_heartbeat = Duration::from_secs(2);
            settings.sweep_interval = Duration::from_millis(100);
            settings.leader_poll = Duration::from_millis(100);
        });
        Self { envelope, runtime: builder.build().unwrap().start() }
    }
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !done().await {
        assert!(began.elapsed() < LIMIT, "{what} has not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Rotates to `version` as soon as every node has it, and lets go of the key before.
async fn rotate(client: &Client, version: u32) {
    let from = client.keyring().await.unwrap().state.primary;
    until("every node with the new key", async || {
        client.check_kek(version).await.is_ok_and(|kek| kek.is_ready() && kek.have.len() == 2)
    })
    .await;
    client.rotate_kek(version).await.unwrap();
    until("the end of the rotation", async || client.keyring().await.unwrap().state.rotation.is_none()).await;
    client.remove_kek(from.version, false).await.unwrap();
}

/// The key that every credential is sealed with; all of them open.
async fn kek_of_all(client: &Client) -> KekId {
    let credentials = client.credentials(PROJECT).await.unwrap();
    for credential in &credentials {
        let secret = client.open(credential).await.unwrap();
        assert_eq!(secret.expose(), format!("{:?}", credential.name).as_bytes());
    }
    let kek = credentials[0].sealed.kek().unwrap();
    assert!(credentials.iter().all(|credential| credential.sealed.kek() == Some(kek)));
    kek
}

async fn create(client: &Client, name: &str) {
    let secret = Secret::new(format!("{name:?}"));
    while let Err(error) = client.create_credential(PROJECT, name, &secret).await {
        // Sealed with the key before, and stored after its end: it is sealed again.
        assert!(error.is_conflict(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn secrets_move_into_the_hsm_and_out_again_while_all_goes_on() {
    const TEST: &str = "rotation::secrets_move_into_the_hsm_and_out_again_while_all_goes_on";
    let Some(token) = in_process(TEST).await else { return };
    let store: SharedStore = Arc::new(MemoryStore::new(SystemClock::shared()));
    let nodes =
        [Node::start(&store, "a", keyring(&[1], None).await), Node::start(&store, "b", keyring(&[1], None).await)];
    let client = nodes[0].runtime.client();
    client.create_project(PROJECT).await.unwrap();
    for n in 0..150 {
        create(&client, &format!("first-{n}")).await;
    }

    let stop = Arc::new(AtomicBool::new(false));
    let (reads, writes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let rounds: Arc<[AtomicUsize; 2]> = Arc::default();
    let mut tasks = JoinSet::new();
    for number in 0..4 {
        let (client, stop) = (nodes[number % 2].runtime.client(), stop.clone());
        let (reads, writes, rounds) = (reads.clone(), writes.clone(), rounds.clone());
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                if number < 2 {
                    let n = writes.fetch_add(1, Ordering::Relaxed);
                    create(&client, &format!("later-{n}")).await;
                    tokio::time::sleep(Duration::from_millis(150)).await;
                } else {
                    for credential in client.credentials(PROJECT).await.unwrap() {
                        let secret = client.open(&credential).await.unwrap();
                        assert_eq!(secret.expose(), format!("{:?}", credential.name).as_bytes());
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                    rounds[number - 2].fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        });
    }

    let in_hsm = token.provider().await.generate(2).await.unwrap();
    for node in &nodes {
        node.envelope.replace(keyring(&[1], Some(&token)).await).unwrap();
    }
    rotate(&client, 2).await;
    assert_eq!(client.keyring().await.unwrap().state.primary, in_hsm);
    assert_eq!(kek_of_all(&client).await, in_hsm.id);
    // Nobody needs the key in memory any more, as soon as nobody has an old record in hand.
    let rounds_now = || rounds.each_ref().map(|rounds| rounds.load(Ordering::Relaxed));
    let before = rounds_now();
    let renewed = async || rounds_now().iter().zip(before).all(|(now, before)| *now >= before + 2);
    until("what was read after the rotation", renewed).await;
    for node in &nodes {
        node.envelope.replace(keyring(&[], Some(&token)).await).unwrap();
    }
    assert_eq!(kek_of_all(&client).await, in_hsm.id);
    client.check_keyring().await.unwrap();

    for node in &nodes {
        node.envelope.replace(keyring(&[3], Some(&token)).await).unwrap();
    }
    rotate(&client, 3).await;
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    for node in &nodes {
        node.envelope.replace(keyring(&[3], None).await).unwrap();
    }
    let (reads, writes) = (reads.load(Ordering::Relaxed), writes.load(Ordering::Relaxed));
    assert!(reads > 100 && writes > 20, "it was quiet: {reads} reads, {writes} writes");
    let status = client.keyring().await.unwrap();
    assert_eq!(status.state.primary.provider, "local");
    assert_eq!(kek_of_all(&client).await, status.state.primary.id);
    assert_eq!(client.credentials(PROJECT).await.unwrap().len(), 150 + writes);
    let primary = status.keks.iter().find(|kek| kek.role == KekRole::Primary).unwrap();
    assert_eq!((primary.kek.version, primary.at_hand), (3, true));
    client.check_keyring().await.unwrap();
    for node in nodes {
        node.runtime.shutdown().await;
    }
}
