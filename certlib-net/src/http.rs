//! The one HTTP client: guarded, without proxies, redirects or retries of its own.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use certlib_core::classify::{self, TlsFailure};
use certlib_core::error::{Effect, Error, ErrorClass, Result};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, ClientBuilder, redirect, retry};
use rustls::AlertDescription;

use super::http_url::HttpUrl;
use super::resolve::Guard;
use super::tls::{ClientIdentity, TlsSettings};

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let addrs = Guard::resolve(&guard, name.as_str()).await?;
            Ok(Box::new(addrs.into_iter().map(|addr| SocketAddr::new(addr, 0))) as Addrs)
        })
    }
}

/// A client for requests to `url`, and only to `url`: an address in place of a host name is checked here, since no
/// resolver ever sees it.
///
/// HTTP/1.1 only. Proxy environment variables are ignored, redirects are not followed, connections are not kept.
///
/// # Errors
/// `Validation` `address_forbidden`; as [`TlsSettings::check`]; `IoPermanent` `tls_unavailable`.
pub fn client(url: &HttpUrl, guard: &Guard, tls: &TlsSettings, connect_timeout: Duration) -> Result<Client> {
    build(builder(url, guard, tls, None, connect_timeout)?.pool_max_idle_per_host(0))
}

/// The same for many requests to one API, which keeps its connections, and can show a certificate of its own.
pub(crate) fn kept_client(
    url: &HttpUrl,
    guard: &Guard,
    tls: &TlsSettings,
    identity: Option<&ClientIdentity>,
    connect_timeout: Duration,
) -> Result<Client> {
    build(builder(url, guard, tls, identity, connect_timeout)?)
}

fn builder(
    url: &HttpUrl,
    guard: &Guard,
    tls: &TlsSettings,
    identity: Option<&ClientIdentity>,
    connect_timeout: Duration,
) -> Result<ClientBuilder> {
    tls.check()?;
    if let Some(addr) = url.address() {
        guard.policy().check(url.host(), addr)?;
    }
    let mut builder = Client::builder()
        .dns_resolver(Arc::new(guard.clone()))
        .no_proxy()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .http1_only()
        .connect_timeout(connect_timeout)
        .user_agent(concat!("certlib/", env!("CARGO_PKG_VERSION")));
    if tls.verifies() {
        let mut config = tls.client_config(identity)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        builder = builder.tls_backend_preconfigured(config);
    } else {
        tracing::warn!(host = url.host(), "the peer's certificate is not verified, as configured");
        builder = builder.tls_danger_accept_invalid_certs(true);
        if let Some(identity) = identity {
            builder = builder.identity(identity.for_reqwest()?);
        }
    }
    Ok(builder)
}

fn build(builder: ClientBuilder) -> Result<Client> {
    builder.build().map_err(|error| {
        Error::permanent("net.http", "tls_unavailable", "the HTTP client cannot be set up").with_source(error)
    })
}

/// What a failed request means.
///
/// The effect is [`Effect::None`] as long as no connection was made, and [`Effect::Possible`] from then on. The URL
/// and what the peer said are not quoted.
pub fn failure(operation: &'static str, url: &HttpUrl, error: reqwest::Error) -> Error {
    let effect = if error.is_connect() { Effect::None } else { Effect::Possible };
    let timeout = error.is_timeout();
    let error = error.without_url();
    let (class, code, message) = match cause(&error) {
        Cause::Ours(inner) => {
            // Refused by the guard: the same error, in the name of the operation that was asked for.
            let same = Error::new(inner.class(), operation, inner.code().to_owned(), inner.message());
            return inner.context().fold(same, |error, (key, value)| error.with(key, value)).with_effect(effect);
        }
        Cause::Tls(tls) => {
            let described = handshake_failure(operation, tls).with("url", url);
            return described.with_effect(effect).with_source(error);
        }
        _ if timeout => (ErrorClass::Network, "timeout", "the peer did not answer in time"),
        Cause::Io(kind) if effect == Effect::None => {
            (classify::io(kind), "connect_failed", "the peer cannot be connected to")
        }
        // What the peer sent makes no sense: a broken chunk, say, or data that is not compressed as announced. Nothing that
        // we asked for is wrong because of that.
        Cause::Unknown | Cause::Io(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
            (ErrorClass::Network, "no_answer", "the connection gave no HTTP answer that can be read")
        }
        Cause::Io(kind) => (classify::io(kind), "connection_lost", "the connection ended before there was an answer"),
    };
    Error::new(class, operation, code, message).with("url", url).with_effect(effect).with_source(error)
}

/// What a failed TLS handshake means: `tls_untrusted`, `tls_client_refused`, `tls_interrupted` or `tls_policy`, with the
/// reason in a word.
pub fn handshake_failure(operation: &'static str, error: &rustls::Error) -> Error {
    let failure = tls_failure(error);
    Error::new(classify::tls(failure), operation, tls_code(failure), tls_message(failure))
        .with("reason", tls_reason(error))
}

enum Cause<'a> {
    Ours(&'a Error),
    Tls(&'a rustls::Error),
    Io(io::ErrorKind),
    Unknown,
}

/// The deepest thing in the chain of sources that we know how to read.
fn cause(error: &reqwest::Error) -> Cause<'_> {
    let mut found = Cause::Unknown;
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return Cause::Ours(ours);
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Cause::Tls(tls);
        }
        next = error.source();
        if let Some(error) = error.downcast_ref::<io::Error>() {
            found = Cause::Io(error.kind());
            // `source` of an I/O error skips what it wraps.
            if let Some(inner) = error.get_ref() {
                next = Some(inner);
            }
        }
    }
    found
}

fn tls_failure(error: &rustls::Error) -> TlsFailure {
    use AlertDescription as A;
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => TlsFailure::PeerUntrusted,
        rustls::Error::AlertReceived(
            A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::CertificateRequired,
        ) => TlsFailure::ClientRefused,
        rustls::Error::AlertReceived(A::InternalError | A::UserCanceled | A::CloseNotify) => TlsFailure::Interrupted,
        _ => TlsFailure::NoCommonGround,
    }
}

/// What is wrong, in a word that a record can keep: the peer's own text stays out of it.
fn tls_reason(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError as C;
    let rustls::Error::InvalidCertificate(certificate) = error else {
        return match error {
            rustls::Error::AlertReceived(_) => "alert",
            rustls::Error::InvalidMessage(_) => "not_tls",
            rustls::Error::PeerIncompatible(_) => "incompatible",
            rustls::Error::NoCertificatesPresented => "no_certificate",
            _ => "handshake",
        };
    };
    match certificate {
        C::NotValidForName | C::NotValidForNameContext { .. } => "name",
        C::Expired | C::ExpiredContext { .. } => "expired",
        C::NotValidYet | C::NotValidYetContext { .. } => "not_yet_valid",
        C::UnknownIssuer => "unknown_issuer",
        C::Revoked => "revoked",
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => "purpose",
        C::BadSignature => "signature",
        _ => "certificate",
    }
}

fn tls_code(failure: TlsFailure) -> &'static str {
    match failure {
        TlsFailure::PeerUntrusted => "tls_untrusted",
        TlsFailure::ClientRefused => "tls_client_refused",
        TlsFailure::Interrupted => "tls_interrupted",
        _ => "tls_policy",
    }
}

fn tls_message(failure: TlsFailure) -> &'static str {
    match failure {
        TlsFailure::PeerUntrusted => "the peer's certificate is not trusted, expired, or for another name",
        TlsFailure::ClientRefused => "the peer refuses us as a TLS client",
        TlsFailure::Interrupted => "the TLS handshake was broken off",
        _ => "the peer does not speak TLS, or only in ways that are not safe",
    }
}
