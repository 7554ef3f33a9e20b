//! Keys in the transit engine of HashiCorp Vault or OpenBao.
//!
//! Data keys are encrypted and decrypted by Vault; the key-encryption key never leaves it. Each version of a key there
//! is one key of the keyring, so `vault write -f transit/keys/certlib/rotate`, a fresh
//! [`Keyring`](certlib_core::secret::Keyring) and a rotation of certlib move all secrets to a new one.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use certlib_core::secret::{Keyring, KeyringEnvelope, SecretString};
//! use certlib_keys::vault_transit::{TransitKey, VaultAuth, VaultTransit, VaultTransitConfig};
//!
//! # async fn example(local: Keyring, token: SecretString) -> certlib_core::Result<()> {
//! let auth = VaultAuth::Token { token };
//! let keys = vec![TransitKey::new("certlib", 2)];
//! let config = VaultTransitConfig::new("https://vault.example.com:8200", auth, keys);
//! let mut keyring = local; // with version 1
//! keyring.add_provider(Arc::new(VaultTransit::new(config)?)).await?;
//! let envelope = KeyringEnvelope::new(keyring);
//! # Ok(())
//! # }
//! ```
//!
//! # The key in Vault
//! Of type `aes256-gcm96`, not derived, better not exportable:
//! `vault write -f transit/keys/certlib`. Vault 1.13 or newer, or OpenBao, for `associated_data`: older ones silently
//! leave it out, which [`VaultTransit::keys`](KeyProvider::keys) finds out by trying.
//!
//! The token needs a policy like this one. It must **not** have `create` on `encrypt/`: with it, Vault makes a new key
//! out of nothing when the key is gone, and seals under that.
//! ```text
//! path "transit/keys/certlib"          { capabilities = ["read"] }
//! path "transit/encrypt/certlib"       { capabilities = ["update"] }
//! path "transit/decrypt/certlib"       { capabilities = ["update"] }
//! path "transit/hmac/certlib/sha2-256" { capabilities = ["update"] }
//! # Only with `known` fingerprints:
//! path "transit/verify/certlib/sha2-256" { capabilities = ["update"] }
//! ```
//!
//! # What is sent
//! A wrap is `encrypt` with the data key as `plaintext`, the version as `key_version`, and as `associated_data` what the
//! envelope binds the data key to, followed by a random salt of 32 bytes. Vault's answer, `vault:vN:` and the base64 of
//! a 12-byte nonce, ciphertext and 16-byte tag, is taken apart and must have exactly these lengths and this version. As
//! nothing is derived for each wrap, at most 2^32 of them are safe under one version: rotate before.
//!
//! # Fingerprints
//! The id of a version is `hmac/NAME/sha2-256` of a fixed text under it. Vault makes a random HMAC key together with
//! each version, and keeps both together, also in backups. So an equal fingerprint proves that it is the same version of
//! the same key, and a key that was deleted and made anew under its name has another one; it is asked for again before a
//! wrap when that was last done a minute ago. It does not prove anything against Vault's own operator, who could join
//! one version's HMAC key with another's cipher key in Vault's storage; and a cipher key that is imported twice has two
//! fingerprints.
//!
//! Vault makes no HMAC under versions below `min_encryption_version`. So raise that only once nothing is sealed under
//! those versions any more, or give their fingerprints as [`TransitKey::known`]. Versions below
//! `min_decryption_version` are not at hand.
//!
//! # Verified and not
//! Paths, fields, lengths and statuses are those of the published sources of Vault and OpenBao (transit engine, 1.13 and
//! later); tests run against the simulator of `certlib-testkit`, which Python's `hvac` is run against as well, and
//! against a real server where `VAULT_ADDR` and `VAULT_TOKEN` name one. Namespaces, standby redirects and quotas of a
//! real Vault Enterprise have not been seen.

mod config;
mod http;
mod session;
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::rand;
use bytes::Bytes;
use certlib_core::clock::{Clock, SystemClock};
use certlib_core::secret::{DEK_LEN, Dek, Kek, KekId, KeyProvider, Secret, WRAP_SALT_LEN, WrappedDek};
use certlib_core::{Error, ErrorClass, Result};
use zeroize::Zeroizing;

pub use self::config::{Timeouts, TransitKey, VaultAuth, VaultTransitConfig};
use self::http::{Answer, Ask, Http, invalid};
use self::session::Session;
use self::wire::{Capabilities, Ciphertext, Hmac, KeyInfo, Plaintext, Reply, Valid};

/// The one type of key that fits: it makes wraps of the length that all providers make.
const KEY_TYPE: &str = "aes256-gcm96";

/// How old the proof may be that a name in Vault still stands for the same key, when something is sealed with it.
const PROOF_LASTS: Duration = Duration::from_secs(60);

const KEYS: &str = "vault_transit.keys";
const WRAP: &str = "vault_transit.wrap";
const UNWRAP: &str = "vault_transit.unwrap";

/// Keys in Vault's transit engine. See [the module](self).
#[derive(Debug)]
pub struct VaultTransit {
    session: Session,
    mount: String,
    keys: Vec<TransitKey>,
    clock: Arc<dyn Clock>,
    places: Mutex<HashMap<KekId, Place>>,
}

/// Where a key of the keyring is in Vault.
#[derive(Debug, Clone)]
struct Place {
    name: String,
    version: u32,
    /// When it was last seen that it is still the same key, by the monotonic clock.
    proven_at: Duration,
}

impl VaultTransit {
    /// The kind of this provider.
    pub const KIND: &'static str = "vault-transit";

    /// The keys that `config` names. Nothing is asked of Vault yet.
    ///
    /// # Errors
    /// `Validation` `config_invalid`, naming the field; `IoPermanent` `client_failed` when no TLS client can be made.
    pub fn new(config: VaultTransitConfig) -> Result<Self> {
        Self::with_clock(config, SystemClock::shared())
    }

    /// The same with another clock, which tells when to renew and to look again.
    ///
    /// # Errors
    /// As [`VaultTransit::new`].
    pub fn with_clock(config: VaultTransitConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        let base = config.check()?;
        let http = Http::new(&config, base, clock.clone())?;
        let session = Session::new(http, config.auth, clock.clone());
        Ok(Self { session, mount: config.mount, keys: config.keys, clock, places: Mutex::default() })
    }

    /// The versions of one key that are at hand.
    async fn versions(&self, key: &TransitKey) -> Result<Vec<Kek>> {
        let info = self.read(KEYS, &key.name).await?;
        check(key, &info)?;
        self.warn_of_creating(&key.name).await;
        let mut keks = Vec::new();
        for version in info.versions() {
            let id = if info.encrypts(version) || version == info.latest_version {
                Some(self.fingerprint(KEYS, &key.name, version).await?)
            } else {
                self.known(key, version).await?
            };
            let Some(id) = id else {
                tracing::warn!(
                    key = key.name,
                    version,
                    "not at hand: Vault gives no fingerprint of a version below min_encryption_version; configure it"
                );
                continue;
            };
            let place = Place { name: key.name.clone(), version, proven_at: self.clock.monotonic() };
            self.places().insert(id, place);
            keks.push(Kek::new(id, key.keyring_version(version)?, Self::KIND));
        }
        if !keks.is_empty() {
            self.try_out(&key.name, info.latest_version).await?;
        }
        Ok(keks)
    }

    /// With the right to create, encrypting under a key that is gone makes another one. Whoever may not ask for rights is
    /// not warned.
    async fn warn_of_creating(&self, name: &str) {
        let path = format!("{}/encrypt/{name}", self.mount.trim_matches('/'));
        let Ok(body) = wire::capabilities(&path) else { return };
        let ask = Ask::write(KEYS, &["sys", "capabilities-self"], body);
        let rights = match self.session.call(&ask).await {
            Ok(answer) if answer.is_success() => answer.json::<Reply<Capabilities>>(),
            _ => return,
        };
        let rights = rights.ok().and_then(|mut reply| reply.data.0.remove(&path)).unwrap_or_default();
        if rights.iter().any(|right| right == "create" || right == "root") {
            tracing::warn!(path, "the token may create a key by encrypting: take `create` from its policy");
        }
    }

    /// Encrypts and decrypts something of no worth. A server that does not know associated data leaves it out silently.
    async fn try_out(&self, name: &str, version: u32) -> Result<()> {
        let dek = random_dek()?;
        let wrapped = self.encrypt(KEYS, name, version, &dek, b"certlib probe").await?;
        let opened = self.decrypt(KEYS, name, version, &wrapped, b"certlib probe").await?;
        let answer = self.write(UNWRAP, "decrypt", name, decrypt_body(&wrapped, b"another probe", version)?).await?;
        if opened.as_ref().is_none_or(|opened| opened.expose() != dek.expose()) {
            return Err(Error::permanent(KEYS, "answer_invalid", "Vault does not give back what it was given")
                .with("key", name));
        }
        match answer.status {
            400 => Ok(()),
            _ if !answer.is_success() => Err(answer.refused().with("key", name)),
            _ => {
                let why = "this server leaves out associated_data, so secrets could be moved from one place to another; \
                           use Vault 1.13 or newer, or OpenBao";
                Err(Error::permanent(KEYS, "aad_unsupported", why).with("key", name))
            }
        }
    }

    /// The fingerprint of a version, out of the configured ones.
    async fn known(&self, key: &TransitKey, version: u32) -> Result<Option<KekId>> {
        for id in &key.known {
            let ask = Ask::write(KEYS, &[&self.mount, "verify", &key.name, "sha2-256"], wire::verify(version, id)?);
            let answer = self.success(&ask, &key.name).await?;
            if answer.json::<Reply<Valid>>()?.data.valid {
                return Ok(Some(*id));
            }
        }
        Ok(None)
    }

    async fn fingerprint(&self, operation: &'static str, name: &str, version: u32) -> Result<KekId> {
        let ask = Ask::write(operation, &[&self.mount, "hmac", name, "sha2-256"], wire::fingerprint(version)?);
        let answer = self.success(&ask, name).await?;
        wire::kek_id(&answer.json::<Reply<Hmac>>()?.data.hmac, version).ok_or_else(|| invalid(operation))
    }

    async fn read(&self, operation: &'static str, name: &str) -> Result<KeyInfo> {
        let answer = self.success(&Ask::read(operation, &[&self.mount, "keys", name]), name).await?;
        Ok(answer.json::<Reply<KeyInfo>>()?.data)
    }

    async fn success(&self, ask: &Ask, name: &str) -> Result<Answer> {
        let answer = self.session.call(ask).await?;
        if answer.is_success() { Ok(answer) } else { Err(answer.refused().with("key", name)) }
    }

    async fn write(&self, operation: &'static str, what: &str, name: &str, body: Bytes) -> Result<Answer> {
        self.session.call(&Ask::write(operation, &[&self.mount, what, name], body)).await
    }

    async fn encrypt(
        &self,
        operation: &'static str,
        name: &str,
        version: u32,
        dek: &Dek,
        aad: &[u8],
    ) -> Result<WrappedDek> {
        let mut salt = [0; WRAP_SALT_LEN];
        fill(&mut salt)?;
        let body = wire::encrypt(dek, &wire::associated_data(aad, &salt), version)?;
        let answer = self.write(operation, "encrypt", name, body).await?;
        if answer.status == 400 {
            return Err(self.why_not_encrypted(operation, name, version).await);
        }
        if !answer.is_success() {
            return Err(answer.refused().with("key", name));
        }
        let text = answer.json::<Reply<Ciphertext>>()?.data.ciphertext;
        wire::wrapped(&text, version, salt).ok_or_else(|| {
            let why = "Vault's ciphertext has another length or version than a wrapped data key has";
            Error::permanent(operation, "answer_invalid", why).with("key", name)
        })
    }

    /// `None` when Vault refuses the request itself.
    async fn decrypt(
        &self,
        operation: &'static str,
        name: &str,
        version: u32,
        wrapped: &WrappedDek,
        aad: &[u8],
    ) -> Result<Option<Dek>> {
        let answer = self.write(operation, "decrypt", name, decrypt_body(wrapped, aad, version)?).await?;
        if answer.status == 400 {
            return Ok(None);
        }
        if !answer.is_success() {
            return Err(answer.refused().with("key", name));
        }
        let text = answer.json::<Reply<Plaintext>>()?.data.plaintext;
        wire::dek(&text).map(Some).ok_or_else(|| {
            Error::permanent(operation, "answer_invalid", "what Vault decrypted is no data key").with("key", name)
        })
    }

    /// Vault says 400 to everything that is wrong with a request, so it is asked what it could be.
    async fn why_not_encrypted(&self, operation: &'static str, name: &str, version: u32) -> Error {
        match self.read(operation, name).await {
            Err(error) => error,
            Ok(info) if !info.versions().contains(&version) => gone(operation, name, version),
            Ok(info) if !info.encrypts(version) => {
                let why = "this version is below min_encryption_version in Vault; rotate to a later one";
                Error::validation(operation, "kek_not_sealing", why).with("key", name).with("version", version)
            }
            Ok(_) => Error::validation(operation, "vault_refused", "Vault does not encrypt this").with("key", name),
        }
    }

    async fn why_not_decrypted(&self, id: &KekId, place: &Place) -> Error {
        let rejected = Error::validation(
            UNWRAP,
            "envelope_rejected",
            "this secret was sealed for another place or with another key, or was changed",
        );
        match self.read(UNWRAP, &place.name).await {
            // Without the right to look, the likeliest cause is as good an answer as any.
            Err(error) if error.class() == ErrorClass::Auth => rejected,
            Err(error) => error,
            Ok(info) if !info.versions().contains(&place.version) => gone(UNWRAP, &place.name, place.version),
            Ok(info) if !info.encrypts(place.version) => rejected,
            Ok(_) => match self.fingerprint(UNWRAP, &place.name, place.version).await {
                Ok(now) if now != *id => replaced(UNWRAP, place),
                Err(error) if error.class().is_retryable() => error,
                _ => rejected,
            },
        }
    }

    /// Sees to it that the name still stands for the same key: nothing must be sealed under another one.
    async fn prove(&self, id: &KekId, place: &Place) -> Result<()> {
        if self.clock.monotonic().saturating_sub(place.proven_at) < PROOF_LASTS {
            return Ok(());
        }
        match self.fingerprint(WRAP, &place.name, place.version).await {
            Ok(now) if now != *id => Err(replaced(WRAP, place)),
            Ok(_) => {
                if let Some(place) = self.places().get_mut(id) {
                    place.proven_at = self.clock.monotonic();
                }
                Ok(())
            }
            Err(error) if error.code() == "vault_refused" && error.class() == ErrorClass::Validation => {
                Err(self.why_not_encrypted(WRAP, &place.name, place.version).await)
            }
            Err(error) => Err(error),
        }
    }

    fn place(&self, operation: &'static str, kek: &Kek) -> Result<Place> {
        self.places().get(&kek.id).cloned().ok_or_else(|| {
            Error::validation(operation, "kek_unknown", "Vault was not asked for this key, or does not have it")
                .with("kek", kek.id.short())
        })
    }

    fn places(&self) -> MutexGuard<'_, HashMap<KekId, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl KeyProvider for VaultTransit {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    async fn keys(&self) -> Result<Vec<Kek>> {
        let mut keks = Vec::new();
        for key in &self.keys {
            keks.extend(self.versions(key).await?);
        }
        Ok(keks)
    }

    async fn wrap(&self, kek: &Kek, dek: &Dek, aad: &[u8]) -> Result<WrappedDek> {
        let place = self.place(WRAP, kek)?;
        self.prove(&kek.id, &place).await?;
        self.encrypt(WRAP, &place.name, place.version, dek, aad).await
    }

    async fn unwrap(&self, kek: &Kek, wrapped: &WrappedDek, aad: &[u8]) -> Result<Dek> {
        let place = self.place(UNWRAP, kek)?;
        match self.decrypt(UNWRAP, &place.name, place.version, wrapped, aad).await? {
            Some(dek) => Ok(dek),
            None => Err(self.why_not_decrypted(&kek.id, &place).await),
        }
    }
}

fn check(key: &TransitKey, info: &KeyInfo) -> Result<()> {
    if info.kind != KEY_TYPE || info.derived {
        let why = format!("the key must be of type {KEY_TYPE} and not derived");
        return Err(Error::validation(KEYS, "kek_unsuitable", why)
            .with("key", &key.name)
            .with("type", info.kind.escape_debug())
            .with("derived", info.derived));
    }
    if info.exportable || info.allow_plaintext_backup {
        tracing::warn!(
            key = key.name,
            exportable = info.exportable,
            allow_plaintext_backup = info.allow_plaintext_backup,
            "this key can be taken out of Vault"
        );
    }
    Ok(())
}

fn decrypt_body(wrapped: &WrappedDek, aad: &[u8], version: u32) -> Result<Bytes> {
    wire::decrypt(wrapped, &wire::associated_data(aad, &wrapped.salt), version)
}

fn gone(operation: &'static str, name: &str, version: u32) -> Error {
    let why =
        "Vault does not have this version of the key any more, or does not let it decrypt (min_decryption_version)";
    Error::validation(operation, "kek_unknown", why).with("key", name).with("version", version)
}

fn replaced(operation: &'static str, place: &Place) -> Error {
    let why = "the key of this name in Vault is another one now: it was deleted and made anew; restore the former one";
    Error::validation(operation, "kek_unknown", why).with("key", &place.name).with("version", place.version)
}

fn random_dek() -> Result<Dek> {
    let mut dek = Zeroizing::new([0; DEK_LEN]);
    fill(&mut *dek)?;
    Ok(Secret::new(*dek))
}

fn fill(bytes: &mut [u8]) -> Result<()> {
    rand::fill(bytes).map_err(|_| Error::permanent("vault_transit", "random_failed", "the system gives no randomness"))
}
