//! Entrust Certificate Services: the Enterprise API, version 2 (cms-api 2.1).

mod answer;
mod builder;
mod issue;
mod order;
mod state;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

pub use self::{
    builder::EcsSimBuilder,
    order::{EcsOrder, EcsStatus},
};
use self::{
    issue::Verdict,
    state::{Domain, Organization, State},
};
use super::{Injection, history::Record, lock};
use crate::{
    Error, Result,
    http_server::HttpServer,
    pki::{Flaw, Issued},
};

/// A running simulated Enterprise API of Entrust Certificate Services. It stops when dropped.
///
/// A client logs in with [`EcsSim::USER`] and [`EcsSim::KEY`] **and** shows [`EcsSim::client_certificate`]: without the
/// first the answer is 401, without the second 403. There are organisations with their clients and domains, the inventory,
/// and orders: place (or only validate), status, list, by thumbprint, renew, reissue, approve, decline, suspend, revoke.
///
/// What happens to an order is decided by the test: it is issued at once, or after so many polls
/// ([`EcsSimBuilder::pending_polls`]), or once a human approved it ([`EcsSimBuilder::approvals`], `queueForApproval`,
/// [`EcsSim::approve`]), or never. Serial numbers begin with a zero that the API cuts. It is checked against the handler
/// for Entrust of `acme2certifier` and the module `ecs_certificate` of Ansible.
///
/// Where the documents leave it open: a validation answers `{}`, a list is in the order in which the orders were made and
/// does not show what is under `tracking`, `code` in errors is ten times the status.
///
/// What it does not have: S/MIME and code signing, key pairs made by the service, adding and verifying domains, clients'
/// rights, quorums.
pub struct EcsSim {
    state: Arc<Mutex<State>>,
    server: HttpServer,
    ca_pem: String,
    root_pem: String,
    issuer_pem: String,
    client: Issued,
}

impl EcsSim {
    /// The API user.
    pub const USER: &'static str = "certlib";
    /// Its key.
    pub const KEY: &'static str = "simulated-entrust-key";
    /// The first organisation, whose client has the id 1 and the domain `shop.example`.
    pub const ORGANIZATION: &'static str = "Example Inc";

    /// Describes one; nothing happens until [`EcsSimBuilder::start`].
    pub fn builder() -> EcsSimBuilder {
        EcsSimBuilder::default()
    }

    /// Starts one with the default options.
    ///
    /// # Errors
    /// As [`EcsSimBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// The URL of the API, such as `https://127.0.0.1:41235/enterprise/v2`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/enterprise/v2", self.server.url())
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.address()
    }

    /// The root to trust for the connection, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The certificate that a client has to show, with its key.
    #[must_use]
    pub fn client_certificate(&self) -> &Issued {
        &self.client
    }

    /// The root above the certificates that it issues, PEM.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The authority that issues certificates, PEM.
    #[must_use]
    pub fn issuer_pem(&self) -> &str {
        &self.issuer_pem
    }

    /// Adds an organisation; the id of its client.
    pub fn add_organization(&self, name: &str, approved: bool) -> i64 {
        let mut state = lock(&self.state);
        let client = 1 + state.organizations.iter().map(|known| known.client).max().unwrap_or_default();
        state.organizations.push(Organization { name: name.to_owned(), client, approved });
        client
    }

    /// Adds a domain of a client.
    pub fn add_domain(&self, client: i64, name: &str, approved: bool) {
        lock(&self.state).domains.push(Domain { name: name.to_ascii_lowercase(), client, approved });
    }

    /// All orders, the oldest first.
    #[must_use]
    pub fn orders(&self) -> Vec<EcsOrder> {
        let state = lock(&self.state);
        state.orders.iter().map(|entry| entry.snapshot(state.desk.now())).collect()
    }

    /// One order, by its `trackingId`.
    #[must_use]
    pub fn order(&self, id: i64) -> Option<EcsOrder> {
        self.orders().into_iter().find(|order| order.id == id)
    }

    /// A human approves an order that waits for it.
    ///
    /// # Errors
    /// [`Error::Protocol`] when there is no such order, or it does not wait for that.
    pub fn approve(&self, id: i64) -> Result<()> {
        self.decide(id, Verdict::Approve)
    }

    /// A human declines an order that waits for approval.
    ///
    /// # Errors
    /// As [`EcsSim::approve`].
    pub fn decline(&self, id: i64, reason: &str) -> Result<()> {
        self.decide(id, Verdict::Decline(reason))
    }

    /// The authority issues an order, however often one would still have to ask.
    ///
    /// # Errors
    /// As [`EcsSim::approve`].
    pub fn finish(&self, id: i64) -> Result<()> {
        self.decide(id, Verdict::Finish)
    }

    /// [`EcsSimBuilder::pending_polls`], for orders from now on.
    pub fn set_pending_polls(&self, polls: u32) {
        lock(&self.state).polls = polls;
    }

    /// [`EcsSimBuilder::approvals`], for orders from now on.
    pub fn set_approvals(&self, wanted: bool) {
        lock(&self.state).approvals = wanted;
    }

    /// [`EcsSimBuilder::inventory`], from now on.
    pub fn set_inventory(&self, certificates: Option<u32>) {
        lock(&self.state).inventory = certificates;
    }

    /// Declines every order from now on, after it was accepted.
    pub fn set_rejections(&self, wanted: bool) {
        lock(&self.state).declines = wanted;
    }

    /// Gets the next certificate wrong. Called again, the one after it.
    pub fn spoil_next(&self, flaw: Flaw) {
        lock(&self.state).flaws.push_back(flaw);
    }

    /// Moves its clock forward: certificates expire.
    pub fn advance(&self, by: Duration) {
        lock(&self.state).desk.ahead += time::Duration::try_from(by).unwrap_or(time::Duration::ZERO);
    }

    /// Makes it misbehave.
    pub fn inject(&self, injection: Injection) {
        lock(&self.state).desk.faults.push(injection);
    }

    /// Makes it behave again.
    pub fn clear_faults(&self) {
        lock(&self.state).desk.faults.clear();
    }

    /// What was asked of it over HTTP, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Record> {
        lock(&self.state).desk.history.clone()
    }

    /// Stops listening and ends all connections.
    pub fn stop(self) {}

    fn decide(&self, id: i64, verdict: Verdict<'_>) -> Result<()> {
        let decided = lock(&self.state).decide(id, verdict);
        decided.map_err(|refusal| Error::protocol("the simulated Enterprise API", refusal.messages.join("; ")))
    }
}

impl fmt::Debug for EcsSim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EcsSim").field("url", &self.url()).finish_non_exhaustive()
    }
}
