//! Servers with a PKI mount of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use certlib_core::issuer::{AsyncIssuer, IssuerFactory as _};
use certlib_core::secret::SecretString;
use certlib_core::{CertificateBundle, Context};
use certlib_issuers::vault_pki::VaultPkiFactory;
use certlib_testkit::pki::TestCa;
use certlib_testkit::vault::{VaultSim, VaultSimBuilder};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::common::{MemoryState, spec};

/// A server with a mount whose default issuer is below a root, and a role `web` that allows all names.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) token: String,
    pub(crate) mount: String,
    ca_pem: Option<String>,
    http: Client,
    sim: Option<VaultSim>,
}

impl Server {
    /// The one that `VAULT_ADDR` and `VAULT_TOKEN` name, its root in the file `VAULT_CACERT`; a simulated one otherwise.
    /// The token must be allowed to mount an engine, which is unmounted afterwards.
    pub(crate) async fn any() -> Self {
        let (Some(address), Some(token)) = (set("VAULT_ADDR"), set("VAULT_TOKEN")) else {
            return Self::simulated().await;
        };
        let ca_pem = set("VAULT_CACERT").map(|path| std::fs::read_to_string(path).unwrap());
        static MOUNTS: AtomicUsize = AtomicUsize::new(0);
        let number = MOUNTS.fetch_add(1, Ordering::Relaxed);
        let mount = format!("certlib-test-{}-{number}-{:x}", std::process::id(), rand::random::<u32>());
        Self::mounted(address, token, ca_pem, mount, None).await
    }

    pub(crate) async fn simulated() -> Self {
        Self::from_builder(VaultSim::builder()).await
    }

    pub(crate) async fn from_builder(builder: VaultSimBuilder) -> Self {
        let sim = builder.start().await.unwrap();
        let (address, token) = (sim.address().to_owned(), sim.root_token().to_owned());
        let ca_pem = sim.ca_pem().map(str::to_owned);
        Self::mounted(address, token, ca_pem, "pki".to_owned(), Some(sim)).await
    }

    async fn mounted(
        address: String,
        token: String,
        ca_pem: Option<String>,
        mount: String,
        sim: Option<VaultSim>,
    ) -> Self {
        // No connection is kept: what unmounts at the end runs elsewhere.
        let mut http = Client::builder().no_proxy().pool_max_idle_per_host(0).timeout(Duration::from_secs(60));
        if let Some(pem) = &ca_pem {
            http = http.tls_backend_preconfigured(certlib_testkit::tls::client_config(pem).unwrap());
        }
        let server = Self { address, token, mount, ca_pem, http: http.build().unwrap(), sim };
        server.write(&format!("sys/mounts/{}", server.mount), json!({ "type": "pki" })).await;
        let root = TestCa::new("root").unwrap();
        let issuing = root.intermediate("issuing").unwrap();
        let import = format!("{}/issuers/import/bundle", server.mount);
        let pem = format!("{}{}{}", issuing.certificate_pem(), issuing.key_pem(), root.certificate_pem());
        server.write(&import, json!({ "pem_bundle": pem })).await;
        server.write(&import, json!({ "pem_bundle": root.key_pem() })).await;
        server.role("web", json!({})).await;
        server
    }

    pub(crate) fn sim(&self) -> &VaultSim {
        self.sim.as_ref().unwrap()
    }

    /// What the operator is answered.
    async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let url = format!("{}/v1/{path}", self.address.trim_end_matches('/'));
        let mut request = self.http.request(method, url).header("x-vault-token", &self.token);
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
    }

    /// A request of the operator that must succeed; the `data` of the answer.
    pub(crate) async fn write(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(Method::POST, path, body).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer["data"].clone()
    }

    /// Makes a role that allows all names for an hour, but for `more`.
    pub(crate) async fn role(&self, name: &str, more: Value) {
        let mut role = json!({ "allow_any_name": true, "allow_ip_sans": true, "max_ttl": "24h", "ttl": "1h" });
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.write(&format!("{}/roles/{name}", self.mount), role).await;
    }

    /// The serial numbers of all certificates that are kept.
    pub(crate) async fn serials(&self) -> Vec<String> {
        let path = format!("{}/certs?list=true", self.mount);
        let (_, answer) = self.ask(Method::GET, &path, Value::Null).await;
        serde_json::from_value(answer["data"]["keys"].clone()).unwrap_or_default()
    }

    /// The id of the issuer that signs itself.
    pub(crate) async fn root_id(&self) -> String {
        let (_, answer) = self.ask(Method::GET, &format!("{}/issuers?list=true", self.mount), Value::Null).await;
        for (id, about) in answer["data"]["key_info"].as_object().unwrap() {
            if about["is_default"] != true {
                return id.clone();
            }
        }
        panic!("there is no second issuer: {answer}");
    }

    pub(crate) async fn is_revoked(&self, bundle: &CertificateBundle) -> bool {
        let serial = bundle.leaf().serial.trim_start_matches("00").as_bytes().to_vec();
        let pairs: Vec<_> = serial.chunks(2).map(|pair| str::from_utf8(pair).unwrap()).collect();
        let (status, answer) =
            self.ask(Method::GET, &format!("{}/cert/{}", self.mount, pairs.join(":")), Value::Null).await;
        status == 200 && answer["data"]["revocation_time"].as_i64().unwrap() > 0
    }

    /// The issuer's configuration, with some settings of its own.
    pub(crate) fn config(&self, settings: Value) -> Value {
        let mut config = json!({
            "url": self.address,
            "mount": self.mount,
            "role": "web",
            "connection": {
                "allow_http": true,
                "addresses": { "allow_loopback": true },
                "tls": { "ca_pem": self.ca_pem },
                "timeouts": { "connect_ms": 5000, "response_ms": 20_000, "total_ms": 30_000 },
            },
        });
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        config
    }

    /// An issuer with the operator's token.
    pub(crate) async fn issuer(&self, settings: Value) -> Arc<dyn AsyncIssuer> {
        self.issuer_with(settings, &token(&self.token)).await
    }

    pub(crate) async fn issuer_with(&self, settings: Value, credentials: &SecretString) -> Arc<dyn AsyncIssuer> {
        let mut spec = spec(self.config(settings), &Arc::new(MemoryState::default()));
        spec.credentials = Some(credentials.duplicate());
        VaultPkiFactory.build(&Context::new("test"), spec).await.unwrap()
    }
}

impl Drop for Server {
    /// Unmounts what was mounted on a server that stays.
    fn drop(&mut self) {
        if self.sim.is_some() {
            return;
        }
        let url = format!("{}/v1/sys/mounts/{}", self.address.trim_end_matches('/'), self.mount);
        let request = self.http.delete(url).header("x-vault-token", &self.token);
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let unmount = async { request.send().await.map(|answer| answer.status()) };
        match std::thread::spawn(move || runtime().block_on(unmount)).join() {
            Ok(Ok(status)) if status.is_success() => {}
            outcome => eprintln!("{} may be left behind: {outcome:?}", self.mount),
        }
    }
}

/// A variable of the environment.
fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

pub(crate) fn token(token: &str) -> SecretString {
    json!({ "method": "token", "token": token }).to_string().into()
}

pub(crate) fn approle(role_id: &str, secret_id: &str) -> SecretString {
    json!({ "method": "approle", "role_id": role_id, "secret_id": secret_id }).to_string().into()
}
