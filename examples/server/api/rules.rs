//! Rules of targets and distributions: who must agree, when, how far a failure may spread.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Extension, Path, State};
use certlib_core::client::TargetRules;
use certlib_core::model::{ApprovalRule, Distribution, MaintenanceWindow, Rollout};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::targets::TargetView;
use crate::auth::{ApiToken, TokenRole};
use crate::extract::Body;
use crate::problem::{Problems, Result};

/// That others have to agree to the plans before anything is changed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ApprovalRuleView {
    /// How many must agree; whoever asks never counts. 1 by default.
    needed: u32,
    /// The ids of the tokens that may decide; empty: any but the one that asks.
    approvers: BTreeSet<String>,
    /// How long an approval can be given and then used, in seconds; a day by default.
    ttl_seconds: u64,
}

impl Default for ApprovalRuleView {
    fn default() -> Self {
        ApprovalRule::default().into()
    }
}

impl From<ApprovalRule> for ApprovalRuleView {
    fn from(rule: ApprovalRule) -> Self {
        let ApprovalRule { needed, approvers, ttl_seconds } = rule;
        Self { needed, approvers, ttl_seconds }
    }
}

impl From<ApprovalRuleView> for ApprovalRule {
    fn from(rule: ApprovalRuleView) -> Self {
        let ApprovalRuleView { needed, approvers, ttl_seconds } = rule;
        Self { needed, approvers, ttl_seconds }
    }
}

/// When, in the week, a target may be touched.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WindowView {
    /// The days on which it begins: 1 is Monday, 7 Sunday.
    days: Vec<u8>,
    /// When it begins, in minutes after midnight.
    from_minute: u16,
    /// How long it lasts, in minutes.
    minutes: u16,
    /// The local time's distance from UTC, in minutes, east positive.
    #[serde(default)]
    utc_offset_minutes: i16,
}

/// The rules of a target.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TargetRulesView {
    /// Who must agree before anything is delivered; null: nobody.
    approval: Option<ApprovalRuleView>,
    /// When it may be touched; null: always.
    window: Option<WindowView>,
    /// Nothing is delivered until the pause is lifted.
    paused: bool,
}

impl From<TargetRules> for TargetRulesView {
    fn from(rules: TargetRules) -> Self {
        let window = rules.window.map(|window| WindowView {
            days: window.days,
            from_minute: window.from_minute,
            minutes: window.minutes,
            utc_offset_minutes: window.utc_offset_minutes,
        });
        Self { approval: rules.approval.map(Into::into), window, paused: rules.paused }
    }
}

impl From<TargetRulesView> for TargetRules {
    fn from(rules: TargetRulesView) -> Self {
        let window = rules.window.map(|window| MaintenanceWindow {
            days: window.days,
            from_minute: window.from_minute,
            minutes: window.minutes,
            utc_offset_minutes: window.utc_offset_minutes,
        });
        Self { approval: rules.approval.map(Into::into), window, paused: rules.paused }
    }
}

/// The rules of a distribution.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DistributionRulesView {
    /// Who must agree before anything is delivered; null: nobody, unless a target wants it.
    approval: Option<ApprovalRuleView>,
    /// How far a failure may spread.
    rollout: RolloutView,
}

/// How far a failure may spread in a run: any distance, by default.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RolloutView {
    /// So many targets go first; the others follow when all of them have the new certificate.
    canary: usize,
    /// When so many targets have failed, no other is begun.
    stop_after: Option<usize>,
}

impl From<RolloutView> for Rollout {
    fn from(rollout: RolloutView) -> Self {
        Self { canary: rollout.canary, stop_after: rollout.stop_after }
    }
}

/// What a distribution delivers to where, and by which rules.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DistributionView {
    id: String,
    certificate_id: String,
    targets: Vec<String>,
    batch_size: usize,
    rules: DistributionRulesView,
}

impl From<Distribution> for DistributionView {
    fn from(distribution: Distribution) -> Self {
        let Rollout { canary, stop_after } = distribution.rollout;
        let rules = DistributionRulesView {
            approval: distribution.approval.map(Into::into),
            rollout: RolloutView { canary, stop_after },
        };
        Self {
            id: distribution.id,
            certificate_id: distribution.certificate_id,
            targets: distribution.targets,
            batch_size: distribution.batch_size,
            rules,
        }
    }
}

/// Sets the rules of a target, also for runs that wait. Needs an admin token: whoever may lift a rule is bound by none.
#[utoipa::path(put, path = "/api/v1/projects/{project}/distribution-targets/{id}/rules", tag = "targets",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    request_body = TargetRulesView, responses((status = 200, body = TargetView), Problems))]
pub(super) async fn set_target(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
    Extension(token): Extension<ApiToken>,
    Body(rules): Body<TargetRulesView>,
) -> Result<Json<TargetView>> {
    token.require(TokenRole::Admin)?;
    Ok(Json(state.client.set_target_rules(&project, &id, &token.id, rules.into()).await?.into()))
}

/// The distributions of a certificate, oldest first.
#[utoipa::path(get, path = "/api/v1/projects/{project}/certificates/{id}/distributions", tag = "distribution",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    responses((status = 200, body = [DistributionView]), Problems))]
pub(super) async fn list(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
) -> Result<Json<Vec<DistributionView>>> {
    let distributions = state.client.distributions(&project, &id).await?;
    Ok(Json(distributions.into_iter().map(DistributionView::from).collect()))
}

/// Sets the rules of a distribution. Needs an admin token: whoever may lift a rule is bound by none.
#[utoipa::path(put, path = "/api/v1/projects/{project}/distributions/{id}/rules", tag = "distribution",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    request_body = DistributionRulesView, responses((status = 200, body = DistributionView), Problems))]
pub(super) async fn set_distribution(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
    Extension(token): Extension<ApiToken>,
    Body(rules): Body<DistributionRulesView>,
) -> Result<Json<DistributionView>> {
    token.require(TokenRole::Admin)?;
    let DistributionRulesView { approval, rollout } = rules;
    let approval = approval.map(Into::into);
    let client = &state.client;
    let set = client.set_distribution_rules(&project, &id, &token.id, approval, rollout.into()).await?;
    Ok(Json(set.into()))
}
