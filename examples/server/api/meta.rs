//! What needs no token: health, metrics, the API's own description, ACME challenges.
//!
//! None of it names a project, a certificate or a target.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::AppState;
use crate::problem::{Problem, ProblemDocument, Result};

/// How long the store may take to answer before this node is not ready.
const STORE_MAX: Duration = Duration::from_secs(2);

/// The OpenAPI document as JSON.
#[derive(Clone)]
pub(super) struct RenderedDocument(pub(super) Arc<str>);

/// This description.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "meta",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
pub(super) async fn openapi(Extension(document): Extension<RenderedDocument>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], document.0.to_string())
}

/// Whether the process answers.
#[utoipa::path(get, path = "/healthz", tag = "meta", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether requests can be served: the store answers, and nobody asked the server to stop.
#[utoipa::path(get, path = "/readyz", tag = "meta",
    responses((status = 200, body = String), (status = 503, body = ProblemDocument)))]
pub(super) async fn readyz(State(state): State<AppState>) -> Result<&'static str> {
    let not_ready = |code, detail| Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail));
    if state.stopping.is_cancelled() {
        return not_ready("stopping", "the server is about to stop");
    }
    match tokio::time::timeout(STORE_MAX, state.client.queue_stats()).await {
        Ok(Ok(_)) => Ok("ready\n"),
        Ok(Err(error)) => {
            tracing::warn!(error = ?error, "not ready");
            not_ready("store_unreachable", "the store does not answer as it should")
        }
        Err(_) => not_ready("store_unreachable", "the store does not answer in time"),
    }
}

/// Prometheus metrics. Those of this process are true even while the store does not answer.
#[utoipa::path(get, path = "/metrics", tag = "meta", responses((status = 200, body = String)))]
pub(super) async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    if let Err(error) = state.client.record_metrics().await {
        tracing::warn!(error = ?error, "the depth of the queue is as it was");
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], state.metrics.render())
}

/// The answer to a pending HTTP-01 challenge (RFC 8555).
#[utoipa::path(get, path = "/.well-known/acme-challenge/{token}", tag = "meta",
    params(("token" = String, Path, description = "The challenge's token")),
    responses((status = 200, body = String), (status = 404, body = ProblemDocument)))]
pub(super) async fn challenge(State(state): State<AppState>, Path(token): Path<String>) -> Result<impl IntoResponse> {
    match state.responder.answer(&format!("/.well-known/acme-challenge/{token}")).await {
        Some(answer) => Ok(([(CONTENT_TYPE, "application/octet-stream")], answer)),
        None => Err(Problem::new(StatusCode::NOT_FOUND, "not_found", "there is no such challenge")),
    }
}
