//! TLS for real: ports that serve whatever certificate the state selects at that moment.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex},
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{io::AsyncReadExt as _, net::TcpListener};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{lock, state::State};
use crate::{Error, Result};

/// What a port serves for.
#[derive(Clone, Debug)]
pub(super) enum Front {
    Listener(String),
    Host(String),
    Domain(String),
}

struct Selector {
    state: Arc<Mutex<State>>,
    front: Front,
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selector").field("front", &self.front).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Selector {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let state = lock(&self.state);
        let material = match &self.front {
            Front::Listener(id) => {
                let listener = state.listeners.get(id)?;
                let find = |id: &String| state.elb_certificates.get(id);
                let named = hello
                    .server_name()
                    .and_then(|name| listener.sni.iter().filter_map(find).find(|found| found.is_for(name)));
                &named.or_else(|| listener.default.as_ref().and_then(find))?.material
            }
            Front::Host(id) => &state.waf_certificates.get(state.waf_hosts.get(id)?.certificate.as_ref()?)?.material,
            Front::Domain(name) => &state.cdn_domains.get(name)?.certificate.as_ref()?.material,
        };
        Some(Arc::clone(&material.served))
    }
}

/// Binds a port and serves on it until `stop`. Needs a running tokio runtime.
pub(super) fn serve(state: Arc<Mutex<State>>, front: Front, stop: CancellationToken) -> Result<SocketAddr> {
    let what = "binding a port of the simulated cloud";
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::io(what))?;
    listener.set_nonblocking(true).map_err(Error::io(what))?;
    let listener = TcpListener::from_std(listener).map_err(Error::io(what))?;
    let address = listener.local_addr().map_err(Error::io(what))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Crypto(error.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Selector { state, front }));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::task::yield_now().await;
                continue;
            };
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Whoever comes wants to see the certificate, and nothing else.
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.read(&mut [0; 1]).await;
                }
            });
        }
    }));
    Ok(address)
}
