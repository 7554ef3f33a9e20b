//! Request bodies and query parameters, with problem documents for what cannot be read.

use std::error::Error;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::IntoResponse as _;
use serde::de::DeserializeOwned;

use crate::problem::{Problem, Result};

/// The largest request body, in bytes.
pub(crate) const BODY_MAX: usize = 1024 * 1024;

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let bytes = json_bytes(request, state).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| body_problem::<T>(&bytes, &error))
    }
}

/// A JSON body that holds a secret: what is wrong with it is said without quoting any of it.
pub(crate) struct SecretBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for SecretBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let bytes = json_bytes(request, state).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            if error.is_data() {
                Problem::invalid("body_invalid", "the body does not have the documented members")
            } else {
                syntax_problem(&error)
            }
        })
    }
}

/// A JSON body that may be left out.
pub(crate) struct OptionalBody<T>(pub(crate) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        if request.headers().contains_key(CONTENT_TYPE) {
            return Body::from_request(request, state).await.map(|body| Self(body.0));
        }
        match bytes(request, state).await? {
            body if body.is_empty() => Ok(Self(T::default())),
            _ => Err(content_type_problem()),
        }
    }
}

/// Query parameters.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|rejection: QueryRejection| {
            Problem::invalid("query_invalid", format!("a query parameter is wrong: {}", rejection.body_text()))
        })
    }
}

async fn json_bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes> {
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = value.split(';').next().unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("application/json") {
        return Err(content_type_problem());
    }
    bytes(request, state).await
}

async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes> {
    Bytes::from_request(request, state).await.map_err(|rejection| {
        if rejection.into_response().status() == StatusCode::PAYLOAD_TOO_LARGE {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the body is too large")
                .with("limit", BODY_MAX)
        } else {
            Problem::new(StatusCode::BAD_REQUEST, "body_unreadable", "the body could not be read")
        }
    })
}

fn content_type_problem() -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", "send `Content-Type: application/json`")
}

/// 400 with line and column for what is no JSON; 422 with a JSON pointer for JSON that means something else.
fn body_problem<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error) -> Problem {
    if !error.is_data() {
        return syntax_problem(error);
    }
    let full = error.to_string();
    // axum reads once more and says where: `path: reason`, under its own wrappers.
    let located = axum::Json::<T>::from_bytes(bytes).err().and_then(|rejection| innermost(&rejection));
    let path = located.as_deref().and_then(|located| located.strip_suffix(&full)?.strip_suffix(": "));
    // The position is of little use once the place is named by its path.
    let reason = full.rsplit_once(" at line ").map_or(&*full, |(reason, _)| reason);
    Problem::invalid("body_invalid", reason).with("pointer", pointer(path.unwrap_or_default()))
}

fn innermost(error: &dyn Error) -> Option<String> {
    let mut innermost = error.source()?;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    Some(innermost.to_string())
}

fn syntax_problem(error: &serde_json::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "json_invalid", "the body is not JSON")
        .with("line", error.line())
        .with("column", error.column())
}

/// `renewal.names[1]` as `/renewal/names/1` (RFC 6901).
fn pointer(path: &str) -> String {
    path.split(['.', '[', ']'])
        .filter(|part| !part.is_empty())
        .map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_pointers() {
        assert_eq!(pointer("renewal.names[1].x"), "/renewal/names/1/x");
        assert_eq!(pointer(""), "");
        assert_eq!(pointer("a/b"), "/a~1b");
    }
}
