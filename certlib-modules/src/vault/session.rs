//! Requests with a login, and what their failures mean. Nothing that Vault says is quoted: some of its messages repeat
//! what they were given, secrets included.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use certlib_core::Context;
use certlib_core::error::{Error, ErrorClass, Result};
use certlib_core::secret::SecretString;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::OPERATION;
use super::auth::{VaultCredentials, is_token};
use super::config::{VaultConfig, VaultLocation};
use crate::net::{Answer, Api, Lookup};

/// How long to wait before asking a node again that has not caught up, in turn.
const CATCH_UP: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(450)];

/// The longest list that is read, in bytes: of all certificates of a mount.
const LONGEST_LIST: usize = 32 * 1024 * 1024;

/// What to ask for.
pub(super) struct Ask {
    method: Method,
    path: Vec<String>,
    query: Option<(&'static str, String)>,
    body: Option<Zeroizing<Vec<u8>>>,
}

impl Ask {
    fn new(method: Method, path: &[&str]) -> Self {
        let parts = path.iter().flat_map(|part| part.split('/')).filter(|part| !part.is_empty());
        Self { method, path: parts.map(str::to_owned).collect(), query: None, body: None }
    }

    /// Reads the path with these parts, which may have slashes.
    pub(super) fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path)
    }

    /// Lists what is at a path.
    pub(super) fn list(path: &[&str]) -> Self {
        Self { query: Some(("list", "true".to_owned())), ..Self::get(path) }
    }

    /// Reads one version of what is at a path.
    pub(super) fn get_version(path: &[&str], version: u64) -> Self {
        Self { query: Some(("version", version.to_string())), ..Self::get(path) }
    }

    pub(super) fn delete(path: &[&str]) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// Writes JSON.
    pub(super) fn post(path: &[&str], body: &impl Serialize) -> Result<Self> {
        let invalid = |_| Error::validation(OPERATION, "body_invalid", "a request cannot be written as JSON");
        serde_json::to_vec(body).map(|body| Self::post_bytes(path, Zeroizing::new(body))).map_err(invalid)
    }

    pub(super) fn post_bytes(path: &[&str], body: Zeroizing<Vec<u8>>) -> Self {
        Self { body: Some(body), ..Self::new(Method::POST, path) }
    }
}

/// The envelope of answers.
#[derive(Debug, Deserialize)]
pub(super) struct Reply<T> {
    pub(super) data: T,
}

#[derive(Deserialize)]
struct Granted {
    auth: Grant,
}

#[derive(Deserialize)]
struct Grant {
    client_token: SecretString,
}

/// A server, and the right to ask it, for one operation.
pub(super) struct Session<'a> {
    api: Api,
    namespace: Option<&'a str>,
    login_namespace: Option<&'a str>,
    credentials: &'a VaultCredentials,
    login: Mutex<Login>,
}

/// The token in use.
#[derive(Default)]
struct Login {
    token: Option<SecretString>,
    /// Whether it was replaced, which is done once.
    fresh: bool,
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("api", &self.api).field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl<'a> Session<'a> {
    /// Nothing is sent before the first call.
    ///
    /// # Errors
    /// As [`Api::new`].
    pub(super) fn new(
        location: &'a VaultLocation,
        config: &'a VaultConfig,
        credentials: &'a VaultCredentials,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self> {
        let namespace = location.namespace.as_deref();
        Ok(Self {
            api: Api::new(OPERATION, &location.url, &config.connection, credentials.identity(), lookup)?,
            namespace,
            login_namespace: config.login_namespace.as_deref().or(namespace),
            credentials,
            login: Mutex::default(),
        })
    }

    /// Asks with a token, and gives the answer whatever its status. When Vault does not know the token any more, logs in
    /// again, once in a session; when a node has not caught up, asks again a little later.
    ///
    /// # Errors
    /// As [`Request::send`](crate::net::Request::send); `Auth` `vault_login_refused`; `IoTransient` `vault_standby`,
    /// `vault_behind`.
    pub(super) async fn call(&self, cx: &Context, ask: &Ask) -> Result<Answer> {
        let mut answer = self.send(cx, ask, self.namespace, Some(&self.token(cx).await?)).await?;
        if matches!(answer.status(), 401 | 403)
            && let Some(token) = self.replaced(cx).await?
        {
            answer = self.send(cx, ask, self.namespace, Some(&token)).await?;
        }
        for pause in CATCH_UP {
            if answer.status() != 412 {
                break;
            }
            cx.clock.sleep(pause).await;
            answer = self.send(cx, ask, self.namespace, Some(&self.token(cx).await?)).await?;
        }
        Ok(answer)
    }

    /// [`call`](Self::call), where only success will do.
    ///
    /// # Errors
    /// Those of `call`, and [`refused`].
    pub(super) async fn ask(&self, cx: &Context, ask: &Ask) -> Result<Answer> {
        let answer = self.call(cx, ask).await?;
        if answer.is_success() { Ok(answer) } else { Err(refused(&answer)) }
    }

    /// Gives the token back, if it was got by logging in. Whether that works does not matter: tokens end by themselves.
    pub(super) async fn close(self, cx: &Context) {
        let token = self.login.lock().await.token.take();
        if let Some(token) = token.filter(|_| self.credentials.token().is_none()) {
            let ask = Ask::post_bytes(&["auth/token/revoke-self"], Zeroizing::new(b"{}".to_vec()));
            if let Err(error) = self.send(cx, &ask, self.login_namespace, Some(&token)).await {
                tracing::debug!(%error, "a token was not given back");
            }
        }
    }

    async fn token(&self, cx: &Context) -> Result<SecretString> {
        let mut login = self.login.lock().await;
        if let Some(token) = &login.token {
            return Ok(token.duplicate());
        }
        let token = self.obtain(cx).await?;
        login.token = Some(token.duplicate());
        Ok(token)
    }

    /// Another token in place of one that Vault did not let through. `None`: there is no other one, or it was not the
    /// token's fault.
    async fn replaced(&self, cx: &Context) -> Result<Option<SecretString>> {
        let mut login = self.login.lock().await;
        if self.credentials.token().is_some() || login.fresh {
            return Ok(None);
        }
        let ask = Ask::get(&["auth/token/lookup-self"]);
        if self.send(cx, &ask, self.login_namespace, login.token.as_ref()).await?.is_success() {
            return Ok(None);
        }
        let token = self.obtain(cx).await?;
        *login = Login { token: Some(token.duplicate()), fresh: true };
        Ok(Some(token))
    }

    async fn obtain(&self, cx: &Context) -> Result<SecretString> {
        let ask = match (self.credentials.token(), self.credentials.login().await?) {
            (Some(token), _) => return Ok(token.duplicate()),
            (None, Some(ask)) => ask,
            (None, None) => return Err(login_refused()),
        };
        let answer = self.send(cx, &ask, self.login_namespace, None).await?;
        if !answer.is_success() {
            let error = refused(&answer);
            // A wrong role or secret is 400 there.
            let wrong = matches!(error.class(), ErrorClass::Auth | ErrorClass::Validation);
            return Err(if wrong { login_refused().with("status", answer.status()) } else { error });
        }
        let granted: Granted = answer.json()?;
        let token = granted.auth.client_token;
        if is_token(token.expose()) { Ok(token) } else { Err(nonsense()) }
    }

    async fn send(
        &self,
        cx: &Context,
        ask: &Ask,
        namespace: Option<&str>,
        token: Option<&SecretString>,
    ) -> Result<Answer> {
        let path = std::iter::once("v1").chain(ask.path.iter().map(String::as_str));
        let mut request = self.api.request(ask.method.clone(), path).follow_on_host();
        if let Some((name, value)) = &ask.query {
            request = request.query(&[(name, value)]).longest_answer(LONGEST_LIST);
        }
        request = request.header("x-vault-request", "true");
        if let Some(namespace) = namespace.filter(|name| !name.is_empty()) {
            request = request.header("x-vault-namespace", namespace);
        }
        if let Some(token) = token {
            request = request.secret_header("x-vault-token", token);
        }
        if let Some(body) = &ask.body {
            request = request.body("application/json", body.clone());
        }
        request.send(cx).await.map_err(|error| if error.code() == "redirect_refused" { standby() } else { error })
    }
}

/// The error that an answer without success is.
pub(super) fn refused(answer: &Answer) -> Error {
    let (class, code, message) = match answer.status() {
        401 | 403 => (ErrorClass::Auth, "vault_forbidden", "Vault does not let this login do this; see its policies"),
        412 => (ErrorClass::IoTransient, "vault_behind", "this node of Vault has not caught up"),
        429 => (ErrorClass::IoTransient, "vault_busy", "Vault limits the rate of requests"),
        472 | 473 => (ErrorClass::IoTransient, "vault_standby", "this node of Vault is a standby"),
        503 => (ErrorClass::IoTransient, "vault_sealed", "Vault is sealed or under maintenance"),
        _ => return answer.refused(),
    };
    answer.error(class, code, message)
}

/// What an answer is that makes no sense.
pub(super) fn nonsense() -> Error {
    let why = "the answer is none of Vault's; is there a proxy in between?";
    Error::transient(OPERATION, "answer_invalid", why)
}

fn standby() -> Error {
    let why = "this node of Vault is a standby and points to another host, or points in a circle, which is not followed: \
               use the address of the active node, or one that always leads to it";
    Error::transient(OPERATION, "vault_standby", why)
}

fn login_refused() -> Error {
    let why = "Vault does not accept the login; is the role right, and what it was given neither expired nor used up?";
    Error::auth(OPERATION, "vault_login_refused", why)
}
