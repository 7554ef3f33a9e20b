//! Which sweeps are due: pure.

use std::time::Duration;

/// When each sweep of this term ran last, by the monotonic clock. A new leader begins with all of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Cadence {
    begun: Vec<Option<Duration>>,
}

impl Cadence {
    /// Whether the sweep at `index` with this interval is due at `now`; if so, it counts as begun.
    ///
    /// Half a `tick` early is near enough: a sweep must not miss a tick by a hair and wait for another.
    pub(super) fn take(&mut self, index: usize, interval: Duration, tick: Duration, now: Duration) -> bool {
        if self.begun.len() <= index {
            self.begun.resize(index + 1, None);
        }
        let due = is_due(self.begun[index], interval, tick, now);
        if due {
            self.begun[index] = Some(now);
        }
        due
    }
}

fn is_due(begun: Option<Duration>, interval: Duration, tick: Duration, now: Duration) -> bool {
    begun.is_none_or(|begun| now.saturating_sub(begun) + tick / 2 >= interval)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_secs(60);

    #[test]
    fn each_tick_or_once_an_hour() {
        let mut cadence = Cadence::default();
        let (mut always, mut hourly) = (0, 0);
        for tick in 0..=120 {
            let now = TICK * tick;
            always += u32::from(cadence.take(0, Duration::ZERO, TICK, now));
            hourly += u32::from(cadence.take(1, Duration::from_secs(3600), TICK, now));
        }
        assert_eq!((always, hourly), (121, 3));
    }

    proptest! {
        #[test]
        fn never_much_too_early_and_never_a_tick_too_late(interval in 0_u64..10_000, lags in proptest::collection::vec(0_u64..20, 1..200)) {
            let interval = Duration::from_secs(interval);
            let mut cadence = Cadence::default();
            let (mut now, mut last) = (Duration::ZERO, None);
            for lag in lags {
                let due = cadence.take(0, interval, TICK, now);
                if let Some(last) = last {
                    let since: Duration = now - last;
                    prop_assert!(!due || since + TICK / 2 >= interval);
                    prop_assert!(due || since < interval);
                } else {
                    prop_assert!(due);
                }
                if due {
                    last = Some(now);
                }
                now += TICK + Duration::from_secs(lag);
            }
        }
    }
}
