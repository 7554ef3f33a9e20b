//! Kubeconfigs that are stored, not at home in somebody's shell: they may neither run commands nor read files.

use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use kube::config::{AuthInfo, Cluster, Context, Kubeconfig};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::OPERATION;
use super::exec::Plugin;
use super::login::{Login, Who, decoded};
use crate::net::{ClientIdentity, Connection};

/// The longest kubeconfig, in bytes.
const LONGEST: usize = 1024 * 1024;

/// The login that `context` of a kubeconfig stands for.
///
/// # Errors
/// `Validation`: `kubeconfig_invalid`; `kubeconfig_unsupported`, `kubeconfig_file` and `exec_refused` with the field that
/// asks for too much; `insecure_not_acknowledged`. Nothing of it is quoted but the names of contexts.
pub(super) fn read(
    text: &SecretString,
    context: Option<&str>,
    mut connection: Connection,
    exec_allowed: bool,
) -> Result<Login> {
    if text.expose().len() > LONGEST {
        return Err(invalid("it is longer than 1 MiB"));
    }
    // The parser's own words are dropped: they quote what they stumble over.
    let config = Kubeconfig::from_yaml(text.expose()).map_err(|_| invalid("it is not the YAML of a kubeconfig"))?;
    let context = chosen(&config, context)?;
    let named = |name: &str| invalid("the context names something that is not there").with("context", name.to_owned());
    let cluster = config.clusters.iter().find(|cluster| cluster.name == context.cluster);
    let cluster = cluster.and_then(|cluster| cluster.cluster.as_ref()).ok_or_else(|| named("cluster"))?;
    let user = config.auth_infos.iter().find(|user| Some(&user.name) == context.user.as_ref());
    let user = user.and_then(|user| user.auth_info.as_ref()).ok_or_else(|| named("user"))?;

    trust(cluster, &mut connection)?;
    let server = cluster.server.clone().ok_or_else(|| invalid("the cluster has no `server`"))?;
    Ok(Login {
        server,
        connection,
        who: who(user, exec_allowed)?,
        server_name: cluster.tls_server_name.clone(),
        namespace: context.namespace.clone(),
    })
}

fn chosen<'a>(config: &'a Kubeconfig, wanted: Option<&str>) -> Result<&'a Context> {
    let wanted = wanted.or(config.current_context.as_deref()).filter(|name| !name.is_empty());
    let wanted = wanted.ok_or_else(|| invalid("it has no `current-context`; name one in the location"))?;
    let found = config.contexts.iter().find(|context| context.name == wanted);
    found
        .and_then(|context| context.context.as_ref())
        .ok_or_else(|| invalid("it has no such context").with("context", wanted.escape_debug()))
}

/// Whom the cluster is trusted by.
fn trust(cluster: &Cluster, connection: &mut Connection) -> Result<()> {
    if cluster.proxy_url.is_some() {
        return Err(unsupported("proxy-url", "proxies are not used"));
    }
    if let Some(ca) = &cluster.certificate_authority_data {
        connection.tls.ca_pem = Some(decoded(ca, "certificate-authority-data")?.to_string());
    } else if cluster.certificate_authority.is_some() {
        return Err(file("certificate-authority"));
    }
    if cluster.insecure_skip_tls_verify == Some(true) && connection.tls.verifies() {
        let why = "the kubeconfig says `insecure-skip-tls-verify`, which trusts anybody; if that is meant, set \
                   `insecure_skip_verify` and `acknowledge_insecure` in the target's `connection.tls`";
        return Err(Error::validation(OPERATION, "insecure_not_acknowledged", why));
    }
    Ok(())
}

fn who(user: &AuthInfo, exec_allowed: bool) -> Result<Who> {
    let impersonates = [
        ("as", user.impersonate.is_some()),
        ("as-uid", user.impersonate_uid.is_some()),
        ("as-groups", user.impersonate_groups.is_some()),
        ("as-user-extra", user.impersonate_user_extra.is_some()),
    ];
    if let Some((field, _)) = impersonates.into_iter().find(|(_, set)| *set) {
        return Err(unsupported(field, "it acts as somebody else; make a login for that one"));
    }
    if user.auth_provider.is_some() {
        return Err(unsupported("auth-provider", "auth providers are gone from Kubernetes since 1.26"));
    }
    if user.username.is_some() || user.password.is_some() {
        return Err(unsupported("username", "Kubernetes has no passwords since 1.19"));
    }
    if let Some(exec) = &user.exec {
        if !exec_allowed {
            let why = "the kubeconfig runs a command to log in, which this process does not allow; use a token or a \
                       client certificate, or allow it where the module is made";
            return Err(Error::validation(OPERATION, "exec_refused", why).with("field", "exec"));
        }
        return Plugin::new(exec).map(Who::Plugin);
    }
    let secrets = Secrets::of(user)?;
    if let Some(token) = &secrets.token {
        return Ok(Who::Token(token.expose().trim().to_owned().into()));
    }
    if user.token_file.is_some() {
        return Err(file("tokenFile"));
    }
    if user.client_certificate_data.is_none() && user.client_certificate.is_some() {
        return Err(file("client-certificate"));
    }
    if user.client_key_data.is_none() && user.client_key.is_some() {
        return Err(file("client-key"));
    }
    let (Some(certificate), Some(key)) = (&user.client_certificate_data, &secrets.client_key_data) else {
        return Err(invalid("the user has neither a token nor a client certificate with its key"));
    };
    let certificate = decoded(certificate, "client-certificate-data")?;
    let key = decoded(key.expose(), "client-key-data")?;
    let identity = ClientIdentity::new(certificate.to_string(), key.to_string());
    identity.check()?;
    Ok(Who::Certificate(identity))
}

/// What the kubeconfig's types keep from us, in the types that we keep secrets in.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Secrets {
    #[serde(default)]
    token: Option<SecretString>,
    #[serde(default)]
    client_key_data: Option<SecretString>,
}

impl Secrets {
    fn of(user: &AuthInfo) -> Result<Self> {
        let text = serde_json::to_vec(user).map(Zeroizing::new).map_err(|_| invalid("the user cannot be read"))?;
        serde_json::from_slice(&text).map_err(|_| invalid("the user cannot be read"))
    }
}

/// An error about the kubeconfig's form.
pub(super) fn invalid(reason: &'static str) -> Error {
    Error::validation(OPERATION, "kubeconfig_invalid", "the kubeconfig cannot be used").with("reason", reason)
}

fn unsupported(field: &'static str, why: &'static str) -> Error {
    Error::validation(OPERATION, "kubeconfig_unsupported", why).with("field", field)
}

fn file(field: &'static str) -> Error {
    let why = "the kubeconfig names a file, which is read from nobody's machine here; put the content in, as \
               `kubectl config view --flatten --raw` does";
    Error::validation(OPERATION, "kubeconfig_file", why).with("field", field)
}
