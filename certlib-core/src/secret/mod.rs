//! Secrets: the type that keeps them out of output, and the envelope that keeps them sealed at rest.
//!
//! Each secret is sealed with a data key (DEK) of its own, and the data key is wrapped with a key-encryption key
//! (KEK), which never leaves its [`KeyProvider`]. A [`Keyring`] holds all KEKs that a node has.

mod aad;
mod envelope;
mod keyring;
mod keyring_envelope;
mod local;
mod provider;
mod sealed;
mod suite;

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use zeroize::Zeroize;

pub use self::aad::Aad;
pub use self::envelope::SecretEnvelope;
pub use self::keyring::Keyring;
pub use self::keyring_envelope::KeyringEnvelope;
pub use self::local::{KEK_LEN, LocalKey};
pub use self::provider::{
    DEK_LEN, Dek, Kek, KekId, KeyProvider, WRAP_NONCE_LEN, WRAP_SALT_LEN, WRAPPED_LEN, WrappedDek,
};
pub use self::sealed::Sealed;
pub use self::suite::Suite;
use crate::error::Error;

/// A value that never shows itself.
///
/// `Debug` is redacted; there is no `Display`, `Serialize` or `Clone`. It lives on the heap, so that moving it leaves no
/// copies, and is zeroed on drop. It can be read only through [`Secret::expose`], which is easy to find in a review.
///
/// ```
/// use certlib_core::Secret;
///
/// let password = Secret::new("hunter2".to_owned());
/// assert_eq!(format!("{password:?}"), "Secret(..)");
/// assert_eq!(password.expose(), "hunter2");
/// ```
pub struct Secret<T: Zeroize>(Box<T>);

/// A secret text.
pub type SecretString = Secret<String>;
/// Secret bytes.
pub type SecretBytes = Secret<Vec<u8>>;

impl<T: Zeroize> Secret<T> {
    /// Takes `value` into custody.
    pub fn new(value: T) -> Self {
        Self(Box::new(value))
    }

    /// The value itself.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize + Clone> Secret<T> {
    /// A second copy, for the rare place that needs one. Not `Clone`, so that no derive makes copies by accident.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<'de, T: Zeroize + Deserialize<'de>> Deserialize<'de> for Secret<T> {
    /// Reads the value; an error does not quote it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's messages quote the offending value, so the original is dropped.
        T::deserialize(deserializer).map(Self::new).map_err(|_| de::Error::custom("a secret has the wrong type"))
    }
}

/// What every opener answers when something is not authentic, whatever it was: who tampers learns nothing from it.
fn rejected() -> Error {
    Error::validation(
        "envelope.open",
        "envelope_rejected",
        "this secret was sealed for another place or with another key, or was changed",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Login {
        #[allow(dead_code)]
        password: SecretString,
    }

    #[test]
    fn debug_is_redacted_through_derives() {
        let login: Login = serde_json::from_str(r#"{"password":"canary"}"#).unwrap();
        assert!(!format!("{login:?}").contains("canary"));
    }

    #[test]
    fn a_bad_value_is_not_quoted() {
        let error = serde_json::from_str::<Login>(r#"{"password":424242}"#).unwrap_err();
        assert!(!error.to_string().contains("424242"), "{error}");
    }
}
