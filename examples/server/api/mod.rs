//! The HTTP API: one file per resource, put together here.

mod approvals;
mod certificates;
mod cluster;
mod credentials;
mod delivery;
mod downloads;
mod issuers;
mod job_log;
mod jobs;
mod keyring;
mod meta;
mod policy;
mod projects;
mod rules;
mod targets;
mod views;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use certlib_core::Client;
use certlib_issuers::challenge::Http01Responder;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::trace::TraceLayer;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use self::downloads::path_of;
pub(crate) use self::keyring::KeyringView;
use crate::admission::Admission;
use crate::auth::authenticate;
use crate::extract::BODY_MAX;
use crate::problem::{Problem, ProblemDocument};

/// How long one request may take; a dry run looks at every target.
const REQUEST_MAX: Duration = Duration::from_secs(120);

/// How many logs may be followed at the same time, by all.
pub(crate) const STREAMS_MAX: usize = 64;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What handlers share.
#[derive(Clone)]
pub(crate) struct AppState {
    /// certlib's operations.
    pub(crate) client: Client,
    /// Answers HTTP-01 challenges.
    pub(crate) responder: Http01Responder,
    /// Renders metrics.
    pub(crate) metrics: PrometheusHandle,
    /// What targets may ask for.
    pub(crate) admission: Arc<Admission>,
    /// Cancelled when the server begins to stop.
    pub(crate) stopping: CancellationToken,
    /// One permit for each log that is followed.
    pub(crate) streams: Arc<Semaphore>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "certlib reference server",
        description = "Certificates from any CA, delivered, proven and taken back. Every operation below \
                       `/api/v1/projects` and `/api/v1/settings` needs a bearer token; every error is a problem document (RFC 9457).",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    components(schemas(ProblemDocument)),
    modifiers(&BearerToken)
)]
struct Document;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// All routes, and the document that describes them.
pub(crate) fn router(state: AppState) -> (Router, utoipa::openapi::OpenApi) {
    let projects = OpenApiRouter::new()
        .routes(routes!(projects::create, projects::list))
        .routes(routes!(projects::get))
        .routes(routes!(credentials::create, credentials::list))
        .routes(routes!(credentials::get))
        .routes(routes!(issuers::create, issuers::list))
        .routes(routes!(issuers::get))
        .routes(routes!(targets::create, targets::list))
        .routes(routes!(targets::get))
        .routes(routes!(certificates::create, certificates::list))
        .routes(routes!(certificates::get))
        .routes(routes!(certificates::issue))
        .routes(routes!(certificates::renew))
        .routes(routes!(certificates::revoke))
        .routes(routes!(downloads::download))
        .routes(routes!(downloads::create))
        .routes(routes!(certificates::events))
        .routes(routes!(delivery::distribute))
        .routes(routes!(delivery::status))
        .routes(routes!(delivery::go_back))
        .routes(routes!(rules::set_target))
        .routes(routes!(rules::list))
        .routes(routes!(rules::set_distribution))
        .routes(routes!(approvals::list))
        .routes(routes!(approvals::get))
        .routes(routes!(approvals::decide))
        .routes(routes!(policy::get, policy::set))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::retry))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry_many))
        .routes(routes!(job_log::read))
        .routes(routes!(job_log::follow))
        .routes(routes!(cluster::instances))
        .routes(routes!(keyring::keyring))
        .route_layer(from_fn_with_state(state.clone(), authenticate));
    let open = OpenApiRouter::new()
        .routes(routes!(meta::openapi))
        .routes(routes!(meta::healthz))
        .routes(routes!(meta::readyz))
        .routes(routes!(meta::metrics))
        .routes(routes!(meta::challenge))
        .routes(routes!(downloads::redeem));
    let (router, document) =
        OpenApiRouter::with_openapi(Document::openapi()).merge(projects).merge(open).split_for_parts();
    // The document is the same for every request, so it is rendered once.
    let rendered: Arc<str> = document.to_json().unwrap_or_default().into();
    let router = router
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "route_unknown", "there is no such route"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this route does not know the method")
        })
        .layer(axum::Extension(meta::RenderedDocument(rendered)))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(in_time))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(TraceLayer::new_for_http().make_span_with(request_span))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .with_state(state);
    (router, document)
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = "this took too long; it may still have had its effect";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail).into_response()
        }
    }
}

/// The path alone, without the token that it may hold, never the query or a header: those are the caller's.
fn request_span(request: &Request) -> tracing::Span {
    let id = request.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    tracing::info_span!(
        "request",
        id,
        method = %request.method(),
        path = downloads::shown_path(request.uri().path()),
        token = tracing::field::Empty
    )
}

/// A bug. The panic hook has logged it; its text may hold anything, so it is not shown.
fn panicked(_panic: Box<dyn Any + Send + 'static>) -> Response {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server failed; its log says why").into_response()
}
