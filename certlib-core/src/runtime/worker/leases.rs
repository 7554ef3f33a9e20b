//! Keeping the leases of what runs here, and taking back what others left.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::running::{Running, StopReason};
use crate::error::Error;
use crate::metrics;
use crate::queue::Extension;
use crate::runtime::engine::Engine;

/// The share of a lease after which one that could not be extended is no longer relied on.
const TRUST: f64 = 0.7;

/// Extends the leases of everything that runs here, until all lanes have ended.
pub(super) async fn keep(engine: Arc<Engine>, running: Arc<Running>, lanes: TaskTracker) {
    let lease = engine.settings.job_lease;
    loop {
        tokio::select! {
            biased;
            () = lanes.wait() => return,
            () = engine.clock.sleep(lease / 4) => {}
        }
        let (tickets, claims) = running.claims();
        if claims.is_empty() {
            continue;
        }
        let sent = engine.clock.monotonic();
        // A store that does not answer must not keep the rule below from being looked at.
        let answers = tokio::select! {
            biased;
            answers = engine.store.extend(&claims, lease) => answers,
            () = engine.clock.sleep(lease / 4) => Err(Error::network("worker.extend", "timeout", "the store is silent")),
        };
        match answers {
            Ok(answers) => {
                for (ticket, answer) in tickets.into_iter().zip(answers) {
                    match answer {
                        Extension::Held { cancel_requested } => {
                            let job = running.held(ticket, sent);
                            if let (true, Some(job)) = (cancel_requested, job) {
                                job.stop(StopReason::Requested);
                            }
                        }
                        Extension::Lost => {
                            if let Some(job) = running.job(ticket) {
                                job.stop(StopReason::LeaseLost);
                            }
                        }
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot extend leases"),
        }
        // A lease that was not extended for most of its time may be gone before the next chance: begin nothing new.
        if let Some(since) = engine.clock.monotonic().checked_sub(lease.mul_f64(TRUST)) {
            for job in running.not_held_since(since) {
                job.stop(StopReason::LeaseLost);
            }
        }
    }
}

/// Takes jobs back whose workers vanished.
pub(super) async fn reap(engine: Arc<Engine>, stop: CancellationToken) {
    const PAGE: usize = 100;
    let policy = engine.settings.retry.clone();
    loop {
        match engine.store.reap(&policy, PAGE).await {
            Ok(jobs) => {
                for job in &jobs {
                    tracing::warn!(id = %job.id, kind = %job.kind, state = job.state.as_str(), "its worker vanished");
                    metrics::job_reaped(&job.kind, job.state.as_str());
                }
                if jobs.len() == PAGE && !stop.is_cancelled() {
                    continue;
                }
            }
            Err(error) => tracing::warn!(%error, "cannot take jobs back"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = engine.clock.sleep(engine.settings.job_lease / 4) => {}
        }
    }
}
