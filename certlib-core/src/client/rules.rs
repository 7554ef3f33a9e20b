//! Rules of targets and distributions: who must agree, when, how far a failure may spread.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Client;
use crate::error::Result;
use crate::model::{ApprovalRule, Distribution, Event, MaintenanceWindow, Rollout, Target};
use crate::policy;
use crate::store::WriteBatch;

/// The rules of one target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TargetRules {
    /// Who must agree before anything is delivered; `None`: nobody.
    pub approval: Option<ApprovalRule>,
    /// When it may be touched; `None`: always.
    pub window: Option<MaintenanceWindow>,
    /// Nothing is delivered until somebody lifts the pause. The engine sets it, too: for a target that is gone for good,
    /// with an event `target.disabled`.
    pub paused: bool,
}

impl TargetRules {
    /// Fails unless they can be kept.
    ///
    /// # Errors
    /// `approval_invalid`, `window_invalid`.
    pub fn check(&self) -> Result<()> {
        self.approval.as_ref().map_or(Ok(()), ApprovalRule::check)?;
        self.window.as_ref().map_or(Ok(()), policy::check_window)
    }
}

impl Client {
    /// Sets the rules of a target, in the name of `by`. They hold from now on, also for runs that wait; what is being worked
    /// on is brought to an end. When a pause is lifted, waiting runs go on within five minutes.
    ///
    /// # Errors
    /// `approval_invalid`, `window_invalid`, `not_found`; `conflict` when somebody else changes the target at the same
    /// moment.
    pub async fn set_target_rules(&self, project: &str, id: &str, by: &str, rules: TargetRules) -> Result<Target> {
        rules.check()?;
        let mut target = self.owned::<Target>(project, id).await?;
        let data = json!({ "by": by, "rules": &rules });
        let event = Event::new(project, "target.rules_changed", id, data, self.engine.clock.now());
        target.approval = rules.approval;
        target.window = rules.window;
        target.paused = rules.paused;
        self.engine.store.commit(WriteBatch::new().update(&target)?.insert(&event)?).await?;
        Ok(target.record)
    }

    /// Sets who must agree to what a distribution delivers, and how far a failure may spread, in the name of `by`. Who must
    /// agree holds from now on, also for runs that wait.
    ///
    /// # Errors
    /// `approval_invalid`, `rollout_invalid`, `not_found`; `conflict` when somebody else changes the distribution at the same moment.
    pub async fn set_distribution_rules(
        &self,
        project: &str,
        id: &str,
        by: &str,
        approval: Option<ApprovalRule>,
        rollout: Rollout,
    ) -> Result<Distribution> {
        approval.as_ref().map_or(Ok(()), ApprovalRule::check)?;
        rollout.check()?;
        let mut distribution = self.owned::<Distribution>(project, id).await?;
        let data = json!({ "by": by, "approval": &approval, "rollout": &rollout });
        let event = Event::new(project, "distribution.rules_changed", id, data, self.engine.clock.now());
        distribution.approval = approval;
        distribution.rollout = rollout;
        self.engine.store.commit(WriteBatch::new().update(&distribution)?.insert(&event)?).await?;
        Ok(distribution.record)
    }
}
