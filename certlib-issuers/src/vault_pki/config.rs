use certlib_core::secret::SecretString;
use certlib_core::{Error, Result};
use certlib_net::Connection;
use serde::{Deserialize, Serialize};

const OPERATION: &str = "vault_pki.config";

/// The longest path or name, in bytes.
const LONGEST: usize = 512;

/// The longest validity that can be asked for, in seconds: a hundred years.
const VALIDITY_MAX: u64 = 100 * 365 * 24 * 3600;

/// Configuration of a Vault PKI issuer.
///
/// ```
/// let config: certlib_issuers::vault_pki::VaultPkiConfig = serde_json::from_str(r#"{
///     "url": "https://vault.example.com:8200",
///     "role": "web"
/// }"#)?;
/// assert_eq!(config.mount, "pki");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct VaultPkiConfig {
    /// The server's URL without `/v1`, such as `https://vault.example.com:8200`.
    pub url: String,
    /// Where the engine is mounted, such as `pki` or `teams/web/pki`. Default `pki`.
    #[serde(default = "default_mount")]
    pub mount: String,
    /// The role that decides what may be issued. A certificate's `profile` replaces it.
    pub role: String,
    /// The issuer of the mount that signs, by its id or name. Default: the role's. Needs Vault 1.11.
    #[serde(default)]
    pub issuer_ref: Option<String>,
    /// How long certificates are valid, in seconds, unless an order asks for something else. Default: as the role says.
    /// Vault shortens what is longer than the role or the mount allows.
    #[serde(default)]
    pub validity_seconds: Option<u64>,
    /// The namespace of the mount, such as `team/a`.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The namespace to log in to, where it is another one than the mount's; an empty text is the root.
    #[serde(default)]
    pub login_namespace: Option<String>,
    /// How to reach the server.
    #[serde(default)]
    pub connection: Connection,
}

/// The credential, as JSON: how to log in.
#[derive(Debug, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum VaultPkiCredentials {
    /// With a token as it is.
    Token {
        /// The token.
        token: SecretString,
    },
    /// With an AppRole, whose secret id must be good for many uses.
    #[serde(rename = "approle")]
    AppRole {
        /// Where the method is mounted, below `auth/`.
        #[serde(default = "default_approle")]
        mount: String,
        /// The role's id.
        role_id: String,
        /// One of its secret ids, if it needs any.
        #[serde(default)]
        secret_id: Option<SecretString>,
    },
}

fn default_mount() -> String {
    "pki".to_owned()
}

fn default_approle() -> String {
    "approle".to_owned()
}

impl VaultPkiConfig {
    /// # Errors
    /// `Validation` `config_invalid`, naming the field, and as [`Connection::check`].
    pub(super) fn check(&self) -> Result<()> {
        let url = self.connection.check(&self.url)?;
        if url.as_url().path().trim_end_matches('/').ends_with("/v1") {
            return Err(invalid("url", "the server's URL without /v1"));
        }
        if !is_path(&self.mount) {
            return Err(invalid("mount", "the path of a mount, such as teams/web/pki"));
        }
        if !is_name(&self.role) {
            return Err(invalid("role", "the name of a role, without slashes"));
        }
        if self.issuer_ref.as_deref().is_some_and(|issuer| !is_name(issuer)) {
            return Err(invalid("issuer_ref", "the id or name of an issuer, or nothing"));
        }
        if self.validity_seconds.is_some_and(|seconds| !(1..=VALIDITY_MAX).contains(&seconds)) {
            return Err(invalid("validity_seconds", "1 second to 100 years, or nothing"));
        }
        for (field, namespace) in [("namespace", &self.namespace), ("login_namespace", &self.login_namespace)] {
            if namespace.as_deref().is_some_and(|namespace| !namespace.is_empty() && !is_path(namespace)) {
                return Err(invalid(field, "the path of a namespace, such as team/a"));
            }
        }
        Ok(())
    }
}

impl VaultPkiCredentials {
    /// # Errors
    /// `Validation` `credentials_invalid`; the text is not quoted.
    pub(super) fn decode(text: Option<&SecretString>) -> Result<Self> {
        let decoded = text.and_then(|text| serde_json::from_str::<Self>(text.expose()).ok());
        decoded.filter(Self::is_usable).ok_or_else(|| {
            let why = "the credential is a JSON object with method token and a token, or with method approle, a role_id \
                       and a secret_id";
            Error::validation(OPERATION, "credentials_invalid", why)
        })
    }

    fn is_usable(&self) -> bool {
        match self {
            Self::Token { token } => is_token(token.expose()),
            Self::AppRole { mount, role_id, .. } => is_path(mount) && is_plain(role_id),
        }
    }
}

/// What a token may be made of.
pub(super) fn is_token(text: &str) -> bool {
    (1..=64 * 1024).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether this can be the name of a role or an issuer: one part of a path.
pub(super) fn is_name(name: &str) -> bool {
    is_plain(name) && !name.contains('/') && !name.ends_with('.')
}

fn is_path(path: &str) -> bool {
    is_plain(path) && path.trim_matches('/').split('/').all(is_name)
}

fn is_plain(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn invalid(field: &'static str, why: &str) -> Error {
    Error::validation(OPERATION, "config_invalid", format!("{field}: {why}")).with("field", field)
}

#[cfg(test)]
mod tests {
    use certlib_core::issuer::decode_config;
    use serde_json::{Value, json};

    use super::*;

    fn verdict(change: impl FnOnce(&mut Value)) -> Option<String> {
        let mut config = json!({ "url": "https://vault.example.com:8200", "role": "web" });
        change(&mut config);
        let checked = decode_config::<VaultPkiConfig>(&config).and_then(|config| config.check());
        checked.err().map(|error| error.code().to_owned())
    }

    #[test]
    fn what_can_be_used_and_what_cannot() {
        assert_eq!(verdict(|_| {}), None);
        assert_eq!(verdict(|config| config["mount"] = json!("/teams/web/pki/")), None);
        assert_eq!(verdict(|config| config["namespace"] = json!("team/a/")), None);
        assert_eq!(verdict(|config| config["login_namespace"] = json!("")), None);
        assert_eq!(verdict(|config| config["issuer_ref"] = json!("root-2026")), None);
        assert_eq!(verdict(|config| config["url"] = json!("http://vault.example/")).as_deref(), Some("url_invalid"));
        type Change = fn(&mut Value);
        let wrong: [Change; 12] = [
            |config| *config = json!({}),
            |config| config["url"] = json!("https://vault.example.com/v1"),
            |config| config["url"] = json!("https://vault.example.com/v1/"),
            |config| config["role"] = json!(""),
            |config| config["role"] = json!("../sign-verbatim"),
            |config| config["role"] = json!("web."),
            |config| config["mount"] = json!("pki/../sys"),
            |config| config["mount"] = json!("a//b"),
            |config| config["issuer_ref"] = json!(""),
            |config| config["validity_seconds"] = json!(0),
            |config| config["namespace"] = json!("a\nb"),
            |config| config["surprise"] = json!(1),
        ];
        for change in wrong {
            assert_eq!(verdict(change).as_deref(), Some("config_invalid"));
        }
    }

    #[test]
    fn credentials_are_strict_and_silent() {
        let decode = |text: &str| VaultPkiCredentials::decode(Some(&text.to_owned().into()));
        for good in [
            r#"{"method":"token","token":"canary"}"#,
            r#"{"method":"approle","role_id":"r"}"#,
            r#"{"method":"approle","mount":"teams/a","role_id":"r","secret_id":"canary"}"#,
        ] {
            assert!(!format!("{:?}", decode(good).unwrap()).contains("canary"));
        }
        for wrong in [
            "{}",
            "canary",
            r#"{"token":"canary"}"#,
            r#"{"method":"token","token":""}"#,
            r#"{"method":"token","token":"canary with spaces"}"#,
            r#"{"method":"token","token":4711}"#,
            r#"{"method":"approle","role_id":""}"#,
            r#"{"method":"approle","role_id":"r","mount":"../sys","secret_id":"canary"}"#,
            r#"{"method":"approle","role_id":"r","secret":"canary"}"#,
        ] {
            let error = decode(wrong).unwrap_err();
            assert_eq!(error.code(), "credentials_invalid", "{wrong}");
            assert!(!format!("{error:?}").contains("canary") && !format!("{error:?}").contains("4711"));
        }
        assert_eq!(VaultPkiCredentials::decode(None).unwrap_err().code(), "credentials_invalid");
    }
}
