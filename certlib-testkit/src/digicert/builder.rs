//! How a simulated account is described before it starts.

use std::collections::{BTreeMap, BTreeSet};

use time::OffsetDateTime;

use super::{
    DigiCertSim, KeyRole,
    account::Organization,
    course::{Approvals, Course},
    state::{Settings, State},
};
use crate::{
    Result,
    api::{Clock, Gateway, random_hex},
    http_server::{HttpServer, Tls},
    pki::TestCa,
};

/// Describes a [`DigiCertSim`]; made by [`DigiCertSim::builder`].
#[derive(Clone, Debug)]
#[must_use = "a simulator exists only once it is started"]
pub struct DigiCertSimBuilder {
    plain: bool,
    clock: Clock,
    settings: Settings,
    organizations: Vec<Organization>,
}

impl Default for DigiCertSimBuilder {
    fn default() -> Self {
        let settings =
            Settings { approvals: Approvals::Off, prevalidated: true, longest_days: 199, revokes_orders: true };
        let main = Organization { id: DigiCertSim::ORGANIZATION, name: "Simulated, Inc.".to_owned(), validated: true };
        Self { plain: false, clock: Clock::default(), settings, organizations: vec![main] }
    }
}

impl DigiCertSimBuilder {
    /// Speaks HTTP instead of HTTPS.
    pub fn plain_http(mut self) -> Self {
        self.plain = true;
        self
    }

    /// Lives in the time that this function tells. Default: that of the machine.
    pub fn clock(mut self, now: impl Fn() -> OffsetDateTime + Send + Sync + 'static) -> Self {
        self.clock = Clock::new(now);
        self
    }

    /// Adds an organization, beside `Simulated, Inc.` ([`DigiCertSim::ORGANIZATION`]).
    pub fn organization(mut self, id: u64, name: &str, validated: bool) -> Self {
        self.organizations.push(Organization { id, name: name.to_owned(), validated });
        self
    }

    /// Whether somebody has to approve orders. Default [`Approvals::Off`].
    pub fn approvals(mut self, approvals: Approvals) -> Self {
        self.settings.approvals = approvals;
        self
    }

    /// No domain counts as validated before control over it has been proved. Default: all do.
    pub fn unvalidated_domains(mut self) -> Self {
        self.settings.prevalidated = false;
        self
    }

    /// The longest life of public certificates, in days; orders may be longer. Default 199.
    pub fn longest_days(mut self, days: i64) -> Self {
        self.settings.longest_days = days;
        self
    }

    /// Leaves an order issued when its only certificate is revoked, as accounts can be set up to.
    pub fn keeping_orders(mut self) -> Self {
        self.settings.revokes_orders = false;
        self
    }

    /// Binds a port and starts to answer. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when no port can be bound, [`Error::Crypto`](crate::Error::Crypto) when no
    /// certificate can be made.
    ///
    /// Cancel safe: a simulator that was not returned is gone.
    pub async fn start(self) -> Result<DigiCertSim> {
        let root = TestCa::new("Simulated DigiCert Root")?;
        let intermediate = root.intermediate("Simulated DigiCert TLS CA")?;
        let root_pem = root.certificate_pem().to_owned();
        let key = random_hex(32).to_ascii_uppercase();
        let state = State {
            clock: self.clock,
            settings: self.settings,
            root,
            intermediate,
            keys: BTreeMap::from([(key.clone(), KeyRole::Administrator)]),
            organizations: self.organizations,
            orders: BTreeMap::new(),
            certificates: BTreeMap::new(),
            requests: BTreeMap::new(),
            domains: BTreeMap::new(),
            validated: BTreeMap::new(),
            published: BTreeSet::new(),
            witness: None,
            course: Course::default(),
            counter: 112_000,
        };
        let (tls, ca_pem) = match self.plain {
            true => (Tls::Plain, None),
            false => Tls::own("simulated CertCentral root", false).map(|(tls, ca_pem)| (tls, Some(ca_pem)))?,
        };
        let gateway = Gateway::new(state);
        let server = HttpServer::start(tls, gateway.clone()).await?;
        Ok(DigiCertSim { gateway, server, ca_pem, root_pem, key })
    }
}
