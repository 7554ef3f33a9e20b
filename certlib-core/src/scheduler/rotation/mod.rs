//! Moves all secrets from one key-encryption key to another, while everything goes on.
//!
//! | Phase | Ends when | In the same commit |
//! |---|---|---|
//! | prepare | every live node has the new key, and the leader knows every kind of record | the new key seals; the epoch grows |
//! | rewrap | everything that was under the old key was looked at | |
//! | settle | every live node has seen that epoch | nothing may be stored under the old key any more |
//! | verify | every secret unwraps, and none is under the old key | the old key is retired |
//!
//! All of it is in [`KeyringState`](crate::model::KeyringState): whoever leads next goes on where the last commit was. Each
//! page of records is one commit that demands the leader's lease, the state it started from and the revisions it read:
//! so a former leader changes nothing, and whoever writes a record meanwhile wins. Nodes that do not beat, such as
//! programs that only use a [`Client`](crate::client::Client), are not waited for; what they seal too late is refused by
//! the [fence](crate::model::KekFence).

mod fleet;
mod pass;
mod phases;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;

use self::fleet::Fleet;
use super::{Sweep, SweepContext};
use crate::error::{Result, codes, truncate};
use crate::model::{KeyringState, Rotation};
use crate::secret::SecretEnvelope;
use crate::store::{RecordKinds, StoreExt as _, Versioned, WriteBatch};

/// The kind of the event that says that the rotation to another key-encryption key has begun.
pub const ROTATION_STARTED_EVENT: &str = "kek.rotation_started";
/// The kind of the event that says that a rotation was given up before anything had changed.
pub const ROTATION_CANCELLED_EVENT: &str = "kek.rotation_cancelled";
/// The kind of the event that says that another key-encryption key seals now.
pub const KEK_PROMOTED_EVENT: &str = "kek.promoted";
/// The kind of the event that says that no secret is under the former key-encryption key any more.
pub const ROTATION_FINISHED_EVENT: &str = "kek.rotation_finished";
/// The kind of the event that says that a retired key-encryption key is not needed any more.
pub const KEK_REMOVED_EVENT: &str = "kek.removed";
/// The kind of the event that says that a secret cannot be unwrapped: nobody can use it, and the rotation does not end
/// before it is replaced or deleted. At most 20 are told for each rotation and look.
pub const ENVELOPE_UNREADABLE_EVENT: &str = "kek.envelope_unreadable";

/// How often to look again whether the nodes are ready.
const POLL: Duration = Duration::from_secs(2);
/// After how long in a phase that is left to the sweep, which comes less often.
const POLL_FOR: time::Duration = time::Duration::minutes(10);
/// How long a rotation rests that found secrets that cannot be unwrapped: looking for them costs a look at everything.
const REST: Duration = Duration::from_secs(600);
/// How often somebody else may write the keyring's state at the same moment before the next sweep goes on.
const CONFLICTS_MAX: u32 = 20;

/// Takes a rotation of the key-encryption key to its end.
///
/// The sweep itself only looks whether there is one; the work is done beside the other sweeps, once at a time.
#[derive(Debug, Clone)]
pub struct RotationSweep {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    envelope: Arc<dyn SecretEnvelope>,
    kinds: RecordKinds,
    fleet: Mutex<Fleet>,
    is_busy: AtomicBool,
    /// A rotation, and until when of the monotonic clock it rests.
    rest: Mutex<Option<(String, Duration)>>,
}

impl RotationSweep {
    /// Rotates what `envelope` seals, in all records of these `kinds`.
    pub fn new(envelope: Arc<dyn SecretEnvelope>, kinds: RecordKinds) -> Self {
        let shared = Shared {
            envelope,
            kinds,
            fleet: Mutex::default(),
            is_busy: AtomicBool::new(false),
            rest: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }
}

#[async_trait]
impl Sweep for RotationSweep {
    fn name(&self) -> &'static str {
        "rotation"
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        let state = cx.store.find::<KeyringState>(KeyringState::ID).await?;
        let Some(rotation) = state.and_then(|state| state.record.rotation) else { return Ok(0) };
        if self.shared.rests(&rotation.id, cx.clock.monotonic()) {
            return Ok(0);
        }
        let Some(turn) = Turn::take(&self.shared) else { return Ok(0) };
        let mover = Mover { cx: cx.clone(), shared: self.shared.clone() };
        cx.spawn(async move {
            mover.run().await;
            drop(turn);
        });
        Ok(1)
    }
}

impl Shared {
    fn rests(&self, rotation: &str, now: Duration) -> bool {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        rest.as_ref().is_some_and(|(id, until)| id == rotation && now < *until)
    }
}

/// The right to work on the rotation: one task at a time has it, and loses it however it ends.
struct Turn(Arc<Shared>);

impl Turn {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let is_free = !shared.is_busy.swap(true, Ordering::AcqRel);
        is_free.then(|| Self(shared.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.is_busy.store(false, Ordering::Release);
    }
}

/// Moves a rotation on, as leader.
struct Mover {
    cx: SweepContext,
    shared: Arc<Shared>,
}

/// The keyring's state while a rotation is under way.
struct Held {
    state: Versioned<KeyringState>,
    rotation: Rotation,
}

/// What to do after a step.
enum Step {
    /// The next one.
    Next,
    /// The same again in a while.
    Wait,
    /// The same again in a long while.
    Rest,
    /// Nothing: it is finished, or no longer ours.
    Over,
}

impl Mover {
    async fn run(&self) {
        match self.go().await {
            Ok(()) => {}
            Err(error) if error.code() == codes::LEASE_LOST => {
                tracing::info!(%error, "another leader goes on with the rotation");
            }
            Err(error) => {
                tracing::warn!(%error, "the rotation was interrupted and goes on with the next sweep");
                let mut text = format!("interrupted: {error}");
                truncate(&mut text, 1_000);
                if let Ok(Some(mut held)) = self.load().await
                    && let Err(error) = self.note(&mut held, text).await
                {
                    tracing::debug!(%error, "cannot note why the rotation was interrupted");
                }
            }
        }
    }

    async fn go(&self) -> Result<()> {
        let mut conflicts = 0;
        while !self.cx.is_over() {
            let Some(mut held) = self.load().await? else { return Ok(()) };
            match self.step(&mut held).await {
                Ok(Step::Next) => conflicts = 0,
                Ok(Step::Wait) if self.cx.clock.now() - held.rotation.phase_since > POLL_FOR => return Ok(()),
                Ok(Step::Wait) => self.pause().await,
                Ok(Step::Rest) => {
                    let until = self.cx.clock.monotonic() + REST;
                    let mut rest = self.shared.rest.lock().unwrap_or_else(PoisonError::into_inner);
                    *rest = Some((held.rotation.id, until));
                    return Ok(());
                }
                Ok(Step::Over) => return Ok(()),
                // A client wrote the state: it is as it is now.
                Err(error) if error.is_conflict() && conflicts < CONFLICTS_MAX => conflicts += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn load(&self) -> Result<Option<Held>> {
        let state = self.cx.store.find::<KeyringState>(KeyringState::ID).await?;
        Ok(state.and_then(|state| Some(Held { rotation: state.rotation.clone()?, state })))
    }

    /// Writes the rotation as it is now, together with `batch`.
    async fn save(&self, held: &mut Held, batch: WriteBatch) -> Result<()> {
        held.state.rotation = Some(held.rotation.clone());
        self.save_state(&mut held.state, batch).await
    }

    async fn save_state(&self, state: &mut Versioned<KeyringState>, batch: WriteBatch) -> Result<()> {
        state.updated_at = self.now();
        self.cx.commit(batch.update(state)?).await?;
        state.revision += 1;
        Ok(())
    }

    /// Says what the rotation waits for.
    async fn note(&self, held: &mut Held, note: String) -> Result<()> {
        if held.rotation.note.as_ref() == Some(&note) {
            return Ok(());
        }
        held.rotation.note = Some(note);
        self.save(held, self.cx.batch()).await
    }

    async fn pause(&self) {
        tokio::select! {
            biased;
            () = self.cx.cancel.cancelled() => {}
            () = self.cx.clock.sleep(POLL) => {}
        }
    }

    fn now(&self) -> OffsetDateTime {
        self.cx.clock.now()
    }
}
