//! TLS clients for tests: one that trusts a given root, one that only looks at the certificate.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs as provider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    Error, Result,
    process::{self, START_LIMIT},
};

/// How many connections in a row must see the new certificate: while a server reloads, workers of both generations
/// may accept.
const CONSECUTIVE: usize = 20;
/// How long to wait between two of them.
const PAUSE: Duration = Duration::from_millis(20);

/// The SHA-256 of a certificate in DER, as 64 lower-case hexadecimal digits.
pub fn fingerprint(certificate: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, certificate);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Completes a TLS handshake and gives the [`fingerprint`] of the leaf that was served. Trusts every certificate.
///
/// # Errors
///
/// [`Error::Io`] when connecting or the handshake fails, [`Error::Protocol`] when `server_name` is not a host name,
/// [`Error::Timeout`] when the peer stays silent.
pub async fn leaf_fingerprint(addr: SocketAddr, server_name: &str) -> Result<String> {
    let name = ServerName::try_from(server_name.to_owned()).map_err(|error| Error::protocol(server_name, error))?;
    let handshake = async {
        let stream = TcpStream::connect(addr).await?;
        TlsConnector::from(Arc::new(trusting_everything()?)).connect(name, stream).await
    };
    let stream = match timeout(START_LIMIT, handshake).await {
        Ok(stream) => stream.map_err(Error::io(format!("TLS handshake with {addr}")))?,
        Err(_) => return Err(Error::Timeout { what: format!("a TLS handshake with {addr}"), limit: START_LIMIT }),
    };
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    leaf.map(|leaf| fingerprint(leaf)).ok_or_else(|| Error::protocol(addr.to_string(), "no certificate"))
}

/// Waits until the leaf with this [`fingerprint`] is served at `addr`.
///
/// # Errors
///
/// [`Error::Timeout`] when it is not within `limit`.
pub async fn await_served(addr: SocketAddr, fingerprint: &str, limit: Duration) -> Result<()> {
    let what = format!("serving {fingerprint} at {addr}");
    process::poll_until(&what, limit, async || {
        for _ in 0..CONSECUTIVE {
            let served = leaf_fingerprint(addr, "localhost").await.ok()?;
            if served != fingerprint {
                return None;
            }
            // Spread out: on a busy machine a former worker may learn late that it has to go.
            tokio::time::sleep(PAUSE).await;
        }
        Some(())
    })
    .await
}

/// A TLS client configuration that trusts exactly the certificates in `roots_pem`.
///
/// # Errors
///
/// [`Error::Crypto`] when the text holds no certificate.
pub fn client_config(roots_pem: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| Error::Crypto(error.to_string()))?;
        roots.add(certificate).map_err(|error| Error::Crypto(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(Error::Crypto("no certificate among the roots".to_owned()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Crypto(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// An HTTPS client that trusts exactly the certificates in `roots_pem`, uses no proxy and keeps no idle connection.
///
/// # Errors
///
/// [`Error::Crypto`] when the text holds no certificate, [`Error::Protocol`] when the client cannot be built.
pub fn http_client(roots_pem: &str) -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(client_config(roots_pem)?)
        .no_proxy()
        .pool_max_idle_per_host(0)
        .timeout(START_LIMIT)
        .build()
        .map_err(|error| Error::protocol("the HTTP client", error))
}

fn trusting_everything() -> std::io::Result<ClientConfig> {
    let provider = Arc::new(provider::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?;
    let verifier = Arc::new(TrustingEverything(provider));
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Accepts every chain, but still checks that the peer holds the leaf's key: a fingerprint proves nothing otherwise.
#[derive(Debug)]
struct TrustingEverything(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustingEverything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
