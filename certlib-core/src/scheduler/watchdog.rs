//! Sees to it that a leader whose time is over stops, whatever else happens in its process.

use std::sync::Arc;

use super::notice::{Leadership, Notify};
use super::term::Term;
use crate::error::{Error, Result};
use crate::metrics;

/// Where the watchdog of a leader runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Watchdog {
    /// On a thread of its own, with a runtime of its own: it acts even if sweeps block every thread of the executor.
    #[default]
    Thread,
    /// As a task beside the others. For simulated clocks, under which everything must run on one thread.
    Task,
}

impl Watchdog {
    /// Watches `term` until it is over.
    ///
    /// # Errors
    /// `IoTransient` `watchdog_failed` when the system gives no thread: nobody may lead unwatched.
    pub(super) fn watch(self, term: Arc<Term>, notify: Notify) -> Result<()> {
        match self {
            Self::Task => {
                tokio::spawn(watch(term, notify));
                Ok(())
            }
            Self::Thread => {
                let failed = |error: std::io::Error| {
                    Error::transient("leader.watch", "watchdog_failed", "cannot start the leader's watchdog")
                        .with_source(error)
                };
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
                std::thread::Builder::new()
                    .name("certlib-watchdog".to_owned())
                    .spawn(move || runtime.block_on(watch(term, notify)))
                    .map(drop)
                    .map_err(failed)
            }
        }
    }
}

async fn watch(term: Arc<Term>, notify: Notify) {
    loop {
        let left = term.gate.remaining();
        if left.is_zero() {
            break;
        }
        // In slices: a sleep does not count the time that the machine was suspended.
        tokio::select! {
            biased;
            () = term.over.cancelled() => return,
            () = term.clock.sleep(left.min(term.ttl / 16)) => {}
        }
    }
    // The gate is closed, so nothing begins any more. What has begun is told to end, and dropped where it waits.
    term.abort();
    metrics::leading(false);
    // Who finds the time over already, because the whole process stood still, still needs a moment to see to that.
    let patience = term.give_up_at().saturating_sub(term.clock.monotonic()).max(term.ttl / 10);
    tokio::select! {
        biased;
        () = term.over.cancelled() => return,
        () = term.clock.sleep(patience) => {}
    }
    tracing::error!(epoch = term.lease.epoch, "what the former leader does cannot be stopped");
    // First, so that the host is told before the end of the term, and before a node that stops has stopped.
    notify.tell(&Leadership::Stuck { epoch: term.lease.epoch });
    term.stuck.cancel();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::OffsetDateTime;

    use super::*;
    use crate::clock::{Clock as _, ManualClock};
    use crate::lock::Lease;

    #[tokio::test]
    async fn a_leader_whose_process_stood_still_stops_and_may_stand_again() {
        let (clock, ttl) = (ManualClock::new(OffsetDateTime::UNIX_EPOCH), Duration::from_secs(90));
        let lease = Lease { name: "scheduler".to_owned(), holder: "node".to_owned(), epoch: 1 };
        let term = Arc::new(Term::new(lease, Duration::ZERO, ttl, Arc::new(clock.clone())));
        term.spawn(std::future::pending());
        let watching = tokio::spawn(watch(term.clone(), Notify::default()));
        tokio::task::yield_now().await;
        clock.advance(ttl * 3);
        term.joined().await;
        assert!(!term.stuck.is_cancelled(), "it had no chance to end");
        term.over.cancel();
        watching.await.unwrap();
        assert!(!term.stuck.is_cancelled());
    }

    #[tokio::test]
    async fn what_does_not_end_is_given_up() {
        let (clock, ttl) = (ManualClock::new(OffsetDateTime::UNIX_EPOCH), Duration::from_secs(90));
        let lease = Lease { name: "scheduler".to_owned(), holder: "node".to_owned(), epoch: 1 };
        let term = Arc::new(Term::new(lease, Duration::ZERO, ttl, Arc::new(clock.clone())));
        let watching = tokio::spawn(watch(term.clone(), Notify::default()));
        for _ in 0..90 {
            tokio::task::yield_now().await;
            assert!(!term.stuck.is_cancelled(), "too early, at {:?}", clock.monotonic());
            if clock.monotonic() >= ttl.mul_f64(0.9) - Duration::from_secs(1) {
                break;
            }
            clock.advance(Duration::from_secs(1));
        }
        clock.advance(Duration::from_secs(7));
        watching.await.unwrap();
        assert!(term.stuck.is_cancelled());
    }
}
