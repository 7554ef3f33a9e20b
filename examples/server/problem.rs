//! Errors as RFC 9457 problem documents.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use certlib_core::error::codes;
use certlib_core::policy::Violation;
use certlib_core::{Error, ErrorClass};
use serde::Serialize;
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

/// What a handler answers when it cannot do what was asked.
pub(crate) type Result<T, E = Problem> = std::result::Result<T, E>;

/// The media type of every error.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// A problem document. One pointer wide, because it is the error of every handler.
#[derive(Debug)]
pub(crate) struct Problem(Box<ProblemDocument>);

/// The body of every error (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemDocument {
    /// A URN made of the code.
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What went wrong, for people.
    detail: String,
    /// What went wrong, for programs: stable over releases.
    #[schema(value_type = String)]
    code: Cow<'static, str>,
    /// What helps: `network` and `io_transient` can be tried again, `auth`, `validation` and `io_permanent` cannot.
    class: &'static str,
    /// Names and numbers that help to find the cause.
    context: BTreeMap<&'static str, String>,
    /// All rules of the project's policy that are broken, if that is what went wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    violations: Vec<Violation>,
    #[serde(skip)]
    retry_after: Option<u64>,
}

impl Problem {
    /// A problem with `status`, named by `code`.
    pub(crate) fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        let code = code.into();
        let class = match status.as_u16() {
            401 | 403 => ErrorClass::Auth,
            503 => ErrorClass::IoTransient,
            500.. => ErrorClass::IoPermanent,
            _ => ErrorClass::Validation,
        };
        Self(Box::new(ProblemDocument {
            kind: format!("urn:certlib:problem:{code}"),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            code,
            class: class.as_str(),
            context: BTreeMap::new(),
            violations: Vec::new(),
            retry_after: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(5),
        }))
    }

    /// Adds to the context. Never a secret.
    #[must_use]
    pub(crate) fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.insert(key, value.to_string());
        self
    }

    /// 401: no token, or not one of ours. The same answer for every reason.
    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "token_invalid", "send `Authorization: Bearer TOKEN` with a valid token")
    }

    /// 403: a valid token that does not allow this.
    pub(crate) fn forbidden(code: &'static str, detail: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail)
    }

    /// 422: understood, but wrong.
    pub(crate) fn invalid(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }
}

impl From<Error> for Problem {
    /// Chooses the status by class and code. What goes wrong inside is logged and not shown.
    fn from(error: Error) -> Self {
        let status = status_of(&error);
        let mut problem = if status.is_server_error() {
            tracing::error!(error = ?error, "a request failed");
            let detail = "the server cannot do this now; its log says why";
            Self::new(status, error.code().to_owned(), detail)
        } else {
            let mut problem = Self::new(status, error.code().to_owned(), error.message());
            problem.0.context = error.context().map(|(key, value)| (key, value.to_owned())).collect();
            let violations = problem.0.context.remove("violations");
            problem.0.violations = violations.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
            problem
        };
        problem.0.class = error.class().as_str();
        if let Some(after) = error.retry_after() {
            problem.0.retry_after = Some(after.as_secs().max(1));
        }
        problem
    }
}

/// The HTTP status of an error.
fn status_of(error: &Error) -> StatusCode {
    match (error.class(), error.code()) {
        (_, codes::NOT_FOUND) => StatusCode::NOT_FOUND,
        (
            ErrorClass::Validation,
            codes::CONFLICT
            | codes::LEASE_LOST
            | codes::PLAN_STALE
            | "job_active"
            | "job_finished"
            | "nothing_issued"
            | "no_targets",
        ) => StatusCode::CONFLICT,
        // The server's own keys, not the caller's input.
        (ErrorClass::Validation, "envelope_invalid" | "envelope_rejected" | "kek_unknown") => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        (ErrorClass::Validation, _) => StatusCode::UNPROCESSABLE_ENTITY,
        (ErrorClass::Network | ErrorClass::IoTransient, _) => StatusCode::SERVICE_UNAVAILABLE,
        (ErrorClass::Auth, _) => StatusCode::BAD_GATEWAY,
        (ErrorClass::IoPermanent, _) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Strings and numbers always encode.
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response = (status, [(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON))], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"certlib\""));
        }
        if let Some(after) = self.0.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after));
        }
        response
    }
}

/// For the OpenAPI document: the errors that every operation of a project may answer.
pub(crate) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        [
            ("400", "The body is not JSON"),
            ("401", "No valid token"),
            ("403", "The token does not allow this"),
            ("404", "No such project or object, or one of another project"),
            ("409", "Not possible as things stand"),
            ("413", "The body is larger than 1 MiB"),
            ("415", "The content type is not JSON"),
            ("422", "Understood, but wrong"),
            ("500", "The server failed"),
            ("503", "The store is away; try again later"),
        ]
        .into_iter()
        .map(|(status, description)| {
            let content = Content::new(Some(Ref::from_schema_name("Problem")));
            let response = ResponseBuilder::new().description(description).content(PROBLEM_JSON, content).build();
            (status.to_owned(), RefOr::T(response))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_follow_class_and_code() {
        let cases = [
            (Error::not_found("t", "x"), 404),
            (Error::validation("t", codes::CONFLICT, "x"), 409),
            (Error::validation("t", "job_active", "x"), 409),
            (Error::validation("t", "names_invalid", "x"), 422),
            (Error::validation("t", "kek_unknown", "x"), 500),
            (Error::network("t", "store_away", "x"), 503),
            (Error::transient("t", "busy", "x"), 503),
            (Error::permanent("t", "disk_full", "x"), 500),
            (Error::auth("t", "refused", "x"), 502),
        ];
        for (error, status) in cases {
            assert_eq!(status_of(&error).as_u16(), status, "{error}");
        }
    }

    #[test]
    fn inner_failures_are_not_shown() {
        let problem = Problem::from(Error::permanent("t", "disk_full", "canary").with("path", "canary"));
        let body = serde_json::to_string(&problem.0).unwrap();
        assert!(body.contains("disk_full") && !body.contains("canary"), "{body}");
    }
}
