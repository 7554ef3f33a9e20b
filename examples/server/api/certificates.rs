//! Certificates: create, issue, renew, revoke.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use certlib_core::bundle::{KeyType, LeafInfo};
use certlib_core::client::{NewCertificate, Revocation};
use certlib_core::model::{Certificate, CertificateVersion, RenewalPolicy, VersionState};
use certlib_core::store::Cursor;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::jobs::page_size;
use super::rules::{ApprovalRuleView, RolloutView};
use super::views::{Accepted, Created, EventView, Failure, accepted, created, word};
use crate::extract::{Body, OptionalBody, Params};
use crate::problem::{Problem, Problems, Result};

/// A certificate to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateCertificate {
    /// Its name, for people; the first of `names` by default.
    #[serde(default)]
    name: String,
    /// DNS names, wildcards, IP addresses.
    names: Vec<String>,
    /// `ecdsa-p256` (default), `ecdsa-p384`, `ecdsa-p521`, `ed25519`, `rsa-2048`, `rsa-3072` or `rsa-4096`.
    #[serde(default)]
    #[schema(value_type = String)]
    key_type: KeyType,
    /// The issuer.
    issuer_id: String,
    /// The CA's profile.
    profile: Option<String>,
    /// How long each version should be valid, in seconds, if the CA lets us choose.
    validity_seconds: Option<u64>,
    /// When to renew: `automatic`, `at_fraction` of the lifetime, `follow_hint` of the CA; and whether to `reuse_key`.
    #[serde(default)]
    #[schema(value_type = Object)]
    renewal: RenewalPolicy,
    /// The targets to deliver every version to.
    #[serde(default)]
    targets: Vec<String>,
    /// How many targets are worked on at the same time; 10 by default.
    batch_size: Option<usize>,
    /// Who must agree before anything is delivered; null: nobody, unless a target wants it.
    approval: Option<ApprovalRuleView>,
    /// How far a failure may spread.
    #[serde(default)]
    rollout: RolloutView,
}

/// A certificate.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CertificateView {
    id: String,
    project: String,
    name: String,
    names: Vec<String>,
    #[schema(value_type = String)]
    key_type: KeyType,
    issuer_id: String,
    profile: Option<String>,
    validity_seconds: Option<u64>,
    #[schema(value_type = Object)]
    renewal: RenewalPolicy,
    /// `pending`, `issuing`, `distributing`, `active`, `partial-failure`, `distribution-failed`,
    /// `succeeded-unverified`, `issue-failed` or `revoked`.
    state: &'static str,
    /// The version that is live.
    active_version: Option<u32>,
    /// The newest version there is; 0: none.
    latest_version: u32,
    /// The older version that an operator went back to.
    held_version: Option<u32>,
    #[serde(with = "time::serde::rfc3339::option")]
    renew_at: Option<OffsetDateTime>,
    /// The last failure, until something succeeds.
    last_error: Option<Failure>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

impl From<Certificate> for CertificateView {
    fn from(certificate: Certificate) -> Self {
        Self {
            id: certificate.id,
            project: certificate.project,
            name: certificate.name,
            names: certificate.names,
            key_type: certificate.key_type,
            issuer_id: certificate.issuer_id,
            profile: certificate.profile,
            validity_seconds: certificate.validity_seconds,
            renewal: certificate.renewal,
            state: certificate.state.as_str(),
            active_version: certificate.active_version,
            latest_version: certificate.latest_version,
            held_version: certificate.held_version,
            renew_at: certificate.renew_at,
            last_error: certificate.last_error.map(Failure::from),
            created_at: certificate.created_at,
            updated_at: certificate.updated_at,
        }
    }
}

/// A certificate and its versions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CertificateDetail {
    #[serde(flatten)]
    certificate: CertificateView,
    /// Oldest first.
    versions: Vec<VersionView>,
}

/// One issued version.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VersionView {
    version: u32,
    revoked: bool,
    /// Why it was revoked.
    revocation_reason: Option<String>,
    /// What the leaf says: names, subject, issuer, serial, validity, SHA-256 fingerprint.
    #[schema(value_type = Object)]
    leaf: LeafInfo,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<CertificateVersion> for VersionView {
    fn from(version: CertificateVersion) -> Self {
        let reason = match &version.state {
            VersionState::Revoked { reason, .. } => Some(word(reason)),
            _ => None,
        };
        Self {
            version: version.version,
            revoked: reason.is_some(),
            revocation_reason: reason,
            leaf: version.leaf,
            created_at: version.created_at,
        }
    }
}

/// Which certificates to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListCertificates {
    /// At most this many, 1 to 1000; 100 by default.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// One page of certificates.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CertificatePage {
    /// Oldest first.
    certificates: Vec<CertificateView>,
    /// What to give as `cursor` for the next page; null when this was the last.
    next: Option<String>,
}

/// How many events to show.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListEvents {
    /// At most this many, 1 to 1000; 100 by default.
    limit: Option<usize>,
}

/// How to revoke; may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Revoke {
    /// Which version; the newest by default.
    version: Option<u32>,
    /// `unspecified` (default), `key_compromise`, `superseded`, `cessation_of_operation`, ...
    reason: Option<String>,
    /// Renew at once; yes by default.
    replace: Option<bool>,
}

/// Creates a certificate. Nothing is issued yet.
#[utoipa::path(post, path = "/api/v1/projects/{project}/certificates", tag = "certificates",
    security(("token" = [])), params(("project" = String, Path, description = "The project")),
    request_body = CreateCertificate, responses((status = 201, body = CertificateView), Problems))]
pub(super) async fn create(
    State(state): State<AppState>,
    Path(project): Path<String>,
    Body(new): Body<CreateCertificate>,
) -> Result<Created<CertificateView>> {
    let new = NewCertificate {
        name: new.name,
        names: new.names,
        key_type: new.key_type,
        issuer_id: new.issuer_id,
        profile: new.profile,
        validity: new.validity_seconds.map(Duration::from_secs),
        renewal: new.renewal,
        targets: new.targets,
        batch_size: new.batch_size,
        approval: new.approval.map(Into::into),
        rollout: new.rollout.into(),
    };
    let certificate = state.client.create_certificate(&project, new).await?;
    Ok(created(format!("/api/v1/projects/{project}/certificates/{}", certificate.id), certificate.into()))
}

/// The certificates of a project, oldest first, page by page.
#[utoipa::path(get, path = "/api/v1/projects/{project}/certificates", tag = "certificates",
    security(("token" = [])), params(("project" = String, Path, description = "The project"), ListCertificates),
    responses((status = 200, body = CertificatePage), Problems))]
pub(super) async fn list(
    State(state): State<AppState>,
    Path(project): Path<String>,
    Params(query): Params<ListCertificates>,
) -> Result<Json<CertificatePage>> {
    state.client.project(&project).await?;
    let after = query.cursor.as_deref().map(decode_cursor).transpose()?;
    let page = state.client.certificates(&project, after, page_size(query.limit)?).await?;
    Ok(Json(CertificatePage {
        certificates: page.records.into_iter().map(|certificate| certificate.record.into()).collect(),
        next: page.next.map(|cursor| URL_SAFE_NO_PAD.encode(cursor.id)),
    }))
}

/// The list is sorted by id alone, so an id is all that a cursor has to hold.
fn decode_cursor(text: &str) -> Result<Cursor> {
    let id = URL_SAFE_NO_PAD.decode(text).ok().and_then(|id| String::from_utf8(id).ok());
    match id {
        Some(id) if !id.is_empty() && id.len() <= 200 => Ok(Cursor { value: None, id }),
        _ => Err(Problem::invalid("cursor_invalid", "give `next` of the page before, as it is")),
    }
}

/// One certificate, with its versions.
#[utoipa::path(get, path = "/api/v1/projects/{project}/certificates/{id}", tag = "certificates",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    responses((status = 200, body = CertificateDetail), Problems))]
pub(super) async fn get(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
) -> Result<Json<CertificateDetail>> {
    let certificate = state.client.certificate(&project, &id).await?.into();
    let versions = state.client.versions(&project, &id).await?;
    Ok(Json(CertificateDetail { certificate, versions: versions.into_iter().map(VersionView::from).collect() }))
}

/// Asks for the first, or a further, version.
#[utoipa::path(post, path = "/api/v1/projects/{project}/certificates/{id}/issue", tag = "certificates",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    responses((status = 202, body = Accepted), Problems))]
pub(super) async fn issue(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
) -> Result<Created<Accepted>> {
    Ok(accepted(&project, state.client.issue(&project, &id).await?))
}

/// Asks for renewal now, whatever its time.
#[utoipa::path(post, path = "/api/v1/projects/{project}/certificates/{id}/renew", tag = "certificates",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    responses((status = 202, body = Accepted), Problems))]
pub(super) async fn renew(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
) -> Result<Created<Accepted>> {
    Ok(accepted(&project, state.client.renew(&project, &id).await?))
}

/// Asks the CA to revoke a version.
#[utoipa::path(post, path = "/api/v1/projects/{project}/certificates/{id}/revoke", tag = "certificates",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    request_body = Option<Revoke>, responses((status = 202, body = Accepted), Problems))]
pub(super) async fn revoke(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
    OptionalBody(how): OptionalBody<Revoke>,
) -> Result<Created<Accepted>> {
    let default = Revocation::default();
    let reason = match how.reason {
        None => default.reason,
        Some(name) => serde_json::from_value(Value::String(name))
            .map_err(|error| Problem::invalid("body_invalid", error.to_string()).with("pointer", "/reason"))?,
    };
    let revocation = Revocation { version: how.version, reason, replace: how.replace.unwrap_or(default.replace) };
    Ok(accepted(&project, state.client.revoke(&project, &id, revocation).await?))
}

/// What happened to a certificate, newest first.
#[utoipa::path(get, path = "/api/v1/projects/{project}/certificates/{id}/events", tag = "certificates",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id"),
        ListEvents),
    responses((status = 200, body = [EventView]), Problems))]
pub(super) async fn events(
    State(state): State<AppState>,
    Path((project, id)): Path<(String, String)>,
    Params(query): Params<ListEvents>,
) -> Result<Json<Vec<EventView>>> {
    state.client.certificate(&project, &id).await?;
    let events = state.client.events(&project, Some(&id), page_size(query.limit)?).await?;
    Ok(Json(events.into_iter().map(EventView::from).collect()))
}
