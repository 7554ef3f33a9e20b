//! A simulated DigiCert CertCentral, inside the test's own process.
//!
//! A [`DigiCertSim`] is an account that speaks the Services API v2: keys and their roles, products, organizations,
//! orders with their approvals, lists with filters and status changes, reissues, duplicates, downloads, revocation,
//! and control over domains. An intermediate authority made for it signs the certificates. What becomes of an order is
//! decided beforehand with a [`Course`]; what a person does in the console is a method here; a [`Fault`] makes the API
//! misbehave in one precise way, and every request is remembered. It is checked with the handler for CertCentral of
//! acme2certifier, a client that is not part of this project.
//!
//! Error codes are those of the documentation where it names one; a client should not depend on the others, and neither
//! should it on the messages. A path that does not begin with `/services/v2/` answers with a page in HTML, as the
//! network in front of the real service does.
//!
//! What it does not have: XML, archives in ZIP (`default`, `apache`), validation by e-mail other than
//! [`DigiCertSim::validate_domain`], client and code signing certificates, custom fields, more than one container, the
//! lookup of CAA records, limits on the number of requests (inject [`Fault::RateLimited`]).
//!
//! ```
//! use certlib_testkit::{digicert::{Course, DigiCertSim}, tls};
//!
//! # async fn example() -> certlib_testkit::Result<()> {
//! let ca = DigiCertSim::start().await?;
//! ca.set_course(Course::default().pending(2));
//! // Give ca.url(), ca.api_key() and DigiCertSim::ORGANIZATION to what is to be tested. By hand:
//! let client = tls::http_client(ca.ca_pem().unwrap())?;
//! let me = client.get(format!("{}/user/me", ca.url())).header("X-DC-DEVKEY", ca.api_key());
//! assert_eq!(me.send().await.unwrap().status(), 200);
//! assert_eq!(ca.count("GET", "user/me"), 1);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod account;
mod answer;
mod builder;
mod certificate;
mod course;
mod dcv;
mod domain;
mod operate;
mod order;
mod pkcs7;
mod product;
mod request;
mod show;
mod state;
mod terms;

use std::{fmt, net::SocketAddr, sync::Arc};

use self::state::State;
pub use self::{
    account::KeyRole,
    builder::DigiCertSimBuilder,
    course::{Approvals, Course},
    dcv::Proof,
    operate::OrderView,
};
pub use crate::api::{Fault, Injection, Record};
use crate::{
    Result,
    api::{Api as _, Gateway},
    http_server::HttpServer,
};

/// A running simulated account. It stops when dropped.
pub struct DigiCertSim {
    gateway: Arc<Gateway<State>>,
    server: HttpServer,
    ca_pem: Option<String>,
    root_pem: String,
    key: String,
}

impl DigiCertSim {
    /// The id of the organization that every account has. It is validated.
    pub const ORGANIZATION: u64 = 117_483;

    /// Describes one; nothing happens until [`DigiCertSimBuilder::start`].
    pub fn builder() -> DigiCertSimBuilder {
        DigiCertSimBuilder::default()
    }

    /// Starts one with the default options: HTTPS, everything validated, no approvals.
    ///
    /// # Errors
    /// As [`DigiCertSimBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// The base URL of the API, such as `https://127.0.0.1:41235/services/v2`, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}{}", self.server.url(), State::ROOT.trim_end_matches('/'))
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.address()
    }

    /// The root to trust for the API itself, PEM, when it speaks HTTPS. It says nothing about what is issued.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// The root above the issued certificates, PEM.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The key of an administrator (`X-DC-DEVKEY`).
    #[must_use]
    pub fn api_key(&self) -> &str {
        &self.key
    }

    /// Makes it misbehave.
    pub fn inject(&self, injection: Injection) {
        self.gateway.inject(injection);
    }

    /// Makes it behave again.
    pub fn clear_faults(&self) {
        self.gateway.clear_faults();
    }

    /// What was asked of it over HTTP, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Record> {
        self.gateway.history()
    }

    /// How many requests with this method had a path with this part.
    #[must_use]
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.gateway.count(method, part)
    }

    /// Stops listening and ends all connections.
    pub fn stop(self) {}
}

impl fmt::Debug for DigiCertSim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DigiCertSim").field("url", &self.url()).finish_non_exhaustive()
    }
}
