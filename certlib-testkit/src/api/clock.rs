//! The time that a simulator lives in.

use std::{fmt, sync::Arc};

use time::{Duration, OffsetDateTime};

/// A source of time, and how far ahead of it the simulator is.
#[derive(Clone)]
pub(crate) struct Clock {
    source: Arc<dyn Fn() -> OffsetDateTime + Send + Sync>,
    ahead: Duration,
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new(OffsetDateTime::now_utc)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("ahead", &self.ahead).finish_non_exhaustive()
    }
}

impl Clock {
    pub(crate) fn new(source: impl Fn() -> OffsetDateTime + Send + Sync + 'static) -> Self {
        Clock { source: Arc::new(source), ahead: Duration::ZERO }
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        (self.source)() + self.ahead
    }

    pub(crate) fn advance(&mut self, by: std::time::Duration) {
        self.ahead += Duration::try_from(by).unwrap_or(Duration::MAX);
    }
}
