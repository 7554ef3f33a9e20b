//! How a simulated BIG-IP is described before it starts.

use std::sync::{Arc, Mutex};

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{
    F5Sim,
    auth::{Role, User},
    config::Config,
    files::{CertFile, KeyFile},
    profile::{Profile, Side},
    refused,
    server::Shared,
    state::State,
};
use crate::{
    Result,
    http_server::{HttpServer, Tls},
    pki::TestCa,
};

/// Describes an [`F5Sim`]; made by [`F5Sim::builder`].
#[derive(Clone, Debug, Default)]
#[must_use = "a simulator exists only once it is started"]
pub struct F5SimBuilder {
    users: Vec<(String, User)>,
    folders: Vec<String>,
    group: Option<String>,
    without_basic: bool,
}

impl F5SimBuilder {
    /// Adds a local user, beside `admin`.
    pub fn user(self, name: &str, password: &str, role: Role) -> Self {
        self.remote_user("tmos", name, password, role)
    }

    /// Adds a user who logs in with another provider, such as that of a directory.
    pub fn remote_user(mut self, provider: &str, name: &str, password: &str, role: Role) -> Self {
        let user = User { password: password.to_owned(), provider: provider.to_owned(), role };
        self.users.push((name.to_owned(), user));
        self
    }

    /// Adds a partition such as `/Tenant`, or a folder in one, such as `/Tenant/app`.
    pub fn folder(mut self, path: &str) -> Self {
        self.folders.push(path.to_owned());
        self
    }

    /// Makes it one of two units, with a device group of this name.
    pub fn device_group(mut self, name: &str) -> Self {
        self.group = Some(name.to_owned());
        self
    }

    /// Lets nobody in with HTTP Basic.
    pub fn without_basic(mut self) -> Self {
        self.without_basic = true;
        self
    }

    /// Binds its port and starts to answer. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when no port can be bound, [`Error::Crypto`](crate::Error::Crypto) when no
    /// certificate can be made.
    ///
    /// Cancel safe: a simulator that was not returned is gone.
    pub async fn start(self) -> Result<F5Sim> {
        let mut config = factory_settings()?;
        for path in &self.folders {
            // Those above it come into being as well.
            for (end, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
                config.folders.insert(path[..end].to_owned());
            }
            config.folders.insert(path.clone());
        }
        let mut state = State::new(config);
        state.group = self.group;
        state.logins.without_basic = self.without_basic;
        let (password, provider) = (F5Sim::PASSWORD.to_owned(), "tmos".to_owned());
        state.logins.users.insert(F5Sim::USER.to_owned(), User { password, provider, role: Role::Administrator });
        state.logins.users.extend(self.users);
        let (tls, ca_pem) = Tls::own("simulated BIG-IP root", false)?;
        let shared = Arc::new(Shared { state: Mutex::new(state), stop: CancellationToken::new() });
        let server = HttpServer::start(tls, Arc::clone(&shared)).await?;
        Ok(F5Sim { shared, server, ca_pem })
    }
}

/// What a new BIG-IP has: a certificate of its own, and the profiles that others come from.
fn factory_settings() -> Result<Config> {
    const CERT: &str = "/Common/default.crt";
    const KEY: &str = "/Common/default.key";

    let issued = TestCa::new("simulated BIG-IP")?.issue(&["localhost.localdomain"])?;
    let now = OffsetDateTime::now_utc();
    let source = "/config/ssl/ssl.crt/default.crt";
    let cert = CertFile::read(issued.certificate_pem.as_bytes(), source, now, None).map_err(refused)?;
    let key = KeyFile::read(issued.key_pem.as_bytes(), source, now, None).map_err(refused)?;
    let mut config = Config::default();
    config.folders.insert("/Common".to_owned());
    config.certs.insert(CERT.to_owned(), cert);
    config.keys.insert(KEY.to_owned(), key);
    for side in Side::BOTH {
        let entry = (side == Side::Client).then_some((CERT, KEY));
        config.profiles_mut(side).insert(side.root().to_owned(), Profile::root(side, entry));
    }
    Ok(config)
}
