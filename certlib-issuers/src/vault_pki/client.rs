//! Requests to Vault, and what its refusals mean. Nothing that Vault says is quoted: some of its messages repeat what they
//! were given, secrets included.

use std::sync::Arc;

use certlib_core::secret::SecretString;
use certlib_core::{Context, Error, ErrorClass, Result};
use certlib_net::{Answer, Api, Request, SystemLookup};
use reqwest::Method;
use serde::Serialize;

use super::config::VaultPkiConfig;

pub(super) const OPERATION: &str = "vault_pki";

/// A server.
#[derive(Debug)]
pub(super) struct Client {
    api: Api,
    namespace: Option<String>,
    login_namespace: Option<String>,
}

/// Which namespace a path is in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// That of the mount.
    Mount,
    /// That of the login and its token.
    Login,
}

impl Client {
    /// # Errors
    /// As [`Api::new`].
    pub(super) fn new(config: &VaultPkiConfig) -> Result<Self> {
        let api = Api::new(OPERATION, &config.url, &config.connection, None, Arc::new(SystemLookup))?;
        let login_namespace = config.login_namespace.clone().or_else(|| config.namespace.clone());
        Ok(Self { api, namespace: config.namespace.clone(), login_namespace })
    }

    /// Reads what is at these parts of a path, which may have slashes; whatever the answer.
    ///
    /// # Errors
    /// As [`Request::send`]; `IoTransient` `vault_standby`.
    pub(super) async fn get(&self, cx: &Context, place: Place, path: &[&str], token: &SecretString) -> Result<Answer> {
        send(cx, self.request(Method::GET, place, path).secret_header("x-vault-token", token)).await
    }

    /// Writes; otherwise as [`get`](Self::get).
    pub(super) async fn post(
        &self,
        cx: &Context,
        place: Place,
        path: &[&str],
        body: &impl Serialize,
        token: Option<&SecretString>,
    ) -> Result<Answer> {
        let request = self.request(Method::POST, place, path);
        let request = match token {
            Some(token) => request.secret_header("x-vault-token", token),
            None => request,
        };
        send(cx, request.json(body)).await
    }

    fn request(&self, method: Method, place: Place, path: &[&str]) -> Request<'_> {
        let parts = path.iter().flat_map(|part| part.split('/')).filter(|part| !part.is_empty());
        let request = self.api.request(method, std::iter::once("v1").chain(parts)).follow_on_host();
        let namespace = match place {
            Place::Mount => &self.namespace,
            Place::Login => &self.login_namespace,
        };
        // Some proxies in front of Vault ask for the first one.
        let request = request.header("x-vault-request", "true");
        match namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
            Some(namespace) => request.header("x-vault-namespace", namespace),
            None => request,
        }
    }
}

async fn send(cx: &Context, request: Request<'_>) -> Result<Answer> {
    request.send(cx).await.map_err(|error| if error.code() == "redirect_refused" { standby() } else { error })
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

fn standby() -> Error {
    let why = "this node of Vault is a standby and points to another host, or points in a circle, which is not followed: \
               use the address of the active node, or one that always leads to it";
    Error::transient(OPERATION, "vault_standby", why).with_effect(certlib_core::Effect::None)
}
