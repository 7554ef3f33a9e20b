//! A receiver of webhooks that answers as told, and remembers who connected and what came.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certlib_testkit::pki::Issued;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// What to do once a request has come.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Send this and close.
    Raw(Vec<u8>),
    /// Send this, then nothing more, and keep the connection.
    Stall(Vec<u8>),
    /// Send the first once, then the second for ever.
    Endless(Vec<u8>, Vec<u8>),
}

impl Answer {
    /// A complete answer with these extra header lines.
    pub(crate) fn status(status: u16, headers: &str) -> Self {
        Self::Raw(format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n{headers}\r\nok").into_bytes())
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Debug)]
struct State {
    answer: Mutex<Answer>,
    requests: Mutex<Vec<Request>>,
    /// The ports of those who connected, in order.
    accepted: Mutex<Vec<u16>>,
}

#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) addr: SocketAddr,
    probes: AtomicUsize,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Plain HTTP, answering 200.
    pub(crate) async fn start() -> Self {
        Self::listen(None).await
    }

    /// HTTPS with this certificate, answering 200.
    pub(crate) async fn start_tls(issued: &Issued) -> Self {
        let chain = CertificateDer::pem_slice_iter(issued.certificate_pem.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Self::listen(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State {
            answer: Mutex::new(Answer::status(200, "")),
            requests: Mutex::new(Vec::new()),
            accepted: Mutex::new(Vec::new()),
        });
        let task = tokio::spawn(accept(listener, tls, Arc::clone(&state)));
        Self { addr, probes: AtomicUsize::new(0), state, task }
    }

    pub(crate) fn answer(&self, answer: Answer) {
        *self.state.answer.lock().unwrap() = answer;
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    /// How many connections were made so far. Connections are accepted in the order in which they were made, so once
    /// one of our own has been accepted, all before it have been counted.
    pub(crate) async fn connections(&self) -> usize {
        let probes = self.probes.fetch_add(1, Ordering::SeqCst) + 1;
        let probe = TcpStream::connect(self.addr).await.unwrap();
        let port = probe.local_addr().unwrap().port();
        let accepted = async {
            loop {
                if let Some(at) = self.state.accepted.lock().unwrap().iter().position(|seen| *seen == port) {
                    return at + 1;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(10), accepted).await.unwrap() - probes
    }

    pub(crate) fn https_url(&self, host: &str) -> String {
        format!("https://{host}:{}/hook", self.addr.port())
    }

    pub(crate) fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/hook", self.addr.port())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    loop {
        let (stream, peer) = listener.accept().await.unwrap();
        state.accepted.lock().unwrap().push(peer.port());
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            match tls {
                None => serve(stream, &state).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, &state).await,
                    Err(_) => None,
                },
            }
        });
    }
}

/// Reads one request and answers it. Whoever goes away is let go.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, state: &State) -> Option<()> {
    let request = read(&mut stream).await?;
    state.requests.lock().unwrap().push(request);
    let answer = state.answer.lock().unwrap().clone();
    match answer {
        Answer::Raw(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            stream.shutdown().await.ok()
        }
        Answer::Stall(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            stream.flush().await.ok()?;
            // Ends when the peer has had enough.
            stream.read(&mut [0]).await.ok().map(drop)
        }
        Answer::Endless(head, chunk) => {
            stream.write_all(&head).await.ok()?;
            loop {
                stream.write_all(&chunk).await.ok()?;
            }
        }
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let line = lines.next()?.to_owned();
    let headers: HashMap<_, _> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers["content-length"].parse().unwrap();
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Request { line, headers, body })
}
