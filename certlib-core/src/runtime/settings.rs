//! What can be tuned.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::node_name;
use crate::backoff::Ladder;
use crate::error::{Error, Result};
use crate::policy::EXPIRY_THRESHOLDS;
use crate::queue::{Lane, RetryPolicy};

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Runs jobs.
    Worker,
    /// Stands for leader and, as leader, sweeps.
    Scheduler,
}

impl Role {
    /// The role's name, as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Scheduler => "scheduler",
        }
    }
}

/// Settings of a node. The defaults are meant to be right.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// What this node does; everything by default.
    pub roles: Vec<Role>,
    /// The node's name for people. By default, and if it is empty: the first that is there of the environment variables
    /// `CERTLIB_INSTANCE_NAME`, `POD_NAME` and `HOSTNAME`, the system's name, and `unknown`.
    pub node_name: String,
    /// How often the node writes that it lives; it is shown as stale after three times that. 30 s.
    pub node_heartbeat: Duration,
    /// How many jobs of each lane run here at the same time.
    pub lanes: BTreeMap<Lane, usize>,
    /// How long a job is leased to a worker; heartbeats come at a quarter of it. 60 s.
    pub job_lease: Duration,
    /// How often a worker looks for jobs when nothing wakes it. 1 s.
    pub poll_interval: Duration,
    /// How many jobs a lane claims at most beyond its free slots, while its jobs are so quick that they begin within a
    /// moment; jobs that wait nevertheless are given back. A node that crashes has the wait of a crash for these, too.
    /// 64; zero claims nothing ahead.
    pub prefetch: usize,
    /// How long the outcome of a job may wait for those of others, to be stored together; results that come with
    /// writes do not. 5 ms; zero stores each by itself.
    pub settle_delay: Duration,
    /// How long a node that stops lets its jobs run before it asks them to stop at their next safe point. 10 s.
    pub shutdown_grace: Duration,
    /// How long jobs that succeeded or were cancelled are kept, with their logs. 7 days.
    pub job_retention: Duration,
    /// How long jobs that failed, in part or in whole, are kept, with their logs; also how long logs are kept at most.
    /// 90 days.
    pub failed_job_retention: Duration,
    /// How jobs are retried.
    pub retry: RetryPolicy,
    /// How renewals are retried: up to seven days.
    pub renewal_retry: RetryPolicy,
    /// How long the leader's lease lasts. 90 s.
    pub leader_ttl: Duration,
    /// How often the leader renews it. 30 s. See [`Settings::check`] for what is too long.
    pub leader_heartbeat: Duration,
    /// How often the others look whether there is a leader, where the store does not tell them. 500 ms.
    pub leader_poll: Duration,
    /// A directory, of this node alone, where it remembers the newest epoch it has seen. With it even a restarted node
    /// notices that the database was set back; without it, only one that ran all the time does. None by default.
    pub state_dir: Option<PathBuf>,
    /// How often the leader sweeps; a sweep costs what is due. 60 s.
    pub sweep_interval: Duration,
    /// How long a module may take for one step of one target: plan, execute, validate or roll back. 15 min.
    pub target_timeout: Duration,
    /// How long an order that its CA did not finish rests before the next round of polling. 15 min.
    pub order_rest: Duration,
    /// How many days before its end a certificate is spoken of, in any order; each at most 3650. 30, 14, 7, 3, 1. A
    /// change counts for a certificate from its next crossing on.
    pub expiry_thresholds: Vec<u32>,
    /// How long events are kept. 90 days.
    pub event_retention: Duration,
    /// How long finished runs are kept, once two newer ones took their place. 90 days.
    pub run_retention: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let lanes = [
            (Lane::Issuance, 16),
            (Lane::Distribution, 4),
            (Lane::Notification, 4),
            (Lane::Discovery, 2),
            (Lane::Maintenance, 4),
        ];
        Self {
            roles: vec![Role::Worker, Role::Scheduler],
            node_name: node_name::from_environment(""),
            node_heartbeat: Duration::from_secs(30),
            lanes: lanes.into(),
            job_lease: Duration::from_secs(60),
            poll_interval: Duration::from_secs(1),
            prefetch: 64,
            settle_delay: Duration::from_millis(5),
            shutdown_grace: Duration::from_secs(10),
            job_retention: Duration::from_secs(7 * 86_400),
            failed_job_retention: Duration::from_secs(90 * 86_400),
            retry: RetryPolicy::default(),
            renewal_retry: RetryPolicy::with_ladder(Ladder::renewal()),
            leader_ttl: Duration::from_secs(90),
            leader_heartbeat: Duration::from_secs(30),
            leader_poll: Duration::from_millis(500),
            state_dir: None,
            sweep_interval: Duration::from_secs(60),
            target_timeout: Duration::from_secs(900),
            order_rest: Duration::from_secs(900),
            expiry_thresholds: EXPIRY_THRESHOLDS.to_vec(),
            event_retention: Duration::from_secs(90 * 86_400),
            run_retention: Duration::from_secs(90 * 86_400),
        }
    }
}

impl Settings {
    /// The share of the leader's lease after which a leader that could not renew steps down.
    pub const STEP_DOWN: f64 = 0.7;

    /// Fails unless the settings are safe together.
    ///
    /// The leader's heartbeat must leave time for a second one and for its answer before the leader steps down:
    /// `2 * leader_heartbeat + margin <= 0.7 * leader_ttl`, where the margin is 1 s, or a tenth of a `leader_ttl` that
    /// is shorter than 10 s.
    ///
    /// # Errors
    /// `Validation` `settings_invalid`, with the rule; for the leader's heartbeat also with setting, found, needed.
    pub fn check(&self) -> Result<()> {
        let invalid = |rule: &str| Err(Error::validation("runtime.settings", "settings_invalid", rule.to_owned()));
        let margin = (self.leader_ttl / 10).min(Duration::from_secs(1));
        let longest = self.leader_ttl.mul_f64(Self::STEP_DOWN).saturating_sub(margin) / 2;
        if self.leader_heartbeat.is_zero() || self.leader_heartbeat > longest {
            let rule = "twice the leader's heartbeat, and a margin, must fit into 0.7 of its time to live";
            return Err(Error::validation("runtime.settings", "settings_invalid", rule)
                .with("setting", "leader_heartbeat")
                .with("found", format_args!("{:?}", self.leader_heartbeat))
                .with("needed", format_args!("more than 0, at most {longest:?}")));
        }
        if [self.job_lease, self.poll_interval, self.sweep_interval].iter().any(Duration::is_zero) {
            return invalid("job lease, poll interval and sweep interval must be longer than zero");
        }
        if self.leader_poll.is_zero() || self.node_heartbeat.is_zero() {
            return invalid("leader poll and node heartbeat must be longer than zero");
        }
        if self.lanes.values().any(|slots| *slots == 0) {
            return invalid("a lane needs at least one slot; leave it out to run none of its jobs here");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_safe_and_bad_ratios_are_not() {
        Settings::default().check().unwrap();
        let millis = Duration::from_millis;
        let leader = |ttl, heartbeat| {
            Settings { leader_ttl: millis(ttl), leader_heartbeat: millis(heartbeat), ..Settings::default() }.check()
        };
        for (ttl, longest) in [(90_000, 31_000), (10_000, 3_000), (5_000, 1_500), (1_000, 300)] {
            leader(ttl, longest).unwrap();
            let error = leader(ttl, longest + 1).unwrap_err();
            assert_eq!(error.code(), "settings_invalid");
            let told: Vec<_> = error.context().map(|(key, _)| key).collect();
            assert_eq!(told, ["setting", "found", "needed"], "{error}");
        }
        assert!(leader(90_000, 0).is_err());
    }
}
