//! The token: got, kept, renewed, replaced; shared by all that ask at the same time.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::secret::SecretString;
use certlib_core::{Context, Error, ErrorClass, Result};
use certlib_net::Answer;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Mutex;

use super::client::{Client, OPERATION, Place, refused};
use super::config::{VaultPkiCredentials, is_token};
use crate::triage;

/// How long a refused log-in is taken as final: Vault locks out who tries too often.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// How long to wait before asking a node again that has not caught up, in turn.
const CATCH_UP: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(450)];

/// A server, and the right to ask it.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    credentials: VaultPkiCredentials,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    held: Option<Arc<Held>>,
    refused_at: Option<Duration>,
}

/// A token.
#[derive(Debug)]
struct Held {
    token: SecretString,
    /// When to renew it, by the monotonic clock; `None`: never.
    renew_at: Option<Duration>,
}

#[derive(Serialize)]
struct Login<'a> {
    role_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_id: Option<&'a str>,
}

#[derive(Deserialize)]
struct Granted {
    auth: Grant,
}

#[derive(Deserialize)]
struct Grant {
    client_token: SecretString,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct Known {
    data: TokenInfo,
}

#[derive(Deserialize)]
struct TokenInfo {
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

impl Session {
    /// Nothing is sent before the first call.
    pub(super) fn new(client: Client, credentials: VaultPkiCredentials) -> Self {
        Self { client, credentials, slot: Mutex::default() }
    }

    /// Writes with a token, and gives the answer whatever its status. When Vault does not know the token any more, gets
    /// another one and asks once more; when a node has not caught up, asks again a little later.
    ///
    /// # Errors
    /// As [`Client::post`]; `Auth` `vault_login_refused`.
    pub(super) async fn post(&self, cx: &Context, path: &[&str], body: &(impl Serialize + Sync)) -> Result<Answer> {
        let send = async |held: &Held| self.client.post(cx, Place::Mount, path, body, Some(&held.token)).await;
        let held = self.token(cx).await?;
        let mut answer = send(&held).await?;
        if matches!(answer.status(), 401 | 403)
            && let Some(held) = self.replace(cx, &held).await?
        {
            answer = send(&held).await?;
        }
        for pause in CATCH_UP {
            if answer.status() != 412 {
                break;
            }
            cx.clock.sleep(pause).await;
            answer = send(&*self.token(cx).await?).await?;
        }
        Ok(answer)
    }

    async fn token(&self, cx: &Context) -> Result<Arc<Held>> {
        let mut slot = self.slot.lock().await;
        let held = match &slot.held {
            Some(held) => held.clone(),
            None => self.obtain(cx, &mut slot).await?,
        };
        if held.renew_at.is_none_or(|at| cx.clock.monotonic() < at) {
            return Ok(held);
        }
        let renewed = Arc::new(self.renew(cx, &held).await);
        slot.held = Some(renewed.clone());
        Ok(renewed)
    }

    /// Another token in place of one that Vault did not let through. `None`: there is no other one, or it was not the
    /// token's fault.
    async fn replace(&self, cx: &Context, stale: &Arc<Held>) -> Result<Option<Arc<Held>>> {
        let mut slot = self.slot.lock().await;
        if let Some(held) = slot.held.as_ref().filter(|held| !same(held, stale)) {
            return Ok(Some(held.clone()));
        }
        let is_given = matches!(self.credentials, VaultPkiCredentials::Token { .. });
        if is_given || self.look_up(cx, &stale.token).await?.is_some() {
            return Ok(None);
        }
        self.obtain(cx, &mut slot).await.map(Some)
    }

    async fn obtain(&self, cx: &Context, slot: &mut Slot) -> Result<Arc<Held>> {
        let held = match &self.credentials {
            VaultPkiCredentials::Token { token } => {
                let info = self.look_up(cx, token).await?;
                let renew_at = info.and_then(|info| renew_at(cx, info.ttl, info.renewable));
                Held { token: token.duplicate(), renew_at }
            }
            VaultPkiCredentials::AppRole { mount, role_id, secret_id } => {
                let login = Login { role_id, secret_id: secret_id.as_ref().map(|secret| secret.expose().as_str()) };
                self.log_in(cx, slot, mount, &login).await?
            }
        };
        let held = Arc::new(held);
        slot.held = Some(held.clone());
        Ok(held)
    }

    async fn log_in(&self, cx: &Context, slot: &mut Slot, mount: &str, login: &Login<'_>) -> Result<Held> {
        let now = cx.clock.monotonic();
        if slot.refused_at.is_some_and(|at| now.saturating_sub(at) < REFUSED_FOR) {
            return Err(login_refused().with("tried_again", "not yet"));
        }
        let answer = self.client.post(cx, Place::Login, &["auth", mount, "login"], login, None).await?;
        if !answer.is_success() {
            let error = refused(&answer);
            // A wrong role or secret is 400 there.
            if !matches!(error.class(), ErrorClass::Auth | ErrorClass::Validation) {
                return Err(error);
            }
            slot.refused_at = Some(now);
            return Err(login_refused().with("status", answer.status()));
        }
        slot.refused_at = None;
        let Grant { client_token, lease_duration, renewable } = triage::read::<Granted>(&answer)?.auth;
        if !is_token(client_token.expose()) {
            let why = "what Vault gave is no token; is there a proxy in between?";
            return Err(Error::permanent(OPERATION, "answer_invalid", why));
        }
        Ok(Held { renew_at: renew_at(cx, lease_duration, renewable), token: client_token })
    }

    /// The same token with more time, where Vault gives any. If not, it is used as long as it lasts.
    async fn renew(&self, cx: &Context, held: &Held) -> Held {
        let path = ["auth", "token", "renew-self"];
        let granted = match self.client.post(cx, Place::Login, &path, &json!({}), Some(&held.token)).await {
            Ok(answer) if answer.is_success() => triage::read::<Granted>(&answer),
            Ok(answer) => Err(refused(&answer)),
            Err(error) => Err(error),
        };
        let renew_at = match granted {
            Ok(granted) => renew_at(cx, granted.auth.lease_duration, granted.auth.renewable),
            Err(error) if error.class().is_retryable() => Some(cx.clock.monotonic() + REFUSED_FOR),
            Err(error) => {
                tracing::warn!(%error, "the token for Vault cannot be renewed");
                None
            }
        };
        Held { token: held.token.duplicate(), renew_at }
    }

    /// What Vault knows of a token; `None`: nothing.
    async fn look_up(&self, cx: &Context, token: &SecretString) -> Result<Option<TokenInfo>> {
        let answer = self.client.get(cx, Place::Login, &["auth", "token", "lookup-self"], token).await?;
        if answer.is_success() {
            return Ok(Some(triage::read::<Known>(&answer)?.data));
        }
        let error = refused(&answer);
        if error.class().is_retryable() { Err(error) } else { Ok(None) }
    }
}

/// When two thirds of the time are over.
fn renew_at(cx: &Context, seconds: u64, renewable: bool) -> Option<Duration> {
    let wait = Duration::from_secs(seconds.min(365 * 24 * 3600)) * 2 / 3;
    (renewable && seconds > 0).then(|| cx.clock.monotonic() + wait)
}

fn same(one: &Held, other: &Held) -> bool {
    one.token.expose() == other.token.expose()
}

fn login_refused() -> Error {
    let why = "Vault does not accept the role or its secret id; is it expired or used up?";
    Error::auth(OPERATION, "vault_login_refused", why).with_effect(certlib_core::Effect::None)
}
