use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use certlib_core::poll::PollSchedule;
use certlib_core::secret::{Secret, SecretBytes, SecretString};
use certlib_core::store::SharedStore;
use certlib_core::{Error, Result};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::client;
use crate::challenge::{Dns01, Method};
use crate::dns::{
    self, DnsProvider, Environment, Kind, Propagation, PropagationConfig, Resolver, Rfc2136, Rfc2136Config,
};

const OPERATION: &str = "acme.config";

/// Configuration of an ACME issuer.
///
/// ```
/// let config: certlib_issuers::acme::AcmeConfig = serde_json::from_str(r#"{
///     "directory_url": "https://acme-v02.api.letsencrypt.org/directory",
///     "contact": ["mailto:certificates@example.com"],
///     "terms_of_service_agreed": true,
///     "challenge": { "type": "http-01" }
/// }"#).unwrap();
/// assert!(config.profile.is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeConfig {
    /// The URL of the CA's directory; `https`.
    pub directory_url: String,
    /// Whom the CA may write to, as `mailto:` URLs.
    #[serde(default)]
    pub contact: Vec<String>,
    /// Whether the CA's terms of service are agreed to. A CA that has terms is not used without.
    #[serde(default)]
    pub terms_of_service_agreed: bool,
    /// The profile to order, unless a certificate asks for another. Default: what the CA takes without one.
    #[serde(default)]
    pub profile: Option<String>,
    /// Roots to trust for the CA's API instead of those of the platform, PEM.
    #[serde(default)]
    pub root_pem: Option<String>,
    /// How names are proven.
    pub challenge: ChallengeConfig,
    /// How pending orders are polled.
    #[serde(default)]
    pub poll: PollSchedule,
    /// The key id of an external account; its key is the credential `eab_hmac_key`.
    #[serde(default)]
    pub eab_kid: Option<String>,
}

/// How names are proven.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
#[non_exhaustive]
pub enum ChallengeConfig {
    /// By a file on port 80; see [`Http01Responder`](crate::challenge::Http01Responder). Not for wildcards.
    #[serde(rename = "http-01")]
    Http01(Http01Config),
    /// By a record in the DNS. Not for addresses.
    #[serde(rename = "dns-01")]
    Dns01(Dns01Config),
}

/// HTTP-01 needs no settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Http01Config {}

/// Settings of DNS-01.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns01Config {
    /// Where records are written: an object with the provider's `kind` and its settings. `rfc2136` takes those of
    /// [`Rfc2136Config`]; the other built-in kinds are listed in [`dns`](crate::dns); a registered provider of one's own
    /// takes none.
    pub provider: Map<String, Value>,
    /// How records are looked for before the CA is told.
    #[serde(default)]
    pub propagation: PropagationConfig,
}

/// Credentials of an ACME issuer, as JSON. All are optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AcmeCredentials {
    /// Base64url or base64, padded or not: CAs hand out all of them.
    eab_hmac_key: Option<SecretString>,
    /// Base64.
    tsig_secret: Option<SecretString>,
    /// Its fields are the business of the DNS provider, which reads the text itself.
    dns: Option<IgnoredAny>,
    #[serde(skip)]
    text: Option<SecretString>,
}

/// DNS providers: those registered by kind, and what built-in ones are made with.
#[derive(Debug, Clone, Default)]
pub(super) struct Providers {
    pub(super) registered: BTreeMap<String, Arc<dyn DnsProvider>>,
    pub(super) environment: Environment,
}

impl AcmeConfig {
    /// # Errors
    /// `Validation` `config_invalid`, naming the field.
    pub(super) fn check(&self, providers: &Providers) -> Result<()> {
        let url = Url::parse(&self.directory_url).ok().filter(|url| url.scheme() == "https" && url.has_host());
        if url.is_none_or(|url| !url.username().is_empty() || url.password().is_some()) {
            return Err(invalid("directory_url", "an https URL without a user name"));
        }
        if let Some(contact) = self.contact.iter().find(|contact| !is_mailto(contact)) {
            return Err(invalid("contact", "mailto: and an address").with("contact", contact.escape_debug()));
        }
        if self.profile.as_deref().is_some_and(|profile| profile.trim().is_empty()) {
            return Err(invalid("profile", "a name, or nothing"));
        }
        if self.eab_kid.as_deref().is_some_and(str::is_empty) {
            return Err(invalid("eab_kid", "a key id, or nothing"));
        }
        if self.poll.steps.is_empty() || !(0.0..1.0).contains(&self.poll.spread) {
            return Err(invalid("poll", "at least one step, and a spread from 0 to below 1"));
        }
        if let Some(pem) = &self.root_pem {
            client::roots(pem)?;
        }
        if let ChallengeConfig::Dns01(dns) = &self.challenge {
            dns.propagation.check()?;
            dns.provider_kind(providers)?;
        }
        Ok(())
    }

    /// The way names are proven, ready for use.
    ///
    /// # Errors
    /// `Validation` `config_invalid`, `credentials_invalid`.
    pub(super) fn method(
        &self,
        credentials: &AcmeCredentials,
        store: SharedStore,
        providers: &Providers,
    ) -> Result<Method> {
        let dns = match &self.challenge {
            ChallengeConfig::Http01(_) => return Ok(Method::Http01(store)),
            ChallengeConfig::Dns01(dns) => dns,
        };
        let (provider, primary): (Arc<dyn DnsProvider>, _) = match dns.provider_kind(providers)? {
            Provider::Registered(provider) => (provider, None),
            Provider::BuiltIn(kind, settings) => {
                (kind.build(settings, credentials.text.as_ref(), &providers.environment)?, None)
            }
            Provider::Rfc2136(config) => {
                let secret = credentials.tsig_secret.as_ref().ok_or_else(|| missing("tsig_secret"))?;
                (Arc::new(Rfc2136::new(&config, secret)?), Some(config.server))
            }
        };
        let resolver = Resolver::new(primary, dns.propagation.resolvers.clone());
        Ok(Method::Dns01(Dns01::new(provider, Propagation::new(dns.propagation.clone(), resolver))))
    }

    /// Key id and MAC key of the external account, if one is configured.
    ///
    /// # Errors
    /// `Validation` `credentials_invalid`.
    pub(super) fn external_account(&self, credentials: &AcmeCredentials) -> Result<Option<(String, SecretBytes)>> {
        let Some(kid) = &self.eab_kid else { return Ok(None) };
        let key = credentials.eab_hmac_key.as_ref().ok_or_else(|| missing("eab_hmac_key"))?;
        Ok(Some((kid.clone(), decode_mac_key(key)?)))
    }
}

enum Provider {
    Rfc2136(Rfc2136Config),
    BuiltIn(&'static Kind, Map<String, Value>),
    Registered(Arc<dyn DnsProvider>),
}

impl Dns01Config {
    fn provider_kind(&self, providers: &Providers) -> Result<Provider> {
        let field = "challenge.provider";
        let mut settings = self.provider.clone();
        let kind = settings.remove("kind");
        let kind = kind.as_ref().and_then(Value::as_str).ok_or_else(|| invalid(field, "an object with a kind"))?;
        if kind == "rfc2136" {
            let config: Rfc2136Config = serde_json::from_value(Value::Object(settings))
                .map_err(|error| invalid(field, &error.to_string()).with_source(error))?;
            config.check()?;
            return Ok(Provider::Rfc2136(config));
        }
        // One's own come first: they may take the place of built-in ones.
        if let Some(provider) = providers.registered.get(kind) {
            if !settings.is_empty() {
                return Err(invalid(field, "this kind takes no settings"));
            }
            return Ok(Provider::Registered(provider.clone()));
        }
        match dns::kind(kind) {
            Some(built_in) => {
                built_in.check(settings.clone(), &providers.environment)?;
                Ok(Provider::BuiltIn(built_in, settings))
            }
            None => Err(invalid(field, "there is no such kind of provider").with("kind", kind.escape_debug())),
        }
    }
}

impl AcmeCredentials {
    /// # Errors
    /// `Validation` `credentials_invalid`; the text is not quoted.
    pub(super) fn decode(text: Option<&SecretString>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self::default()) };
        let decoded: Self = serde_json::from_str(text.expose()).map_err(|_| {
            let why =
                "the credential is a JSON object with some of eab_hmac_key and tsig_secret, which are strings, and dns";
            Error::validation(OPERATION, "credentials_invalid", why)
        })?;
        Ok(Self { text: decoded.dns.is_some().then(|| text.duplicate()), ..decoded })
    }
}

/// Base64url or base64, padded or not.
fn decode_mac_key(key: &SecretString) -> Result<SecretBytes> {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text = key.expose().trim();
    let decoded = [alphabet::URL_SAFE, alphabet::STANDARD]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, lenient).decode(text).ok());
    decoded.filter(|key| !key.is_empty()).map(Secret::new).ok_or_else(|| {
        Error::validation(OPERATION, "credentials_invalid", "eab_hmac_key is neither base64url nor base64")
    })
}

fn is_mailto(contact: &str) -> bool {
    contact.strip_prefix("mailto:").is_some_and(|address| {
        address.contains('@')
            && !address.contains(|character: char| character.is_control() || " ,?".contains(character))
    })
}

fn invalid(field: &'static str, why: &str) -> Error {
    Error::validation(OPERATION, "config_invalid", format!("{field}: {why}")).with("field", field)
}

fn missing(name: &'static str) -> Error {
    Error::validation(OPERATION, "credentials_invalid", format!("the credential lacks {name}")).with("field", name)
}

#[cfg(test)]
mod tests {
    use certlib_core::issuer::decode_config;
    use serde_json::json;

    use super::*;

    fn verdict(config: &Value) -> Option<String> {
        let checked = decode_config::<AcmeConfig>(config).and_then(|config| config.check(&Providers::default()));
        checked.err().map(|error| error.code().to_owned())
    }

    fn with(change: impl FnOnce(&mut Value)) -> Value {
        let mut config = json!({
            "directory_url": "https://ca.example/dir",
            "contact": ["mailto:a@example.com"],
            "challenge": { "type": "dns-01", "provider": {
                "kind": "rfc2136", "server": "ns.example:53", "key_name": "k", "algorithm": "hmac-sha512" } },
        });
        change(&mut config);
        config
    }

    #[test]
    fn what_can_be_used_and_what_cannot() {
        assert_eq!(verdict(&with(|_| {})), None);
        assert_eq!(verdict(&with(|config| config["challenge"] = json!({ "type": "http-01" }))), None);
        type Change = fn(&mut Value);
        let wrong: [Change; 16] = [
            |config| config["directory_url"] = json!("http://ca.example/dir"),
            |config| config["directory_url"] = json!("https://user:pass@ca.example/dir"),
            |config| config["directory_url"] = json!("ca.example"),
            |config| config["contact"] = json!(["a@example.com"]),
            |config| config["contact"] = json!(["mailto:a@example.com,b@example.com"]),
            |config| config["profile"] = json!(" "),
            |config| config["eab_kid"] = json!(""),
            |config| config["root_pem"] = json!("not PEM"),
            |config| config["poll"] = json!({ "steps": [] }),
            |config| config["surprise"] = json!(1),
            |config| config["challenge"] = json!({ "type": "http-01", "port": 80 }),
            |config| config["challenge"] = json!({ "type": "tls-alpn-01" }),
            |config| config["challenge"]["provider"]["kind"] = json!("unknown"),
            |config| config["challenge"]["provider"]["server"] = json!("ns.example"),
            |config| config["challenge"]["provider"]["algorithm"] = json!("hmac-md5"),
            |config| config["challenge"]["propagation"] = json!({ "interval_seconds": 0 }),
        ];
        for change in wrong {
            let config = with(change);
            assert_eq!(verdict(&config).as_deref(), Some("config_invalid"), "{config}");
        }
    }

    #[test]
    fn mac_keys_come_in_four_spellings() {
        let bytes = [0xfb, 0xff, 0xfe, 0x01];
        for spelling in ["-__-AQ", "-__-AQ==", "+//+AQ", "+//+AQ==", " -__-AQ\n"] {
            let decoded = decode_mac_key(&Secret::new(spelling.to_owned())).unwrap();
            assert_eq!(decoded.expose(), &bytes, "{spelling}");
        }
        for wrong in ["", "a", "-_+/", "ä"] {
            let error = decode_mac_key(&Secret::new(wrong.to_owned())).unwrap_err();
            assert_eq!(error.code(), "credentials_invalid", "{wrong}");
        }
    }

    #[test]
    fn credentials_are_strict_and_silent() {
        let decode = |text: &str| AcmeCredentials::decode(Some(&Secret::new(text.to_owned())));
        assert!(decode("{}").is_ok());
        for wrong in [r#"{"eab_hmac_kee":"canary"}"#, r#"{"tsig_secret":4711}"#, "canary"] {
            let error = decode(wrong).unwrap_err();
            assert_eq!(error.code(), "credentials_invalid");
            assert!(!format!("{error:?}").contains("canary") && !format!("{error:?}").contains("4711"));
        }
    }
}
