//! One step of a rotation: what each phase does, and when it ends.

use std::sync::PoisonError;

use serde_json::json;

use super::fleet::names;
use super::pass::Scope;
use super::{Held, KEK_PROMOTED_EVENT, Mover, ROTATION_FINISHED_EVENT, Step};
use crate::error::{Error, Result};
use crate::model::{Event, KekFence, Node, RotationCursor, RotationPhase};
use crate::secret::KekId;
use crate::store::{StoreExt as _, TypedQuery, Versioned};

impl Mover {
    pub(super) async fn step(&self, held: &mut Held) -> Result<Step> {
        match held.rotation.phase {
            RotationPhase::Prepare => self.prepare(held).await,
            RotationPhase::Rewrap => self.rewrap(held).await,
            RotationPhase::Settle => self.settle(held).await,
            RotationPhase::Verify => self.verify(held).await,
        }
    }

    async fn prepare(&self, held: &mut Held) -> Result<Step> {
        let to = held.rotation.to.clone();
        if let Some(kinds) = held.state.unknown_kinds(&self.shared.kinds) {
            self.note(held, format!("waits for a leader that knows these kinds of record: {kinds}")).await?;
            return Ok(Step::Wait);
        }
        let mut nodes = self.live_nodes().await?;
        nodes.retain(|node| !node.keks.iter().any(|kek| kek.id == to.id));
        if !nodes.is_empty() {
            self.note(held, format!("waits for {to}, which is missing on {}", names(&nodes))).await?;
            return Ok(Step::Wait);
        }
        self.check_keys(held)?;
        held.state.primary = to.clone();
        held.state.epoch += 1;
        held.state.retired.retain(|kek| kek.id != to.id);
        self.enter(held, RotationPhase::Rewrap);
        let epoch = held.state.epoch;
        let data = json!({ "from": held.rotation.from, "to": to, "epoch": epoch });
        let event = Event::new("", KEK_PROMOTED_EVENT, &held.rotation.id, data, self.now());
        self.save(held, self.cx.batch().insert(&event)?).await?;
        tracing::info!(%to, epoch, "another key seals from now on");
        Ok(Step::Next)
    }

    async fn rewrap(&self, held: &mut Held) -> Result<Step> {
        self.check_keys(held)?;
        self.mend_fences(held).await?;
        let scope = Scope::Under(held.rotation.from.id);
        if held.rotation.cursor.is_none() {
            let Some(total) = self.count(&held.rotation.from.id).await? else { return Ok(Step::Over) };
            let first = self.shared.kinds.iter().next().map_or("", |kind| kind.name());
            held.rotation.cursor = Some(RotationCursor { kind: first.to_owned(), after: None });
            held.rotation.total = total;
            held.rotation.note = None;
            self.save(held, self.cx.batch()).await?;
            tracing::info!(total, from = %held.rotation.from, to = %held.rotation.to, "wrapping secrets anew");
        }
        if !self.walk(held, scope).await? {
            return Ok(Step::Over);
        }
        self.enter(held, RotationPhase::Settle);
        self.save(held, self.cx.batch()).await?;
        Ok(Step::Next)
    }

    async fn settle(&self, held: &mut Held) -> Result<Step> {
        let mut nodes = self.live_nodes().await?;
        nodes.retain(|node| node.keyring_epoch < held.state.epoch);
        if !nodes.is_empty() {
            self.note(held, format!("waits until these nodes know which key seals: {}", names(&nodes))).await?;
            return Ok(Step::Wait);
        }
        // What was sealed by who did not know yet: from the end of this phase on, nobody can write it any more.
        self.check_keys(held)?;
        if held.rotation.cursor.is_none() {
            held.rotation.unreadable = 0;
        }
        if !self.walk(held, Scope::Under(held.rotation.from.id)).await? {
            return Ok(Step::Over);
        }
        self.enter(held, RotationPhase::Verify);
        let fences = KekFence::of(&held.rotation.from.id);
        let batch = fences.fold(self.cx.batch(), |batch, fence| batch.delete::<KekFence>(&fence.id));
        self.save(held, batch).await?;
        Ok(Step::Next)
    }

    async fn verify(&self, held: &mut Held) -> Result<Step> {
        self.check_keys(held)?;
        if held.rotation.cursor.is_none() {
            held.rotation.unreadable = 0;
            held.rotation.verified = 0;
        }
        if !self.walk(held, Scope::Everything).await? {
            return Ok(Step::Over);
        }
        held.rotation.cursor = None;
        let bad = held.rotation.unreadable;
        if bad > 0 {
            let secrets = if bad == 1 { "1 secret" } else { &*format!("{bad} secrets") };
            let note = format!(
                "{secrets} cannot be unwrapped: see the events {}; it ends when they are replaced or deleted",
                super::ENVELOPE_UNREADABLE_EVENT
            );
            held.rotation.note = Some(note);
            self.save(held, self.cx.batch()).await?;
            tracing::error!(secrets = bad, "the rotation cannot end: there are secrets that cannot be unwrapped");
            return Ok(Step::Rest);
        }
        if let Some(kind) = self.first_under(&held.rotation.from.id).await? {
            // Somebody was faster with a record than the pass was, and wrote it as it had been.
            held.rotation.note = Some(format!("looks again: there was a {kind} under {}", held.rotation.from));
            self.save(held, self.cx.batch()).await?;
            return Ok(Step::Wait);
        }
        self.retire(held).await?;
        Ok(Step::Over)
    }

    async fn retire(&self, held: &mut Held) -> Result<()> {
        let rotation = held.rotation.clone();
        let seconds = (self.now() - rotation.started_at).whole_seconds();
        let verifying = u64::try_from((self.now() - rotation.phase_since).whole_milliseconds()).unwrap_or(0);
        let data = json!({
            "from": rotation.from,
            "to": rotation.to,
            "rewrapped": rotation.rewrapped,
            "verified": rotation.verified,
            "seconds": seconds,
            "verifying_milliseconds": verifying,
        });
        let event = Event::new("", ROTATION_FINISHED_EVENT, &rotation.id, data, self.now());
        let state = &mut held.state;
        state.rotation = None;
        state.retired.retain(|kek| kek.id != rotation.from.id);
        state.retired.push(rotation.from.clone());
        self.save_state(state, self.cx.batch().insert(&event)?).await?;
        tracing::info!(from = %rotation.from, to = %rotation.to, verified = rotation.verified, "the rotation is finished");
        Ok(())
    }

    fn enter(&self, held: &mut Held, phase: RotationPhase) {
        held.rotation.phase = phase;
        held.rotation.phase_since = self.now();
        held.rotation.cursor = None;
        held.rotation.note = None;
    }

    async fn live_nodes(&self) -> Result<Vec<Versioned<Node>>> {
        let nodes = self.cx.store.list_all(TypedQuery::<Node>::new()).await?;
        let (now, monotonic) = (self.now(), self.cx.clock.monotonic());
        Ok(self.shared.fleet.lock().unwrap_or_else(PoisonError::into_inner).live(nodes, now, monotonic))
    }

    /// Fails unless this node has both keys; once the new one seals, it seals here, too.
    pub(super) fn check_keys(&self, held: &Held) -> Result<()> {
        let envelope = &self.shared.envelope;
        let keks = envelope.keks();
        // Once nothing can be stored under the old key, whoever restored a backup of that moment may lack it: a secret
        // that needs it after all is found by itself.
        let old = (held.rotation.phase < RotationPhase::Verify).then_some(&held.rotation.from);
        for kek in old.into_iter().chain([&held.rotation.to]) {
            if !keks.iter().any(|own| own.id == kek.id) {
                let why = "the leader lacks a key that the rotation needs; give it the key, or stop it";
                return Err(Error::transient("rotation", "kek_unknown", why)
                    .with("kek", kek)
                    .with("node", &self.cx.lease().holder));
            }
        }
        if held.rotation.phase > RotationPhase::Prepare && envelope.primary() != Some(held.rotation.to.id) {
            envelope.promote(&held.rotation.to.id)?;
        }
        Ok(())
    }

    /// Lets what the new key seals be stored, should that not be so: a store put together from parts may lack it.
    async fn mend_fences(&self, held: &Held) -> Result<()> {
        let mut batch = self.cx.batch();
        for fence in KekFence::of(&held.rotation.to.id) {
            if self.cx.store.find::<KekFence>(&fence.id).await?.is_none() {
                batch = batch.insert(&fence)?;
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        tracing::warn!(to = %held.rotation.to, "nothing could be stored under the key that seals; mended");
        self.cx.commit(batch).await.map(drop)
    }

    /// A kind of which there is a record under `kek`.
    async fn first_under(&self, kek: &KekId) -> Result<Option<&'static str>> {
        for kind in self.shared.kinds.iter() {
            let page = self.cx.store.query(&Scope::Under(*kek).query(kind.name(), None, 1)).await?;
            if !page.records.is_empty() {
                return Ok(Some(kind.name()));
            }
        }
        Ok(None)
    }
}
