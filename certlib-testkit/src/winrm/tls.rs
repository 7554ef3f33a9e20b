//! The TLS endpoints of the host: every port of http.sys on a port of 127.0.0.1, serving what the table says.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{Acceptor, NoServerSessionStorage},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    lock,
    server::Shared,
    windows::{SslKey, Windows},
};
use crate::{Error, Result};

/// Breathing space when the process has run out of descriptors.
const RETRY: Duration = Duration::from_millis(20);

/// What every request over TLS gets.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: Microsoft-IIS/10.0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// The ports that were asked for so far.
#[derive(Debug, Default)]
pub(super) struct Ports(tokio::sync::Mutex<BTreeMap<u16, SocketAddr>>);

impl Ports {
    /// Where a port of the host really is; begins to listen there the first time.
    pub(super) async fn address(
        &self,
        port: u16,
        shared: &Arc<Shared>,
        stop: &CancellationToken,
    ) -> Result<SocketAddr> {
        let mut ports = self.0.lock().await;
        if let Some(address) = ports.get(&port) {
            return Ok(*address);
        }
        let what = "binding a port of the simulated IIS";
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Error::io(what))?;
        let address = listener.local_addr().map_err(Error::io(what))?;
        tokio::spawn(serve(listener, port, Arc::clone(shared), stop.clone()));
        ports.insert(port, address);
        Ok(address)
    }
}

async fn serve(listener: TcpListener, port: u16, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (shared, stop) = (Arc::clone(&shared), stop.clone());
                tokio::spawn(async move {
                    if let Some(Err(error)) = stop.run_until_cancelled(answer(stream, port, &shared)).await {
                        tracing::debug!(%error, port, "a connection to the simulated IIS ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, port: u16, shared: &Shared) -> io::Result<()> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let name = start.client_hello().server_name().map(str::to_owned);
    let found = served(&lock(&shared.state).windows, port, name.as_deref());
    let (chain, key) = found.ok_or_else(|| io::Error::other("http.sys has nothing to serve"))?;
    let mut stream = start.into_stream(Arc::new(config(chain, key)?)).await?;
    let mut request = [0; 1024];
    if stream.read(&mut request).await? > 0 {
        stream.write_all(ANSWER).await?;
    }
    stream.shutdown().await
}

fn config(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> io::Result<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(io::Error::other)?;
    // Every handshake shows what is bound now.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What a handshake on a port, for a name, is answered with.
fn served(
    windows: &Windows,
    port: u16,
    name: Option<&str>,
) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    if !windows.listens(port) {
        return None;
    }
    match windows.http_sys.select(port, name)? {
        (SslKey::Ccs(_), _) => windows.in_central_store(name?),
        (_, entry) => windows.certificates.servable(&entry.store, &entry.certificate_hash),
    }
}
