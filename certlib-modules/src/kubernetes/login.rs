//! From a credential to a server, what it is trusted by, and who we are there.

use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use super::config::{KubernetesConfig, KubernetesCredentials, KubernetesLocation};
use super::exec::{self, Plugin};
use super::{OPERATION, kubeconfig};
use crate::net::{Cidr, ClientIdentity, Connection, HttpUrl};

/// The longest file of a service account that is read, in bytes.
const FILE_MAX: u64 = 256 * 1024;

/// Where a pod finds its cluster and its service account.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InCluster {
    /// The API server's host: a name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The folder with the files `token`, `ca.crt` and `namespace`.
    pub folder: PathBuf,
}

impl InCluster {
    /// The API server at `host` and `port`, with the service account in `folder`.
    pub fn new(host: impl Into<String>, port: u16, folder: impl Into<PathBuf>) -> Self {
        Self { host: host.into(), port, folder: folder.into() }
    }

    /// What the kubelet tells every pod; `None` outside of pods.
    pub(super) fn from_environment() -> Option<Self> {
        let host = std::env::var("KUBERNETES_SERVICE_HOST").ok().filter(|host| !host.is_empty())?;
        let port = std::env::var("KUBERNETES_SERVICE_PORT").ok()?.parse().ok()?;
        Some(Self::new(host, port, "/var/run/secrets/kubernetes.io/serviceaccount"))
    }

    fn server(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") }
    }

    /// One file of the service account. It is read anew for every operation, since tokens are replaced while they live.
    async fn read(&self, name: &str) -> Result<Zeroizing<String>> {
        let failed = |why| Error::permanent(OPERATION, "in_cluster_unreadable", why).with("file", name.to_owned());
        let unreadable = |error| failed("a file of the pod's service account cannot be read").with_source(error);
        let file = tokio::fs::File::open(self.folder.join(name)).await.map_err(unreadable)?;
        let mut text = Zeroizing::new(String::with_capacity(8 * 1024));
        let read = file.take(FILE_MAX).read_to_string(&mut text).await.map_err(unreadable)?;
        if read == 0 { Err(failed("a file of the pod's service account is empty")) } else { Ok(text) }
    }
}

/// A login that makes sense, before anything is read or run for it.
pub(super) struct Login {
    pub(super) server: String,
    pub(super) connection: Connection,
    pub(super) who: Who,
    /// The name that the server's certificate is for, where that is not the server's host.
    pub(super) server_name: Option<String>,
    /// The namespace that comes with it.
    pub(super) namespace: Option<String>,
}

/// Who we are.
pub(super) enum Who {
    Token(SecretString),
    Certificate(ClientIdentity),
    Plugin(Plugin),
    Pod(InCluster),
}

impl fmt::Debug for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::Certificate(_) => "Certificate",
            Self::Plugin(_) => "Plugin",
            Self::Pod(_) => "Pod",
        })
    }
}

/// Who we are, ready to be shown.
#[derive(Debug, Default)]
pub(super) struct Identity {
    pub(super) token: Option<SecretString>,
    pub(super) certificate: Option<ClientIdentity>,
}

/// What the module itself allows and knows.
pub(super) struct Surroundings<'a> {
    pub(super) exec_allowed: bool,
    pub(super) in_cluster: Option<&'a InCluster>,
}

impl Login {
    /// Reads the credential. Touches neither network nor files.
    ///
    /// # Errors
    /// `Validation`: `login_ambiguous`, `token_invalid`, `server_missing`, `server_superfluous`, `not_in_cluster`; as
    /// [`kubeconfig::read`]; as [`Connection::check`].
    pub(super) fn new(
        config: &KubernetesConfig,
        credentials: &KubernetesCredentials,
        location: &KubernetesLocation,
        surroundings: &Surroundings<'_>,
    ) -> Result<Self> {
        let KubernetesCredentials { kubeconfig, token, client_certificate, in_cluster } = credentials;
        let connection = config.connection.clone();
        let server = || {
            let why = "a token or a client certificate needs the location's `server`";
            location.server.clone().ok_or_else(|| Error::validation(OPERATION, "server_missing", why))
        };
        let plain =
            |server, who| Self { server, connection: connection.clone(), who, server_name: None, namespace: None };
        let login = match (kubeconfig, token, client_certificate, in_cluster) {
            (Some(text), None, None, false) => {
                no_server(location)?;
                kubeconfig::read(text, location.context.as_deref(), connection, surroundings.exec_allowed)?
            }
            (None, Some(token), None, false) => plain(server()?, Who::Token(token.duplicate())),
            (None, None, Some(identity), false) => {
                identity.check()?;
                plain(server()?, Who::Certificate(identity.duplicate()))
            }
            (None, None, None, true) => {
                no_server(location)?;
                let why = "this process does not run in a pod: KUBERNETES_SERVICE_HOST is not set";
                let pod =
                    surroundings.in_cluster.ok_or_else(|| Error::validation(OPERATION, "not_in_cluster", why))?.clone();
                let mut login = plain(pod.server(), Who::Pod(pod.clone()));
                // Nobody who writes targets chose this address: the kubelet did.
                if let Ok(address) = pod.host.parse::<std::net::IpAddr>() {
                    let block = format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
                    login.connection.addresses.allow.extend(block.parse::<Cidr>());
                }
                login
            }
            _ => {
                let why = "a login is exactly one of `kubeconfig`, `token`, `client_certificate` and `in_cluster`";
                return Err(Error::validation(OPERATION, "login_ambiguous", why));
            }
        };
        login.connection.check(&login.url()?)?;
        if let Who::Token(token) = &login.who
            && (token.expose().is_empty() || !token.expose().bytes().all(|byte| byte.is_ascii_graphic()))
        {
            let why = "a token is printable ASCII without spaces and line breaks";
            return Err(Error::validation(OPERATION, "token_invalid", why));
        }
        Ok(login)
    }

    /// The URL to send requests to: the server's, under the name that its certificate is for.
    pub(super) fn url(&self) -> Result<String> {
        let url = HttpUrl::parse(&self.server, self.connection.allow_http)?;
        let Some(name) = &self.server_name else { return Ok(self.server.clone()) };
        if let Some(address) = url.address() {
            self.connection.addresses.check(url.host(), address)?;
        }
        let mut renamed = url.as_url().clone();
        let usable = renamed.set_host(Some(name)).is_ok() && url.is_https();
        let text = renamed.to_string();
        if !usable || HttpUrl::parse(&text, false)?.address().is_some() {
            let why = "`tls-server-name` must be a DNS name, and the server's URL https";
            return Err(Error::validation(OPERATION, "server_name_invalid", why));
        }
        Ok(text)
    }

    /// Gets what the login needs besides itself: the pod's files, or what a plugin says.
    ///
    /// # Errors
    /// `IoPermanent` `in_cluster_unreadable`; as [`exec::run`].
    pub(super) async fn identify(&mut self) -> Result<Identity> {
        let (identity, connection) = match &self.who {
            Who::Token(token) => (Identity { token: Some(token.duplicate()), certificate: None }, None),
            Who::Certificate(identity) => (Identity { token: None, certificate: Some(identity.duplicate()) }, None),
            Who::Plugin(plugin) => (exec::run(plugin).await?, None),
            Who::Pod(pod) => {
                let token = pod.read("token").await?.trim().to_owned();
                let mut connection = self.connection.clone();
                connection.tls.ca_pem = Some(pod.read("ca.crt").await?.to_string());
                let namespace = pod.read("namespace").await.ok();
                self.namespace = namespace.map(|namespace| namespace.trim().to_owned());
                (Identity { token: Some(token.into()), certificate: None }, Some(connection))
            }
        };
        if let Some(connection) = connection {
            self.connection = connection;
        }
        Ok(identity)
    }
}

fn no_server(location: &KubernetesLocation) -> Result<()> {
    match location.server {
        None => Ok(()),
        Some(_) => {
            let why = "this login names its server itself; remove the location's `server`";
            Err(Error::validation(OPERATION, "server_superfluous", why))
        }
    }
}

/// Text in base64, as kubeconfigs hold it. Nothing is quoted.
pub(super) fn decoded(text: &str, field: &'static str) -> Result<Zeroizing<String>> {
    let invalid = || kubeconfig::invalid("a value is not base64 of text").with("field", field);
    let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| invalid())?);
    std::str::from_utf8(&bytes).map(|text| Zeroizing::new(text.to_owned())).map_err(|_| invalid())
}
