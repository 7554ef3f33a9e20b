//! Virtual servers that really serve TLS, with what is bound to them at the moment of each handshake.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    certificate, lock,
    state::{Kind, Partition, State},
};
use crate::{Error, Result};

/// Breathing space when the process has run out of descriptors.
const RETRY: Duration = Duration::from_millis(20);

/// Binds a port and serves the virtual server there until `stop`.
pub(super) async fn start(
    state: Arc<Mutex<State>>,
    partition: String,
    vserver: String,
    stop: CancellationToken,
) -> Result<SocketAddr> {
    let what = "binding a port of a virtual server";
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Error::io(what))?;
    let address = listener.local_addr().map_err(Error::io(what))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Crypto(error.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Bound { state, partition, vserver }));
    tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), stop));
    Ok(address)
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (acceptor, stop) = (acceptor.clone(), stop.clone());
                tokio::spawn(async move {
                    let handshake = async { acceptor.accept(stream).await.map(drop) };
                    if let Some(Err(error)) = stop.run_until_cancelled(handshake).await {
                        tracing::debug!(%error, "TLS handshake with a simulated virtual server");
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

/// Selects by what is bound now: for a name, an SNI certificate; otherwise the server certificate.
struct Bound {
    state: Arc<Mutex<State>>,
    partition: String,
    vserver: String,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("vserver", &self.vserver).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Bound {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let state = lock(&self.state);
        let partition = state.partition(&self.partition);
        let holder = partition.holders.get(&(Kind::Vserver, self.vserver.clone()))?;
        let servers = || holder.bindings.iter().filter(|binding| !binding.ca);
        let by_name = hello.server_name().and_then(|name| {
            servers().find(|binding| {
                let bound = partition.certkeys.get(&binding.certkey);
                binding.sni && bound.is_some_and(|certkey| certkey.certificate.is_for(name))
            })
        });
        let chosen = by_name.or_else(|| servers().find(|binding| !binding.sni))?;
        certified(partition, &chosen.certkey).map(Arc::new)
    }
}

/// A pair with the chain that its links make.
fn certified(partition: &Partition, name: &str) -> Option<CertifiedKey> {
    let leaf = partition.certkeys.get(name)?;
    let mut certified = certificate::pair(&leaf.certificate, leaf.key_pem.as_ref()?)?;
    let mut next = leaf.link.as_ref();
    while let Some(issuer) = next.and_then(|name| partition.certkeys.get(name)) {
        certified.cert.push(CertificateDer::from(issuer.certificate.der.clone()));
        next = issuer.link.as_ref();
    }
    Some(certified)
}
