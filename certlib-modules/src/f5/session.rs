//! A login on the unit, and the requests that are made with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use certlib_core::Context;
use certlib_core::error::{Effect, Error, ErrorClass, Result};
use certlib_core::secret::{Secret, SecretString};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::OPERATION;
use super::config::{AuthMethod, F5Config, F5Credentials, F5Location};
use crate::net::{Answer, Api, Lookup, Request};

const TOKEN: &str = "x-f5-auth-token";

/// A login. It ends with [`Session::close`].
pub(super) struct Session<'a> {
    pub(super) cx: &'a Context,
    pub(super) config: &'a F5Config,
    api: Api,
    credentials: &'a F5Credentials,
    /// The last one is in use; those before it were refused.
    tokens: Mutex<Vec<SecretString>>,
    /// Whether the one fresh login was used up.
    renewed: AtomicBool,
}

/// What a login answers.
#[derive(Deserialize)]
struct Login {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    token: SecretString,
}

impl<'a> Session<'a> {
    /// Logs in.
    ///
    /// # Errors
    /// `Auth` `login_failed`; `IoTransient` `login_unavailable` when the unit gives no token; as [`Api::new`] and
    /// [`Request::send`]. The effect is always [`Effect::None`].
    pub(super) async fn open(
        cx: &'a Context,
        location: &F5Location,
        config: &'a F5Config,
        credentials: &'a F5Credentials,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self> {
        let api = Api::new(OPERATION, &location.url, &config.connection, None, lookup)?;
        let (tokens, renewed) = (Mutex::default(), AtomicBool::new(false));
        let session = Self { cx, config, api, credentials, tokens, renewed };
        if config.auth.method == AuthMethod::Token
            && let Err(error) = session.log_in().await
        {
            session.close().await;
            return Err(error.with_effect(Effect::None));
        }
        Ok(session)
    }

    async fn log_in(&self) -> Result<()> {
        let body = LoginBody {
            username: &self.credentials.username,
            password: self.credentials.password.expose(),
            provider: &self.config.auth.provider,
        };
        let mut tried = 1;
        let answer = loop {
            let answer = self.api.post(["mgmt", "shared", "authn", "login"]).json(&body).send(self.cx).await?;
            if answer.status() != BUSY || tried >= self.config.tries {
                break answer;
            }
            self.pause(tried).await;
            tried += 1;
        };
        if !answer.is_success() {
            return Err(match answer.status() {
                401 | 403 => answer.error(ErrorClass::Auth, "login_failed", "the unit refuses user name and password"),
                400 => {
                    let why = "the unit gives no token; has this user as many as it may have (100)?";
                    answer.error(ErrorClass::IoTransient, "login_unavailable", why)
                }
                _ => refused(&answer),
            });
        }
        let login: Login = answer.json()?;
        self.tokens().push(login.token.token);
        match self.config.auth.token_lifetime_s {
            Some(seconds) => self.extend(seconds).await,
            None => Ok(()),
        }
    }

    /// Makes the token live longer. Its path holds the token, so errors are made anew without it.
    async fn extend(&self, seconds: u64) -> Result<()> {
        let Some(token) = self.token() else { return Ok(()) };
        let request = self.token_request(Method::PATCH, &token).json(&json!({ "timeout": seconds }));
        let failed = |class, code: String| {
            Error::new(
                class,
                OPERATION,
                code,
                "the token's life cannot be extended; is it longer than the unit allows?",
            )
        };
        match request.send(self.cx).await {
            Ok(answer) if answer.is_success() => Ok(()),
            Ok(answer) => {
                let error = refused(&answer);
                Err(failed(error.class(), "token_not_extended".to_owned()).with("status", answer.status()))
            }
            Err(error) => Err(failed(error.class(), error.code().to_owned())),
        }
    }

    /// Logs out. What fails here fails silently: the token ends by itself.
    pub(super) async fn close(&self) {
        let tokens = std::mem::take(&mut *self.tokens());
        for token in tokens {
            match self.token_request(Method::DELETE, &token).send(self.cx).await {
                Ok(answer) if answer.is_success() || matches!(answer.status(), 401 | 404) => {}
                Ok(answer) => tracing::debug!(status = answer.status(), "a token of a BIG-IP was not deleted"),
                Err(error) => tracing::debug!(code = error.code(), "a token of a BIG-IP was not deleted"),
            }
        }
    }

    fn token_request(&self, method: Method, token: &SecretString) -> Request<'_> {
        let path = ["mgmt", "shared", "authz", "tokens", token.expose()];
        self.api.request(method, path).secret_header(TOKEN, token)
    }

    fn tokens(&self) -> MutexGuard<'_, Vec<SecretString>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token(&self) -> Option<SecretString> {
        self.tokens().last().map(Secret::duplicate)
    }

    /// Waits longer after each try.
    pub(super) async fn pause(&self, tried: u32) {
        self.cx.clock.sleep(self.config.pause(tried)).await;
    }

    /// Sends `call`, as often as its patience allows, and once more after a fresh login when the token is not accepted any
    /// more. Gives the answer, whatever its status.
    ///
    /// # Errors
    /// As [`Request::send`]; `Auth` `login_failed`, and `permission_denied` when a fresh login does not help.
    pub(super) async fn send(&self, call: &Call<'_>) -> Result<Answer> {
        let mut tried = 1;
        loop {
            let outcome = self.request(call).send(self.cx).await;
            let again = match &outcome {
                Ok(answer) if answer.status() == 401 => {
                    self.renew(answer).await?;
                    continue;
                }
                Ok(answer) => match call.patience {
                    Patience::None => false,
                    Patience::Busy => answer.status() == BUSY,
                    Patience::Harmless => !answer.is_success() && refused(answer).class().is_retryable(),
                },
                Err(error) => call.patience == Patience::Harmless && error.class().is_retryable(),
            };
            if !again || tried >= self.config.tries {
                return outcome;
            }
            self.pause(tried).await;
            tried += 1;
        }
    }

    fn request(&self, call: &Call<'_>) -> Request<'_> {
        let path = ["mgmt"].into_iter().chain(call.path.iter().copied());
        let mut request = self.api.request(call.method.clone(), path).longest_answer(LONGEST);
        if !call.query.is_empty() {
            request = request.query(call.query);
        }
        if let Some((name, value)) = call.header {
            request = request.header(name, value);
        }
        request = match call.body {
            Body::None => request,
            Body::Json(body) => request.json(body),
            Body::Bytes(bytes) => request.body("application/octet-stream", Zeroizing::new(bytes.to_vec())),
        };
        match (self.config.auth.method, self.token()) {
            (AuthMethod::Basic, _) => request.basic(&self.credentials.username, &self.credentials.password),
            (AuthMethod::Token, Some(token)) => request.secret_header(TOKEN, &token),
            (AuthMethod::Token, None) => request,
        }
    }

    /// One fresh login, the first time that `answer` is a `401`. That request was declined, so nothing has happened.
    async fn renew(&self, answer: &Answer) -> Result<()> {
        if self.config.auth.method == AuthMethod::Basic {
            return Err(answer.error(ErrorClass::Auth, "login_failed", "the unit refuses user name and password"));
        }
        if self.renewed.swap(true, Ordering::Relaxed) {
            let why = "the unit refuses the request even after a fresh login; does the user's role allow it?";
            return Err(answer.error(ErrorClass::Auth, "permission_denied", why));
        }
        self.log_in().await.map_err(|error| error.with_effect(Effect::None))
    }

    /// Reads something; `None` when it does not exist.
    ///
    /// # Errors
    /// As [`Session::send`] and [`refused`]; `IoTransient` `answer_invalid`.
    pub(super) async fn read<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Option<T>> {
        let answer = self.send(&Call { query, ..Call::new(Method::GET, path).harmless() }).await?;
        if is_absent(&answer) {
            return Ok(None);
        }
        if answer.is_success() { answer.json().map(Some) } else { Err(refused(&answer)) }
    }
}

/// A request, before it is known with which login it goes out.
#[derive(Debug)]
pub(super) struct Call<'r> {
    method: Method,
    /// After `/mgmt/`.
    path: &'r [&'r str],
    query: &'r [(&'r str, &'r str)],
    header: Option<(&'static str, &'r str)>,
    body: Body<'r>,
    patience: Patience,
}

#[derive(Debug)]
enum Body<'r> {
    None,
    Json(&'r Value),
    Bytes(&'r [u8]),
}

/// After which failures a request is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    None,
    /// When the unit says that it is busy, which means that it did nothing.
    Busy,
    /// After all that pass: it does no harm when the request is carried out twice.
    Harmless,
}

impl<'r> Call<'r> {
    /// A request that is sent again when the unit is busy.
    pub(super) fn new(method: Method, path: &'r [&'r str]) -> Self {
        Self { method, path, query: &[], header: None, body: Body::None, patience: Patience::Busy }
    }

    pub(super) fn header(self, name: &'static str, value: &'r str) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    pub(super) fn json(self, body: &'r Value) -> Self {
        Self { body: Body::Json(body), ..self }
    }

    pub(super) fn bytes(self, body: &'r [u8]) -> Self {
        Self { body: Body::Bytes(body), ..self }
    }

    /// Sent again after any failure that may pass.
    pub(super) fn harmless(self) -> Self {
        Self { patience: Patience::Harmless, ..self }
    }

    /// Never sent again.
    pub(super) fn once(self) -> Self {
        Self { patience: Patience::None, ..self }
    }
}

/// What was answered, if it is a success: JSON, or `null` for nothing at all. Anything else, such as the page of a proxy,
/// does not mean that the unit did something, whatever its status.
///
/// # Errors
/// As [`refused`]; `IoTransient` `answer_invalid`.
pub(super) fn accepted(answer: &Answer) -> Result<Value> {
    if !answer.is_success() {
        return Err(refused(answer));
    }
    if answer.body().is_empty() { Ok(Value::Null) } else { answer.json() }
}

/// What a unit answers that has other things to do.
const BUSY: u16 = 503;

/// A page of virtual servers with all their properties is long.
const LONGEST: usize = 32 * 1024 * 1024;

/// What goes into a login.
#[derive(Serialize)]
struct LoginBody<'a> {
    username: &'a str,
    password: &'a str,
    #[serde(rename = "loginProviderName")]
    provider: &'a str,
}

/// The error that an answer without success is: by its status, with F5's own code in the context if there is one. What
/// the unit said besides is not quoted.
///
/// `404` without such a code does not mean that an object does not exist: the REST daemon is starting, and will know the
/// path in a minute. That is `IoTransient` `api_unavailable`.
pub(super) fn refused(answer: &Answer) -> Error {
    if answer.status() == 404 && f5_code(answer).is_none() {
        let why = "the unit does not know this part of its API now; is its REST daemon starting, is it a BIG-IP?";
        return answer.error(ErrorClass::IoTransient, "api_unavailable", why);
    }
    with_code(answer.refused(), answer)
}

/// Whether the unit says that the object does not exist.
pub(super) fn is_absent(answer: &Answer) -> bool {
    answer.status() == 404 && f5_code(answer).is_some()
}

/// Adds F5's own code.
pub(super) fn with_code(error: Error, answer: &Answer) -> Error {
    match f5_code(answer) {
        Some(code) => error.with("f5_code", code),
        None => error,
    }
}

/// F5's own code, such as `01070317:3`, at the beginning of an error's message or after what a transaction puts there.
pub(super) fn f5_code(answer: &Answer) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        message: Option<String>,
    }
    let body: Body = serde_json::from_slice(answer.body()).ok()?;
    find_code(&Zeroizing::new(body.message?))
}

/// Eight hex digits, a colon, the number of a severity, a colon.
fn find_code(message: &str) -> Option<String> {
    let mut parts = message.splitn(4, ':');
    let mut first = parts.next()?;
    if first == "transaction failed" {
        first = parts.next()?;
    }
    let severity = parts.next()?;
    let hex = first.len() == 8 && first.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = severity.len() == 1 && severity.bytes().all(|byte| byte.is_ascii_digit());
    (hex && number).then(|| format!("{first}:{severity}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_and_nothing_else_is() {
        let found = |message| find_code(message);
        assert_eq!(found("01070317:3: profile x's key").as_deref(), Some("01070317:3"));
        assert_eq!(found("transaction failed:01b4002a:3: x").as_deref(), Some("01b4002a:3"));
        for other in ["", "Public URI path not registered", "secret:3: x", "0107031:3: x", "01070317:33: x", "a:b:c:d"]
        {
            assert_eq!(found(other), None, "{other}");
        }
    }
}
