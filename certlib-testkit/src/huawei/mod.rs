//! A simulated Huawei Cloud, inside the test's own process.
//!
//! A [`HuaweiSim`] speaks the HTTP APIs of five services at one address: identity (projects), the certificate manager
//! (SCM v3), load balancers (ELB v3), the web application firewall (WAF v1) and the delivery network (CDN v1.0 and
//! v1.1). It checks every signature as the gateway does, and says on a bad one which canonical request it computed. Its
//! listeners, hosts and domains **serve TLS** on ports of 127.0.0.1 with the certificate that their settings select at
//! that moment. A [`Fault`] makes it misbehave in one precise way. It is checked against the vendor's own SDK for
//! Python.
//!
//! What it does not have: tokens of IAM (only access keys), policies (use [`Fault::Forbidden`]), buying and issuing of
//! certificates, `push`, `deploy` to anything but CDN domains, certificates of types other than `server`, creating and
//! deleting listeners, hosts and domains over HTTP (use the methods here), pages of listeners, separate enterprise
//! projects outside the certificate manager.
//!
//! ```
//! use certlib_testkit::{huawei::HuaweiSim, pki::TestCa, tls};
//!
//! # async fn example() -> certlib_testkit::Result<()> {
//! let cloud = HuaweiSim::start().await?;
//! let issued = TestCa::new("root")?.issue(&["shop.example.com"])?;
//! let certificate = cloud.put_elb_certificate("shop", &issued)?;
//! let listener = cloud.add_listener("HTTPS", Some(&certificate), &[])?;
//! // Give cloud.url(), the keys and the listener's id to what is to be tested; then look what is served.
//! let address = cloud.listener_address(&listener).unwrap();
//! assert_eq!(tls::leaf_fingerprint(address, "shop.example.com").await?, issued.fingerprint);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod answer;
mod builder;
mod call;
mod cdn;
mod elb;
mod fault;
mod history;
mod iam;
mod listen;
mod material;
mod operate;
mod scm;
mod server;
mod sign;
mod state;
mod waf;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::RngExt as _;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use self::{
    builder::HuaweiSimBuilder,
    fault::{Fault, Injection},
    history::Record,
    operate::{CdnSettings, CdnSource},
};
use self::{
    call::Call,
    state::{AccessKey, Project, State},
};
use crate::{Error, Result, http_server::HttpServer};

/// A running simulated cloud. It stops when dropped.
pub struct HuaweiSim {
    state: Arc<Mutex<State>>,
    server: HttpServer,
    stop: CancellationToken,
    ca_pem: Option<String>,
    access_key: String,
    secret_key: String,
    project: String,
    region: String,
}

/// A certificate in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kept {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The SHA-256 of its leaf, lower-case hexadecimal.
    pub fingerprint: String,
}

impl Kept {
    fn new(id: &str, name: &str, fingerprint: &str) -> Self {
        Self { id: id.to_owned(), name: name.to_owned(), fingerprint: fingerprint.to_owned() }
    }
}

impl HuaweiSim {
    /// Describes one; nothing happens until [`HuaweiSimBuilder::start`].
    pub fn builder() -> HuaweiSimBuilder {
        HuaweiSimBuilder::default()
    }

    /// Starts one with the default options: HTTP, one access key, one project in `cn-north-4`.
    ///
    /// # Errors
    /// As [`HuaweiSimBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// The URL of all services, such as `http://127.0.0.1:41235`.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
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

    /// The id of an access key that may do everything (AK).
    #[must_use]
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// Its secret (SK).
    #[must_use]
    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }

    /// The region.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The id of the region's first project.
    #[must_use]
    pub fn project_id(&self) -> &str {
        &self.project
    }

    /// The account's id.
    #[must_use]
    pub fn account_id(&self) -> &'static str {
        iam::ACCOUNT
    }

    /// Adds an access key; with a token, a temporary one.
    pub fn add_access_key(&self, access_key: &str, secret_key: &str, token: Option<&str>) {
        let key = AccessKey { secret: secret_key.to_owned(), token: token.map(str::to_owned), expired: false };
        lock(&self.state).keys.insert(access_key.to_owned(), key);
    }

    /// Ends the validity of an access key.
    pub fn expire_access_key(&self, access_key: &str) {
        if let Some(key) = lock(&self.state).keys.get_mut(access_key) {
            key.expired = true;
        }
    }

    /// Adds a project; its id. `region_name` is the name of one below a region's.
    pub fn add_project(&self, name: &str) -> String {
        let id = random_hex(16);
        lock(&self.state).projects.push(Project { id: id.clone(), region: name.to_owned() });
        id
    }

    /// Moves its clock, forward or back.
    pub fn advance(&self, by: Duration, back: bool) {
        let seconds = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
        lock(&self.state).ahead += if back { -seconds } else { seconds };
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

    /// Carries out a request without HTTP and signature.
    fn operate(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        let mut state = lock(&self.state);
        let now = state.now();
        let outcome = Call::new(method, path, "", body.to_string().as_bytes(), now).and_then(|call| state.route(&call));
        let answer = outcome.map_err(|refusal| {
            let message = format!("{method} {path}: {} {} {}", refusal.status, refusal.code, refusal.message);
            Error::protocol("the simulated cloud", message)
        })?;
        Ok(answer.body.unwrap_or_default())
    }
}

impl Drop for HuaweiSim {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for HuaweiSim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HuaweiSim").field("url", &self.url()).field("region", &self.region).finish_non_exhaustive()
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
