//! Turns: how many connections are at work on one host at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::config::SshLocation;

/// How many at most, unless the module is told otherwise: a server with default settings begins to drop logins when ten are
/// under way, of whomever.
pub(super) const PER_HOST: usize = 4;

/// The hosts that are being worked on.
#[derive(Debug, Clone)]
pub(super) struct Hosts {
    most: usize,
    turns: Arc<Mutex<Turns>>,
}

/// The turns of those hosts that are waited for or worked on, by name and port.
#[derive(Debug, Default)]
struct Turns(HashMap<(String, u16), Weak<Semaphore>>);

impl Hosts {
    /// With `most` turns for each host, one at least.
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.clamp(1, Semaphore::MAX_PERMITS), turns: Arc::default() }
    }

    /// Waits for a turn at the host of `location`, which lasts until the permit is dropped. Cancel-safe; first come, first
    /// served.
    pub(super) async fn turn(&self, location: &SshLocation) -> Option<OwnedSemaphorePermit> {
        // Nobody closes it, so there always is a permit in the end.
        self.of(&location.host.to_ascii_lowercase(), location.port).acquire_owned().await.ok()
    }

    fn of(&self, host: &str, port: u16) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.to_owned(), port);
        if let Some(there) = turns.0.get(&key).and_then(Weak::upgrade) {
            return there;
        }
        // Hosts that nobody works on any more leave nothing behind.
        turns.0.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Semaphore::new(self.most));
        turns.0.insert(key, Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use serde_json::json;

    use super::*;

    fn at(host: &str, port: u16) -> SshLocation {
        serde_json::from_value(json!({ "host": host, "port": port, "paths": { "cert": "/c" } })).unwrap()
    }

    #[tokio::test]
    async fn a_host_has_so_many_turns_and_hosts_are_apart() {
        let hosts = Hosts::new(2);
        let (one, _two) = (hosts.turn(&at("a.example", 22)).await, hosts.turn(&at("A.example", 22)).await);
        assert!(hosts.turn(&at("a.example", 22)).now_or_never().is_none(), "the third waits");
        assert!(hosts.turn(&at("a.example", 2222)).now_or_never().is_some());
        assert!(hosts.turn(&at("b.example", 22)).now_or_never().is_some());
        drop(one);
        assert!(hosts.turn(&at("a.example", 22)).now_or_never().is_some());
        assert!(hosts.turns.lock().unwrap().0.len() <= 3);
    }
}
