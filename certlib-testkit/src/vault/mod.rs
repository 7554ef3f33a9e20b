//! A simulated HashiCorp Vault (or OpenBao), inside the test's own process.
//!
//! A [`VaultSim`] speaks Vault's HTTP API:
//!
//! - tokens that expire and are renewed; AppRole, JWT, Kubernetes and TLS certificates to log in; policies, namespaces,
//!   `sys/`;
//! - key-value engines of both versions: check-and-set, metadata, deleted and destroyed versions, `max_versions`;
//! - PKI engines with several issuers and a default one, which issue real certificates as their roles allow, and revoke them;
//! - transit engines with real ciphers.
//!
//! Its clock can be moved ([`VaultSim::advance`]), so that no test waits for a token to expire, and a [`Fault`] makes it
//! misbehave in one precise way. It is checked against `hvac`, the Python client of Vault.
//!
//! What it does not have: other engines, other ways to log in, leases, response wrapping, audit, HCL (policies are read
//! in their JSON form). Transit: keys for signing, key derivation that converges, export and import of keys. PKI:
//! CRLs, ACME, `sign-verbatim`, globs and templates in roles. JWT: discovery of keys, and other algorithms than ES256. Kubernetes:
//! a cluster; tokens are those of [`VaultSim::identity_token`].
//!
//! ```
//! use certlib_testkit::vault::VaultSim;
//! use serde_json::json;
//!
//! # async fn example() -> certlib_testkit::Result<()> {
//! let vault = VaultSim::builder().policy("app", &[("transit/*", &["update", "read"])]).start().await?;
//! vault.write("sys/mounts/transit", json!({ "type": "transit" }))?;
//! vault.write("transit/keys/app", json!({}))?;
//! let token = vault.create_token(&["app"], None)?;
//! // Give vault.address() and the token to what is to be tested.
//! # assert!(token.starts_with("hvs."));
//! assert_eq!(vault.read("transit/keys/app")?["latest_version"], 1);
//! vault.stop();
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod acl;
mod answer;
mod auth;
mod builder;
mod call;
mod engines;
mod fault;
mod history;
mod random;
mod server;
mod state;
mod sys;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};

use self::{
    answer::Answer,
    state::{Incoming, State},
};
pub use self::{
    builder::VaultSimBuilder,
    fault::{Fault, Injection},
    history::Record,
};
use crate::{Error, Result, http_server::HttpServer};

/// A running simulated Vault. It stops when dropped.
pub struct VaultSim {
    state: Arc<Mutex<State>>,
    server: HttpServer,
    _standby: Option<HttpServer>,
    address: String,
    standby_address: Option<String>,
    ca_pem: Option<String>,
    root: String,
}

impl VaultSim {
    /// Describes one; nothing happens until [`VaultSimBuilder::start`].
    pub fn builder() -> VaultSimBuilder {
        VaultSimBuilder::default()
    }

    /// Starts one with the default options: HTTP, no standby, nothing mounted.
    ///
    /// # Errors
    /// As [`VaultSimBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// Its URL, such as `http://127.0.0.1:41235`: what `VAULT_ADDR` is set to.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.address()
    }

    /// The URL of the standby, if there is one.
    #[must_use]
    pub fn standby_address(&self) -> Option<&str> {
        self.standby_address.as_deref()
    }

    /// The root to trust, PEM, when it speaks HTTPS.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// The token that may do everything, and never expires.
    #[must_use]
    pub fn root_token(&self) -> &str {
        &self.root
    }

    /// What unseals it: for `sys/unseal`.
    #[must_use]
    pub fn unseal_key(&self) -> String {
        lock(&self.state).unseal_key.clone()
    }

    /// Writes as its operator, without HTTP. A namespace goes before the path. Returns the `data` of the answer.
    ///
    /// # Errors
    /// [`Error::Protocol`] with status and texts when it is refused.
    pub fn write(&self, path: &str, body: Value) -> Result<Value> {
        self.operate("POST", path, Some(body)).map(Answer::into_data)
    }

    /// Reads as its operator, without HTTP. A namespace goes before the path. Returns the `data` of the answer.
    ///
    /// # Errors
    /// As [`VaultSim::write`].
    pub fn read(&self, path: &str) -> Result<Value> {
        self.operate("GET", path, None).map(Answer::into_data)
    }

    /// Deletes as its operator, without HTTP. A namespace goes before the path.
    ///
    /// # Errors
    /// As [`VaultSim::write`].
    pub fn delete(&self, path: &str) -> Result<()> {
        self.operate("DELETE", path, None).map(drop)
    }

    /// A new token with policies of the root namespace; `ttl`: 32 days if not given. It can be renewed.
    ///
    /// # Errors
    /// As [`VaultSim::write`].
    pub fn create_token(&self, policies: &[&str], ttl: Option<Duration>) -> Result<String> {
        let ttl = ttl.map(|ttl| ttl.as_secs());
        let body = json!({ "policies": policies, "ttl": ttl });
        let answer = self.operate("POST", "auth/token/create", Some(body))?;
        let token = answer.body.as_ref().and_then(|body| body["auth"]["client_token"].as_str()).map(str::to_owned);
        token.ok_or_else(|| Error::protocol("the simulated Vault", "no token in the answer"))
    }

    /// Makes (or changes) an AppRole at `auth/approle`, mounting it where needed, and gives its id and a new secret id.
    /// `options` are the fields of `auth/approle/role/NAME`, such as `token_policies`, `token_ttl` and
    /// `secret_id_num_uses`.
    ///
    /// # Errors
    /// As [`VaultSim::write`].
    pub fn create_approle(&self, name: &str, options: Value) -> Result<(String, String)> {
        if self.read("sys/auth")?.get("approle/").is_none() {
            self.write("sys/auth/approle", json!({ "type": "approle" }))?;
        }
        self.write(&format!("auth/approle/role/{name}"), options)?;
        let role = self.read(&format!("auth/approle/role/{name}/role-id"))?;
        let secret = self.write(&format!("auth/approle/role/{name}/secret-id"), json!({}))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok((text(&role["role_id"]), text(&secret["secret_id"])))
    }

    /// Patches as its operator, without HTTP: what is `null` is removed. A namespace goes before the path. Returns the
    /// `data` of the answer.
    ///
    /// # Errors
    /// As [`VaultSim::write`].
    pub fn patch(&self, path: &str, body: Value) -> Result<Value> {
        self.operate("PATCH", path, Some(body)).map(Answer::into_data)
    }

    /// A signed statement (JWT, ES256) of the identity provider that comes with the simulator, for the login methods
    /// `jwt` and `kubernetes`. `claims` are added to `exp`, which is an hour ahead.
    ///
    /// A service account of Kubernetes has the claim `sub`: `system:serviceaccount:NAMESPACE:NAME`.
    ///
    /// # Errors
    /// [`Error::Crypto`] when it cannot be signed.
    pub fn identity_token(&self, claims: Value) -> Result<String> {
        let state = lock(&self.state);
        let mut all = json!({ "exp": (state.now() + Duration::from_secs(3_600)).unix_timestamp() });
        if let (Value::Object(all), Value::Object(claims)) = (&mut all, claims) {
            all.extend(claims);
        }
        state.identity.sign(&all)
    }

    /// The public key of that provider, PEM, for `jwt_validation_pubkeys`.
    #[must_use]
    pub fn identity_key_pem(&self) -> String {
        lock(&self.state).identity.public_pem().to_owned()
    }

    /// Seals it: `503` to everything but `sys/health` and the like.
    pub fn seal(&self) {
        lock(&self.state).sealed = true;
    }

    /// Unseals it.
    pub fn unseal(&self) {
        lock(&self.state).sealed = false;
    }

    /// Ends every token but those that never expire.
    pub fn expire_tokens(&self) {
        lock(&self.state).tokens.expire();
    }

    /// Moves its clock.
    pub fn advance(&self, by: Duration) {
        lock(&self.state).ahead += by;
    }

    /// Makes it misbehave. Of several faults that a request could meet, the one that was injected first does.
    pub fn inject(&self, injection: Injection) {
        lock(&self.state).faults.push(injection);
    }

    /// Makes it behave.
    pub fn clear_faults(&self) {
        lock(&self.state).faults.clear();
    }

    /// Every HTTP request so far, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Record> {
        lock(&self.state).history.clone()
    }

    /// How many HTTP requests so far went to a path, after `/v1/`, that begins like this.
    #[must_use]
    pub fn count(&self, prefix: &str) -> usize {
        lock(&self.state).history.iter().filter(|record| record.path.starts_with(prefix)).count()
    }

    /// Stops listening and ends all connections.
    pub fn stop(self) {}

    fn operate(&self, method: &str, path: &str, body: Option<Value>) -> Result<Answer> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let answer = lock(&self.state).handle(Incoming {
            method: method.to_owned(),
            path: path.trim_matches('/').to_owned(),
            query: query.to_owned(),
            token: Some(self.root.clone()),
            content_type: state::MERGE_PATCH.to_owned(),
            body: body.map_or_else(Bytes::new, |body| body.to_string().into()),
            ..Incoming::default()
        });
        if answer.status < 300 {
            return Ok(answer);
        }
        let errors = answer.body.map(|body| body["errors"].to_string()).unwrap_or_default();
        Err(Error::protocol("the simulated Vault", format!("{method} {path}: {} {errors}", answer.status)))
    }
}

impl fmt::Debug for VaultSim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultSim")
            .field("address", &self.address)
            .field("standby_address", &self.standby_address)
            .finish_non_exhaustive()
    }
}

/// Locks a mutex; a test that panicked elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
