//! What takes a delivery back.

use certlib_core::Fingerprint;
use serde::{Deserialize, Serialize};

use super::bound::Change;
use super::stores::{Store, Wanted};

/// What undoes one change. Ids, names and fingerprints; no secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Undo {
    /// A certificate is about to be put into a store that did not have it.
    #[non_exhaustive]
    Create(Creation),
    /// A resource is about to be pointed at another certificate.
    #[non_exhaustive]
    Bind(Binding),
    /// A certificate of an earlier generation, which nothing uses, is about to be removed. It does not come back.
    #[non_exhaustive]
    Retire(Retirement),
}

/// A certificate that is put into a store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Creation {
    pub(super) store: Store,
    #[serde(flatten)]
    pub(super) wanted: Wanted,
}

/// A resource that is pointed at another certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Binding {
    pub(super) change: Box<Change>,
    pub(super) leaf: Fingerprint,
}

/// A certificate that is removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Retirement {
    pub(super) store: Store,
    pub(super) id: String,
    pub(super) name: String,
}

impl Undo {
    /// The leaf that was being delivered, where the entry tells.
    pub(super) fn leaf(&self) -> Option<Fingerprint> {
        match self {
            Self::Create(creation) => Some(creation.wanted.leaf),
            Self::Bind(binding) => Some(binding.leaf),
            Self::Retire(_) => None,
        }
    }
}

/// The recorded change of the resource, if it came that far.
pub(super) fn binding(entries: &[Undo]) -> Option<&Change> {
    entries.iter().find_map(|entry| match entry {
        Undo::Bind(binding) => Some(&*binding.change),
        _ => None,
    })
}

/// The recorded creations, in order.
pub(super) fn creations(entries: &[Undo]) -> impl DoubleEndedIterator<Item = &Creation> {
    entries.iter().filter_map(|entry| match entry {
        Undo::Create(creation) => Some(creation),
        _ => None,
    })
}
