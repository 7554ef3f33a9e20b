//! One TLS handshake that succeeds for one certificate only.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use certlib_core::Fingerprint;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What one handshake showed.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) found: Option<Fingerprint>,
    pub(super) problem: Option<String>,
}

impl Outcome {
    pub(super) fn failed(problem: impl Into<String>) -> Self {
        Self { found: None, problem: Some(problem.into()) }
    }
}

/// Connects to `address` and completes a handshake with whoever holds the certificate `expected` and its key.
pub(super) async fn handshake(address: SocketAddr, name: ServerName<'static>, expected: Fingerprint) -> Outcome {
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return Outcome::failed(format!("cannot connect: {error}")),
    };
    let verifier = Arc::new(FingerprintOnly::new(expected));
    let config = match client_config(Arc::clone(&verifier)) {
        Ok(config) => config,
        Err(error) => return Outcome::failed(format!("TLS cannot be set up: {error}")),
    };
    let result = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let found = verifier.found();
    match (result, found) {
        (Ok(_), Some(found)) if found == expected => Outcome { found: Some(found), problem: None },
        (_, Some(found)) if found != expected => {
            Outcome { found: Some(found), problem: Some(format!("another certificate is served: {found}")) }
        }
        (Err(error), found) => Outcome { found, problem: Some(format!("the TLS handshake failed: {error}")) },
        (Ok(_), _) => Outcome::failed("the server showed no certificate"),
    }
}

fn client_config(verifier: Arc<FingerprintOnly>) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // A resumed session would show a certificate from before.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Accepts exactly one leaf, whoever issued it and whatever name it is for, and remembers what it saw.
#[derive(Debug)]
struct FingerprintOnly {
    expected: Fingerprint,
    found: Mutex<Option<Fingerprint>>,
    provider: Arc<CryptoProvider>,
}

impl FingerprintOnly {
    fn new(expected: Fingerprint) -> Self {
        Self { expected, found: Mutex::new(None), provider: Arc::new(aws_lc_rs::default_provider()) }
    }

    fn found(&self) -> Option<Fingerprint> {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServerCertVerifier for FingerprintOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = Fingerprint::of(end_entity);
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        if found != self.expected {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
