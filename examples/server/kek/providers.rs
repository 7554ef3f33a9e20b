//! Keys that do not leave the place where they are kept: an HSM, or Vault's transit engine.

use std::path::Path;
use std::sync::Arc;

use certlib_core::secret::{KeyProvider, SecretString};
use certlib_core::{Error, Result};
use certlib_keys::pkcs11::{Pkcs11Config, Pkcs11Provider};
use certlib_keys::vault_transit::{VaultTransit, VaultTransitConfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::OnceCell;

use super::OPERATION;
use super::file::secret_text;

/// What the configuration says of keys that are kept elsewhere: as `certlib_keys` documents it, but without secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// [`Pkcs11Config`]; the PIN is in `CERTLIB_PKCS11_PIN`, or in the file `pin_file`.
    pub(crate) pkcs11: Option<Map<String, Value>>,
    /// [`VaultTransitConfig`]; the token is in `CERTLIB_VAULT_TOKEN` or the secret id in `CERTLIB_VAULT_SECRET_ID`, or
    /// they are in the files `auth.path` and `auth.secret_id_file`.
    pub(crate) vault_transit: Option<Map<String, Value>>,
}

/// The secrets of the providers, as far as they are in the environment.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    pub(crate) pkcs11_pin: Option<SecretString>,
    pub(crate) vault_token: Option<SecretString>,
    pub(crate) vault_secret_id: Option<SecretString>,
}

/// The configured providers; opened when they are first asked.
#[derive(Debug)]
pub(crate) struct Providers {
    settings: Settings,
    secrets: Secrets,
    pkcs11: OnceCell<Arc<Pkcs11Provider>>,
    vault_transit: OnceCell<Arc<VaultTransit>>,
}

impl Providers {
    pub(crate) fn new(settings: Settings, secrets: Secrets) -> Self {
        Self { settings, secrets, pkcs11: OnceCell::new(), vault_transit: OnceCell::new() }
    }

    /// Checks what can be checked without asking them.
    ///
    /// # Errors
    /// `config_invalid`, without quoting a secret; `kek_file_unusable`.
    pub(crate) fn check(&self) -> Result<()> {
        self.pkcs11_config()?;
        self.vault_config()?.map(VaultTransit::new).transpose().map(drop)
    }

    /// All of them, open.
    ///
    /// # Errors
    /// As [`Providers::check`] and the providers.
    pub(crate) async fn all(&self) -> Result<Vec<Arc<dyn KeyProvider>>> {
        let mut all: Vec<Arc<dyn KeyProvider>> = Vec::new();
        if let Some(provider) = self.pkcs11().await? {
            all.push(provider.clone());
        }
        if let Some(config) = self.vault_config()? {
            let open = async || VaultTransit::new(config).map(Arc::new);
            all.push(self.vault_transit.get_or_try_init(open).await?.clone());
        }
        Ok(all)
    }

    /// The HSM, if there is one.
    ///
    /// # Errors
    /// As [`Pkcs11Provider::open`].
    pub(crate) async fn pkcs11(&self) -> Result<Option<&Arc<Pkcs11Provider>>> {
        let Some(config) = self.pkcs11_config()? else { return Ok(None) };
        let open = async || Pkcs11Provider::open(config).await.map(Arc::new);
        self.pkcs11.get_or_try_init(open).await.map(Some)
    }

    fn pkcs11_config(&self) -> Result<Option<Pkcs11Config>> {
        let Some(mut settings) = self.settings.pkcs11.clone() else { return Ok(None) };
        let place = Place { table: "kek.pkcs11", variable: "CERTLIB_PKCS11_PIN" };
        place.fill(&mut settings, "pin", "pin_file", self.secrets.pkcs11_pin.as_ref())?;
        if !settings.contains_key("pin") {
            return Err(place.invalid("the PIN is missing: set CERTLIB_PKCS11_PIN or `pin_file`"));
        }
        place.decode(settings).map(Some)
    }

    fn vault_config(&self) -> Result<Option<VaultTransitConfig>> {
        let Some(mut settings) = self.settings.vault_transit.clone() else { return Ok(None) };
        let place = Place { table: "kek.vault_transit", variable: "CERTLIB_VAULT_TOKEN or CERTLIB_VAULT_SECRET_ID" };
        let auth = settings.entry("auth").or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(auth) = auth else { return Err(place.invalid("`auth` is a table")) };
        if auth.contains_key("token") || auth.contains_key("secret_id") {
            return Err(place.misplaced());
        }
        match auth.get("method").and_then(Value::as_str) {
            Some("approle") => {
                place.fill(auth, "secret_id", "secret_id_file", self.secrets.vault_secret_id.as_ref())?;
            }
            Some("token_file") => {
                if let Some(path) = auth.get("path").and_then(Value::as_str) {
                    secret_text(Path::new(path))?;
                }
            }
            None | Some("token") => {
                let Some(token) = &self.secrets.vault_token else {
                    return Err(
                        place.invalid("the token is missing: set CERTLIB_VAULT_TOKEN, or another `auth.method`")
                    );
                };
                auth.insert("method".to_owned(), Value::from("token"));
                auth.insert("token".to_owned(), Value::from(token.expose().as_str()));
            }
            // The provider says what is wrong with it.
            Some(_) => {}
        }
        place.decode(settings).map(Some)
    }
}

/// Where a provider is configured.
struct Place {
    table: &'static str,
    variable: &'static str,
}

impl Place {
    /// Puts a secret from the environment, or else from the file that `file` names, where the provider expects it.
    fn fill(
        &self,
        settings: &mut Map<String, Value>,
        member: &str,
        file: &str,
        variable: Option<&SecretString>,
    ) -> Result<()> {
        if settings.contains_key(member) {
            return Err(self.misplaced());
        }
        let file = match settings.remove(file) {
            None => None,
            Some(Value::String(path)) => {
                let text = secret_text(Path::new(&path))?;
                Some(text.ok_or_else(|| self.invalid("the file with the secret is missing").with("file", path))?)
            }
            Some(_) => return Err(self.invalid("the file with the secret needs a name")),
        };
        if let Some(secret) = variable.or(file.as_ref()) {
            settings.insert(member.to_owned(), Value::from(secret.expose().trim_end_matches(['\r', '\n'])));
        }
        Ok(())
    }

    fn decode<T: DeserializeOwned>(&self, settings: Map<String, Value>) -> Result<T> {
        serde_json::from_value(Value::Object(settings)).map_err(|error| self.invalid(&error.to_string()))
    }

    fn misplaced(&self) -> Error {
        self.invalid("a secret does not belong in a configuration file; give it in the environment or in a file")
            .with("variable", self.variable)
    }

    fn invalid(&self, why: &str) -> Error {
        let what = "the configuration cannot be used";
        Error::validation(OPERATION, "config_invalid", format!("{what}: {why}")).with("key", self.table)
    }
}

#[cfg(test)]
mod tests {
    use certlib_core::Secret;
    use serde_json::json;

    use super::*;

    fn secret(text: &str) -> Option<SecretString> {
        Some(Secret::new(text.to_owned()))
    }

    fn providers(settings: Value, secrets: Secrets) -> Providers {
        Providers::new(serde_json::from_value(settings).unwrap(), secrets)
    }

    #[test]
    fn secrets_come_from_the_environment_or_from_private_files() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let pin = folder.path().join("pin");
        std::fs::write(&pin, "1234\n").unwrap();
        std::fs::set_permissions(&pin, std::fs::Permissions::from_mode(0o600)).unwrap();
        let hsm = |more: Value| {
            let mut hsm = json!({ "module": "/hsm.so", "token": { "label": "t" } });
            hsm.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({ "pkcs11": hsm })
        };
        let environment = || Secrets { pkcs11_pin: secret("canary-pin"), ..Secrets::default() };
        providers(hsm(json!({ "pin_file": &pin })), Secrets::default()).check().unwrap();
        providers(hsm(json!({})), environment()).check().unwrap();
        for (settings, secrets, why) in [
            (json!({}), Secrets::default(), "CERTLIB_PKCS11_PIN"),
            (json!({ "pin": "canary-pin" }), Secrets::default(), "CERTLIB_PKCS11_PIN"),
            (json!({ "pin_file": folder.path().join("none") }), Secrets::default(), "missing"),
            (json!({ "label": "x" }), environment(), "label"),
        ] {
            let error = providers(hsm(settings), secrets).check().unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
        std::fs::set_permissions(&pin, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = providers(hsm(json!({ "pin_file": &pin })), Secrets::default()).check().unwrap_err();
        assert_eq!(error.code(), "kek_file_unusable");
    }

    #[test]
    fn vault_is_logged_in_to_without_secrets_in_the_configuration() {
        let vault = |auth: Value| {
            let keys = json!([{ "name": "certlib", "first_version": 1 }]);
            json!({ "vault_transit": { "address": "https://vault.example", "keys": keys, "auth": auth } })
        };
        let token = || Secrets { vault_token: secret("canary-token"), ..Secrets::default() };
        let secret_id = || Secrets { vault_secret_id: secret("canary-id"), ..Secrets::default() };
        providers(vault(json!({})), token()).check().unwrap();
        providers(vault(json!({ "method": "token" })), token()).check().unwrap();
        providers(vault(json!({ "method": "approle", "role_id": "r" })), secret_id()).check().unwrap();
        for (auth, secrets) in [
            (json!({}), secret_id()),
            (json!({ "method": "token", "token": "canary-token" }), token()),
            (json!({ "method": "approle", "role_id": "r", "secret_id": "canary-id" }), secret_id()),
            (json!({ "method": "guess" }), token()),
            (json!("canary-token"), token()),
        ] {
            let providers = providers(vault(auth), secrets);
            let error = providers.check().unwrap_err();
            assert_eq!(error.code(), "config_invalid");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }
}
