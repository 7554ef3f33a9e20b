//! Virtual servers: each listens on 127.0.0.1 and serves what its client-ssl profiles select.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    sync::{Arc, Weak},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::{config::Config, files, lock, profile, server::Shared};

/// Breathing space when the process has run out of descriptors.
const RETRY: Duration = Duration::from_millis(20);

/// Opens a port for every virtual server that has none yet. Needs a running tokio runtime.
pub(super) fn open_missing(shared: &Arc<Shared>) {
    let mut state = lock(&shared.state);
    let missing: Vec<String> =
        state.config.virtuals.keys().filter(|name| !state.listeners.contains_key(*name)).cloned().collect();
    for name in missing {
        match open(shared, &name) {
            Ok(address) => drop(state.listeners.insert(name, address)),
            Err(error) => tracing::warn!(%error, name, "a virtual server cannot listen"),
        }
    }
}

fn open(shared: &Arc<Shared>, name: &str) -> io::Result<SocketAddr> {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = TcpListener::from_std(listener)?;
    let resolver = Arc::new(Selected { shared: Arc::downgrade(shared), name: name.to_owned() });
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let stop = shared.stop.clone();
    tokio::spawn(async move { stop.run_until_cancelled(serve(listener, acceptor)).await });
    Ok(address)
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(greet(stream, acceptor.clone()))),
            Err(error) => {
                tracing::warn!(%error, "a virtual server cannot accept a connection");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// A handshake is all there is to see; nothing is behind it.
async fn greet(stream: TcpStream, acceptor: TlsAcceptor) {
    if let Ok(mut stream) = acceptor.accept(stream).await {
        let _ = stream.shutdown().await;
    }
}

/// Selects the certificate anew for every handshake.
struct Selected {
    shared: Weak<Shared>,
    name: String,
}

impl fmt::Debug for Selected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selected").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Selected {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shared = self.shared.upgrade()?;
        let state = lock(&shared.state);
        select(&state.config, &self.name, &hello)
    }
}

/// The profile is selected by the server name, then the default for SNI, then the order; its entry by the client's
/// algorithms.
fn select(config: &Config, virtual_server: &str, hello: &ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
    let own = config.virtuals.get(virtual_server).filter(|own| own.enabled)?;
    let names: Vec<&str> = own.client_ssl().collect();
    let own = |name: &&&str| config.client_ssl.get(**name);
    let named = names.iter().find(|name| {
        let wanted = own(name).and_then(|own| own.server_name.as_deref());
        wanted.zip(hello.server_name()).is_some_and(|(pattern, name)| matches(pattern, name))
    });
    let default = || names.iter().find(|name| own(name).is_some_and(|own| own.sni_default));
    let profile = named.or_else(default).or_else(|| names.first())?;
    let pairs = profile::effective(&config.client_ssl, profile).iter().filter_map(|entry| {
        let chain = entry.chain.as_ref().and_then(|chain| config.certs.get(chain));
        files::pair(config.certs.get(&entry.cert)?, config.keys.get(&entry.key)?, chain)
    });
    let mut pairs = pairs.filter(|pair| pair.key.choose_scheme(hello.signature_schemes()).is_some());
    pairs.next().map(Arc::new)
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => name.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
        None => pattern.eq_ignore_ascii_case(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_with_and_without_a_wildcard() {
        assert!(matches("shop.example", "Shop.example") && matches("*.example", "shop.example"));
        assert!(!matches("*.example", "a.shop.example") && !matches("shop.example", "x.example"));
    }
}
