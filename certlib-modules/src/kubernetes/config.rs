//! What a Kubernetes target is told: where, how, and who we are.

use std::collections::BTreeMap;

use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use serde::Deserialize;

use super::name::{self, Template};
use super::{MARKER_PREFIX, OPERATION};
use crate::net::{ClientIdentity, Connection};
use crate::probe::Endpoint;

/// Keys of a `kubernetes.io/tls` Secret that are always delivered.
pub(super) const CERTIFICATE: &str = "tls.crt";
/// See [`CERTIFICATE`].
pub(super) const KEY: &str = "tls.key";
/// The key for the issuers.
pub(super) const ISSUERS: &str = "ca.crt";

/// Which Secret of which cluster.
///
/// `namespace` and `name` may have variables: `{project}`, `{certificate}` (its id), `{target}` (its name), and `{name}`,
/// the certificate's first name, with `wildcard.` for `*.`. What comes out must be a name that Kubernetes allows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KubernetesLocation {
    /// The API server's URL, for logins that do not name it themselves: a token or a client certificate.
    #[serde(default)]
    pub server: Option<String>,
    /// The kubeconfig's context; its `current-context` if not set.
    #[serde(default)]
    pub context: Option<String>,
    /// The Secret's namespace; if not set, the one of the kubeconfig's context or of the pod, else `default`.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The Secret's name.
    pub name: String,
}

/// How to deliver. Everything has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KubernetesConfig {
    /// How to reach the API server. A CA that the login brings along is trusted instead of the one named here.
    pub connection: Connection,
    /// Who owns the fields that are written. Change it before the first delivery only: for the API server, another name
    /// is another owner. Default `certlib`.
    pub field_manager: String,
    /// The Secret's type. It never changes once the Secret exists. Default `kubernetes.io/tls`.
    pub secret_type: String,
    /// Labels of the Secret.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the Secret, besides those under `certlib.io/`.
    pub annotations: BTreeMap<String, String>,
    /// Delivers the issuers, without the leaf, as `ca.crt`.
    pub ca_crt: bool,
    /// More keys, and what they hold.
    pub extra_keys: BTreeMap<String, Content>,
    /// Takes fields over from whoever owns them now, be it a person with kubectl or a tool that applied them once.
    /// Secrets that a controller keeps writing are refused all the same.
    pub take_over: bool,
    /// Where the certificate must be served afterwards. Without any, validation reads the Secret back.
    pub endpoints: Vec<Endpoint>,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            connection: Connection::default(),
            field_manager: "certlib".to_owned(),
            secret_type: "kubernetes.io/tls".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            ca_crt: false,
            extra_keys: BTreeMap::new(),
            take_over: false,
            endpoints: Vec::new(),
        }
    }
}

/// What a key of the Secret holds, as PEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Content {
    /// The leaf alone.
    Leaf,
    /// Its issuers.
    Chain,
    /// The leaf, then its issuers.
    Fullchain,
    /// The private key.
    Key,
    /// The leaf, its issuers, and the private key.
    Combined,
}

/// How to log in: exactly one of these.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KubernetesCredentials {
    /// A kubeconfig, as text. Certificates, keys and tokens must be in it, not in files that it names; commands that it
    /// names run only if the module [allows](super::Kubernetes::allow_exec_plugins) that.
    pub kubeconfig: Option<SecretString>,
    /// A bearer token, for the `server` of the location.
    pub token: Option<SecretString>,
    /// A client certificate, for the `server` of the location.
    pub client_certificate: Option<ClientIdentity>,
    /// The service account of the pod that this process runs in, at the cluster that it runs in.
    pub in_cluster: bool,
}

impl KubernetesConfig {
    /// Checks everything but the connection, which is checked with the server's URL.
    ///
    /// # Errors
    /// `Validation`: `manager_invalid`, `secret_type_invalid`, `label_invalid`, `annotation_invalid`, `data_key_invalid`,
    /// each with the field; `endpoint_invalid`.
    pub(super) fn check(&self) -> Result<()> {
        let invalid = |code: &'static str, field: &'static str, value: &str, why: &str| {
            Err(Error::validation(OPERATION, code, why).with("field", field).with("value", value.escape_debug()))
        };
        if !name::is_manager(&self.field_manager) {
            let why = "a field manager is 1 to 128 visible ASCII characters";
            return invalid("manager_invalid", "field_manager", &self.field_manager, why);
        }
        if !name::is_qualified(&self.secret_type) {
            let why = "a type is a name with an optional prefix, such as kubernetes.io/tls or Opaque";
            return invalid("secret_type_invalid", "secret_type", &self.secret_type, why);
        }
        for (key, value) in &self.labels {
            if !name::is_qualified(key) || !name::is_label_value(value) {
                let why = "a label is `name` or `prefix/name`, its value at most 63 letters, digits, '-', '_' and '.'";
                return invalid("label_invalid", "labels", key, why);
            }
        }
        for key in self.annotations.keys() {
            if !name::is_qualified(key) || key.starts_with(MARKER_PREFIX) {
                let why = "an annotation is `name` or `prefix/name`, and `certlib.io/` is taken";
                return invalid("annotation_invalid", "annotations", key, why);
            }
        }
        for key in self.extra_keys.keys() {
            let taken = [CERTIFICATE, KEY].contains(&key.as_str()) || (self.ca_crt && key == ISSUERS);
            if taken || !name::is_data_key(key) {
                let why = "a key is made of letters, digits, '-', '_' and '.', and tls.crt and tls.key are taken, \
                           and so is ca.crt with `ca_crt`";
                return invalid("data_key_invalid", "extra_keys", key, why);
            }
        }
        self.endpoints.iter().try_for_each(Endpoint::check)
    }
}

impl KubernetesLocation {
    /// Checks both templates.
    ///
    /// # Errors
    /// `Validation` `name_invalid` with the field.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(namespace) = &self.namespace {
            Template::parse("namespace", namespace)?;
        }
        Template::parse("name", &self.name).map(drop)
    }
}
