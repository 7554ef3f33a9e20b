//! Issuers: configured CA accounts.

use axum::Json;
use axum::extract::{Path, State};
use certlib_core::client::NewIssuer;
use certlib_core::model::Issuer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::AppState;
use super::views::{Created, created};
use crate::extract::Body;
use crate::problem::{Problems, Result};

/// An issuer to configure.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateIssuer {
    /// Its name, for people.
    name: String,
    /// `acme` or `local-ca`.
    kind: String,
    /// What the kind needs to know. No secrets: those belong into a credential.
    #[serde(default)]
    #[schema(value_type = Object)]
    config: Map<String, Value>,
    /// The credential it uses.
    credential_id: Option<String>,
}

/// An issuer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct IssuerView {
    id: String,
    project: String,
    name: String,
    kind: String,
    #[schema(value_type = Object)]
    config: Value,
    credential_id: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<Issuer> for IssuerView {
    fn from(issuer: Issuer) -> Self {
        let Issuer { id, project, name, kind, config, credential_id, created_at, .. } = issuer;
        Self { id, project, name, kind, config, credential_id, created_at }
    }
}

/// Configures an issuer. The CA is not contacted yet.
#[utoipa::path(post, path = "/api/v1/projects/{project}/issuers", tag = "issuers", security(("token" = [])),
    params(("project" = String, Path, description = "The project")),
    request_body = CreateIssuer, responses((status = 201, body = IssuerView), Problems))]
pub(super) async fn create(
    State(state): State<AppState>,
    Path(project): Path<String>,
    Body(new): Body<CreateIssuer>,
) -> Result<Created<IssuerView>> {
    let CreateIssuer { name, kind, config, credential_id } = new;
    let new = NewIssuer { name, kind, config: Value::Object(config), credential_id };
    let issuer = state.client.create_issuer(&project, new).await?;
    Ok(created(format!("/api/v1/projects/{project}/issuers/{}", issuer.id), issuer.into()))
}

/// The issuers of a project, oldest first.
#[utoipa::path(get, path = "/api/v1/projects/{project}/issuers", tag = "issuers", security(("token" = [])),
    params(("project" = String, Path, description = "The project")),
    responses((status = 200, body = [IssuerView]), Problems))]
pub(super) async fn list(State(state): State<AppState>, Path(project): Path<String>) -> Result<Json<Vec<IssuerView>>> {
    state.client.project(&project).await?;
    let issuers = state.client.issuers(&project).await?;
    Ok(Json(issuers.into_iter().map(IssuerView::from).collect()))
}

/// One issuer.
#[utoipa::path(get, path = "/api/v1/projects/{project}/issuers/{id}", tag = "issuers", security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    responses((status = 200, body = IssuerView), Problems))]
pub(super) async fn get(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
) -> Result<Json<IssuerView>> {
    Ok(Json(state.client.issuer(&project, &id).await?.into()))
}
