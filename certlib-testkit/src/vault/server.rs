//! HTTP on 127.0.0.1, for a node and, where wanted, its standby.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    answer::{Answer, Refusal},
    fault::{self, Fault},
    history::Record,
    lock,
    state::{Incoming as Received, State},
};
use crate::{Error, Result, pki::Issued};

/// The largest body, as Vault's own limit.
const BODY_LIMIT: usize = 32 * 1024 * 1024;

/// Breathing space when the process has run out of descriptors.
const RETRY: Duration = Duration::from_millis(20);

/// What all connections of a node share.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) stop: CancellationToken,
    pub(super) tls: Option<TlsAcceptor>,
    /// Set on a standby: where the active node is.
    pub(super) active: Option<String>,
}

/// What TLS connections are served with.
pub(super) fn acceptor(issued: &Issued) -> Result<TlsAcceptor> {
    let failed = |error: &dyn std::fmt::Display| Error::Crypto(error.to_string());
    let chain = CertificateDer::pem_slice_iter(issued.full_chain().as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).map_err(|error| failed(&error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| failed(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts connections until it is told to stop.
pub(super) async fn serve(node: Node, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = node.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let node = node.clone();
                tokio::spawn(async move {
                    let stop = node.stop.clone();
                    let connection = async move {
                        match node.tls.clone() {
                            None => converse(node, stream).await,
                            // A client that does not like the certificate is none of our business.
                            Some(tls) => match tls.accept(stream).await {
                                Ok(stream) => converse(node, stream).await,
                                Err(error) => tracing::debug!(%error, "TLS handshake with the simulated Vault"),
                            },
                        }
                    };
                    stop.run_until_cancelled(connection).await
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn converse(node: Node, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let service = service_fn(move |request| {
        let node = node.clone();
        async move { node.answer(request).await }
    });
    // It ends with an error when a fault wants the connection gone, or when the client goes first.
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the simulated Vault ended");
    }
}

impl Node {
    /// An error ends the connection without an answer.
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let (parts, body) = request.into_parts();
        let head = parts.method.as_str() == "HEAD";
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let Some(below) = path.strip_prefix("/v1/").map(|path| path.trim_matches('/').to_owned()) else {
            return Ok(render(Refusal::absent().into(), head));
        };
        let body = match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return Ok(render(Refusal::new(413, "http: request body too large").into(), head)),
        };
        let received = Received {
            method: parts.method.as_str().to_owned(),
            namespace: text(&parts.headers, "x-vault-namespace").unwrap_or_default(),
            path: below.clone(),
            query: query.clone(),
            token: token(&parts.headers),
            body,
        };
        let record = Record::of(&received, self.active.is_some());
        let fault = match &self.active {
            Some(active) => {
                let answer = standby(active, &path, &query, &below);
                lock(&self.state).remember(record, Some(answer.status));
                return Ok(render(answer, head));
            }
            None => fault::meet(&mut lock(&self.state).faults, &below),
        };
        if let Some(Fault::Slow(by)) = fault {
            tokio::time::sleep(by).await;
        }
        let mut state = lock(&self.state);
        let answer = match &fault {
            None | Some(Fault::Slow(_)) => Some(state.handle(received)),
            Some(Fault::LoseRequest) => None,
            Some(Fault::LoseReply) => {
                state.handle(received);
                None
            }
            Some(Fault::ReplaceData(data)) => {
                let mut answer = state.handle(received);
                if let Some(serde_json::Value::Object(body)) = &mut answer.body {
                    body.insert("data".to_owned(), data.clone());
                }
                Some(answer)
            }
            Some(Fault::Answer { status, content_type, body }) => {
                state.remember(record, Some(*status));
                return Response::builder()
                    .status(*status)
                    .header(header::CONTENT_TYPE, content_type)
                    .body(Full::from(body.clone()))
                    .map_err(io::Error::other);
            }
            Some(fault) => refusal(fault, &below),
        };
        state.remember(record, answer.as_ref().map(|answer| answer.status));
        answer.map(|answer| render(answer, head)).ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }
}

/// What a fault that does nothing answers.
fn refusal(fault: &Fault, path: &str) -> Option<Answer> {
    Some(match fault {
        Fault::Stale => Refusal::new(412, "1 error occurred:\n\t* required index state not present\n\n").into(),
        Fault::RateLimited { retry_after } => {
            let answer = Answer::from(Refusal::new(429, format!("request path {path:?}: rate limit quota exceeded")));
            match retry_after {
                Some(after) => answer.header("retry-after", after.as_secs().to_string()),
                None => answer,
            }
        }
        Fault::InternalError => Refusal::new(500, "1 error occurred:\n\t* internal error\n\n").into(),
        Fault::Redirect { location } => {
            Answer { status: 307, headers: Vec::new(), body: None }.header("location", location)
        }
        _ => return None,
    })
}

/// A standby knows how it is, and where the active node is.
fn standby(active: &str, path: &str, query: &str, below: &str) -> Answer {
    if below == "sys/health" {
        return super::sys::health(false, true).status(429);
    }
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    Answer { status: 307, headers: Vec::new(), body: None }.header("location", format!("{active}{path}{query}"))
}

fn token(headers: &HeaderMap) -> Option<String> {
    text(headers, "x-vault-token")
        .or_else(|| text(headers, "authorization")?.strip_prefix("Bearer ").map(str::to_owned))
        .filter(|token| !token.is_empty())
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn render(answer: Answer, head: bool) -> Response<Full<Bytes>> {
    let body = answer.body.filter(|_| !head).map(|body| format!("{body}\n")).unwrap_or_default();
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = http::StatusCode::from_u16(answer.status).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    for (name, value) in answer.headers {
        if let Ok(value) = header::HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    response
}
