//! One change at a time on each appliance: two of them at once get in each other's way.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// Whose turn it is, by the address of the appliance. Within this process only.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: Mutex<HashMap<String, Weak<Turn<()>>>>,
}

impl Turns {
    /// Waits for the turn at both nodes of a pair; it ends when the guards are dropped. Cancel-safe.
    pub(super) async fn take(&self, url: &str, peer_url: Option<&str>) -> Vec<OwnedMutexGuard<()>> {
        // In order, so that no two wait for each other, whichever node they name first.
        let nodes: BTreeSet<_> = std::iter::once(url).chain(peer_url).collect();
        let mut guards = Vec::with_capacity(nodes.len());
        for turn in nodes.into_iter().map(|node| self.of(node)).collect::<Vec<_>>() {
            guards.push(turn.lock_owned().await);
        }
        guards
    }

    fn of(&self, appliance: &str) -> Arc<Turn<()>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = waiting.get(appliance).and_then(Weak::upgrade) {
            return turn;
        }
        waiting.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Turn::new(()));
        waiting.insert(appliance.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_kept() {
        let turns = Turns::default();
        let first = turns.take("a", Some("b")).await;
        assert!(turns.of("a").try_lock().is_err() && turns.of("b").try_lock().is_err());
        drop(turns.take("c", None).await);
        drop(first);
        drop(turns.take("b", Some("a")).await);
        drop(turns.take("a", Some("a")).await);
        drop(turns.take("d", None).await);
        assert_eq!(turns.waiting.lock().unwrap().len(), 1, "those that nobody waits for are forgotten");
    }
}
