//! Servers to deliver to, and ways to look at them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use certlib_core::module::{JournalSink, MemoryJournal};
use certlib_core::secret::SecretBytes;
use certlib_core::{CertificateBundle, Error, Result};
use certlib_testkit::pki::TestCa;
use certlib_testkit::vault::{VaultSim, VaultSimBuilder};
use futures::future::BoxFuture;
use reqwest::{Client, Method};
use serde_json::{Map, Value, json};

use crate::common::Subject;

/// Where secrets lie on the mount.
pub(crate) const PATH: &str = "tls/shop";

/// A server with a mount of its own, and the right to do anything to it.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) token: String,
    pub(crate) ca_pem: Option<String>,
    pub(crate) mount: String,
    pub(crate) versioned: bool,
    http: Client,
    sim: Option<VaultSim>,
}

impl Server {
    /// The one that `VAULT_ADDR` and `VAULT_TOKEN` name, its root in the file `VAULT_CACERT`; a simulated one otherwise.
    /// The token must be allowed to mount an engine, which is unmounted afterwards.
    pub(crate) async fn any(kind: &str) -> Self {
        let (Some(address), Some(token)) = (set("VAULT_ADDR"), set("VAULT_TOKEN")) else {
            return Self::simulated(kind).await;
        };
        let ca_pem = set("VAULT_CACERT").map(|path| std::fs::read_to_string(path).unwrap());
        static MOUNTS: AtomicUsize = AtomicUsize::new(0);
        let number = MOUNTS.fetch_add(1, Ordering::Relaxed);
        let mount = format!("certlib-test-{}-{number}-{:x}", std::process::id(), rand::random::<u32>());
        Self::mounted(address, token, ca_pem, mount, kind, None).await
    }

    /// Whether the environment names a server.
    pub(crate) fn is_real() -> bool {
        set("VAULT_ADDR").is_some() && set("VAULT_TOKEN").is_some()
    }

    pub(crate) async fn simulated(kind: &str) -> Self {
        Self::from_builder(VaultSim::builder(), kind).await
    }

    pub(crate) async fn from_builder(builder: VaultSimBuilder, kind: &str) -> Self {
        let sim = builder.start().await.unwrap();
        let (address, token) = (sim.address().to_owned(), sim.root_token().to_owned());
        let ca_pem = sim.ca_pem().map(str::to_owned);
        Self::mounted(address, token, ca_pem, "secret".to_owned(), kind, Some(sim)).await
    }

    async fn mounted(
        address: String,
        token: String,
        ca_pem: Option<String>,
        mount: String,
        kind: &str,
        sim: Option<VaultSim>,
    ) -> Self {
        let http = client(ca_pem.as_deref());
        let server = Self { address, token, ca_pem, mount, versioned: kind == "kv2", http, sim };
        let engine = match kind {
            "kv1" => json!({"type": "kv", "options": {"version": "1"}}),
            "kv2" => json!({"type": "kv", "options": {"version": "2"}}),
            kind => json!({"type": kind}),
        };
        server.write(&format!("sys/mounts/{}", server.mount), engine).await;
        if server.versioned {
            server.settle().await;
        }
        server
    }

    /// A real mount of the second version is not there at once.
    async fn settle(&self) {
        let ready = async {
            let config = format!("{}/config", self.mount);
            while self.ask(Method::GET, &config, Value::Null).await.0 != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ready).await.expect("the mount is ready");
    }

    pub(crate) fn sim(&self) -> &VaultSim {
        self.sim.as_ref().unwrap()
    }

    /// What the operator is answered.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
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

    pub(crate) async fn read(&self, path: &str) -> Value {
        self.ask(Method::GET, path, Value::Null).await.1["data"].clone()
    }

    pub(crate) async fn delete(&self, path: &str) {
        let (status, answer) = self.ask(Method::DELETE, path, Value::Null).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
    }

    /// The API's path of the secret's fields.
    pub(crate) fn data_path(&self) -> String {
        if self.versioned { format!("{}/data/{PATH}", self.mount) } else { format!("{}/{PATH}", self.mount) }
    }

    /// The API's path of the secret's metadata.
    pub(crate) fn metadata_path(&self) -> String {
        format!("{}/metadata/{PATH}", self.mount)
    }

    /// Puts fields into the secret, as somebody else.
    pub(crate) async fn put(&self, fields: Value) {
        let body = if self.versioned { json!({ "data": fields }) } else { fields };
        self.write(&self.data_path(), body).await;
    }

    /// The fields of the secret; `None` when nothing is there.
    pub(crate) async fn fields(&self) -> Option<Map<String, Value>> {
        let data = self.read(&self.data_path()).await;
        let fields = if self.versioned { data["data"].clone() } else { data };
        match fields {
            Value::Object(fields) => Some(fields),
            _ => None,
        }
    }

    /// The current version, 0 without one.
    pub(crate) async fn version(&self) -> u64 {
        self.read(&self.metadata_path()).await["current_version"].as_u64().unwrap_or(0)
    }

    pub(crate) async fn custom(&self) -> Value {
        self.read(&self.metadata_path()).await["custom_metadata"].clone()
    }

    /// Fields by their hashes, and custom metadata.
    pub(crate) async fn state(&self) -> String {
        let hash = |value: &Value| certlib_testkit::tls::fingerprint(value.to_string().as_bytes());
        let fields = self.fields().await.unwrap_or_default();
        let mut lines: Vec<_> = fields.iter().map(|(name, value)| format!("{name} {}", hash(value))).collect();
        lines.sort();
        if self.versioned {
            lines.push(self.custom().await.to_string());
        }
        lines.join("\n")
    }

    /// What a target's configuration needs to reach it.
    pub(crate) fn config(&self, more: Value) -> Value {
        let mut config = json!({"connection": {
            "allow_http": true,
            "addresses": {"allow_loopback": true},
            "tls": {"ca_pem": self.ca_pem},
            "timeouts": {"response_ms": 5000, "total_ms": 20000},
        }});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    pub(crate) fn location(&self, more: Value) -> Value {
        let mut location = json!({"url": self.address, "mount": self.mount, "path": PATH});
        location.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        location
    }

    pub(crate) fn token(&self) -> Value {
        json!({"method": "token", "token": self.token})
    }

    /// The module with the operator's token.
    pub(crate) fn subject(&self, config: Value) -> Subject {
        self.subject_with(config, json!({}), self.token())
    }

    pub(crate) fn subject_with(&self, config: Value, location: Value, credentials: Value) -> Subject {
        Subject::new("vault", self.config(config), self.location(location), Some(credentials))
    }
}

/// A real server keeps nothing.
impl Drop for Server {
    fn drop(&mut self) {
        if self.sim.is_some() {
            return;
        }
        let url = format!("{}/v1/sys/mounts/{}", self.address.trim_end_matches('/'), self.mount);
        // A client of its own: connections belong to the runtime that opened them.
        let request = client(self.ca_pem.as_deref()).delete(url).header("x-vault-token", &self.token);
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let unmount = async { request.send().await.map(|answer| answer.status()) };
        let unmounted = std::thread::spawn(move || runtime().block_on(unmount));
        match unmounted.join() {
            Ok(Ok(status)) if status.is_success() => {}
            outcome => eprintln!("{} may be left behind: {outcome:?}", self.mount),
        }
    }
}

/// A variable of the environment.
fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn client(ca_pem: Option<&str>) -> Client {
    let mut http = Client::builder().no_proxy().timeout(Duration::from_secs(60));
    if let Some(pem) = ca_pem {
        http = http.tls_backend_preconfigured(certlib_testkit::tls::client_config(pem).unwrap());
    }
    http.build().unwrap()
}

/// Certificates by one authority.
pub(crate) fn bundles<const N: usize>() -> [CertificateBundle; N] {
    let ca = TestCa::new("vault test root").unwrap();
    std::array::from_fn(|_| {
        let issued = ca.issue(&["shop.example.com"]).unwrap();
        CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap()
    })
}

/// The fields that a bundle makes by default.
pub(crate) fn fields(bundle: &CertificateBundle) -> Value {
    json!({
        "certificate": bundle.leaf_pem(),
        "private_key": bundle.key_pem().unwrap().expose(),
        "chain": bundle.chain_pem(),
        "fullchain": bundle.fullchain_pem(),
    })
}

/// What happens during a record; an error is the end of the process.
pub(crate) type Event = for<'s> fn(&'s Server) -> BoxFuture<'s, Option<Error>>;

/// A journal during whose records something else happens.
pub(crate) struct Eventful<'a> {
    pub(crate) inner: MemoryJournal,
    pub(crate) step: &'static str,
    pub(crate) event: Event,
    pub(crate) server: &'a Server,
}

impl std::fmt::Debug for Eventful<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Eventful")
    }
}

#[async_trait]
impl JournalSink for Eventful<'_> {
    async fn append(&self, step: &str, undo: SecretBytes) -> Result<()> {
        self.inner.append(step, undo).await?;
        if step == self.step
            && let Some(error) = (self.event)(self.server).await
        {
            return Err(error);
        }
        Ok(())
    }

    async fn entries(&self) -> Result<Vec<SecretBytes>> {
        self.inner.entries().await
    }
}
