//! Logging in.

use std::sync::Arc;

use certlib_core::{Error, Result, Secret};
use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg};

use super::config::SshCredentials;
use super::connect::{Client, failed};

const OPERATION: &str = "ssh.login";

/// How many keys of an agent are offered: servers end the connection after a few failures.
const MAX_AGENT_KEYS: usize = 5;

/// How many rounds of questions are answered.
const MAX_PROMPTS: usize = 5;

/// Credentials, ready to use.
pub(super) struct Login<'a> {
    user: &'a str,
    key: Option<Arc<PrivateKey>>,
    certificate: Option<Certificate>,
    agent: bool,
    password: Option<&'a Secret<String>>,
}

impl<'a> Login<'a> {
    /// Decodes the credentials, before anybody is connected to.
    pub(super) async fn read(credentials: &'a SshCredentials) -> Result<Self> {
        let certificate = credentials.certificate.as_deref().map(|line| {
            Certificate::from_openssh(line.trim()).map_err(|error| {
                Error::validation(OPERATION, "certificate_invalid", "the SSH certificate cannot be read")
                    .with_source(error)
            })
        });
        Ok(Self {
            user: &credentials.user,
            key: private_key(credentials).await?.map(Arc::new),
            certificate: certificate.transpose()?,
            agent: credentials.agent,
            password: credentials.password.as_ref(),
        })
    }

    /// Tries one way after another.
    pub(super) async fn perform(&self, handle: &mut Handle<Client>) -> Result<()> {
        let mut tried = Vec::new();
        if let Some(key) = &self.key {
            if let Some(certificate) = &self.certificate {
                tried.push("certificate");
                let answer = handle.authenticate_openssh_cert(self.user, Arc::clone(key), certificate.clone()).await;
                if accepted(handle, answer)? {
                    return Ok(());
                }
            }
            tried.push("private_key");
            if self.with_key(handle, key).await? {
                return Ok(());
            }
        }
        if self.agent {
            tried.push("agent");
            if self.with_agent(handle).await? {
                return Ok(());
            }
        }
        if let Some(password) = self.password {
            tried.push("password");
            let answer = handle.authenticate_password(self.user, password.expose()).await;
            if accepted(handle, answer)? || self.with_prompts(handle, password).await? {
                return Ok(());
            }
        }
        Err(Error::auth(OPERATION, "auth_refused", "the host refuses the login: unknown user, key or password")
            .with("user", self.user.escape_debug())
            .with("tried", tried.join(" ")))
    }

    async fn with_key(&self, handle: &mut Handle<Client>, key: &Arc<PrivateKey>) -> Result<bool> {
        for hash in hashes(handle, key.algorithm().is_rsa()).await? {
            let key = PrivateKeyWithHashAlg::new(Arc::clone(key), hash);
            let answer = handle.authenticate_publickey(self.user, key).await;
            if accepted(handle, answer)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn with_agent(&self, handle: &mut Handle<Client>) -> Result<bool> {
        let unusable = |error: russh::keys::Error| {
            Error::permanent(OPERATION, "agent_unusable", "the SSH agent of this process cannot be used")
                .with_source(error)
        };
        let mut agent = AgentClient::connect_env().await.map_err(unusable)?;
        let identities = agent.request_identities().await.map_err(unusable)?;
        for identity in identities.into_iter().take(MAX_AGENT_KEYS) {
            let AgentIdentity::PublicKey { key, .. } = identity else { continue };
            for hash in hashes(handle, key.algorithm().is_rsa()).await? {
                // An agent may decline one key and sign with the next.
                let answer = handle.authenticate_publickey_with(self.user, key.clone(), hash, &mut agent).await;
                if let Ok(answer) = answer
                    && accepted(handle, Ok(answer))?
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Answers every question that hides its answer with the password.
    async fn with_prompts(&self, handle: &mut Handle<Client>, password: &Secret<String>) -> Result<bool> {
        let lost = |error| failed(OPERATION, error);
        let mut answer =
            handle.authenticate_keyboard_interactive_start(self.user, None::<String>).await.map_err(lost)?;
        for _ in 0..MAX_PROMPTS {
            let prompts = match answer {
                KeyboardInteractiveAuthResponse::Success => return Ok(true),
                KeyboardInteractiveAuthResponse::Failure { .. } => return Ok(false),
                KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => prompts,
            };
            let answers =
                prompts.iter().map(|prompt| if prompt.echo { String::new() } else { password.expose().clone() });
            answer = handle.authenticate_keyboard_interactive_respond(answers.collect()).await.map_err(lost)?;
        }
        Ok(false)
    }
}

/// Whether the host accepted; a connection that was lost meanwhile is not a refusal.
fn accepted(handle: &Handle<Client>, answer: Result<AuthResult, russh::Error>) -> Result<bool> {
    match answer.map_err(|error| failed(OPERATION, error))? {
        AuthResult::Success => Ok(true),
        AuthResult::Failure { remaining_methods, .. } if remaining_methods.is_empty() && handle.is_closed() => {
            Err(failed(OPERATION, russh::Error::Disconnect))
        }
        AuthResult::Failure { .. } => Ok(false),
    }
}

/// The hashes to sign with: SHA-2 for RSA, best first; other keys know themselves.
async fn hashes(handle: &Handle<Client>, is_rsa: bool) -> Result<Vec<Option<HashAlg>>> {
    if !is_rsa {
        return Ok(vec![None]);
    }
    let best = handle.best_supported_rsa_hash().await.map_err(|error| failed(OPERATION, error))?;
    Ok(match best {
        Some(Some(hash)) => vec![Some(hash)],
        // The host knows SHA-1 only, which proves nothing any more.
        Some(None) => Vec::new(),
        None => vec![Some(HashAlg::Sha512), Some(HashAlg::Sha256)],
    })
}

/// Decodes the private key. A passphrase is expensive by design, so this leaves the asynchronous threads.
async fn private_key(credentials: &SshCredentials) -> Result<Option<PrivateKey>> {
    let Some(text) = &credentials.private_key else { return Ok(None) };
    let text = text.duplicate();
    let passphrase = credentials.passphrase.as_ref().map(Secret::duplicate);
    let decode = move || {
        let passphrase = passphrase.as_ref().map(|passphrase| passphrase.expose().as_str());
        // The source is dropped: it could quote the key.
        russh::keys::decode_secret_key(text.expose(), passphrase).map_err(|error| match error {
            russh::keys::Error::KeyIsEncrypted => {
                Error::validation(OPERATION, "passphrase_missing", "the private key is encrypted; give its passphrase")
            }
            _ => Error::validation(
                OPERATION,
                "private_key_invalid",
                "the private key cannot be read: it is damaged, of an unknown kind, or the passphrase is wrong",
            ),
        })
    };
    let decoded = tokio::task::spawn_blocking(decode).await;
    decoded
        .unwrap_or_else(|_| Err(Error::validation(OPERATION, "private_key_invalid", "the private key cannot be read")))
        .map(Some)
}
