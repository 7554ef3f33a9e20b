//! The HTTP server under the simulators: one address on 127.0.0.1, with or without TLS.

use std::{
    fmt,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Result,
    pki::{Issued, TestCa},
};

/// The largest body that a simulator reads.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// Breathing space when the process has run out of descriptors.
const RETRY: Duration = Duration::from_millis(20);

/// Who sent a request.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// The number of the connection, for protocols that log in a connection and not a request.
    pub(crate) connection: u64,
    /// The certificate that the client showed, DER. Who issued it is for the handler to judge.
    pub(crate) certificate: Option<Vec<u8>>,
}

/// What a simulator does with requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// The answer; `None` closes the connection without one.
    fn answer(
        self: Arc<Self>,
        peer: Peer,
        request: Request<Bytes>,
    ) -> impl Future<Output = Option<Response<Bytes>>> + Send;
}

/// Whether, and how, a server speaks TLS.
#[derive(Debug, Clone, Default)]
pub(crate) enum Tls {
    /// It does not.
    #[default]
    Plain,
    /// It does, with this certificate, and asks clients for one if `asks_clients`.
    Encrypted { issued: Box<Issued>, asks_clients: bool },
    /// It does, with this certificate, and completes no handshake with clients that have none of these authorities.
    Mutual { issued: Box<Issued>, clients_pem: String },
}

impl Tls {
    /// TLS with a certificate for `localhost` and `127.0.0.1` of an authority made for it, whose PEM comes along.
    pub(crate) fn own(authority: &str, asks_clients: bool) -> Result<(Tls, String)> {
        let ca = TestCa::new(authority)?;
        let issued = Box::new(ca.issue(&["localhost", "127.0.0.1"])?);
        Ok((Tls::Encrypted { issued, asks_clients }, ca.certificate_pem().to_owned()))
    }

    /// The same, for clients with a certificate of these authorities only.
    pub(crate) fn mutual(authority: &str, clients_pem: &str) -> Result<(Tls, String)> {
        let ca = TestCa::new(authority)?;
        let issued = Box::new(ca.issue(&["localhost", "127.0.0.1"])?);
        Ok((Tls::Mutual { issued, clients_pem: clients_pem.to_owned() }, ca.certificate_pem().to_owned()))
    }
}

/// A server that answers until it is dropped.
pub(crate) struct HttpServer {
    address: SocketAddr,
    encrypted: bool,
    stop: CancellationToken,
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServer").field("url", &self.url()).finish_non_exhaustive()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl HttpServer {
    /// Binds a port that the kernel chooses and begins to answer.
    ///
    /// # Errors
    /// [`Error::Io`] when no port can be bound, [`Error::Crypto`] when the certificate cannot be used.
    pub(crate) async fn start<H: Handler>(tls: Tls, handler: Arc<H>) -> Result<HttpServer> {
        let what = "binding a port of a simulator";
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Error::io(what))?;
        let address = listener.local_addr().map_err(Error::io(what))?;
        let (encrypted, acceptor) = match tls {
            Tls::Plain => (false, None),
            Tls::Encrypted { issued, asks_clients: false } => (true, Some(acceptor(&issued, None)?)),
            Tls::Encrypted { issued, asks_clients: true } => (true, Some(acceptor(&issued, Some(any_client()))?)),
            Tls::Mutual { issued, clients_pem } => {
                (true, Some(acceptor(&issued, Some(certified_client(&clients_pem)?))?))
            }
        };
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, acceptor, stop.clone(), handler));
        Ok(HttpServer { address, encrypted, stop })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, without a slash at the end.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", if self.encrypted { "https" } else { "http" }, self.address)
    }
}

async fn serve<H: Handler>(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    stop: CancellationToken,
    handler: Arc<H>,
) {
    let numbers = AtomicU64::new(1);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let peer = Peer { connection: numbers.fetch_add(1, Ordering::Relaxed), certificate: None };
                let (stop, acceptor, handler) = (stop.clone(), acceptor.clone(), handler.clone());
                tokio::spawn(
                    async move { stop.run_until_cancelled(connection(stream, acceptor, peer, handler)).await },
                );
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn connection<H: Handler>(stream: TcpStream, acceptor: Option<TlsAcceptor>, mut peer: Peer, handler: Arc<H>) {
    match acceptor {
        None => converse(stream, peer, handler).await,
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                peer.certificate = shown.map(|certificate| certificate.to_vec());
                converse(stream, peer, handler).await;
            }
            // A client that does not like the certificate is none of our business.
            Err(error) => tracing::debug!(%error, "TLS handshake with a simulator"),
        },
    }
}

async fn converse<H: Handler>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    handler: Arc<H>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (peer, handler) = (peer.clone(), handler.clone());
        async move {
            let (parts, body) = request.into_parts();
            let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
                return Ok(response);
            };
            let answer = handler.answer(peer, Request::from_parts(parts, body.to_bytes())).await;
            // An error ends the connection without an answer.
            answer.map(|answer| answer.map(Full::new)).ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))
        }
    });
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to a simulator ended");
    }
}

fn acceptor(issued: &Issued, clients: Option<Arc<dyn ClientCertVerifier>>) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_slice_iter(issued.full_chain().as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).map_err(|error| failed(&error))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let config = builder.with_single_cert(chain, key).map_err(|error| failed(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn failed(error: &dyn fmt::Display) -> Error {
    Error::Crypto(error.to_string())
}

fn any_client() -> Arc<dyn ClientCertVerifier> {
    Arc::new(AnyClient(Arc::new(aws_lc_rs::default_provider())))
}

fn certified_client(authorities_pem: &str) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities_pem.as_bytes()) {
        roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    builder.build().map_err(|error| failed(&error))
}

/// Asks for a certificate and takes any, or none; that the client has its key is checked.
#[derive(Debug)]
struct AnyClient(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
