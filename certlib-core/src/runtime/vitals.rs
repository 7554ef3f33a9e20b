//! How this node is doing: whether it leads, how busy its lanes are, when it last said that it lives.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::queue::Lane;
use crate::scheduler::{Epochs, LeaderGate};

/// Shared by everything that runs in one runtime.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    /// What is remembered of leases.
    pub(crate) epochs: Epochs,
    gate: Mutex<Option<Arc<LeaderGate>>>,
    running: [AtomicUsize; Lane::ALL.len()],
    heartbeat: Mutex<Option<Duration>>,
    kinds: Mutex<BTreeSet<String>>,
}

impl Vitals {
    pub(crate) fn new(epochs: Epochs) -> Self {
        Self { epochs, ..Self::default() }
    }

    /// Whether this node may act as leader at this very moment.
    pub(crate) fn is_leader(&self) -> bool {
        lock(&self.gate).as_ref().is_some_and(|gate| gate.is_open())
    }

    /// Sets or removes the gate of the present term.
    pub(crate) fn lead(&self, gate: Option<Arc<LeaderGate>>) {
        *lock(&self.gate) = gate;
    }

    /// Counts a job of `lane` as running until the answer is dropped.
    pub(crate) fn enter(self: &Arc<Self>, lane: Lane) -> InLane {
        self.running[place(lane)].fetch_add(1, Ordering::SeqCst);
        InLane { vitals: self.clone(), lane }
    }

    /// How many jobs of `lane` run here.
    pub(crate) fn running(&self, lane: Lane) -> usize {
        self.running[place(lane)].load(Ordering::SeqCst)
    }

    /// The node's record was written at `now` of the monotonic clock.
    pub(super) fn beat(&self, now: Duration) {
        *lock(&self.heartbeat) = Some(now);
    }

    /// When the node's record was last written, by the monotonic clock.
    pub(crate) fn last_beat(&self) -> Option<Duration> {
        *lock(&self.heartbeat)
    }

    /// All types of job seen so far, with those of `now`: a gauge of what is no longer there must be set to zero.
    pub(crate) fn kinds<'a>(&self, now: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
        let mut kinds = lock(&self.kinds);
        kinds.extend(now.map(str::to_owned));
        kinds.clone()
    }
}

/// A running job, counted.
#[derive(Debug)]
pub(crate) struct InLane {
    vitals: Arc<Vitals>,
    lane: Lane,
}

impl Drop for InLane {
    fn drop(&mut self) {
        self.vitals.running[place(self.lane)].fetch_sub(1, Ordering::SeqCst);
    }
}

fn place(lane: Lane) -> usize {
    Lane::ALL.iter().position(|known| *known == lane).unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_jobs_are_counted_by_lane() {
        let vitals = Arc::new(Vitals::default());
        let first = vitals.enter(Lane::Discovery);
        let second = vitals.enter(Lane::Discovery);
        assert_eq!((vitals.running(Lane::Discovery), vitals.running(Lane::Issuance)), (2, 0));
        drop((first, second));
        assert_eq!(vitals.running(Lane::Discovery), 0);
    }
}
