//! Ladders and jitter: pure functions, nanoseconds each.

use std::time::Duration;

use rand::RngExt;

use crate::random;

/// A sequence of waits: the first after the first failure, and so on; when it ends, so do the retries.
#[derive(Debug, Clone, PartialEq)]
pub struct Ladder {
    steps: Vec<Duration>,
    spread: f64,
}

impl Ladder {
    /// 1 min, 5 min, 15 min, 1 h, 4 h, 12 h, each ±10 %: six retries after the first try.
    pub fn standard() -> Self {
        Self::new([60, 300, 900, 3600, 14_400, 43_200].map(Duration::from_secs).to_vec(), 0.1)
    }

    /// The standard ladder prolonged by daily tries to seven days: for renewals, which must outlast an outage.
    pub fn renewal() -> Self {
        let mut ladder = Self::standard();
        ladder.steps.extend([Duration::from_secs(86_400); 6]);
        ladder
    }

    /// A ladder of these waits, each spread by `spread` (0.1 means ±10 %; clamped to 0..=1).
    pub fn new(steps: Vec<Duration>, spread: f64) -> Self {
        Self { steps, spread: if spread.is_finite() { spread.clamp(0.0, 1.0) } else { 0.0 } }
    }

    /// The wait after the failure of attempt number `attempt` (from 1), or `None` when there is no further try.
    pub fn wait(&self, attempt: u32, jitter: Jitter) -> Option<Duration> {
        let index = usize::try_from(attempt.checked_sub(1)?).ok()?;
        self.steps.get(index).map(|step| jitter.apply(*step, self.spread))
    }

    /// The longest wait, without jitter.
    pub fn last(&self) -> Duration {
        self.steps.last().copied().unwrap_or_default()
    }

    /// How many retries it allows.
    pub fn retries(&self) -> usize {
        self.steps.len()
    }
}

impl Default for Ladder {
    fn default() -> Self {
        Self::standard()
    }
}

/// One random draw in `-1..=1`, to spread a wait with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jitter(f64);

impl Jitter {
    /// No spread at all.
    pub const NONE: Self = Self(0.0);

    /// Draws from `rng`.
    pub fn draw(rng: &mut (impl RngExt + ?Sized)) -> Self {
        Self(rng.random_range(-1.0..=1.0))
    }

    /// Draws from the thread's generator.
    pub fn random() -> Self {
        random::with(|rng| Self::draw(rng))
    }

    /// `wait` moved by at most `spread` of itself (0.2 means ±20 %).
    pub fn apply(self, wait: Duration, spread: f64) -> Duration {
        wait.mul_f64((1.0 + self.0 * spread).clamp(0.0, 2.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_standard_ladder() {
        let ladder = Ladder::standard();
        let waits: Vec<_> =
            (1..=7).map(|attempt| ladder.wait(attempt, Jitter::NONE).map(|wait| wait.as_secs())).collect();
        assert_eq!(waits, [Some(60), Some(300), Some(900), Some(3600), Some(14_400), Some(43_200), None]);
        assert_eq!(ladder.wait(0, Jitter::NONE), None);
    }

    proptest! {
        #[test]
        fn waits_stay_within_the_spread(attempt in 1_u32..=6, draw in -1.0_f64..=1.0) {
            let ladder = Ladder::standard();
            let exact = ladder.wait(attempt, Jitter::NONE).unwrap().as_secs_f64();
            let wait = ladder.wait(attempt, Jitter(draw)).unwrap().as_secs_f64();
            prop_assert!(wait >= exact * 0.9 - 1e-6 && wait <= exact * 1.1 + 1e-6);
        }
    }
}
