//! Downloads: a version as a file, at once or for whoever has a token, once.

use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use certlib_core::Secret;
use certlib_core::export::{Export, ExportFormat, ExportOptions};
use certlib_core::secret::SecretString;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use crate::auth::{ApiToken, TokenRole};
use crate::extract::{Body, Params};
use crate::problem::{Problem, Problems, Result};

/// The path below which tokens stand; see [`shown_path`].
const DOWNLOADS: &str = "/api/v1/downloads/";

/// The header that holds the password of a PKCS#12 file. Not the query: URLs are kept and shown.
const PASSWORD: &str = "x-certlib-password";

/// How long a download is promised for, in seconds, if nothing is said.
const TTL_SECONDS: u64 = 3600;

/// How to download.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HowToDownload {
    /// `fullchain` (default), `chain`, `leaf`, `key`, `der`, `pkcs12` or `pkcs12-legacy`.
    #[serde(default)]
    #[param(value_type = String)]
    format: ExportFormat,
    /// With the private key; needs an admin token. It has to be said, also for formats that cannot be without.
    #[serde(default)]
    include_key: bool,
    /// Which version; the live one, or else the newest, by default.
    version: Option<u32>,
    /// The name of the entry in a PKCS#12 file; the first name of the certificate by default.
    alias: Option<String>,
}

/// A download to promise.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateDownload {
    /// `fullchain` (default), `chain`, `leaf`, `key`, `der`, `pkcs12` or `pkcs12-legacy`.
    #[serde(default)]
    #[schema(value_type = String)]
    format: ExportFormat,
    /// With the private key; needs an admin token. It has to be said, also for formats that cannot be without.
    #[serde(default)]
    include_key: bool,
    /// Which version; the live one, or else the newest, by default.
    version: Option<u32>,
    /// The name of the entry in a PKCS#12 file; the first name of the certificate by default.
    alias: Option<String>,
    /// For how long, in seconds, from 1 to 604800; 3600 by default.
    ttl_seconds: Option<u64>,
}

/// A promised download.
#[derive(Serialize, ToSchema)]
pub(super) struct DownloadView {
    /// What opens it, once. It is shown here and never again.
    token: String,
    /// Where: the path that ends in the token.
    path: String,
    version: u32,
    #[schema(value_type = String)]
    format: ExportFormat,
    /// Until when.
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

/// A version as a file: by default leaf and issuers as PEM, leaf first; then the private key, if it is asked for. The
/// password of a PKCS#12 file stands in the header `X-Certlib-Password`. Every download of a key is an event.
#[utoipa::path(get, path = "/api/v1/projects/{project}/certificates/{id}/download", tag = "certificates",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id"),
        HowToDownload),
    responses((status = 200, body = String, content_type = "application/x-pem-file"), Problems))]
pub(super) async fn download(
    State(state): State<AppState>,
    Extension(token): Extension<ApiToken>,
    Path((project, id)): Path<(String, String)>,
    headers: HeaderMap,
    Params(how): Params<HowToDownload>,
) -> Result<Response> {
    if how.include_key {
        token.require(TokenRole::Admin)?;
    }
    let HowToDownload { format, include_key: with_key, version, alias } = how;
    let what = ExportOptions { version, format, with_key, alias };
    let export = state.client.export(&project, &id, &what, password(&headers)?.as_ref()).await?;
    if with_key {
        tracing::info!(certificate = %id, version = export.version, "a private key was downloaded");
    }
    Ok(file(export))
}

/// Promises a download to whoever has the token in the answer, once.
#[utoipa::path(post, path = "/api/v1/projects/{project}/certificates/{id}/downloads", tag = "certificates",
    security(("token" = [])),
    params(("project" = String, Path, description = "The project"), ("id" = String, Path, description = "Its id")),
    request_body = CreateDownload, responses((status = 201, body = DownloadView), Problems))]
pub(super) async fn create(
    State(state): State<AppState>,
    Extension(token): Extension<ApiToken>,
    Path((project, id)): Path<(String, String)>,
    Body(new): Body<CreateDownload>,
) -> Result<Response> {
    if new.include_key {
        token.require(TokenRole::Admin)?;
    }
    let CreateDownload { format, include_key: with_key, version, alias, ttl_seconds } = new;
    let what = ExportOptions { version, format, with_key, alias };
    let ttl = Duration::from_secs(ttl_seconds.unwrap_or(TTL_SECONDS));
    let promised = state.client.create_download(&project, &id, what, ttl).await?;
    let token = promised.token.expose();
    let view = DownloadView {
        path: path_of(&promised.token),
        token: token.clone(),
        version: promised.version,
        format: promised.format,
        expires_at: promised.expires_at,
    };
    Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(view)).into_response())
}

/// What the token promises, once: a second time, too late, or with a token that never was, the answer is the same. The
/// password of a PKCS#12 file stands in the header `X-Certlib-Password`; without it the token stays as it is.
#[utoipa::path(get, path = "/api/v1/downloads/{token}", tag = "downloads",
    params(("token" = String, Path, description = "The token")),
    responses((status = 200, body = String, content_type = "application/octet-stream"), Problems))]
pub(super) async fn redeem(
    State(state): State<AppState>,
    method: Method,
    Path(token): Path<String>,
    headers: HeaderMap,
) -> Result<Response> {
    let token: SecretString = Secret::new(token);
    // Whoever only looks, as previews of links do, must not use it up.
    if method != Method::GET {
        let why = "a download can only be fetched";
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", why));
    }
    let export = state.client.redeem_download(&token, password(&headers)?.as_ref()).await?;
    Ok(file(export))
}

/// Where the download that `token` opens is fetched.
pub(crate) fn path_of(token: &SecretString) -> String {
    format!("{DOWNLOADS}{}", token.expose())
}

/// A path as logs may show it: without a token.
pub(super) fn shown_path(path: &str) -> &str {
    if path.starts_with(DOWNLOADS) { DOWNLOADS } else { path }
}

fn password(headers: &HeaderMap) -> Result<Option<SecretString>> {
    let Some(value) = headers.get(PASSWORD) else { return Ok(None) };
    let text = value
        .to_str()
        .map_err(|_| Problem::invalid("password_invalid", "the password of the file has printable ASCII characters"))?;
    Ok(Some(Secret::new(text.to_owned())))
}

fn file(export: Export) -> Response {
    let headers = [
        (CONTENT_TYPE, export.format.media_type().to_owned()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{}\"", export.file_name)),
        (CACHE_CONTROL, "no-store".to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (REFERRER_POLICY, "no-referrer".to_owned()),
    ];
    (headers, export.bytes.expose().clone()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_show_no_token() {
        let token = Secret::new("canary".to_owned());
        assert_eq!(shown_path(&path_of(&token)), "/api/v1/downloads/");
        assert_eq!(shown_path("/api/v1/projects"), "/api/v1/projects");
    }
}
