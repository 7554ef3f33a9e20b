//! How a simulated Vault is described before it starts.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    VaultSim,
    acl::Policy,
    engines::Settings,
    random,
    server::{self, Node},
    state::{Namespace, State, namespace_key},
};
use crate::{Error, Result, pki::TestCa};

/// Describes a [`VaultSim`]; made by [`VaultSim::builder`].
#[derive(Clone, Debug, Default)]
#[must_use = "a simulator exists only once it is started"]
pub struct VaultSimBuilder {
    tls: bool,
    standby: bool,
    ignores_associated_data: bool,
    namespaces: Vec<String>,
    policies: Vec<(String, Policy)>,
}

impl VaultSimBuilder {
    /// Speaks HTTPS, with a certificate for `localhost` and `127.0.0.1` of an authority of its own.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Adds a second address that behaves like a standby node: it redirects (`307`) to the active one.
    pub fn standby(mut self) -> Self {
        self.standby = true;
        self
    }

    /// Behaves like a server before Vault 1.13, which does not know `associated_data` and silently leaves it out.
    pub fn ignoring_associated_data(mut self) -> Self {
        self.ignores_associated_data = true;
        self
    }

    /// Starts with a namespace, such as `team/a`. Those above it come into being as well.
    pub fn namespace(mut self, name: &str) -> Self {
        self.namespaces.push(name.to_owned());
        self
    }

    /// Starts with a policy in the root namespace: paths (`*` at the end, `+` for one part), and what may be done there.
    pub fn policy(mut self, name: &str, rules: &[(&str, &[&str])]) -> Self {
        let rules = rules.iter().map(|(path, capabilities)| {
            ((*path).to_owned(), capabilities.iter().map(|name| (*name).to_owned()).collect())
        });
        self.policies.push((name.to_owned(), Policy::new(rules)));
        self
    }

    /// Binds its ports and starts to answer. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`Error::Io`] when no port can be bound, [`Error::Crypto`] when no certificate or key can be made.
    ///
    /// Cancel safe: a simulator that was not returned is gone.
    pub async fn start(self) -> Result<VaultSim> {
        let root = format!("hvs.{}", random::hex::<14>());
        let settings = Settings { ignores_associated_data: self.ignores_associated_data };
        let mut state = State::new(&root, settings)?;
        for name in &self.namespaces {
            let key = namespace_key(name);
            for (end, _) in key.match_indices('/') {
                state.namespaces.entry(key[..=end].to_owned()).or_insert_with(Namespace::new);
            }
        }
        if let Some(namespace) = state.namespace_mut("") {
            namespace.policies.extend(self.policies);
        }
        let ca = if self.tls { Some(TestCa::new("simulated Vault root")?) } else { None };
        let tls = match &ca {
            Some(ca) => Some(server::acceptor(&ca.issue(&["localhost", "127.0.0.1"])?)?),
            None => None,
        };
        let scheme = if self.tls { "https" } else { "http" };
        let stop = CancellationToken::new();
        let state = Arc::new(Mutex::new(state));
        let (listener, addr) = bind().await?;
        let address = format!("{scheme}://{addr}");
        let node = Node { state: Arc::clone(&state), stop: stop.clone(), tls, active: None };
        let standby = if self.standby { Some(bind().await?) } else { None };
        let standby_address = standby.as_ref().map(|(_, addr)| format!("{scheme}://{addr}"));
        if let Some((listener, _)) = standby {
            tokio::spawn(server::serve(Node { active: Some(address.clone()), ..node.clone() }, listener));
        }
        tokio::spawn(server::serve(node, listener));
        let ca_pem = ca.map(|ca| ca.certificate_pem().to_owned());
        Ok(VaultSim { state, stop, addr, address, standby_address, ca_pem, root })
    }
}

async fn bind() -> Result<(TcpListener, SocketAddr)> {
    let what = "binding a port of the simulated Vault";
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Error::io(what))?;
    let addr = listener.local_addr().map_err(Error::io(what))?;
    Ok((listener, addr))
}
