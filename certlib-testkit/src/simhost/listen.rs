//! Accepts connections for one host, and stops to on demand.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, oneshot},
};

use super::{host::Host, ssh};

const BACKLOG: u32 = 128;

/// Breathing space when the process has run out of descriptors.
const RETRY: Duration = Duration::from_millis(20);

/// A port that either listens or refuses, and in both cases belongs to this host.
pub(super) struct Gate {
    address: SocketAddr,
    state: State,
}

enum State {
    Open(TcpListener),
    /// Bound but not listening: the kernel refuses connections and gives the port to nobody else.
    Closed(TcpSocket),
    /// Between the two.
    Moving,
}

impl Gate {
    /// Binds a port of the kernel's choice on the loopback interface.
    pub(super) fn bind(open: bool) -> io::Result<Self> {
        let socket = bound((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = socket.local_addr()?;
        let state = if open { State::Open(socket.listen(BACKLOG)?) } else { State::Closed(socket) };
        Ok(Self { address, state })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    fn set_open(&mut self, open: bool) -> io::Result<()> {
        self.state = match (std::mem::replace(&mut self.state, State::Moving), open) {
            (State::Closed(socket), true) => State::Open(socket.listen(BACKLOG)?),
            (State::Moving, true) => State::Open(bound(self.address)?.listen(BACKLOG)?),
            (State::Open(listener), false) => {
                drop(listener);
                State::Closed(bound(self.address)?)
            }
            (State::Moving, false) => State::Closed(bound(self.address)?),
            (unchanged, _) => unchanged,
        };
        Ok(())
    }

    async fn accept(&self) -> io::Result<TcpStream> {
        match &self.state {
            State::Open(listener) => listener.accept().await.map(|(stream, _)| stream),
            State::Closed(_) | State::Moving => std::future::pending().await,
        }
    }
}

fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Connections that are still closing must not keep the port from coming back.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Asks for the SSH port to listen or to refuse; answered when it does.
pub(super) struct Switch {
    pub(super) open: bool,
    pub(super) done: oneshot::Sender<io::Result<()>>,
}

/// The one task an idle host costs. Ends when the host stops.
pub(super) async fn serve(host: Arc<Host>, mut ssh: Gate, tls: TcpListener, mut switches: mpsc::Receiver<Switch>) {
    loop {
        let accepted = tokio::select! {
            () = host.stop.cancelled() => return,
            Some(switch) = switches.recv() => {
                // Whoever asked may have stopped waiting.
                let _ = switch.done.send(ssh.set_open(switch.open));
                continue;
            }
            accepted = ssh.accept() => accepted.map(|stream| {
                tokio::spawn(ssh::answer(Arc::clone(&host), stream));
            }),
            accepted = tls.accept() => accepted.map(|(stream, _)| {
                host.tls_connections.fetch_add(1, Ordering::Relaxed);
                let host = Arc::clone(&host);
                tokio::spawn(async move {
                    let answer = host.service.answer(stream, &host.name);
                    host.stop.run_until_cancelled(answer).await
                });
            }),
        };
        if let Err(error) = accepted {
            tracing::warn!(host = host.name, %error, "cannot accept a connection");
            tokio::time::sleep(RETRY).await;
        }
    }
}
