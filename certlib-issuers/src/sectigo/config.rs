use std::collections::BTreeMap;

use certlib_core::poll::PollSchedule;
use certlib_core::secret::SecretString;
use certlib_core::{Error, Result};
use certlib_net::{ClientIdentity, Connection};
use serde::{Deserialize, Serialize};

const OPERATION: &str = "sectigo.config";

/// The longest comment of an order, in characters.
const COMMENT_MAX: usize = 1024;

/// How much of it the reference of an order and the blank before it may take.
const REFERENCE_MAX: usize = 128;

/// Configuration of a Sectigo issuer.
///
/// ```
/// let config: certlib_issuers::sectigo::SectigoConfig = serde_json::from_str(r#"{
///     "url": "https://cert-manager.com/api",
///     "organization_id": 2,
///     "certificate_type": "Instant SSL",
///     "term_days": 90,
///     "custom_fields": { "cost centre": "4711" }
/// }"#)?;
/// assert!(!config.approve);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SectigoConfig {
    /// Where the API is, such as `https://cert-manager.com/api` or that of another instance. Logins with a certificate
    /// instead of a password have `https://cert-manager.com/private/api`.
    pub url: String,
    /// The organization (or department) that certificates are for.
    pub organization_id: u64,
    /// The certificate profile to order. A certificate's `profile` replaces it: its name, or its id in digits.
    pub certificate_type: CertificateType,
    /// How long certificates are valid, in days, unless an order asks for something else: one of the profile's terms.
    /// Default 90.
    #[serde(default = "default_term")]
    pub term_days: u32,
    /// Custom fields of the account, by name. Mandatory ones must be here.
    #[serde(default)]
    pub custom_fields: BTreeMap<String, String>,
    /// Whom Sectigo tells about orders: mail addresses, separated by commas.
    #[serde(default)]
    pub external_requester: Option<String>,
    /// What orders have as their comment, before the reference of certlib's order. Default `certlib`.
    #[serde(default = "default_comment")]
    pub comment: String,
    /// Approves orders that wait for it, if the login may. Default `false`: somebody approves each in Sectigo.
    #[serde(default)]
    pub approve: bool,
    /// How pending orders are polled.
    #[serde(default)]
    pub poll: PollSchedule,
    /// How to reach the API.
    #[serde(default)]
    pub connection: Connection,
}

/// A certificate profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum CertificateType {
    /// By its id.
    Id(u64),
    /// By its name, whatever the case.
    Name(String),
}

/// The credential, as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    login: String,
    customer_uri: String,
    password: Option<SecretString>,
    certificate_pem: Option<String>,
    private_key_pem: Option<SecretString>,
}

/// Who logs in.
#[derive(Debug)]
pub(super) struct SectigoCredentials {
    pub(super) login: String,
    pub(super) customer_uri: String,
    pub(super) proof: Proof,
}

/// How the login is proven.
#[derive(Debug)]
pub(super) enum Proof {
    Password(SecretString),
    Certificate(ClientIdentity),
}

fn default_term() -> u32 {
    90
}

fn default_comment() -> String {
    "certlib".to_owned()
}

impl SectigoConfig {
    /// # Errors
    /// `Validation` `config_invalid`, naming the field, and as [`Connection::check`].
    pub(super) fn check(&self) -> Result<()> {
        self.connection.check(&self.url)?;
        if self.organization_id == 0 {
            return Err(invalid("organization_id", "a number from 1 on"));
        }
        if !self.certificate_type.is_usable() {
            return Err(invalid("certificate_type", "the id or the name of a certificate profile"));
        }
        if !(1..=3650).contains(&self.term_days) {
            return Err(invalid("term_days", "1 to 3650"));
        }
        if self.custom_fields.iter().any(|(name, value)| name.trim().is_empty() || value.len() > 4096) {
            return Err(invalid("custom_fields", "a name, and at most 4096 bytes for each"));
        }
        if self.external_requester.as_ref().is_some_and(|addresses| !addresses.contains('@')) {
            return Err(invalid("external_requester", "mail addresses, separated by commas, or nothing"));
        }
        if self.comment.chars().count() > COMMENT_MAX - REFERENCE_MAX {
            return Err(invalid("comment", "at most 896 characters"));
        }
        if self.poll.steps.is_empty() || !(0.0..1.0).contains(&self.poll.spread) {
            return Err(invalid("poll", "at least one step, and a spread from 0 to below 1"));
        }
        Ok(())
    }
}

impl CertificateType {
    /// As a certificate's `profile` names it.
    pub(super) fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Id)
    }

    fn is_usable(&self) -> bool {
        match self {
            Self::Id(id) => *id > 0,
            Self::Name(name) => !name.trim().is_empty() && name.len() <= 256,
        }
    }
}

impl SectigoCredentials {
    /// # Errors
    /// `Validation` `credentials_invalid`, `identity_invalid`; the text is not quoted.
    pub(super) fn decode(text: Option<&SecretString>) -> Result<Self> {
        let invalid = || {
            let why = "the credential is a JSON object with login, customer_uri, and either password, or certificate_pem \
                       and private_key_pem";
            Error::validation(OPERATION, "credentials_invalid", why)
        };
        let written = text.and_then(|text| serde_json::from_str::<Written>(text.expose()).ok()).ok_or_else(invalid)?;
        let proof = match (written.password, written.certificate_pem, written.private_key_pem) {
            (Some(password), None, None) if !password.expose().is_empty() => Proof::Password(password),
            (None, Some(certificate), Some(key)) => {
                let identity = ClientIdentity::new(certificate, key);
                identity.check()?;
                Proof::Certificate(identity)
            }
            _ => return Err(invalid()),
        };
        if written.login.is_empty() || written.customer_uri.is_empty() {
            return Err(invalid());
        }
        Ok(Self { login: written.login, customer_uri: written.customer_uri, proof })
    }
}

fn invalid(field: &'static str, why: &str) -> Error {
    Error::validation(OPERATION, "config_invalid", format!("{field}: {why}")).with("field", field)
}

#[cfg(test)]
mod tests {
    use certlib_core::issuer::decode_config;
    use serde_json::{Value, json};

    use super::*;

    fn verdict(change: impl FnOnce(&mut Value)) -> Option<String> {
        let mut config = json!({ "url": "https://cert-manager.com/api", "organization_id": 2, "certificate_type": 17 });
        change(&mut config);
        let checked = decode_config::<SectigoConfig>(&config).and_then(|config| config.check());
        checked.err().map(|error| error.code().to_owned())
    }

    #[test]
    fn what_can_be_used_and_what_cannot() {
        assert_eq!(verdict(|_| {}), None);
        assert_eq!(verdict(|config| config["certificate_type"] = json!("Instant SSL")), None);
        assert_eq!(verdict(|config| config["custom_fields"] = json!({ "cost centre": "" })), None);
        assert_eq!(verdict(|config| config["url"] = json!("http://ca.example/api")).as_deref(), Some("url_invalid"));
        type Change = fn(&mut Value);
        let wrong: [Change; 11] = [
            |config| *config = json!({}),
            |config| config["organization_id"] = json!(0),
            |config| config["organization_id"] = json!("2"),
            |config| config["certificate_type"] = json!(0),
            |config| config["certificate_type"] = json!(" "),
            |config| config["term_days"] = json!(0),
            |config| config["custom_fields"] = json!({ "": "x" }),
            |config| config["external_requester"] = json!("nobody"),
            |config| config["comment"] = json!("x".repeat(897)),
            |config| config["poll"] = json!({ "steps": [] }),
            |config| config["surprise"] = json!(1),
        ];
        for change in wrong {
            assert_eq!(verdict(change).as_deref(), Some("config_invalid"));
        }
    }

    #[test]
    fn profiles_are_named_or_numbered() {
        assert_eq!(CertificateType::parse("17"), CertificateType::Id(17));
        assert_eq!(CertificateType::parse("Instant SSL"), CertificateType::Name("Instant SSL".to_owned()));
    }

    #[test]
    fn credentials_are_strict_and_silent() {
        let decode = |text: &str| SectigoCredentials::decode(Some(&text.to_owned().into()));
        let good = decode(r#"{"login":"a","customer_uri":"b","password":"canary"}"#).unwrap();
        assert!(matches!(good.proof, Proof::Password(_)) && !format!("{good:?}").contains("canary"));
        for wrong in [
            "{}",
            r#"{"login":"a","customer_uri":"b"}"#,
            r#"{"login":"","customer_uri":"b","password":"canary"}"#,
            r#"{"login":"a","customer_uri":"b","password":""}"#,
            r#"{"login":"a","customer_uri":"b","password":4711}"#,
            r#"{"login":"a","customer_uri":"b","password":"canary","certificate_pem":"x"}"#,
            r#"{"login":"a","customer_uri":"b","certificate_pem":"canary"}"#,
            "canary",
        ] {
            let error = decode(wrong).unwrap_err();
            assert_eq!(error.code(), "credentials_invalid");
            assert!(!format!("{error:?}").contains("canary") && !format!("{error:?}").contains("4711"));
        }
        let broken = r#"{"login":"a","customer_uri":"b","certificate_pem":"canary","private_key_pem":"canary"}"#;
        assert_eq!(decode(broken).unwrap_err().code(), "identity_invalid");
        assert_eq!(SectigoCredentials::decode(None).unwrap_err().code(), "credentials_invalid");
    }
}
