//! How a simulated account is described before it starts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use time::OffsetDateTime;

use super::{
    GlobalSignSim,
    course::Course,
    inventory, policy,
    state::{Settings, State},
};
use crate::{
    Result,
    api::{Clock, Gateway, random_hex},
    http_server::{HttpServer, Tls},
    pki::TestCa,
};

/// Describes a [`GlobalSignSim`]; made by [`GlobalSignSim::builder`].
#[derive(Clone, Debug)]
#[must_use = "a simulator exists only once it is started"]
pub struct GlobalSignSimBuilder {
    clock: Clock,
    settings: Settings,
    policy: Value,
    quota: u64,
}

impl Default for GlobalSignSimBuilder {
    fn default() -> Self {
        let page = inventory::PER_PAGE;
        let settings =
            Settings { token_life: time::Duration::minutes(10), needs_claims: false, quota_status: 422, page };
        Self { clock: Clock::default(), settings, policy: policy::default(), quota: 1_000 }
    }
}

impl GlobalSignSimBuilder {
    /// Lives in the time that this function tells. Default: that of the machine. TLS always lives in the machine's.
    pub fn clock(mut self, now: impl Fn() -> OffsetDateTime + Send + Sync + 'static) -> Self {
        self.clock = Clock::new(now);
        self
    }

    /// How long a token counts. Default 10 minutes.
    pub fn token_life(mut self, life: Duration) -> Self {
        self.settings.token_life = life.try_into().unwrap_or(time::Duration::MAX);
        self
    }

    /// The validation policy. Default [`GlobalSignSim::default_policy`].
    pub fn policy(mut self, policy: Value) -> Self {
        self.policy = policy;
        self
    }

    /// How many certificates may be issued. Default 1000.
    pub fn quota(mut self, quota: u64) -> Self {
        self.quota = quota;
        self
    }

    /// What a request is answered with once the quota is used up: no source says. Default 422.
    pub fn quota_status(mut self, status: u16) -> Self {
        self.settings.quota_status = status;
        self
    }

    /// The most things on one page of a list, however many are asked for. Default 100.
    pub fn page(mut self, things: usize) -> Self {
        self.settings.page = things;
        self
    }

    /// Issues only for names that verified claims cover. Default: for all names.
    pub fn requiring_claims(mut self) -> Self {
        self.settings.needs_claims = true;
        self
    }

    /// Binds a port and starts to answer. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when no port can be bound, [`Error::Crypto`](crate::Error::Crypto) when no
    /// certificate can be made.
    ///
    /// Cancel safe: a simulator that was not returned is gone.
    pub async fn start(self) -> Result<GlobalSignSim> {
        let root = TestCa::new("Simulated GlobalSign Root")?;
        let intermediate = root.intermediate("Simulated Atlas TLS CA")?;
        let root_pem = root.certificate_pem().to_owned();
        let clients = TestCa::new("Simulated Atlas Client CA")?;
        let client = clients.issue_client("simulated account")?;
        let (api_key, api_secret) = (random_hex(8), random_hex(20));
        let state = State {
            clock: self.clock,
            settings: self.settings,
            root,
            intermediate,
            api_key: api_key.clone(),
            api_secret: api_secret.clone(),
            read_only: false,
            policy: self.policy,
            tokens: BTreeMap::new(),
            quota: self.quota,
            certificates: BTreeMap::new(),
            claims: BTreeMap::new(),
            published: BTreeSet::new(),
            witness: None,
            course: Course::default(),
        };
        let (tls, ca_pem) = Tls::mutual("simulated Atlas root", clients.certificate_pem())?;
        let gateway = Gateway::new(state);
        let server = HttpServer::start(tls, gateway.clone()).await?;
        Ok(GlobalSignSim { gateway, server, ca_pem, root_pem, client, api_key, api_secret })
    }
}
