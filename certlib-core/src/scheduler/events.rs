//! Forgets what happened long ago.

use std::time::Duration;

use async_trait::async_trait;

use super::due::delete_due;
use super::{Sweep, SweepContext};
use crate::error::Result;
use crate::model::Event;

/// Deletes events that are older than their retention.
#[derive(Debug, Clone, Copy)]
pub struct EventSweep {
    retention: Duration,
}

/// How many are deleted in one go, so that other sweeps get their turn.
const MOST: usize = 20_000;

impl EventSweep {
    /// Keeps events for this long.
    pub fn new(retention: Duration) -> Self {
        Self { retention }
    }
}

#[async_trait]
impl Sweep for EventSweep {
    fn name(&self) -> &'static str {
        "event_cleanup"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(600)
    }

    async fn run(&self, cx: &SweepContext) -> Result<usize> {
        let age = time::Duration::try_from(self.retention).unwrap_or(time::Duration::MAX);
        delete_due::<Event>(cx, "at", cx.clock.now().saturating_sub(age), MOST).await
    }
}
