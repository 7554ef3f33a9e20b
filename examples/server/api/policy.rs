//! What a project may have issued.

use axum::Json;
use axum::extract::{Extension, Path, State};
use certlib_core::bundle::KeyType;
use certlib_core::model::IssuancePolicy;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use crate::auth::{ApiToken, TokenRole};
use crate::extract::Body;
use crate::problem::{Problems, Result};

/// What certificates of a project may be. What is empty or missing allows everything.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PolicyView {
    /// The kinds of key.
    #[schema(value_type = Vec<String>)]
    key_types: Vec<KeyType>,
    /// The ids of the issuers.
    issuers: Vec<String>,
    /// Names: `example.org` itself, `.example.org` for all below it, or with `*` for any characters.
    allow_names: Vec<String>,
    /// Names that are not allowed, whatever else is.
    deny_names: Vec<String>,
    /// How many names one certificate may have.
    most_names: Option<usize>,
    /// How certificates are called, with `*` for any characters.
    naming: Option<String>,
    /// Whether private keys may be downloaded; yes by default.
    export_keys: bool,
    /// Whether certificates that are not allowed any more cease to be renewed; no by default.
    stop_renewals: bool,
}

impl Default for PolicyView {
    fn default() -> Self {
        IssuancePolicy::new("").into()
    }
}

impl From<IssuancePolicy> for PolicyView {
    fn from(policy: IssuancePolicy) -> Self {
        let IssuancePolicy {
            id: _,
            key_types,
            issuers,
            allow_names,
            deny_names,
            most_names,
            naming,
            export_keys,
            stop_renewals,
        } = policy;
        Self { key_types, issuers, allow_names, deny_names, most_names, naming, export_keys, stop_renewals }
    }
}

impl PolicyView {
    fn of(self, project: &str) -> IssuancePolicy {
        let Self { key_types, issuers, allow_names, deny_names, most_names, naming, export_keys, stop_renewals } = self;
        IssuancePolicy {
            id: project.to_owned(),
            key_types,
            issuers,
            allow_names,
            deny_names,
            most_names,
            naming,
            export_keys,
            stop_renewals,
        }
    }
}

/// The policy of a project.
#[utoipa::path(get, path = "/api/v1/projects/{project}/policy", tag = "projects",
    security(("token" = [])), params(("project" = String, Path, description = "The project")),
    responses((status = 200, body = PolicyView), Problems))]
pub(super) async fn get(State(state): State<AppState>, Path(project): Path<String>) -> Result<Json<PolicyView>> {
    Ok(Json(state.client.issuance_policy(&project).await?.into()))
}

/// Sets the policy of a project, for what is asked for from now on. Needs an admin token.
#[utoipa::path(put, path = "/api/v1/projects/{project}/policy", tag = "projects",
    security(("token" = [])), params(("project" = String, Path, description = "The project")),
    request_body = PolicyView, responses((status = 200, body = PolicyView), Problems))]
pub(super) async fn set(
    State(state): State<AppState>,
    Path(project): Path<String>,
    Extension(token): Extension<ApiToken>,
    Body(policy): Body<PolicyView>,
) -> Result<Json<PolicyView>> {
    token.require(TokenRole::Admin)?;
    let policy = policy.of(&project);
    Ok(Json(state.client.set_issuance_policy(&project, &token.id, policy).await?.into()))
}
