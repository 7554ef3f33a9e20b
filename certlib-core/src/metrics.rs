//! The names of all metrics, in one place. Recorded through the `metrics` facade: free unless a recorder is installed.
//!
//! | name | type | labels | meaning |
//! |---|---|---|---|
//! | [`certlib_scheduler_is_leader`](IS_LEADER) | gauge | | 1 while this node may act as leader: over all nodes, 1 |
//! | [`certlib_scheduler_leader_elections_total`](LEADER_ELECTIONS) | counter | | how often this node became leader |
//! | [`certlib_store_regressed`](STORE_REGRESSED) | gauge | | 1 while this node does not lead, as the store went back in time |
//! | [`certlib_sweep_duration_seconds`](SWEEP_DURATION) | histogram | `sweep` | how long sweeps took |
//! | [`certlib_sweep_due_total`](SWEEP_DUE) | counter | `sweep` | what sweeps found due |
//! | [`certlib_node_heartbeat_age_seconds`](HEARTBEAT_AGE) | gauge | | time since the node last wrote that it lives |
//! | [`certlib_jobs_queue_depth`](QUEUE_DEPTH) | gauge | `kind`, `state` | jobs `pending`, `in_progress`, `dead_letter`, over all nodes |
//! | [`certlib_jobs_total`](JOBS_TOTAL) | counter | `kind`, `state` | attempts settled here, by the state they led to |
//! | [`certlib_jobs_dead_letter_total`](DEAD_LETTER_TOTAL) | counter | `kind` | jobs given up here |
//! | [`certlib_job_duration_seconds`](JOB_DURATION) | histogram | `kind` | how long attempts ran |
//! | [`certlib_lane_slots`](LANE_SLOTS) | gauge | `lane` | how many jobs may run here at the same time |
//! | [`certlib_lane_running`](LANE_RUNNING) | gauge | `lane` | how many do |
//! | [`certlib_kek_retired_opens_total`](KEK_RETIRED_OPENS) | counter | `kek` | secrets opened with a retired key: 0 |
//! | [`certlib_kek_rewrapped_total`](KEK_REWRAPPED) | counter | | secrets wrapped anew by this node, as leader |
//! | [`certlib_kek_rotation_phase`](KEK_ROTATION_PHASE) | gauge | | how far a rotation has come: 0 none, 1 prepare, 2 rewrap, 3 settle, 4 verify |
//! | [`certlib_kek_rotation_secrets`](KEK_ROTATION_SECRETS) | gauge | `count` | its progress: `total`, `rewrapped`, `verified`, `unreadable` |
//! | [`certlib_targets_total`](TARGETS_TOTAL) | counter | `module`, `status` | targets worked on, by the status they reached |
//!
//! Gauges are set by [`RunningRuntime::record_metrics`](crate::runtime::RunningRuntime::record_metrics), which a host
//! calls right before it renders them: a gauge of something that hangs would otherwise go on saying what was true
//! before. Types of job come from handlers and lanes are five, so the number of series is bounded.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::{Rotation, RotationPhase};
use crate::queue::{JobState, QueueStats};
use crate::runtime::{Engine, Role};
use crate::scheduler::LEASE;
use crate::secret::KekId;

/// 1 while this node may act as leader, computed from its clock when it is set.
pub const IS_LEADER: &str = "certlib_scheduler_is_leader";
/// How often this node became leader.
pub const LEADER_ELECTIONS: &str = "certlib_scheduler_leader_elections_total";
/// 1 while this node refuses to lead because the store shows an older state than before.
pub const STORE_REGRESSED: &str = "certlib_store_regressed";
/// How long sweeps took, in seconds.
pub const SWEEP_DURATION: &str = "certlib_sweep_duration_seconds";
/// What sweeps found due.
pub const SWEEP_DUE: &str = "certlib_sweep_due_total";
/// Seconds since this node last wrote that it lives; there once it did.
pub const HEARTBEAT_AGE: &str = "certlib_node_heartbeat_age_seconds";
/// Waiting and running jobs of all nodes, by type.
pub const QUEUE_DEPTH: &str = "certlib_jobs_queue_depth";
/// Attempts by type of job and the state it was settled to.
pub const JOBS_TOTAL: &str = "certlib_jobs_total";
/// Jobs that were given up, by type.
pub const DEAD_LETTER_TOTAL: &str = "certlib_jobs_dead_letter_total";
/// How long attempts ran, in seconds, by type.
pub const JOB_DURATION: &str = "certlib_job_duration_seconds";
/// How many jobs of a lane may run here at the same time.
pub const LANE_SLOTS: &str = "certlib_lane_slots";
/// How many jobs of a lane run here.
pub const LANE_RUNNING: &str = "certlib_lane_running";
/// Secrets that were opened with a retired key-encryption key, by the first digits of its id.
pub const KEK_RETIRED_OPENS: &str = "certlib_kek_retired_opens_total";
/// Secrets that this node wrapped anew, as leader of a rotation.
pub const KEK_REWRAPPED: &str = "certlib_kek_rewrapped_total";
/// How far the rotation of the key-encryption key has come, as of this node's last heartbeat.
pub const KEK_ROTATION_PHASE: &str = "certlib_kek_rotation_phase";
/// Secrets that the rotation deals with, as of this node's last heartbeat; 0 when there is none.
pub const KEK_ROTATION_SECRETS: &str = "certlib_kek_rotation_secrets";
/// Targets by module and the status they reached.
pub const TARGETS_TOTAL: &str = "certlib_targets_total";

/// A secret was opened with a retired key.
pub(crate) fn opened_with_retired(kek: &KekId) {
    ::metrics::counter!(KEK_RETIRED_OPENS, "kek" => kek.short()).increment(1);
}

/// Secrets were wrapped anew, and stored.
pub(crate) fn rewrapped(secrets: u64) {
    ::metrics::counter!(KEK_REWRAPPED).increment(secrets);
}

/// An attempt was settled by this node.
pub(crate) fn job_settled(kind: &str, state: &'static str, duration: Duration) {
    job_ended(kind, state);
    ::metrics::histogram!(JOB_DURATION, "kind" => kind.to_owned()).record(duration.as_secs_f64());
}

/// A job was taken back from a worker that vanished.
pub(crate) fn job_reaped(kind: &str, state: &'static str) {
    job_ended(kind, state);
}

fn job_ended(kind: &str, state: &'static str) {
    ::metrics::counter!(JOBS_TOTAL, "kind" => kind.to_owned(), "state" => state).increment(1);
    if state == JobState::DeadLetter.as_str() {
        ::metrics::counter!(DEAD_LETTER_TOTAL, "kind" => kind.to_owned()).increment(1);
    }
}

/// This node begins or stops to lead.
pub(crate) fn leading(is_leader: bool) {
    ::metrics::gauge!(IS_LEADER).set(truth(is_leader));
}

/// This node was elected.
pub(crate) fn elected() {
    ::metrics::counter!(LEADER_ELECTIONS).increment(1);
}

/// A sweep ended.
pub(crate) fn swept(sweep: &'static str, duration: Duration, due: usize) {
    ::metrics::histogram!(SWEEP_DURATION, "sweep" => sweep).record(duration.as_secs_f64());
    ::metrics::counter!(SWEEP_DUE, "sweep" => sweep).increment(due as u64);
}

/// A target reached its status.
pub(crate) fn target_done(module: &str, status: &'static str) {
    ::metrics::counter!(TARGETS_TOTAL, "module" => module.to_owned(), "status" => status).increment(1);
}

/// Sets the gauges that this process knows by itself. Waits for nothing.
pub(crate) fn local(engine: &Engine) {
    let vitals = &engine.vitals;
    leading(vitals.is_leader());
    ::metrics::gauge!(STORE_REGRESSED).set(truth(vitals.epochs.is_regressed(LEASE)));
    if let Some(beat) = vitals.last_beat() {
        ::metrics::gauge!(HEARTBEAT_AGE).set(engine.clock.monotonic().saturating_sub(beat).as_secs_f64());
    }
    rotation(engine.sealer.rotation().as_ref());
    if engine.settings.roles.contains(&Role::Worker) {
        for (lane, slots) in &engine.settings.lanes {
            ::metrics::gauge!(LANE_SLOTS, "lane" => lane.as_str()).set(count(*slots as u64));
            ::metrics::gauge!(LANE_RUNNING, "lane" => lane.as_str()).set(count(vitals.running(*lane) as u64));
        }
    }
}

fn rotation(rotation: Option<&Rotation>) {
    let phase = rotation.map_or(0, |rotation| match rotation.phase {
        RotationPhase::Prepare => 1,
        RotationPhase::Rewrap => 2,
        RotationPhase::Settle => 3,
        RotationPhase::Verify => 4,
    });
    ::metrics::gauge!(KEK_ROTATION_PHASE).set(count(phase));
    let of = |what: fn(&Rotation) -> u64| count(rotation.map_or(0, what));
    for (name, secrets) in [
        ("total", of(|rotation| rotation.total)),
        ("rewrapped", of(|rotation| rotation.rewrapped)),
        ("verified", of(|rotation| rotation.verified)),
        ("unreadable", of(|rotation| rotation.unreadable)),
    ] {
        ::metrics::gauge!(KEK_ROTATION_SECRETS, "count" => name).set(secrets);
    }
}

/// Sets the depth of the queue, also of those `kinds` of which there is nothing any more.
pub(crate) fn queue_depth(stats: &QueueStats, kinds: &BTreeSet<String>) {
    for kind in kinds {
        let depth = stats.by_kind.get(kind).copied().unwrap_or_default();
        for (state, jobs) in
            [("pending", depth.pending), ("in_progress", depth.in_progress), ("dead_letter", depth.dead_letter)]
        {
            ::metrics::gauge!(QUEUE_DEPTH, "kind" => kind.clone(), "state" => state).set(count(jobs));
        }
    }
}

fn truth(is_true: bool) -> f64 {
    if is_true { 1.0 } else { 0.0 }
}

/// Counts stay far below 2^52, up to which a float is exact.
#[allow(clippy::cast_precision_loss)]
fn count(number: u64) -> f64 {
    number as f64
}
