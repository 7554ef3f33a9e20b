//! Requests to the services, with one login.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use certlib_core::error::ErrorClass;
use certlib_core::{Context, Error, Result};
use certlib_net::{Answer, Api, ClientIdentity, Connection, Request, SystemLookup};
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::OPERATION;
use super::config::{AdcsConfig, Login};
use super::soap::{self, Content};

/// What the web pages take for a browser. To others they serve certificates as something else.
const BROWSER: &str = "Mozilla/5.0 (compatible; certlib)";

/// The services of one CA. Connections are kept for each of their URLs.
#[derive(Debug)]
pub(super) struct Client {
    connection: Connection,
    login: Login,
    /// Whether names and passwords of messages go into HTTP instead.
    http_basic: bool,
    apis: Mutex<BTreeMap<String, Api>>,
}

impl Client {
    /// # Errors
    /// As [`Api::new`].
    pub(super) fn new(config: &AdcsConfig, login: Login) -> Result<Self> {
        let (connection, http_basic) = (config.connection.clone(), config.http_basic);
        let client = Self { connection, login, http_basic, apis: Mutex::default() };
        for url in [&config.cep_url, &config.ces_url, &config.certsrv_url].into_iter().flatten() {
            client.api(url)?;
        }
        Ok(client)
    }

    /// How we log in, as policies count it (MS-XCEP, `clientAuthentication`).
    pub(super) fn authentication(&self) -> u32 {
        match &self.login {
            // There is no number for Basic; it is enabled at services made for Kerberos.
            Login::Password { .. } if self.http_basic => 2,
            Login::Password { .. } => 4,
            Login::Certificate(_) => 8,
        }
    }

    /// Sends a message to the service at `url`, and gives the answer with what it says.
    pub(super) async fn ask(&self, cx: &Context, url: &str, action: &str, body: &str) -> Result<(Answer, Content)> {
        let security = match &self.login {
            Login::Password { username, password } if !self.http_basic => {
                Some(soap::username_token(username, password, cx.clock.now())?)
            }
            _ => None,
        };
        let api = self.api(url)?;
        let security = security.as_ref().map(|security| security.as_str());
        let mut message = soap::envelope(api.base().as_url().as_str(), action, security, body);
        let message = Zeroizing::new(std::mem::take(&mut *message).into_bytes());
        let mut request = api.post([]);
        if self.http_basic {
            request = self.signed(request);
        }
        let request = request.body(soap::CONTENT_TYPE, message);
        let answer = request.send(cx).await?;
        let content = Content::read(answer.body());
        Ok((answer, content))
    }

    /// Posts a form to a page below `url`.
    pub(super) async fn post(&self, cx: &Context, url: &str, page: &str, form: &[(&str, &str)]) -> Result<Answer> {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let api = self.api(url)?;
        let request = self.signed(api.post([page])).header("user-agent", BROWSER);
        request.body("application/x-www-form-urlencoded", Zeroizing::new(form.into_bytes())).send(cx).await
    }

    /// Gets a page below `url`.
    pub(super) async fn get(&self, cx: &Context, url: &str, page: &str, query: &[(&str, &str)]) -> Result<Answer> {
        let api = self.api(url)?;
        self.signed(api.get([page]).query(query)).header("user-agent", BROWSER).send(cx).await
    }

    fn signed<'a>(&self, request: Request<'a>) -> Request<'a> {
        match &self.login {
            Login::Password { username, password } => request.basic(username, password),
            // TLS has shown it.
            Login::Certificate(_) => request,
        }
    }

    fn api(&self, url: &str) -> Result<Api> {
        let mut apis = self.apis.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(api) = apis.get(url) {
            return Ok(api.clone());
        }
        let identity: Option<&ClientIdentity> = match &self.login {
            Login::Certificate(identity) => Some(identity),
            Login::Password { .. } => None,
        };
        let api = Api::new(OPERATION, url, &self.connection, identity, Arc::new(SystemLookup))?;
        apis.insert(url.to_owned(), api.clone());
        Ok(api)
    }
}

/// The error of an answer that is not what this service says: by its status, or if that says success for good.
pub(super) fn no_answer(answer: &Answer) -> Error {
    if answer.is_success() {
        let why = "the answer is none of AD CS; is there a proxy in between?";
        return answer.error(ErrorClass::IoPermanent, "answer_invalid", why);
    }
    answer.refused()
}
