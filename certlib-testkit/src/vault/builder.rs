//! How a simulated Vault is described before it starts.

use std::sync::{Arc, Mutex};

use super::{
    VaultSim,
    acl::Policy,
    engines::Settings,
    random,
    server::Node,
    state::{Namespace, State, namespace_key},
};
use crate::{
    Result,
    http_server::{HttpServer, Tls},
};

/// Describes a [`VaultSim`]; made by [`VaultSim::builder`].
#[derive(Clone, Debug, Default)]
#[must_use = "a simulator exists only once it is started"]
pub struct VaultSimBuilder {
    tls: bool,
    standby: bool,
    settings: Settings,
    namespaces: Vec<String>,
    policies: Vec<(String, Policy)>,
}

impl VaultSimBuilder {
    /// Speaks HTTPS, with a certificate for `localhost` and `127.0.0.1` of an authority of its own. Clients are asked for
    /// a certificate, which only the login method `cert` looks at.
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
        self.settings.ignores_associated_data = true;
        self
    }

    /// Behaves like a server before Vault 1.11, whose PKI engines have one issuer each.
    pub fn with_single_issuers(mut self) -> Self {
        self.settings.single_issuer = true;
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
    /// [`Error::Io`](crate::Error::Io) when no port can be bound, [`Error::Crypto`](crate::Error::Crypto) when no certificate
    /// or key can be made.
    ///
    /// Cancel safe: a simulator that was not returned is gone.
    pub async fn start(self) -> Result<VaultSim> {
        let root = format!("hvs.{}", random::hex::<14>());
        let mut state = State::new(&root, self.settings)?;
        for name in &self.namespaces {
            let key = namespace_key(name);
            for (end, _) in key.match_indices('/') {
                state.namespaces.entry(key[..=end].to_owned()).or_insert_with(Namespace::new);
            }
        }
        if let Some(namespace) = state.namespace_mut("") {
            namespace.policies.extend(self.policies);
        }
        let (tls, ca_pem) = match self.tls {
            true => Tls::own("simulated Vault root", true).map(|(tls, ca_pem)| (tls, Some(ca_pem)))?,
            false => (Tls::Plain, None),
        };
        let state = Arc::new(Mutex::new(state));
        let node = Node { state: Arc::clone(&state), active: None };
        let server = HttpServer::start(tls.clone(), Arc::new(node)).await?;
        let address = server.url();
        let standby = match self.standby {
            true => {
                let node = Node { state: Arc::clone(&state), active: Some(address.clone()) };
                Some(HttpServer::start(tls, Arc::new(node)).await?)
            }
            false => None,
        };
        let standby_address = standby.as_ref().map(HttpServer::url);
        Ok(VaultSim { state, server, _standby: standby, address, standby_address, ca_pem, root })
    }
}
