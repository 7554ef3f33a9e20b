//! HTTP-01: a file that only the holder of the name's web server can serve.

use std::sync::Arc;
use std::time::Duration;

use certlib_core::model::AcmeChallenge;
use certlib_core::store::{SharedStore, StoreExt as _, WriteBatch};
use certlib_core::{Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Proof;

const PREFIX: &str = "/.well-known/acme-challenge/";
/// Longer tokens are nobody's: the store's ids end at 200 bytes.
const TOKEN_MAX: usize = 200;
const HEAD_MAX: usize = 8 * 1024;
const CONNECTIONS_MAX: usize = 256;
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn provision(store: &SharedStore, proofs: &[Proof]) -> Result<()> {
    let mut batch = WriteBatch::new();
    for proof in proofs {
        if !is_token(&proof.token) {
            return Err(Error::permanent("http01.provision", "token_invalid", "the CA's token is not one")
                .with("name", &proof.name));
        }
        batch = batch.put(&AcmeChallenge {
            id: proof.token.clone(),
            key_authorization: proof.key_authorization.clone(),
            name: proof.name.clone(),
            expires_at: proof.expires_at,
        })?;
    }
    store.commit(batch).await.map(drop)
}

pub(super) async fn clean_up(store: &SharedStore, proofs: &[Proof]) -> Result<()> {
    let batch = proofs.iter().fold(WriteBatch::new(), |batch, proof| batch.delete::<AcmeChallenge>(&proof.token));
    store.commit(batch).await.map(drop)
}

/// Answers HTTP-01 challenges, on any node: challenges live in the store.
///
/// Embed it in the web server that has port 80, or let [`serve`] do it.
///
/// ```
/// # use std::sync::Arc;
/// # use certlib_core::{clock::SystemClock, memory::MemoryStore};
/// use certlib_issuers::challenge::Http01Responder;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let store = Arc::new(MemoryStore::new(SystemClock::shared()));
/// let responder = Http01Responder::new(store);
/// match responder.answer("/.well-known/acme-challenge/abc").await {
///     Some(body) => println!("200 {body}"),
///     None => println!("404"),
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Http01Responder {
    store: SharedStore,
}

impl Http01Responder {
    /// A responder for the challenges in `store`.
    pub fn new(store: SharedStore) -> Self {
        Self { store }
    }

    /// The body to answer a GET of `path` with; `None` means 404. The path is taken as it comes: nothing is decoded,
    /// and only `/.well-known/acme-challenge/TOKEN` with the exact token of a pending challenge is answered. A store
    /// that cannot be read has no answer either; that is logged.
    ///
    /// Cancel-safe: it only reads.
    pub async fn answer(&self, path: &str) -> Option<String> {
        let token = path.strip_prefix(PREFIX).filter(|token| is_token(token))?;
        match self.store.find::<AcmeChallenge>(token).await {
            Ok(challenge) => challenge.map(|challenge| challenge.record.key_authorization),
            Err(error) => {
                tracing::warn!(%error, "an HTTP-01 challenge could not be looked up");
                None
            }
        }
    }
}

/// Answers challenges on `listener` until `shutdown` fires: a web server that can do nothing else.
///
/// Connections carry one request each, live at most ten seconds, and are limited in number; those that are open when
/// `shutdown` fires are dropped. Dropping the future stops the server.
pub async fn serve(listener: TcpListener, responder: Http01Responder, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let responder = responder.clone();
                connections.spawn(async move {
                    let _ = timeout(CONNECTION_LIMIT, converse(stream, &responder)).await;
                    drop(slot);
                });
            }
            // Out of file descriptors: the next accept would fail at once, again and again.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, responder: &Http01Responder) -> std::io::Result<()> {
    let (status, body) = match read_head(&mut stream).await? {
        None => ("400 Bad Request", String::new()),
        Some(Request { is_get: false, .. }) => ("405 Method Not Allowed", String::new()),
        Some(request) => match responder.answer(&request.path).await {
            Some(body) => ("200 OK", body),
            None => ("404 Not Found", String::new()),
        },
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

struct Request {
    is_get: bool,
    path: String,
}

/// Reads up to the empty line; `None` when what came is no request or does not end in time.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Request>> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut chunk = [0; 512];
        let length = stream.read(&mut chunk).await?;
        head.extend_from_slice(&chunk[..length]);
        if length == 0 || head.len() > HEAD_MAX {
            return Ok(None);
        }
    }
    let text = String::from_utf8_lossy(&head);
    let mut words = text.lines().next().unwrap_or_default().split(' ');
    let (Some(method), Some(path), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Ok(None);
    };
    if !version.starts_with("HTTP/1.") {
        return Ok(None);
    }
    Ok(Some(Request { is_get: method == "GET", path: path.to_owned() }))
}

/// Whether `text` has only characters of the base64url alphabet, as tokens do (RFC 8555 section 8.3).
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= TOKEN_MAX
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use certlib_core::clock::SystemClock;
    use certlib_core::memory::MemoryStore;
    use time::OffsetDateTime;
    use tokio::net::TcpStream;

    use super::*;

    async fn responder() -> (Http01Responder, SharedStore) {
        let store: SharedStore = Arc::new(MemoryStore::new(SystemClock::shared()));
        let proof = Proof {
            name: "a.example".into(),
            token: "tok-EN_1".into(),
            key_authorization: "tok-EN_1.thumb".into(),
            dns_value: String::new(),
            expires_at: OffsetDateTime::UNIX_EPOCH,
        };
        provision(&store, &[proof]).await.unwrap();
        (Http01Responder::new(store.clone()), store)
    }

    #[tokio::test]
    async fn only_the_exact_token_is_answered() {
        let (responder, store) = responder().await;
        let answer = responder.answer("/.well-known/acme-challenge/tok-EN_1").await;
        assert_eq!(answer.as_deref(), Some("tok-EN_1.thumb"));
        for path in [
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/tok-EN_",
            "/.well-known/acme-challenge/tok-EN_11",
            "/.well-known/acme-challenge/tok-EN_1/",
            "/.well-known/acme-challenge/tok-EN_1?x",
            "/.well-known/acme-challenge/../acme-challenge/tok-EN_1",
            "/.well-known/acme-challenge/tok%2DEN_1",
            "/.WELL-KNOWN/acme-challenge/tok-EN_1",
            "/.well-known/acme-challenge/tok-EN_1\0",
            "tok-EN_1",
            "",
        ] {
            assert_eq!(responder.answer(path).await, None, "{path}");
        }
        let long = format!("{PREFIX}{}", "a".repeat(100_000));
        assert_eq!(responder.answer(&long).await, None);

        let gone = Proof {
            name: String::new(),
            token: "tok-EN_1".into(),
            key_authorization: String::new(),
            dns_value: String::new(),
            expires_at: OffsetDateTime::UNIX_EPOCH,
        };
        clean_up(&store, &[gone]).await.unwrap();
        assert_eq!(responder.answer("/.well-known/acme-challenge/tok-EN_1").await, None);
    }

    #[tokio::test]
    async fn the_small_server_speaks_http() {
        let (responder, _) = responder().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, responder, shutdown.clone()));

        let ask = async |request: &str| {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            // The server may close while we still write too much.
            let _ = stream.read_to_string(&mut answer).await;
            answer
        };
        let path = "/.well-known/acme-challenge/tok-EN_1";
        let answer = ask(&format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\ntok-EN_1.thumb"), "{answer}");
        assert!(ask("GET / HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(&format!("POST {path} HTTP/1.1\r\n\r\n")).await.starts_with("HTTP/1.1 405 "));
        assert!(ask("hello\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
        let endless = format!("GET {path} HTTP/1.1\r\nX: {}", "x".repeat(HEAD_MAX));
        assert!(ask(&endless).await.starts_with("HTTP/1.1 400 "));

        shutdown.cancel();
        server.await.unwrap();
        assert!(TcpStream::connect(addr).await.is_err());
    }

    #[tokio::test]
    async fn a_token_that_is_none_is_not_stored() {
        let (_, store) = responder().await;
        let proof = Proof {
            name: "a.example".into(),
            token: "../x".into(),
            key_authorization: "x".into(),
            dns_value: String::new(),
            expires_at: OffsetDateTime::UNIX_EPOCH,
        };
        assert_eq!(provision(&store, &[proof]).await.unwrap_err().code(), "token_invalid");
    }
}
