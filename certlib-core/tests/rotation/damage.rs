//! Secrets that cannot be unwrapped, and keys that are out of reach.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::model::{KeyringState, RotationPhase, record_kinds};
use certlib_core::scheduler::{RotationSweep, Sweep as _};
use certlib_core::secret::{
    Dek, Kek, KekId, KeyProvider, Keyring, KeyringEnvelope, LocalKey, Sealed, Secret, WrappedDek,
};
use certlib_core::store::{Index, StoreExt as _, Write, WriteBatch};
use certlib_core::{Error, Result};

use crate::lab::{Lab, Note, SECOND, kek, ring};

const MINUTE: Duration = Duration::from_secs(60);
/// Within the wrapped data key.
const IN_THE_WRAP: usize = 100;
/// Within the commitment to it.
const IN_THE_COMMITMENT: usize = 140;

/// Flips a bit of a stored secret, as a database that rots would: the index stays as it is.
async fn damage(lab: &Lab, id: &str, at: usize, kek: KekId) {
    let mut note = lab.store().load::<Note>(id).await.unwrap().record;
    let mut bytes = note.sealed.as_bytes().to_vec();
    bytes[at] ^= 1;
    note.sealed = Sealed::from_bytes(bytes);
    let body = serde_json::to_string(&note).unwrap();
    put(lab, id, &body, kek).await;
}

async fn put(lab: &Lab, id: &str, body: &str, kek: KekId) {
    let note = lab.store().load::<Note>(id).await.unwrap().record;
    let mut write = Write::of(&note).unwrap();
    let Write::Put { body: old, index, .. } = &mut write else { panic!("not a put") };
    *old = body.into();
    *index = Index::new().field("kek", kek.to_string());
    let mut batch = WriteBatch::new();
    batch.writes.push(write);
    lab.store().commit(batch).await.unwrap();
}

#[tokio::test]
async fn a_damaged_secret_is_spoken_of_and_holds_up_only_the_end() {
    let lab = Lab::with_notes(250).await;
    damage(&lab, &Note::id_of(7), IN_THE_WRAP, kek(1)).await;
    damage(&lab, &Note::id_of(8), IN_THE_COMMITMENT, kek(1)).await;
    put(&lab, &Note::id_of(9), "{}", kek(1)).await;
    lab.client(&[1, 2]).rotate_kek(2).await.unwrap();
    let (sweep, cx) = (Lab::sweep(&[1, 2]), lab.world.leader("leader").await);
    let rotation = async || lab.state().await.rotation.unwrap();
    let stuck = async || rotation().await.note.is_some_and(|note| note.contains("3 secrets cannot be unwrapped"));
    lab.sweep_until(&sweep, &cx, stuck).await;
    let now = rotation().await;
    assert_eq!((now.phase, now.rewrapped, now.verified, now.unreadable), (RotationPhase::Verify, 247, 247, 3));
    let events = lab.events("kek.envelope_unreadable").await;
    let told: Vec<_> =
        events.iter().map(|event| (&*event.subject, event.data["code"].as_str().unwrap().to_owned())).collect();
    let codes = ["envelope_rejected", "commitment_mismatch", "record_unreadable"];
    let ids = [7, 8, 9].map(Note::id_of);
    let mut expected: Vec<_> = ids.iter().map(|id| &**id).zip(codes.map(str::to_owned)).collect();
    let mut sorted = told.clone();
    expected.sort();
    sorted.sort();
    assert_eq!(sorted, expected, "each once, though it was met in every pass");
    assert_eq!(events[0].data["kind"], "note");

    // It rests, and looks again when it has rested.
    assert_eq!(sweep.run(&cx).await.unwrap(), 0);
    for number in 7..9 {
        lab.store().commit(WriteBatch::new().delete::<Note>(&Note::id_of(number))).await.unwrap();
    }
    lab.world.clock.advance(10 * MINUTE);
    let one = async || rotation().await.note.is_some_and(|note| note.contains("1 secret cannot"));
    lab.sweep_until(&sweep, &cx, one).await;
    lab.store().commit(WriteBatch::new().delete::<Note>(&Note::id_of(9))).await.unwrap();
    lab.world.clock.advance(10 * MINUTE);
    lab.finish(&sweep, &cx).await;
    assert_eq!(lab.keks().await, [(kek(2), 247)].into());
    assert_eq!(lab.events("kek.envelope_unreadable").await.len(), 3);
}

#[tokio::test]
async fn a_secret_that_is_damaged_under_the_new_key_is_found() {
    let lab = Lab::with_notes(5).await;
    let client = lab.client(&[1, 2]);
    client.rotate_kek(2).await.unwrap();
    let mut state = lab.store().load::<KeyringState>(KeyringState::ID).await.unwrap();
    let rotation = state.record.rotation.as_mut().unwrap();
    rotation.phase = RotationPhase::Verify;
    state.record.primary = rotation.to.clone();
    state.record.epoch = 2;
    lab.store().update(&mut state).await.unwrap();
    lab.world.clock.advance(5 * SECOND);
    let healthy = crate::lab::note(&client, "zz", 1).await;
    lab.store().insert(healthy).await.unwrap();
    damage(&lab, "zz", IN_THE_COMMITMENT, kek(2)).await;
    let (sweep, cx) = (Lab::sweep(&[1, 2]), lab.world.leader("leader").await);
    let stuck = async || lab.state().await.rotation.unwrap().note.is_some();
    lab.sweep_until(&sweep, &cx, stuck).await;
    let rotation = lab.state().await.rotation.unwrap();
    assert_eq!((rotation.rewrapped, rotation.unreadable), (5, 1));
    assert_eq!(lab.events("kek.envelope_unreadable").await[0].subject, "zz");
    assert!(lab.events("kek.rotation_finished").await.is_empty());
}

#[tokio::test]
async fn only_so_many_damaged_secrets_are_spoken_of() {
    let lab = Lab::with_notes(60).await;
    for number in 0..30 {
        damage(&lab, &Note::id_of(number), IN_THE_WRAP, kek(1)).await;
    }
    lab.client(&[1, 2]).rotate_kek(2).await.unwrap();
    let (sweep, cx) = (Lab::sweep(&[1, 2]), lab.world.leader("leader").await);
    let stuck = async || lab.state().await.rotation.unwrap().note.is_some_and(|note| note.contains("30 secrets"));
    lab.sweep_until(&sweep, &cx, stuck).await;
    assert_eq!(lab.events("kek.envelope_unreadable").await.len(), 20);
}

/// A key whose provider is away at first.
#[derive(Debug)]
struct Flaky {
    key: LocalKey,
    failures: AtomicUsize,
}

#[async_trait]
impl KeyProvider for Flaky {
    fn kind(&self) -> &'static str {
        "flaky"
    }

    async fn keys(&self) -> Result<Vec<Kek>> {
        self.key.keys().await
    }

    async fn wrap(&self, kek: &Kek, dek: &Dek, aad: &[u8]) -> Result<WrappedDek> {
        if self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(Error::network("flaky.wrap", "connect_refused", "the HSM is away"));
        }
        self.key.wrap(kek, dek, aad).await
    }

    async fn unwrap(&self, kek: &Kek, wrapped: &WrappedDek, aad: &[u8]) -> Result<Dek> {
        self.key.unwrap(kek, wrapped, aad).await
    }
}

#[tokio::test]
async fn a_provider_that_is_away_is_no_damage() {
    let lab = Lab::with_notes(5).await;
    lab.client(&[1, 2]).rotate_kek(2).await.unwrap();
    let key = LocalKey::new(2, Secret::new(std::array::from_fn(|n| u8::try_from(n).unwrap() ^ 2))).unwrap();
    let mut keyring: Keyring = ring(&[1]);
    keyring.add_provider(Arc::new(Flaky { key, failures: AtomicUsize::new(3) })).await.unwrap();
    let sweep = RotationSweep::new(Arc::new(KeyringEnvelope::new(keyring)), record_kinds().with::<Note>());
    let cx = lab.world.leader("leader").await;
    let interrupted = async || {
        let rotation = lab.state().await.rotation;
        rotation.is_none_or(|it| it.note.is_some_and(|note| note.contains("connect_refused")))
    };
    lab.sweep_until(&sweep, &cx, interrupted).await;
    assert!(!lab.is_steady().await);
    lab.finish(&sweep, &cx).await;
    assert_eq!(lab.keks().await, [(kek(2), 5)].into());
    assert!(lab.events("kek.envelope_unreadable").await.is_empty());
}

#[tokio::test]
async fn a_leader_that_lacks_a_key_says_so_and_touches_nothing() {
    let lab = Lab::with_notes(5).await;
    lab.client(&[1, 2]).rotate_kek(2).await.unwrap();
    let cx = lab.world.leader("leader").await;
    let noted = async || lab.state().await.rotation.unwrap().note.is_some_and(|note| note.contains("node=leader"));
    lab.sweep_until(&Lab::sweep(&[1]), &cx, noted).await;
    assert_eq!(lab.keks().await, [(kek(1), 5)].into());
    assert_eq!(lab.state().await.epoch, 1);
    lab.finish(&Lab::sweep(&[1, 2]), &cx).await;
    assert_eq!(lab.keks().await, [(kek(2), 5)].into());
}
