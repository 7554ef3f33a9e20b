//! How a simulated NetScaler is described before it starts.

use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use super::{
    NetscalerSim, lock, serve,
    server::Node,
    state::{Holder, Kind, State},
};
use crate::{
    Result,
    http_server::{HttpServer, Tls},
};

/// Describes a [`NetscalerSim`]; made by [`NetscalerSim::builder`].
#[derive(Clone, Debug)]
#[must_use = "a simulator exists only once it is started"]
pub struct NetscalerSimBuilder {
    user: String,
    password: String,
    plain_http: bool,
    pair: bool,
    older_build: bool,
    partitions: Vec<String>,
    holders: Vec<(String, Kind, String)>,
}

impl Default for NetscalerSimBuilder {
    fn default() -> Self {
        Self {
            user: "nsroot".to_owned(),
            password: "nsroot-password".to_owned(),
            plain_http: false,
            pair: false,
            older_build: false,
            partitions: Vec::new(),
            holders: Vec::new(),
        }
    }
}

impl NetscalerSimBuilder {
    /// Who may log in. Default `nsroot` with `nsroot-password`.
    pub fn user(mut self, user: &str, password: &str) -> Self {
        (self.user, self.password) = (user.to_owned(), password.to_owned());
        self
    }

    /// Speaks HTTP instead of HTTPS.
    pub fn plain_http(mut self) -> Self {
        self.plain_http = true;
        self
    }

    /// Two nodes: [`NetscalerSim::url`] is the primary one at first, [`NetscalerSim::peer_url`] the secondary one.
    pub fn high_availability(mut self) -> Self {
        self.pair = true;
        self
    }

    /// Behaves like an older build: names of at most 31 characters, no `override` of files, and `599` with 1540 where a
    /// newer one says `404` with 258.
    pub fn older_build(mut self) -> Self {
        self.older_build = true;
        self
    }

    /// Adds a partition.
    pub fn partition(mut self, name: &str) -> Self {
        self.partitions.push(name.to_owned());
        self
    }

    /// Adds a virtual server of type SSL, which listens on a port of 127.0.0.1, to a partition; `""` is the default one.
    pub fn vserver(mut self, partition: &str, name: &str) -> Self {
        self.holders.push((partition.to_owned(), Kind::Vserver, name.to_owned()));
        self
    }

    /// Adds a service. It does not listen.
    pub fn service(mut self, partition: &str, name: &str) -> Self {
        self.holders.push((partition.to_owned(), Kind::Service, name.to_owned()));
        self
    }

    /// Adds a service group. It does not listen.
    pub fn service_group(mut self, partition: &str, name: &str) -> Self {
        self.holders.push((partition.to_owned(), Kind::ServiceGroup, name.to_owned()));
        self
    }

    /// Binds its ports and starts to answer. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when no port can be bound, [`Error::Crypto`](crate::Error::Crypto) when no
    /// certificate can be made.
    ///
    /// Cancel safe: a simulator that was not returned is gone.
    pub async fn start(self) -> Result<NetscalerSim> {
        let mut state = State::new(&self.user, &self.password);
        state.nodes = if self.pair { 2 } else { 1 };
        state.older_build = self.older_build;
        state.longest_name = if self.older_build { 31 } else { 63 };
        for name in &self.partitions {
            state.partition_mut(name);
        }
        let state = Arc::new(Mutex::new(state));
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        for (partition, kind, name) in &self.holders {
            let address = match kind {
                Kind::Vserver => {
                    Some(serve::start(state.clone(), partition.clone(), name.clone(), stop.clone()).await?)
                }
                _ => None,
            };
            let holder = Holder { bindings: Vec::new(), address };
            lock(&state).partition_mut(partition).holders.insert((*kind, name.clone()), holder);
        }
        {
            let mut state = lock(&state);
            state.saved = state.partitions.clone();
        }
        let (mut nodes, mut ca_pem) = (Vec::new(), String::new());
        for number in 0..if self.pair { 2 } else { 1 } {
            let tls = if self.plain_http {
                Tls::Plain
            } else {
                let (tls, own_ca) = Tls::own(&format!("simulated NetScaler {number}"), false)?;
                ca_pem.push_str(&own_ca);
                tls
            };
            nodes.push(HttpServer::start(tls, Arc::new(Node { number, state: state.clone() })).await?);
        }
        let urls = nodes.iter().map(HttpServer::url).collect();
        let ca_pem = Some(ca_pem).filter(|pem| !pem.is_empty());
        let (user, password) = (self.user, self.password);
        Ok(NetscalerSim { state, urls, nodes, ca_pem, user, password, _stop: guard })
    }
}
