//! A dialogue with a relay (RFC 5321), from the first byte to `QUIT`.
//!
//! `lettre` writes our messages, but does not carry them: its transport resolves names itself, keeps what came before
//! `STARTTLS`, and trusts roots of its own.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use certlib_core::clock::Clock;
use certlib_core::error::{Effect, Error, Result};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::OPERATION;
use super::auth::Login;
use super::config::{Security, SmtpConfig, SmtpLocation, tls_required};
use super::reply::{Stage, protocol, refusal, unreadable};
use crate::net::http::handshake_failure;
use crate::net::{Guard, Timeouts};
use crate::wire::reply::Reply;
use crate::wire::{Wire, WireError};

/// How long a relay has to say goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

type Stream = Box<dyn Duplex>;

/// What a relay says it can do.
#[derive(Debug, Default)]
struct Features {
    starttls: bool,
    /// Mechanisms of `AUTH`.
    auth: Vec<String>,
    /// Whether it knows `SIZE`, and how large a message may be.
    size: Option<u64>,
}

/// A dialogue that is ready for a login or a message.
pub(super) struct Session {
    wire: Wire<Stream>,
    relay: String,
    encrypted: bool,
    features: Features,
    clock: Arc<dyn Clock>,
    started: Duration,
    timeouts: Timeouts,
}

/// Who of the recipients gets the message.
#[derive(Debug, Default)]
pub(super) struct Recipients {
    pub(super) accepted: Vec<String>,
    /// With the status of the refusal.
    pub(super) refused: Vec<(String, u16)>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { relay, encrypted, features, .. } = self;
        f.debug_struct("Session")
            .field("relay", relay)
            .field("encrypted", encrypted)
            .field("features", features)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Connects, and introduces itself; over TLS if the location says so.
    ///
    /// # Errors
    /// `Validation`: `address_forbidden`, `tls_required`; `Network`: `dns_failed`, `connect_failed`, `timeout`,
    /// `connection_lost`; `Auth` `tls_untrusted`; `IoPermanent`: `tls_required`, `tls_policy`, `protocol`;
    /// `smtp_status` by its class.
    pub(super) async fn open(
        clock: &Arc<dyn Clock>,
        guard: &Guard,
        location: &SmtpLocation,
        config: &SmtpConfig,
    ) -> Result<Self> {
        let relay = location.label();
        let (started, timeouts) = (clock.monotonic(), config.timeouts);
        let connected = timeout(timeouts.connect(), connect(guard, location, config)).await;
        let (stream, local) = connected.unwrap_or_else(|_| Err(too_slow(&relay, Stage::Greeting)))?;
        let mut session = Self {
            wire: Wire::new(stream),
            relay,
            encrypted: location.security == Security::Tls,
            features: Features::default(),
            clock: Arc::clone(clock),
            started,
            timeouts,
        };
        let greeting = session.reply(Stage::Greeting).await?;
        session.must(greeting, Stage::Greeting, 220)?;
        let name = config.helo.clone().unwrap_or_else(|| literal(local));
        session.hello(&name, location.security).await?;
        if location.security == Security::Starttls {
            session = session.upgrade(location, config).await?;
            session.hello(&name, location.security).await?;
        }
        Ok(session)
    }

    /// Logs in.
    ///
    /// # Errors
    /// `Validation` `auth_needs_tls`; `Auth` `auth_failed`, `auth_not_offered`; and as [`Session::open`].
    pub(super) async fn log_in(&mut self, login: &Login<'_>) -> Result<()> {
        if !self.encrypted {
            return Err(Error::validation(
                OPERATION,
                "auth_needs_tls",
                "a login is sent over encrypted connections only",
            ));
        }
        let mechanism = login.choose(&self.features.auth).ok_or_else(|| {
            Error::auth(OPERATION, "auth_not_offered", "the relay has no way to log in that the credential fits to")
                .with("relay", &self.relay)
        })?;
        let mut line = login.command(mechanism);
        for challenge in 0.. {
            let reply = self.exchange(Stage::Auth, &line).await?;
            if reply.code == 235 {
                return Ok(());
            }
            line = match login.answer(mechanism, challenge) {
                Some(answer) if reply.code == 334 => answer,
                _ => return Err(refusal(&reply, Stage::Auth, &self.relay)),
            };
        }
        Err(protocol("the relay asks for more than a login has"))
    }

    /// Names sender and recipients of a message of `size` bytes. Without `partial`, all of the recipients must be
    /// accepted; with it, one of them.
    ///
    /// # Errors
    /// `Validation` `message_too_large`; `recipient_refused`, `smtp_status` and others by the relay's status.
    pub(super) async fn envelope(
        &mut self,
        from: &str,
        recipients: &[String],
        size: usize,
        partial: bool,
    ) -> Result<Recipients> {
        if let Some(limit) = self.features.size.filter(|limit| *limit > 0 && size as u64 > *limit) {
            return Err(Error::validation(
                OPERATION,
                "message_too_large",
                "the message is larger than the relay takes",
            )
            .with("relay", &self.relay)
            .with("limit", limit)
            .with("actual", size));
        }
        let size = self.features.size.map(|_| format!(" SIZE={size}")).unwrap_or_default();
        let reply = self.exchange(Stage::Mail, &format!("MAIL FROM:<{from}>{size}")).await?;
        self.must(reply, Stage::Mail, 250)?;
        let mut outcome = Recipients::default();
        let mut first = None;
        for recipient in recipients {
            let reply = self.exchange(Stage::Recipient, &format!("RCPT TO:<{recipient}>")).await?;
            if (200..300).contains(&reply.code) {
                outcome.accepted.push(recipient.clone());
                continue;
            }
            let refusal = refusal(&reply, Stage::Recipient, &self.relay).with("recipient", recipient);
            // A relay that is about to close the connection refuses more than this recipient.
            if !partial || reply.code == 421 {
                return Err(refusal);
            }
            outcome.refused.push((recipient.clone(), reply.code));
            first = first.or(Some(refusal));
        }
        match first {
            Some(refusal) if outcome.accepted.is_empty() => Err(refusal),
            _ => Ok(outcome),
        }
    }

    /// Asks whether the message may come.
    ///
    /// # Errors
    /// By the relay's status.
    pub(super) async fn data(&mut self) -> Result<()> {
        let reply = self.exchange(Stage::Data, "DATA").await?;
        self.must(reply, Stage::Data, 354)
    }

    /// Sends the message, after [`Session::data`], and waits until the relay has taken it.
    ///
    /// Not cancel-safe: after a drop the relay may have it.
    ///
    /// # Errors
    /// By the relay's status, with [`Effect::None`]: then it has not taken the message. With [`Effect::Possible`] when
    /// everything was sent and no answer came.
    pub(super) async fn message(&mut self, message: &[u8]) -> Result<Reply> {
        let stuffed = stuffed(message);
        let left = self.left();
        // Without the final dot the relay takes nothing, so until here nothing has happened.
        self.send(Stage::Message, &stuffed, left).await?;
        let unknown = |error: Error| error.with_effect(Effect::Possible);
        let left = self.left();
        self.send(Stage::Message, b".\r\n", left).await.map_err(unknown)?;
        let reply = self.reply_within(Stage::Message, self.left()).await.map_err(unknown)?;
        match reply.code {
            250 => Ok(reply),
            400.. => Err(refusal(&reply, Stage::Message, &self.relay)),
            _ => Err(unknown(refusal(&reply, Stage::Message, &self.relay))),
        }
    }

    /// Says goodbye, and does not mind how that ends.
    pub(super) async fn quit(mut self) {
        let goodbye = async {
            self.wire.send(b"QUIT\r\n").await?;
            Reply::read(&mut self.wire).await.map(drop)
        };
        if !matches!(timeout(FAREWELL, goodbye).await, Ok(Ok(()))) {
            tracing::debug!(relay = self.relay, "the relay said no goodbye");
        }
    }

    /// `EHLO`; whatever was learned before is forgotten.
    async fn hello(&mut self, name: &str, security: Security) -> Result<()> {
        self.features = Features::default();
        let reply = self.exchange(Stage::Hello, &format!("EHLO {name}")).await?;
        if matches!(reply.code, 500 | 502) && security == Security::None {
            let reply = self.exchange(Stage::Hello, &format!("HELO {name}")).await?;
            return self.must(reply, Stage::Hello, 250);
        }
        for (keyword, mut parameters) in reply.extensions() {
            match keyword.as_str() {
                "STARTTLS" => self.features.starttls = true,
                "AUTH" => self.features.auth.extend(parameters.map(str::to_owned)),
                "SIZE" => self.features.size = Some(parameters.next().and_then(|text| text.parse().ok()).unwrap_or(0)),
                _ => {}
            }
        }
        self.must(reply, Stage::Hello, 250)
    }

    async fn upgrade(mut self, location: &SmtpLocation, config: &SmtpConfig) -> Result<Self> {
        if !self.features.starttls {
            return Err(Error::permanent(
                OPERATION,
                "tls_required",
                "the relay does not offer STARTTLS; nothing was sent to it, since it may be somebody in between",
            )
            .with("relay", &self.relay));
        }
        let reply = self.exchange(Stage::Starttls, "STARTTLS").await?;
        self.must(reply, Stage::Starttls, 220)?;
        let Self { wire, relay, clock, started, timeouts, .. } = self;
        let stream = wire.into_inner().ok_or_else(|| {
            protocol("there was more in the clear after the answer to STARTTLS: somebody speaks in the relay's name")
                .with("relay", &relay)
        })?;
        let handshake = timeout(timeouts.connect(), encrypt(stream, location, config)).await;
        let stream = handshake.unwrap_or_else(|_| Err(too_slow(&relay, Stage::Starttls)))?;
        let wire = Wire::new(stream);
        Ok(Self { wire, relay, encrypted: true, features: Features::default(), clock, started, timeouts })
    }

    async fn exchange(&mut self, stage: Stage, line: &str) -> Result<Reply> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(line.len() + 2));
        bytes.extend_from_slice(line.as_bytes());
        bytes.extend_from_slice(b"\r\n");
        let limit = self.limit();
        self.send(stage, &bytes, limit).await?;
        self.reply(stage).await
    }

    async fn send(&mut self, stage: Stage, bytes: &[u8], limit: Duration) -> Result<()> {
        match timeout(limit, self.wire.send(bytes)).await {
            Ok(sent) => sent.map_err(|error| unreadable(error, stage, &self.relay)),
            Err(_) => Err(too_slow(&self.relay, stage)),
        }
    }

    async fn reply(&mut self, stage: Stage) -> Result<Reply> {
        self.reply_within(stage, self.limit()).await
    }

    async fn reply_within(&mut self, stage: Stage, limit: Duration) -> Result<Reply> {
        match timeout(limit, Reply::read(&mut self.wire)).await {
            Ok(reply) => reply.map_err(|error: WireError| unreadable(error, stage, &self.relay)),
            Err(_) => Err(too_slow(&self.relay, stage)),
        }
    }

    fn must(&self, reply: Reply, stage: Stage, code: u16) -> Result<()> {
        if reply.code == code { Ok(()) } else { Err(refusal(&reply, stage, &self.relay)) }
    }

    /// How long one answer may take.
    fn limit(&self) -> Duration {
        self.left().min(Duration::from_millis(self.timeouts.response_ms))
    }

    fn left(&self) -> Duration {
        self.timeouts.total().saturating_sub(self.clock.monotonic().saturating_sub(self.started))
    }
}

/// A connection to the first address of the relay that takes one, and our own address on it.
async fn connect(guard: &Guard, location: &SmtpLocation, config: &SmtpConfig) -> Result<(Stream, IpAddr)> {
    let addrs = resolve(guard, location).await?;
    let mut last = None;
    for addr in addrs {
        match TcpStream::connect(SocketAddr::new(addr, location.port())).await {
            Ok(stream) => {
                let local = stream.local_addr().map(|local| local.ip()).unwrap_or(addr);
                let stream: Stream = Box::new(stream);
                let stream = match location.security {
                    Security::Tls => encrypt(stream, location, config).await?,
                    Security::Starttls | Security::None => stream,
                };
                return Ok((stream, local));
            }
            Err(error) => last = Some(error),
        }
    }
    let error = Error::network(OPERATION, "connect_failed", "the relay cannot be connected to");
    let error = error.with("relay", location.label());
    Err(match last {
        Some(source) => error.with_source(source),
        None => error,
    })
}

/// The relay's addresses: all allowed, and all on this machine where there is to be no TLS.
pub(super) async fn resolve(guard: &Guard, location: &SmtpLocation) -> Result<Vec<IpAddr>> {
    let addrs = guard.resolve(&location.host).await?;
    if location.security == Security::None && !addrs.iter().copied().all(is_loopback) {
        return Err(tls_required(&location.label()));
    }
    Ok(addrs)
}

pub(super) fn is_loopback(addr: IpAddr) -> bool {
    addr.to_canonical().is_loopback()
}

async fn encrypt(stream: Stream, location: &SmtpLocation, config: &SmtpConfig) -> Result<Stream> {
    let relay = location.label();
    let name = location.server_name.as_ref().unwrap_or(&location.host);
    let name = ServerName::try_from(name.clone()).map_err(|_| {
        Error::validation(OPERATION, "location_invalid", "not a name that a certificate can have").with("relay", &relay)
    })?;
    let client = Arc::new(config.tls.client_config(None)?);
    match TlsConnector::from(client).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => handshake_failure(OPERATION, tls).with("relay", relay).with_source(error),
            None => Error::network(OPERATION, "tls_interrupted", "the TLS handshake was broken off")
                .with("relay", relay)
                .with_source(error),
        }),
    }
}

fn too_slow(relay: &str, stage: Stage) -> Error {
    Error::network(OPERATION, "timeout", "the relay did not answer in time")
        .with("relay", relay)
        .with("stage", stage.as_str())
}

/// An address as a client's name (RFC 5321 section 4.1.3).
fn literal(addr: IpAddr) -> String {
    match addr.to_canonical() {
        IpAddr::V4(addr) => format!("[{addr}]"),
        IpAddr::V6(addr) => format!("[IPv6:{addr}]"),
    }
}

/// The message with a second dot before each line that begins with one (RFC 5321 section 4.5.2).
fn stuffed(message: &[u8]) -> Zeroizing<Vec<u8>> {
    let lines = || message.split_inclusive(|byte| *byte == b'\n');
    let dots = lines().filter(|line| line.starts_with(b".")).count();
    let mut out = Zeroizing::new(Vec::with_capacity(message.len() + dots));
    for line in lines() {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_doubled_at_the_start_of_lines_only() {
        let out = stuffed(b".\r\na.b\r\n..c\r\n.\r\n");
        assert_eq!(*out, b"..\r\na.b\r\n...c\r\n..\r\n");
        assert_eq!(*stuffed(b"\r\n"), b"\r\n");
    }

    #[test]
    fn addresses_become_names() {
        assert_eq!(literal("192.0.2.1".parse().unwrap()), "[192.0.2.1]");
        assert_eq!(literal("::ffff:192.0.2.1".parse().unwrap()), "[192.0.2.1]");
        assert_eq!(literal("2001:db8::1".parse().unwrap()), "[IPv6:2001:db8::1]");
    }
}
