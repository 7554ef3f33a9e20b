//! A node that changes the key under all secrets, again and again, until its standard input ends. It is looked at from
//! outside: `memory.rs` of the canaries searches its memory.
//!
//! `rewrap-node DIRECTORY rewraps|opens`: the keys are in `DIRECTORY/keys`, a line of hexadecimal each. It holds what is
//! in `DIRECTORY/control` in its memory all the time; with `opens`, it also holds one secret that it opened.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::hint::black_box;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use certlib_core::Secret;
use certlib_core::model::{Credential, KeyringState};
use certlib_core::runtime::{Role, Runtime};
use certlib_core::secret::{KEK_LEN, Keyring, KeyringEnvelope};
use certlib_core::store::{StoreExt as _, TypedQuery};
use certlib_store_sql::{SqliteOptions, SqliteStore};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .init();
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, what] = arguments.as_slice() else { panic!("DIRECTORY rewraps|opens") };
    let folder = Path::new(folder);
    let control = std::fs::read(folder.join("control")).expect("the control");
    let store = Arc::new(SqliteStore::open(folder.join("certlib.db"), SqliteOptions::new()).await.expect("the store"));
    let keys = keys(folder);
    let last = keys.keks().len();
    let running = Runtime::builder(store.clone(), Arc::new(KeyringEnvelope::new(keys)))
        .settings(|settings| {
            settings.roles = vec![Role::Scheduler];
            settings.sweep_interval = Duration::from_millis(20);
            settings.leader_poll = Duration::from_millis(20);
            settings.node_heartbeat = Duration::from_millis(100);
        })
        .build()
        .expect("a runtime")
        .start();
    let client = running.client();
    let opened = if what == "opens" {
        let all = store.list_all::<Credential>(TypedQuery::new()).await.expect("the secrets");
        Some(client.open(&all[0].record).await.expect("a secret"))
    } else {
        None
    };
    println!("ready");
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]).is_ok());
    for version in 2..=u32::try_from(last).expect("few keys") {
        if ended.is_finished() || opened.is_some() {
            break;
        }
        client.rotate_kek(version).await.expect("a rotation");
        while state(&store).await.rotation.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!("rotated {version}");
    }
    ended.await.expect("standard input");
    running.shutdown().await;
    black_box((control, opened));
}

async fn state(store: &Arc<SqliteStore>) -> KeyringState {
    store.load::<KeyringState>(KeyringState::ID).await.expect("the keyring's state").record
}

fn keys(folder: &Path) -> Keyring {
    let text = std::fs::read_to_string(folder.join("keys")).expect("the keys");
    let mut ring = Keyring::default();
    for (version, line) in (1..).zip(text.lines()) {
        let byte = |at: usize| u8::from_str_radix(&line[2 * at..2 * at + 2], 16).expect("hexadecimal");
        let key: [u8; KEK_LEN] = std::array::from_fn(byte);
        ring.add(version, Secret::new(key)).expect("a key");
    }
    ring
}
