//! What people decide about delivery and issuance beforehand: who must agree, when a target may be touched, how far a
//! failure may spread, what a project may have issued.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bundle::KeyType;
use crate::error::{Error, Result};
use crate::store::{Index, Record};

/// That others have to agree to the plans of a run before anything is changed.
///
/// Who asked for the delivery does not count. A run that follows an issuance is asked for by the
/// [scheduler](crate::model::Run::SCHEDULER), whoever asked for the issuance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApprovalRule {
    /// How many must agree, at least 1. Whoever asks never counts.
    pub needed: u32,
    /// Who may decide; empty: anybody but who asks.
    pub approvers: BTreeSet<String>,
    /// How long an approval can be given, and then used, from the request on; in seconds, at most a year.
    pub ttl_seconds: u64,
}

impl Default for ApprovalRule {
    /// Anybody else, within a day.
    fn default() -> Self {
        Self { needed: 1, approvers: BTreeSet::new(), ttl_seconds: 24 * 3600 }
    }
}

impl ApprovalRule {
    /// Fails unless it can be kept.
    ///
    /// # Errors
    /// `Validation` `approval_invalid`.
    pub fn check(&self) -> Result<()> {
        const YEAR: u64 = 366 * 86_400;
        let enough = self.approvers.is_empty() || usize::try_from(self.needed).is_ok_and(|n| n <= self.approvers.len());
        if self.needed > 0 && enough && (60..=YEAR).contains(&self.ttl_seconds) {
            return Ok(());
        }
        let rule = "at least one must agree, no more than may, within a minute to a year";
        Err(Error::validation("approval.rule", "approval_invalid", rule).with("needed", self.needed))
    }

    /// The rule that keeps both: as many as either wants, of those that both name, in the shorter time.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let approvers = match (self.approvers.is_empty(), other.approvers.is_empty()) {
            (true, _) => other.approvers.clone(),
            (_, true) => self.approvers.clone(),
            _ => self.approvers.intersection(&other.approvers).cloned().collect(),
        };
        // Nobody in common is not everybody: then nobody can agree.
        let nobody = approvers.is_empty() && !(self.approvers.is_empty() && other.approvers.is_empty());
        Self {
            needed: if nobody { u32::MAX } else { self.needed.max(other.needed) },
            approvers,
            ttl_seconds: self.ttl_seconds.min(other.ttl_seconds),
        }
    }

    /// [`ttl_seconds`](Self::ttl_seconds).
    pub fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds)
    }
}

/// When, in the week, a target may be touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceWindow {
    /// The days on which it begins: 1 is Monday, 7 Sunday.
    pub days: Vec<u8>,
    /// When it begins, in minutes after midnight.
    pub from_minute: u16,
    /// How long it lasts, in minutes: at most a day. It may go on past midnight.
    pub minutes: u16,
    /// The local time's distance from UTC, in minutes, east positive.
    #[serde(default)]
    pub utc_offset_minutes: i16,
}

/// How far a failure may spread in a run. By default any: failures of some targets stop no others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rollout {
    /// So many targets go first; the others follow when all of them have the new certificate. 0: none.
    pub canary: usize,
    /// When so many targets have failed, no other is begun in this attempt.
    pub stop_after: Option<usize>,
}

impl Rollout {
    /// Fails unless a run can begin with any target.
    ///
    /// # Errors
    /// `Validation` `rollout_invalid`.
    pub fn check(&self) -> Result<()> {
        if self.stop_after == Some(0) {
            let rule = "`stop_after` is one failure at least; leave it out to stop at none";
            return Err(Error::validation("distribution.rollout", "rollout_invalid", rule));
        }
        Ok(())
    }
}

/// What the certificates of a project may be. Same id as the project; what is empty or missing allows everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuancePolicy {
    /// The project's id.
    #[serde(default)]
    pub id: String,
    /// The kinds of key.
    #[serde(default)]
    pub key_types: Vec<KeyType>,
    /// The ids of the issuers.
    #[serde(default)]
    pub issuers: Vec<String>,
    /// Names: `example.org` itself, `.example.org` for all below it, or with `*` for any characters.
    #[serde(default)]
    pub allow_names: Vec<String>,
    /// Names that are not allowed, whatever else is.
    #[serde(default)]
    pub deny_names: Vec<String>,
    /// How many names one certificate may have.
    #[serde(default)]
    pub most_names: Option<usize>,
    /// How the certificates themselves are called, with `*` for any characters.
    #[serde(default)]
    pub naming: Option<String>,
    /// Whether private keys may be downloaded.
    #[serde(default = "yes")]
    pub export_keys: bool,
    /// Whether certificates that were allowed once, and are not any more, cease to be renewed. Otherwise they are renewed,
    /// with an event, so that a stricter policy takes no site down.
    #[serde(default)]
    pub stop_renewals: bool,
}

fn yes() -> bool {
    true
}

impl IssuancePolicy {
    /// The policy of `project` that allows everything.
    pub fn new(project: &str) -> Self {
        Self {
            id: project.to_owned(),
            key_types: Vec::new(),
            issuers: Vec::new(),
            allow_names: Vec::new(),
            deny_names: Vec::new(),
            most_names: None,
            naming: None,
            export_keys: true,
            stop_renewals: false,
        }
    }
}

impl Record for IssuancePolicy {
    const KIND: &'static str = "issuance_policy";
    const FIELDS: &'static [&'static str] = &[];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(needed: u32, approvers: &[&str], ttl_seconds: u64) -> ApprovalRule {
        ApprovalRule { needed, approvers: approvers.iter().map(|name| (*name).to_owned()).collect(), ttl_seconds }
    }

    #[test]
    fn the_stricter_of_two_rules_holds() {
        let both = rule(1, &["ada", "bob"], 100).and(&rule(2, &["bob", "eve", "joe"], 500));
        assert_eq!(both, rule(2, &["bob"], 100));
        assert_eq!(rule(1, &[], 60).and(&rule(1, &["ada"], 90)), rule(1, &["ada"], 60));
        let nobody = rule(1, &["ada"], 60).and(&rule(1, &["bob"], 60));
        assert_eq!(nobody.needed, u32::MAX, "nobody in common is not everybody");
        assert_eq!(nobody.and(&rule(1, &["ada"], 60)).needed, u32::MAX);
    }

    #[test]
    fn rules_that_nobody_can_keep_are_refused() {
        ApprovalRule::default().check().unwrap();
        for bad in [rule(0, &[], 60), rule(2, &["ada"], 60), rule(1, &[], 59), rule(1, &[], 367 * 86_400)] {
            assert_eq!(bad.check().unwrap_err().code(), "approval_invalid", "{bad:?}");
        }
    }
}
