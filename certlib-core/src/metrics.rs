//! The names of all metrics, in one place. Recorded through the `metrics` facade: free unless a recorder is installed.

use std::time::Duration;

/// Jobs by type and the state they were settled to.
pub const JOBS_TOTAL: &str = "certlib_jobs_total";
/// How long attempts ran, in seconds, by type.
pub const JOB_DURATION: &str = "certlib_job_duration_seconds";
/// 1 on the node that leads.
pub const IS_LEADER: &str = "certlib_scheduler_is_leader";
/// How often this node became leader.
pub const LEADER_ELECTIONS: &str = "certlib_scheduler_leader_elections_total";
/// Targets by module and the status they reached.
pub const TARGETS_TOTAL: &str = "certlib_targets_total";
/// Waiting jobs by type; set by whoever asks the queue.
pub const QUEUE_DEPTH: &str = "certlib_jobs_queue_depth";

pub(crate) fn job_settled(kind: &str, state: &'static str, duration: Duration) {
    ::metrics::counter!(JOBS_TOTAL, "kind" => kind.to_owned(), "state" => state).increment(1);
    ::metrics::histogram!(JOB_DURATION, "kind" => kind.to_owned()).record(duration.as_secs_f64());
}

pub(crate) fn leading(is_leader: bool) {
    ::metrics::gauge!(IS_LEADER).set(if is_leader { 1.0 } else { 0.0 });
    if is_leader {
        ::metrics::counter!(LEADER_ELECTIONS).increment(1);
    }
}

pub(crate) fn target_done(module: &str, status: &'static str) {
    ::metrics::counter!(TARGETS_TOTAL, "module" => module.to_owned(), "status" => status).increment(1);
}
