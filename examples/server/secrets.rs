//! Secrets that come in the environment. They are no settings: a configuration is shown and shared, these are not.

use certlib_core::Secret;
use certlib_core::secret::SecretString;

use crate::kek::KekSecrets;

const KEK: &str = "CERTLIB_KEK";
const DATABASE_URL: &str = "CERTLIB_DATABASE_URL";
const PKCS11_PIN: &str = "CERTLIB_PKCS11_PIN";
const VAULT_TOKEN: &str = "CERTLIB_VAULT_TOKEN";
const VAULT_SECRET_ID: &str = "CERTLIB_VAULT_SECRET_ID";

/// What the environment says that no configuration file may.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    /// The keys, and what opens the way to them.
    pub(crate) kek: KekSecrets,
    /// `CERTLIB_DATABASE_URL`: the database with its password.
    pub(crate) database_url: Option<SecretString>,
}

impl Secrets {
    /// Takes what is meant here out of `environment`.
    pub(crate) fn of(environment: &[(String, String)]) -> Self {
        let mut secrets = Self::default();
        for (name, value) in environment.iter().filter(|(_, value)| !value.is_empty()) {
            let value = || Secret::new(value.clone());
            let providers = &mut secrets.kek.providers;
            match &**name {
                DATABASE_URL => secrets.database_url = Some(value()),
                PKCS11_PIN => providers.pkcs11_pin = Some(value()),
                VAULT_TOKEN => providers.vault_token = Some(value()),
                VAULT_SECRET_ID => providers.vault_secret_id = Some(value()),
                name => secrets.kek.variables.extend(kek_version(name).map(|version| (version, value()))),
            }
        }
        secrets
    }
}

/// Whether the variable `name` holds a secret, and so no setting.
pub(crate) fn is_secret(name: &str) -> bool {
    [DATABASE_URL, PKCS11_PIN, VAULT_TOKEN, VAULT_SECRET_ID].contains(&name) || kek_version(name).is_some()
}

/// The version of the key that the variable `name` holds.
fn kek_version(name: &str) -> Option<u32> {
    match name.strip_prefix(KEK)? {
        "" => Some(1),
        rest => version(rest.strip_prefix("_V")?),
    }
}

/// Reads the number of a version: from 1 on, without leading zeros.
pub(crate) fn version(digits: &str) -> Option<u32> {
    let plain = !digits.starts_with('0') && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_keys_are_known_by_their_names() {
        for (name, version) in [
            ("CERTLIB_KEK", Some(1)),
            ("CERTLIB_KEK_V1", Some(1)),
            ("CERTLIB_KEK_V4294967295", Some(u32::MAX)),
            ("CERTLIB_KEK_V4294967296", None),
            ("CERTLIB_KEK_V0", None),
            ("CERTLIB_KEK_V02", None),
            ("CERTLIB_KEK_V+2", None),
            ("CERTLIB_KEK_V", None),
            ("CERTLIB_KEK_FILE", None),
            ("CERTLIB_KEK2", None),
        ] {
            assert_eq!(kek_version(name), version, "{name}");
            assert_eq!(is_secret(name), version.is_some(), "{name}");
        }
    }

    #[test]
    fn empty_variables_say_nothing() {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let secrets = Secrets::of(&[
            variable("CERTLIB_KEK", ""),
            variable("CERTLIB_KEK_V2", "ab"),
            variable("CERTLIB_DATABASE_URL", ""),
        ]);
        assert_eq!(secrets.kek.variables.len(), 1);
        assert_eq!(secrets.kek.variables[0].0, 2);
        assert!(secrets.database_url.is_none());
    }
}
