//! A simulated account of GlobalSign Atlas (HVCA), inside the test's own process.
//!
//! A [`GlobalSignSim`] completes TLS handshakes only with clients that have a certificate of its own client authority,
//! gives out tokens that expire, insists on the exact content type, and holds every request for a certificate against
//! its validation policy. An intermediate authority made for it signs what is asked for, with a PKCS#10 request or a
//! public key and a proof; `202` says that a certificate is not there yet. It knows the trust chain, revocation,
//! quotas, counters, lists in pages, and claims of domains. A [`Fault`] makes it misbehave in one precise way, and
//! every request is remembered.
//!
//! **No client but this project's own has been tried on it**: GlobalSign publishes one, in Go, which no package
//! registry that the tests install from has. It follows the shapes which that client reads and writes, and its tests
//! send requests made by hand.
//!
//! What it does not have: fields of the subject other than the common name in the certificates that it makes (they are
//! checked against the policy, though), names other than DNS names and addresses, custom extensions, qualified
//! statements, limits on the number of requests (inject [`Fault::RateLimited`]). No source says how an exhausted quota
//! is answered: see [`GlobalSignSimBuilder::quota_status`].
//!
//! ```
//! use certlib_testkit::globalsign::{Course, GlobalSignSim};
//!
//! # async fn example() -> certlib_testkit::Result<()> {
//! let ca = GlobalSignSim::start().await?;
//! ca.set_course(Course::default().pending(2));
//! // Give ca.url(), ca.api_key(), ca.api_secret() and ca.client() to what is to be tested. By hand:
//! let identity = ca.client();
//! let identity = format!("{}{}", identity.certificate_pem, identity.key_pem);
//! let client = reqwest::Client::builder()
//!     .tls_certs_only([reqwest::Certificate::from_pem(ca.ca_pem().as_bytes()).unwrap()])
//!     .identity(reqwest::Identity::from_pem(identity.as_bytes()).unwrap())
//!     .build()
//!     .unwrap();
//! let answer = client.get(format!("{}/trustchain", ca.url())).send().await.unwrap();
//! assert_eq!(answer.status(), 401, "it wants a token");
//! assert_eq!(ca.count("GET", "trustchain"), 1);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod answer;
mod builder;
mod certificates;
mod claims;
mod course;
mod inventory;
mod login;
mod operate;
mod policy;
mod state;

use std::{fmt, net::SocketAddr, sync::Arc};

use self::state::State;
pub use self::{builder::GlobalSignSimBuilder, claims::Proof, course::Course, operate::CertificateView};
pub use crate::api::{Fault, Injection, Record};
use crate::{
    Result,
    api::{Api as _, Gateway},
    http_server::HttpServer,
    pki::Issued,
};

/// A running simulated account. It stops when dropped.
pub struct GlobalSignSim {
    gateway: Arc<Gateway<State>>,
    server: HttpServer,
    ca_pem: String,
    root_pem: String,
    client: Issued,
    api_key: String,
    api_secret: String,
}

impl GlobalSignSim {
    /// Describes one; nothing happens until [`GlobalSignSimBuilder::start`].
    pub fn builder() -> GlobalSignSimBuilder {
        GlobalSignSimBuilder::default()
    }

    /// Starts one with the default options.
    ///
    /// # Errors
    /// As [`GlobalSignSimBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// The base URL of the API, such as `https://127.0.0.1:41235/v2`, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}{}", self.server.url(), State::ROOT.trim_end_matches('/'))
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.address()
    }

    /// The root to trust for the API itself, PEM. It says nothing about what is issued.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The root above the issued certificates, PEM.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The certificate and key that clients show.
    #[must_use]
    pub fn client(&self) -> &Issued {
        &self.client
    }

    /// The API key: 16 hexadecimal digits.
    #[must_use]
    pub fn api_key(&self) -> &str {
        &self.api_key
    }

    /// Its secret: 40 hexadecimal digits.
    #[must_use]
    pub fn api_secret(&self) -> &str {
        &self.api_secret
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

impl fmt::Debug for GlobalSignSim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlobalSignSim").field("url", &self.url()).finish_non_exhaustive()
    }
}
