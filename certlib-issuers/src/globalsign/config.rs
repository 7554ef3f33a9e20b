use certlib_core::poll::PollSchedule;
use certlib_core::secret::SecretString;
use certlib_core::{Error, Result};
use certlib_net::{ClientIdentity, Connection};
use serde::{Deserialize, Serialize};

const OPERATION: &str = "globalsign.config";

/// Configuration of a GlobalSign issuer. Every field has a default.
///
/// ```
/// let config: certlib_issuers::globalsign::GlobalSignConfig = serde_json::from_str("{}")?;
/// assert_eq!(config.url, "https://emea.api.hvca.globalsign.com:8443/v2");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct GlobalSignConfig {
    /// Where the API is. Default `https://emea.api.hvca.globalsign.com:8443/v2`.
    pub url: String,
    /// How long certificates are valid, in days, unless an order asks for something else. Default 90. What is longer than the
    /// account's validation policy allows is shortened to that.
    pub validity_days: u32,
    /// What certificates say about their subject besides its names, where the validation policy leaves it to the request.
    pub subject: SubjectConfig,
    /// Asks for the use by TLS clients too, besides servers. Default `false`.
    pub client_auth: bool,
    /// How pending certificates are polled.
    pub poll: PollSchedule,
    /// How to reach the API.
    pub connection: Connection,
}

/// Parts of a subject. What is not set is not sent; what the validation policy forbids, or says by itself, is not sent either.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SubjectConfig {
    /// The organization.
    pub organization: Option<String>,
    /// Its units.
    pub organizational_unit: Vec<String>,
    /// The street and house.
    pub street_address: Option<String>,
    /// The town.
    pub locality: Option<String>,
    /// The state or province.
    pub state: Option<String>,
    /// The country, two letters.
    pub country: Option<String>,
    /// An address for mail.
    pub email: Option<String>,
}

/// The credential, as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GlobalSignCredentials {
    pub(super) api_key: SecretString,
    pub(super) api_secret: SecretString,
    /// The client certificate that GlobalSign issued for the account, and its key.
    pub(super) client: ClientIdentity,
}

impl Default for GlobalSignConfig {
    fn default() -> Self {
        Self {
            url: "https://emea.api.hvca.globalsign.com:8443/v2".to_owned(),
            validity_days: 90,
            subject: SubjectConfig::default(),
            client_auth: false,
            poll: PollSchedule::default(),
            connection: Connection::default(),
        }
    }
}

impl SubjectConfig {
    /// The field of this name in a validation policy, if it is one text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let field = match name {
            "organization" => &self.organization,
            "street_address" => &self.street_address,
            "locality" => &self.locality,
            "state" => &self.state,
            "country" => &self.country,
            "email" => &self.email,
            _ => &None,
        };
        field.as_deref()
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        let names = ["organization", "street_address", "locality", "state", "country", "email"];
        names.into_iter().filter_map(|name| self.text(name)).chain(self.organizational_unit.iter().map(String::as_str))
    }
}

impl GlobalSignConfig {
    /// # Errors
    /// `Validation` `config_invalid`, naming the field, and as [`Connection::check`].
    pub(super) fn check(&self) -> Result<()> {
        self.connection.check(&self.url)?;
        if !(1..=3650).contains(&self.validity_days) {
            return Err(invalid("validity_days", "1 to 3650"));
        }
        let is_odd = |text: &str| text.trim().is_empty() || text.len() > 256 || text.chars().any(char::is_control);
        if self.subject.texts().any(is_odd) {
            return Err(invalid("subject", "printable texts of 1 to 256 bytes"));
        }
        let is_country = |code: &String| code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        if !self.subject.country.as_ref().is_none_or(is_country) {
            return Err(invalid("subject.country", "two capital letters"));
        }
        if self.poll.steps.is_empty() || !(0.0..1.0).contains(&self.poll.spread) {
            return Err(invalid("poll", "at least one step, and a spread from 0 to below 1"));
        }
        Ok(())
    }
}

impl GlobalSignCredentials {
    /// # Errors
    /// `Validation` `credentials_invalid`, `identity_invalid`; the text is not quoted.
    pub(super) fn decode(text: Option<&SecretString>) -> Result<Self> {
        let decoded = text.and_then(|text| serde_json::from_str::<Self>(text.expose()).ok());
        let whole = |credentials: &Self| {
            !credentials.api_key.expose().is_empty() && !credentials.api_secret.expose().is_empty()
        };
        let credentials = decoded.filter(whole).ok_or_else(|| {
            let why = "the credential is a JSON object with api_key and api_secret, as strings, and client, an object with \
                       certificate_pem and private_key_pem";
            Error::validation(OPERATION, "credentials_invalid", why)
        })?;
        credentials.client.check()?;
        Ok(credentials)
    }
}

fn invalid(field: &'static str, why: &str) -> Error {
    Error::validation(OPERATION, "config_invalid", format!("{field}: {why}")).with("field", field)
}

#[cfg(test)]
mod tests {
    use certlib_core::issuer::decode_config;
    use certlib_testkit::pki::TestCa;
    use serde_json::{Value, json};

    use super::*;

    fn verdict(config: &Value) -> Option<String> {
        let checked = decode_config::<GlobalSignConfig>(config).and_then(|config| config.check());
        checked.err().map(|error| error.code().to_owned())
    }

    #[test]
    fn what_can_be_used_and_what_cannot() {
        assert_eq!(verdict(&json!({})), None);
        assert_eq!(verdict(&json!({ "subject": { "organization": "Shop Ltd", "country": "GB" } })), None);
        assert_eq!(verdict(&json!({ "url": "ftp://ca.example" })).as_deref(), Some("url_invalid"));
        for wrong in [
            json!({ "validity_days": 0 }),
            json!({ "validity_days": 3651 }),
            json!({ "subject": { "organization": " " } }),
            json!({ "subject": { "organizational_unit": ["a\n"] } }),
            json!({ "subject": { "country": "Britain" } }),
            json!({ "subject": { "common_name": "a.example" } }),
            json!({ "poll": { "steps": [] } }),
            json!({ "api_key": "x" }),
        ] {
            assert_eq!(verdict(&wrong).as_deref(), Some("config_invalid"), "{wrong}");
        }
    }

    #[test]
    fn credentials_are_strict_and_silent() {
        let client = TestCa::new("clients").unwrap().issue_client("account").unwrap();
        let with = |certificate: &str, key: &str, secret: Value| {
            let identity = json!({ "certificate_pem": certificate, "private_key_pem": key });
            let text = json!({ "api_key": "canary-key", "api_secret": secret, "client": identity }).to_string();
            GlobalSignCredentials::decode(Some(&text.into()))
        };
        let good = with(&client.certificate_pem, &client.key_pem, json!("canary-secret")).unwrap();
        let shown = format!("{good:?}");
        assert!(!shown.contains("canary") && !shown.contains("PRIVATE KEY"), "{shown}");
        for (secret, key, code) in [
            (json!(""), &*client.key_pem, "credentials_invalid"),
            (json!(4711), &*client.key_pem, "credentials_invalid"),
            (json!("canary"), "canary", "identity_invalid"),
        ] {
            let error = with(&client.certificate_pem, key, secret).unwrap_err();
            assert_eq!(error.code(), code);
            assert!(!format!("{error:?}").contains("canary") && !format!("{error:?}").contains("4711"));
        }
        assert_eq!(GlobalSignCredentials::decode(None).unwrap_err().code(), "credentials_invalid");
    }
}
