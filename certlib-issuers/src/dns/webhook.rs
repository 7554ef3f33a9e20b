//! A service of one's own that changes the DNS on request.

use async_trait::async_trait;
use certlib_core::secret::SecretString;
use certlib_core::{Context, Error, Result};
use serde::Deserialize;
use serde_json::json;

use super::service::{Hosted, Nothing, Seat, Service, bearer, send};
use super::{DnsProvider, absolute, text};

/// Credentials of provider `webhook`, which takes `api_url`, which has to be there, and `connection` of
/// [`ServiceConfig`](super::ServiceConfig). Either a token or a user name and a password, or nothing.
///
/// ```json
/// { "kind": "webhook", "api_url": "https://dns-changes.example.com/acme" }
/// ```
///
/// Receivers of lego's `httpreq` understand it: `POST` of `{"fqdn": "_acme-challenge.example.com.", "value": "..."}` to
/// `/present` and `/cleanup` below the URL. The receiver has to keep this module's contract: a value is put beside others
/// at that name, and only that value is taken away; both may be asked for more than once. Any 2xx is a success; 401 and
/// 403 mean that the credentials are wrong, other 4xx that asking again is of no use, and 429 and 5xx that it is,
/// after `Retry-After`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookCredentials {
    /// A token for `Authorization: Bearer`.
    #[serde(default)]
    pub token: Option<SecretString>,
    /// A user name for HTTP Basic.
    #[serde(default)]
    pub username: Option<String>,
    /// The password that goes with it.
    #[serde(default)]
    pub password: Option<SecretString>,
}

#[derive(Debug)]
pub(super) struct Webhook {
    service: Service,
    login: Login,
}

#[derive(Debug)]
enum Login {
    None,
    Bearer(SecretString),
    Basic(String, SecretString),
}

impl Hosted for Webhook {
    const KIND: &'static str = "webhook";
    const OPERATION: &'static str = "dns.webhook";
    const TTL: u32 = 0;
    type Config = Nothing;
    type Credentials = WebhookCredentials;

    fn api_url(_: &Nothing) -> Option<String> {
        None
    }

    fn connect(seat: Seat<'_>, _: Nothing, credentials: WebhookCredentials) -> Result<Self> {
        let login = match (credentials.token, credentials.username, credentials.password) {
            (None, None, None) => Login::None,
            (Some(token), None, None) => Login::Bearer(bearer(&token)),
            (None, Some(username), Some(password)) => Login::Basic(username, password),
            _ => {
                let why = "either a token, or a username and a password";
                return Err(Error::validation(Self::OPERATION, "credentials_invalid", why));
            }
        };
        Ok(Self { service: seat.service, login })
    }
}

impl Webhook {
    async fn tell(&self, cx: &Context, action: &str, fqdn: &str, value: &str) -> Result<()> {
        let name = text(&absolute(fqdn)?.to_lowercase());
        cx.check_cancelled(Self::OPERATION)?;
        let request = self.service.api.post([action]);
        let request = match &self.login {
            Login::None => request,
            Login::Bearer(authorization) => request.secret_header("authorization", authorization),
            Login::Basic(username, password) => request.basic(username, password),
        };
        send(cx, request.json(&json!({ "fqdn": format!("{name}."), "value": value }))).await.map(drop)
    }
}

#[async_trait]
impl DnsProvider for Webhook {
    async fn add_txt(&self, cx: &Context, fqdn: &str, value: &str) -> Result<()> {
        self.tell(cx, "present", fqdn, value).await
    }

    async fn remove_txt(&self, cx: &Context, fqdn: &str, value: &str) -> Result<()> {
        self.tell(cx, "cleanup", fqdn, value).await
    }
}
