//! Access tokens that are fetched, and kept until shortly before they end.

use std::future::Future;
use std::time::Duration;

use certlib_core::secret::SecretString;
use certlib_core::{Context, ErrorClass, Result};
use certlib_net::{Answer, Request};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::service::{bearer, refused_with};

/// A token that ends sooner is not used any more.
const SPARE: Duration = Duration::from_secs(120);

/// The token in use, as a value of `Authorization`, and when to fetch the next one.
#[derive(Debug, Default)]
pub(super) struct TokenCache(Mutex<Option<(SecretString, Duration)>>);

/// An answer of the token endpoint (RFC 6749 section 5.1).
#[derive(Deserialize)]
struct Granted {
    access_token: SecretString,
    expires_in: u64,
}

/// RFC 6749 section 5.2.
#[derive(Deserialize)]
struct Denied {
    error: String,
}

impl TokenCache {
    /// The value of `Authorization`; `fetch` asks for a token.
    pub(super) async fn get<F: Future<Output = Result<Answer>>>(
        &self,
        cx: &Context,
        fetch: impl FnOnce() -> F,
    ) -> Result<SecretString> {
        let mut kept = self.0.lock().await;
        if let Some((authorization, until)) = kept.as_ref()
            && cx.clock.monotonic() < *until
        {
            return Ok(authorization.duplicate());
        }
        let granted: Granted = fetch().await?.json()?;
        let until = cx.clock.monotonic() + Duration::from_secs(granted.expires_in).saturating_sub(SPARE);
        let authorization = bearer(&granted.access_token);
        *kept = Some((authorization.duplicate(), until));
        Ok(authorization)
    }

    /// Forgets the token, because it was refused.
    pub(super) async fn forget(&self) {
        *self.0.lock().await = None;
    }
}

/// Sends a request to a token endpoint, which answers bad credentials with 400 and a code.
pub(super) async fn grant(cx: &Context, request: Request<'_>) -> Result<Answer> {
    let answer = request.send(cx).await?;
    if answer.is_success() {
        return Ok(answer);
    }
    let code = answer.json::<Denied>().map(|denied| denied.error).unwrap_or_default();
    let login = matches!(code.as_str(), "invalid_client" | "invalid_grant" | "unauthorized_client" | "invalid_request");
    let known = login.then_some((ErrorClass::Auth, "credentials_refused"));
    Err(refused_with(&answer, Some(&code), known))
}
