//! Key-encryption keys in an HSM, over PKCS#11.
//!
//! A key is an AES-256 key of a token that never leaves it. Its label is a prefix, `v` and its version:
//! `certlib-kek-v3`. Data keys are wrapped and unwrapped inside the token (`CKM_AES_GCM`, 96-bit random nonces, 128-bit
//! tags), so its log-in opens secrets and its keys cannot be copied.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use certlib_core::secret::{Keyring, Secret};
//! use certlib_keys::pkcs11::{Pkcs11Config, Pkcs11Provider, TokenSelector};
//!
//! # async fn example(mut keyring: Keyring) -> Result<(), Box<dyn std::error::Error>> {
//! let pin = Secret::new(std::env::var("CERTLIB_HSM_PIN")?);
//! let token = TokenSelector::Label("certlib".to_owned());
//! let hsm = Pkcs11Provider::open(Pkcs11Config::new("/usr/lib/softhsm/libsofthsm2.so", token, pin)).await?;
//! hsm.generate(2).await?; // once, by whoever looks after the keys
//! keyring.add_provider(Arc::new(hsm)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What the token needs
//! - Mechanisms: `CKM_AES_GCM`, `CKM_AES_KEY_GEN`, and `CKM_AES_CMAC` or `CKM_AES_ECB` (see [`Fingerprint`]).
//!   [`Pkcs11Provider::open`] checks them, and tries them with a temporary key, before anything depends on them.
//! - A user that may find and use the keys, make session keys for that trial, and, to [`generate`], make token keys.
//!   Vendors call it Crypto User or Crypto Officer; the security officer's PIN is never needed.
//! - Keys made elsewhere, for instance in a key ceremony, need: `CKA_CLASS` `CKO_SECRET_KEY`, `CKA_KEY_TYPE` `CKK_AES`,
//!   `CKA_VALUE_LEN` 32, `CKA_TOKEN`, `CKA_SENSITIVE`, `CKA_ENCRYPT`, `CKA_DECRYPT` and, for CMAC, `CKA_SIGN` true,
//!   `CKA_EXTRACTABLE` false. Better also: `CKA_PRIVATE` true; `CKA_WRAP`, `CKA_UNWRAP` and `CKA_DERIVE` false. A key
//!   that could be extracted is refused.
//! - The same keys on every node: one token on the network, or copies that the HSM's own backup made.
//!
//! # Vendors
//! The tests run against SoftHSM 2.6.1, which keeps keys in files and is for tests only. What else is known comes from
//! the vendors' manuals:
//!
//! | HSM | Settings |
//! |---|---|
//! | SoftHSM2 2.4 and later | none; tests only |
//! | AWS CloudHSM | `iv_from_hsm`: it insists on its own nonces; the PIN is `user:password` |
//! | Thales Luna 7 | none outside FIPS mode; in FIPS mode it makes the nonce itself, and a firmware that appends it to the ciphertext instead of reporting it is refused at start |
//! | Fortanix DSM | none |
//! | Nitrokey HSM 2 | doubtful: only firmware with AES-GCM |
//! | YubiHSM 2 | cannot be used: no AES-GCM |
//!
//! # Fingerprints
//! The [`KekId`](certlib_core::secret::KekId) of a key is SHA-256 over a fixed text and the CMACs of two fixed blocks,
//! computed in the token: the same key has the same one wherever it is, and another key under the same label has
//! another one. It gives nothing away: to test a guess takes the key itself. It does not meet GCM's use of the same key
//! either: the blocks that CMAC feeds to AES are masked with a value that only the token knows, so one of them equals
//! one of the 2^34 that GCM may feed to it with a probability of about 2^-93, and even then only a hash of the answer
//! is ever seen. [`Fingerprint::Ecb`] encrypts two blocks that end with a counter of zero, which GCM never uses with
//! 96-bit nonces; neither is the zero block, which GCM's authentication key comes from.
//!
//! # Limits
//! - The token uses one key for all wraps, so at most 2^32 are safe (NIST SP 800-38D, 8.3); rotate before that. The
//!   salt of a wrap is authenticated, and derives nothing.
//! - A PKCS#11 library has one state per process: its log-in is shared with whatever else uses it there, a second
//!   provider with a wrong PIN works while another one is logged in, and nobody else may end it and begin it again
//!   (`C_Finalize`, `C_Initialize`).
//! - Keys are never deleted here. After [`Client::remove_kek`](certlib_core::client::Client), do that with the vendor's
//!   tool.
//!
//! [`generate`]: Pkcs11Provider::generate

mod config;
mod failure;
mod gcm;
mod keys;
mod module;
mod probe;
mod session;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use certlib_core::secret::{Dek, Kek, KeyProvider, WrappedDek};
use certlib_core::{Effect, Error, Result};
use tokio::task::spawn_blocking;

pub use self::config::{Fingerprint, Pkcs11Config, TokenSelector};
use self::session::{Access, Hsm, Live};

/// The keys of one token. See [the module](self) for what it needs.
///
/// A few sessions are kept open and logged in. One that was lost (token away, logged out, library restarted) is opened
/// again once per call. A PIN that was refused is not tried again by this provider, since that would lock the token:
/// correct it and open another provider.
///
/// Calls block threads of their own, at most [as many as sessions](Pkcs11Config::sessions). All are cancel-safe: what
/// was sent to the token is finished, and its answer is dropped.
///
/// # Errors
/// Of every call, beside those of [`KeyProvider`]:
/// - `Auth`: `pin_refused`, `pin_locked`, `pin_expired`, `pin_unset`, `pin_final_try` (one more wrong PIN would lock the
///   token, so none is sent), `login_refused`;
/// - `IoTransient`: `hsm_away`, `hsm_busy`, `hsm_failed`, `hsm_timeout`, `token_missing`;
/// - `IoPermanent`: `hsm_refused`, `hsm_unsupported`, `hsm_unusable`, `kek_attributes`, `hsm_iv_missing`.
pub struct Pkcs11Provider {
    hsm: Arc<Hsm>,
}

impl Pkcs11Provider {
    /// The kind of this provider.
    pub const KIND: &'static str = "pkcs11";

    /// Loads the library, logs in and checks that the token can do what is needed.
    ///
    /// # Errors
    /// As all calls, and: `IoPermanent` `module_unusable` when the library cannot be loaded, `hsm_mechanism_missing`
    /// with the mechanisms that the token lacks, `hsm_unfit` when the trial with a temporary key fails (in the class of
    /// what failed); `Validation` `token_ambiguous`, `label_prefix_invalid`.
    pub async fn open(config: Pkcs11Config) -> Result<Self> {
        let load = spawn_blocking(move || Hsm::load(config)).await;
        let load = load.map_err(|error| {
            Error::permanent("pkcs11.open", "module_unusable", "loading the library broke off").with_source(error)
        })?;
        let hsm = Arc::new(load.map_err(|failure| failure.into_error("pkcs11.open"))?);
        hsm.run("pkcs11.open", Access::Read, probe::probe).await?;
        Ok(Self { hsm })
    }

    /// Makes a key in the token, as `version`. It cannot be extracted.
    ///
    /// # Errors
    /// As all calls, and: `Validation` `kek_exists` when the token has an object with its label, or gets one from
    /// somebody else at the same time: then nothing was made. After `hsm_timeout` it may have been made:
    /// [`keys`](KeyProvider::keys) tells.
    pub async fn generate(&self, version: u32) -> Result<Kek> {
        let work = move |hsm: &Hsm, live: &mut Live| keys::generate(hsm, live, version);
        let made = self.hsm.run("pkcs11.generate", Access::Write, work).await;
        made.map_err(|error| if error.class().is_retryable() { error.with_effect(Effect::Possible) } else { error })
    }
}

impl fmt::Debug for Pkcs11Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pkcs11Provider").field("config", &self.hsm.config).finish()
    }
}

#[async_trait]
impl KeyProvider for Pkcs11Provider {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    /// The keys of the token whose labels are the prefix, `v` and a number.
    ///
    /// # Errors
    /// As all calls, and `Validation` `kek_extractable`, `kek_weak` or `kek_ambiguous` when one of them is not fit to be
    /// used.
    async fn keys(&self) -> Result<Vec<Kek>> {
        self.hsm.run("pkcs11.keys", Access::Read, keys::all).await
    }

    async fn wrap(&self, kek: &Kek, dek: &Dek, aad: &[u8]) -> Result<WrappedDek> {
        let (id, dek, aad) = (kek.id, dek.duplicate(), aad.to_vec());
        let work = move |hsm: &Hsm, live: &mut Live| {
            let key = keys::handle(hsm, live, &id)?;
            gcm::wrap(&hsm.config, &live.session, key, &dek, &aad)
        };
        self.hsm.run("pkcs11.wrap", Access::Read, work).await
    }

    async fn unwrap(&self, kek: &Kek, wrapped: &WrappedDek, aad: &[u8]) -> Result<Dek> {
        let (id, wrapped, aad) = (kek.id, wrapped.clone(), aad.to_vec());
        let work = move |hsm: &Hsm, live: &mut Live| {
            let key = keys::handle(hsm, live, &id)?;
            gcm::unwrap(&hsm.config, &live.session, (key, &id), &wrapped, &aad)
        };
        self.hsm.run("pkcs11.unwrap", Access::Read, work).await
    }
}
