//! The SSH side of a host: logins, channels, commands, the SFTP subsystem, forwarding.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, atomic::Ordering},
};

use russh::{
    Channel, ChannelId, ChannelOpenFailure,
    keys::Algorithm,
    server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session, VerifiedPublicKey},
};
use tokio::{
    io::{AsyncReadExt, copy_bidirectional},
    net::TcpStream,
};

use super::{
    Fault, Operation,
    actor::Actor,
    exec,
    host::{Host, User},
    sftp::SftpHandler,
    stream::CutStream,
};

/// Answers one TCP connection to the SSH port, until either side ends it or the host stops.
pub(super) async fn answer(host: Arc<Host>, stream: TcpStream) {
    let connection = host.connections.fetch_add(1, Ordering::Relaxed) + 1;
    let _open = OpenConnection::new(&host);
    let cut = host.stop.child_token();
    let mut stream = CutStream::new(stream, cut.clone());
    if host.fault() == Some(Fault::Hang) {
        // Only the client, or the end of the host, ends this.
        let mut ignored = [0; 256];
        while stream.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
        return;
    }
    host.pace().await;
    let Ok(config) = host.greeting() else {
        return;
    };
    let client = Client { host: Arc::clone(&host), connection, cut, actor: None, channels: HashMap::new() };
    match russh::server::run_stream(config, stream, client).await {
        Ok(session) => {
            if let Err(error) = session.await {
                tracing::debug!(host = host.name, connection, %error, "SSH connection ended");
            }
        }
        Err(error) => tracing::debug!(host = host.name, connection, %error, "SSH greeting failed"),
    }
}

/// Counts a connection as open for as long as it lives.
struct OpenConnection<'a>(&'a Host);

impl<'a> OpenConnection<'a> {
    fn new(host: &'a Host) -> Self {
        host.open_connections.fetch_add(1, Ordering::Relaxed);
        Self(host)
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.open_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection, before and after login.
struct Client {
    host: Arc<Host>,
    connection: u64,
    cut: tokio_util::sync::CancellationToken,
    actor: Option<Arc<Actor>>,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl Client {
    /// Decides on a login attempt and records it.
    async fn decide(&mut self, name: &str, method: &'static str, matches: impl Fn(&User) -> bool) -> Auth {
        self.host.pace().await;
        let refused = self.host.fault() == Some(Fault::AuthRefused);
        let mut candidates = self.host.users.iter().filter(|user| user.name == name);
        let user = candidates.find(|user| !refused && matches(user)).cloned();
        self.host.record(self.connection, Operation::Login { user: name.to_owned(), method, accepted: user.is_some() });
        let Some(user) = user else {
            return Auth::reject();
        };
        self.actor = Some(Arc::new(Actor {
            host: Arc::clone(&self.host),
            connection: self.connection,
            cut: self.cut.clone(),
            user,
        }));
        Auth::Accept
    }
}

/// Modern servers do not take the SHA-1 signature of RSA keys.
fn is_sha1(algorithm: &Algorithm) -> bool {
    matches!(algorithm, Algorithm::Rsa { hash: None })
}

impl Handler for Client {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        let known = self.host.users.iter().any(|candidate| {
            candidate.name == user && (candidate.keys.iter()).any(|key| key.key_data() == offer.public_key.key_data())
        });
        if known && !is_sha1(offer.algorithm) {
            return Ok(Auth::Accept);
        }
        // The refusal of an offer is a login attempt that ends here.
        Ok(self.decide(user, "publickey", |_| false).await)
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let usable = !is_sha1(key.algorithm);
        let offered = key.public_key.key_data();
        let matches = |user: &User| usable && user.keys.iter().any(|key| key.key_data() == offered);
        Ok(self.decide(user, "publickey", matches).await)
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        let matches = |user: &User| user.password.as_deref() == Some(password);
        Ok(self.decide(user, "password", matches).await)
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let Some(mut response) = response else {
            return Ok(Auth::Partial {
                name: Cow::Borrowed(""),
                instructions: Cow::Borrowed(""),
                prompts: Cow::Borrowed(&[(Cow::Borrowed("Password: "), false)]),
            });
        };
        let answer = response.next().unwrap_or_default();
        let matches = |user: &User| {
            let password = user.password.as_deref().map(str::as_bytes);
            password == Some(&answer[..])
        };
        Ok(self.decide(user, "keyboard-interactive", matches).await)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host_to_connect: &str,
        port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let loopback = host_to_connect == "localhost"
            || (host_to_connect.parse::<IpAddr>()).is_ok_and(|address| address.is_loopback());
        let port = u16::try_from(port_to_connect);
        let (true, Ok(port)) = (loopback, port) else {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        };
        let cut = self.cut.clone();
        tokio::spawn(async move {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                Ok(mut onward) => {
                    reply.accept().await;
                    let mut tunnel = channel.into_stream();
                    tokio::select! {
                        () = cut.cancelled() => {}
                        _ = copy_bidirectional(&mut tunnel, &mut onward) => {}
                    }
                }
                Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
            }
        });
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        self.channels.remove(&channel);
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let command = String::from_utf8_lossy(data).into_owned();
        let (Some(actor), Some(open)) = (&self.actor, self.channels.remove(&channel)) else {
            return session.channel_failure(channel);
        };
        session.channel_success(channel)?;
        let cut = self.cut.clone();
        let run = exec::run(Arc::clone(actor), open, session.handle(), command);
        tokio::spawn(async move { cut.run_until_cancelled_owned(run).await });
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if name != "sftp" || !self.host.offers_sftp {
            return session.channel_failure(channel);
        }
        let (Some(actor), Some(open)) = (&self.actor, self.channels.remove(&channel)) else {
            return session.channel_failure(channel);
        };
        session.channel_success(channel)?;
        russh_sftp::server::run(open.into_stream(), SftpHandler::new(Arc::clone(actor))).await;
        Ok(())
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        _modes: &[(russh::Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }
}
