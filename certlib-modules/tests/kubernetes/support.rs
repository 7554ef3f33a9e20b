//! One API server for all tests of a process, and a namespace of its own for each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::module::{JournalSink, MemoryJournal, TargetSpec};
use certlib_core::secret::SecretBytes;
use certlib_core::{CertificateBundle, Context, Result, Secret};
use certlib_modules::kubernetes::Kubernetes as Module;
use certlib_testkit::counterpart::{Account, Kubernetes};
use certlib_testkit::pki::{Issued, TestCa};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::common::Subject;

static SERVER: OnceCell<Option<Kubernetes>> = OnceCell::const_new();
static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// The Secret that tests deliver to.
pub(crate) const NAME: &str = "tls-www";

/// The server that tests share; `None` when it was left out on purpose. Statics are not dropped: the guardian of the
/// server ends it when this process is gone. Tests that stop the server have one of their own.
pub(crate) async fn server() -> Option<&'static Kubernetes> {
    SERVER.get_or_init(start).await.as_ref()
}

pub(crate) async fn start() -> Option<Kubernetes> {
    match Kubernetes::start().await {
        Ok(server) => Some(server),
        Err(certlib_testkit::Error::LeftOut { name }) => {
            eprintln!("left out: {name}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// What the module's documentation asks for.
pub(crate) fn documented_rules() -> Value {
    rules(&["get", "create", "patch", "delete"])
}

pub(crate) fn rules(verbs: &[&str]) -> Value {
    json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": [NAME], "verbs": verbs}])
}

/// A namespace with a service account for the module.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) server: &'a Kubernetes,
    pub(crate) namespace: String,
    pub(crate) account: Account,
}

impl<'a> Place<'a> {
    pub(crate) async fn new(server: &'a Kubernetes) -> Self {
        Self::with_rules(server, &documented_rules()).await
    }

    pub(crate) async fn with_rules(server: &'a Kubernetes, rules: &Value) -> Self {
        let namespace = format!("test-{}", NAMESPACES.fetch_add(1, Ordering::Relaxed));
        server.create_namespace(&namespace).await.unwrap();
        let account = server.account(&namespace, "certlib", rules).await.unwrap();
        Self { server, namespace, account }
    }

    pub(crate) fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets/{NAME}", self.namespace)
    }

    /// The module with a target here; `config` adds to what is needed.
    pub(crate) fn subject(&self, config: Value) -> Subject {
        self.subject_of(Module::new(), config, json!({"token": self.account.token()}))
    }

    pub(crate) fn subject_of(&self, module: Module, config: Value, credentials: Value) -> Subject {
        let named = credentials.get("token").or(credentials.get("client_certificate")).is_some();
        let mut location = json!({"namespace": self.namespace, "name": NAME});
        if named {
            location["server"] = json!(self.server.url());
        }
        let credentials = Some(Secret::new(credentials.to_string()));
        Subject {
            module: Arc::new(module),
            target: TargetSpec::new("t-1", "target", self.config(config), location, credentials),
            cx: Context::new("operation"),
        }
    }

    /// What every target here needs, and `more`.
    pub(crate) fn config(&self, more: Value) -> Value {
        let mut config = json!({"connection": {
            "tls": {"ca_pem": self.server.ca_pem()}, "addresses": {"allow_loopback": true},
        }});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    // --- the operator's side ---

    pub(crate) async fn get(&self) -> Option<Value> {
        let (status, secret) = self.server.call("GET", &self.path(), None).await.unwrap();
        (status == 200).then_some(secret)
    }

    /// Puts a Secret there as kubectl would, `more` merged into it.
    pub(crate) async fn create(&self, issued: &Issued, more: Value) {
        let path = format!("/api/v1/namespaces/{}/secrets?fieldManager=kubectl", self.namespace);
        self.server.ask("POST", &path, Some(&self.secret(issued, more))).await.unwrap();
    }

    /// Changes the Secret, or makes it, whoever owns it.
    pub(crate) async fn force(&self, issued: &Issued) {
        match self.get().await {
            None => self.create(issued, json!({})).await,
            Some(_) => self.merge(json!({"data": self.secret(issued, json!({}))["data"]})).await,
        }
    }

    pub(crate) async fn merge(&self, patch: Value) {
        let path = format!("{}?fieldManager=kubectl", self.path());
        let kind = "application/merge-patch+json";
        let token = self.server.admin_token();
        let (status, answer) = self.server.call_as(token, "PATCH", &path, kind, Some(&patch)).await.unwrap();
        assert_eq!(status, 200, "{answer}");
    }

    pub(crate) async fn apply_as(&self, manager: &str, secret: &Value) {
        let path = format!("{}?fieldManager={manager}&force=true", self.path());
        let kind = "application/apply-patch+yaml";
        let token = self.server.admin_token();
        let (status, answer) = self.server.call_as(token, "PATCH", &path, kind, Some(secret)).await.unwrap();
        assert!(status < 300, "{answer}");
    }

    pub(crate) async fn delete(&self) {
        self.server.ask("DELETE", &self.path(), None).await.unwrap();
    }

    pub(crate) fn secret(&self, issued: &Issued, more: Value) -> Value {
        let mut secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": NAME, "namespace": self.namespace},
            "data": {"tls.crt": STANDARD.encode(issued.full_chain()), "tls.key": STANDARD.encode(&issued.key_pem)},
        });
        merge(&mut secret, more);
        secret
    }

    /// All that matters of the Secret, as text; values by their hash.
    pub(crate) async fn state(&self) -> String {
        let Some(secret) = self.get().await else { return "none".to_owned() };
        let metadata = &secret["metadata"];
        let data: BTreeMap<&String, String> = secret["data"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| (key, certlib_testkit::tls::fingerprint(value.as_str().unwrap().as_bytes())))
            .collect();
        let owners: BTreeMap<String, Value> = metadata["managedFields"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|entry| {
                let name = format!("{} {}", entry["manager"].as_str().unwrap(), entry["operation"].as_str().unwrap());
                (name, without_marks(&entry["fieldsV1"]))
            })
            .collect();
        let (labels, annotations) = (&metadata["labels"], &metadata["annotations"]);
        format!("{} {data:?} labels {labels} annotations {annotations} owners {owners:?}", secret["type"])
    }

    /// The certificate in the Secret.
    pub(crate) async fn served(&self) -> String {
        let secret = self.get().await.unwrap();
        let pem = STANDARD.decode(secret["data"]["tls.crt"].as_str().unwrap()).unwrap();
        CertificateBundle::from_pem(&pem).unwrap().fingerprint().to_string()
    }
}

fn without_marks(fields: &Value) -> Value {
    let Some(fields) = fields.as_object() else { return fields.clone() };
    fields.iter().filter(|(key, _)| *key != ".").map(|(key, value)| (key.clone(), without_marks(value))).collect()
}

/// Merges objects; anything else is replaced.
fn merge(value: &mut Value, more: Value) {
    match (value, more) {
        (Value::Object(value), Value::Object(more)) => {
            more.into_iter().for_each(|(key, more)| merge(value.entry(key).or_insert(Value::Null), more));
        }
        (value, more) => *value = more,
    }
}

/// Certificates by one CA, as text and parsed.
#[derive(Debug)]
pub(crate) struct Certificates(Vec<(Issued, CertificateBundle)>);

impl Certificates {
    pub(crate) fn new() -> Self {
        let ca = TestCa::new("test root").unwrap();
        let issue = |_| {
            let issued = ca.issue(&["www.shop.example.com"]).unwrap();
            let bundle = CertificateBundle::from_pem(issued.combined().as_bytes()).unwrap();
            (issued, bundle)
        };
        Self((0..4).map(issue).collect())
    }

    pub(crate) fn issued(&self, number: usize) -> &Issued {
        &self.0[number].0
    }

    pub(crate) fn bundle(&self, number: usize) -> &CertificateBundle {
        &self.0[number].1
    }
}

/// A journal during whose first record something happens: between the look at the Secret and the change.
#[derive(Debug)]
pub(crate) struct Meanwhile<F> {
    pub(crate) inner: MemoryJournal,
    event: F,
}

impl<F> Meanwhile<F> {
    pub(crate) fn new(event: F) -> Self {
        Self { inner: MemoryJournal::new(), event }
    }
}

/// Waits for `happening` here and now: requests of the testkit are not `Send` for every lifetime.
pub(crate) fn settled<T>(happening: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(happening))
}

/// Something that happens.
#[async_trait]
pub(crate) trait Event: std::fmt::Debug + Send + Sync {
    async fn happen(&self);
}

#[async_trait]
impl<F: Event> JournalSink for Meanwhile<F> {
    async fn append(&self, step: &str, undo: SecretBytes) -> Result<()> {
        let first = self.inner.steps().is_empty();
        self.inner.append(step, undo).await?;
        if first {
            self.event.happen().await;
        }
        Ok(())
    }

    async fn entries(&self) -> Result<Vec<SecretBytes>> {
        self.inner.entries().await
    }
}
