//! Credentials: they go in and never come out.

use axum::Json;
use axum::extract::{Path, State};
use certlib_core::model::Credential;
use certlib_core::secret::{Secret, SecretString};
use certlib_core::store::StoreExt as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::AppState;
use super::views::{Created, created};
use crate::admission::Admission;
use crate::extract::SecretBody;
use crate::problem::{Problems, Result};

/// A credential to keep.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateCredential {
    /// Its name, for people.
    name: String,
    /// What the module or issuer needs to log in, in the form that it documents.
    #[schema(value_type = Object)]
    #[serde(deserialize_with = "secret_object")]
    secret: SecretString,
}

/// Reads a JSON object and keeps its text.
fn secret_object<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<SecretString, D::Error> {
    let members = Map::<String, Value>::deserialize(deserializer)?;
    Ok(Secret::new(Value::Object(members).to_string()))
}

/// A credential, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CredentialView {
    id: String,
    project: String,
    name: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<Credential> for CredentialView {
    fn from(credential: Credential) -> Self {
        let Credential { id, project, name, created_at, .. } = credential;
        Self { id, project, name, created_at }
    }
}

/// Seals and keeps a credential. Its secret cannot be read back.
#[utoipa::path(post, path = "/api/v1/projects/{project}/credentials", tag = "credentials", security(("token" = [])),
    params(("project" = String, Path, description = "The project")),
    request_body = CreateCredential, responses((status = 201, body = CredentialView), Problems))]
pub(super) async fn create(
    State(state): State<AppState>,
    Path(project): Path<String>,
    SecretBody(new): SecretBody<CreateCredential>,
) -> Result<Created<CredentialView>> {
    Admission::admit_secret(&new.secret)?;
    let credential = state.client.create_credential(&project, &new.name, &new.secret).await?;
    Ok(created(format!("/api/v1/projects/{project}/credentials/{}", credential.id), credential.into()))
}

/// The credentials of a project, oldest first.
#[utoipa::path(get, path = "/api/v1/projects/{project}/credentials", tag = "credentials", security(("token" = [])),
    params(("project" = String, Path, description = "The project")),
    responses((status = 200, body = [CredentialView]), Problems))]
pub(super) async fn list(
    State(state): State<AppState>,
    Path(project): Path<String>,
) -> Result<Json<Vec<CredentialView>>> {
    state.client.project(&project).await?;
    let credentials = state.client.credentials(&project).await?;
    Ok(Json(credentials.into_iter().map(CredentialView::from).collect()))
}

/// One credential.
#[utoipa::path(get, path = "/api/v1/projects/{project}/credentials/{id}", tag = "credentials",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    responses((status = 200, body = CredentialView), Problems))]
pub(super) async fn get(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
) -> Result<Json<CredentialView>> {
    let credential = state.client.store().find::<Credential>(&id).await?;
    match credential {
        Some(credential) if credential.project == project => Ok(Json(credential.record.into())),
        _ => {
            Err(certlib_core::Error::not_found("client.load", format_args!("credential {}", id.escape_debug())).into())
        }
    }
}
