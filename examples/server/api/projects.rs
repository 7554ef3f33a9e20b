//! Projects.

use axum::Json;
use axum::extract::{Extension, Path, State};
use certlib_core::model::Project;
use certlib_core::store::{StoreExt as _, TypedQuery};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::AppState;
use super::views::{Created, created};
use crate::auth::{ApiToken, TokenRole};
use crate::extract::Body;
use crate::problem::{Problems, Result};

/// A project to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateProject {
    /// 1 to 63 lower-case letters, digits and `-`.
    id: String,
}

/// The namespace that owns everything else.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProjectView {
    id: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<Project> for ProjectView {
    fn from(project: Project) -> Self {
        Self { id: project.id, created_at: project.created_at }
    }
}

/// Creates a project. Needs an admin token for all projects.
#[utoipa::path(post, path = "/api/v1/projects", tag = "projects", security(("token" = [])),
    request_body = CreateProject, responses((status = 201, body = ProjectView), Problems))]
pub(super) async fn create(
    State(state): State<AppState>,
    Extension(token): Extension<ApiToken>,
    Body(new): Body<CreateProject>,
) -> Result<Created<ProjectView>> {
    token.require_all_projects()?;
    token.require(TokenRole::Admin)?;
    let project = state.client.create_project(&new.id).await?;
    Ok(created(format!("/api/v1/projects/{}", project.id), project.into()))
}

/// The projects that the token opens.
#[utoipa::path(get, path = "/api/v1/projects", tag = "projects", security(("token" = [])),
    responses((status = 200, body = [ProjectView]), Problems))]
pub(super) async fn list(
    State(state): State<AppState>,
    Extension(token): Extension<ApiToken>,
) -> Result<Json<Vec<ProjectView>>> {
    let projects = state.client.store().list_all(TypedQuery::<Project>::new()).await?;
    let opened = projects.into_iter().map(|project| project.record).filter(|project| token.opens(&project.id));
    Ok(Json(opened.map(ProjectView::from).collect()))
}

/// One project.
#[utoipa::path(get, path = "/api/v1/projects/{project}", tag = "projects", security(("token" = [])),
    params(("project" = String, Path, description = "The project")),
    responses((status = 200, body = ProjectView), Problems))]
pub(super) async fn get(State(state): State<AppState>, Path(project): Path<String>) -> Result<Json<ProjectView>> {
    Ok(Json(state.client.project(&project).await?.into()))
}
