//! A simulated Sectigo Certificate Manager (SCM), inside the test's own process.
//!
//! A [`SectigoSim`] speaks the REST API for TLS certificates (as of release 25.5), and signs with an authority of its own, below a root of its
//! own. A client logs in with the headers `login`, `password` and `customerUri` below [`SectigoSim::url`], with a
//! certificate instead of the password below [`SectigoSim::private_url`], or with a token that [`SectigoSim::token_url`]
//! gives for an id and a secret. There are organisations, profiles (types), custom fields, domains with their validation
//! by CNAME, and orders: enrol, list, status, collect, renew, replace, approve, decline, revoke by id and by serial number.
//!
//! What happens to an order is decided by the test: it is issued at once, or after so many polls
//! ([`SectigoSimBuilder::pending_polls`], [`SectigoSimBuilder::collect_lag`]), or once a human approved it
//! ([`SectigoSimBuilder::approvals`], [`SectigoSim::approve`]); or it is declined or rejected; or the certificate has a
//! [`Flaw`]. A [`Fault`] makes single requests fail in one precise way. It is checked against the Python client
//! `cert_manager`.
//!
//! Where the documents leave it open, it does what makes a client careful: `collect` answers the same -183 for an order
//! that waits for a human and for one that was declined; a replacement that is not there yet leaves the old certificate to
//! be collected; a list is in the order in which the orders were made.
//!
//! What it does not have: S/MIME, code signing and device certificates, people, ACME accounts, discovery, reports, admins
//! and their roles (use [`Fault::Forbidden`]), departments, suspended domains, validation other than by CNAME, key types
//! per profile.
//!
//! ```
//! use certlib_testkit::sectigo::{SectigoSim, Status};
//!
//! # async fn example() -> certlib_testkit::Result<()> {
//! let sim = SectigoSim::builder().pending_polls(2).start().await?;
//! // Give sim.url(), the login and the profile's id to what is to be tested; it orders, and polls three times.
//! let http = reqwest::Client::builder().no_proxy().build().unwrap();
//! let types = http.get(format!("{}/ssl/v1/types", sim.url()));
//! let types = types.header("login", SectigoSim::LOGIN).header("password", SectigoSim::PASSWORD);
//! let answer = types.header("customerUri", SectigoSim::CUSTOMER_URI).send().await.unwrap();
//! assert!(answer.text().await.unwrap().contains("\"id\":17"));
//! assert_eq!(sim.orders().iter().filter(|order| order.status == Status::Issued).count(), 0);
//! assert_eq!(sim.history()[0].path, "/api/ssl/v1/types");
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod answer;
mod auth;
mod builder;
mod call;
mod collect;
mod domain;
mod enroll;
mod history;
mod manage;
mod order;
mod pkcs7;
mod profile;
mod server;
mod state;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::RngExt as _;
use serde_json::json;

pub use self::{
    builder::SectigoSimBuilder,
    history::Record,
    order::{Order, Status},
    state::ChainOrder,
};
use self::{
    domain::Domain,
    enroll::Verdict,
    profile::{Organization, Profile},
    state::State,
};
pub use crate::api::{Fault, Injection};
use crate::{
    Error, Result,
    http_server::HttpServer,
    pki::{Flaw, Issued},
};

/// A running simulated certificate manager. It stops when dropped.
pub struct SectigoSim {
    state: Arc<Mutex<State>>,
    server: HttpServer,
    ca_pem: Option<String>,
    root_pem: String,
    issuer_pem: String,
    client: Issued,
}

impl SectigoSim {
    /// The login of an administrator who may do everything.
    pub const LOGIN: &'static str = "certlib";
    /// Its password.
    pub const PASSWORD: &'static str = "simulated-sectigo-password";
    /// The customer's URI.
    pub const CUSTOMER_URI: &'static str = "example";
    /// The id of an API client that may do everything.
    pub const CLIENT_ID: &'static str = "simulated-api-client";
    /// Its secret.
    pub const CLIENT_SECRET: &'static str = "simulated-sectigo-client-secret";
    /// The id of the first organisation.
    pub const ORGANIZATION: i64 = 2;
    /// The id of the first profile, `Instant SSL`, with terms of 90 and 365 days.
    pub const PROFILE: i64 = 17;

    /// Describes one; nothing happens until [`SectigoSimBuilder::start`].
    pub fn builder() -> SectigoSimBuilder {
        SectigoSimBuilder::default()
    }

    /// Starts one with the default options: HTTP, orders that are issued at once, no custom fields, no domains.
    ///
    /// # Errors
    /// As [`SectigoSimBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// The URL of the API, such as `http://127.0.0.1:41235/api`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/api", self.server.url())
    }

    /// The URL of the API for those who log in with a [certificate](SectigoSim::client_certificate).
    #[must_use]
    pub fn private_url(&self) -> String {
        format!("{}/private/api", self.server.url())
    }

    /// Where an API client gets a token for [`SectigoSim::CLIENT_ID`] and [`SectigoSim::CLIENT_SECRET`]. It is good for
    /// five minutes.
    #[must_use]
    pub fn token_url(&self) -> String {
        format!("{}{}", self.server.url(), auth::TOKEN_PATH)
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.address()
    }

    /// The root to trust, PEM, when it speaks HTTPS.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// The certificate that stands for the password, with its key.
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

    /// Adds an organisation; its id.
    pub fn add_organization(&self, name: &str) -> i64 {
        let mut state = lock(&self.state);
        let id = state.next_id();
        state.organizations.push(Organization { id, name: name.to_owned() });
        id
    }

    /// Adds a profile with these terms, in days; its id.
    pub fn add_profile(&self, name: &str, terms: &[i64], renewable: bool) -> i64 {
        let mut state = lock(&self.state);
        let id = state.next_id();
        state.profiles.push(Profile { id, name: name.to_owned(), terms: terms.to_vec(), renewable });
        id
    }

    /// Adds a domain, not validated, delegated to the first organisation.
    pub fn add_domain(&self, name: &str) {
        let mut state = lock(&self.state);
        let id = state.next_id();
        let delegation = json!({ "orgId": Self::ORGANIZATION, "certTypes": ["SSL"], "status": "ACTIVE" });
        state.domains.push(Domain::new(id, name, vec![delegation]));
    }

    /// Lets the service see a CNAME record. Names as they were given, with the dot at the end.
    pub fn publish_cname(&self, host: &str, point: &str) {
        lock(&self.state).records.insert((host.to_owned(), point.to_owned()));
    }

    /// All orders, the oldest first.
    #[must_use]
    pub fn orders(&self) -> Vec<Order> {
        let state = lock(&self.state);
        state.orders.iter().map(|entry| entry.snapshot(state.now())).collect()
    }

    /// One order.
    #[must_use]
    pub fn order(&self, id: i64) -> Option<Order> {
        self.orders().into_iter().find(|order| order.id == id)
    }

    /// A human approves an order that is `Requested`.
    ///
    /// # Errors
    /// [`Error::Protocol`] when there is no such order, or it does not wait for that.
    pub fn approve(&self, id: i64) -> Result<()> {
        self.decide(id, Verdict::Approve)
    }

    /// A human declines an order that is `Requested`.
    ///
    /// # Errors
    /// As [`SectigoSim::approve`].
    pub fn decline(&self, id: i64) -> Result<()> {
        self.decide(id, Verdict::Decline)
    }

    /// The authority rejects an order that is `Applied`.
    ///
    /// # Errors
    /// As [`SectigoSim::approve`].
    pub fn reject(&self, id: i64) -> Result<()> {
        self.decide(id, Verdict::Reject)
    }

    /// The authority issues an order that is `Applied`, however often one would still have to ask.
    ///
    /// # Errors
    /// As [`SectigoSim::approve`].
    pub fn finish(&self, id: i64) -> Result<()> {
        self.decide(id, Verdict::Finish)
    }

    /// [`SectigoSimBuilder::pending_polls`], for orders from now on.
    pub fn set_pending_polls(&self, polls: u32) {
        lock(&self.state).polls = polls;
    }

    /// [`SectigoSimBuilder::collect_lag`], for orders from now on.
    pub fn set_collect_lag(&self, collects: u32) {
        lock(&self.state).lag = collects;
    }

    /// [`SectigoSimBuilder::approvals`], for orders from now on.
    pub fn set_approvals(&self, wanted: bool) {
        lock(&self.state).approvals = wanted;
    }

    /// Lets the authority reject every order from now on, after it was accepted.
    pub fn set_rejections(&self, wanted: bool) {
        lock(&self.state).rejects = wanted;
    }

    /// Gets the next certificate wrong. Called again, the one after it.
    pub fn spoil_next(&self, flaw: Flaw) {
        lock(&self.state).flaws.push_back(flaw);
    }

    /// Moves its clock forward: certificates expire, and so do tokens and proofs of domains.
    pub fn advance(&self, by: Duration) {
        lock(&self.state).ahead += time::Duration::try_from(by).unwrap_or(time::Duration::ZERO);
    }

    /// Makes it misbehave.
    pub fn inject(&self, injection: Injection) {
        lock(&self.state).faults.push(injection);
    }

    /// Makes it behave again.
    pub fn clear_faults(&self) {
        lock(&self.state).faults.clear();
    }

    /// What was asked of it over HTTP, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Record> {
        lock(&self.state).history.clone()
    }

    /// Stops listening and ends all connections.
    pub fn stop(self) {}

    fn decide(&self, id: i64, verdict: Verdict) -> Result<()> {
        let decided = lock(&self.state).decide(id, verdict);
        decided.map_err(|refusal| {
            Error::protocol("the simulated certificate manager", format!("{} {}", refusal.code, refusal.description))
        })
    }
}

impl fmt::Debug for SectigoSim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SectigoSim").field("url", &self.url()).finish_non_exhaustive()
    }
}

/// Locks a mutex; a test that panicked elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// So many random bytes, as hexadecimal digits.
fn random_hex(bytes: usize) -> String {
    let mut random = rand::rng();
    (0..bytes).map(|_| format!("{:02x}", random.random::<u8>())).collect()
}

/// So many random letters and digits.
fn random_text(length: usize) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}
