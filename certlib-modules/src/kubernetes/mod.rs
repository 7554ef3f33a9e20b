//! Delivery into a Secret of a Kubernetes cluster, where ingress controllers, gateways and pods read it.
//!
//! | Operation | What it does |
//! |---|---|
//! | `dry_run` | looks at the Secret, checks whose it is, and has the API server apply the change with `dryRun=All`: permissions, admission and validation speak before anybody approves. The key travels for that, as it will for the delivery. The plan shows the leaf before and after, keys, labels and annotations that go, and from whom fields are taken over |
//! | `execute` | one server-side apply of `tls.crt`, `tls.key` and what is configured besides, under a field manager of our own, on exactly the version of the Secret that the plan saw: readers see the old pair or the new one |
//! | `validate` | a TLS handshake with every configured endpoint; without any, reads the Secret back and compares the leaf, and whether the key belongs to it |
//! | `rollback` | applies the former values of what was changed, and gives fields that were taken over back to their owners; a Secret that was not there before is deleted. What others changed beside our fields stays as they left it. A change of our fields by somebody else is not overwritten: `foreign_change` |
//!
//! A Secret that somebody else keeps writing is refused: by cert-manager (`owned_by_cert_manager`), by a controller
//! (`owned_by_controller`), by another field manager (`foreign_manager`) or a deployment tool (`owned_by_deployer`). The
//! last two can be overruled with `take_over`. So are a Secret of another type (`wrong_type`) and one that is immutable
//! (`secret_immutable`): both would have to be deleted first, and that is not for this module to decide.
//!
//! The Secret is annotated with `certlib.io/fingerprint`, `certlib.io/not-after` and `certlib.io/id` (the certificate's).
//!
//! # Permissions
//! On Secrets of the namespace: `get` and `patch`, `create` if it may not exist yet, and `delete` if such a Secret is to
//! be taken back (the plan says when it could not be). All four may be limited to the Secret's name:
//!
//! ```yaml
//! apiVersion: rbac.authorization.k8s.io/v1
//! kind: Role
//! metadata: {name: certlib, namespace: shop}
//! rules:
//! - apiGroups: [""]
//!   resources: [secrets]
//!   resourceNames: [tls-www]
//!   verbs: [get, create, patch, delete]
//! ```
//!
//! # Servers before 1.22
//! They do not record who owns what `stringData` was applied to; our annotation tells all the same. And a field manager
//! whose fields were taken over can get them back with a later apply, so `take_over` has to stay.
//!
//! # A target, as JSON
//! ```
//! use certlib_core::Secret;
//! use certlib_core::module::{ErasedModule, TargetSpec};
//! use certlib_modules::kubernetes::Kubernetes;
//! use serde_json::json;
//!
//! let target = TargetSpec::new(
//!     "t1",
//!     "shop cluster",
//!     json!({
//!         "labels": {"app.kubernetes.io/part-of": "shop"},
//!         "ca_crt": true,
//!         "endpoints": [{"host": "www.shop.example.com"}],
//!         "connection": {"addresses": {"allow": ["10.1.0.0/16"]}},
//!     }),
//!     json!({"server": "https://10.1.2.3:6443", "namespace": "shop", "name": "tls-{certificate}"}),
//!     Some(Secret::new(r#"{"token": "eyJhbGciOiJSUzI1NiIs"}"#.to_owned())),
//! );
//! ErasedModule::check(&Kubernetes::new(), &target)?;
//! # Ok::<(), certlib_core::Error>(())
//! ```
//!
//! Other logins: `{"kubeconfig": "..."}`, `{"client_certificate": {..}}`, `{"in_cluster": true}`; see
//! [`KubernetesCredentials`].

mod apply;
mod cluster;
mod config;
mod desired;
mod exec;
mod found;
mod kubeconfig;
mod login;
mod managers;
mod name;
mod owner;
mod plan;
mod refusal;
mod rollback;
mod undo;
mod validate;

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use certlib_core::Context;
use certlib_core::bundle::{CertificateBundle, LeafInfo};
use certlib_core::error::Result;
use certlib_core::module::{
    ApprovedPlan, Capabilities, DistributionModule, Facts, Journal, Plan, RollbackOutcome, Target, Validation,
};

use self::cluster::{Cluster, Place};
pub use self::config::{Content, KubernetesConfig, KubernetesCredentials, KubernetesLocation};
use self::desired::Fields;
pub use self::login::InCluster;
use self::login::{Login, Surroundings};
use self::name::{Template, Values};
use self::plan::Delivery;
pub use self::undo::{Change, Undo};
use crate::net::{Lookup, SystemLookup};

/// What errors of this module name as their operation.
const OPERATION: &str = "kubernetes";

/// What our annotations begin with.
const MARKER_PREFIX: &str = "certlib.io/";
/// The leaf's SHA-256.
const MARKER_FINGERPRINT: &str = "certlib.io/fingerprint";
/// The end of the leaf's validity.
const MARKER_NOT_AFTER: &str = "certlib.io/not-after";
/// The certificate's id.
const MARKER_ID: &str = "certlib.io/id";

/// The namespace of logins that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// The module for targets of kind `kubernetes`.
#[derive(Debug)]
pub struct Kubernetes {
    lookup: Arc<dyn Lookup>,
    exec_allowed: bool,
    in_cluster: Option<InCluster>,
}

impl Kubernetes {
    /// The module, with the operating system's resolver, and with the pod that this process runs in, if it does.
    pub fn new() -> Self {
        Self::with_lookup(Arc::new(SystemLookup))
    }

    /// The module with another resolver.
    pub fn with_lookup(lookup: Arc<dyn Lookup>) -> Self {
        Self { lookup, exec_allowed: false, in_cluster: InCluster::from_environment() }
    }

    /// Lets kubeconfigs run the commands that they name as `exec`, with the rights and the environment of this process.
    /// Only where nobody but the operator of this process can store credentials.
    #[must_use]
    pub fn allow_exec_plugins(mut self) -> Self {
        self.exec_allowed = true;
        self
    }

    /// Sets where `in_cluster` logins find cluster and service account.
    #[must_use]
    pub fn with_in_cluster(mut self, in_cluster: InCluster) -> Self {
        self.in_cluster = Some(in_cluster);
        self
    }

    fn surroundings(&self) -> Surroundings<'_> {
        Surroundings { exec_allowed: self.exec_allowed, in_cluster: self.in_cluster.as_ref() }
    }

    async fn cluster(&self, target: Target<'_, Self>) -> Result<Cluster> {
        let Target { config, credentials, location, .. } = target;
        location.check()?;
        config.check()?;
        let lookup = Arc::clone(&self.lookup);
        Cluster::open(config, credentials, location, &self.surroundings(), lookup).await
    }

    async fn delivery<'a>(
        &self,
        cx: &Context,
        target: Target<'a, Self>,
        bundle: &CertificateBundle,
    ) -> Result<Delivery<'a>> {
        let cluster = self.cluster(target).await?;
        let fields = Fields::new(cx, target.config, bundle)?;
        let place = place(cx, target, &cluster, bundle.leaf())?;
        Ok(Delivery { cluster, config: target.config, place, fields })
    }
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self::new()
    }
}

fn place(cx: &Context, target: Target<'_, Kubernetes>, cluster: &Cluster, leaf: &LeafInfo) -> Result<Place> {
    let values = Values { subject: &cx.subject, target: target.name, leaf };
    let namespace = target.location.namespace.as_deref().or(cluster.namespace.as_deref()).unwrap_or(DEFAULT_NAMESPACE);
    Ok(Place {
        namespace: Template::parse("namespace", namespace)?.render(&values)?,
        name: Template::parse("name", &target.location.name)?.render(&values)?,
    })
}

impl DistributionModule for Kubernetes {
    const KIND: &'static str = "kubernetes";
    type Config = KubernetesConfig;
    type Credentials = KubernetesCredentials;
    type Location = KubernetesLocation;
    type Undo = Undo;

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.atomic = true;
        capabilities
    }

    fn check(&self, target: Target<'_, Self>) -> Result<()> {
        let Target { config, credentials, location, .. } = target;
        location.check()?;
        config.check()?;
        Login::new(config, credentials, location, &self.surroundings()).map(drop)
    }

    async fn dry_run(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Plan> {
        self.delivery(cx, target, bundle).await?.plan(cx, Self::KIND, target.name).await
    }

    async fn execute(
        &self,
        cx: &Context,
        target: Target<'_, Self>,
        bundle: &CertificateBundle,
        approved: &ApprovedPlan,
        undo: &Journal<'_, Self::Undo>,
    ) -> Result<Facts> {
        cx.check_cancelled(OPERATION)?;
        self.delivery(cx, target, bundle).await?.execute(cx, approved, undo).await
    }

    async fn validate(&self, cx: &Context, target: Target<'_, Self>, bundle: &CertificateBundle) -> Result<Validation> {
        let endpoints = &target.config.endpoints;
        if !endpoints.is_empty() {
            DistributionModule::check(self, target)?;
            return Ok(validate::probe(cx, endpoints, bundle.fingerprint()).await);
        }
        let cluster = self.cluster(target).await?;
        let place = place(cx, target, &cluster, bundle.leaf())?;
        validate::read_back(cx, &cluster, &place, bundle.fingerprint()).await
    }

    async fn rollback(&self, cx: &Context, target: Target<'_, Self>, undo: Vec<Self::Undo>) -> Result<RollbackOutcome> {
        if undo.is_empty() {
            return Ok(RollbackOutcome::NothingToDo);
        }
        let cluster = self.cluster(target).await?;
        rollback::rollback(cx, &cluster, undo).await
    }
}

/// SHA-256, lower-case hex.
fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
