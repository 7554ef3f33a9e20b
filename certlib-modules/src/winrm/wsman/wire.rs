//! One TCP connection that speaks HTTP/1.1, held by us: a login by NTLM or Kerberos belongs to its connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use certlib_core::error::{Error, Result};
use certlib_core::{ErrorClass, classify};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::net::{Guard, HttpUrl, http::handshake_failure};

const OPERATION: &str = "winrm.connect";

/// An open connection.
#[derive(Debug)]
pub(super) struct Wire {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    /// What the server showed in the TLS handshake, DER.
    pub(super) certificate: Option<Vec<u8>>,
    host: HeaderValue,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Wire {
    /// Connects to the first address of the host of `url` that answers; every one was checked.
    ///
    /// # Errors
    /// As [`Guard::resolve`]; `Network` `timeout`, `connect_failed`; as the TLS handshake fails.
    pub(super) async fn dial(url: &HttpUrl, guard: &Guard, tls: Option<ClientConfig>, limit: Duration) -> Result<Self> {
        match timeout(limit, Self::open(url, guard, tls)).await {
            Ok(result) => result,
            Err(_) => {
                Err(Error::network(OPERATION, "timeout", "the machine did not answer in time").with("host", url.host()))
            }
        }
    }

    async fn open(url: &HttpUrl, guard: &Guard, tls: Option<ClientConfig>) -> Result<Self> {
        let stream = tcp(url, guard).await?;
        // An address that is not where it was promised to be cannot happen, but is cheap to notice.
        let host = if url.host().contains(':') { format!("[{}]", url.host()) } else { url.host().to_owned() };
        let invalid = || Error::validation(OPERATION, "url_invalid", "the host cannot be named in a request");
        let header = HeaderValue::from_str(&format!("{host}:{}", url.port())).map_err(|_| invalid())?;
        let Some(mut config) = tls else { return Self::over(stream, None, header).await };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(url.host().to_owned()).map_err(|_| invalid())?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| {
            let error = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(tls) => handshake_failure(OPERATION, tls),
                None => io_failed(error),
            };
            error.with("host", url.host())
        })?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let shown = shown.map(|certificate| certificate.to_vec());
        Self::over(stream, shown, header).await
    }

    async fn over<S>(stream: S, certificate: Option<Vec<u8>>, host: HeaderValue) -> Result<Self>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
        TokioIo<S>: Read + Write,
    {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(hyper_failed)?;
        let driver = tokio::spawn(async move {
            // What went wrong is told to whoever waits for an answer.
            let _ = connection.await;
        });
        Ok(Self { sender, driver, certificate, host })
    }

    /// Whether the other side has already hung up.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request and reads the whole answer, within `limit`.
    ///
    /// # Errors
    /// `Network` `timeout`, `connection_lost`; `IoPermanent` `answer_too_large`.
    pub(super) async fn post(
        &mut self,
        url: &HttpUrl,
        authorization: Option<HeaderValue>,
        content_type: &'static str,
        body: Vec<u8>,
        most: usize,
        limit: Duration,
    ) -> Result<Reply> {
        match timeout(limit, self.exchange(url, authorization, content_type, body, most)).await {
            Ok(result) => result,
            Err(_) => Err(Error::network(OPERATION, "timeout", "the machine did not answer in time")),
        }
    }

    async fn exchange(
        &mut self,
        url: &HttpUrl,
        authorization: Option<HeaderValue>,
        content_type: &'static str,
        body: Vec<u8>,
        most: usize,
    ) -> Result<Reply> {
        let path = match url.as_url().path() {
            "/" => "/wsman",
            path => path,
        };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, self.host.clone())
            .header(USER_AGENT, concat!("certlib/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, content_type);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|_| {
            Error::validation(OPERATION, "url_invalid", "the path of the URL cannot be sent in a request")
        })?;
        self.sender.ready().await.map_err(hyper_failed)?;
        let response = self.sender.send_request(request).await.map_err(hyper_failed)?;
        let (parts, body) = response.into_parts();
        let body =
            Limited::new(body, most).collect().await.map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(error) => hyper_failed(*error),
                Err(_) => Error::permanent(OPERATION, "answer_too_large", "the answer is larger than it may be"),
            })?;
        let body = Zeroizing::new(body.to_bytes().to_vec());
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Reply {
    /// The challenge of one scheme: the token after its name, empty if there is none. `None` when it is not offered.
    pub(super) fn challenge(&self, scheme: &str) -> Option<&str> {
        self.challenges().find_map(|(name, token)| name.eq_ignore_ascii_case(scheme).then_some(token))
    }

    /// All schemes that are offered, with what follows their names.
    pub(super) fn challenges(&self) -> impl Iterator<Item = (&str, &str)> {
        let values = self.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).filter_map(|part| {
            let part = part.trim();
            let (name, token) = part.split_once(' ').unwrap_or((part, ""));
            // Parameters of a scheme before are no schemes.
            (!name.is_empty() && !name.contains('=')).then_some((name, token.trim()))
        })
    }
}

async fn tcp(url: &HttpUrl, guard: &Guard) -> Result<TcpStream> {
    let mut last = None;
    for address in guard.resolve(url.host()).await? {
        match TcpStream::connect(SocketAddr::new(address, url.port())).await {
            Ok(stream) => {
                // Small requests go back and forth: waiting to fill packets would only delay them.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| std::io::ErrorKind::NotConnected.into());
    Err(io_failed(error).with("host", url.host()).with("port", url.port()))
}

fn io_failed(error: std::io::Error) -> Error {
    let class = classify::io(error.kind());
    Error::new(class, OPERATION, "connect_failed", "the machine cannot be connected to").with_source(error)
}

fn hyper_failed(error: hyper::Error) -> Error {
    let (class, code, message) = if error.is_parse() || error.is_parse_status() || error.is_parse_too_large() {
        (ErrorClass::IoPermanent, "protocol_error", "the other side does not speak HTTP")
    } else {
        (ErrorClass::Network, "connection_lost", "the connection ended before there was an answer")
    };
    Error::new(class, OPERATION, code, message).with_source(error)
}
