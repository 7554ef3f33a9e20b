//! Credential plugins: commands that a kubeconfig names, and whose output is a login.
//!
//! They run only where the host of this library allows it; see the
//! [Kubernetes documentation](https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins).

use std::process::Stdio;
use std::time::Duration;

use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use kube::config::ExecConfig;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::login::Identity;
use super::{OPERATION, kubeconfig};
use crate::net::ClientIdentity;

/// How long a plugin may take.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest output that is read, in bytes.
const OUTPUT_MAX: u64 = 256 * 1024;
/// The versions of the protocol that are spoken.
const VERSIONS: [&str; 2] = ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];

/// A command, with what it is told.
#[derive(Debug)]
pub(super) struct Plugin {
    version: String,
    command: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Plugin {
    /// The plugin that a kubeconfig describes.
    ///
    /// # Errors
    /// `Validation` `kubeconfig_invalid`.
    pub(super) fn new(config: &ExecConfig) -> Result<Self> {
        let version = config.api_version.clone().filter(|version| VERSIONS.contains(&version.as_str()));
        let version = version.ok_or_else(|| kubeconfig::invalid("`exec` has no `apiVersion` that is spoken here"))?;
        let command = config.command.clone().filter(|command| !command.is_empty());
        let command = command.ok_or_else(|| kubeconfig::invalid("`exec` has no `command`"))?;
        let env = config.env.iter().flatten().filter_map(|pair| Some((pair.get("name")?, pair.get("value")?)));
        let env = env.map(|(name, value)| (name.clone(), value.clone())).collect();
        Ok(Self { version, command, args: config.args.clone().unwrap_or_default(), env })
    }
}

#[derive(Deserialize)]
struct ExecCredential {
    #[serde(rename = "apiVersion")]
    version: String,
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    token: Option<SecretString>,
    #[serde(default)]
    client_certificate_data: Option<String>,
    #[serde(default)]
    client_key_data: Option<SecretString>,
}

/// Runs the plugin and reads its answer. What it writes elsewhere is thrown away. Cancel-safe: a dropped run is killed.
///
/// # Errors
/// `IoPermanent` `exec_failed`; `IoTransient` `exec_timeout`. Nothing it said is quoted.
pub(super) async fn run(plugin: &Plugin) -> Result<Identity> {
    let failed = |why| Error::permanent(OPERATION, "exec_failed", why).with("command", plugin.command.escape_debug());
    let info =
        serde_json::json!({"apiVersion": plugin.version, "kind": "ExecCredential", "spec": {"interactive": false}});
    let mut command = Command::new(&plugin.command);
    command.args(&plugin.args).envs(plugin.env.iter().map(|(name, value)| (name, value)));
    command.env("KUBERNETES_EXEC_INFO", info.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let work = async {
        let mut child =
            command.spawn().map_err(|error| failed("the login's command cannot be run").with_source(error))?;
        let mut output = Zeroizing::new(Vec::with_capacity(16 * 1024));
        if let Some(stdout) = child.stdout.take() {
            let read = stdout.take(OUTPUT_MAX).read_to_end(&mut output).await;
            read.map_err(|error| failed("the output of the login's command cannot be read").with_source(error))?;
        }
        let status = child.wait().await.map_err(|error| failed("the login's command got lost").with_source(error))?;
        if !status.success() {
            return Err(failed("the login's command failed").with("status", status));
        }
        let unreadable = |_| failed("the login's command did not answer with an ExecCredential");
        let answer: ExecCredential = serde_json::from_slice(&output).map_err(unreadable)?;
        if answer.version != plugin.version {
            return Err(failed("the login's command answers in another version of the protocol than asked"));
        }
        identity(answer.status).ok_or_else(|| failed("the login's command gives neither a token nor a certificate"))
    };
    timeout(LIMIT, work).await.unwrap_or_else(|_| {
        Err(Error::transient(OPERATION, "exec_timeout", "the login's command did not end in time")
            .with("command", plugin.command.escape_debug()))
    })
}

fn identity(status: Status) -> Option<Identity> {
    let Status { token, client_certificate_data, client_key_data } = status;
    let certificate = client_certificate_data
        .zip(client_key_data)
        .map(|(certificate_pem, private_key_pem)| ClientIdentity::new(certificate_pem, private_key_pem));
    (token.is_some() || certificate.is_some()).then_some(Identity { token, certificate })
}
