//! How to log in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use certlib_core::classify;
use certlib_core::error::{Error, Result};
use certlib_core::secret::SecretString;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;

use zeroize::Zeroizing;

use super::OPERATION;
use super::session::Ask;
use crate::net::ClientIdentity;

/// Where Kubernetes puts the token of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The longest token, in bytes.
const LONGEST: usize = 64 * 1024;

/// How long reading a file with a JWT may take.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// How to log in to Vault. Every operation logs in for itself, and gives the token back at its end.
#[derive(Debug, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum VaultCredentials {
    /// With a token as it is. It is neither renewed nor revoked.
    Token {
        /// The token.
        token: SecretString,
    },
    /// With an AppRole, whose secret id must be good for many uses.
    #[serde(rename = "approle")]
    AppRole {
        /// Where the method is mounted, below `auth/`. Default `approle`.
        #[serde(default = "approle")]
        mount: String,
        /// The role's id.
        role_id: String,
        /// One of its secret ids, if it needs any.
        #[serde(default)]
        secret_id: Option<SecretString>,
    },
    /// With a signed statement (JWT) of an identity provider: roles of the type `jwt` of the method `jwt` or `oidc`.
    Jwt {
        /// Where the method is mounted, below `auth/`. Default `jwt`.
        #[serde(default = "jwt")]
        mount: String,
        /// The role's name. Default: that of the mount.
        #[serde(default)]
        role: Option<String>,
        /// The statement itself.
        #[serde(default)]
        jwt: Option<SecretString>,
        /// Or the file it is in, which is read at every login. Its content is sent to Vault if it has the form of a JWT.
        #[serde(default)]
        jwt_file: Option<PathBuf>,
    },
    /// As a service account of Kubernetes.
    Kubernetes {
        /// Where the method is mounted, below `auth/`. Default `kubernetes`.
        #[serde(default = "kubernetes")]
        mount: String,
        /// The role's name.
        role: String,
        /// The account's token itself.
        #[serde(default)]
        jwt: Option<SecretString>,
        /// Or the file it is in, as for `jwt`. Default: where Kubernetes puts it in a pod.
        #[serde(default)]
        jwt_file: Option<PathBuf>,
    },
    /// With a TLS certificate, shown in the handshake.
    Cert {
        /// Where the method is mounted, below `auth/`. Default `cert`.
        #[serde(default = "cert")]
        mount: String,
        /// The role's name. Default: any that takes the certificate.
        #[serde(default)]
        name: Option<String>,
        /// The certificate and its key.
        identity: ClientIdentity,
    },
}

impl VaultCredentials {
    /// Checks what can be checked without Vault and without reading files.
    ///
    /// # Errors
    /// `Validation` `credentials_invalid` with the field; as [`ClientIdentity::check`]. Nothing is quoted.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Token { token } if is_token(token.expose()) => Ok(()),
            Self::Token { .. } => Err(invalid("token", "a token is one line of printable characters")),
            Self::AppRole { mount, role_id, .. } => named(mount, Some(role_id), "role_id"),
            Self::Jwt { mount, role, jwt, jwt_file } => {
                named(mount, role.as_ref(), "role")?;
                match (jwt, jwt_file) {
                    (Some(jwt), None) => statement(jwt),
                    (None, Some(_)) => Ok(()),
                    _ => Err(invalid("jwt", "give either `jwt` or `jwt_file`")),
                }
            }
            Self::Kubernetes { mount, role, jwt, jwt_file } => {
                named(mount, Some(role), "role")?;
                match (jwt, jwt_file) {
                    (Some(_), Some(_)) => Err(invalid("jwt", "give `jwt` or `jwt_file`, not both")),
                    (Some(jwt), None) => statement(jwt),
                    (None, _) => Ok(()),
                }
            }
            Self::Cert { mount, name, identity } => {
                named(mount, name.as_ref(), "name")?;
                identity.check()
            }
        }
    }

    /// The certificate to show in handshakes.
    pub(super) fn identity(&self) -> Option<&ClientIdentity> {
        match self {
            Self::Cert { identity, .. } => Some(identity),
            _ => None,
        }
    }

    /// The token that is given, if one is.
    pub(super) fn token(&self) -> Option<&SecretString> {
        match self {
            Self::Token { token } => Some(token),
            _ => None,
        }
    }

    /// The request that logs in; `None` when a token is given.
    ///
    /// # Errors
    /// `token_unreadable` by class of the I/O error, `Auth` `credentials_invalid` when a file holds no JWT.
    pub(super) async fn login(&self) -> Result<Option<Ask>> {
        let (mount, body) = match self {
            Self::Token { .. } => return Ok(None),
            Self::AppRole { mount, role_id, secret_id } => {
                let mut body = vec![("role_id", role_id.as_str())];
                body.extend(secret_id.as_ref().map(|secret| ("secret_id", secret.expose().as_str())));
                (mount, fields(&body)?)
            }
            Self::Jwt { mount, role, jwt, jwt_file } => {
                let jwt = given_or_read(jwt.as_ref(), jwt_file.as_deref()).await?;
                let mut body = vec![("jwt", jwt.expose().as_str())];
                body.extend(role.as_ref().map(|role| ("role", role.as_str())));
                (mount, fields(&body)?)
            }
            Self::Kubernetes { mount, role, jwt, jwt_file } => {
                let jwt = given_or_read(jwt.as_ref(), jwt_file.as_deref()).await?;
                (mount, fields(&[("role", role), ("jwt", jwt.expose())])?)
            }
            Self::Cert { mount, name, .. } => {
                let body: Vec<_> = name.iter().map(|name| ("name", name.as_str())).collect();
                (mount, fields(&body)?)
            }
        };
        Ok(Some(Ask::post_bytes(&["auth", mount, "login"], body)))
    }
}

/// What a token may be made of.
pub(super) fn is_token(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Three texts in base64, so that no other file is sent by mistake.
fn is_statement(text: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=".contains(&b));
    text.len() <= LONGEST && text.split('.').count() == 3 && text.split('.').all(part)
}

fn statement(jwt: &SecretString) -> Result<()> {
    if is_statement(jwt.expose()) { Ok(()) } else { Err(invalid("jwt", "this does not have the form of a JWT")) }
}

async fn given_or_read(given: Option<&SecretString>, file: Option<&Path>) -> Result<SecretString> {
    if let Some(given) = given {
        return Ok(given.duplicate());
    }
    let path = file.unwrap_or(Path::new(SERVICE_ACCOUNT));
    let unreadable = |error: std::io::Error| {
        let class = classify::io(error.kind());
        Error::new(class, OPERATION, "token_unreadable", "the file with the token to log in with cannot be read")
            .with("path", path.display())
            .with_source(error)
    };
    // What is no small file at all must not keep anybody: a pipe never ends, a device has no end.
    let read = tokio::time::timeout(READ_LIMIT, read_some(path)).await;
    let text = read.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(unreadable)?;
    let text = str::from_utf8(&text).map(str::trim).ok().filter(|text| is_statement(text));
    let why = "there is no JWT in the file to log in with";
    let none = || Error::auth(OPERATION, "credentials_invalid", why).with("path", path.display());
    text.map(|text| SecretString::new(text.to_owned())).ok_or_else(none)
}

/// At most a byte more than a JWT may have, in a buffer that is wiped.
async fn read_some(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
    tokio::fs::File::open(path).await?.take(LONGEST as u64 + 1).read_to_end(&mut text).await?;
    Ok(text)
}

/// A JSON object of texts, in a buffer that is wiped.
fn fields(pairs: &[(&str, &str)]) -> Result<Zeroizing<Vec<u8>>> {
    let object: std::collections::BTreeMap<_, _> = pairs.iter().copied().collect();
    let written = serde_json::to_vec(&object).map(Zeroizing::new);
    written.map_err(|_| invalid("method", "the login cannot be written as JSON"))
}

fn named(mount: &str, name: Option<&String>, field: &'static str) -> Result<()> {
    let plain = |text: &str| !text.is_empty() && text.len() <= 512 && !text.chars().any(char::is_control);
    let mount = mount.trim_matches('/');
    if !plain(mount) || mount.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(invalid("mount", "the path of a login method, below `auth/`"));
    }
    match name {
        Some(name) if !plain(name) => Err(invalid(field, "1 to 512 bytes without control characters")),
        _ => Ok(()),
    }
}

fn invalid(field: &'static str, why: &'static str) -> Error {
    Error::validation(OPERATION, "credentials_invalid", why).with("field", field)
}

fn approle() -> String {
    "approle".to_owned()
}

fn jwt() -> String {
    "jwt".to_owned()
}

fn kubernetes() -> String {
    "kubernetes".to_owned()
}

fn cert() -> String {
    "cert".to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn checked(value: Value) -> Result<()> {
        serde_json::from_value::<VaultCredentials>(value).unwrap().check()
    }

    #[test]
    fn logins_are_checked_without_being_quoted() {
        let good = [
            json!({"method": "token", "token": "hvs.abc"}),
            json!({"method": "approle", "role_id": "r"}),
            json!({"method": "approle", "role_id": "r", "secret_id": "s", "mount": "teams/a"}),
            json!({"method": "jwt", "jwt": "a.b.c"}),
            json!({"method": "jwt", "role": "r", "jwt_file": "/run/jwt"}),
            json!({"method": "kubernetes", "role": "r"}),
            json!({"method": "kubernetes", "role": "r", "jwt": "a.b.c"}),
        ];
        for value in good {
            checked(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"));
        }
        let bad = [
            json!({"method": "token", "token": "canary with spaces"}),
            json!({"method": "token", "token": ""}),
            json!({"method": "approle", "role_id": ""}),
            json!({"method": "approle", "role_id": "r", "mount": "../sys"}),
            json!({"method": "jwt", "role": "r"}),
            json!({"method": "jwt", "jwt": "canary"}),
            json!({"method": "jwt", "jwt": "a.b.c", "jwt_file": "/x"}),
            json!({"method": "kubernetes", "role": "r", "jwt": "a.b.c", "jwt_file": "/x"}),
            json!({"method": "kubernetes", "role": "r", "jwt": "canary.b"}),
        ];
        for value in bad {
            let error = checked(value.clone()).unwrap_err();
            assert_eq!(error.code(), "credentials_invalid", "{value}");
            assert!(!format!("{error:?}").contains("canary"));
        }
        let shown: VaultCredentials =
            serde_json::from_value(json!({"method": "approle", "role_id": "r", "secret_id": "canary"})).unwrap();
        assert!(!format!("{shown:?}").contains("canary"));
    }

    #[tokio::test]
    async fn only_a_jwt_is_read_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let read = async |text: &str| {
            std::fs::write(&file, text).unwrap();
            given_or_read(None, Some(&file)).await
        };
        assert_eq!(read("a.b-_.c=\n").await.unwrap().expose(), "a.b-_.c=");
        for text in ["", "root:x:0:0:root:/root:/bin/sh\n", "canary", "a.b.c\nd.e.f", "a..c"] {
            let error = read(text).await.unwrap_err();
            assert_eq!(error.code(), "credentials_invalid", "{text}");
            assert!(!format!("{error:?}").contains("canary"));
        }
        let error = given_or_read(None, Some(&folder.path().join("none"))).await.unwrap_err();
        assert_eq!(error.code(), "token_unreadable");
    }
}
