//! Requests to Vault, and what their failures mean. Nothing that Vault says is quoted: some of its messages repeat what
//! they were given, secrets included.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use certlib_core::classify::{self, TlsFailure};
use certlib_core::clock::Clock;
use certlib_core::secret::SecretString;
use certlib_core::{Error, ErrorClass, Result};
use reqwest::header::{CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, redirect, retry};
use rustls::{AlertDescription, ClientConfig};
use rustls_platform_verifier::BuilderVerifierExt as _;
use serde::de::DeserializeOwned;
use url::Url;
use zeroize::Zeroizing;

use super::config::VaultTransitConfig;

/// The longest answer that is read, in bytes. That about a key grows with its versions.
const BODY_MAX: usize = 1024 * 1024;

/// A server.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    base: Url,
    namespace: Option<HeaderValue>,
    clock: Arc<dyn Clock>,
}

/// What to ask for.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) operation: &'static str,
    pub(super) path: Vec<String>,
    /// A write with this body; a read without one.
    pub(super) body: Option<Bytes>,
}

/// What was answered.
pub(super) struct Answer {
    operation: &'static str,
    pub(super) status: u16,
    retry_after: Option<Duration>,
    body: Zeroizing<Vec<u8>>,
}

impl Ask {
    /// Reads the path with these parts, which may have slashes.
    pub(super) fn read(operation: &'static str, path: &[&str]) -> Self {
        let parts = path.iter().flat_map(|part| part.split('/')).filter(|part| !part.is_empty());
        Self { operation, path: parts.map(str::to_owned).collect(), body: None }
    }

    /// Writes `body` to the path with these parts.
    pub(super) fn write(operation: &'static str, path: &[&str], body: Bytes) -> Self {
        Self { body: Some(body), ..Self::read(operation, path) }
    }
}

impl Http {
    pub(super) fn new(config: &VaultTransitConfig, base: Url, clock: Arc<dyn Clock>) -> Result<Self> {
        let unavailable = |error: &dyn std::fmt::Display| {
            Error::permanent("vault_transit.config", "client_failed", format!("no HTTP client can be made: {error}"))
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unavailable(&error))?;
        let builder = match config.roots()? {
            Some(roots) => builder.with_root_certificates(roots),
            None => builder.with_platform_verifier().map_err(|error| unavailable(&error))?,
        };
        let mut tls = builder.with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            .connect_timeout(Duration::from_millis(config.timeouts.connect_ms))
            .timeout(Duration::from_millis(config.timeouts.total_ms))
            .user_agent(concat!("certlib/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| unavailable(&error))?;
        Ok(Self { client, base, namespace: config.namespace_header()?, clock })
    }

    /// There and back. A redirect to another port of the same host, which is how a standby points to the active node
    /// there, is followed once; one to another host is not: the token is for this one.
    ///
    /// # Errors
    /// `Network`, `Auth` and `IoPermanent` for what happens to connections; `IoTransient` `vault_standby`.
    pub(super) async fn send(&self, ask: &Ask, token: Option<&SecretString>) -> Result<Answer> {
        let mut url = self.url(ask)?;
        let mut answer = self.exchange(ask, url.clone(), token).await?;
        if matches!(answer.status(), 307 | 308) {
            url = self.active_node(ask.operation, &url, &answer)?;
            answer = self.exchange(ask, url.clone(), token).await?;
            if matches!(answer.status(), 307 | 308) {
                return Err(standby(ask.operation, &url));
            }
        }
        answer.read(self).await
    }

    fn url(&self, ask: &Ask) -> Result<Url> {
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => _ = segments.pop_if_empty().push("v1").extend(&ask.path),
            Err(()) => {
                return Err(Error::validation(ask.operation, "config_invalid", "the address cannot have a path"));
            }
        }
        Ok(url)
    }

    fn active_node(&self, operation: &'static str, asked: &Url, answer: &Response) -> Result<Url> {
        let location = answer.response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let target = location.and_then(|location| asked.join(location).ok());
        let same = |target: &Url| target.scheme() == asked.scheme() && target.host() == asked.host();
        target.filter(same).ok_or_else(|| standby(operation, asked))
    }

    async fn exchange(&self, ask: &Ask, url: Url, token: Option<&SecretString>) -> Result<Response> {
        let method = if ask.body.is_some() { Method::POST } else { Method::GET };
        let mut request = self.client.request(method, url).header("x-vault-request", "true");
        if let Some(namespace) = &self.namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        if let Some(token) = token {
            let value = HeaderValue::from_str(token.expose());
            let mut value = value.map_err(|_| Error::auth(ask.operation, "token_invalid", "this cannot be a token"))?;
            value.set_sensitive(true);
            request = request.header("x-vault-token", value);
        }
        if let Some(body) = &ask.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        let response = request.send().await.map_err(|error| failed(ask.operation, error))?;
        Ok(Response { operation: ask.operation, response })
    }
}

struct Response {
    operation: &'static str,
    response: reqwest::Response,
}

impl Response {
    fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    async fn read(mut self, http: &Http) -> Result<Answer> {
        let operation = self.operation;
        let retry_after = self.response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|value| classify::retry_after(value, http.clock.now()));
        let expected = self.response.content_length().and_then(|length| usize::try_from(length).ok());
        // Sized at once: a buffer that grows leaves plaintext behind.
        let mut body = Zeroizing::new(Vec::with_capacity(expected.unwrap_or(4 * 1024).min(BODY_MAX)));
        while let Some(chunk) = self.response.chunk().await.map_err(|error| failed(operation, error))? {
            if body.len() + chunk.len() > BODY_MAX {
                return Err(Error::permanent(operation, "answer_too_long", "Vault's answer is too long")
                    .with("limit", BODY_MAX));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { operation, status: self.response.status().as_u16(), retry_after, body })
    }
}

impl Answer {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body, as JSON.
    ///
    /// # Errors
    /// `IoTransient` `answer_invalid`: the page of a proxy, most of the time. The answer is not quoted.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|_| invalid(self.operation))
    }

    /// The error that an answer without success is.
    pub(super) fn refused(&self) -> Error {
        let (class, code, message) = match self.status {
            401 | 403 => {
                (ErrorClass::Auth, "vault_forbidden", "Vault does not let this token do this, or does not know it")
            }
            404 => (ErrorClass::Validation, "kek_unknown", "Vault has no such key, or nothing at this mount"),
            412 => (ErrorClass::IoTransient, "vault_behind", "this node of Vault has not caught up"),
            429 => (ErrorClass::IoTransient, "vault_busy", "Vault limits the rate of requests"),
            472 | 473 => (ErrorClass::IoTransient, "vault_standby", "this node of Vault is a standby"),
            503 => (ErrorClass::IoTransient, "vault_sealed", "Vault is sealed or under maintenance"),
            status => (classify::http(status), "vault_refused", "Vault refuses"),
        };
        Error::new(class, self.operation, code, message).with("status", self.status).with_retry_after(self.retry_after)
    }
}

/// What an answer is that makes no sense.
pub(super) fn invalid(operation: &'static str) -> Error {
    Error::transient(operation, "answer_invalid", "the answer is none of Vault's; is there a proxy in between?")
}

fn standby(operation: &'static str, url: &Url) -> Error {
    let why = "this node of Vault is a standby and points to another host, which is not followed: \
               use the address of the active node, or one that always leads to it";
    Error::transient(operation, "vault_standby", why).with("host", url.host_str().unwrap_or_default())
}

fn failed(operation: &'static str, error: reqwest::Error) -> Error {
    let (timeout, connect) = (error.is_timeout(), error.is_connect());
    let error = error.without_url();
    let (class, code, message) = match tls_failure(&error) {
        Some(failure) => (classify::tls(failure), "tls_failed", "no TLS session with Vault"),
        None if timeout => (ErrorClass::Network, "timeout", "Vault did not answer in time"),
        None if connect => (ErrorClass::Network, "connect_failed", "Vault cannot be reached"),
        None => (ErrorClass::Network, "connection_lost", "the connection to Vault ended before its answer"),
    };
    Error::new(class, operation, code, message).with_source(error)
}

/// What the TLS handshake failed on, if it did.
fn tls_failure(error: &reqwest::Error) -> Option<TlsFailure> {
    use AlertDescription as A;
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(match tls {
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                    TlsFailure::PeerUntrusted
                }
                rustls::Error::AlertReceived(A::InternalError | A::UserCanceled | A::CloseNotify) => {
                    TlsFailure::Interrupted
                }
                rustls::Error::AlertReceived(A::CertificateRequired | A::BadCertificate | A::AccessDenied) => {
                    TlsFailure::ClientRefused
                }
                _ => TlsFailure::NoCommonGround,
            });
        }
        // `source` of an I/O error skips what it wraps.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
