//! Distribution targets.

use axum::Json;
use axum::extract::{Path, State};
use certlib_core::client::{NewTarget, TargetRules};
use certlib_core::model::Target;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::AppState;
use super::rules::TargetRulesView;
use super::views::{Created, created};
use crate::extract::Body;
use crate::problem::{Problems, Result};

/// A target to configure.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateTarget {
    /// Its name, for people.
    name: String,
    /// `ssh`, `webhook`, or `file` where the server admits it.
    module: String,
    /// How to deliver. No secrets: those belong into a credential.
    #[serde(default)]
    #[schema(value_type = Object)]
    config: Map<String, Value>,
    /// Where.
    #[serde(default)]
    #[schema(value_type = Object)]
    location: Map<String, Value>,
    /// The credential to log in with.
    credential_id: Option<String>,
    /// Who must agree before anything is delivered, and when it may be.
    #[serde(default)]
    rules: TargetRulesView,
}

/// A target.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TargetView {
    id: String,
    project: String,
    name: String,
    module: String,
    #[schema(value_type = Object)]
    config: Value,
    #[schema(value_type = Object)]
    location: Value,
    credential_id: Option<String>,
    rules: TargetRulesView,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<Target> for TargetView {
    fn from(target: Target) -> Self {
        let Target { id, project, name, module, config, location, credential_id, created_at, .. } = target;
        let rules = TargetRules { approval: target.approval, window: target.window, paused: target.paused }.into();
        Self { id, project, name, module, config, location, credential_id, rules, created_at }
    }
}

/// Configures a target. All its parts are checked; the target is not contacted.
#[utoipa::path(post, path = "/api/v1/projects/{project}/distribution-targets", tag = "targets",
    security(("token" = [])), params(("project" = String, Path, description = "The project")),
    request_body = CreateTarget, responses((status = 201, body = TargetView), Problems))]
pub(super) async fn create(
    State(state): State<AppState>,
    Path(project): Path<String>,
    Body(new): Body<CreateTarget>,
) -> Result<Created<TargetView>> {
    let CreateTarget { name, module, config, location, credential_id, rules } = new;
    let new = NewTarget {
        name,
        module,
        config: Value::Object(config),
        location: Value::Object(location),
        credential_id,
        rules: rules.into(),
    };
    let target = state.client.create_target(&project, state.admission.admit(new)?).await?;
    Ok(created(format!("/api/v1/projects/{project}/distribution-targets/{}", target.id), target.into()))
}

/// The targets of a project, oldest first.
#[utoipa::path(get, path = "/api/v1/projects/{project}/distribution-targets", tag = "targets",
    security(("token" = [])), params(("project" = String, Path, description = "The project")),
    responses((status = 200, body = [TargetView]), Problems))]
pub(super) async fn list(State(state): State<AppState>, Path(project): Path<String>) -> Result<Json<Vec<TargetView>>> {
    state.client.project(&project).await?;
    let targets = state.client.targets(&project).await?;
    Ok(Json(targets.into_iter().map(TargetView::from).collect()))
}

/// One target.
#[utoipa::path(get, path = "/api/v1/projects/{project}/distribution-targets/{id}", tag = "targets",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    responses((status = 200, body = TargetView), Problems))]
pub(super) async fn get(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
) -> Result<Json<TargetView>> {
    Ok(Json(state.client.target(&project, &id).await?.into()))
}
