//! Entrust CA Gateway, version 1 of its API, as Entrust's plugin for Vault and its shell utility speak it.

mod answer;
mod builder;
mod certificate;
mod enrollment;
mod state;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use self::state::State;
pub use self::{
    builder::CagwSimBuilder,
    enrollment::{CagwEnrollment, CagwStatus},
};
use super::{Injection, history::Record, lock};
use crate::{
    Error, Result,
    http_server::HttpServer,
    pki::{Flaw, Issued},
};

/// A running simulated CA Gateway of Entrust. It stops when dropped.
///
/// The only credential is [`CagwSim::client_certificate`]; without it the answer is 403. There is one authority,
/// [`CagwSim::AUTHORITY`], with the profiles `tls-server` and `tls-server-san` (which wants an alternative name), and
/// enrolments of PKCS#10 requests in the base64 of DER, certificates by serial number, actions on them (revoke, hold,
/// unhold, reactivate), and the events of all certificates, page by page.
///
/// What happens to an enrolment is decided by the test: it is issued at once, or after so many polls
/// ([`CagwSimBuilder::pending_polls`]), or once a human approved it ([`CagwSimBuilder::approvals`],
/// [`CagwSim::approve`]), or never ([`CagwSim::reject`]).
///
/// Entrust's own clients show no enrolment or action that is not done at once, so that much is a guess: both can be asked
/// for by their id, actions with and without the certificate in the path, and
/// [`CagwSimBuilder::without_enrollment_resource`] takes that away for enrolments.
///
/// What it does not have: PKCS#12 and keys made by the gateway, subjects of Security Manager, CRLs, more than one authority.
pub struct CagwSim {
    state: Arc<Mutex<State>>,
    server: HttpServer,
    ca_pem: String,
    root_pem: String,
    issuer_pem: String,
    client: Issued,
}

impl CagwSim {
    /// The id of the authority.
    pub const AUTHORITY: &'static str = "example~issuing";

    /// Describes one; nothing happens until [`CagwSimBuilder::start`].
    pub fn builder() -> CagwSimBuilder {
        CagwSimBuilder::default()
    }

    /// Starts one with the default options.
    ///
    /// # Errors
    /// As [`CagwSimBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// The URL of the gateway, such as `https://127.0.0.1:41235/cagw`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/cagw", self.server.url())
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

    /// All enrolments, the oldest first.
    #[must_use]
    pub fn enrollments(&self) -> Vec<CagwEnrollment> {
        lock(&self.state).snapshots()
    }

    /// One enrolment.
    #[must_use]
    pub fn enrollment(&self, id: &str) -> Option<CagwEnrollment> {
        self.enrollments().into_iter().find(|enrollment| enrollment.id == id)
    }

    /// Whether the certificate with this serial number (hexadecimal) is revoked.
    #[must_use]
    pub fn is_revoked(&self, serial: &str) -> bool {
        lock(&self.state).is_revoked(serial)
    }

    /// A human approves an enrolment that waits for it.
    ///
    /// # Errors
    /// [`Error::Protocol`] when there is no such enrolment, or it does not wait for that.
    pub fn approve(&self, id: &str) -> Result<()> {
        self.decide(id, CagwStatus::Accepted)
    }

    /// A human or the authority rejects an enrolment that is not done.
    ///
    /// # Errors
    /// As [`CagwSim::approve`].
    pub fn reject(&self, id: &str) -> Result<()> {
        self.decide(id, CagwStatus::Rejected)
    }

    /// The authority issues an enrolment, whatever it waits for.
    ///
    /// # Errors
    /// As [`CagwSim::approve`].
    pub fn finish(&self, id: &str) -> Result<()> {
        self.decide(id, CagwStatus::Completed)
    }

    /// [`CagwSimBuilder::pending_polls`], for enrolments from now on.
    pub fn set_pending_polls(&self, polls: u32) {
        lock(&self.state).polls = polls;
    }

    /// [`CagwSimBuilder::approvals`], for enrolments from now on.
    pub fn set_approvals(&self, wanted: bool) {
        lock(&self.state).approvals = wanted;
    }

    /// Rejects every enrolment from now on, after it was accepted.
    pub fn set_rejections(&self, wanted: bool) {
        lock(&self.state).rejects = wanted;
    }

    /// Answers the next action with `REJECTED`.
    pub fn reject_next_action(&self) {
        lock(&self.state).rejects_next_action = true;
    }

    /// Gets the next certificate wrong. Called again, the one after it.
    pub fn spoil_next(&self, flaw: Flaw) {
        lock(&self.state).flaws.push_back(flaw);
    }

    /// Moves its clock forward.
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

    fn decide(&self, id: &str, to: CagwStatus) -> Result<()> {
        let decided = lock(&self.state).decide(id, to);
        decided.map_err(|refusal| Error::protocol("the simulated CA Gateway", refusal.message))
    }
}

impl fmt::Debug for CagwSim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CagwSim").field("url", &self.url()).finish_non_exhaustive()
    }
}
