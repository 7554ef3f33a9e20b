//! Keys: what every node has, and what must be true of what is sealed with them.

use std::sync::Arc;

use certlib_core::memory::MemoryStore;
use certlib_core::model::{KeyringState, RotationPhase, record_kinds};
use certlib_core::secret::{Keyring, KeyringEnvelope, Secret, SecretEnvelope as _};
use certlib_core::store::{IndexValue, KEK_FIELD, Record, Store as _, StoreExt as _, TypedQuery, Write, WriteBatch};

use crate::backend::at_once;
use crate::history::{Verdict, demand};

/// The versions that every node has.
pub const VERSIONS: [u32; 3] = [1, 2, 3];

/// An envelope with keys that are the same in every run.
pub fn envelope(versions: &[u32]) -> Arc<KeyringEnvelope> {
    let mut ring = Keyring::default();
    for version in versions {
        let seed = u8::try_from(*version).unwrap();
        ring.add(*version, Secret::new(std::array::from_fn(|n| u8::try_from(n).unwrap() ^ seed))).unwrap();
    }
    Arc::new(KeyringEnvelope::new(ring))
}

pub fn state(memory: &MemoryStore) -> Option<KeyringState> {
    at_once(memory.find::<KeyringState>(KeyringState::ID)).unwrap().map(|state| state.record)
}

/// Nothing is stored under a key that is going away, or gone.
pub fn check_commit(memory: &MemoryStore, batch: &WriteBatch) -> Verdict {
    for write in &batch.writes {
        let Write::Put { kind, id, index, .. } = write else { continue };
        let Some((_, IndexValue::Text(kek))) = index.iter().find(|(field, _)| *field == KEK_FIELD) else { continue };
        let state = state(memory).expect("who seals says first with which key");
        let mut good = vec![state.primary.id];
        if let Some(rotation) = &state.rotation {
            good.push(rotation.to.id);
            good.extend((rotation.phase < RotationPhase::Verify).then_some(rotation.from.id));
        }
        demand(good.iter().any(|good| good.to_string() == *kek), "G21", || {
            format!("{kind} {id} was stored under key {kek}, and the keyring is {state:?}")
        })?;
    }
    Ok(())
}

/// Every secret opens with the keys that were not removed.
pub fn at_the_end(memory: &MemoryStore) -> Verdict {
    let Some(state) = state(memory) else { return Ok(()) };
    let kept: Vec<_> = state.retired.iter().chain([&state.primary]).map(|kek| kek.version).collect();
    let envelope = envelope(&kept);
    for kind in record_kinds().iter() {
        let mut query = TypedQuery::<Any>::new().limit(1000).into_raw().unwrap();
        query.kind = kind.name();
        for raw in at_once(memory.query(&query)).unwrap().records {
            let record = kind.decode(&raw).unwrap();
            let Some(field) = record.sealed() else { continue };
            let opened = at_once(envelope.open(field.sealed, &field.aad));
            demand(opened.is_ok(), "G21", || {
                format!("{} {} does not open with versions {kept:?}: {opened:?}", kind.name(), raw.id)
            })?;
        }
    }
    Ok(())
}

/// Stands for records of any kind in a query.
#[derive(serde::Serialize, serde::Deserialize)]
struct Any;

impl Record for Any {
    const KIND: &'static str = "any";
    const FIELDS: &'static [&'static str] = &[];

    fn id(&self) -> &str {
        ""
    }

    fn index(&self) -> certlib_core::store::Index {
        certlib_core::store::Index::new()
    }
}
