//! What a host is told about leadership.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// A change of this node's leadership, told to the callback given to
/// [`RuntimeBuilder::on_leadership`](crate::runtime::RuntimeBuilder::on_leadership).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Leadership {
    /// This node leads.
    Gained {
        /// The epoch of its lease.
        epoch: u64,
    },
    /// This node led, and no longer does.
    Ended {
        /// The epoch of its lease.
        epoch: u64,
        /// Why.
        why: TermEnd,
    },
    /// This node must not lead any more, but some of its leader's work cannot be stopped: a sweep blocks its thread.
    /// Nothing that it commits takes effect once another node leads, but what it does outside might. certlib never
    /// ends the process of its host; the host should. This node does not stand for leader again.
    Stuck {
        /// The epoch of its lease.
        epoch: u64,
    },
    /// The store shows an older state than before: it was restored from a backup, or lost writes. This node does not
    /// lead until an operator calls [`Client::raise_leader_epoch`](crate::Client::raise_leader_epoch).
    StoreRegressed {
        /// The newest epoch that this node has seen: the smallest floor that mends it.
        seen: u64,
        /// The epoch that the store shows.
        found: u64,
    },
    /// The store is where it should be again.
    StoreMended,
}

/// Why a term of leadership ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TermEnd {
    /// The node was asked to stop.
    Stopped,
    /// The lease could not be renewed in time.
    Expired,
    /// The store said that the lease belongs to somebody else.
    Taken,
    /// The term's watchdog could not be started.
    Unwatched,
}

impl TermEnd {
    /// As it appears in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Expired => "expired",
            Self::Taken => "taken",
            Self::Unwatched => "unwatched",
        }
    }
}

/// The host's callbacks.
#[derive(Clone, Default)]
pub(crate) struct Notify(Vec<Arc<Callback>>);

type Callback = dyn Fn(&Leadership) + Send + Sync;

impl Notify {
    pub(crate) fn add(&mut self, callback: impl Fn(&Leadership) + Send + Sync + 'static) {
        self.0.push(Arc::new(callback));
    }

    /// Tells every callback. One that panics keeps neither the others nor the caller from going on.
    pub(super) fn tell(&self, what: &Leadership) {
        for callback in &self.0 {
            if catch_unwind(AssertUnwindSafe(|| callback(what))).is_err() {
                tracing::error!(?what, "a callback for changes of leadership panicked");
            }
        }
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Notify").field(&self.0.len()).finish()
    }
}
