//! Bearer tokens: random, hashed at rest, compared in constant time, bound to one project or to all.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use certlib_core::secret::SecretString;
use certlib_core::store::{Index, Record, Store, StoreExt as _, TypedQuery, WriteBatch};
use certlib_core::{Error, Secret};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::api::AppState;
use crate::problem::{Problem, Result};

/// The project of a token that opens all projects.
pub(crate) const ALL_PROJECTS: &str = "*";

const PREFIX: &str = "certlib";

/// A token as it is kept: who it is for, and a digest of its secret.
///
/// The secret has 256 random bits, so one round of SHA-256 is enough: there is nothing to guess.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApiToken {
    /// Its id: the public part of the token.
    pub(crate) id: String,
    /// The project it opens, or [`ALL_PROJECTS`].
    pub(crate) project: String,
    /// What it allows.
    pub(crate) role: TokenRole,
    /// SHA-256 of the secret part, hex.
    pub(crate) digest: String,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created_at: OffsetDateTime,
}

impl Record for ApiToken {
    const KIND: &'static str = "api_token";
    const FIELDS: &'static [&'static str] = &["project"];

    fn id(&self) -> &str {
        &self.id
    }

    fn index(&self) -> Index {
        Index::new().field("project", &*self.project)
    }
}

/// What a token allows; each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TokenRole {
    /// Look.
    Viewer,
    /// Change things, and have certlib act.
    Operator,
    /// Also download private keys and, with a token for all projects, create projects.
    Admin,
}

impl fmt::Display for TokenRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

impl ApiToken {
    /// Whether the token opens `project`.
    pub(crate) fn opens(&self, project: &str) -> bool {
        self.project == ALL_PROJECTS || self.project == project
    }

    /// Fails unless the token allows at least what `role` does.
    pub(crate) fn require(&self, role: TokenRole) -> Result<()> {
        if self.role < role {
            return Err(
                Problem::forbidden("role_forbidden", "the token's role does not allow this").with("needs", role)
            );
        }
        Ok(())
    }

    /// Fails unless the token opens all projects.
    pub(crate) fn require_all_projects(&self) -> Result<()> {
        if self.project != ALL_PROJECTS {
            return Err(Problem::forbidden("project_forbidden", "the token is for one project"));
        }
        Ok(())
    }
}

/// Makes and keeps a token. The text is shown to whoever asked for it and to nobody else, ever.
pub(crate) async fn create_token(
    store: &dyn Store,
    project: &str,
    role: TokenRole,
    now: OffsetDateTime,
) -> certlib_core::Result<(ApiToken, SecretString)> {
    let id = random_hex::<8>()?;
    let secret = Secret::new(random_hex::<32>()?);
    let token =
        ApiToken { digest: sha256_hex(secret.expose()), project: project.to_owned(), role, created_at: now, id };
    store.commit(WriteBatch::new().insert(&token)?).await?;
    let text = Secret::new(format!("{PREFIX}_{}_{}", token.id, secret.expose()));
    Ok((token, text))
}

/// Whether no token was made yet.
pub(crate) async fn no_tokens(store: &dyn Store) -> certlib_core::Result<bool> {
    Ok(store.list(TypedQuery::<ApiToken>::new().limit(1)).await?.records.is_empty())
}

/// Withdraws a token.
pub(crate) async fn revoke_token(store: &dyn Store, id: &str) -> certlib_core::Result<()> {
    store.load::<ApiToken>(id).await?;
    store.commit(WriteBatch::new().delete::<ApiToken>(id)).await?;
    Ok(())
}

/// The kept token that belongs to the text `presented`.
async fn verify(store: &dyn Store, presented: &str) -> Result<ApiToken> {
    let Presented { id, secret } = presented.parse().map_err(|()| Problem::unauthorized())?;
    let kept = store.find::<ApiToken>(&id).await?;
    // An unknown id takes the same steps as a known one.
    let expected = kept.as_ref().map_or_else(|| "0".repeat(64), |token| token.digest.clone());
    let equal = verify_slices_are_equal(expected.as_bytes(), sha256_hex(secret.expose()).as_bytes()).is_ok();
    match kept {
        Some(token) if equal => Ok(token.record),
        _ => Err(Problem::unauthorized()),
    }
}

/// The two parts of a token's text.
struct Presented {
    id: String,
    secret: SecretString,
}

impl FromStr for Presented {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('_');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(PREFIX), Some(id), Some(secret), None) if is_hex(id, 16) && is_hex(secret, 64) => {
                Ok(Self { id: id.to_owned(), secret: Secret::new(secret.to_owned()) })
            }
            _ => Err(()),
        }
    }
}

/// Lets a request pass if its token opens the project in its path and allows its method; handlers that need more
/// ask the [`ApiToken`] in the request's extensions.
///
/// Stands in front of every project route, so no handler can forget it.
pub(crate) async fn authenticate(
    State(state): State<AppState>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Result<Response> {
    let token = verify(&**state.client.store(), bearer(request.headers()).ok_or_else(Problem::unauthorized)?).await?;
    let path = path.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "path_invalid", "the path is not UTF-8"))?;
    if let Some((_, project)) = path.iter().find(|(name, _)| *name == "project")
        && !token.opens(project)
    {
        return Err(Problem::forbidden("project_forbidden", "the token is for another project"));
    }
    let looks_only = [Method::GET, Method::HEAD].contains(request.method());
    token.require(if looks_only { TokenRole::Viewer } else { TokenRole::Operator })?;
    tracing::Span::current().record("token", &*token.id);
    request.extensions_mut().insert(token);
    Ok(next.run(request).await)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn random_hex<const N: usize>() -> certlib_core::Result<String> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes)
        .map_err(|_| Error::permanent("token.create", "random_failed", "the system gives no randomness"))?;
    Ok(hex(&bytes))
}

fn sha256_hex(text: &str) -> String {
    hex(digest(&SHA256, text.as_bytes()).as_ref())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_tokens_are_looked_up() {
        let good = format!("certlib_{}_{}", "a".repeat(16), "b".repeat(64));
        assert!(good.parse::<Presented>().is_ok());
        for bad in ["", "certlib", "x_a_b", &good[..good.len() - 1], &format!("{good}_"), &good.to_uppercase()] {
            assert!(bad.parse::<Presented>().is_err(), "{bad}");
        }
    }

    #[test]
    fn roles_include_the_smaller_ones() {
        let token = |role, project: &str| ApiToken {
            id: String::new(),
            project: project.to_owned(),
            role,
            digest: String::new(),
            created_at: OffsetDateTime::UNIX_EPOCH,
        };
        let operator = token(TokenRole::Operator, "shop");
        assert!(operator.require(TokenRole::Viewer).is_ok() && operator.require(TokenRole::Admin).is_err());
        assert!(operator.opens("shop") && !operator.opens("shop2") && !operator.opens("*"));
        assert!(token(TokenRole::Viewer, ALL_PROJECTS).opens("shop"));
    }
}
