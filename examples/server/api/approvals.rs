//! Approvals: who asks for what, exactly what would be done, and who agrees.

use axum::Json;
use axum::extract::{Extension, Path, State};
use certlib_core::distribution::RUN_SUBJECT;
use certlib_core::model::{ApprovalRequest, ApprovalState};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::delivery::PreviewTarget;
use super::jobs::page_size;
use super::views::word;
use crate::auth::ApiToken;
use crate::extract::{Body, Params};
use crate::problem::{Problem, Problems, Result};

/// Which requests to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListApprovals {
    /// `pending`, `approved`, `rejected` or `expired`; all by default.
    state: Option<String>,
    /// At most this many, 1 to 1000; 100 by default.
    limit: Option<usize>,
}

/// A request for approval.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ApprovalView {
    id: String,
    /// What it is about: `run`.
    subject_kind: String,
    subject_id: String,
    /// SHA-256 of exactly what is approved: the plans of all targets. Anything else is not.
    digest: String,
    requested_by: String,
    #[serde(with = "time::serde::rfc3339")]
    requested_at: OffsetDateTime,
    /// How many must agree.
    needed: u32,
    /// Who may decide; empty: anybody but who asks.
    approvers: Vec<String>,
    decisions: Vec<DecisionView>,
    /// `pending`, `approved`, `rejected` or `expired`.
    state: &'static str,
    /// From here on it can neither be decided nor used.
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

/// What one person decided.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DecisionView {
    by: String,
    approve: bool,
    comment: String,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
}

impl From<ApprovalRequest> for ApprovalView {
    fn from(request: ApprovalRequest) -> Self {
        let decisions = request.decisions.into_iter().map(|one| DecisionView {
            by: one.by,
            approve: one.approve,
            comment: one.comment,
            at: one.at,
        });
        Self {
            decisions: decisions.collect(),
            id: request.id,
            subject_kind: request.subject_kind,
            subject_id: request.subject_id,
            digest: request.digest,
            requested_by: request.requested_by,
            requested_at: request.requested_at,
            needed: request.needed,
            approvers: request.approvers,
            state: request.state.as_str(),
            expires_at: request.expires_at,
        }
    }
}

/// A request, with the plan of every target.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ApprovalDetail {
    #[serde(flatten)]
    approval: ApprovalView,
    /// What would be done to each target, or why that could not be said: then it is left alone.
    targets: Vec<PreviewTarget>,
}

/// A decision.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Decide {
    approve: bool,
    /// Why; at most 1000 characters are kept.
    #[serde(default)]
    comment: String,
    /// The digest that was looked at. A request never changes, so this only guards against mixing up two.
    digest: Option<String>,
}

/// The requests for approval of a project, oldest first.
#[utoipa::path(get, path = "/api/v1/projects/{project}/approvals", tag = "approvals",
    security(("token" = [])), params(("project" = String, Path, description = "The project"), ListApprovals),
    responses((status = 200, body = [ApprovalView]), Problems))]
pub(super) async fn list(
    State(state): State<AppState>,
    Path(project): Path<String>,
    Params(query): Params<ListApprovals>,
) -> Result<Json<Vec<ApprovalView>>> {
    use ApprovalState::{Approved, Expired, Pending, Rejected};
    state.client.project(&project).await?;
    let states = [Pending, Approved, Rejected, Expired];
    let wanted = match query.state.as_deref() {
        None => None,
        Some(text) => Some(*states.iter().find(|state| word(**state) == text).ok_or_else(|| {
            Problem::invalid("state_invalid", "a state is `pending`, `approved`, `rejected` or `expired`")
        })?),
    };
    let page = state.client.approvals(&project, wanted, None, page_size(query.limit)?).await?;
    Ok(Json(page.records.into_iter().map(|request| request.record.into()).collect()))
}

/// One request for approval, with what would be done to every target.
#[utoipa::path(get, path = "/api/v1/projects/{project}/approvals/{id}", tag = "approvals",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    responses((status = 200, body = ApprovalDetail), Problems))]
pub(super) async fn get(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
) -> Result<Json<ApprovalDetail>> {
    let request = state.client.approval(&project, &id).await?;
    let targets = match &*request.subject_kind {
        RUN_SUBJECT => state.client.approval_plans(&project, &id).await?,
        _ => Vec::new(),
    };
    Ok(Json(ApprovalDetail {
        approval: request.into(),
        targets: targets.into_iter().map(PreviewTarget::from).collect(),
    }))
}

/// Agrees, or does not, in the name of the token. One rejection ends a request.
#[utoipa::path(post, path = "/api/v1/projects/{project}/approvals/{id}/decisions", tag = "approvals",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    request_body = Decide, responses((status = 200, body = ApprovalView), Problems))]
pub(super) async fn decide(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
    Extension(token): Extension<ApiToken>,
    Body(decision): Body<Decide>,
) -> Result<Json<ApprovalView>> {
    if let Some(digest) = decision.digest {
        let request = state.client.approval(&project, &id).await?;
        if request.digest != digest {
            return Err(Problem::invalid("approval_other", "this request is about something else than was looked at"));
        }
    }
    let Decide { approve, comment, .. } = decision;
    let request = state.client.decide_approval(&project, &id, &token.id, approve, &comment).await?;
    Ok(Json(request.into()))
}
