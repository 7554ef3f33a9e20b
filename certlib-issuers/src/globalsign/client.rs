//! Requests with a token, which all calls share and which is renewed before it ends.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::error::Effect;
use certlib_core::secret::{Secret, SecretString};
use certlib_core::{Context, Error, ErrorClass, Result};
use certlib_net::{Answer, Api, SystemLookup};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::config::{GlobalSignConfig, GlobalSignCredentials};
use crate::triage;

pub(super) const OPERATION: &str = "globalsign";

/// To the letter: HVCA rejects any other spelling.
const CONTENT_TYPE: &str = "application/json;charset=utf-8";

/// How long a token is used: a minute less than it counts.
const TOKEN_LIFE: Duration = Duration::from_secs(9 * 60);

/// The code of the error for credentials that HVCA does not take.
const LOGIN_REFUSED: &str = "login_refused";

/// The API, with the credentials of one account.
#[derive(Debug)]
pub(super) struct Client {
    api: Api,
    key: SecretString,
    secret: SecretString,
    token: Mutex<Option<Arc<Token>>>,
}

/// A token, and until when it is used, in monotonic time.
#[derive(Debug)]
struct Token {
    header: SecretString,
    until: Duration,
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Call<'a> {
    method: Method,
    path: &'a [&'a str],
    query: &'a [(&'a str, &'a str)],
    body: Option<Vec<u8>>,
}

#[derive(Serialize)]
struct Login<'a> {
    api_key: &'a str,
    api_secret: &'a str,
}

#[derive(Deserialize)]
struct LoggedIn {
    access_token: SecretString,
}

impl<'a> Call<'a> {
    pub(super) fn get(path: &'a [&'a str]) -> Self {
        Self { method: Method::GET, path, query: &[], body: None }
    }

    pub(super) fn query(self, query: &'a [(&'a str, &'a str)]) -> Self {
        Self { query, ..self }
    }

    pub(super) fn with_body(method: Method, path: &'a [&'a str], body: &serde_json::Value) -> Self {
        Self { method, path, query: &[], body: Some(body.to_string().into_bytes()) }
    }
}

impl Client {
    /// # Errors
    /// As [`Api::new`].
    pub(super) fn new(config: &GlobalSignConfig, credentials: GlobalSignCredentials) -> Result<Self> {
        let GlobalSignCredentials { api_key, api_secret, client } = credentials;
        let api = Api::new(OPERATION, &config.url, &config.connection, Some(&client), Arc::new(SystemLookup))?;
        Ok(Self { api, key: api_key, secret: api_secret, token: Mutex::default() })
    }

    /// Sends a request, whatever the answer. A token that does not count any more is replaced once: the request was not
    /// carried out.
    ///
    /// # Errors
    /// `Auth` `login_refused`; otherwise as [`Request::send`](certlib_net::Request::send).
    pub(super) async fn send(&self, cx: &Context, call: &Call<'_>) -> Result<Answer> {
        let token = self.token(cx, None).await?;
        let answer = self.exchange(cx, call, &token).await?;
        if answer.status() != 401 {
            return Ok(answer);
        }
        let token = self.token(cx, Some(&token)).await?;
        self.exchange(cx, call, &token).await
    }

    async fn exchange(&self, cx: &Context, call: &Call<'_>, token: &Token) -> Result<Answer> {
        let mut request = self.api.request(call.method.clone(), call.path.iter().copied());
        if !call.query.is_empty() {
            request = request.query(call.query);
        }
        request = request.secret_header("authorization", &token.header);
        if let Some(body) = &call.body {
            request = request.body(CONTENT_TYPE, Zeroizing::new(body.clone()));
        }
        request.send(cx).await
    }

    /// The token that everybody uses, or a new one if that is over or is `useless`. Who comes meanwhile waits for it.
    async fn token(&self, cx: &Context, useless: Option<&Arc<Token>>) -> Result<Arc<Token>> {
        let mut kept = self.token.lock().await;
        let now = cx.clock.monotonic();
        if let Some(token) = &*kept
            && token.until > now
            && useless.is_none_or(|useless| !Arc::ptr_eq(token, useless))
        {
            return Ok(Arc::clone(token));
        }
        *kept = None;
        // Whatever becomes of the login, nothing was ordered.
        let header = self.log_in(cx).await.map_err(|error| error.with_effect(Effect::None))?;
        let token = Arc::new(Token { header, until: now + TOKEN_LIFE });
        *kept = Some(Arc::clone(&token));
        Ok(token)
    }

    async fn log_in(&self, cx: &Context) -> Result<SecretString> {
        let login = Login { api_key: self.key.expose(), api_secret: self.secret.expose() };
        let body = serde_json::to_vec(&login).map(Zeroizing::new).map_err(|_| {
            Error::validation(OPERATION, "credentials_invalid", "the credentials cannot be written as JSON")
        })?;
        let answer = self.api.post(["login"]).body(CONTENT_TYPE, body).send(cx).await?;
        match answer.status() {
            401 | 403 => {
                let why = "GlobalSign does not take the API key, its secret, or both with this client certificate";
                Err(answer.error(ErrorClass::Auth, LOGIN_REFUSED, why))
            }
            _ if answer.is_success() => {
                let token = triage::read::<LoggedIn>(&answer)?.access_token;
                let header = Zeroizing::new(format!("Bearer {}", token.expose()));
                Ok(Secret::new(header.to_string()))
            }
            // A refused order is over; a refused login says nothing about any order.
            _ if answer.refused().class() == ErrorClass::Validation => {
                let why = "GlobalSign cannot read the login; is this the address of the API?";
                Err(answer.error(ErrorClass::IoPermanent, "login_invalid", why))
            }
            _ => Err(answer.refused()),
        }
    }
}

/// What a poll that got no answer failed on. A refused login is an answer.
pub(super) fn unanswered(error: Error) -> Error {
    let is_answer = matches!(error.code(), LOGIN_REFUSED | "login_invalid" | "answer_invalid");
    if is_answer { error } else { triage::unanswered(error) }
}
