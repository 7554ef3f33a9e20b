//! How to reach a token, and what is special about it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use certlib_core::secret::SecretString;
use serde::Deserialize;

/// How to reach a token, and what is special about it.
///
/// Made with [`Pkcs11Config::new`], or read from a file: every field but `module`, `token` and `pin` may be left out.
///
/// ```
/// use certlib_keys::pkcs11::Pkcs11Config;
///
/// let config: Pkcs11Config = serde_json::from_str(
///     r#"{
///         "module": "/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",
///         "token": { "label": "hsm1" },
///         "pin": "crypto_user:password",
///         "label_prefix": "certlib-kek-",
///         "sessions": 4,
///         "iv_from_hsm": true,
///         "fingerprint": "cmac",
///         "self_test": true,
///         "call_limit_seconds": 30
///     }"#,
/// )?;
/// assert!(!format!("{config:?}").contains("password"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pkcs11Config {
    pub(super) module: PathBuf,
    pub(super) token: TokenSelector,
    pub(super) pin: SecretString,
    #[serde(default = "label_prefix")]
    pub(super) label_prefix: String,
    #[serde(default = "sessions")]
    pub(super) sessions: usize,
    #[serde(default)]
    pub(super) iv_from_hsm: bool,
    #[serde(default)]
    pub(super) fingerprint: Fingerprint,
    #[serde(default = "self_test")]
    pub(super) self_test: bool,
    #[serde(default = "call_limit_seconds")]
    call_limit_seconds: u64,
}

/// Which token of a module.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TokenSelector {
    /// The one with this label. It is found again when it comes back in another slot.
    Label(String),
    /// The one with this serial number. It is found again when it comes back in another slot.
    Serial(String),
    /// The one in this slot, whatever it is.
    Slot(u64),
}

/// How the fingerprint of a key is computed in the HSM. The two give the same key different fingerprints: every node
/// has to use the same one, for as long as the key is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fingerprint {
    /// With `CKM_AES_CMAC`, which needs `CKA_SIGN` on the keys.
    #[default]
    Cmac,
    /// With `CKM_AES_ECB`, for tokens without CMAC.
    Ecb,
}

impl Pkcs11Config {
    /// The token that `token` selects of the library at `module`, logged in as its user with `pin`.
    ///
    /// The PIN is what the vendor calls so: for AWS CloudHSM, it is `user:password`.
    pub fn new(module: impl Into<PathBuf>, token: TokenSelector, pin: SecretString) -> Self {
        Self {
            module: module.into(),
            token,
            pin,
            label_prefix: label_prefix(),
            sessions: sessions(),
            iv_from_hsm: false,
            fingerprint: Fingerprint::default(),
            self_test: self_test(),
            call_limit_seconds: call_limit_seconds(),
        }
    }

    /// What the labels of the keys begin with, before `v` and their version. Default: `certlib-kek-`. Other keys of the
    /// token are not touched.
    #[must_use]
    pub fn label_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.label_prefix = prefix.into();
        self
    }

    /// How many sessions may be open at a time, and so how many calls go to the token at once. Default: 4.
    #[must_use]
    pub fn sessions(mut self, sessions: usize) -> Self {
        self.sessions = sessions;
        self
    }

    /// Leaves the nonce of a wrap to the HSM, as some insist on (`false` by default). It has to report the 12 bytes in
    /// the place where the caller would have put them, as AWS CloudHSM does.
    #[must_use]
    pub fn iv_from_hsm(mut self, iv_from_hsm: bool) -> Self {
        self.iv_from_hsm = iv_from_hsm;
        self
    }

    /// How fingerprints are computed. Default: [`Fingerprint::Cmac`].
    #[must_use]
    pub fn fingerprint(mut self, fingerprint: Fingerprint) -> Self {
        self.fingerprint = fingerprint;
        self
    }

    /// Whether [`open`](super::Pkcs11Provider::open) tries a wrap with a key that lives only for that moment (`true` by
    /// default). Turn it off where the user of the token may use keys and make none.
    #[must_use]
    pub fn self_test(mut self, self_test: bool) -> Self {
        self.self_test = self_test;
        self
    }

    /// The longest that a call may take, waiting for a free session included; in whole seconds, at least one. Default:
    /// 30 s.
    #[must_use]
    pub fn call_limit(mut self, limit: Duration) -> Self {
        self.call_limit_seconds = limit.as_secs();
        self
    }

    pub(super) fn limit(&self) -> Duration {
        Duration::from_secs(self.call_limit_seconds.max(1))
    }

    pub(super) fn module(&self) -> &Path {
        &self.module
    }
}

fn label_prefix() -> String {
    "certlib-kek-".to_owned()
}

fn sessions() -> usize {
    4
}

fn self_test() -> bool {
    true
}

fn call_limit_seconds() -> u64 {
    30
}
