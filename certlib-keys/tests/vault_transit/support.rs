//! Servers to run against: the simulator, and a real one where the environment names it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use certlib_core::secret::{Dek, Kek, KeyProvider as _, Secret, SecretString, WrappedDek};
use certlib_core::{Error, Result};
use certlib_keys::vault_transit::{TransitKey, VaultAuth, VaultTransit, VaultTransitConfig};
use certlib_testkit::vault::{VaultSim, VaultSimBuilder};
use reqwest::{Client, Method};
use serde_json::{Value, json};

pub(crate) const KEY: &str = "certlib";
pub(crate) const AAD: &[u8] = b"a place";

/// A server with a transit engine, and the right to do anything to it.
pub(crate) struct Server {
    address: String,
    token: String,
    ca_pem: Option<String>,
    pub(crate) mount: String,
    http: Client,
    sim: Option<VaultSim>,
}

impl Server {
    pub(crate) async fn simulated() -> Self {
        Self::from_builder(VaultSim::builder()).await
    }

    pub(crate) async fn from_builder(builder: VaultSimBuilder) -> Self {
        let sim = builder.start().await.unwrap();
        let (address, token) = (sim.address().to_owned(), sim.root_token().to_owned());
        let ca_pem = sim.ca_pem().map(str::to_owned);
        Self::mounted(address, token, ca_pem, "transit".to_owned(), Some(sim)).await
    }

    /// The one that `VAULT_ADDR` and `VAULT_TOKEN` name; its root in the file `VAULT_CACERT`. The token must be allowed to
    /// mount an engine, which is unmounted afterwards.
    async fn real() -> Option<Self> {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (address, token) = (set("VAULT_ADDR")?, set("VAULT_TOKEN")?);
        let ca_pem = set("VAULT_CACERT").map(|path| std::fs::read_to_string(path).unwrap());
        static MOUNTS: AtomicUsize = AtomicUsize::new(0);
        let mount = format!("certlib-test-{}-{}", std::process::id(), MOUNTS.fetch_add(1, Ordering::Relaxed));
        Some(Self::mounted(address, token, ca_pem, mount, None).await)
    }

    async fn mounted(
        address: String,
        token: String,
        ca_pem: Option<String>,
        mount: String,
        sim: Option<VaultSim>,
    ) -> Self {
        let mut http = Client::builder().no_proxy().timeout(Duration::from_secs(60));
        if let Some(pem) = &ca_pem {
            http = http.tls_backend_preconfigured(certlib_testkit::tls::client_config(pem).unwrap());
        }
        let server = Self { address, token, ca_pem, mount, http: http.build().unwrap(), sim };
        server.ask(Method::POST, &format!("sys/mounts/{}", server.mount), json!({ "type": "transit" })).await;
        server.create(KEY, json!({})).await;
        server
    }

    pub(crate) fn sim(&self) -> &VaultSim {
        self.sim.as_ref().unwrap()
    }

    /// A request of the operator, which must succeed.
    async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        let url = format!("{}/v1/{path}", self.address.trim_end_matches('/'));
        let request = self.http.request(method, url).header("x-vault-token", &self.token).body(body.to_string());
        let response = request.send().await.unwrap();
        let status = response.status();
        let body = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {body}");
        serde_json::from_str(&body).unwrap_or_default()
    }

    pub(crate) async fn create(&self, key: &str, body: Value) {
        self.ask(Method::POST, &format!("{}/keys/{key}", self.mount), body).await;
    }

    pub(crate) async fn rotate(&self, key: &str) {
        self.ask(Method::POST, &format!("{}/keys/{key}/rotate", self.mount), json!({})).await;
    }

    pub(crate) async fn configure(&self, key: &str, body: Value) {
        self.ask(Method::POST, &format!("{}/keys/{key}/config", self.mount), body).await;
    }

    pub(crate) async fn delete(&self, key: &str) {
        self.configure(key, json!({ "deletion_allowed": true })).await;
        self.ask(Method::DELETE, &format!("{}/keys/{key}", self.mount), Value::Null).await;
    }

    pub(crate) fn token(&self) -> VaultAuth {
        VaultAuth::Token { token: SecretString::new(self.token.clone()) }
    }

    pub(crate) fn config(&self, first_version: u32) -> VaultTransitConfig {
        self.config_with(self.token(), vec![TransitKey::new(KEY, first_version)])
    }

    pub(crate) fn config_with(&self, auth: VaultAuth, keys: Vec<TransitKey>) -> VaultTransitConfig {
        let mut config = VaultTransitConfig::new(&self.address, auth, keys);
        config.mount.clone_from(&self.mount);
        config.ca_pem.clone_from(&self.ca_pem);
        config
    }

    pub(crate) fn provider(&self, first_version: u32) -> Arc<VaultTransit> {
        Arc::new(VaultTransit::new(self.config(first_version)).unwrap())
    }

    /// A provider that logs in with `auth`.
    pub(crate) fn provider_with(&self, auth: VaultAuth) -> VaultTransit {
        VaultTransit::new(self.config_with(auth, vec![TransitKey::new(KEY, 1)])).unwrap()
    }
}

/// Runs a test against the simulator, and against a real server if there is one.
pub(crate) async fn on_each(test: impl AsyncFn(&Server)) {
    test(&Server::simulated().await).await;
    match Server::real().await {
        None => eprintln!("ran on the simulator alone: VAULT_ADDR and VAULT_TOKEN name no server"),
        Some(server) => {
            test(&server).await;
            server.ask(Method::DELETE, &format!("sys/mounts/{}", server.mount), Value::Null).await;
        }
    }
}

pub(crate) fn dek(seed: u8) -> Dek {
    Secret::new(std::array::from_fn(|n| u8::try_from(n).unwrap() ^ seed))
}

/// The one key that a provider has.
pub(crate) async fn only(provider: &VaultTransit) -> Kek {
    let keks = provider.keys().await.unwrap();
    assert_eq!(keks.len(), 1, "{keks:?}");
    keks.into_iter().next().unwrap()
}

/// Wraps and unwraps.
pub(crate) async fn round_trip(provider: &VaultTransit, kek: &Kek) -> Result<WrappedDek> {
    let wrapped = provider.wrap(kek, &dek(1), AAD).await?;
    let opened = provider.unwrap(kek, &wrapped, AAD).await?;
    assert_eq!(opened.expose(), dek(1).expose());
    Ok(wrapped)
}

/// Code and class of what must have failed.
pub(crate) fn failure<T>(result: Result<T>) -> Error {
    match result {
        Ok(_) => panic!("it did not fail"),
        Err(error) => error,
    }
}
