//! The leader's gate: open as long as this node may act as leader, by its own clock.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use crate::clock::Clock;

/// Whether one term of leadership may still act.
///
/// The answer is computed from the clock at the moment of asking, so the gate closes by itself at its deadline, even
/// if no task of this process runs. Once the term has ended, or the gate was found closed when it should have been
/// extended, it never opens again: the next term has its own.
pub struct LeaderGate {
    clock: Arc<dyn Clock>,
    /// On the monotonic clock, in nanoseconds: enough for 584 years.
    deadline: AtomicU64,
    closed: AtomicBool,
}

impl LeaderGate {
    /// A gate that is open until `deadline` of the monotonic `clock`.
    pub(super) fn new(clock: Arc<dyn Clock>, deadline: Duration) -> Self {
        Self { clock, deadline: AtomicU64::new(nanos(deadline)), closed: AtomicBool::new(false) }
    }

    /// Whether the term may act now.
    pub fn is_open(&self) -> bool {
        self.is_open_at(self.clock.monotonic())
    }

    /// Whether the term may act at `now` of the monotonic clock.
    pub fn is_open_at(&self, now: Duration) -> bool {
        !self.closed.load(Ordering::SeqCst) && now < self.deadline()
    }

    /// How long it stays open unless it is extended; zero when closed.
    pub fn remaining(&self) -> Duration {
        let now = self.clock.monotonic();
        if self.is_open_at(now) { self.deadline().saturating_sub(now) } else { Duration::ZERO }
    }

    /// When it closes, or would have closed, by itself.
    pub(super) fn deadline(&self) -> Duration {
        Duration::from_nanos(self.deadline.load(Ordering::SeqCst))
    }

    /// Moves the deadline on; `false` if the gate was closed already, which it then stays.
    pub(super) fn extend(&self, deadline: Duration) -> bool {
        if !self.is_open() {
            self.close();
            return false;
        }
        self.deadline.fetch_max(nanos(deadline), Ordering::SeqCst);
        // Closing wins over extending, whichever came first.
        self.is_open()
    }

    /// Closes it for good.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Runs `work` only while the gate is open: whenever `work` could go on and the gate is closed, it is dropped
    /// instead, and the answer is `None`. Does not wake `work` when the gate closes.
    pub(super) async fn while_open<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| if self.is_open() { work.as_mut().poll(cx).map(Some) } else { Poll::Ready(None) })
            .await
    }
}

impl fmt::Debug for LeaderGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderGate").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::clock::ManualClock;

    const SECOND: Duration = Duration::from_secs(1);

    fn gate(clock: &ManualClock) -> LeaderGate {
        LeaderGate::new(Arc::new(clock.clone()), clock.monotonic() + SECOND)
    }

    #[test]
    fn it_closes_by_itself_and_stays_closed() {
        let clock = ManualClock::new(OffsetDateTime::UNIX_EPOCH);
        let gate = gate(&clock);
        assert!(gate.is_open() && gate.remaining() == SECOND);
        clock.advance(SECOND - Duration::from_nanos(1));
        assert!(gate.is_open());
        clock.advance(Duration::from_nanos(1));
        assert!(!gate.is_open() && gate.remaining().is_zero());
        assert!(!gate.extend(clock.monotonic() + SECOND), "too late");
        assert!(!gate.is_open());
    }

    #[test]
    fn extending_never_shortens_and_closing_is_for_good() {
        let clock = ManualClock::new(OffsetDateTime::UNIX_EPOCH);
        let gate = gate(&clock);
        assert!(gate.extend(clock.monotonic() + 3 * SECOND));
        assert!(gate.extend(clock.monotonic() + SECOND), "an answer that came out of order");
        assert_eq!(gate.remaining(), 3 * SECOND);
        gate.close();
        assert!(!gate.extend(clock.monotonic() + 9 * SECOND) && !gate.is_open());
        assert!(gate.remaining().is_zero());
    }

    #[test]
    fn steps_of_the_wall_clock_change_nothing() {
        let clock = ManualClock::new(OffsetDateTime::UNIX_EPOCH);
        let gate = gate(&clock);
        for hours in [1, -1] {
            clock.step_wall(clock.now() + time::Duration::hours(hours));
            assert_eq!(gate.remaining(), SECOND);
        }
    }

    #[tokio::test]
    async fn work_is_dropped_unpolled_once_it_is_closed() {
        let clock = ManualClock::new(OffsetDateTime::UNIX_EPOCH);
        let gate = gate(&clock);
        assert_eq!(gate.while_open(async { 7 }).await, Some(7));
        let work = async {
            clock.advance(SECOND);
            tokio::task::yield_now().await;
            panic!("polled after the deadline");
        };
        assert_eq!(gate.while_open(work).await, None::<()>);
    }
}
