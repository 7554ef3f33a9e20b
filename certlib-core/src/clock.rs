//! Time, injected: nothing else in certlib asks the system for it.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use time::OffsetDateTime;
use tokio::sync::watch;

/// Tells and awaits time.
#[async_trait]
pub trait Clock: Debug + Send + Sync + 'static {
    /// The wall-clock time, in UTC.
    fn now(&self) -> OffsetDateTime;

    /// Time since an arbitrary start; never goes back.
    fn monotonic(&self) -> Duration;

    /// Returns after `duration` of this clock. Cancel-safe.
    async fn sleep(&self, duration: Duration);
}

/// The operating system's clock.
///
/// [`Clock::monotonic`] goes on while the machine is suspended, where the system can tell (on Linux: `CLOCK_BOOTTIME`,
/// and `CLOCK_MONOTONIC`, which stands still, elsewhere): a leader that wakes up must know how long it was away.
/// [`Clock::sleep`] may come that much too late, so whoever sleeps until a deadline looks at the time again.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Duration,
}

impl SystemClock {
    /// The operating system's clock.
    pub fn new() -> Self {
        Self { start: since_boot() }
    }

    /// The operating system's clock, as the runtime takes it.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::new())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        SystemTime::now().into()
    }

    fn monotonic(&self) -> Duration {
        since_boot().saturating_sub(self.start)
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// Time since some moment before this process began, suspended time included.
#[cfg(target_os = "linux")]
fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // Neither part of this clock is ever negative.
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

/// Time since the first call.
#[cfg(not(target_os = "linux"))]
fn since_boot() -> Duration {
    static FIRST: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    FIRST.get_or_init(std::time::Instant::now).elapsed()
}

/// A clock that moves only when told to, for tests that must be exact.
///
/// ```
/// use std::time::Duration;
/// use certlib_core::clock::{Clock, ManualClock};
///
/// let clock = ManualClock::new(time::macros::datetime!(2027-01-01 00:00 UTC));
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now(), time::macros::datetime!(2027-01-01 00:01 UTC));
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock {
    state: Arc<Mutex<State>>,
    elapsed: Arc<watch::Sender<Duration>>,
}

#[derive(Debug)]
struct State {
    wall: OffsetDateTime,
    monotonic: Duration,
}

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn new(start: OffsetDateTime) -> Self {
        Self {
            state: Arc::new(Mutex::new(State { wall: start, monotonic: Duration::ZERO })),
            elapsed: Arc::new(watch::Sender::new(Duration::ZERO)),
        }
    }

    /// Moves both the wall clock and the monotonic clock, and wakes who slept until then.
    pub fn advance(&self, by: Duration) {
        let monotonic = {
            let mut state = self.lock();
            state.wall += by;
            state.monotonic += by;
            state.monotonic
        };
        self.elapsed.send_replace(monotonic);
    }

    /// Sets the wall clock alone, as an operator or NTP would.
    pub fn step_wall(&self, to: OffsetDateTime) {
        self.lock().wall = to;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        self.lock().wall
    }

    fn monotonic(&self) -> Duration {
        self.lock().monotonic
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.monotonic() + duration;
        let mut elapsed = self.elapsed.subscribe();
        // The sender lives in `self`, so waiting cannot fail before `self` is gone.
        let _ = elapsed.wait_for(|now| *now >= until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_clock_goes_on() {
        let clock = SystemClock::new();
        let before = clock.monotonic();
        clock.sleep(Duration::from_millis(5)).await;
        let passed = clock.monotonic() - before;
        assert!(passed >= Duration::from_millis(5) && passed < Duration::from_secs(60), "{passed:?}");
    }

    #[tokio::test]
    async fn sleepers_wake_when_their_time_has_come() {
        let clock = ManualClock::new(OffsetDateTime::UNIX_EPOCH);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(Duration::from_secs(10)).await }
        });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(9));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
    }
}
