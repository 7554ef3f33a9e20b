//! One TLS handshake that succeeds for one certificate only.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use certlib_core::{CertificateBundle, Fingerprint};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::starttls::{self, Starttls};

/// What one handshake showed.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) found: Option<Fingerprint>,
    pub(super) problem: Option<String>,
    /// Whether there was an OCSP staple; `None` when there was no certificate either.
    pub(super) ocsp_staple: Option<bool>,
}

impl Outcome {
    pub(super) fn failed(problem: impl Into<String>) -> Self {
        Self { found: None, problem: Some(problem.into()), ocsp_staple: None }
    }
}

/// Connects to `address`, upgrades the connection if asked to, and completes a handshake with whoever holds the
/// certificate `expected` and its key.
pub(super) async fn handshake(
    address: SocketAddr,
    starttls: Option<Starttls>,
    name: ServerName<'static>,
    expected: Fingerprint,
) -> Outcome {
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return Outcome::failed(format!("cannot connect: {error}")),
    };
    let stream = match starttls {
        None => stream,
        Some(protocol) => match starttls::upgrade(protocol, stream).await {
            Ok(stream) => stream,
            Err(problem) => return Outcome::failed(problem),
        },
    };
    let verifier = Arc::new(FingerprintOnly::new(expected));
    let config = match client_config(Arc::clone(&verifier)) {
        Ok(config) => config,
        Err(error) => return Outcome::failed(format!("TLS cannot be set up: {error}")),
    };
    let result = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let Some(Shown { chain, ocsp_staple, key_fits }) = verifier.shown() else {
        return Outcome::failed(match result {
            Err(error) => format!("the TLS handshake failed: {error}"),
            Ok(_) => "the server showed no certificate".to_owned(),
        });
    };
    let found = Fingerprint::of(&chain[0]);
    let problem = match result {
        _ if found != expected => Some(format!("another certificate is served: {found}")),
        _ if !key_fits => Some("the server does not hold the private key of the certificate that it shows".to_owned()),
        Err(error) => Some(format!("the TLS handshake failed: {error}")),
        Ok(_) => chain_problem(chain),
    };
    Outcome { found: Some(found), problem, ocsp_staple: Some(ocsp_staple) }
}

/// What is wrong with the order of the certificates that were shown, leaf first.
fn chain_problem(chain: Vec<Vec<u8>>) -> Option<String> {
    let error = CertificateBundle::new(chain, None).and_then(|served| served.check_signatures()).err()?;
    let at = error.context().find(|(key, _)| *key == "index").map(|(_, index)| format!(" at certificate {index}"));
    let at = at.unwrap_or_default();
    Some(format!("the served chain does not lead from the leaf to its issuers in order{at} ({})", error.code()))
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

/// What a server showed.
#[derive(Debug, Clone)]
struct Shown {
    /// DER, leaf first. Not empty.
    chain: Vec<Vec<u8>>,
    ocsp_staple: bool,
    /// Whether it is known to hold the leaf's key; `true` until it has failed to prove it.
    key_fits: bool,
}

/// Accepts exactly one leaf, whoever issued it and whatever name it is for, and remembers what it saw.
#[derive(Debug)]
struct FingerprintOnly {
    expected: Fingerprint,
    shown: Mutex<Option<Shown>>,
    provider: Arc<CryptoProvider>,
}

impl FingerprintOnly {
    fn new(expected: Fingerprint) -> Self {
        Self { expected, shown: Mutex::new(None), provider: Arc::new(aws_lc_rs::default_provider()) }
    }

    fn shown(&self) -> Option<Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn proven(
        &self,
        signature: Result<HandshakeSignatureValid, rustls::Error>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if signature.is_err()
            && let Some(shown) = self.shown.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
        {
            shown.key_fits = false;
        }
        signature
    }
}

impl ServerCertVerifier for FingerprintOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = Fingerprint::of(end_entity);
        let chain = std::iter::once(end_entity).chain(intermediates).map(|der| der.to_vec()).collect();
        let shown = Shown { chain, ocsp_staple: !ocsp_response.is_empty(), key_fits: true };
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
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
        self.proven(verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.proven(verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
