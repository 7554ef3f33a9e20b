//! A CA that answers from a script: for what no real one can be made to do. It checks nothing.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use certlib_testkit::pki::TestCa;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const PROBLEM: &str = "urn:ietf:params:acme:error:";

/// The CA, on 127.0.0.1, over TLS.
pub(crate) struct FakeCa {
    addr: SocketAddr,
    root_pem: String,
    chain_pem: String,
    script: Arc<Script>,
    _stop: DropGuard,
}

#[derive(Default)]
struct Script {
    replies: Mutex<HashMap<String, VecDeque<Reply>>>,
    seen: Mutex<Vec<Seen>>,
    nonces: Mutex<u64>,
}

/// A signed request that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) nonce: String,
    pub(crate) payload: Value,
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
    /// Bytes that are announced and never sent.
    missing: usize,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl ToString) -> Self {
        Self { status, headers: Vec::new(), body: body.to_string(), missing: 0 }
    }

    pub(crate) fn problem(status: u16, name: &str) -> Self {
        Self::new(status, json!({ "type": format!("{PROBLEM}{name}"), "detail": "as scripted" }))
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn truncated(mut self) -> Self {
        self.missing = 1000;
        self
    }
}

impl FakeCa {
    pub(crate) async fn start() -> Self {
        Self::start_as("127.0.0.1").await
    }

    /// With an API certificate for `name`.
    pub(crate) async fn start_as(name: &str) -> Self {
        let ca = TestCa::new("fake CA root").unwrap();
        let issued = ca.issue(&[name]).unwrap();
        let chain = CertificateDer::pem_slice_iter(issued.full_chain().as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let script = Arc::new(Script::default());
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve(listener, acceptor, script.clone())));
        let root_pem = ca.certificate_pem().to_owned();
        let chain_pem = TestCa::new("issued").unwrap().issue(&["a.example"]).unwrap().full_chain();
        let fake = Self { addr, root_pem, chain_pem, script, _stop: stop.drop_guard() };
        fake.script_defaults();
        fake
    }

    /// An account can be made and an order placed, which is valid at once.
    fn script_defaults(&self) {
        self.on("/nonce", [Reply::new(200, "")]);
        self.on("/dir", [Reply::new(200, self.directory())]);
        self.on(
            "/account",
            [Reply::new(201, json!({ "status": "valid" })).header("Location", &self.url("/account/1"))],
        );
        self.on("/order", [self.order("pending").header("Location", &self.url("/order/1"))]);
        self.on("/order/1", [self.order("valid")]);
        self.on("/certificate", [Reply::new(200, self.chain_pem())]);
        self.on("/finalize", [self.order("processing")]);
        self.on("/challenge", [Reply::new(200, "{}")]);
        self.on("/authorization", [self.authorization("valid", "http-01")]);
    }

    pub(crate) fn directory(&self) -> Value {
        json!({
            "newNonce": self.url("/nonce"), "newAccount": self.url("/account"), "newOrder": self.url("/order"),
            "revokeCert": self.url("/revoke"), "renewalInfo": self.url("/renewal"),
            "meta": { "profiles": { "short": "six days" } },
        })
    }

    pub(crate) fn order(&self, status: &str) -> Reply {
        Reply::new(
            200,
            json!({
                "status": status,
                "identifiers": [{ "type": "dns", "value": "a.example" }],
                "authorizations": [self.url("/authorization")],
                "finalize": self.url("/finalize"),
                "certificate": self.url("/certificate"),
            }),
        )
    }

    /// With one challenge, which is as far as the authorization, or pending where challenges know no such status.
    pub(crate) fn authorization(&self, status: &str, challenge: &str) -> Reply {
        let challenge_status = if matches!(status, "valid" | "invalid") { status } else { "pending" };
        Reply::new(
            200,
            json!({
                "status": status,
                "identifier": { "type": "dns", "value": "a.example" },
                "challenges": [{
                    "type": challenge, "url": self.url("/challenge"), "token": "token-1", "status": challenge_status,
                }],
            }),
        )
    }

    /// Answers `path` with these replies in turn; the last one is repeated.
    pub(crate) fn on(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        self.script.replies.lock().unwrap().insert(path.to_owned(), replies.into_iter().collect());
    }

    /// The signed requests for `path` that arrived so far.
    pub(crate) fn seen(&self, path: &str) -> Vec<Seen> {
        self.script.seen.lock().unwrap().iter().filter(|seen| seen.path == path).cloned().collect()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.addr)
    }

    /// What it issues, whatever was asked for.
    pub(crate) fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    pub(crate) fn root_pem(&self) -> &str {
        &self.root_pem
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, script: Arc<Script>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, script) = (acceptor.clone(), script.clone());
        tokio::spawn(async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let Some((path, body)) = read_request(&mut stream).await else { return };
            let (answer, body) = script.answer(&path, &body);
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.write_all(body.as_bytes()).await;
            let _ = stream.shutdown().await;
        });
    }
}

impl Script {
    fn answer(&self, path: &str, body: &str) -> (String, String) {
        if let Ok(body) = serde_json::from_str::<Value>(body) {
            let part = |name: &str| -> Value {
                let decoded = URL_SAFE_NO_PAD.decode(body[name].as_str().unwrap()).unwrap();
                serde_json::from_slice(&decoded).unwrap_or_default()
            };
            let nonce = part("protected")["nonce"].as_str().unwrap().to_owned();
            self.seen.lock().unwrap().push(Seen { path: path.to_owned(), nonce, payload: part("payload") });
        }
        let reply = {
            let mut replies = self.replies.lock().unwrap();
            match replies.get_mut(path) {
                Some(queue) if queue.len() > 1 => queue.pop_front().unwrap(),
                Some(queue) => queue.front().cloned().unwrap(),
                None => Reply::problem(404, "malformed"),
            }
        };
        let nonce = {
            let mut nonces = self.nonces.lock().unwrap();
            *nonces += 1;
            *nonces
        };
        let length = reply.body.len() + reply.missing;
        let mut head = format!("HTTP/1.1 {} Scripted\r\nContent-Length: {length}\r\n", reply.status);
        head += &format!("Replay-Nonce: nonce-{nonce}\r\nConnection: close\r\n");
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        (head + "\r\n", reply.body)
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let mut chunk = [0; 4096];
        let length = stream.read(&mut chunk).await.ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(&chunk[..length]);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = bytes[end..].to_vec();
    let missing = length.unwrap_or(0).saturating_sub(body.len());
    let start = body.len();
    body.resize(start + missing, 0);
    stream.read_exact(&mut body[start..]).await.ok()?;
    let path = head.split(' ').nth(1)?.to_owned();
    Some((path, String::from_utf8(body).ok()?))
}
