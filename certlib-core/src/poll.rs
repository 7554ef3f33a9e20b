//! When to ask a CA again: a bounded schedule, as a pure function of what is stored with the order.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::backoff::Jitter;

/// How a pending order is polled: 5 s, 15 s, 45 s, 2 min, 5 min, then every 5 min, ±20 %, for 10 minutes by default.
///
/// After the deadline the order stays pending and the scheduler takes it up again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PollSchedule {
    /// The waits, in seconds; the last one repeats.
    pub steps: Vec<u64>,
    /// Each wait is moved by at most this share of itself.
    pub spread: f64,
    /// How long one round of polling lasts, in seconds.
    pub max_wait: u64,
}

impl Default for PollSchedule {
    fn default() -> Self {
        Self { steps: vec![5, 15, 45, 120, 300], spread: 0.2, max_wait: 600 }
    }
}

/// What to do after a poll that found the order pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextPoll {
    /// Ask again after this wait.
    After(Duration),
    /// This round is over: the order is still pending, and a later round goes on with it.
    StillPending,
}

impl PollSchedule {
    /// The wait before poll number `polls + 1`, when `polls` polls were made in this round.
    pub fn wait(&self, polls: u32, jitter: Jitter) -> Duration {
        let index = usize::try_from(polls).unwrap_or(usize::MAX).min(self.steps.len().saturating_sub(1));
        let step = self.steps.get(index).copied().unwrap_or(300);
        jitter.apply(Duration::from_secs(step), self.spread)
    }

    /// What to do at `now` after `polls` polls in a round that began at `started`.
    ///
    /// A `retry_after` of the CA replaces the step, within 1 second to 1 hour. The last poll of a round is made at
    /// the deadline, not after it.
    pub fn next(
        &self,
        polls: u32,
        started: OffsetDateTime,
        now: OffsetDateTime,
        retry_after: Option<Duration>,
        jitter: Jitter,
    ) -> NextPoll {
        let deadline = started + Duration::from_secs(self.max_wait);
        let Ok(left) = Duration::try_from(deadline - now) else { return NextPoll::StillPending };
        if left.is_zero() {
            return NextPoll::StillPending;
        }
        let wait = match retry_after {
            Some(asked) => asked.clamp(Duration::from_secs(1), Duration::from_secs(3600)),
            None => self.wait(polls, jitter),
        };
        NextPoll::After(wait.min(left))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn calls(jitter: f64) -> usize {
        let schedule = PollSchedule::default();
        let jitter = Jitter::draw(&mut Fixed(jitter));
        let started = OffsetDateTime::UNIX_EPOCH;
        let (mut now, mut polls) = (started, 0);
        loop {
            polls += 1;
            match schedule.next(polls - 1, started, now, None, jitter) {
                NextPoll::After(wait) => now += wait,
                NextPoll::StillPending => return usize::try_from(polls).unwrap(),
            }
        }
    }

    /// A generator whose every draw lies at the given place of its range.
    struct Fixed(f64);

    impl rand::TryRng for Fixed {
        type Error = std::convert::Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            Ok((self.0 * f64::from(u32::MAX)) as u32)
        }

        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            Ok((self.0 * u64::MAX as f64) as u64)
        }

        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
            bytes.fill((self.0 * 255.0) as u8);
            Ok(())
        }
    }

    #[test]
    fn steps() {
        let schedule = PollSchedule::default();
        let waits: Vec<_> = (0..7).map(|polls| schedule.wait(polls, Jitter::NONE).as_secs()).collect();
        assert_eq!(waits, [5, 15, 45, 120, 300, 300, 300]);
    }

    #[test]
    fn ten_minutes_cost_at_most_seven_calls_or_eight_at_the_lowest_jitter() {
        assert_eq!(calls(0.5), 7);
        assert!(calls(0.0) <= 8);
        assert!(calls(0.999) <= 7);
    }

    #[test]
    fn retry_after_is_clamped_and_the_deadline_kept() {
        let schedule = PollSchedule::default();
        let start = OffsetDateTime::UNIX_EPOCH;
        let ask = |seconds| schedule.next(0, start, start, Some(Duration::from_secs(seconds)), Jitter::NONE);
        assert_eq!(ask(0), NextPoll::After(Duration::from_secs(1)));
        assert_eq!(ask(30), NextPoll::After(Duration::from_secs(30)));
        assert_eq!(ask(1_000_000_000_000), NextPoll::After(Duration::from_secs(600)));
        let late = start + Duration::from_secs(601);
        assert_eq!(schedule.next(0, start, late, None, Jitter::NONE), NextPoll::StillPending);
    }

    proptest! {
        #[test]
        fn a_round_always_ends(place in 0.0_f64..1.0) {
            prop_assert!(calls(place) <= 8);
        }
    }
}
