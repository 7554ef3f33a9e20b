//! What happens after an attempt failed or its worker vanished: pure decisions.

use std::time::Duration;

use super::job::Outcome;
use crate::backoff::{Jitter, Ladder};
use crate::error::{Error, ErrorRecord};

/// How a job is retried.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The waits.
    pub ladder: Ladder,
    /// How many crashes of its worker make a job poison.
    pub poison_after: u32,
}

impl Default for RetryPolicy {
    /// The standard ladder; poison after three crashes.
    fn default() -> Self {
        Self { ladder: Ladder::standard(), poison_after: 3 }
    }
}

impl RetryPolicy {
    /// The default policy with another ladder.
    pub fn with_ladder(ladder: Ladder) -> Self {
        Self { ladder, ..Self::default() }
    }
}

/// The longest wait that a peer can ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(7 * 86_400);

/// The outcome of attempt number `attempt` (from 1) that failed with `error`.
///
/// `auth`, `validation` and `io_permanent` fail at once. The others wait for the longer of the ladder's step and the
/// peer's `Retry-After`, of which at most [`RETRY_AFTER_MAX`] counts, and are dead-lettered when the ladder ends.
pub fn after_failure(policy: &RetryPolicy, attempt: u32, error: &Error, jitter: Jitter) -> Outcome {
    let record = error.to_record();
    if !error.class().is_retryable() {
        return Outcome::Failed { error: record };
    }
    match policy.ladder.wait(attempt, jitter) {
        Some(wait) => {
            let asked_for = error.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX);
            Outcome::Retry { error: record, delay: wait.max(asked_for) }
        }
        None => Outcome::DeadLetter { error: record },
    }
}

/// What to do with a job whose lease passed without a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashVerdict {
    /// Pending again after this wait.
    Again(Duration),
    /// It was asked to stop, and has.
    Cancelled,
    /// It kills its workers.
    Poison,
}

/// The verdict over a job that lost its worker for the `crash_count`-th time (from 1) in attempt `attempt`.
pub fn after_crash(
    policy: &RetryPolicy,
    attempt: u32,
    crash_count: u32,
    cancel_requested: bool,
    jitter: Jitter,
) -> CrashVerdict {
    if cancel_requested {
        CrashVerdict::Cancelled
    } else if crash_count >= policy.poison_after {
        CrashVerdict::Poison
    } else {
        CrashVerdict::Again(policy.ladder.wait(attempt, jitter).unwrap_or_else(|| policy.ladder.last()))
    }
}

/// The record that a poisoned job keeps.
impl CrashVerdict {
    /// Why a poisoned job was given up, for its attempt list.
    pub fn poison_record() -> ErrorRecord {
        Error::permanent("queue.reap", "poison", "its worker vanished too often while running it").to_record()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorClass;

    #[test]
    fn seven_executions_and_then_the_dead_letter() {
        let policy = RetryPolicy::default();
        let error = Error::network("t", "down", "down");
        let mut total = Duration::ZERO;
        for attempt in 1..=6 {
            match after_failure(&policy, attempt, &error, Jitter::NONE) {
                Outcome::Retry { delay, .. } => total += delay,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(total, Duration::from_secs(60 * (1 + 5 + 15 + 60 + 240 + 720)));
        assert!(matches!(after_failure(&policy, 7, &error, Jitter::NONE), Outcome::DeadLetter { .. }));
    }

    #[test]
    fn classes_decide() {
        for class in [ErrorClass::Auth, ErrorClass::Validation, ErrorClass::IoPermanent] {
            let outcome = after_failure(&RetryPolicy::default(), 1, &Error::new(class, "t", "c", "m"), Jitter::NONE);
            assert!(matches!(outcome, Outcome::Failed { .. }), "{class}");
        }
    }

    #[test]
    fn retry_after_is_a_lower_bound_within_reason() {
        let delay = |after| {
            let error = Error::transient("t", "busy", "busy").with_retry_after(Some(after));
            after_failure(&RetryPolicy::default(), 1, &error, Jitter::NONE).delay()
        };
        assert_eq!(delay(Duration::from_secs(600)), Duration::from_secs(600));
        assert_eq!(delay(Duration::from_secs(6)), Duration::from_secs(60));
        assert_eq!(delay(Duration::MAX), RETRY_AFTER_MAX);
    }

    #[test]
    fn crashes() {
        let policy = RetryPolicy::default();
        assert_eq!(after_crash(&policy, 1, 1, false, Jitter::NONE), CrashVerdict::Again(Duration::from_secs(60)));
        assert_eq!(after_crash(&policy, 1, 3, false, Jitter::NONE), CrashVerdict::Poison);
        assert_eq!(after_crash(&policy, 1, 3, true, Jitter::NONE), CrashVerdict::Cancelled);
        assert_eq!(after_crash(&policy, 99, 1, false, Jitter::NONE), CrashVerdict::Again(Duration::from_secs(43_200)));
    }
}
