use certlib_core::poll::PollSchedule;
use certlib_core::secret::SecretString;
use certlib_core::{Error, Result};
use certlib_net::{ClientIdentity, Connection};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const OPERATION: &str = "entrust.config";

/// The longest that certificates may be valid, in days: ten years, for private authorities.
const DAYS_MAX: u32 = 3650;

/// Configuration of an Entrust issuer: which of its two products, in the field `api`.
///
/// ```
/// use certlib_issuers::entrust::EntrustConfig;
///
/// let config: EntrustConfig = serde_json::from_str(r#"{
///     "api": "ca_gateway",
///     "url": "https://cagw.example/cagw",
///     "ca_id": "example~issuing",
///     "profile_id": "tls-server"
/// }"#)?;
/// assert!(matches!(config, EntrustConfig::CaGateway(_)));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "api", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EntrustConfig {
    /// Entrust Certificate Services, by the Enterprise API version 2.
    Ecs(EcsConfig),
    /// A CA Gateway, by version 1 of its API.
    CaGateway(CaGatewayConfig),
}

/// Configuration for Entrust Certificate Services.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EcsConfig {
    /// Where the API is. Default `https://api.entrust.net/enterprise/v2`.
    #[serde(default = "default_ecs_url")]
    pub url: String,
    /// The type of certificate to order, such as `STANDARD_SSL` or `PRIVATE_SSL`. A certificate's `profile` replaces it.
    pub certificate_type: String,
    /// The client of the account that certificates are for. Default: the account's first.
    #[serde(default)]
    pub client_id: Option<u64>,
    /// The organization in the certificate's subject. Default: the client's.
    #[serde(default)]
    pub organization: Option<String>,
    /// How long certificates are valid, in days, unless an order asks for something else. Default 90.
    #[serde(default = "default_validity")]
    pub validity_days: u32,
    /// What certificates are for. Default `server_auth`.
    #[serde(default)]
    pub usage: Usage,
    /// Who asks for certificates: Entrust keeps a person for each.
    pub requester: Requester,
    /// Lets somebody approve each order at Entrust. Default `false`: what the account prescribes.
    #[serde(default)]
    pub queue_for_approval: bool,
    /// How pending orders are polled.
    #[serde(default)]
    pub poll: PollSchedule,
    /// How to reach the API.
    #[serde(default)]
    pub connection: Connection,
}

/// A person, for Entrust's records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Requester {
    /// Their name.
    pub name: String,
    /// Their mail address.
    pub email: String,
    /// Their telephone number.
    pub phone: String,
}

/// The extended key usage of certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Usage {
    /// TLS servers.
    #[default]
    ServerAuth,
    /// TLS servers and clients.
    ServerAndClientAuth,
}

/// Configuration for a CA Gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CaGatewayConfig {
    /// Where the gateway is, such as `https://cagw.example/cagw`.
    pub url: String,
    /// The authority, by its id at the gateway.
    pub ca_id: String,
    /// The certificate profile, by its id. A certificate's `profile` replaces it.
    pub profile_id: String,
    /// How long certificates are valid, in days, unless an order asks for something else. Default: as the profile says.
    #[serde(default)]
    pub validity_days: Option<u32>,
    /// How pending enrolments are polled.
    #[serde(default)]
    pub poll: PollSchedule,
    /// How to reach the gateway.
    #[serde(default)]
    pub connection: Connection,
}

/// The credential for Entrust Certificate Services, as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EcsCredentials {
    pub(super) username: String,
    pub(super) api_key: SecretString,
    certificate_pem: String,
    private_key_pem: SecretString,
}

fn default_ecs_url() -> String {
    "https://api.entrust.net/enterprise/v2".to_owned()
}

fn default_validity() -> u32 {
    90
}

impl EntrustConfig {
    /// # Errors
    /// `Validation` `config_invalid`, naming the field, and as [`Connection::check`].
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Ecs(config) => config.check(),
            Self::CaGateway(config) => config.check(),
        }
    }
}

impl EcsConfig {
    fn check(&self) -> Result<()> {
        self.connection.check(&self.url)?;
        if !is_certificate_type(&self.certificate_type) {
            return Err(invalid("certificate_type", "a type of certificate, such as STANDARD_SSL"));
        }
        if self.client_id == Some(0) {
            return Err(invalid("client_id", "a number from 1 on, or nothing"));
        }
        if self.organization.as_ref().is_some_and(|name| name.trim().is_empty()) {
            return Err(invalid("organization", "a name, or nothing"));
        }
        let Requester { name, email, phone } = &self.requester;
        if name.trim().is_empty() || !email.contains('@') || phone.trim().is_empty() {
            return Err(invalid("requester", "a name, a mail address and a telephone number"));
        }
        check_rest(Some(self.validity_days), &self.poll)
    }
}

impl CaGatewayConfig {
    fn check(&self) -> Result<()> {
        self.connection.check(&self.url)?;
        if !is_id(&self.ca_id) {
            return Err(invalid("ca_id", "the id of an authority"));
        }
        if !is_id(&self.profile_id) {
            return Err(invalid("profile_id", "the id of a certificate profile"));
        }
        check_rest(self.validity_days, &self.poll)
    }
}

impl EcsCredentials {
    /// The login, and the certificate that comes with it.
    ///
    /// # Errors
    /// `Validation` `credentials_invalid`, `identity_invalid`; the text is not quoted.
    pub(super) fn decode(text: Option<&SecretString>) -> Result<Self> {
        let credentials: Self = decode(text)
            .filter(|read: &Self| !read.username.is_empty() && !read.api_key.expose().is_empty())
            .ok_or_else(|| {
                let why = "the credential is a JSON object with username, api_key, certificate_pem and private_key_pem";
                Error::validation(OPERATION, "credentials_invalid", why)
            })?;
        credentials.identity().check()?;
        Ok(credentials)
    }

    pub(super) fn identity(&self) -> ClientIdentity {
        ClientIdentity::new(self.certificate_pem.clone(), self.private_key_pem.duplicate())
    }
}

/// The credential for a CA Gateway.
///
/// # Errors
/// `Validation` `credentials_invalid`, `identity_invalid`; the text is not quoted.
pub(super) fn decode_identity(text: Option<&SecretString>) -> Result<ClientIdentity> {
    let identity: ClientIdentity = decode(text).ok_or_else(|| {
        let why = "the credential is a JSON object with certificate_pem and private_key_pem";
        Error::validation(OPERATION, "credentials_invalid", why)
    })?;
    identity.check()?;
    Ok(identity)
}

fn decode<T: DeserializeOwned>(text: Option<&SecretString>) -> Option<T> {
    // What serde says quotes what it read.
    text.and_then(|text| serde_json::from_str(text.expose()).ok())
}

/// Whether this can be a type of certificate.
pub(super) fn is_certificate_type(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(fits)
}

/// Whether this can be the id of an authority or a profile.
pub(super) fn is_id(id: &str) -> bool {
    (1..=256).contains(&id.len()) && id.chars().all(|letter| !letter.is_control()) && !id.trim().is_empty()
}

fn check_rest(validity_days: Option<u32>, poll: &PollSchedule) -> Result<()> {
    if validity_days.is_some_and(|days| !(1..=DAYS_MAX).contains(&days)) {
        return Err(invalid("validity_days", "1 to 3650"));
    }
    if poll.steps.is_empty() || !(0.0..1.0).contains(&poll.spread) {
        return Err(invalid("poll", "at least one step, and a spread from 0 to below 1"));
    }
    Ok(())
}

fn invalid(field: &'static str, why: &str) -> Error {
    Error::validation(OPERATION, "config_invalid", format!("{field}: {why}")).with("field", field)
}

#[cfg(test)]
mod tests {
    use certlib_core::issuer::decode_config;
    use serde_json::{Value, json};

    use super::*;

    type Change = fn(&mut Value);

    fn verdict(mut config: Value, change: impl FnOnce(&mut Value)) -> Option<String> {
        change(&mut config);
        let checked = decode_config::<EntrustConfig>(&config).and_then(|config| config.check());
        checked.err().map(|error| error.code().to_owned())
    }

    fn ecs() -> Value {
        let requester = json!({ "name": "A B", "email": "a@b.example", "phone": "+1 555" });
        json!({ "api": "ecs", "certificate_type": "STANDARD_SSL", "requester": requester })
    }

    fn gateway() -> Value {
        json!({ "api": "ca_gateway", "url": "https://ca.example/cagw", "ca_id": "a~b", "profile_id": "tls" })
    }

    #[test]
    fn what_can_be_used_and_what_cannot() {
        assert_eq!(verdict(ecs(), |_| {}), None);
        assert_eq!(verdict(gateway(), |_| {}), None);
        let plain = verdict(gateway(), |config| config["url"] = json!("http://ca.example/cagw"));
        assert_eq!(plain.as_deref(), Some("url_invalid"));
        let wrong: [(fn() -> Value, Change); 13] = [
            (ecs, |config| *config = json!({})),
            (ecs, |config| config["api"] = json!("cagw")),
            (ecs, |config| config["certificate_type"] = json!("standard ssl")),
            (ecs, |config| config["client_id"] = json!(0)),
            (ecs, |config| config["organization"] = json!(" ")),
            (ecs, |config| config["requester"]["email"] = json!("nobody")),
            (ecs, |config| config["usage"] = json!("client_auth")),
            (ecs, |config| config["poll"] = json!({ "steps": [] })),
            (ecs, |config| config["ca_id"] = json!("of the other product")),
            (gateway, |config| config["ca_id"] = json!("")),
            (gateway, |config| config["profile_id"] = json!("a\nb")),
            (gateway, |config| config["validity_days"] = json!(0)),
            (gateway, |config| config["surprise"] = json!(1)),
        ];
        for (number, (base, change)) in wrong.into_iter().enumerate() {
            assert_eq!(verdict(base(), change).as_deref(), Some("config_invalid"), "{number}");
        }
    }

    #[test]
    fn credentials_are_strict_and_silent() {
        let ecs = |text: &str| EcsCredentials::decode(Some(&text.to_owned().into())).map(drop);
        let gateway = |text: &str| decode_identity(Some(&text.to_owned().into())).map(drop);
        for (result, code) in [
            (ecs("{}"), "credentials_invalid"),
            (ecs("canary"), "credentials_invalid"),
            (ecs(r#"{"username":"a","api_key":"canary"}"#), "credentials_invalid"),
            (
                ecs(r#"{"username":"","api_key":"canary","certificate_pem":"a","private_key_pem":"b"}"#),
                "credentials_invalid",
            ),
            (
                ecs(r#"{"username":"canary","api_key":"","certificate_pem":"a","private_key_pem":"b"}"#),
                "credentials_invalid",
            ),
            (
                ecs(r#"{"username":"a","api_key":"canary","certificate_pem":"canary","private_key_pem":"canary"}"#),
                "identity_invalid",
            ),
            (gateway(r#"{"certificate_pem":"canary"}"#), "credentials_invalid"),
            (gateway(r#"{"certificate_pem":"canary","private_key_pem":4711}"#), "credentials_invalid"),
            (gateway(r#"{"certificate_pem":"canary","private_key_pem":"canary"}"#), "identity_invalid"),
            (EcsCredentials::decode(None).map(drop), "credentials_invalid"),
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.code(), code);
            assert!(!format!("{error:?}").contains("canary") && !format!("{error:?}").contains("4711"));
        }
    }
}
