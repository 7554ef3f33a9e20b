//! The slots of a lane: how many jobs run at the same time, whose they are, and how long they take.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// How far ahead a node claims at most, in time: what it holds back must not have to wait much longer than a job that
/// another node would find.
const AHEAD: Duration = Duration::from_millis(50);

/// The slots of one lane on this node.
#[derive(Debug)]
pub(super) struct Slots {
    total: usize,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    by_parent: BTreeMap<String, usize>,
    /// How long the latest jobs took, in seconds: an average that forgets.
    pace: Option<f64>,
}

impl Slots {
    pub(super) fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { total, state: Mutex::default(), freed: Notify::new() })
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn free(&self) -> usize {
        self.total.saturating_sub(self.lock().used)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.lock().used == 0
    }

    /// How many slots each parent has; jobs without parent do not count.
    pub(super) fn by_parent(&self) -> BTreeMap<String, usize> {
        self.lock().by_parent.clone()
    }

    /// Takes a slot for a job of `parent`, if one is free.
    pub(super) fn take(self: &Arc<Self>, parent: &str) -> Option<Slot> {
        let mut state = self.lock();
        if state.used >= self.total {
            return None;
        }
        state.used += 1;
        if !parent.is_empty() {
            match state.by_parent.get_mut(parent) {
                Some(count) => *count += 1,
                None => drop(state.by_parent.insert(parent.to_owned(), 1)),
            }
        }
        Some(Slot { slots: self.clone(), parent: parent.to_owned() })
    }

    /// Returns when a slot became free since this was asked last.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// How many jobs to claim beyond the free slots: as many as begin within a moment at the present pace, and at most
    /// `limit`.
    pub(super) fn ahead(&self, limit: usize) -> usize {
        match self.lock().pace {
            None => 0,
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            Some(pace) => limit.min((AHEAD.as_secs_f64() * self.total as f64 / pace.max(1e-9)) as usize),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One job's place; free again when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    parent: String,
}

impl Slot {
    /// Frees the slot of a job that took `duration`.
    pub(super) fn leave(self, duration: Duration) {
        let mut state = self.slots.lock();
        let seconds = duration.as_secs_f64();
        state.pace = Some(state.pace.map_or(seconds, |pace| pace + (seconds - pace) / 8.0));
        drop(state);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        state.used = state.used.saturating_sub(1);
        if let Some(count) = state.by_parent.get_mut(&self.parent) {
            *count -= 1;
            if *count == 0 {
                state.by_parent.remove(&self.parent);
            }
        }
        drop(state);
        self.slots.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_counted_by_parent_and_come_back() {
        let slots = Slots::new(2);
        let one = slots.take("a").unwrap();
        let two = slots.take("").unwrap();
        assert!(slots.take("b").is_none());
        assert_eq!(slots.by_parent(), BTreeMap::from([("a".to_owned(), 1)]));
        drop(one);
        assert!(slots.by_parent().is_empty() && slots.free() == 1 && !slots.is_idle());
        drop(two);
        assert!(slots.is_idle());
    }

    #[test]
    fn only_quick_jobs_are_claimed_ahead() {
        let slots = Slots::new(10);
        assert_eq!(slots.ahead(16), 0, "nothing is known yet");
        slots.take("").unwrap().leave(Duration::from_micros(20));
        assert_eq!(slots.ahead(16), 16);
        for _ in 0..40 {
            slots.take("").unwrap().leave(Duration::from_secs(1));
        }
        assert_eq!(slots.ahead(16), 0);
        for _ in 0..40 {
            slots.take("").unwrap().leave(Duration::from_millis(100));
        }
        assert_eq!(slots.ahead(16), 4);
    }
}
