//! Sealing and opening for the engine: under the key that all nodes agree on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::error::{Error, ErrorClass, Result};
use crate::metrics;
use crate::model::{KekFence, KeyringState, Rotation};
use crate::secret::{Aad, Kek, KekId, Sealed, SecretBytes, SecretEnvelope};
use crate::store::{Record, RecordKinds, SealedField, SharedStore, StoreExt as _, Versioned, WriteBatch};

/// How long a node may go without looking which key seals; while a rotation is under way, it looks each time. What it
/// seals under the former key is refused when it is stored, once nothing may be stored under that: so this bounds only
/// how soon a second try succeeds.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The envelope, and which of its keys seals.
#[derive(Debug)]
pub(crate) struct Sealer {
    envelope: Arc<dyn SecretEnvelope>,
    store: SharedStore,
    clock: Arc<dyn Clock>,
    /// The names of the kinds of record that this process knows.
    kinds: BTreeSet<String>,
    view: Mutex<View>,
    /// How many looks were begun.
    looks: AtomicU64,
    /// One look at a time: an older one must not undo what a newer one saw.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct View {
    epoch: u64,
    retired: BTreeSet<KekId>,
    rotation: Option<Rotation>,
    /// When the last look was begun, by the monotonic clock.
    looked_at: Option<Duration>,
    /// Its number.
    look: u64,
}

impl Sealer {
    pub(crate) fn new(
        envelope: Arc<dyn SecretEnvelope>,
        store: SharedStore,
        clock: Arc<dyn Clock>,
        kinds: &RecordKinds,
    ) -> Self {
        Self {
            kinds: kinds.iter().map(|kind| kind.name().to_owned()).collect(),
            envelope,
            store,
            clock,
            view: Mutex::default(),
            looks: AtomicU64::new(0),
            looking: tokio::sync::Mutex::default(),
        }
    }

    /// The envelope itself.
    pub(crate) fn envelope(&self) -> &Arc<dyn SecretEnvelope> {
        &self.envelope
    }

    /// The epoch of the keyring that this node last saw.
    pub(crate) fn epoch(&self) -> u64 {
        self.view().epoch
    }

    /// The rotation that this node last saw.
    pub(crate) fn rotation(&self) -> Option<Rotation> {
        self.view().rotation.clone()
    }

    /// Seals `plain` for the place `aad`, to be stored soon: the commit demands that its key is still good for that.
    pub(crate) async fn seal(&self, plain: &[u8], aad: &Aad<'_>) -> Result<Sealed> {
        if self.should_look() {
            self.look().await?;
        }
        self.envelope.seal(plain, aad).await.map_err(elsewhere)
    }

    /// Opens a sealed field.
    pub(crate) async fn open(&self, field: SealedField<'_>) -> Result<SecretBytes> {
        if let Some(kek) = field.sealed.kek()
            && self.view().retired.contains(&kek)
        {
            metrics::opened_with_retired(&kek);
            tracing::warn!(kek = %kek.short(), aad = ?field.aad, "opened with a retired key, which should seal nothing");
        }
        self.envelope.open(field.sealed, &field.aad).await.map_err(elsewhere)
    }

    /// For who alone writes to `record`, when a commit of it met a conflict: then its secret was wrapped anew meanwhile,
    /// or may not be stored under its former key any more. Takes over, or makes, the new wrap and says `true`: try
    /// again. `false` when the conflict was about something else.
    pub(crate) async fn catch_up<R: Record>(&self, record: &mut Versioned<R>) -> Result<bool> {
        let now = self.store.load::<R>(record.id()).await?;
        let Some(field) = now.sealed() else { return Ok(false) };
        let sealed = if now.revision == record.revision {
            self.look().await?;
            if field.sealed.kek() == self.envelope.primary() {
                return Ok(false);
            }
            self.envelope.rewrap(field.sealed, &field.aad).await.map_err(elsewhere)?
        } else {
            field.sealed.clone()
        };
        record.revision = now.revision;
        record.replace_sealed(sealed);
        Ok(true)
    }

    /// Looks which key seals; a store that nobody asked before is told that ours does. Many that want to look at the
    /// same time share a look.
    ///
    /// # Errors
    /// As [`Store`](crate::store::Store); `IoTransient` `kek_unknown` when this node lacks the key that seals.
    pub(crate) async fn look(&self) -> Result<()> {
        let asked = self.looks.load(Ordering::SeqCst);
        let _turn = self.looking.lock().await;
        if self.view().look > asked {
            return Ok(());
        }
        let look = self.looks.fetch_add(1, Ordering::SeqCst) + 1;
        let now = self.clock.monotonic();
        let mut seen = View { looked_at: Some(now), look, ..View::default() };
        if let Some(primary) = self.own_primary() {
            let state = self.state_or(primary).await?;
            self.envelope.promote(&state.primary.id).map_err(elsewhere)?;
            seen.epoch = state.epoch;
            seen.retired = state.retired.iter().map(|kek| kek.id).collect();
            seen.rotation = state.rotation;
        }
        *self.view() = seen;
        Ok(())
    }

    fn should_look(&self) -> bool {
        let view = self.view();
        let is_old = |at: Duration| self.clock.monotonic().saturating_sub(at) >= LOOK_EVERY;
        view.rotation.is_some() || view.looked_at.is_none_or(is_old)
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key that seals here; `None` if certlib does not manage the envelope's keys.
    fn own_primary(&self) -> Option<Kek> {
        let id = self.envelope.primary()?;
        self.envelope.keks().into_iter().find(|kek| kek.id == id)
    }

    async fn state_or(&self, primary: Kek) -> Result<KeyringState> {
        if let Some(mut state) = self.store.find::<KeyringState>(KeyringState::ID).await? {
            if !state.kinds.is_superset(&self.kinds) {
                state.kinds.extend(self.kinds.iter().cloned());
                match self.store.update(&mut state).await {
                    // Somebody else wrote it: the next look tells.
                    Err(error) if !error.is_conflict() => return Err(error),
                    _ => {}
                }
            }
            return Ok(state.record);
        }
        let state = KeyringState {
            id: KeyringState::ID.to_owned(),
            epoch: 1,
            primary,
            retired: Vec::new(),
            rotation: None,
            kinds: self.kinds.clone(),
            updated_at: self.clock.now(),
        };
        let mut batch = WriteBatch::new().insert(&state)?;
        for fence in KekFence::of(&state.primary.id) {
            batch = batch.insert(&fence)?;
        }
        match self.store.commit(batch).await {
            Ok(_) => Ok(state),
            // Another node was first.
            Err(error) if error.is_conflict() => Ok(self.store.load::<KeyringState>(KeyringState::ID).await?.record),
            Err(error) => Err(error),
        }
    }
}

/// A key that is missing here, or that its provider does not let us use, may be at hand on another node, or here soon:
/// worth another try, unlike a refusal of the CA or of a target.
fn elsewhere(error: Error) -> Error {
    let (code, why) = match (error.class(), error.code()) {
        (ErrorClass::Validation, "kek_unknown") => {
            ("kek_unknown", "this node lacks a key that it needs; give it the key")
        }
        (ErrorClass::Validation, "kek_not_sealing") => ("kek_not_sealing", "the key that seals may not seal here"),
        (ErrorClass::Auth, _) => ("kek_refused", "the provider of the key refuses this node"),
        _ => return error,
    };
    Error::transient("sealer", code, why).with_source(error)
}
