//! One change at a time on each appliance: two of them at once get in each other's way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// Whose turn it is, by the address of the appliance. Within this process only.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: Mutex<HashMap<String, Weak<Turn<()>>>>,
}

impl Turns {
    /// Waits for the turn; it ends when the guard is dropped. Cancel-safe.
    pub(super) async fn take(&self, appliance: &str) -> OwnedMutexGuard<()> {
        self.of(appliance).lock_owned().await
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
        let first = turns.take("a").await;
        assert!(turns.of("a").try_lock().is_err());
        drop(turns.take("b").await);
        drop(first);
        drop(turns.take("a").await);
        drop(turns.take("c").await);
        assert_eq!(turns.waiting.lock().unwrap().len(), 1, "those that nobody waits for are forgotten");
    }
}
