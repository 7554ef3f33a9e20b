//! Clocks over the runtime's virtual time: one for the store, one for each node.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::clock::Clock;
use time::OffsetDateTime;
use time::macros::datetime;
use tokio::time::Instant;

use crate::network::Node;

pub const START: OffsetDateTime = datetime!(2027-01-01 00:00 UTC);

/// The store's own clock: the one that decides about leases, claims and `run_at`. It is always right.
#[derive(Debug)]
pub struct StoreClock {
    born: Instant,
    /// For mutants: milliseconds by which it is wrong just now.
    ahead: AtomicU64,
}

impl StoreClock {
    pub fn new() -> Self {
        Self { born: Instant::now(), ahead: AtomicU64::new(0) }
    }

    /// Calls `f` while the clock is `by` ahead.
    pub fn while_ahead<T>(&self, by: Duration, f: impl FnOnce() -> T) -> T {
        self.ahead.store(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
        let result = f();
        self.ahead.store(0, Ordering::Relaxed);
        result
    }
}

#[async_trait]
impl Clock for StoreClock {
    fn now(&self) -> OffsetDateTime {
        START + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        self.born.elapsed() + Duration::from_millis(self.ahead.load(Ordering::Relaxed))
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// A node's clock: it runs at the node's rate, its wall clock is stepped, and who sleeps by it while the node is paused
/// wakes up when the node does; on a crashed node, never.
pub struct NodeClock {
    pub node: Arc<Node>,
}

impl fmt::Debug for NodeClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeClock").field("node", &self.node.name).finish()
    }
}

#[async_trait]
impl Clock for NodeClock {
    fn now(&self) -> OffsetDateTime {
        START + self.node.stage.now() + self.node.wall_offset()
    }

    fn monotonic(&self) -> Duration {
        self.node.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        // No longer than the timer can count.
        let true_time = duration.min(Duration::from_secs(400 * 86_400)).div_f64(self.node.rate);
        tokio::time::sleep(true_time).await;
        self.node.gate().await;
    }
}
