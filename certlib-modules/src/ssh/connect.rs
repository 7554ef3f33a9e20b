//! Reaching a host: dial, handshake, host key, login.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use certlib_core::{Context, Error, ErrorClass, Result, classify};
use russh::client::{self, Handle};
use russh::keys::{Algorithm, PublicKeyOrCertificate};
use russh::{AlgorithmKind, Disconnect, Preferred, kex};
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::auth;
use super::config::{SshConfig, SshCredentials, SshLocation};
use super::hostkey::Expectation;
use crate::net::{AddressPolicy, Guard};

/// How many unanswered signs of life end a connection.
const KEEPALIVE_MAX: usize = 3;

/// A connection to a host that has proven who it is, with us logged in.
pub(super) struct Connection {
    pub(super) handle: Handle<Client>,
    /// Whether commands are run, and not something else in their place; set once that is known.
    pub(super) runs_commands: OnceCell<bool>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("closed", &self.handle.is_closed()).finish()
    }
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// `Network`: `resolve_failed`, `connect_refused`, `connect_timeout`, `connect_failed`, `handshake_timeout`,
    /// `connection_lost`; `Auth`: `host_key_unknown`, `host_key_changed`, `host_key_revoked`,
    /// `host_certificate_invalid`, `auth_refused`; `IoPermanent`: `not_ssh`, `no_common_algorithm`; `Validation`:
    /// `address_forbidden`, `private_key_invalid`, `passphrase_missing`, `certificate_invalid`.
    pub(super) async fn open(
        cx: &Context,
        location: &SshLocation,
        config: &SshConfig,
        credentials: &SshCredentials,
    ) -> Result<Self> {
        let place = |error: Error| error.with("host", &location.host).with("port", location.port);
        let login = auth::Login::read(credentials).await?;
        let expected = config.host_key.expectation(&location.host, location.port)?;
        expected.require_knowledge().map_err(place)?;
        if expected.accepts_any {
            tracing::warn!(host = location.host, "the host key is not checked: insecure_accept_any is set");
        }
        let mut handle = greet(cx, location, config, &expected).await.map_err(place)?;
        let logged_in = timeout(config.handshake_timeout, login.perform(&mut handle)).await;
        logged_in.unwrap_or_else(|_| Err(too_slow())).map_err(place)?;
        Ok(Self { handle, runs_commands: OnceCell::new() })
    }

    /// Says good-bye; failure to do so does not matter.
    pub(super) async fn close(self) {
        let _ = self.handle.disconnect(Disconnect::ByApplication, "", "").await;
    }
}

/// Connects until the host has shown a key that is known, or has no further type of key.
async fn greet(
    cx: &Context,
    location: &SshLocation,
    config: &SshConfig,
    expected: &Expectation,
) -> Result<Handle<Client>> {
    let mut seen: Vec<Algorithm> = Vec::new();
    let mut first_refusal = None;
    loop {
        let (keys, certificates) = (expected.algorithms(&seen), expected.certificate_algorithms());
        if keys.is_empty() && certificates.is_empty() {
            return Err(first_refusal.unwrap_or_else(|| expected.nothing_in_common()));
        }
        let stream = dial(&config.addresses, &location.host, location.port, config.dial_timeout).await?;
        let settings = Arc::new(client_config(config, keys, certificates));
        let client = Client { expected: expected.clone(), now: cx.clock.now() };
        let greeting = client::connect_stream(settings, stream, client);
        let refusal = match timeout(config.handshake_timeout, greeting).await {
            Err(_) => return Err(too_slow()),
            Ok(Ok(handle)) => return Ok(handle),
            Ok(Err(refusal)) => refusal,
        };
        match refusal {
            // A host has several keys, and a fingerprint does not tell for which type it is.
            Refusal::HostKey { error, algorithm } if expected.is_pinned() => {
                seen.push(algorithm);
                first_refusal.get_or_insert(error);
            }
            Refusal::HostKey { error, .. } => return Err(error),
            Refusal::Ssh(russh::Error::NoCommonAlgo { kind: AlgorithmKind::Key, .. }) => {
                return Err(first_refusal.unwrap_or_else(|| expected.nothing_in_common()));
            }
            Refusal::Ssh(error) => return Err(failed("ssh.handshake", error)),
        }
    }
}

async fn dial(policy: &AddressPolicy, host: &str, port: u16, limit: Duration) -> Result<TcpStream> {
    let operation = "ssh.connect";
    let unresolved = |message| Error::network(operation, "resolve_failed", message);
    let addresses = match timeout(limit, Guard::new(policy.clone()).resolve(host)).await {
        Ok(Ok(addresses)) => addresses.into_iter().map(|address| SocketAddr::new(address, port)),
        Ok(Err(error)) if error.class() == ErrorClass::Network => {
            return Err(unresolved("the host name cannot be resolved").with_source(error));
        }
        Ok(Err(forbidden)) => return Err(forbidden),
        Err(_) => return Err(unresolved("the host name could not be resolved in time")),
    };
    let mut last = unresolved("the host name has no address");
    for address in addresses {
        last = match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Small packets go back and forth; without this each waits for the acknowledgement of the last.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => {
                let code = match error.kind() {
                    std::io::ErrorKind::ConnectionRefused => "connect_refused",
                    _ => "connect_failed",
                };
                Error::network(operation, code, "the host cannot be reached").with_source(error)
            }
            Err(_) => Error::network(operation, "connect_timeout", "the host did not answer in time"),
        }
        .with("address", address);
    }
    Err(last)
}

fn client_config(config: &SshConfig, keys: Vec<Algorithm>, certificates: Vec<Algorithm>) -> client::Config {
    let mut kex: Vec<kex::Name> = Preferred::DEFAULT.kex.to_vec();
    // For appliances that are held to NIST curves; the markers at the end of the list are no algorithms.
    let end = kex.iter().position(|name| *name == kex::EXTENSION_SUPPORT_AS_CLIENT).unwrap_or(kex.len());
    kex.splice(end..end, [kex::ECDH_SHA2_NISTP256, kex::ECDH_SHA2_NISTP384]);
    client::Config {
        preferred: Preferred {
            kex: Cow::Owned(kex),
            key: Cow::Owned(keys),
            host_key_certificates: Cow::Owned(certificates),
            ..Preferred::DEFAULT
        },
        keepalive_interval: Some(config.keepalive),
        keepalive_max: KEEPALIVE_MAX,
        ..client::Config::default()
    }
}

/// Judges the host's key during the handshake.
pub(super) struct Client {
    expected: Expectation,
    now: OffsetDateTime,
}

/// Why a handshake ended.
#[derive(Debug)]
pub(super) enum Refusal {
    HostKey { error: Error, algorithm: Algorithm },
    Ssh(russh::Error),
}

impl From<russh::Error> for Refusal {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
}

impl client::Handler for Client {
    type Error = Refusal;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Refusal> {
        match self.expected.judge(shown, self.now) {
            Ok(()) => Ok(true),
            Err(error) => Err(Refusal::HostKey { error, algorithm: shown.public_key().algorithm() }),
        }
    }
}

fn too_slow() -> Error {
    Error::network("ssh.handshake", "handshake_timeout", "the host did not complete the handshake in time")
}

/// An error of the SSH library, by class.
pub(super) fn failed(operation: &'static str, error: russh::Error) -> Error {
    use russh::Error as E;
    let (class, code, message) = match &error {
        E::IO(error) => (classify::io(error.kind()), "connection_lost", "the connection was lost"),
        E::Version => (ErrorClass::IoPermanent, "not_ssh", "whoever answers does not speak SSH"),
        E::NoCommonAlgo { .. } => {
            (ErrorClass::IoPermanent, "no_common_algorithm", "the host offers no algorithm that is secure enough")
        }
        E::WrongServerSig => (ErrorClass::Auth, "host_key_changed", "the host could not prove that it has its key"),
        E::ChannelOpenFailure(_) => (ErrorClass::IoTransient, "channel_refused", "the host refuses another session"),
        E::RequestDenied => (ErrorClass::IoPermanent, "request_refused", "the host refuses this request"),
        _ => (ErrorClass::Network, "connection_lost", "the connection was lost"),
    };
    Error::new(class, operation, code, message).with_source(error)
}
