use certlib_core::poll::PollSchedule;
use certlib_core::secret::SecretString;
use certlib_core::{Error, Result};
use certlib_net::Connection;
use serde::{Deserialize, Serialize};

const OPERATION: &str = "digicert.config";

/// The longest that an order may live, in days: three years.
const ORDER_DAYS_MAX: u32 = 1095;

/// Configuration of a DigiCert issuer.
///
/// ```
/// let config: certlib_issuers::digicert::DigiCertConfig = serde_json::from_str(r#"{
///     "product": "ssl_basic",
///     "organization_id": 117483
/// }"#)?;
/// assert_eq!(config.url, "https://www.digicert.com/services/v2");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DigiCertConfig {
    /// Where the API is. Default `https://www.digicert.com/services/v2`; accounts in the EU have
    /// `https://certcentral.digicert.eu/services/v2`.
    #[serde(default = "default_url")]
    pub url: String,
    /// The product to order, by its name id, such as `ssl_basic`, `ssl_ev_basic` or `private_ssl_plus`. A certificate's
    /// `profile` replaces it.
    pub product: String,
    /// The organization that certificates are for. OV, EV and private products need it; DV products have none.
    #[serde(default)]
    pub organization_id: Option<u64>,
    /// How long certificates are valid, in days, unless an order asks for something else. Default 90. DigiCert shortens
    /// what is longer than public certificates may be.
    #[serde(default = "default_validity")]
    pub validity_days: u32,
    /// How long orders live, in days. Default 365. Within it certificates are reissued without a further order.
    #[serde(default = "default_order_validity")]
    pub order_validity_days: u32,
    /// How certificates are renewed. Default `reissue`.
    #[serde(default)]
    pub renew: Renew,
    /// Skips the approval of requests, orders and revocations alike: only administrators' keys may. Default `false`:
    /// where the account has approvals, somebody approves each in CertCentral.
    #[serde(default)]
    pub skip_approval: bool,
    /// The container (division) that orders belong to. Default: that of the key's user.
    #[serde(default)]
    pub container_id: Option<u64>,
    /// The issuing CA to choose, by its id in CertCentral. Default: the product's.
    #[serde(default)]
    pub ca_cert_id: Option<String>,
    /// The hash of the CA's signature. Default `sha256`.
    #[serde(default)]
    pub signature_hash: SignatureHash,
    /// How control over domains is proven where they are not validated yet. Default: whatever DigiCert takes.
    #[serde(default)]
    pub dcv_method: Option<DcvMethod>,
    /// Lets DigiCert remind people of renewals. Default `false`: certlib renews.
    #[serde(default)]
    pub renewal_notifications: bool,
    /// How pending orders are polled.
    #[serde(default)]
    pub poll: PollSchedule,
    /// How to reach the API.
    #[serde(default)]
    pub connection: Connection,
}

/// How a certificate is renewed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Renew {
    /// The order is reissued, at no further cost, as long as it lives long enough for a whole validity and no name is
    /// taken away; otherwise as `renew`.
    #[default]
    Reissue,
    /// A new order takes the place of the former one.
    Renew,
}

/// A hash for signatures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SignatureHash {
    /// SHA-256.
    #[default]
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// A way to prove control over a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DcvMethod {
    /// A link in a message.
    Email,
    /// A TXT record.
    DnsTxtToken,
    /// A CNAME record.
    DnsCnameToken,
    /// A file below `/.well-known/pki-validation/`.
    HttpToken,
}

/// The credential, as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DigiCertCredentials {
    /// The key of the API.
    pub(super) api_key: SecretString,
}

fn default_url() -> String {
    "https://www.digicert.com/services/v2".to_owned()
}

fn default_validity() -> u32 {
    90
}

fn default_order_validity() -> u32 {
    365
}

impl DigiCertConfig {
    /// # Errors
    /// `Validation` `config_invalid`, naming the field, and as [`Connection::check`].
    pub(super) fn check(&self) -> Result<()> {
        self.connection.check(&self.url)?;
        if !is_product(&self.product) {
            return Err(invalid("product", "the name id of a product, such as ssl_basic"));
        }
        if self.organization_id == Some(0) {
            return Err(invalid("organization_id", "a number from 1 on, or nothing"));
        }
        if !(1..=ORDER_DAYS_MAX).contains(&self.order_validity_days) {
            return Err(invalid("order_validity_days", "1 to 1095"));
        }
        if !(1..=self.order_validity_days).contains(&self.validity_days) {
            return Err(invalid("validity_days", "1 to order_validity_days"));
        }
        let is_id =
            |id: &String| !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !self.ca_cert_id.as_ref().is_none_or(is_id) {
            return Err(invalid("ca_cert_id", "letters and digits, or nothing"));
        }
        if self.poll.steps.is_empty() || !(0.0..1.0).contains(&self.poll.spread) {
            return Err(invalid("poll", "at least one step, and a spread from 0 to below 1"));
        }
        Ok(())
    }
}

impl DigiCertCredentials {
    /// # Errors
    /// `Validation` `credentials_invalid`; the text is not quoted.
    pub(super) fn decode(text: Option<&SecretString>) -> Result<Self> {
        let decoded = text.and_then(|text| serde_json::from_str::<Self>(text.expose()).ok());
        decoded.filter(|credentials| !credentials.api_key.expose().is_empty()).ok_or_else(|| {
            let why = "the credential is a JSON object with api_key, as a string";
            Error::validation(OPERATION, "credentials_invalid", why)
        })
    }
}

/// Whether this can be the name id of a product.
pub(super) fn is_product(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(fits)
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
        let mut config = json!({ "product": "ssl_basic", "organization_id": 1 });
        change(&mut config);
        let checked = decode_config::<DigiCertConfig>(&config).and_then(|config| config.check());
        checked.err().map(|error| error.code().to_owned())
    }

    #[test]
    fn what_can_be_used_and_what_cannot() {
        assert_eq!(verdict(|_| {}), None);
        assert_eq!(verdict(|config| config["renew"] = json!("renew")), None);
        assert_eq!(verdict(|config| config["dcv_method"] = json!("dns-txt-token")), None);
        assert_eq!(verdict(|config| config["url"] = json!("http://ca.example/")).as_deref(), Some("url_invalid"));
        type Change = fn(&mut Value);
        let wrong: [Change; 12] = [
            |config| *config = json!({}),
            |config| config["product"] = json!(""),
            |config| config["product"] = json!("../order"),
            |config| config["organization_id"] = json!(0),
            |config| config["organization_id"] = json!("1"),
            |config| config["validity_days"] = json!(366),
            |config| config["order_validity_days"] = json!(0),
            |config| config["ca_cert_id"] = json!("a b"),
            |config| config["renew"] = json!("duplicate"),
            |config| config["signature_hash"] = json!("sha1"),
            |config| config["poll"] = json!({ "steps": [] }),
            |config| config["surprise"] = json!(1),
        ];
        for change in wrong {
            assert_eq!(verdict(change).as_deref(), Some("config_invalid"));
        }
    }

    #[test]
    fn credentials_are_strict_and_silent() {
        let decode = |text: &str| DigiCertCredentials::decode(Some(&text.to_owned().into()));
        let good = decode(r#"{"api_key":"canary"}"#).unwrap();
        assert!(!format!("{good:?}").contains("canary"));
        for wrong in ["{}", r#"{"api_key":""}"#, r#"{"api_key":4711}"#, r#"{"api_key":"canary","x":1}"#, "canary"] {
            let error = decode(wrong).unwrap_err();
            assert_eq!(error.code(), "credentials_invalid");
            assert!(!format!("{error:?}").contains("canary") && !format!("{error:?}").contains("4711"));
        }
        assert_eq!(DigiCertCredentials::decode(None).unwrap_err().code(), "credentials_invalid");
    }
}
