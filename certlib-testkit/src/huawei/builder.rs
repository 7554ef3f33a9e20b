//! How a simulated cloud is described before it starts.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    HuaweiSim, random_hex,
    server::Gateway,
    state::{AccessKey, Project, State},
};
use crate::{
    Result,
    http_server::{HttpServer, Tls},
};

/// Describes a [`HuaweiSim`]; made by [`HuaweiSim::builder`].
#[derive(Clone, Debug)]
#[must_use = "a simulator exists only once it is started"]
pub struct HuaweiSimBuilder {
    tls: bool,
    region: String,
    cdn_settles: Duration,
    scm_quota: Option<usize>,
    shows_private_keys: bool,
}

impl Default for HuaweiSimBuilder {
    fn default() -> Self {
        Self {
            tls: false,
            region: "cn-north-4".to_owned(),
            cdn_settles: Duration::ZERO,
            scm_quota: None,
            shows_private_keys: false,
        }
    }
}

impl HuaweiSimBuilder {
    /// Speaks HTTPS, with a certificate for `localhost` and `127.0.0.1` of an authority of its own.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// The region of the first project. Default `cn-north-4`.
    pub fn region(mut self, region: &str) -> Self {
        region.clone_into(&mut self.region);
        self
    }

    /// How long a domain of the delivery network is `configuring` after a change. Default: not at all.
    pub fn cdn_settles(mut self, after: Duration) -> Self {
        self.cdn_settles = after;
        self
    }

    /// How many certificates the certificate manager takes. Default: any number.
    pub fn scm_quota(mut self, quota: usize) -> Self {
        self.scm_quota = Some(quota);
        self
    }

    /// Shows private keys when certificates are read, as accounts can be set up to.
    pub fn showing_private_keys(mut self) -> Self {
        self.shows_private_keys = true;
        self
    }

    /// Binds a port and starts to answer. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when no port can be bound, [`Error::Crypto`](crate::Error::Crypto) when no
    /// certificate can be made.
    ///
    /// Cancel safe: a simulator that was not returned is gone.
    pub async fn start(self) -> Result<HuaweiSim> {
        let access_key = format!("SIM{}", random_hex(8).to_ascii_uppercase());
        let secret_key = random_hex(20);
        let mut state = State {
            cdn_settles: self.cdn_settles,
            scm_quota: self.scm_quota,
            shows_private_keys: self.shows_private_keys,
            ..State::default()
        };
        state.keys.insert(access_key.clone(), AccessKey { secret: secret_key.clone(), token: None, expired: false });
        let project = random_hex(16);
        state.projects.push(Project { id: project.clone(), region: self.region.clone() });
        let state = Arc::new(Mutex::new(state));
        let (tls, ca_pem) = if self.tls {
            let (tls, ca_pem) = Tls::own("simulated Huawei Cloud root", false)?;
            (tls, Some(ca_pem))
        } else {
            (Tls::Plain, None)
        };
        let server = HttpServer::start(tls, Arc::new(Gateway(Arc::clone(&state)))).await?;
        let stop = CancellationToken::new();
        Ok(HuaweiSim { state, server, stop, ca_pem, access_key, secret_key, project, region: self.region })
    }
}
