//! What the nodes of the keyring test keep, and its test checks: secrets that say whose they are.

#![allow(dead_code, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::client::Client;
use certlib_core::model::{KekFence, KeyringState};
use certlib_core::runtime::{Role, Runtime, Settings};
use certlib_core::secret::{Aad, KEK_LEN, Keyring, KeyringEnvelope, Sealed};
use certlib_core::store::{Index, KEK_FIELD, Record, SealedField, SharedStore, StoreExt as _};
use certlib_core::{Error, Result, Secret};
use certlib_store_sql::{SqliteOptions, SqliteStore};
use serde::{Deserialize, Serialize};

use crate::database;

/// How many secrets the nodes read and write.
pub(crate) const SECRETS: usize = 5000;

/// Makes a secret as long as a private key is.
const REPEATS: usize = 50;

/// A secret of the host's own.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptSecret {
    pub(crate) id: String,
    /// How often it was written, which the secret says as well.
    pub(crate) writes: u64,
    secret: Sealed,
}

impl Record for KeptSecret {
    const KIND: &'static str = "kept_secret";
    const FIELDS: &'static [&'static str] = &[KEK_FIELD];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
    }

    fn sealed(&self) -> Option<SealedField<'_>> {
        Some(SealedField { sealed: &self.secret, aad: place(&self.id) })
    }

    fn replace_sealed(&mut self, sealed: Sealed) {
        self.secret = sealed;
    }
}

impl KeptSecret {
    /// The secret `id` as it is after `writes` writes, sealed under the key that seals now.
    pub(crate) async fn seal(client: &Client, id: &str, writes: u64) -> Result<Self> {
        let text = format!("{id} {writes} {}", format!("{:032x}", rand::random::<u128>()).repeat(REPEATS));
        let plain = format!("{text} {}", fingerprint(&text));
        let secret = client.seal(plain.as_bytes(), &place(id)).await?;
        Ok(Self { id: id.to_owned(), writes, secret })
    }

    /// Opens the secret and checks that it is the one that was written last; says what is wrong.
    pub(crate) async fn check(&self, client: &Client) -> Result<(), String> {
        let plain = client.open(self).await.map_err(|error| format!("{}: {error}", self.id))?;
        let text = String::from_utf8_lossy(plain.expose());
        let (said, sum) = text.rsplit_once(' ').unwrap_or_default();
        if sum != fingerprint(said) || !said.starts_with(&format!("{} {} ", self.id, self.writes)) {
            return Err(format!("{}: after write {} it says {text:?}", self.id, self.writes));
        }
        Ok(())
    }

    /// The version of the key that it is sealed with, if it is one of `keys`.
    pub(crate) fn key(&self, keys: &Keyring) -> Option<u32> {
        let kek = self.secret.kek()?;
        keys.keks().iter().find(|key| key.id == kek).map(|key| key.version)
    }
}

/// The id of a secret.
pub(crate) fn id(row: usize) -> String {
    format!("row-{row:05}")
}

fn place(id: &str) -> Aad<'_> {
    Aad::new("shop", KeptSecret::KIND, id, "secret")
}

fn fingerprint(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The keys with these versions. A test's keys need not be secret.
pub(crate) fn keyring(versions: impl IntoIterator<Item = u32>) -> Keyring {
    let mut keys = Keyring::default();
    for version in versions {
        let sum = digest(&SHA256, format!("test key {version}").as_bytes());
        let mut key = [0; KEK_LEN];
        key.copy_from_slice(sum.as_ref());
        keys.add(version, Secret::new(key)).expect("a key");
    }
    keys
}

/// certlib on `store`, not started, with the keys `keys`.
pub(crate) fn runtime(store: SharedStore, keys: Keyring, settings: impl FnOnce(&mut Settings)) -> Runtime {
    Runtime::builder(store, Arc::new(KeyringEnvelope::new(keys)))
        .record::<KeptSecret>()
        .settings(|all| {
            all.roles = vec![Role::Scheduler];
            // A busy machine must not make a node that lives seem gone.
            all.node_heartbeat = Duration::from_millis(800);
            all.leader_ttl = Duration::from_secs(1);
            all.leader_heartbeat = Duration::from_millis(200);
            all.leader_poll = Duration::from_millis(100);
            all.sweep_interval = Duration::from_millis(100);
            settings(all);
        })
        .build()
        .expect("a runtime")
}

/// The store behind `url`: as [`database::open`], or `sqlite:` and a file.
pub(crate) async fn open(url: &str) -> Result<SharedStore> {
    match url.strip_prefix("sqlite:") {
        Some(file) => Ok(Arc::new(SqliteStore::open(file, SqliteOptions::new()).await?)),
        None => database::open(url).await,
    }
}

/// Where the rotation is, in words; `""` while that cannot be read.
pub(crate) async fn moment(store: &SharedStore) -> String {
    match store.find::<KeyringState>(KeyringState::ID).await {
        Ok(Some(state)) => match &state.rotation {
            Some(rotation) => {
                format!("{} to {}, {}", rotation.from.version, rotation.to.version, rotation.phase.as_str())
            }
            None => format!("{}, {} retired", state.primary.version, state.retired.len()),
        },
        _ => String::new(),
    }
}

/// Whether the store was away or busy, and only that: a key that is missing is no such thing.
pub(crate) fn is_away(error: &Error) -> bool {
    error.class().is_retryable() && error.code() != "kek_unknown"
}

/// Whether a commit was refused because nothing may be stored any more under the key of its secret.
pub(crate) fn is_fenced(error: &Error) -> bool {
    error.is_conflict() && error.context().any(|(key, value)| key == "kind" && value == KekFence::KIND)
}
