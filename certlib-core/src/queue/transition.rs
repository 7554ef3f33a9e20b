//! How a job moves from state to state: the rules that every store applies, as pure changes to a [`Job`].

use std::time::Duration;

use serde_json::json;
use time::OffsetDateTime;

use super::ATTEMPTS_KEPT;
use super::job::{AttemptRecord, Claim, Job, JobState, Outcome};
use super::retry::{CrashVerdict, RetryPolicy, after_crash};
use crate::backoff::Jitter;
use crate::error::{Error, ErrorRecord, Result, codes};
use crate::model::Event;

/// The kind of the event that a job leaves when it is given up.
pub const DEAD_LETTER_EVENT: &str = "job.dead_letter";

/// For stores: the time after `wait`, or the end of the calendar if `wait` is beyond it.
pub fn later(from: OffsetDateTime, wait: Duration) -> OffsetDateTime {
    from.saturating_add(time::Duration::try_from(wait).unwrap_or(time::Duration::MAX))
}

/// For stores. None of these looks at the payload, so a store may leave it out of the [`Job`] it passes through them.
impl Job {
    /// Whether `claim` is still the right to run this job.
    pub fn is_held_by(&self, claim: &Claim) -> bool {
        self.state == JobState::InProgress && self.claim_epoch == claim.epoch && self.id == claim.job
    }

    /// Leases a pending job to `worker` until `lease_until`: a new epoch, a counted attempt.
    pub fn start(&mut self, worker: &str, lease_until: OffsetDateTime) {
        self.state = JobState::InProgress;
        self.attempt = self.attempt.saturating_add(1);
        self.claim_epoch += 1;
        self.lease_until = Some(lease_until);
        self.worker = Some(worker.to_owned());
    }

    /// Meets a request for the same work: one in progress runs again after it ends, one that waits goes as soon and with
    /// as much priority as the more urgent of the two.
    pub fn meet(&mut self, priority: i16, run_at: OffsetDateTime) {
        if self.state == JobState::InProgress {
            self.rerun_requested = true;
        } else {
            self.run_at = self.run_at.min(run_at);
            self.priority = self.priority.max(priority);
        }
    }

    /// Settles a job whose claim holds.
    ///
    /// A job that was asked to stop does not become pending: it ends as cancelled. A job that was enqueued again
    /// while it ran does not stay final: it starts afresh.
    ///
    /// Returns the event that the store must write in the same transaction, if there is one.
    #[must_use = "the event belongs to the same transaction"]
    pub fn settle(&mut self, outcome: &Outcome, duration: Duration, now: OffsetDateTime) -> Option<Event> {
        if let Some(error) = outcome.error() {
            self.remember(error.clone(), duration, now);
        }
        self.crash_count = 0;
        match outcome.state() {
            JobState::Pending if self.cancel_requested => self.finish(JobState::Cancelled, now),
            JobState::Pending => {
                if !outcome.counts() {
                    self.attempt = self.attempt.saturating_sub(1);
                }
                self.wait_until(later(now, outcome.delay()));
            }
            state => self.finish(state, now),
        }
        self.event(now)
    }

    /// Takes a job back whose lease has passed.
    ///
    /// Returns the event that the store must write in the same transaction, if there is one.
    #[must_use = "the event belongs to the same transaction"]
    pub fn crash(&mut self, policy: &RetryPolicy, jitter: Jitter, now: OffsetDateTime) -> Option<Event> {
        self.crash_count = self.crash_count.saturating_add(1);
        let verdict = after_crash(policy, self.attempt, self.crash_count, self.cancel_requested, jitter);
        let record = match verdict {
            CrashVerdict::Poison => CrashVerdict::poison_record(),
            _ => Error::transient("queue.reap", "worker_lost", "its worker let the lease pass").to_record(),
        };
        self.remember(record, Duration::ZERO, now);
        match verdict {
            CrashVerdict::Again(wait) => self.wait_until(later(now, wait)),
            CrashVerdict::Cancelled => self.finish(JobState::Cancelled, now),
            CrashVerdict::Poison => self.finish(JobState::DeadLetter, now),
        }
        self.event(now)
    }

    /// Cancels a pending job, asks a running one to stop.
    ///
    /// # Errors
    /// `Validation` `job_finished`.
    pub fn stop(&mut self, now: OffsetDateTime) -> Result<()> {
        match self.state {
            JobState::Pending => self.finish(JobState::Cancelled, now),
            JobState::InProgress => {
                self.cancel_requested = true;
                self.rerun_requested = false;
            }
            _ => return Err(self.refuse("queue.cancel", "job_finished", "the job is over")),
        }
        Ok(())
    }

    /// Makes a job that ended without success pending again from `run_at` on, with a fresh ladder. The epoch and the list
    /// of attempts stay.
    ///
    /// # Errors
    /// `Validation` `job_active` or, when it succeeded, `job_finished`.
    pub fn restart(&mut self, run_at: OffsetDateTime) -> Result<()> {
        match self.state {
            JobState::Pending | JobState::InProgress => Err(self.active_already()),
            JobState::Succeeded => Err(self.refuse("queue.retry", "job_finished", "the job succeeded")),
            _ => {
                self.refresh(run_at);
                Ok(())
            }
        }
    }

    /// Why [`JobQueue::retry`](super::JobQueue::retry) refuses while this job is active.
    pub fn active_already(&self) -> Error {
        self.refuse("queue.retry", "job_active", "the job, or another with its key, is active")
    }

    fn refuse(&self, operation: &'static str, code: &'static str, message: &'static str) -> Error {
        Error::validation(operation, code, message).with("job", &self.id).with("state", self.state.as_str())
    }

    fn wait_until(&mut self, run_at: OffsetDateTime) {
        self.state = JobState::Pending;
        self.run_at = run_at;
        self.lease_until = None;
        // The run that was asked for meanwhile is the one that now waits.
        self.rerun_requested = false;
    }

    fn finish(&mut self, state: JobState, now: OffsetDateTime) {
        if self.rerun_requested {
            return self.refresh(now);
        }
        self.state = state;
        self.lease_until = None;
        self.finished_at = Some(now);
    }

    fn refresh(&mut self, run_at: OffsetDateTime) {
        self.attempt = 0;
        self.crash_count = 0;
        self.cancel_requested = false;
        self.finished_at = None;
        self.wait_until(run_at);
    }

    /// What the world should hear about the job as it now is.
    fn event(&self, now: OffsetDateTime) -> Option<Event> {
        let last = self.attempts.last().map(|attempt| &attempt.error);
        (self.state == JobState::DeadLetter).then(|| {
            let data = json!({ "kind": self.kind, "key": self.key, "attempts": self.attempt, "error": last });
            Event::new(&self.project, DEAD_LETTER_EVENT, &self.id, data, now)
        })
    }

    fn remember(&mut self, error: ErrorRecord, duration: Duration, at: OffsetDateTime) {
        if self.attempts.len() >= ATTEMPTS_KEPT {
            self.attempts.drain(..=self.attempts.len() - ATTEMPTS_KEPT);
        }
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.attempts.push(AttemptRecord { attempt: self.attempt, error, at, duration_ms });
    }
}

impl Claim {
    /// For stores: what to answer when this claim no longer holds.
    pub fn lost(&self) -> Error {
        Error::validation("store.commit", codes::LEASE_LOST, "the job belongs to somebody else now")
            .with("job", &self.job)
            .with("claim_epoch", self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::queue::{Lane, NewJob};

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn running() -> Job {
        let mut job = Job::from_new(NewJob::new("test", Lane::Maintenance, Value::Null), NOW);
        job.start("worker", NOW + Duration::from_secs(60));
        job
    }

    fn failure() -> ErrorRecord {
        Error::network("test", "down", "down").to_record()
    }

    #[test]
    fn a_cancelled_job_does_not_wait_for_another_try() {
        for outcome in [
            Outcome::Retry { error: failure(), delay: Duration::from_secs(9) },
            Outcome::Snooze { delay: Duration::from_secs(9) },
            Outcome::Release,
        ] {
            let mut job = running();
            job.stop(NOW).unwrap();
            let _ = job.settle(&outcome, Duration::ZERO, NOW);
            assert_eq!(job.state, JobState::Cancelled, "{outcome:?}");
            assert_eq!(job.finished_at, Some(NOW));
        }
    }

    #[test]
    fn what_was_asked_for_last_wins() {
        let mut cancelled_last = running();
        cancelled_last.rerun_requested = true;
        cancelled_last.stop(NOW).unwrap();
        let _ = cancelled_last.settle(&Outcome::Cancelled, Duration::ZERO, NOW);
        assert_eq!(cancelled_last.state, JobState::Cancelled);

        let mut enqueued_last = running();
        enqueued_last.stop(NOW).unwrap();
        enqueued_last.rerun_requested = true;
        let _ = enqueued_last.settle(&Outcome::Cancelled, Duration::ZERO, NOW);
        assert_eq!((enqueued_last.state, enqueued_last.cancel_requested), (JobState::Pending, false));
    }

    #[test]
    fn no_wait_is_too_long() {
        let mut job = running();
        let _ = job.settle(&Outcome::Snooze { delay: Duration::MAX }, Duration::ZERO, NOW);
        assert!(job.run_at.year() >= 9999);
        let endless = NewJob::new("test", Lane::Maintenance, Value::Null).with_delay(Duration::MAX);
        assert!(Job::from_new(endless, NOW).run_at.year() >= 9999);
    }

    #[test]
    fn only_the_last_attempts_are_kept() {
        let mut job = running();
        for _ in 0..ATTEMPTS_KEPT + 7 {
            let _ = job.settle(&Outcome::Retry { error: failure(), delay: Duration::ZERO }, Duration::ZERO, NOW);
            job.start("worker", NOW);
        }
        assert_eq!(job.attempts.len(), ATTEMPTS_KEPT);
        assert_eq!(job.attempts[0].attempt, 8);
    }

    #[test]
    fn only_a_job_that_is_given_up_leaves_an_event() {
        let mut job = running();
        assert!(job.settle(&Outcome::Failed { error: failure() }, Duration::ZERO, NOW).is_none());
        let mut job = running();
        let event = job.settle(&Outcome::DeadLetter { error: failure() }, Duration::ZERO, NOW).unwrap();
        assert_eq!((&*event.kind, &*event.subject, event.at), (DEAD_LETTER_EVENT, &*job.id, NOW));
        assert_eq!(event.data["error"]["code"], "down");
        let mut rerun = running();
        rerun.rerun_requested = true;
        assert!(rerun.settle(&Outcome::DeadLetter { error: failure() }, Duration::ZERO, NOW).is_none());
    }

    #[test]
    fn crashes_count_only_in_a_row() {
        let policy = RetryPolicy::default();
        let mut job = running();
        for _ in 0..10 {
            let _ = job.crash(&policy, Jitter::NONE, NOW);
            job.start("worker", NOW);
            let _ = job.crash(&policy, Jitter::NONE, NOW);
            job.start("worker", NOW);
            let _ = job.settle(&Outcome::Release, Duration::ZERO, NOW);
            job.start("worker", NOW);
        }
        assert_eq!((job.state, job.crash_count), (JobState::InProgress, 0));
    }
}
