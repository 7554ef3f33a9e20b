//! Requests to the HTTP API of an appliance or a service: one place for limits, time-outs and what failures mean.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use certlib_core::error::{Effect, Error, ErrorClass, Result};
use certlib_core::secret::SecretString;
use certlib_core::{Context, classify};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::timeout;
use url::Url;
use zeroize::Zeroizing;

use super::address::AddressPolicy;
use super::http;
use super::http_url::HttpUrl;
use super::resolve::{Guard, Lookup};
use super::timeouts::Timeouts;
use super::tls::{ClientIdentity, TlsSettings};

/// The longest answer that is read, in bytes after decompression.
const ANSWER_MAX: usize = 4 * 1024 * 1024;

/// How to reach an API: the part of a module's configuration that they all share. Everything has a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Connection {
    /// Whom to trust.
    pub tls: TlsSettings,
    /// Which addresses the API may have, besides public ones.
    pub addresses: AddressPolicy,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// Admits `http://`, for tests and for proxies on the same machine.
    pub allow_http: bool,
}

impl Connection {
    /// Checks everything that can be checked without the network, `base` included.
    ///
    /// # Errors
    /// `Validation`: `url_invalid`, `address_forbidden`, `timeout_invalid`, and as [`TlsSettings::check`].
    pub fn check(&self, base: &str) -> Result<HttpUrl> {
        let url = HttpUrl::parse(base, self.allow_http)?;
        if let Some(addr) = url.address() {
            self.addresses.check(url.host(), addr)?;
        }
        self.tls.check()?;
        self.timeouts.check()?;
        Ok(url)
    }
}

/// An API at one address. Connections are kept between requests; proxies are not used, and redirects are not followed,
/// except where [`Request::follow_on_host`] says so.
#[derive(Clone)]
pub struct Api {
    operation: &'static str,
    base: HttpUrl,
    client: Client,
    timeouts: Timeouts,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Api {
    /// The API at `base`; errors name `operation`.
    ///
    /// # Errors
    /// As [`Connection::check`]; `Validation` `identity_invalid`; `IoPermanent` `tls_unavailable`.
    pub fn new(
        operation: &'static str,
        base: &str,
        connection: &Connection,
        identity: Option<&ClientIdentity>,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self> {
        let base = connection.check(base)?;
        let guard = Guard::with_lookup(connection.addresses.clone(), lookup);
        let client = http::kept_client(&base, &guard, &connection.tls, identity, connection.timeouts.connect())?;
        Ok(Self { operation, base, client, timeouts: connection.timeouts })
    }

    /// Where it is.
    pub fn base(&self) -> &HttpUrl {
        &self.base
    }

    /// A request for the path with these segments below the base; each is percent-encoded as a whole.
    pub fn request<'a>(&self, method: Method, segments: impl IntoIterator<Item = &'a str>) -> Request<'_> {
        let mut url = self.base.as_url().clone();
        // An http(s) URL can always have a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        let inner = Ok(self.client.request(method.clone(), url.clone()));
        Request { api: self, method, url, inner, longest_answer: ANSWER_MAX, follows: false }
    }

    /// `GET`; see [`Api::request`].
    pub fn get<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Request<'_> {
        self.request(Method::GET, segments)
    }

    /// `POST`; see [`Api::request`].
    pub fn post<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Request<'_> {
        self.request(Method::POST, segments)
    }
}

/// A request that is being put together.
#[must_use = "a request does nothing until it is sent"]
pub struct Request<'a> {
    api: &'a Api,
    method: Method,
    url: Url,
    inner: Result<reqwest::RequestBuilder>,
    longest_answer: usize,
    follows: bool,
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("method", &self.method).field("path", &self.url.path()).finish_non_exhaustive()
    }
}

impl Request<'_> {
    fn map(mut self, change: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder) -> Self {
        self.inner = self.inner.map(change);
        self
    }

    fn fail(mut self, error: Error) -> Self {
        self.inner = self.inner.and(Err(error));
        self
    }

    /// The method and the path, as plans and errors show it; never the query.
    pub fn label(&self) -> String {
        format!("{} {}", self.method, self.url.path())
    }

    /// The URL as it stands, for signatures over it.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Adds pairs to the query.
    pub fn query(mut self, pairs: &[(&str, &str)]) -> Self {
        self.url.query_pairs_mut().extend_pairs(pairs);
        let (method, url) = (self.method.clone(), self.url.clone());
        // Built anew, because what is signed must be what is sent: call it before headers and body.
        let client = self.api.client.clone();
        self.map(|_| client.request(method, url))
    }

    /// Sets the query as it stands, percent-encoding only what no query may hold: for APIs that take parts of it apart
    /// before they decode them.
    pub fn raw_query(mut self, query: &str) -> Self {
        self.url.set_query(Some(query));
        let (method, url) = (self.method.clone(), self.url.clone());
        // As for `query`: call it before headers and body.
        let client = self.api.client.clone();
        self.map(|_| client.request(method, url))
    }

    /// Adds a header that is no secret.
    pub fn header(self, name: &'static str, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => self.map(|inner| inner.header(HeaderName::from_static(name), value)),
            Err(_) => {
                let operation = self.api.operation;
                let why = "a value cannot be sent as a header";
                self.fail(Error::validation(operation, "header_invalid", why).with("field", name))
            }
        }
    }

    /// Adds a header whose value must not be logged.
    pub fn secret_header(self, name: &'static str, value: &SecretString) -> Self {
        match HeaderValue::from_str(value.expose()) {
            Ok(mut value) => {
                value.set_sensitive(true);
                self.map(|inner| inner.header(HeaderName::from_static(name), value))
            }
            Err(_) => {
                let operation = self.api.operation;
                let why = "a secret has characters that cannot be sent as a header";
                self.fail(Error::auth(operation, "credentials_invalid", why).with("field", name))
            }
        }
    }

    /// Logs in with HTTP Basic.
    pub fn basic(self, username: &str, password: &SecretString) -> Self {
        use base64::Engine as _;
        let pair = Zeroizing::new(format!("{username}:{}", password.expose()));
        let value = Zeroizing::new(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(&*pair)));
        match HeaderValue::from_str(&value) {
            Ok(mut value) => {
                value.set_sensitive(true);
                self.map(|inner| inner.header(AUTHORIZATION, value))
            }
            // Base64 is always a header.
            Err(_) => self,
        }
    }

    /// Sends JSON. The text is wiped afterwards, since it may hold a key.
    pub fn json(self, body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(bytes) => self.body("application/json", Zeroizing::new(bytes)),
            Err(_) => {
                let operation = self.api.operation;
                self.fail(Error::validation(operation, "body_invalid", "a request cannot be written as JSON"))
            }
        }
    }

    /// Sends bytes, which are wiped afterwards.
    pub fn body(self, content_type: &'static str, body: Zeroizing<Vec<u8>>) -> Self {
        self.map(|inner| inner.header(CONTENT_TYPE, content_type).body(Bytes::from_owner(body)))
    }

    /// Reads at most this many bytes of the answer. Default 4 MiB.
    pub fn longest_answer(mut self, bytes: usize) -> Self {
        self.longest_answer = bytes;
        self
    }

    /// Follows one redirect by 307 or 308, with everything that was sent, credentials included, if it leads to the same
    /// host by the same scheme: another port or path. That is how nodes of a cluster behind one name point to each other.
    pub fn follow_on_host(mut self) -> Self {
        self.follows = true;
        self
    }

    /// Sends it and reads the answer, whatever its status. Not cancel-safe unless it only reads.
    ///
    /// # Errors
    /// `Network`, `Auth` and `IoPermanent` for what happens to connections, with [`Effect::None`] if the request only
    /// reads or was certainly not received; `IoPermanent` `redirect_refused`, `answer_too_long`.
    pub async fn send(self, cx: &Context) -> Result<Answer> {
        let Request { api, method, url, inner, longest_answer, follows } = self;
        let reads = matches!(method, Method::GET | Method::HEAD);
        let label = format!("{method} {}", url.path());
        let effect = |error: Error| if reads { error.with_effect(Effect::None) } else { error };
        let failed = |error| effect(http::failure(api.operation, &api.base, error).with("request", &label));
        let late = || {
            effect(
                Error::network(api.operation, "timeout", "the peer did not answer in time")
                    .with("url", &api.base)
                    .with("request", &label)
                    .with_effect(Effect::Possible),
            )
        };
        let started = cx.clock.monotonic();
        let left = || api.timeouts.total().saturating_sub(cx.clock.monotonic().saturating_sub(started));
        let request = inner?.build().map_err(failed)?;
        let again = request.try_clone().filter(|_| follows);
        let answer = timeout(api.timeouts.head(), api.client.execute(request)).await.map_err(|_| late())?;
        let mut response = answer.map_err(failed)?;
        if let Some(mut request) = again
            && let Some(target) = target_on_host(&url, &response)
        {
            *request.url_mut() = target;
            let wait = api.timeouts.head().min(left());
            response = timeout(wait, api.client.execute(request)).await.map_err(|_| late())?.map_err(failed)?;
        }
        let left = left();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        if response.status().is_redirection() {
            let why = "the peer redirects; redirects are not followed, so configure the final address";
            return Err(Error::permanent(api.operation, "redirect_refused", why)
                .with("status", status)
                .with("request", label)
                .with_effect(Effect::None));
        }
        let body = match timeout(left, read(response, longest_answer)).await {
            Err(_) => return Err(late()),
            Ok(Err(error)) => return Err(failed(error)),
            Ok(Ok(body)) => body,
        };
        let Some(body) = body else {
            let error = Error::permanent(api.operation, "answer_too_long", "the peer's answer is too long")
                .with("limit", longest_answer)
                .with("request", label)
                .with_effect(Effect::Possible);
            return Err(effect(error));
        };
        Ok(Answer { operation: api.operation, label, reads, status, headers, body, received: cx.clock.now() })
    }
}

/// Where a 307 or 308 leads, if that is the same host by the same scheme. The guard that let the host pass before is asked
/// again when it is dialled.
fn target_on_host(asked: &Url, response: &Response) -> Option<Url> {
    if !matches!(response.status().as_u16(), 307 | 308) {
        return None;
    }
    let target = asked.join(response.headers().get(LOCATION)?.to_str().ok()?).ok()?;
    let same = target.scheme() == asked.scheme() && target.host() == asked.host();
    // Read once more by the stricter rules: no user name, no port of another service.
    let allowed = HttpUrl::parse(target.as_str(), target.scheme() == "http").is_ok();
    (same && allowed).then_some(target)
}

/// The whole answer, or `None` when it is longer than `limit`.
async fn read(mut response: Response, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, reqwest::Error> {
    let expected = response.content_length().and_then(|length| usize::try_from(length).ok());
    // Sized at once: a buffer that grows leaves plaintext behind.
    let mut body = Zeroizing::new(Vec::with_capacity(expected.unwrap_or(4 * 1024).min(limit)));
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// What was answered, whatever the status.
pub struct Answer {
    operation: &'static str,
    label: String,
    reads: bool,
    status: u16,
    headers: HeaderMap,
    body: Zeroizing<Vec<u8>>,
    received: OffsetDateTime,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("request", &self.label).field("status", &self.status).finish_non_exhaustive()
    }
}

impl Answer {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A header, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body. May hold what must not be logged.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body as JSON. It is never quoted in an error.
    ///
    /// # Errors
    /// `IoTransient` `answer_invalid`: the page of a proxy, most of the time.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|_| {
            let why = "the answer is not what this API says; is there a proxy in between?";
            self.placed(Error::transient(self.operation, "answer_invalid", why))
        })
    }

    /// This answer, if its status is 2xx; otherwise [`Answer::refused`].
    ///
    /// # Errors
    /// Those of [`Answer::refused`].
    pub fn success(self) -> Result<Self> {
        if self.is_success() { Ok(self) } else { Err(self.refused()) }
    }

    /// The error that an answer without success is, by its status alone: class and `Retry-After` of the shared table,
    /// code `http_status`. What the peer said is not quoted.
    pub fn refused(&self) -> Error {
        self.error(classify::http(self.status), "http_status", "the peer refuses the request")
    }

    /// An error about this answer, with its status, its request, and the wait that the peer asked for.
    pub fn error(&self, class: ErrorClass, code: &'static str, message: &str) -> Error {
        let wait = self.header(RETRY_AFTER.as_str()).filter(|_| class.is_retryable());
        let wait: Option<Duration> = wait.and_then(|value| classify::retry_after(value, self.received));
        self.placed(Error::new(class, self.operation, code, message)).with_retry_after(wait)
    }

    /// A client error means that the peer looked and declined. After anything else nobody knows.
    fn placed(&self, error: Error) -> Error {
        let declined = matches!(self.status, 300..=499) && self.status != 408;
        let effect = if self.reads || declined { Effect::None } else { Effect::Possible };
        error.with("status", self.status).with("request", &self.label).with_effect(effect)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::resolve::SystemLookup;
    use super::*;

    /// An API that answers everything with `answer`, byte for byte.
    async fn api(answer: &'static str) -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/base/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut seen = [0; 4096];
                let _ = stream.read(&mut seen).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let connection = serde_json::from_str::<Connection>(
            r#"{"allow_http": true, "addresses": {"allow_loopback": true}, "timeouts": {"response_ms": 300}}"#,
        );
        Api::new("test", &base, &connection.unwrap(), None, Arc::new(SystemLookup)).unwrap()
    }

    #[tokio::test]
    async fn an_answer_is_read_whole() {
        let api = api("HTTP/1.1 200 OK\r\ncontent-length: 7\r\nx-kind: a\r\n\r\n{\"a\":1}").await;
        let request = api.get(["a/b", "c d"]).query(&[("q", "x&y")]);
        assert_eq!((request.label().as_str(), request.url().query()), ("GET /base/a%2Fb/c%20d", Some("q=x%26y")));
        assert_eq!(api.get(["a"]).raw_query("args=b:c%2Cd,e:f").url().query(), Some("args=b:c%2Cd,e:f"));
        let answer = request.send(&Context::new("t")).await.unwrap();
        assert_eq!((answer.status(), answer.header("x-kind")), (200, Some("a")));
        assert_eq!(answer.json::<serde_json::Value>().unwrap()["a"], 1);
    }

    #[tokio::test]
    async fn refusals_are_told_by_status_and_quote_nothing() {
        let cx = Context::new("t");
        let busy = api("HTTP/1.1 429 X\r\nretry-after: 7\r\ncontent-length: 6\r\n\r\nsecret").await;
        let error = busy.post(["x"]).send(&cx).await.unwrap().success().unwrap_err();
        assert_eq!((error.class(), error.effect()), (ErrorClass::IoTransient, Effect::None));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert!(!format!("{error:?}").contains("secret"));

        let broken = api("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n").await;
        let error = broken.post(["x"]).send(&cx).await.unwrap().success().unwrap_err();
        assert_eq!((error.class(), error.effect()), (ErrorClass::IoTransient, Effect::Possible));
        let error = broken.get(["x"]).send(&cx).await.unwrap().success().unwrap_err();
        assert_eq!(error.effect(), Effect::None, "who only reads changes nothing");

        let elsewhere = api("HTTP/1.1 302 X\r\nlocation: http://elsewhere.example/\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(elsewhere.get(["x"]).send(&cx).await.unwrap_err().code(), "redirect_refused");
    }

    /// A listener that answers with `answer`, where `{port}` is `other`, and tells what it was sent.
    async fn node(answer: &str, other: u16) -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = answer.replace("{port}", &other.to_string());
        let (sent, received) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut seen = vec![0; 4096];
                let mut length = 0;
                while !seen[..length].ends_with(b"body") {
                    match stream.read(&mut seen[length..]).await {
                        Ok(0) | Err(_) => break,
                        Ok(read) => length += read,
                    }
                }
                let _ = sent.send(String::from_utf8_lossy(&seen[..length]).into_owned());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (port, received)
    }

    #[tokio::test]
    async fn a_redirect_on_the_same_host_is_followed_once_where_asked_for() {
        let cx = Context::new("t");
        let connection: Connection =
            serde_json::from_str(r#"{"allow_http": true, "addresses": {"allow_loopback": true}}"#).unwrap();
        let to = |url: &str| format!("HTTP/1.1 307 X\r\nlocation: {url}\r\ncontent-length: 0\r\n\r\n");
        let send = async |port: u16, follow: bool| {
            let base = format!("http://127.0.0.1:{port}");
            let api = Api::new("test", &base, &connection, None, Arc::new(SystemLookup)).unwrap();
            let token = SecretString::new("token".to_owned());
            let body = Zeroizing::new(b"body".to_vec());
            let request = api.post(["a"]).secret_header("x-token", &token).body("text/plain", body);
            if follow { request.follow_on_host() } else { request }.send(&cx).await
        };
        let (last, mut seen) = node("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 0).await;
        let (first, _) = node(&to("http://127.0.0.1:{port}/b?c=d"), last).await;
        let answer = send(first, true).await.unwrap();
        assert_eq!((answer.status(), answer.body()), (200, &b"ok"[..]));
        let sent = seen.recv().await.unwrap();
        assert!(sent.starts_with("POST /b?c=d HTTP/1.1") && sent.contains("x-token: token"), "{sent}");
        assert!(sent.ends_with("body"), "{sent}");
        assert_eq!(send(first, false).await.unwrap_err().code(), "redirect_refused");

        let (again, _) = node(&to("http://127.0.0.1:{port}/"), first).await;
        assert_eq!(send(again, true).await.unwrap_err().code(), "redirect_refused", "twice");
        while seen.try_recv().is_ok() {}
        for location in [
            "http://localhost:{port}/",
            "http://127.0.0.2:{port}/",
            "https://127.0.0.1:{port}/",
            "http://user:word@127.0.0.1:{port}/",
            "http://127.0.0.1:25/",
            "ftp://127.0.0.1:{port}/",
            "http://[",
        ] {
            let (bad, _) = node(&to(location), last).await;
            let error = send(bad, true).await.unwrap_err();
            assert_eq!((error.code(), error.effect()), ("redirect_refused", Effect::None), "{location}");
        }
        assert!(seen.try_recv().is_err(), "nothing was sent there");
        let found = format!("HTTP/1.1 302 X\r\nlocation: http://127.0.0.1:{last}/\r\ncontent-length: 0\r\n\r\n");
        let (other, _) = node(&found, 0).await;
        assert_eq!(send(other, true).await.unwrap_err().code(), "redirect_refused", "302 loses the body");
    }

    #[tokio::test]
    async fn what_is_too_long_or_too_late_is_an_error() {
        let cx = Context::new("t");
        let long = api("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789").await;
        let error = long.get(["x"]).longest_answer(9).send(&cx).await.unwrap_err();
        assert_eq!(error.code(), "answer_too_long");
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = serde_json::from_str::<Connection>(
            r#"{"allow_http": true, "addresses": {"allow_loopback": true}, "timeouts": {"connect_ms": 100, "response_ms": 100}}"#,
        );
        let base = format!("http://{}/", silent.local_addr().unwrap());
        let api = Api::new("test", &base, &connection.unwrap(), None, Arc::new(SystemLookup)).unwrap();
        let error = api.post(["x"]).json(&1).send(&cx).await.unwrap_err();
        assert_eq!((error.code(), error.effect()), ("timeout", Effect::Possible));
    }

    #[test]
    fn addresses_are_checked_before_anything_is_sent() {
        let connection = Connection::default();
        for (base, code) in [
            ("http://a.example", "url_invalid"),
            ("https://127.0.0.1", "address_forbidden"),
            ("https://a@b", "url_invalid"),
        ] {
            let error = Api::new("test", base, &connection, None, Arc::new(SystemLookup)).unwrap_err();
            assert_eq!(error.code(), code, "{base}");
        }
    }
}
