//! The token: got, kept, renewed, replaced.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::Clock;
use certlib_core::secret::SecretString;
use certlib_core::{Error, ErrorClass, Result};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::config::{VaultAuth, is_token};
use super::http::{Answer, Ask, Http, invalid};
use super::wire::{self, Granted, Reply, TokenInfo};

const LOGIN: &str = "vault_transit.login";

/// How long a refused log-in is taken as final: Vault locks out who tries too often.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// How long to wait before asking a node again that has not caught up, in turn.
const CATCH_UP: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(450)];

/// A server, and the right to ask it.
#[derive(Debug)]
pub(super) struct Session {
    http: Http,
    auth: VaultAuth,
    clock: Arc<dyn Clock>,
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

impl Session {
    pub(super) fn new(http: Http, auth: VaultAuth, clock: Arc<dyn Clock>) -> Self {
        Self { http, auth, clock, slot: Mutex::default() }
    }

    /// Asks with a token. When Vault does not know it any more, gets another one and asks once more; when a node has not
    /// caught up, asks again a little later.
    ///
    /// # Errors
    /// As [`Http::send`]; `Auth` `vault_login_refused`, `token_invalid`. What Vault refuses is in the answer.
    pub(super) async fn call(&self, ask: &Ask) -> Result<Answer> {
        let held = self.token().await?;
        let mut answer = self.http.send(ask, Some(&held.token)).await?;
        if answer.status == 403
            && let Some(held) = self.replace(&held).await?
        {
            answer = self.http.send(ask, Some(&held.token)).await?;
        }
        for pause in CATCH_UP {
            if answer.status != 412 {
                break;
            }
            self.clock.sleep(pause).await;
            answer = self.http.send(ask, Some(&self.token().await?.token)).await?;
        }
        Ok(answer)
    }

    async fn token(&self) -> Result<Arc<Held>> {
        let mut slot = self.slot.lock().await;
        let held = match &slot.held {
            Some(held) => held.clone(),
            None => self.obtain(&mut slot).await?,
        };
        if held.renew_at.is_none_or(|at| self.clock.monotonic() < at) {
            return Ok(held);
        }
        let renewed = Arc::new(self.renew(&held).await);
        slot.held = Some(renewed.clone());
        Ok(renewed)
    }

    /// Another token in place of one that Vault did not let through. `None`: there is no other one, or it was not the
    /// token's fault.
    async fn replace(&self, stale: &Arc<Held>) -> Result<Option<Arc<Held>>> {
        let mut slot = self.slot.lock().await;
        if let Some(held) = slot.held.as_ref().filter(|held| !Arc::ptr_eq(held, stale) && !same(held, stale)) {
            return Ok(Some(held.clone()));
        }
        if matches!(self.auth, VaultAuth::Token { .. }) || self.look_up(&stale.token).await?.is_some() {
            return Ok(None);
        }
        let held = self.obtain(&mut slot).await?;
        Ok(Some(held).filter(|held| !same(held, stale)))
    }

    async fn obtain(&self, slot: &mut Slot) -> Result<Arc<Held>> {
        let held = match &self.auth {
            VaultAuth::Token { token } => {
                let info = self.look_up(token).await?;
                let renew_at = info.and_then(|info| self.renew_at(info.ttl, info.renewable));
                Held { token: token.duplicate(), renew_at }
            }
            VaultAuth::TokenFile { path } => {
                let text = tokio::fs::read(path).await.map(Zeroizing::new).map_err(|error| {
                    let class = certlib_core::classify::io(error.kind());
                    Error::new(class, LOGIN, "token_unreadable", "the file with the token cannot be read")
                        .with("path", path.display())
                        .with_source(error)
                })?;
                let token = str::from_utf8(&text).map(str::trim).ok().filter(|token| is_token(token));
                let token = token.ok_or_else(|| {
                    Error::auth(LOGIN, "token_invalid", "there is no token in the file").with("path", path.display())
                })?;
                Held { token: SecretString::new(token.to_owned()), renew_at: None }
            }
            VaultAuth::AppRole { mount, role_id, secret_id } => {
                let now = self.clock.monotonic();
                if slot.refused_at.is_some_and(|at| now.saturating_sub(at) < REFUSED_FOR) {
                    return Err(login_refused().with("tried_again", "not yet"));
                }
                let body = wire::login(role_id, secret_id.as_ref())?;
                let answer = self.http.send(&Ask::write(LOGIN, &["auth", mount, "login"], body), None).await?;
                if !answer.is_success() {
                    let error = answer.refused();
                    // A wrong role or secret is 400 there.
                    let wrong = matches!(error.class(), ErrorClass::Auth | ErrorClass::Validation);
                    if !wrong {
                        return Err(error);
                    }
                    slot.refused_at = Some(now);
                    return Err(login_refused().with("status", answer.status));
                }
                slot.refused_at = None;
                self.held(answer.json()?)?
            }
        };
        let held = Arc::new(held);
        slot.held = Some(held.clone());
        Ok(held)
    }

    fn held(&self, granted: Granted) -> Result<Held> {
        let auth = granted.auth;
        if !is_token(auth.client_token.expose()) {
            return Err(invalid(LOGIN));
        }
        Ok(Held { renew_at: self.renew_at(auth.lease_duration, auth.renewable), token: auth.client_token })
    }

    /// When two thirds of the time are over.
    fn renew_at(&self, seconds: u64, renewable: bool) -> Option<Duration> {
        let wait = Duration::from_secs(seconds.min(365 * 24 * 3600)) * 2 / 3;
        (renewable && seconds > 0).then(|| self.clock.monotonic() + wait)
    }

    /// The same token with more time, where Vault gives any. If not, it is used as long as it lasts.
    async fn renew(&self, held: &Held) -> Held {
        let ask = Ask::write("vault_transit.renew", &["auth", "token", "renew-self"], wire::empty());
        let granted = match self.http.send(&ask, Some(&held.token)).await {
            Ok(answer) if answer.is_success() => answer.json::<Granted>(),
            Ok(answer) => Err(answer.refused()),
            Err(error) => Err(error),
        };
        let renew_at = match granted {
            Ok(granted) => self.renew_at(granted.auth.lease_duration, granted.auth.renewable),
            Err(error) if error.class().is_retryable() => Some(self.clock.monotonic() + REFUSED_FOR),
            Err(error) => {
                tracing::warn!(%error, "the token for Vault cannot be renewed");
                None
            }
        };
        Held { token: held.token.duplicate(), renew_at }
    }

    /// What Vault knows of a token; `None`: nothing.
    async fn look_up(&self, token: &SecretString) -> Result<Option<TokenInfo>> {
        let ask = Ask::read("vault_transit.look_up_token", &["auth", "token", "lookup-self"]);
        let answer = self.http.send(&ask, Some(token)).await?;
        match answer.status {
            200 => Ok(Some(answer.json::<Reply<TokenInfo>>()?.data)),
            status if answer.refused().class().is_retryable() => Err(answer.refused().with("status", status)),
            _ => Ok(None),
        }
    }
}

fn same(one: &Held, other: &Held) -> bool {
    one.token.expose() == other.token.expose()
}

fn login_refused() -> Error {
    Error::auth(LOGIN, "vault_login_refused", "Vault does not accept the role or its secret id; is it used up?")
}
