//! What can be tuned.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::backoff::Ladder;
use crate::error::{Error, Result};
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

/// Settings of a node. The defaults are meant to be right.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// What this node does; everything by default.
    pub roles: Vec<Role>,
    /// The node's name for people; the host's name by default.
    pub node_name: String,
    /// How many jobs of each lane run here at the same time.
    pub lanes: BTreeMap<Lane, usize>,
    /// How long a job is leased to a worker; heartbeats come at a quarter of it. 60 s.
    pub job_lease: Duration,
    /// How often a worker looks for jobs when nothing wakes it. 1 s.
    pub poll_interval: Duration,
    /// How jobs are retried.
    pub retry: RetryPolicy,
    /// How renewals are retried: up to seven days.
    pub renewal_retry: RetryPolicy,
    /// How long the leader's lease lasts. 90 s.
    pub leader_ttl: Duration,
    /// How often the leader renews it. 30 s.
    pub leader_heartbeat: Duration,
    /// How often the leader sweeps; a sweep costs what is due. 60 s.
    pub sweep_interval: Duration,
    /// How long a module may take for one step of one target: plan, execute, validate or roll back. 15 min.
    pub target_timeout: Duration,
    /// How long an order that its CA did not finish rests before the next round of polling. 15 min.
    pub order_rest: Duration,
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
            node_name: node_name(),
            lanes: lanes.into(),
            job_lease: Duration::from_secs(60),
            poll_interval: Duration::from_secs(1),
            retry: RetryPolicy::default(),
            renewal_retry: RetryPolicy::with_ladder(Ladder::renewal()),
            leader_ttl: Duration::from_secs(90),
            leader_heartbeat: Duration::from_secs(30),
            sweep_interval: Duration::from_secs(60),
            target_timeout: Duration::from_secs(900),
            order_rest: Duration::from_secs(900),
        }
    }
}

impl Settings {
    /// The share of the leader's lease after which a leader that could not renew steps down.
    pub const STEP_DOWN: f64 = 0.7;

    /// Fails unless the settings are safe together.
    ///
    /// # Errors
    /// `Validation` `settings_invalid`, with the rule.
    pub fn check(&self) -> Result<()> {
        let invalid = |rule: &str| Err(Error::validation("runtime.settings", "settings_invalid", rule.to_owned()));
        let step_down = self.leader_ttl.mul_f64(Self::STEP_DOWN);
        if self.leader_heartbeat.is_zero() || self.leader_heartbeat.mul_f64(2.0) > step_down {
            return invalid("twice the leader's heartbeat must fit into 0.7 of its time to live");
        }
        if self.job_lease.is_zero() || self.poll_interval.is_zero() || self.sweep_interval.is_zero() {
            return invalid("job lease, poll interval and sweep interval must be longer than zero");
        }
        if self.lanes.values().any(|slots| *slots == 0) {
            return invalid("a lane needs at least one slot; leave it out to run none of its jobs here");
        }
        Ok(())
    }
}

/// `CERTLIB_INSTANCE_NAME`, `POD_NAME`, `HOSTNAME`, what the system says, or `unknown`.
fn node_name() -> String {
    ["CERTLIB_INSTANCE_NAME", "POD_NAME", "HOSTNAME"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .chain(std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map(|name| name.trim().to_owned())
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_safe_and_bad_ratios_are_not() {
        Settings::default().check().unwrap();
        let slow = Settings { leader_heartbeat: Duration::from_secs(40), ..Settings::default() };
        assert_eq!(slow.check().unwrap_err().code(), "settings_invalid");
    }
}
