//! The HTTP client under instant-acme: TLS, nonces, limits, and nothing about what is asked.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use certlib_core::{Context, Effect, Error, Result, classify};
use http::header::{ACCEPT, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls_platform_verifier::BuilderVerifierExt as _;
use serde::de::DeserializeOwned;

use super::error::{self, BAD_NONCE};

const REQUEST_LIMIT: Duration = Duration::from_secs(30);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The longest answer read, in bytes after decompression. Chains and directories are a fraction of it.
const BODY_MAX: usize = 1024 * 1024;
/// How often a request is signed anew because the CA does not like its nonce.
const NONCE_RETRIES: usize = 10;
const NONCES_MAX: usize = 16;
const REPLAY_NONCE: &str = "replay-nonce";
const ACCEPTED: &str = "application/json, application/pem-certificate-chain, application/problem+json";
const OUR_NAME: &str = concat!("certlib/", env!("CARGO_PKG_VERSION"));

tokio::task_local! {
    /// The call that a request belongs to: instant-acme has no way to pass it on.
    static CALL: Call;
}

/// One request by way of instant-acme, made until it has a result.
#[derive(Clone)]
pub(super) struct Call {
    cx: Context,
    operation: &'static str,
    attempts: usize,
    answer: Arc<Mutex<Answer>>,
}

/// What instant-acme keeps to itself of the last answer in a call. Empty when that was no success.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    operation: &'static str,
    body: Bytes,
    pub(super) location: Option<String>,
    pub(super) retry_after: Option<Duration>,
}

/// Makes a [`Call`] of the future in the third place, which is made anew for every attempt. Gives its result and the
/// [`Answer`].
macro_rules! call {
    ($cx:expr, $operation:expr, $request:expr) => {{
        let mut call = $crate::acme::client::Call::new($cx, $operation);
        loop {
            if let Some(result) = call.attempt($request).await {
                break (result, call.answer());
            }
        }
    }};
}
pub(super) use call;

impl Call {
    pub(super) fn new(cx: &Context, operation: &'static str) -> Self {
        Self { cx: cx.clone(), operation, attempts: 0, answer: Arc::default() }
    }

    /// The result; none yet if the CA did not like the nonce, for then it did not process the request either.
    ///
    /// # Errors
    /// Those of [`error::from_acme`]; `IoTransient` `bad_nonce` when the CA likes no nonce.
    pub(super) async fn attempt<T>(
        &mut self,
        request: impl Future<Output = Result<T, instant_acme::Error>>,
    ) -> Option<Result<T>> {
        let operation = self.operation;
        if let Err(error) = self.cx.check_cancelled(operation) {
            return Some(Err(error));
        }
        match CALL.scope(self.clone(), request).await {
            Err(instant_acme::Error::Api(problem)) if error::name(&problem) == BAD_NONCE => {
                self.attempts += 1;
                (self.attempts > NONCE_RETRIES).then(|| {
                    Err(Error::transient(
                        operation,
                        "bad_nonce",
                        "the CA accepts no nonce, not even those it just gave",
                    ))
                })
            }
            result => Some(result.map_err(|error| error::from_acme(operation, error))),
        }
    }

    pub(super) fn answer(&self) -> Answer {
        lock(&self.answer).clone()
    }
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// `IoTransient` `answer_invalid`: a page of a proxy, most of the time.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| error::from_acme(self.operation, error.into()))
    }
}

/// A CA as a peer.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    /// Every nonce the CA gives. instant-acme would fetch one per call; so it is shown one only when it asks for one.
    nonces: Arc<Mutex<Vec<String>>>,
}

impl Client {
    /// A client that trusts the roots of the platform, or exactly those in `roots_pem`.
    pub(super) fn new(roots_pem: Option<&str>) -> Result<Self> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls_config(roots_pem)?)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .timeout(REQUEST_LIMIT)
            .user_agent(OUR_NAME)
            .build()
            .map_err(|error| {
                Error::permanent("acme.client", "client_failed", "the HTTP client could not be made").with_source(error)
            })?;
        Ok(Self { http, nonces: Arc::default() })
    }

    /// A nonce: one that is left over, or a new one from `url`.
    pub(super) async fn nonce(&self, url: &str) -> Result<String, instant_acme::Error> {
        let response = self.send(Request::head(url).body(BodyWrapper::default())?).await?;
        text(response.headers(), REPLAY_NONCE).ok_or(instant_acme::Error::Str("a nonce"))
    }

    /// Sends a request that belongs to a [`Call`].
    ///
    /// # Errors
    /// Ours, wrapped, for whatever is no success; a nonce that the CA does not like is left to the call.
    pub(super) async fn send(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Bytes>, instant_acme::Error> {
        let call = CALL.try_with(Call::clone).map_err(|error| instant_acme::Error::Other(error.into()))?;
        *lock(&call.answer) = Answer::default();
        let (asks_for_nonce, changes) = (request.method() == Method::HEAD, request.method() == Method::POST);
        if asks_for_nonce && let Some(nonce) = lock(&self.nonces).pop() {
            return Ok(Response::builder().header(REPLAY_NONCE, nonce).body(Bytes::new())?);
        }
        let operation = if asks_for_nonce { "acme.new_nonce" } else { call.operation };
        let mut response = self
            .exchange(operation, request)
            .await
            .map_err(|error| ours(if changes { error.with_effect(Effect::Possible) } else { error }))?;

        let status = response.status();
        let headers = response.headers_mut();
        let location = text(headers, LOCATION.as_str());
        let retry_after = text(headers, RETRY_AFTER.as_str());
        let retry_after = retry_after.and_then(|value| classify::retry_after(&value, call.cx.clock.now()));
        let nonce = headers.remove(REPLAY_NONCE).filter(|nonce| is_nonce(nonce.as_bytes()));
        // instant-acme wants renewal information to have one; ours is read above, by our clock.
        headers.insert(RETRY_AFTER, HeaderValue::from_static("0"));
        match nonce {
            Some(nonce) if asks_for_nonce => _ = headers.insert(REPLAY_NONCE, nonce),
            Some(nonce) => self.keep(&nonce),
            None if asks_for_nonce && status.is_success() => {
                return Err(ours(Error::transient(operation, "answer_invalid", "the CA gives no nonce")));
            }
            None => {}
        }
        if !status.is_success() {
            // Not every server labels its problem documents; what is none has no type, and the status decides.
            let problem = serde_json::from_slice(response.body()).unwrap_or(error::NO_PROBLEM);
            return Err(match error::name(&problem) {
                BAD_NONCE => problem.into(),
                _ => ours(error::refused(operation, problem, status.as_u16()).with_retry_after(retry_after)),
            });
        }
        // For a new nonce, instant-acme takes no other success.
        *response.status_mut() = StatusCode::OK;
        *lock(&call.answer) = Answer { operation, body: response.body().clone(), location, retry_after };
        Ok(response)
    }

    fn keep(&self, nonce: &HeaderValue) {
        let mut pool = lock(&self.nonces);
        if let Ok(nonce) = nonce.to_str()
            && pool.len() < NONCES_MAX
        {
            pool.push(nonce.to_owned());
        }
    }

    /// There and back.
    async fn exchange(&self, operation: &'static str, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Bytes>> {
        let failed = |error| error::from_transport(operation, error);
        let (mut parts, body) = request.into_parts();
        parts.headers.remove(USER_AGENT);
        parts.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        let Ok(body) = body.collect().await;
        let request = Request::from_parts(parts, body.to_bytes()).try_into().map_err(failed)?;
        let mut answer = self.http.execute(request).await.map_err(failed)?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = answer.status();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        *response.body_mut() = read(operation, answer).await?;
        Ok(response)
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let (parts, body) = client.send(request).await?.into_parts();
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

/// An error of ours, on its way through instant-acme.
pub(super) fn ours(error: Error) -> instant_acme::Error {
    instant_acme::Error::Other(Box::new(error))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a body up to the limit.
async fn read(operation: &'static str, mut response: reqwest::Response) -> Result<Bytes> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| error::from_transport(operation, error))? {
        if body.len() + chunk.len() > BODY_MAX {
            return Err(Error::permanent(operation, "response_too_large", "the CA's answer is too long")
                .with("limit", BODY_MAX));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// RFC 8555 section 6.5.1: base64url, nothing else. It goes into a header that we sign.
fn is_nonce(text: &[u8]) -> bool {
    !text.is_empty()
        && text.len() <= 1024
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
}

fn tls_config(roots_pem: Option<&str>) -> Result<ClientConfig> {
    let failed = |error: rustls::Error| {
        Error::permanent("acme.client", "roots_unavailable", "the platform's trusted roots cannot be used")
            .with_source(error)
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = match roots_pem {
        None => builder.with_platform_verifier().map_err(failed)?,
        Some(pem) => builder.with_root_certificates(roots(pem)?),
    };
    Ok(builder.with_no_client_auth())
}

/// The certificates in `pem` as roots.
///
/// # Errors
/// `Validation` `config_invalid`.
pub(super) fn roots(pem: &str) -> Result<RootCertStore> {
    let invalid = || {
        Error::validation("acme.config", "config_invalid", "root_pem: one or more certificates in PEM")
            .with("field", "root_pem")
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| invalid())?;
        roots.add(certificate).map_err(|error| invalid().with_source(error))?;
    }
    if roots.is_empty() { Err(invalid()) } else { Ok(roots) }
}
